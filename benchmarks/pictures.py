"""Make the pictures of the README: figures of each report side by side, from finished runs and studies of samples.

python -m benchmarks.pictures outputs/eda_tcn outputs/study-tunein_attention --output_dir docs/pictures
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from reporting.plots import DPI, OTHERS, WIDTH, png
from system.process import one_line_errors

# Report -> figures, column by column.
FIGURES = {
    "eda": (("trials_phasic", "scores_phasic"), ("null_phasic", "over_time_phasic")),
    "detection": (("timelines",), ("precision_recall", "scores")),
    "emotion": (("ablations",), ("confusion_emotion",)),
    "attention": (("compared",), ("removals", "residuals", "learning")),
    "study": (("settings",),),
}
COLUMN = 700  # pixels, width
MARGIN = 16  # pixels
COLOURS = 64  # size of the palette; keeps a picture below 120 kB


def write_picture(folder: Path, output_dir: Path) -> Path:
    """Put the figures of the report of a run or study into `<task>.png` or `study.png`, and return the path."""
    records = sorted(folder.glob("metrics.json")) or sorted(folder.glob("*/metrics.json"))
    if not records:
        raise ValueError(f"{folder}: no metrics.json. Give the folder of a finished run or study.")
    metrics = json.loads(records[0].read_text(encoding="utf-8"))
    if not metrics["data"]["synthetic"]:
        # Real recordings are personal data.
        raise ValueError(f"{folder}: contains recordings of people. Give a run on a synthetic sample.")
    report = metrics["task"] if records[0].parent == folder else "study"
    columns = [[read_figure(folder / f"figure_{name}.png") for name in names] for names in FIGURES[report]]
    caption = f"{folder.name}: figures of its report, on synthetic data"
    path = output_dir / f"{report}.png"
    output_dir.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")  # renamed when complete
    side_by_side(columns, caption).save(draft, format="png", optimize=True)
    os.replace(draft, path)
    return path


def read_figure(path: Path) -> Image.Image:
    """Read a figure and scale it, so that a figure of full width fills a column."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Run `python -m launch.pages` to draw the figures of a finished run.")
    figure = Image.open(path).convert("RGB")
    scale = COLUMN / (WIDTH * DPI)
    return figure.resize((round(figure.width * scale), round(figure.height * scale)), Image.Resampling.LANCZOS)


def side_by_side(columns: Sequence[Sequence[Image.Image]], caption: str) -> Image.Image:
    """Join columns of figures above a caption, with a small palette."""
    width = len(columns) * (COLUMN + MARGIN) + MARGIN
    height = max(sum(figure.height + MARGIN for figure in column) for column in columns)
    text = text_line(caption, width)
    picture = Image.new("RGB", (width, height + MARGIN + text.height), "white")
    for number, column in enumerate(columns):
        top = MARGIN
        for figure in column:
            picture.paste(figure, (MARGIN + number * (COLUMN + MARGIN), top))
            top += figure.height + MARGIN
    picture.paste(text, (0, height + MARGIN))
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def text_line(text: str, width: int) -> Image.Image:
    """Render a line of text in the font of the figures, `width` pixels wide."""
    figure = Figure(figsize=(width / DPI, 0.25))
    figure.text(MARGIN / width, 0.5, text, fontsize=7, color=OTHERS, va="center", parse_math=False)
    return Image.open(io.BytesIO(png(figure))).convert("RGB")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description="Make a picture of the report of each finished run or study."
    )
    parser.add_argument("folders", type=Path, nargs="+", help="Folders of runs or studies of the synthetic samples.")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="Folder for the pictures, one per type of report."
    )
    arguments = parser.parse_args(argv)
    print(*(write_picture(folder, arguments.output_dir) for folder in arguments.folders), sep="\n")


if __name__ == "__main__":
    with one_line_errors("benchmarks.pictures"):
        main(sys.argv[1:])

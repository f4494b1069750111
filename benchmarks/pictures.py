"""The pictures in the README: some figures of each report side by side, from finished runs and studies of the samples.

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

# Report -> its figures, column by column.
FIGURES = {
    "eda": (("trials_phasic", "scores_phasic"), ("null_phasic", "over_time_phasic")),
    "detection": (("timelines",), ("precision_recall", "scores")),
    "emotion": (("ablations",), ("confusion_emotion",)),
    "attention": (("compared",), ("removals", "residuals", "learning")),
    "study": (("settings",),),
}
COLUMN = 700  # pixels
MARGIN = 16  # pixels
COLOURS = 64  # of a palette, which keeps a picture below 120 kB


def write_picture(folder: Path, output_dir: Path) -> Path:
    """Put the figures of a run's or a study's report into `<task>.png` or `study.png`, and return its path."""
    records = sorted(folder.glob("metrics.json")) or sorted(folder.glob("*/metrics.json"))
    if not records:
        raise ValueError(f"{folder}: no metrics.json; give the folder of a finished run or study")
    facts = json.loads(records[0].read_text(encoding="utf-8"))
    if not facts["data"]["synthetic"]:
        raise ValueError(f"{folder}: shows recordings of people, which are not for a README; give a run on a sample")
    kind = facts["task"] if records[0].parent == folder else "study"
    columns = [[read_figure(folder / f"figure_{name}.png") for name in names] for names in FIGURES[kind]]
    caption = f"{folder.name}: some figures of its report, on synthetic data"
    path = output_dir / f"{kind}.png"
    output_dir.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    side_by_side(columns, caption).save(draft, format="png", optimize=True)
    os.replace(draft, path)
    return path


def read_figure(path: Path) -> Image.Image:
    """A figure as wide as a column; a narrower one keeps its scale."""
    if not path.is_file():
        raise ValueError(f"{path}: no such figure; `python -m reporting.card` makes those of a finished run anew")
    figure = Image.open(path).convert("RGB")
    scale = COLUMN / (WIDTH * DPI)
    return figure.resize((round(figure.width * scale), round(figure.height * scale)), Image.Resampling.LANCZOS)


def side_by_side(columns: Sequence[Sequence[Image.Image]], caption: str) -> Image.Image:
    """Columns of figures over a caption, in few colours."""
    width = len(columns) * (COLUMN + MARGIN) + MARGIN
    height = max(sum(figure.height + MARGIN for figure in column) for column in columns)
    words = text_line(caption, width)
    picture = Image.new("RGB", (width, height + MARGIN + words.height), "white")
    for place, column in enumerate(columns):
        top = MARGIN
        for figure in column:
            picture.paste(figure, (MARGIN + place * (COLUMN + MARGIN), top))
            top += figure.height + MARGIN
    picture.paste(words, (0, height + MARGIN))
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def text_line(text: str, width: int) -> Image.Image:
    """A line of text, so many pixels wide, in the type of the figures."""
    figure = Figure(figsize=(width / DPI, 0.25))
    figure.text(MARGIN / width, 0.5, text, fontsize=7, color=OTHERS, va="center", parse_math=False)
    return Image.open(io.BytesIO(png(figure))).convert("RGB")


def main(argv: list[str]) -> None:
    """A picture a folder."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pictures", description="Make a picture of the report of each finished run or study."
    )
    parser.add_argument("folders", type=Path, nargs="+", help="Folders of runs or studies of the synthetic samples.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Where the pictures go, one a kind of report.")
    arguments = parser.parse_args(argv)
    print(*(write_picture(folder, arguments.output_dir) for folder in arguments.folders), sep="\n")


if __name__ == "__main__":
    with one_line_errors("benchmarks.pictures"):
        main(sys.argv[1:])

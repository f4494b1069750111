"""Write a raw tree in the layout of TuneIn with synthetic creatives.

    python -m hf_datasets.tunein.synthesize --output_dir raw_tunein --num_creatives 600

Embeddings are noise plus a signal: one direction of the text embedding has the strength t, one direction of the sound
embedding the strength s, and attention is 0.5 t + 0.5 s + 0.8 t s + 0.1 noise. So text and sound matter, video and
background sound do not, and no linear model can learn the product. Each frame of a sound has the signal and
independent noise.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from ..synthesizing import run_synthesizer

TEXT_WIDTH, VIDEO_WIDTH, SOUND_WIDTH = 384, 512, 64
FEWEST, MOST = 2, 8  # frames per sound
BATCH_SIZE = 24  # creatives
SIGNAL = 4.0  # length of the signal vector at strength 1; the noise has a standard deviation of 1 per number
LINEAR, PRODUCT, NOISE = 0.5, 0.8, 0.1  # weights in attention
ROWS_FOR_DAMAGE = 100
LAYOUTS = ("list", "comma", "space", "array")  # of the cells of sound_indexes.csv

# The committed config.
SAMPLES = {"sample": {"num_creatives": 900, "seed": 3}}


def synthesize(
    output_dir: Path,
    num_creatives: int = 300,
    seed: int = 0,
    defects: Literal["none", "all"] = "all",
    batch_size: int = BATCH_SIZE,
    frames: tuple[int, int] = (FEWEST, MOST),
    sound_width: int = SOUND_WIDTH,
    layout: str = "mixed",
    with_ids: bool = True,
) -> str:
    """Write `output_dir/tunein`, and return one line with the settings.

    Args:
        output_dir: the tree is created in this folder.
        num_creatives: rows of labels.csv.
        seed: the same seed gives the same tree.
        defects: "none" or "all", every kind that the builder detects in rows.
        batch_size: creatives per batch of sounds.
        frames: fewest and most frames per sound.
        sound_width: numbers per frame.
        layout: of the cells of sound_indexes.csv, one of LAYOUTS or "mixed".
        with_ids: whether labels.csv has an id column. Without it, its rows are in the order of the video file.
    """
    least = ROWS_FOR_DAMAGE if defects == "all" else 1
    if num_creatives < least:
        other = ", or add --defects none" if defects == "all" else ""
        raise ValueError(f"num_creatives={num_creatives}: must be at least {least}. Give more{other}.")
    root = Path(output_dir) / "tunein"
    (root / "audio_embeddings").mkdir(parents=True, exist_ok=True)
    origin = f"Synthetic: {num_creatives} creatives, seed {seed}, defects {defects}, frames {frames}"
    (root / "SYNTHETIC").write_text(origin + "\n")
    rng = np.random.default_rng([seed, 0])
    ids = plan_ids(num_creatives, rng)
    directions = {kind: _direction(seed, width) for kind, width in (("text", TEXT_WIDTH), ("audio", sound_width))}
    strengths = {kind: np.round(rng.standard_normal(num_creatives), 2) for kind in directions}
    text, video = {}, {}
    target = {}
    for i, name in enumerate(ids):
        creative_rng = np.random.default_rng([seed, 1, i])
        t, s = (float(strengths[kind][i]) for kind in ("text", "audio"))
        target[name] = round(LINEAR * (t + s) + PRODUCT * t * s + NOISE * float(creative_rng.standard_normal()), 4)
        text[name] = _rounded(creative_rng.standard_normal((1, TEXT_WIDTH)) + SIGNAL * t * directions["text"])
        video[name] = _rounded(creative_rng.standard_normal((1, VIDEO_WIDTH)))
    cells = []
    order = [ids[i] for i in rng.permutation(num_creatives)]
    groups = [order[start : start + batch_size] for start in range(0, num_creatives, batch_size)]
    damage = Damage(groups) if defects == "all" else None
    positions = {name: i for i, name in enumerate(ids)}
    for number, group in enumerate(tqdm(groups, desc="synthesizing", unit="batch"), start=1):
        sounds: dict[str, list] = {"id": [], "audio": [], "backaudio": []}
        for name in group:
            i = positions[name]
            creative_rng = np.random.default_rng([seed, 2, i])
            signal = SIGNAL * float(strengths["audio"][i]) * directions["audio"]
            sounds["id"].append(name)
            sounds["audio"].append(_frames(creative_rng, frames, sound_width, signal))
            sounds["backaudio"].append(_frames(creative_rng, frames, sound_width, np.zeros(sound_width)))
        listed = list(group)
        if damage:
            damage.sounds(number, sounds, listed)
        cells.append(index_cell(listed, LAYOUTS[number % len(LAYOUTS)] if layout == "mixed" else layout))
        if not (damage and number == damage.missing_batch):
            # Protocols 2 to 5, because the raw data may have been pickled by any version of Python.
            dump(root / "audio_embeddings" / f"embedding_batch_{number}.pkl", sounds, 2 + number % 4)
    labels = [(name, repr(target[name])) for name in ids]
    if damage:
        damage.vectors(text, video, labels)
    # Another order than in labels.csv, so that ids have to be joined.
    texts = sorted(text, key=lambda name: name[::-1])
    dump(root / "rf_text_embeddings.pkl", {"creative_id": texts, "embeddings": [text[name] for name in texts]}, 4)
    # Ids of this file are int, those of the text file str.
    videos = {"creative_id": [int(name) for name in video], "embeddings": list(video.values())}
    dump(root / "rf_video_embeddings.pkl", videos, 2)
    (root / "labels.csv").write_text(labels_csv(labels, list(video), with_ids))
    (root / "sound_indexes.csv").write_text("index\n" + "".join(f'"{cell}"\n' for cell in cells))
    return origin


def labels_csv(labels: list[tuple[str, str]], video_ids: list[str], with_ids: bool) -> str:
    """Return the text of labels.csv; without ids, its rows are in the order of the video file."""
    if with_ids:
        return "\n".join(["creative_id,attention_data_completed", *(f"{name},{cell}" for name, cell in labels)]) + "\n"
    cell_of = dict(labels)
    # An empty line would not be a row, so a missing value is written as "".
    cells = [cell_of.get(name, "") or '""' for name in video_ids]
    return "\n".join(["attention_data_completed", *cells]) + "\n"


def plan_ids(count: int, rng: np.random.Generator) -> list[str]:
    """Return `count` ids in random order; some contain others, such as 112 and 12."""
    # A reader that searches for an id as a substring of a cell would mix these up.
    nested = [12, 112, 1120, 2112, 1, 11, 111][:count]
    others = rng.choice(np.arange(3000, 3000 + 10 * max(count, 1)), max(count - len(nested), 0), replace=False)
    ids = [str(number) for number in [*nested, *map(int, others)]]
    return [ids[i] for i in rng.permutation(len(ids))]


class Damage:
    """Damage a tree with every kind of defect: sounds in batches 1 and 2, a missing batch, vectors and labels."""

    def __init__(self, groups: list[list[str]]) -> None:
        self.groups = groups
        self.missing_batch = len(groups) - 1
        # Creatives of undamaged batches, so that each has one defect
        self.victims = iter([name for group in groups[2 : self.missing_batch - 1] for name in group])

    def sounds(self, number: int, sounds: dict[str, list], listed: list[str]) -> None:
        """Damage a batch of sounds and the ids that the index lists in it, in place."""
        width = sounds["audio"][0].shape[1]
        if number == 1:
            for position, value in enumerate(([], None, np.full((3, width), np.nan, np.float32), "noise")):
                sounds["audio"][position] = value
            sounds["backaudio"][1] = []
            sounds["backaudio"][4] = np.ones((2, width + 1), np.float32)
            sounds["backaudio"][5] = sounds["backaudio"][5].astype(np.float64)  # not a defect
            sounds["audio"][6] = [[0.25] * width, [0.5] * width]  # not a defect
            listed.append("999999")  # not in labels.csv
            for column in sounds.values():
                column.append(column[7])  # a repeated id
        elif number == 2:
            for column in sounds.values():
                del column[3]  # listed in the index, but missing here
            for column, value in zip(sounds.values(), ("888888", [], []), strict=True):
                column.append(value)  # here, but neither in the index nor in labels.csv
            del listed[5]  # here, but not in the index, so the creative has no batch
            listed.append(self.groups[0][8])  # listed in two batches

    def vectors(self, text: dict[str, Any], video: dict[str, Any], labels: list[tuple[str, str]]) -> None:
        """Damage the vectors and labels, in place."""
        text.pop(next(self.victims))
        video.pop(next(self.victims))
        text[next(self.victims)] = []
        text[next(self.victims)] = None
        video[next(self.victims)] = np.ones((1, VIDEO_WIDTH // 2), np.float32)
        video[next(self.victims)][0, 7] = np.inf
        text["777777"] = next(iter(text.values()))
        names = [name for name, _ in labels]
        for cell in ("", "nan"):
            row = names.index(next(self.victims))
            labels[row] = (names[row], cell)
        repeated = names.index(next(self.victims))
        labels.append((names[repeated], "0.5"))


def index_cell(ids: list[str], layout: str) -> str:
    """Return the ids of one batch as a cell of sound_indexes.csv, in one of LAYOUTS."""
    quoted = [f"'{name}'" for name in ids]
    cells: dict[str, Callable[[], str]] = {
        "list": lambda: f"[{', '.join(quoted)}]",
        "comma": lambda: ",".join(ids),
        "space": lambda: f"[{' '.join(ids)}]",
        "array": lambda: f"array([{', '.join(quoted)}], dtype=object)",
    }
    return cells[layout]()


def dump(path: Path, value: Any, protocol: int) -> None:
    with open(path, "wb") as file:
        pickle.dump(value, file, protocol=protocol)


def _direction(seed: int, width: int) -> np.ndarray:
    """Return a unit vector (width,)."""
    # Of numbers with one absolute value: a normalized random vector could differ in its last bits between machines.
    return np.random.default_rng([seed, 3, width]).choice([-1.0, 1.0], width) / np.sqrt(width)


def _frames(rng: np.random.Generator, frames: tuple[int, int], width: int, signal: np.ndarray) -> np.ndarray:
    return _rounded(rng.standard_normal((int(rng.integers(frames[0], frames[1] + 1)), width)) + signal)


def _rounded(values: np.ndarray) -> np.ndarray:
    # To 1/16: the last bits may differ between machines, and the committed sample compresses better.
    return (np.round(values * 16) / 16).astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    task = "Write a raw tree in the layout of TuneIn with synthetic creatives."
    output_dir = "folder in which tunein/ is created"
    run_synthesizer("tunein", synthesize, arguments, task, output_dir, num_creatives="rows of labels.csv")


if __name__ == "__main__":
    main()

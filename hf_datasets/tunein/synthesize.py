"""Write a raw TuneIn-shaped tree of synthetic creatives: nobody made them, and nobody looked at them.

    python -m hf_datasets.tunein.synthesize --output_dir raw_tunein --num_creatives 600

Embeddings are noise, a little of which is meant: a direction of the text and one of the sound have a strength each, t
and s, and attention is 0.5 t + 0.5 s + 0.8 t s + 0.1 noise. So text and sound matter, video and background sound do
not, and what t s adds no linear model finds. All frames of a sound tell its strength, each with noise of its own.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from ..synthesizing import run_synthesizer

TEXT_WIDTH, VIDEO_WIDTH, SOUND_WIDTH = 384, 512, 64
FEWEST, MOST = 2, 8  # frames of a sound
A_BATCH = 24  # creatives
SHOWN = 4.0  # length of what is meant in a vector of length ~1 a number
LINEAR, PRODUCT, NOISE = 0.5, 0.8, 0.1  # of attention
ROWS_FOR_DAMAGE = 100
LAYOUTS = ("list", "comma", "space", "array")  # of a cell of sound_indexes.csv

# The committed config.
SAMPLES = {"sample": {"num_creatives": 900, "seed": 3}}


def synthesize(
    output_dir: Path,
    num_creatives: int = 300,
    seed: int = 0,
    defects: Literal["none", "all"] = "all",
    batch_size: int = A_BATCH,
    frames: tuple[int, int] = (FEWEST, MOST),
    sound_width: int = SOUND_WIDTH,
    layout: str = "mixed",
    with_ids: bool = True,
) -> str:
    """Write `output_dir/tunein`, with so many creatives; returns how it was made.

    Args:
        defects: "none", or "all" (each kind that the builder finds in a row, and ids that are parts of others).
        frames: fewest and most frames of a sound.
        layout: of the cells of sound_indexes.csv, one of LAYOUTS or "mixed".
        with_ids: whether labels.csv has an id column; without, its rows are in the order of the video file.
    """
    least = ROWS_FOR_DAMAGE if defects == "all" else 1
    if num_creatives < least:
        other = ", or add --defects none" if defects == "all" else ""
        raise ValueError(f"num_creatives={num_creatives}: below {least}. Give {least} or more{other}.")
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
        own = np.random.default_rng([seed, 1, i])
        t, s = (float(strengths[kind][i]) for kind in ("text", "audio"))
        target[name] = round(LINEAR * (t + s) + PRODUCT * t * s + NOISE * float(own.standard_normal()), 4)
        text[name] = _steps(own.standard_normal((1, TEXT_WIDTH)) + SHOWN * t * directions["text"])
        video[name] = _steps(own.standard_normal((1, VIDEO_WIDTH)))
    cells = []
    order = [ids[i] for i in rng.permutation(num_creatives)]
    groups = [order[start : start + batch_size] for start in range(0, num_creatives, batch_size)]
    damage = Damage(groups) if defects == "all" else None
    places = {name: i for i, name in enumerate(ids)}
    for number, group in enumerate(tqdm(groups, desc="synthesizing", unit="batch"), start=1):
        sounds: dict[str, list] = {"id": [], "audio": [], "backaudio": []}
        for name in group:
            i = places[name]
            own = np.random.default_rng([seed, 2, i])
            told = SHOWN * float(strengths["audio"][i]) * directions["audio"]
            sounds["id"].append(name)
            sounds["audio"].append(_frames(own, frames, sound_width, told))
            sounds["backaudio"].append(_frames(own, frames, sound_width, np.zeros(sound_width)))
        listed = list(group)
        if damage:
            damage.sounds(number, sounds, listed)
        cells.append(index_cell(listed, LAYOUTS[number % len(LAYOUTS)] if layout == "mixed" else layout))
        if not (damage and number == damage.gone):
            dump(root / "audio_embeddings" / f"embedding_batch_{number}.pkl", sounds, 2 + number % 4)
    labels = [(name, repr(target[name])) for name in ids]
    if damage:
        damage.vectors(text, video, labels)
    texts = sorted(text, key=lambda name: name[::-1])  # an order of its own
    dump(root / "rf_text_embeddings.pkl", {"creative_id": texts, "embeddings": [text[name] for name in texts]}, 4)
    # numbers, where the text file has str
    shown = {"creative_id": [int(name) for name in video], "embeddings": list(video.values())}
    dump(root / "rf_video_embeddings.pkl", shown, 2)
    lines = ["creative_id,attention_data_completed" if with_ids else "attention_data_completed"]
    if with_ids:
        lines += [f"{name},{cell}" for name, cell in labels]
    else:
        known = dict(labels)
        lines += [known.get(name, "") or '""' for name in video]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    (root / "sound_indexes.csv").write_text("index\n" + "".join(f'"{cell}"\n' for cell in cells))
    return origin


def plan_ids(count: int, rng: np.random.Generator) -> list[str]:
    """So many ids, in no order; some are parts of others, such as 12 and 112."""
    numbers = [12, 112, 1120, 2112, 1, 11, 111][:count]
    others = rng.choice(np.arange(3000, 3000 + 10 * max(count, 1)), max(count - len(numbers), 0), replace=False)
    ids = [str(number) for number in [*numbers, *map(int, others)]]
    return [ids[i] for i in rng.permutation(len(ids))]


class Damage:
    """What is wrong with a tree, each kind of it, at creatives of batches that are whole otherwise."""

    def __init__(self, groups: list[list[str]]) -> None:
        self.groups = groups
        self.gone = len(groups) - 1  # the batch that is not there
        self.victims = iter([name for group in groups[2 : self.gone - 1] for name in group])

    def sounds(self, number: int, sounds: dict[str, list], listed: list[str]) -> None:
        """Damage one batch of sounds, and the ids that the index lists in it, in place."""
        width = sounds["audio"][0].shape[1]
        if number == 1:
            for place, value in enumerate(([], None, np.full((3, width), np.nan, np.float32), "noise")):
                sounds["audio"][place] = value
            sounds["backaudio"][1] = []
            sounds["backaudio"][4] = np.ones((2, width + 1), np.float32)
            sounds["backaudio"][5] = sounds["backaudio"][5].astype(np.float64)  # which is fine
            sounds["audio"][6] = [[0.25] * width, [0.5] * width]  # so is this
            listed.append("999999")  # whom labels.csv does not have
            for column in sounds.values():
                column.append(column[7])  # twice
        elif number == 2:
            for column in sounds.values():
                del column[3]  # listed and not there
            for column, value in zip(sounds.values(), ("888888", [], []), strict=True):
                column.append(value)  # there and not listed
            del listed[5]  # there and not listed, so it is in no batch
            listed.append(self.groups[0][8])  # in two batches by the index

    def vectors(self, text: dict[str, Any], video: dict[str, Any], labels: list[tuple[str, str]]) -> None:
        """Damage the other files, in place."""
        text.pop(next(self.victims))
        video.pop(next(self.victims))
        text[next(self.victims)] = []
        text[next(self.victims)] = None
        video[next(self.victims)] = np.ones((1, VIDEO_WIDTH // 2), np.float32)
        video[next(self.victims)][0, 7] = np.inf
        text["777777"] = next(iter(text.values()))
        names = [name for name, _ in labels]
        for cell in ("", "nan"):
            place = names.index(next(self.victims))
            labels[place] = (names[place], cell)
        again = names.index(next(self.victims))
        labels.append((names[again], "0.5"))


def index_cell(ids: list[str], layout: str) -> str:
    """The ids of one batch as a cell has them."""
    quoted = [f"'{name}'" for name in ids]
    cells: dict[str, Callable[[], str]] = {
        "list": lambda: f"[{', '.join(quoted)}]",
        "comma": lambda: ",".join(ids),
        "space": lambda: f"[{' '.join(ids)}]",
        "array": lambda: f"array([{', '.join(quoted)}], dtype=object)",
    }
    return cells[layout]()


def dump(path: Path, value: Any, protocol: int) -> None:
    """A pickle, as the raw data are."""
    with open(path, "wb") as file:
        pickle.dump(value, file, protocol=protocol)


def _direction(seed: int, width: int) -> np.ndarray:
    """A direction of length 1, of numbers of one size: the same on every machine."""
    return np.random.default_rng([seed, 3, width]).choice([-1.0, 1.0], width) / np.sqrt(width)


def _frames(rng: np.random.Generator, frames: tuple[int, int], width: int, told: np.ndarray) -> np.ndarray:
    return _steps(rng.standard_normal((int(rng.integers(frames[0], frames[1] + 1)), width)) + told)


def _steps(values: np.ndarray) -> np.ndarray:
    """Rounded, so that a last bit of another machine's arithmetic does not show and the sample packs well."""
    return (np.round(values * 16) / 16).astype(np.float32)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    task = "Write a raw TuneIn-shaped tree of synthetic creatives."
    output_dir = "tunein/ is made in here"
    run_synthesizer("tunein", synthesize, arguments, task, output_dir, num_creatives="rows of labels.csv")


if __name__ == "__main__":
    main()

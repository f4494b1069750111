"""Write a raw MELD-shaped tree of synthetic utterances: nobody spoke, and no line is MELD's.

    python -m hf_datasets.meld.synthesize --output_dir raw_meld --num_train 240 --num_dev 60 --num_test 90

Dialogues have four to eight turns and two to four speakers; clips are small real mp4 files with pictures and sound
(see synthetic_clips.py). An utterance's emotion is told by text, picture and sound, each in TELLS of the rows, drawn
apart from the others; where it is not told, neutral is shown. So each alone finds some of the emotions, and all three
find nearly all. Sentiment follows emotion as in MELD: surprise may be either, as text and sound say. With `coupling` c
a share 1 - c of the rows, drawn by chance, is acted as if another emotion were labelled: at 0 clips and text look the
same and tell nothing.
"""

import csv
import io
from pathlib import Path
from typing import Literal

import av
import numpy as np
from tqdm import tqdm

from ..synthesizing import run_synthesizer
from .damage import ROWS_FOR_DAMAGE, clip_path, damage
from .synthetic_clips import say, show, sing, write_clip
from .utterances import SPLITS, clock_text

TELLS = 0.8  # share of utterances whose emotion the text (the picture, the sound) tells
SHARES = {
    "neutral": 0.28,
    "joy": 0.16,
    "surprise": 0.16,
    "anger": 0.13,
    "sadness": 0.11,
    "disgust": 0.08,
    "fear": 0.08,
}
SPEAKERS = ("Bo", "Edda", "Ilse", "Mara", "Quinn", "Tomas")
FEWEST, MOST = 4, 8  # turns of a dialogue
SHORTEST, LONGEST = 0.8, 2.0  # s, of an utterance
COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
TREE = {  # table and clips of each split, where an unpacked archive has them
    "train": ("train/train_sent_emo.csv", "train/train_splits"),
    "dev": ("dev_sent_emo.csv", "dev/dev_splits_complete"),
    "test": ("test_sent_emo.csv", "test/output_repeated_splits_test"),
}

# The committed configs: a positive control, and a negative one, where labels have nothing to do with the clips.
SAMPLES = {
    "sample": {"num_train": 240, "num_dev": 60, "num_test": 90, "seed": 5},
    "sample_null": {"num_train": 80, "num_dev": 24, "num_test": 60, "seed": 6, "coupling": 0.0},
}
BUILD = {"embed_clips": True}  # what their builder is given beside the tree


def synthesize(
    output_dir: Path,
    num_train: int = 240,
    num_dev: int = 60,
    num_test: int = 90,
    seed: int = 0,
    coupling: float = 1.0,
    defects: Literal["none", "all"] = "all",
) -> str:
    """Write `output_dir/MELD.Raw`, with so many utterances a split; returns how it was made.

    Args:
        coupling: share of utterances that are acted as they are labelled; the others, as a mood drawn anew.
        defects: "none", or "all" (each kind that the builder finds, by damage.py).
    """
    counts = dict(zip(SPLITS, (num_train, num_dev, num_test), strict=True))
    for split, count in counts.items():
        least = ROWS_FOR_DAMAGE[split] if defects == "all" else FEWEST
        if count < least:
            other = ", or add --defects none" if defects == "all" else ""
            raise ValueError(f"num_{split}={count}: below {least}. Give {least} or more{other}.")
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling = {coupling}: give 0 (labels tell nothing of clips) to 1 (all are as labelled)")
    root = Path(output_dir) / "MELD.Raw"
    root.mkdir(parents=True, exist_ok=True)
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    origin = (
        f"Synthetic: {num_train}, {num_dev} and {num_test} utterances, seed {seed}, defects {defects}, "
        f"{'' if coupling == 1 else f'coupling {coupling:g}, '}libavcodec {codec}"
    )
    (root / "SYNTHETIC").write_text(origin + "\n")
    lines = {split: plan_lines(count, seed, split) for split, count in counts.items()}
    for split, (_, folder) in TREE.items():
        for number, line in enumerate(tqdm(lines[split], desc=f"synthesizing {split}", unit="clip")):
            chance = np.random.default_rng([seed, SPLITS.index(split), 2, number])
            acted = line["mood"] if chance.uniform() < coupling else _mood(chance)
            rng = np.random.default_rng([seed, SPLITS.index(split), 1, number])
            _act(line, acted, clip_path(root / folder, line), rng)
    if defects == "all":
        damage({split: root / folder for split, (_, folder) in TREE.items()}, lines)
    for split, (table, _) in TREE.items():
        # some copies of MELD are not UTF-8
        encoding = "cp1252" if defects == "all" and split == "dev" else "utf-8"
        (root / table).write_bytes(table_text(lines[split]).encode(encoding))
    return origin


def plan_lines(count: int, seed: int, split: str) -> list[dict]:
    """So many lines of a table, by column, with what is not in it: `mood` and `seconds`. Text is not yet there."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 0])
    lines: list[dict] = []
    dialogue = 0
    while len(lines) < count:
        left = count - len(lines)
        turns = int(rng.integers(FEWEST, MOST + 1))
        if left - turns < FEWEST:  # so that the last one is not too short
            turns = left if left <= MOST else left - FEWEST
        speakers = rng.choice(SPEAKERS, int(rng.integers(2, 5)), replace=False)
        season, episode, clock = int(rng.integers(1, 4)), int(rng.integers(1, 13)), rng.uniform(60, 3000)
        number = 0
        for _ in range(turns):
            mood = _mood(rng)
            seconds = round(float(rng.uniform(SHORTEST, LONGEST)), 3)
            lines.append(
                {
                    "Sr No.": len(lines) + 1,
                    "Speaker": str(rng.choice(speakers)),
                    "Emotion": emotion_of(mood),
                    "Sentiment": _sentiment(mood),
                    "Dialogue_ID": dialogue,
                    "Utterance_ID": number,
                    "Season": season,
                    "Episode": episode,
                    "StartTime": clock_text(clock),
                    "EndTime": clock_text(clock + seconds),
                    "mood": mood,
                    "seconds": seconds,
                }
            )
            clock += seconds + rng.uniform(0.1, 1.0)
            number += 1 if rng.uniform() < 0.95 else 2  # some numbers are left out, as in MELD
        dialogue += 1 if rng.uniform() < 0.9 else 2
    return lines


def _sentiment(mood: str) -> str:
    if mood in ("joy", "pleasant surprise"):
        return "positive"
    return "neutral" if mood == "neutral" else "negative"


def _mood(rng: np.random.Generator) -> str:
    """An emotion by its share, where surprise is pleasant or nasty."""
    emotion = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    return emotion if emotion != "surprise" else str(rng.choice(["pleasant surprise", "nasty surprise"]))


def emotion_of(mood: str) -> str:
    """The emotion that a mood is a kind of."""
    return mood.split()[-1]


def _act(line: dict, mood: str, path: Path, rng: np.random.Generator) -> None:
    """Give a line its text and its clip, each of which tells a mood or looks neutral."""
    in_text, in_picture, in_sound = rng.uniform(size=3) < TELLS
    line["Utterance"] = say(rng, mood if in_text else "neutral")
    pictures = show(rng, emotion_of(mood) if in_picture else "neutral", line["seconds"])
    write_clip(path, pictures, sing(rng, mood if in_sound else "neutral", line["seconds"]))


def table_text(lines: list[dict]) -> str:
    """A table in MELD's format."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_synthesizer(
        "meld",
        synthesize,
        arguments,
        "Write a raw MELD-shaped tree of synthetic utterances.",
        "MELD.Raw/ is made in here",
        coupling="share of clips that are as labelled, 0 to 1",
        **{f"num_{split}": f"utterances of {split}" for split in SPLITS},
    )


if __name__ == "__main__":
    main()

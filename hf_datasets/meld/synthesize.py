"""Write raw data in MELD's layout, with synthetic utterances. No line of text is MELD's.

    python -m hf_datasets.meld.synthesize --output_dir raw_meld --num_train 240 --num_dev 60 --num_test 90

Dialogues have four to eight turns and two to four speakers. Clips are small mp4 files with video and audio (see
synthetic_clips.py). Text, video and audio each show the emotion in a share CUE_RATE of the rows, independently of each
other; otherwise they look neutral. So each of them alone reveals some of the emotions, and together they reveal nearly
all. Sentiment follows emotion as in MELD; surprise may be positive or negative, which only text and audio show. With
`coupling` c, a random share 1 - c of the rows is acted with another emotion than the label: at 0, clips and text look
the same, but nothing can be learned from them.
"""

import csv
import io
from pathlib import Path
from typing import Literal

import av
import numpy as np
from tqdm import tqdm

from ..synthesizing import run_synthesizer
from .damage import MIN_ROWS_FOR_DAMAGE, clip_path, damage
from .synthetic_clips import say, show, sing, write_clip
from .utterances import SPLITS, clock_text

CUE_RATE = 0.8  # share of utterances whose text (video, audio) shows the emotion
SHARES = {  # of the emotions; rare ones are more frequent than in MELD, so that a small sample has them all
    "neutral": 0.28,
    "joy": 0.16,
    "surprise": 0.16,
    "anger": 0.13,
    "sadness": 0.11,
    "disgust": 0.08,
    "fear": 0.08,
}
SPEAKERS = ("Bo", "Edda", "Ilse", "Mara", "Quinn", "Tomas")
MIN_TURNS, MAX_TURNS = 4, 8  # per dialogue
MIN_SECONDS, MAX_SECONDS = 0.8, 2.0  # of an utterance
COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip
TREE = {  # table and folder of clips of each split, as in the unpacked archive
    "train": ("train/train_sent_emo.csv", "train/train_splits"),
    "dev": ("dev_sent_emo.csv", "dev/dev_splits_complete"),
    "test": ("test_sent_emo.csv", "test/output_repeated_splits_test"),
}

# The committed configs: a positive control, and a negative control whose labels are unrelated to the clips.
SAMPLES = {
    "sample": {"num_train": 240, "num_dev": 60, "num_test": 90, "seed": 5},
    "sample_null": {"num_train": 80, "num_dev": 24, "num_test": 60, "seed": 6, "coupling": 0.0},
}
BUILD = {"embed_clips": True}  # options of the builder for SAMPLES


def synthesize(
    output_dir: Path,
    num_train: int = 240,
    num_dev: int = 60,
    num_test: int = 90,
    seed: int = 0,
    coupling: float = 1.0,
    defects: Literal["none", "all"] = "all",
) -> str:
    """Write tables and clips to `output_dir/MELD.Raw`.

    Args:
        output_dir: is created if necessary.
        num_train: utterances of the train split.
        num_dev: utterances of the dev split.
        num_test: utterances of the test split.
        seed: the same seed gives the same tree.
        coupling: share of utterances that are acted as labelled; the others are acted with a random mood.
        defects: "none", or "all" (every kind that the builder detects, see damage.py).

    Returns:
        A line that describes how the tree was made.
    """
    counts = dict(zip(SPLITS, (num_train, num_dev, num_test), strict=True))
    for split, count in counts.items():
        least = MIN_ROWS_FOR_DAMAGE[split] if defects == "all" else MIN_TURNS
        if count < least:
            alternative = ", or add --defects none" if defects == "all" else ""
            raise ValueError(f"num_{split}={count}: below {least}. Give {least} or more{alternative}.")
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling={coupling}: must be between 0 and 1. Give 0 for labels unrelated to the clips.")
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
            # A random stream of its own for each purpose and row: `coupling` leaves labels and other rows unchanged.
            chance = np.random.default_rng([seed, SPLITS.index(split), 2, number])
            acted = line["mood"] if chance.uniform() < coupling else _mood(chance)
            rng = np.random.default_rng([seed, SPLITS.index(split), 1, number])
            _act(line, acted, clip_path(root / folder, line), rng)
    if defects == "all":
        damage({split: root / folder for split, (_, folder) in TREE.items()}, lines)
    for split, (table, _) in TREE.items():
        # Some copies of MELD are not UTF-8.
        encoding = "cp1252" if defects == "all" and split == "dev" else "utf-8"
        (root / table).write_bytes(table_text(lines[split]).encode(encoding))
    return origin


def plan_lines(count: int, seed: int, split: str) -> list[dict]:
    """Plan `count` lines of a table, without their text.

    A line has its cells by column, and also `mood` and `seconds`, which are not written to the table.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), 0])
    lines: list[dict] = []
    dialogue = 0
    while len(lines) < count:
        left = count - len(lines)
        turns = int(rng.integers(MIN_TURNS, MAX_TURNS + 1))
        if left - turns < MIN_TURNS:  # or the last dialogue would be too short
            turns = left if left <= MAX_TURNS else left - MIN_TURNS
        speakers = rng.choice(SPEAKERS, int(rng.integers(2, 5)), replace=False)
        season, episode, clock = int(rng.integers(1, 4)), int(rng.integers(1, 13)), rng.uniform(60, 3000)  # clock: s
        number = 0
        for _ in range(turns):
            mood = _mood(rng)
            seconds = round(float(rng.uniform(MIN_SECONDS, MAX_SECONDS)), 3)
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
            number += 1 if rng.uniform() < 0.95 else 2  # numbers of utterances and dialogues have gaps, as in MELD
        dialogue += 1 if rng.uniform() < 0.9 else 2
    return lines


def _sentiment(mood: str) -> str:
    if mood in ("joy", "pleasant surprise"):
        return "positive"
    return "neutral" if mood == "neutral" else "negative"


def _mood(rng: np.random.Generator) -> str:
    """Draw an emotion by its share; surprise is either pleasant or nasty."""
    emotion = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    return emotion if emotion != "surprise" else str(rng.choice(["pleasant surprise", "nasty surprise"]))


def emotion_of(mood: str) -> str:
    """Return the emotion of a mood, for example surprise for "pleasant surprise"."""
    return mood.split()[-1]


def _act(line: dict, mood: str, path: Path, rng: np.random.Generator) -> None:
    """Set a line's text and write its clip; text, video and audio each show the mood or look neutral."""
    in_text, in_video, in_audio = rng.uniform(size=3) < CUE_RATE
    line["Utterance"] = say(rng, mood if in_text else "neutral")
    pictures = show(rng, emotion_of(mood) if in_video else "neutral", line["seconds"])
    write_clip(path, pictures, sing(rng, mood if in_audio else "neutral", line["seconds"]))


def table_text(lines: list[dict]) -> str:
    """Return a table in MELD's format."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def main(arguments: list[str] | None = None) -> None:
    run_synthesizer(
        "meld",
        synthesize,
        arguments,
        "Write raw data in MELD's layout, with synthetic utterances.",
        "the folder MELD.Raw/ is created in here",
        coupling="share of clips that match their label, 0 to 1",
        **{f"num_{split}": f"utterances of the {split} split" for split in SPLITS},
    )


if __name__ == "__main__":
    main()

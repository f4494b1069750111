"""Accuracy with few training examples, from scratch and on a pretrained encoder: `python -m benchmarks.few_examples`.

In the training folds of ESC-10 (benchmarks/esc10_tree.py, groups by recording), only the target clips of 2, 4 or 6
recordings are kept, drawn five times; all other clips stay. Each draw trains every detector on each fold and pools
the test scores. Prints the mean average precision, and the mean difference over draws with its interval (Student's t,
95 %). Without `--full`: one fold.
"""

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.stats import t as students_t

from benchmarks.esc10 import (
    DETECTORS,
    TARGET,
    TUNING,
    Training,
    converted_encoder,
    in_children,
    scores_of,
    train,
    workplace,
)
from benchmarks.esc10_tree import CLASSES, FOLDS, Recordings, make_tree, prepare_tree, read_groups, write_weak
from benchmarks.timing import print_value
from evaluation.detection import average_precision
from media.audioset import id_uniforms
from tasks.detection.pools import VALIDATION_SEED_OFFSET

COUNTS, DRAWS = (2, 4, 6), 5  # recordings with the target, random draws of each number
WEAK = "balanced_train_segments.csv"
ID_LENGTH = 11  # characters of an id, which starts each line of the tables
VALIDATION_SHARE = 0.25  # validation_fraction of the detectors' configs
LEVEL = 0.95


def groups_with_target(tree: Path, target: str) -> dict[str, list[str]]:
    """Return the ids of the training clips with the target, by group."""
    with open(tree / "meta" / "class_labels_indices.csv", newline="", encoding="utf-8") as file:
        mid = next(row["mid"] for row in csv.DictReader(file) if row["display_name"] == CLASSES[target])
    group_of_clip, clips = read_groups(tree), defaultdict(list)
    for clip, labels in weak_rows(tree):
        if mid in labels:
            clips[group_of_clip[clip]].append(clip)
    return dict(clips)


def weak_rows(tree: Path) -> list[tuple[str, list[str]]]:
    """Return id and labels of each training clip."""
    lines = (tree / "meta" / WEAK).read_text().splitlines()[3:]
    return [(line.split(",")[0], line.split('"')[1].split(",")) for line in lines]


def drawn_groups(groups: Iterable[str], count: int, draw: int) -> list[str]:
    """Draw groups at random, at least one of them for training."""
    names = np.array(sorted(groups))
    validates = id_uniforms(pa.array(names), VALIDATION_SEED_OFFSET) < VALIDATION_SHARE
    dice = np.random.default_rng([draw, count])
    # A hash of the group decides whether it is in validation, so draws are repeated until one is left for training.
    while True:
        chosen = dice.permutation(len(names))[:count]
        if not validates[chosen].all():
            return names[chosen].tolist()


def with_few(tree: Path, target: str, count: int, draw: int) -> Path:
    """Prepare a copy of the tree that has only `count` groups of clips with the target."""
    clips = groups_with_target(tree, target)
    kept = drawn_groups(clips, count, draw)
    dropped = {clip for group, members in clips.items() if group not in kept for clip in members}
    copy = tree.with_name(f"{tree.name}-{target}-{count}-{draw}")
    (copy / "meta").mkdir(parents=True)
    for name in ("audio", "groups.csv"):
        (copy / name).symlink_to(tree / name)
    for table in (tree / "meta").iterdir():
        lines = table.read_text().splitlines(keepends=True)
        (copy / "meta" / table.name).write_text("".join(line for line in lines if line[:ID_LENGTH] not in dropped))
    write_weak(copy / "meta" / WEAK, [row for row in weak_rows(tree) if row[0] not in dropped])
    return prepare_tree(copy)


def interval(differences: Sequence[float]) -> str:
    """Format the mean with its interval over draws."""
    mean, count = np.mean(differences), len(differences)
    half = students_t.ppf((1 + LEVEL) / 2, count - 1) * np.std(differences, ddof=1) / count**0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all three folds")
    parser.add_argument("--target", choices=(TARGET, *TUNING), default=TARGET)
    parser.add_argument("--detector", nargs="+", choices=DETECTORS, default=["scratch", "frozen"])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="parallel training runs")
    options = parser.parse_args()
    folds = FOLDS if options.full else FOLDS[-1:]
    with workplace(options.processes) as (folder, esc10, metadata):
        encoder = converted_encoder(folder, metadata)
        for fold in folds:
            make_tree(Recordings.of(esc10, "recording"), metadata, folder / f"fold{fold}", fold)
        for count in COUNTS:
            precisions: dict[str, list[float]] = defaultdict(list)
            for draw in range(DRAWS):
                data = [with_few(folder / f"fold{fold}", options.target, count, draw) for fold in folds]
                for detector in options.detector:
                    trainings = [Training(options.target, folder, detector, draw, encoder) for folder in data]
                    in_children(train, trainings, options.processes)
                    scores = scores_of(trainings, {})
                    truth = np.array(scores["holds_target"], bool)
                    precisions[detector].append(average_precision(np.array(scores["scores"]["ours"]), truth))
                print(count, draw, {name: round(values[-1], 3) for name, values in precisions.items()}, flush=True)
            first, *others = options.detector
            for detector, values in precisions.items():
                print_value(f"few_{options.target}_{count}_{detector}", float(np.mean(values)), "")
            for other in others:
                differences = np.subtract(precisions[other], precisions[first]).tolist()
                print(f"{count} recordings: {other} minus {first} {interval(differences)}", flush=True)


if __name__ == "__main__":
    main()

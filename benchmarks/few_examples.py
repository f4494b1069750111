"""How many cries a detector needs, from scratch and on a pretrained encoder: `python -m benchmarks.few_examples`.

Of the training folds of ESC-10 (benchmarks/esc10_tree.py, groups by recording), clips with the target are kept of
2, 4 and 6 recordings only, drawn five times; all other clips stay. Each draw trains one detector of each kind on each
fold and pools the tests. Prints the mean average precision, and the mean difference over draws with its interval
(Student's t, 95 %). Without `--full`: one fold.
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
from tasks.detection.pools import VALIDATION

COUNTS, DRAWS = (2, 4, 6), 5
WEAK = "balanced_train_segments.csv"
ID_LENGTH = 11
VALIDATION_SHARE = 0.25  # validation_fraction of the detectors' configs
LEVEL = 0.95


def groups_with_target(tree: Path, target: str) -> dict[str, list[str]]:
    """Ids of the clips with the target that training can use, by group."""
    with open(tree / "meta" / "class_labels_indices.csv", newline="", encoding="utf-8") as file:
        mid = next(row["mid"] for row in csv.DictReader(file) if row["display_name"] == CLASSES[target])
    groups, found = read_groups(tree), defaultdict(list)
    for clip, labels in weak_rows(tree):
        if mid in labels:
            found[groups[clip]].append(clip)
    return dict(found)


def weak_rows(tree: Path) -> list[tuple[str, list[str]]]:
    """Id and labels of each training clip."""
    lines = (tree / "meta" / WEAK).read_text().splitlines()[3:]
    return [(line.split(",")[0], line.split('"')[1].split(",")) for line in lines]


def drawn_groups(groups: Iterable[str], count: int, draw: int) -> list[str]:
    """Some groups by chance, of which at least one will train and one validate."""
    names = np.array(sorted(groups))
    validates = id_uniforms(pa.array(names), VALIDATION) < VALIDATION_SHARE
    dice = np.random.default_rng([draw, count])
    while True:
        chosen = dice.permutation(len(names))[:count]
        if not validates[chosen].all():
            return names[chosen].tolist()


def with_few(tree: Path, target: str, count: int, draw: int) -> Path:
    """The tree with clips with the target of some groups only, prepared."""
    clips = groups_with_target(tree, target)
    kept = drawn_groups(clips, count, draw)
    dropped = {clip for group, members in clips.items() if group not in kept for clip in members}
    place = tree.with_name(f"{tree.name}-{target}-{count}-{draw}")
    (place / "meta").mkdir(parents=True)
    for name in ("audio", "groups.csv"):
        (place / name).symlink_to(tree / name)
    for table in (tree / "meta").iterdir():
        lines = table.read_text().splitlines(keepends=True)
        (place / "meta" / table.name).write_text("".join(line for line in lines if line[:ID_LENGTH] not in dropped))
    write_weak(place / "meta" / WEAK, [row for row in weak_rows(tree) if row[0] not in dropped])
    return prepare_tree(place)


def interval(differences: Sequence[float]) -> str:
    """The mean with its interval over draws."""
    mean, count = np.mean(differences), len(differences)
    half = students_t.ppf((1 + LEVEL) / 2, count - 1) * np.std(differences, ddof=1) / count**0.5
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    """Draw, train, pool, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all three folds")
    parser.add_argument("--target", choices=(TARGET, *TUNING), default=TARGET)
    parser.add_argument("--detector", nargs="+", choices=DETECTORS, default=["scratch", "frozen"])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time")
    options = parser.parse_args()
    folds = FOLDS if options.full else FOLDS[-1:]
    with workplace(options.processes) as (folder, esc10, metadata):
        encoder = converted_encoder(folder, metadata)
        for fold in folds:
            make_tree(Recordings.of(esc10, "recording"), metadata, folder / f"fold{fold}", fold)
        for count in COUNTS:
            found: dict[str, list[float]] = defaultdict(list)
            for draw in range(DRAWS):
                data = [with_few(folder / f"fold{fold}", options.target, count, draw) for fold in folds]
                for detector in options.detector:
                    trainings = [Training(options.target, place, detector, draw, encoder) for place in data]
                    in_children(train, trainings, options.processes)
                    scores = scores_of(trainings, {})
                    truth = np.array(scores["holds_target"], bool)
                    found[detector].append(average_precision(np.array(scores["scores"]["ours"]), truth))
                print(count, draw, {name: round(values[-1], 3) for name, values in found.items()}, flush=True)
            first, *others = options.detector
            for detector, values in found.items():
                print_value(f"few_{options.target}_{count}_{detector}", float(np.mean(values)), "")
            for other in others:
                differences = np.subtract(found[other], found[first]).tolist()
                print(f"{count} recordings: {other} minus {first} {interval(differences)}", flush=True)


if __name__ == "__main__":
    main()

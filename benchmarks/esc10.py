"""A detector of real sounds against what a sceptic would run first: `python -m benchmarks.esc10 [--full]`.

Needs ESC-10 (K. J. Piczak; CC0 and CC BY clips), read from FELTSOUND_REAL_DATA or ../shared/data, as the tree that
benchmarks/esc10_tree.py makes. One fold is the eval set, the others train and validate.

`--full` takes all targets, both groupings, all detectors, each fold in its turn and three seeds, pools the scores of
all tests (averaged over seeds), and compares by a paired bootstrap over groups. Without it: one target, one grouping,
one detector, one fold, one seed.

The target is baby_cry. Everything that is chosen (recipe, augmentation) is chosen on the other targets.
"""

import argparse
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.esc10_tree import (
    CLASSES,
    FOLDS,
    HALF,
    HERE,
    Recordings,
    make_tree,
    prepare_tree,
    read_groups,
    real_data,
)
from benchmarks.timing import print_value
from evaluation.detection import area_under_precision, average_precision, paired_bootstrap

DETECTORS = {
    "scratch": "configs/baby_cry.json",
    "frozen": "configs/baby_cry_pretrained.json",
    "finetuned": "configs/baby_cry_finetuned.json",
}
TARGET = "baby_cry"
TUNING = ("rooster", "person_sneeze", "dog_bark", "clock_tick")  # targets on which settings are chosen
GROUPINGS = ("recording", "author")
SEEDS = (0, 1, 2)
RECALL = 0.9  # at which false alarms are compared
MEASURED_CLIP = ("clip_id", "target", "score", "events", "window_start", "window_score")  # other columns are rivals


@dataclass(frozen=True)
class Training:
    """One training and its test: what is detected, where, by which detector, and with which seed and settings."""

    target: str
    data: Path
    detector: str
    seed: int
    encoder: Path
    settings: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        return self.data.parent / f"{self.target}-{self.detector}-{self.seed}"

    def arguments(self) -> list[str]:
        """The command line of run_train.py."""
        quiet = ["--report_to", "none", "--disable_tqdm", "true", "--seed", str(self.seed)]
        names = ["--dataset", str(self.data), "--output_dir", str(self.output), "--target", CLASSES[self.target]]
        encoder = [] if self.detector == "scratch" else ["--encoder.name", str(self.encoder)]
        return [DETECTORS[self.detector], *names, *encoder, *quiet, *self.settings]


def train(training: Training) -> float:
    """Train and test in this process, which ends with it; returns seconds."""
    import run_train

    begin = time.perf_counter()
    log = training.output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        run_train.main(training.arguments())
    return time.perf_counter() - begin


def svm_scores(training: Training) -> dict[str, float]:
    """Scores of the test's clips by a support vector machine on the windows of the report's MFCC baseline."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    from torch.utils.data import DataLoader

    from launch.run import parse_run
    from tasks.detection.baselines import PlainWindows, WindowDescriptors, plain, training_windows
    from training.rows import load_rows

    run = parse_run(training.arguments())
    rows, _ = load_rows(run.arguments, run.task.columns, run.task.streamed)
    data = run.task.prepare(rows, run.task.features(run), run)
    describe = WindowDescriptors(run.settings.windows.sampling_rate)

    def descriptors(windows: PlainWindows) -> np.ndarray:
        return np.concatenate([describe(batch).numpy()[:, 1:] for batch in DataLoader(windows, batch_size=128)])

    wanted = training_windows(data.pools.items)
    targets = data.pools.items.targets()[[item for item, _ in wanted]]
    model = make_pipeline(StandardScaler(), SVC(class_weight="balanced"))
    model.fit(descriptors(PlainWindows(plain(data.train), wanted)), targets)
    test = data.sides["test"]
    scores = model.decision_function(descriptors(PlainWindows(test)))
    ids = rows["clip_id"]
    return {ids[int(row)]: float(scores[test.clip == place].max()) for place, row in enumerate(test.clips.rows)}


def false_alarms_at_recall(scores: np.ndarray, targets: np.ndarray) -> float:
    """Share of clips without the target that score as high as the clip at RECALL, as alarms an hour of such clips."""
    threshold = np.sort(scores[targets])[::-1][int(np.ceil(RECALL * targets.sum())) - 1]
    negatives = scores[~targets]
    return float((negatives >= threshold).sum() / (len(negatives) * 2 * HALF / 3600))


@contextmanager
def workplace(processes: int) -> Iterator[tuple[Path, Path, Path]]:
    """A new folder, and the folders of ESC-10 and AudioSet's tables; set up for several trainings at a time."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    esc10, metadata = real_data() / "esc10", real_data() / "audioset" / "meta"
    if not esc10.is_dir() or not metadata.is_dir():
        raise SystemExit(f"no real data: {esc10} and {metadata} are needed (set FELTSOUND_REAL_DATA)")
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_DATASETS_CACHE"] = f"{name}/cache"  # read when datasets is imported
        yield Path(name), esc10, metadata


def converted_encoder(folder: Path, metadata: Path) -> Path:
    """EfficientAT mn04 of the real data in a folder that `--encoder.name` takes."""
    weights = real_data() / "models" / "efficientat_mn04_as.safetensors"
    if not weights.is_file():
        raise SystemExit(f"no weights: {weights} is needed (set FELTSOUND_REAL_DATA, or take --detector scratch)")
    place = folder / "efficientat_mn04_as"
    labels = metadata / "class_labels_indices.csv"
    command = [sys.executable, "-m", "launch.convert_efficientat", weights, place, "--labels", labels]
    # In a process of its own: one that has used OpenMP cannot be forked.
    subprocess.run(list(map(str, command)), cwd=HERE, check=True, capture_output=True)
    return place


def in_children(function: Callable, jobs: Sequence, processes: int) -> list:
    """A function of each job, each in a process of its own, forked from this one, which has imported all."""
    import launch.pages  # noqa: F401  (children that import for themselves take 8 s more)
    import run_train  # noqa: F401
    import tasks.detection.task  # noqa: F401

    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        return pool.map(function, jobs, chunksize=1)


def parse() -> argparse.Namespace:
    """Read the command line; --full sets what it leaves open."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all targets, groupings, detectors, folds; three seeds")
    parser.add_argument("--target", nargs="+", choices=(TARGET, *TUNING), help="by default baby_cry, with --full all")
    parser.add_argument("--grouping", nargs="+", choices=GROUPINGS, help="by default recording, with --full both")
    parser.add_argument("--detector", nargs="+", choices=DETECTORS, help="by default scratch, with --full all")
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, help="by default 3, with --full all")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0, with --full 0 1 2")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time")
    parser.add_argument("--output", type=Path, help="a folder for scores.json; none by default")
    parser.add_argument("settings", nargs="*", help="settings of run_train.py, after --")
    options = parser.parse_args()
    full = options.full
    options.target = options.target or ((TARGET, *TUNING) if full else (TARGET,))
    options.grouping = options.grouping or (GROUPINGS if full else GROUPINGS[:1])
    options.detector = options.detector or (tuple(DETECTORS) if full else ("scratch",))
    options.folds = options.folds or (FOLDS if full else FOLDS[-1:])
    options.seeds = options.seeds or (SEEDS if full else SEEDS[:1])
    return options


def main() -> None:
    """Train all, pool, compare, print."""
    options = parse()
    found = []
    with workplace(options.processes) as (folder, esc10, metadata):
        pretrained = set(options.detector) != {"scratch"}
        encoder = converted_encoder(folder, metadata) if pretrained else folder
        for grouping in options.grouping:
            recordings, data = Recordings.of(esc10, grouping), {}
            for fold in options.folds:
                tree = folder / grouping / f"fold{fold}"
                make_tree(recordings, metadata, tree, fold)
                data[fold] = prepare_tree(tree)
            for target in options.target:
                earlier: dict[str, dict[str, float]] = {}
                for detector in options.detector:
                    trainings = [
                        Training(target, data[fold], detector, seed, encoder, tuple(options.settings))
                        for fold in options.folds
                        for seed in options.seeds
                    ]
                    seconds = in_children(train, trainings, options.processes)
                    svm = in_children(svm_scores, trainings[:: len(options.seeds)], options.processes)
                    scores = scores_of(trainings, {"mfcc_svm": functools.reduce(dict.__or__, svm)} | earlier)
                    earlier[detector] = dict(zip(scores["clips"], scores["scores"]["ours"], strict=True))
                    found.append({"target": target, "grouping": grouping, "detector": detector, **scores})
                    report(found[-1], seconds)
                    if options.output:
                        options.output.mkdir(parents=True, exist_ok=True)
                        (options.output / "scores.json").write_text(json.dumps(found))


def scores_of(trainings: Sequence[Training], others: dict[str, dict[str, float]]) -> dict:
    """The scores of all clips that were tested: of our detector averaged over seeds, and of its rivals."""
    ours: dict[str, list[float]] = defaultdict(list)
    rows, groups = {}, {}
    for training in trainings:
        of_tree = read_groups(training.data.parent)  # trees of two folds may name a clip's group differently
        for row in pq.read_table(training.output / "predictions.parquet").to_pylist():
            ours[row["clip_id"]].append(row["score"])
            rows[row["clip_id"]] = row
            groups[row["clip_id"]] = of_tree[row["clip_id"]]
    clips = sorted(rows)
    reported = [name for name in rows[clips[0]] if name not in MEASURED_CLIP]
    return {
        "clips": clips,
        "groups": [groups[clip] for clip in clips],
        "holds_target": [rows[clip]["target"] for clip in clips],
        "scores": {
            "ours": [float(np.mean(ours[clip])) for clip in clips],
            **{name: [rows[clip][name] for clip in clips] for name in reported},
            **{name: [scores[clip] for clip in clips] for name, scores in others.items()},
        },
        "per_seed": {clip: ours[clip] for clip in clips},
    }


def report(found: dict, seconds: Sequence[float]) -> None:
    """Pooled scores and their differences."""
    truth = np.array(found["holds_target"], bool)
    name = f"{found['target']}_{found['grouping']}_{found['detector']}"
    print(
        f"\n{found['target']}, {found['detector']}, groups by {found['grouping']}: {len(truth)} clips in "
        f"{len(set(found['groups']))} groups, {truth.sum()} with the target; chance {truth.mean():.3f}"
    )
    print(f"{'':18} {'AP':>6} {'false alarms an hour at 90 % recall':>36}   ours minus this")
    ours = np.array(found["scores"]["ours"])
    for rival, values in found["scores"].items():
        scores, gain = np.array(values), ""
        if rival != "ours":
            interval = paired_bootstrap(ours, scores, truth, found["groups"], area_under_precision)
            bounds = interval.reason if interval.low is None else f"[{interval.low:+.3f}, {interval.high:+.3f}]"
            gain = f"{interval.mean:+.3f} {bounds}"
        found_ap, alarms = average_precision(scores, truth), false_alarms_at_recall(scores, truth)
        print(f"{rival:18} {found_ap:6.3f} {alarms:36.0f}   {gain}", flush=True)
        print_value(f"esc10_{name}_{rival}", found_ap, "")
    print_value(f"esc10_{name}_training_seconds", float(np.median(seconds)), "s")


if __name__ == "__main__":
    main()

"""A detector of real sounds, compared with simple classifiers: `python -m benchmarks.esc10 [--full]`.

Needs ESC-10 (K. J. Piczak; CC0 and CC BY clips), read from FELTSOUND_REAL_DATA or ../shared/data, as the tree that
benchmarks/esc10_tree.py makes. One fold is the test split, the others are for training and validation.

`--full` runs all targets, both groupings, all detectors, each fold in turn and three seeds. It pools the test scores
(averaged over seeds) and compares by a paired bootstrap over groups. Without it: one target, grouping, detector, fold
and seed.

The target is baby_cry. All choices (recipe, augmentation) are made on the other targets.
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

# Name -> config.
DETECTORS = {
    "scratch": "configs/baby_cry.json",
    "frozen": "configs/baby_cry_pretrained.json",
    "finetuned": "configs/baby_cry_finetuned.json",
}
TARGET = "baby_cry"
TUNING = ("rooster", "person_sneeze", "dog_bark", "clock_tick")  # targets that settings are chosen on
GROUPINGS = ("recording", "author")
SEEDS = (0, 1, 2)  # of --full
RECALL = 0.9  # at which false alarms are compared
MEASURED_CLIP = ("clip_id", "target", "score", "events", "window_start", "window_score")  # other columns: baselines


@dataclass(frozen=True)
class Training:
    """One training run and its test."""

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
        """Return the arguments of run_train.py."""
        quiet = ["--report_to", "none", "--disable_tqdm", "true", "--seed", str(self.seed)]
        names = ["--dataset", str(self.data), "--output_dir", str(self.output), "--target", CLASSES[self.target]]
        encoder = [] if self.detector == "scratch" else ["--encoder.name", str(self.encoder)]
        return [DETECTORS[self.detector], *names, *encoder, *quiet, *self.settings]


def train(training: Training) -> float:
    """Train and test in this process, which must not be reused; return the seconds."""
    import run_train

    start = time.perf_counter()
    log = training.output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file:
        # At the level of file descriptors, so that C libraries and data loader workers write to the log too.
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        run_train.main(training.arguments())
    return time.perf_counter() - start


def svm_scores(training: Training) -> dict[str, float]:
    """Score the test clips by a support vector machine on the windows of the report's MFCC baseline."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
    from torch.utils.data import DataLoader

    from launch.run import parse_run
    from tasks.detection.baselines import PlainWindows, WindowDescriptors, training_windows, without_augmentation
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
    model.fit(descriptors(PlainWindows(without_augmentation(data.train), wanted)), targets)
    test = data.sides["test"]
    scores = model.decision_function(descriptors(PlainWindows(test)))
    ids = rows["clip_id"]
    return {ids[int(row)]: float(scores[test.clip == clip].max()) for clip, row in enumerate(test.clips.rows)}


def false_alarms_at_recall(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the false alarms per hour of negative clips at the threshold that reaches RECALL."""
    threshold = np.sort(scores[targets])[::-1][int(np.ceil(RECALL * targets.sum())) - 1]
    negatives = scores[~targets]
    return float((negatives >= threshold).sum() / (len(negatives) * 2 * HALF / 3600))


@contextmanager
def workplace(processes: int) -> Iterator[tuple[Path, Path, Path]]:
    """Yield a new folder, and the folders of ESC-10 and of AudioSet's tables; set up for parallel training runs."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported, so set before that
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    esc10, metadata = real_data() / "esc10", real_data() / "audioset" / "meta"
    if not esc10.is_dir() or not metadata.is_dir():
        raise SystemExit(f"{esc10}, {metadata}: not found. Set FELTSOUND_REAL_DATA to a folder that has both.")
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_DATASETS_CACHE"] = f"{name}/cache"  # read when datasets is imported
        yield Path(name), esc10, metadata


def converted_encoder(folder: Path, metadata: Path) -> Path:
    """Convert EfficientAT mn04 of the real data to a folder for `--encoder.name`."""
    weights = real_data() / "models" / "efficientat_mn04_as.safetensors"
    if not weights.is_file():
        raise SystemExit(f"{weights}: no such file. Set FELTSOUND_REAL_DATA, or use --detector scratch.")
    converted = folder / "efficientat_mn04_as"
    labels = metadata / "class_labels_indices.csv"
    command = [sys.executable, "-m", "launch.convert_efficientat", weights, converted, "--labels", labels]
    # In a separate process, because this one is forked later, and a process that has used OpenMP cannot be forked.
    subprocess.run(list(map(str, command)), cwd=HERE, check=True, capture_output=True)
    return converted


def in_children(function: Callable, jobs: Sequence, processes: int) -> list:
    """Call a function on each job, each in a new process forked from this one."""
    # Imported before the fork: a child that imports these itself takes 8 s more.
    import launch.pages  # noqa: F401
    import run_train  # noqa: F401
    import tasks.detection.task  # noqa: F401

    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        return pool.map(function, jobs, chunksize=1)


def parse() -> argparse.Namespace:
    """Parse the command line; --full changes the defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all targets, groupings, detectors, folds; three seeds")
    parser.add_argument("--target", nargs="+", choices=(TARGET, *TUNING), help="by default baby_cry, with --full all")
    parser.add_argument("--grouping", nargs="+", choices=GROUPINGS, help="by default recording, with --full both")
    parser.add_argument("--detector", nargs="+", choices=DETECTORS, help="by default scratch, with --full all")
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, help="by default 3, with --full all")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0, with --full 0 1 2")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="parallel training runs")
    parser.add_argument("--output", type=Path, help="folder for scores.json; by default nothing is written")
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
    options = parse()
    results = []
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
                    results.append({"target": target, "grouping": grouping, "detector": detector, **scores})
                    report(results[-1], seconds)
                    if options.output:
                        options.output.mkdir(parents=True, exist_ok=True)
                        (options.output / "scores.json").write_text(json.dumps(results))


def scores_of(trainings: Sequence[Training], others: dict[str, dict[str, float]]) -> dict:
    """Return the scores of all test clips: of our detector averaged over seeds, and of the baselines."""
    ours: dict[str, list[float]] = defaultdict(list)
    rows, groups = {}, {}
    for training in trainings:
        groups_of_tree = read_groups(
            training.data.parent
        )  # the trees of two folds may name a clip's group differently
        for row in pq.read_table(training.output / "predictions.parquet").to_pylist():
            ours[row["clip_id"]].append(row["score"])
            rows[row["clip_id"]] = row
            groups[row["clip_id"]] = groups_of_tree[row["clip_id"]]
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


def report(result: dict, seconds: Sequence[float]) -> None:
    """Print pooled scores and their differences."""
    truth = np.array(result["holds_target"], bool)
    name = f"{result['target']}_{result['grouping']}_{result['detector']}"
    print(
        f"\n{result['target']}, {result['detector']}, groups by {result['grouping']}: {len(truth)} clips in "
        f"{len(set(result['groups']))} groups, {truth.sum()} with the target; chance {truth.mean():.3f}"
    )
    print(f"{'':18} {'AP':>6} {'false alarms per hour at 90 % recall':>36}   ours minus this")
    ours = np.array(result["scores"]["ours"])
    for rival, values in result["scores"].items():
        scores, gain = np.array(values), ""
        if rival != "ours":
            interval = paired_bootstrap(ours, scores, truth, result["groups"], area_under_precision)
            bounds = interval.reason if interval.low is None else f"[{interval.low:+.3f}, {interval.high:+.3f}]"
            gain = f"{interval.mean:+.3f} {bounds}"
        precision, alarms = average_precision(scores, truth), false_alarms_at_recall(scores, truth)
        print(f"{rival:18} {precision:6.3f} {alarms:36.0f}   {gain}", flush=True)
        print_value(f"esc10_{name}_{rival}", precision, "")
    print_value(f"esc10_{name}_training_seconds", float(np.median(seconds)), "s")


if __name__ == "__main__":
    main()

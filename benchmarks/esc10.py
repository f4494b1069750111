"""A detector of real sounds against what a sceptic would run first: `python -m benchmarks.esc10 [--full]`.

Needs ESC-10 (K. J. Piczak; CC0 and CC BY clips), read from FELTSOUND_REAL_DATA or ../shared/data. Its clips of 5 s
are joined by two into clips of 10 s as an AudioSet tree, with tables in the official formats: each clip holds two
sounds of different classes, weak labels for both and an event of 5 s each. Some files are missing, stereo at 48 kHz,
or cut off.

Folds and groups are by recording (Freesound id) or by author: clips that share a recording (or an author) are one
group, which is never on two sides. One fold is the eval set, the others train and validate. `--full` takes all
targets, both groupings, each fold in its turn and three seeds, pools the scores of all tests (averaged over seeds),
and compares by a paired bootstrap over groups. Without it: one target, one grouping, one fold, one seed.

The target is baby_cry. Everything that is chosen (recipe, augmentation) is chosen on the other targets.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import soxr

from benchmarks.timing import print_value
from evaluation.detection import area_under_precision, average_precision, paired_bootstrap

HERE = Path(__file__).resolve().parent.parent
CLASSES = {  # category of ESC-10 -> name of AudioSet's label
    "baby_cry": "Baby cry, infant cry",
    "chainsaw": "Chainsaw",
    "clock_tick": "Tick",
    "dog_bark": "Bark",
    "fire_crackling": "Crackle",
    "helicopter": "Helicopter",
    "person_sneeze": "Sneeze",
    "rain": "Rain",
    "rooster": "Crowing, cock-a-doodle-doo",
    "sea_waves": "Waves, surf",
}
TARGET = "baby_cry"
TUNING = ("rooster", "person_sneeze", "dog_bark", "clock_tick")  # targets on which settings are chosen
GROUPINGS = ("recording", "author")
FOLDS = (1, 2, 3)
HALF = 5.0  # s
RATE = 32000  # Hz of the tree's files
MISSING, CUT_OFF, STEREO = 0.07, 0.02, 0.05  # shares of the training files
SEEDS = (0, 1, 2)
RECALL = 0.9  # at which false alarms are compared


@dataclass(frozen=True)
class Recordings:
    """The files of ESC-10 by fold, and what makes two of them one group."""

    folds: dict[Path, int]
    groups: dict[str, str]  # stem of a file -> recording or author

    @classmethod
    def of(cls, esc10: Path, grouping: str) -> "Recordings":
        """Folds as published, or with all files of an author in the fold that holds most of them."""
        with open(esc10 / "attribution.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["category"] in CLASSES]
        groups = {Path(row["file"]).stem: row["freesound_id" if grouping == "recording" else "author"] for row in rows}
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for row in rows:
            counts[groups[Path(row["file"]).stem]][int(row["fold"])] += 1
        most = {group: max(sorted(found), key=found.__getitem__) for group, found in counts.items()}
        return cls({esc10 / row["file"]: most[groups[Path(row["file"]).stem]] for row in rows}, groups)


def real_data() -> Path:
    """The folder of real recordings."""
    return Path(os.environ.get("FELTSOUND_REAL_DATA", HERE.parent / "shared" / "data"))


def clip_id(*parts: object) -> str:
    """An id in AudioSet's manner, of 11 characters; some begin with - or hold _."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=11).digest()
    return "".join(alphabet[byte % 64] for byte in digest)


def pairs_of(files: Sequence[Path], generator: np.random.Generator) -> list[tuple[Path, Path]]:
    """Files of one fold by two, each once, of two classes: the class with most left gives one of each pair."""
    left: dict[str, list[Path]] = defaultdict(list)
    for file in generator.permutation(np.array(sorted(files))):
        left[file.parent.name].append(file)
    pairs = []
    while sum(map(bool, left.values())) > 1:
        names = sorted(left, key=lambda name: (-len(left[name]), generator.random()))
        pair = [left[name].pop() for name in names[:2]]
        pairs.append(tuple(pair[i] for i in generator.permutation(2)))
    return pairs


def read_half(path: Path) -> np.ndarray:
    """Five seconds of a clip at RATE, repeated where it is shorter, (samples,)."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    sound = soxr.resample(sound.mean(1), rate, RATE)
    wanted = int(HALF * RATE)
    return np.tile(sound, -(-wanted // len(sound)))[:wanted]


def make_tree(recordings: Recordings, metadata: Path, folder: Path, eval_fold: int, seed: int = 0) -> dict[str, str]:
    """Write `folder/meta`, `folder/audio` and `folder/groups.csv`; returns the group of each clip."""
    with open(metadata / "class_labels_indices.csv", newline="", encoding="utf-8") as file:
        mids = {row["display_name"]: row["mid"] for row in csv.DictReader(file)}
    meta, audio = folder / "meta", folder / "audio"
    meta.mkdir(parents=True)
    for name in ("class_labels_indices.csv", "ontology.json", "mid_to_display_name.tsv"):
        (meta / name).symlink_to((metadata / name).resolve())
    generator = np.random.default_rng([seed, eval_fold])
    members: dict[str, list[str]] = {}
    weak, strong = defaultdict(list), defaultdict(list)
    for fold in FOLDS:
        subset = "eval" if fold == eval_fold else "balanced_train"
        (audio / f"{subset}_segments").mkdir(parents=True, exist_ok=True)
        files = [file for file, of in recordings.folds.items() if of == fold]
        for pair in pairs_of(files, generator):
            ytid = clip_id(fold, *(file.stem for file in pair))
            labels = [mids[CLASSES[file.parent.name]] for file in pair]
            members[ytid] = [recordings.groups[file.stem] for file in pair]
            weak[subset].append((ytid, labels))
            strong[subset] += [(ytid, place * HALF, (place + 1) * HALF, mid) for place, mid in enumerate(labels)]
            sound, rate = np.concatenate([read_half(file) for file in pair]), RATE
            luck = generator.random() if subset != "eval" else 1.0
            path = audio / f"{subset}_segments" / f"Y{ytid}.wav"
            if luck < MISSING:
                continue
            if luck < MISSING + STEREO:
                sound, rate = np.stack([soxr.resample(sound, RATE, 48000)] * 2, 1), 48000
            soundfile.write(path, sound, rate, subtype="PCM_16")
            if luck > 1 - CUT_OFF and subset != "eval":
                path.write_bytes(path.read_bytes()[:1000])
    for subset, rows in weak.items():
        write_weak(meta / f"{subset}_segments.csv", rows)
        write_strong(meta / f"audioset_{subset.removeprefix('balanced_')}_strong.tsv", strong[subset])
    groups = joined_groups(members)
    with open(folder / "groups.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("clip_id", "group"), *groups.items()])
    return groups


def joined_groups(members: dict[str, list[str]]) -> dict[str, str]:
    """Clips that share a member, directly or through others, are one group, named by the first of its members."""
    parent: dict[str, str] = {}

    def first(member: str) -> str:
        while parent.setdefault(member, member) != member:
            member = parent[member]
        return member

    for one, other in members.values():
        low, high = sorted((first(one), first(other)))
        parent[high] = low
    return {clip: first(one) for clip, (one, _) in members.items()}


def write_weak(path: Path, rows: list[tuple[str, list[str]]]) -> None:
    """A table of weak labels in the official format."""
    labels = [label for _, found in rows for label in found]
    head = (
        "# Segments csv created for a test\n"
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    lines = [f'{ytid}, 30.000, 40.000, "{",".join(found)}"\n' for ytid, found in rows]
    path.write_text(head + "".join(lines))


def write_strong(path: Path, events: list[tuple[str, float, float, str]]) -> None:
    """A table of strong labels in the official format."""
    lines = [f"{ytid}_30000\t{start:.3f}\t{end:.3f}\t{label}\n" for ytid, start, end, label in events]
    path.write_text("segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n" + "".join(lines))


def prepare_tree(folder: Path) -> Path:
    """The tree as a prepared data set."""
    command = [sys.executable, "-m", "hf_datasets.prepare", "audioset", "--raw_dir", folder / "meta"]
    command += ["--audio_root", folder / "audio", "--group_paths", folder / "groups.csv"]
    done = subprocess.run(
        [*map(str, command), "--output_dir", str(folder / "data")], cwd=HERE, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"prepare {folder}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return folder / "data"


@dataclass(frozen=True)
class Training:
    """One training and its test: what is detected, where, and with which seed and settings."""

    target: str
    data: Path
    output: Path
    seed: int
    config: str
    settings: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The command line of run_train.py."""
        quiet = ["--report_to", "none", "--disable_tqdm", "true", "--seed", str(self.seed)]
        names = ["--dataset", str(self.data), "--output_dir", str(self.output), "--target", CLASSES[self.target]]
        return [self.config, *names, *quiet, *self.settings]


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


def in_children(function: Callable, trainings: Sequence[Training], processes: int) -> list:
    """A function of each training, each in a process of its own, forked from this one, which has imported all."""
    import launch.pages  # noqa: F401  (children that import for themselves take 8 s more)
    import run_train  # noqa: F401
    import tasks.detection.task  # noqa: F401

    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        return pool.map(function, trainings, chunksize=1)


def main() -> None:
    """Train all, pool, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all targets, both groupings, three folds, three seeds")
    parser.add_argument("--target", nargs="+", choices=(TARGET, *TUNING), help="by default baby_cry, with --full all")
    parser.add_argument("--grouping", nargs="+", choices=GROUPINGS, help="by default recording, with --full both")
    parser.add_argument("--folds", nargs="+", type=int, choices=FOLDS, help="by default 3, with --full all")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0, with --full 0 1 2")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="trainings at a time")
    parser.add_argument("--config", default="configs/baby_cry.json", help="of our detector")
    parser.add_argument("--output", type=Path, help="a folder for scores.json; none by default")
    parser.add_argument("settings", nargs="*", help="settings of run_train.py, after --")
    options = parser.parse_args()
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # read when torch is imported: several trainings share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // options.processes, 1)))
    esc10, metadata = real_data() / "esc10", real_data() / "audioset" / "meta"
    if not esc10.is_dir() or not metadata.is_dir():
        raise SystemExit(f"no real data: {esc10} and {metadata} are needed (set FELTSOUND_REAL_DATA)")
    full = options.full
    targets = options.target or ((TARGET, *TUNING) if full else (TARGET,))
    folds, seeds = options.folds or (FOLDS if full else FOLDS[-1:]), options.seeds or (SEEDS if full else SEEDS[:1])
    found = []
    with tempfile.TemporaryDirectory() as name:
        for grouping in options.grouping or (GROUPINGS if full else GROUPINGS[:1]):
            recordings, groups, data = Recordings.of(esc10, grouping), {}, {}
            for fold in folds:
                folder = Path(name) / grouping / f"fold{fold}"
                groups |= make_tree(recordings, metadata, folder, fold)
                data[fold] = prepare_tree(folder)
            for target in targets:
                trainings = [
                    Training(
                        target,
                        data[fold],
                        data[fold].parent / f"{target}-{seed}",
                        seed,
                        options.config,
                        tuple(options.settings),
                    )
                    for fold in folds
                    for seed in seeds
                ]
                seconds = in_children(train, trainings, options.processes)
                svm = in_children(svm_scores, trainings[:: len(seeds)], options.processes)
                found.append(scores_of(target, grouping, trainings, svm, groups) | {"seconds": seconds})
                report(found[-1])
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "scores.json").write_text(json.dumps(found))


def scores_of(
    target: str, grouping: str, trainings: Sequence[Training], svm: Sequence[dict[str, float]], groups: dict[str, str]
) -> dict:
    """The scores of all clips that were tested: of our detector averaged over seeds, and of its rivals."""
    ours: dict[str, list[float]] = defaultdict(list)
    rows = {}
    for training in trainings:
        for row in pq.read_table(training.output / "predictions.parquet").to_pylist():
            ours[row["clip_id"]].append(row["score"])
            rows[row["clip_id"]] = row
    svm_of = {clip: score for scores in svm for clip, score in scores.items()}
    clips = sorted(rows)
    return {
        "target": target,
        "grouping": grouping,
        "clips": clips,
        "groups": [groups[clip] for clip in clips],
        "holds_target": [rows[clip]["target"] for clip in clips],
        "scores": {
            "ours": [float(np.mean(ours[clip])) for clip in clips],
            "mfcc_regression": [rows[clip]["mfcc_regression"] for clip in clips],
            "mfcc_svm": [svm_of[clip] for clip in clips],
            "loudness": [rows[clip]["loudness"] for clip in clips],
        },
        "per_seed": {clip: ours[clip] for clip in clips},
    }


def report(found: dict) -> None:
    """Pooled scores and their differences."""
    truth = np.array(found["holds_target"], bool)
    name = f"{found['target']}_{found['grouping']}"
    print(
        f"\n{found['target']}, groups by {found['grouping']}: {len(truth)} clips in {len(set(found['groups']))} "
        f"groups, {truth.sum()} with the target; chance {truth.mean():.3f}"
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
    print_value(f"esc10_{name}_training_seconds", float(np.median(found["seconds"])), "s")


if __name__ == "__main__":
    main()

"""A baby-cry detector on real sound, with hard negatives and without: `python -m benchmarks.esc10 [--full]`.

Needs ESC-10 (K. J. Piczak; CC0 and CC BY clips), read from FELTSOUND_REAL_DATA or ../shared/data. Its clips of 5 s
are joined by two into clips of 10 s as an AudioSet tree, with tables in the official formats: each clip holds two
sounds of different classes, weak labels for both and an event of 5 s each. Some files are missing, stereo at 48 kHz,
or cut off.

Folds are by recording (Freesound id). One fold is the eval set, the others train and validate; `--full` takes each
fold in its turn with three seeds, pools the scores of all tests (averaged over seeds), and compares mining with none
by a paired bootstrap over recordings. Without it: one fold, one seed. Nothing is tuned on what is scored: every
setting is that of configs/baby_cry.json.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import soxr

from benchmarks.timing import print_value
from evaluation.detection import average_precision, paired_bootstrap

HERE = Path(__file__).resolve().parent.parent
TARGET = "Baby cry, infant cry"
CLASSES = {  # category of ESC-10 -> name of AudioSet's label
    "baby_cry": TARGET,
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
FOLDS = (1, 2, 3)
HALF = 5.0  # s
RATE = 32000  # Hz of the tree's files
MISSING, CUT_OFF, STEREO = 0.07, 0.02, 0.05  # shares of the training files
SEEDS = (0, 1, 2)
RECALL = 0.9  # at which false alarms are compared


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


def make_tree(esc10: Path, metadata: Path, folder: Path, eval_fold: int, seed: int = 0) -> dict[str, list[str]]:
    """Write `folder/meta` and `folder/audio`; both recordings of each clip, that of a cry first."""
    with open(metadata / "class_labels_indices.csv", newline="", encoding="utf-8") as file:
        mids = {row["display_name"]: row["mid"] for row in csv.DictReader(file)}
    meta, audio = folder / "meta", folder / "audio"
    meta.mkdir(parents=True)
    for name in ("class_labels_indices.csv", "ontology.json", "mid_to_display_name.tsv"):
        (meta / name).symlink_to((metadata / name).resolve())
    generator = np.random.default_rng([seed, eval_fold])
    recordings, weak, strong = {}, defaultdict(list), defaultdict(list)
    for fold in FOLDS:
        subset = "eval" if fold == eval_fold else "balanced_train"
        (audio / f"{subset}_segments").mkdir(parents=True, exist_ok=True)
        files = [file for name in CLASSES for file in (esc10 / name).glob(f"{fold}-*.ogg")]
        for pair in pairs_of(files, generator):
            ytid = clip_id(fold, *(file.stem for file in pair))
            labels = [mids[CLASSES[file.parent.name]] for file in pair]
            cry_first = sorted(pair, key=lambda file: file.parent.name != "baby_cry")
            recordings[ytid] = [file.stem.split("-")[1] for file in cry_first]
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
    return recordings


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


def run(*command: str | Path) -> str:
    """A command to its end; what it printed."""
    done = subprocess.run([*map(str, command)], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


def prepare_tree(folder: Path) -> Path:
    """The tree as a prepared data set."""
    command = [sys.executable, "-m", "hf_datasets.prepare", "audioset", "--raw_dir", folder / "meta"]
    run(*command, "--audio_root", folder / "audio", "--output_dir", folder / "data")
    return folder / "data"


def train(data: Path, output: Path, *settings: str) -> dict[str, tuple[float, bool]]:
    """Train on a data set; score and target of each clip of its test."""
    quiet = ("--report_to", "none", "--disable_tqdm", "true")
    config = "configs/baby_cry.json"
    run(sys.executable, "run_train.py", config, "--dataset", data, "--output_dir", output, *quiet, *settings)
    table = pq.read_table(output / "predictions.parquet").to_pylist()
    return {row["clip_id"]: (row["score"], row["target"]) for row in table}


def false_alarms_at_recall(scores: np.ndarray, targets: np.ndarray) -> float:
    """Share of clips without the target that score as high as the clip at RECALL, as alarms an hour of such clips."""
    threshold = np.sort(scores[targets])[::-1][int(np.ceil(RECALL * targets.sum())) - 1]
    negatives = scores[~targets]
    return float((negatives >= threshold).sum() / (len(negatives) * 2 * HALF / 3600))


def main() -> None:
    """Train all, pool, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three folds, three seeds: some 18 trainings")
    options = parser.parse_args()
    esc10, metadata = real_data() / "esc10", real_data() / "audioset" / "meta"
    if not esc10.is_dir() or not metadata.is_dir():
        raise SystemExit(f"no real data: {esc10} and {metadata} are needed (set FELTSOUND_REAL_DATA)")
    folds, seeds = (FOLDS, SEEDS) if options.full else (FOLDS[-1:], SEEDS[:1])
    found: dict[str, dict[str, list[float]]] = {"without mining": defaultdict(list), "with mining": defaultdict(list)}
    targets, recordings, seconds = {}, {}, []
    with tempfile.TemporaryDirectory() as name:
        for fold in folds:
            folder = Path(name) / f"fold{fold}"
            recordings |= make_tree(esc10, metadata, folder, fold)
            data = prepare_tree(folder)
            for seed in seeds:
                for kind, scores in found.items():
                    begin = time.perf_counter()
                    settings = ("--mining", str(kind == "with mining").lower(), "--seed", str(seed))
                    output = folder / f"{kind.split()[0]}-{seed}"
                    for clip, (score, target) in train(data, output, *settings).items():
                        scores[clip].append(score)
                        targets[clip] = target
                    seconds.append(time.perf_counter() - begin)
                    record = json.loads((output / "metrics.json").read_text())
                    ap = record["test"]["scores"]["average_precision"]["mean"]
                    print(f"fold {fold}, seed {seed}, {kind}: AP {ap:.3f}, {seconds[-1]:.0f} s", flush=True)
    report(found, targets, recordings, seconds)


def report(found: dict, targets: dict[str, bool], recordings: dict[str, list[str]], seconds: list[float]) -> None:
    """Pooled scores and their differences."""
    clips = sorted(targets)
    truth = np.array([targets[clip] for clip in clips])
    of = [recordings[clip][0] for clip in clips]  # what clips are alike by
    means = {kind: np.array([np.mean(scores[clip]) for clip in clips]) for kind, scores in found.items()}
    print(f"\n{len(clips)} clips of {len(set(of))} recordings, {truth.sum()} with a cry; scores averaged over seeds")
    print(f"{'':16} {'AP':>6} {'false alarms an hour at 90 % recall':>36}")
    for kind, scores in means.items():
        print(f"{kind:16} {average_precision(scores, truth):6.3f} {false_alarms_at_recall(scores, truth):36.0f}")
    without, with_mining = means.values()
    for name, measure in (("average_precision", average_precision), ("false_alarms_at_90", false_alarms_at_recall)):
        interval = paired_bootstrap(with_mining, without, truth, of, measure)
        bounds = interval.reason if interval.low is None else f"[{interval.low:+.3f}, {interval.high:+.3f}]"
        print(f"{name}, with minus without mining: {interval.mean:+.3f} {bounds}")
        print_value(f"esc10_{name}_mining", measure(with_mining, truth), "")
        print_value(f"esc10_{name}_plain", measure(without, truth), "")
        print_value(f"esc10_{name}_gain", interval.mean, "")
    print_value("esc10_training_seconds", float(np.median(seconds)), "s")


if __name__ == "__main__":
    main()

"""ESC-10 in the format of AudioSet: real sounds for benchmarks and tests.

Pairs of 5 s clips are joined to clips of 10 s, with tables in the official formats. Each clip contains two sounds of
different classes, weak labels for both and one event of 5 s per sound. Some files are missing, stereo at 48 kHz, or
truncated.

Folds and groups are by recording (Freesound id) or by author: clips that share a recording (or an author) are one
group, which is never in two splits.
"""

import csv
import hashlib
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

HERE = Path(__file__).resolve().parent.parent
CLASSES = {  # category of ESC-10 -> label of AudioSet
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
FOLDS = (1, 2, 3)
HALF = 5.0  # s
RATE = 32000  # Hz of the tree's files
MISSING, CUT_OFF, STEREO = 0.07, 0.02, 0.05  # shares of the training files; test files have no defects


@dataclass(frozen=True)
class Recordings:
    """The fold and the group of each file of ESC-10."""

    folds: dict[Path, int]
    groups: dict[str, str]  # stem of a file -> recording or author

    @classmethod
    def of(cls, esc10: Path, grouping: str) -> "Recordings":
        """Read the published folds; by author, all files of an author go to the fold that has most of them."""
        with open(esc10 / "attribution.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["category"] in CLASSES]
        groups = {Path(row["file"]).stem: row["freesound_id" if grouping == "recording" else "author"] for row in rows}
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for row in rows:
            counts[groups[Path(row["file"]).stem]][int(row["fold"])] += 1
        most = {group: max(sorted(by_fold), key=by_fold.__getitem__) for group, by_fold in counts.items()}
        return cls({esc10 / row["file"]: most[groups[Path(row["file"]).stem]] for row in rows}, groups)


def real_data() -> Path:
    """Return the folder of real data sets."""
    return Path(os.environ.get("FELTSOUND_REAL_DATA", HERE.parent / "shared" / "data"))


def clip_id(*parts: object) -> str:
    """Return an id like those of AudioSet: 11 characters; some start with - or contain _."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=11).digest()
    return "".join(alphabet[byte % 64] for byte in digest)


def pairs_of(files: Sequence[Path], generator: np.random.Generator) -> list[tuple[Path, Path]]:
    """Pair the files of one fold, each used once, with two classes per pair."""
    # The class with most files left gives one of each pair, so that few files stay unpaired.
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
    """Read five seconds of a clip at RATE, (samples,); a shorter clip is repeated."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    sound = soxr.resample(sound.mean(1), rate, RATE)
    samples = int(HALF * RATE)
    return np.tile(sound, -(-samples // len(sound)))[:samples]


def make_tree(recordings: Recordings, metadata: Path, folder: Path, eval_fold: int, seed: int = 0) -> dict[str, str]:
    """Write `folder/meta`, `folder/audio` and `folder/groups.csv`; return the group of each clip."""
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
        files = [file for file, fold_of_file in recordings.folds.items() if fold_of_file == fold]
        for pair in pairs_of(files, generator):
            ytid = clip_id(fold, *(file.stem for file in pair))
            labels = [mids[CLASSES[file.parent.name]] for file in pair]
            members[ytid] = [recordings.groups[file.stem] for file in pair]
            weak[subset].append((ytid, labels))
            strong[subset] += [(ytid, half * HALF, (half + 1) * HALF, mid) for half, mid in enumerate(labels)]
            sound, rate = np.concatenate([read_half(file) for file in pair]), RATE
            defect = generator.random() if subset != "eval" else 1.0
            path = audio / f"{subset}_segments" / f"Y{ytid}.wav"
            if defect < MISSING:
                continue
            if defect < MISSING + STEREO:
                sound, rate = np.stack([soxr.resample(sound, RATE, 48000)] * 2, 1), 48000
            soundfile.write(path, sound, rate, subtype="PCM_16")
            if defect > 1 - CUT_OFF and subset != "eval":
                path.write_bytes(path.read_bytes()[:1000])
    for subset, rows in weak.items():
        write_weak(meta / f"{subset}_segments.csv", rows)
        write_strong(meta / f"audioset_{subset.removeprefix('balanced_')}_strong.tsv", strong[subset])
    groups = joined_groups(members)
    with open(folder / "groups.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("clip_id", "group"), *groups.items()])
    return groups


def read_groups(folder: Path) -> dict[str, str]:
    with open(folder / "groups.csv", newline="", encoding="utf-8") as file:
        return {row["clip_id"]: row["group"] for row in csv.DictReader(file)}


def joined_groups(members: dict[str, list[str]]) -> dict[str, str]:
    """Return the group of each clip: clips that share a member, directly or through other clips, are one group."""
    # Union-find; the smallest member names the group.
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
    """Write a table of weak labels in the official format."""
    labels = [label for _, labels_of_row in rows for label in labels_of_row]
    head = (
        "# Segments csv created for a test\n"
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    lines = [f'{ytid}, 30.000, 40.000, "{",".join(labels_of_row)}"\n' for ytid, labels_of_row in rows]
    path.write_text(head + "".join(lines))


def write_strong(path: Path, events: list[tuple[str, float, float, str]]) -> None:
    """Write a table of strong labels in the official format."""
    lines = [f"{ytid}_30000\t{start:.3f}\t{end:.3f}\t{label}\n" for ytid, start, end, label in events]
    path.write_text("segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n" + "".join(lines))


def prepare_tree(folder: Path) -> Path:
    """Prepare the tree as a data set and return its folder."""
    command = [sys.executable, "-m", "hf_datasets.prepare", "audioset", "--raw_dir", folder / "meta"]
    command += ["--audio_root", folder / "audio", "--group_paths", folder / "groups.csv"]
    done = subprocess.run(
        [*map(str, command), "--output_dir", str(folder / "data")], cwd=HERE, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"prepare {folder}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return folder / "data"

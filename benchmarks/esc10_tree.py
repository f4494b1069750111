"""ESC-10 as an AudioSet tree: real sounds for benchmarks and tests.

Clips of 5 s are joined by two into clips of 10 s, with tables in the official formats: each clip holds two sounds of
different classes, weak labels for both and an event of 5 s each. Some files are missing, stereo at 48 kHz, or cut off.

Folds and groups are by recording (Freesound id) or by author: clips that share a recording (or an author) are one
group, which is never on two sides.
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
FOLDS = (1, 2, 3)
HALF = 5.0  # s
RATE = 32000  # Hz of the tree's files
MISSING, CUT_OFF, STEREO = 0.07, 0.02, 0.05  # shares of the training files


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


def read_groups(folder: Path) -> dict[str, str]:
    """The group of each clip of a tree."""
    with open(folder / "groups.csv", newline="", encoding="utf-8") as file:
        return {row["clip_id"]: row["group"] for row in csv.DictReader(file)}


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

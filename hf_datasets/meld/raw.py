"""The raw MELD tree as it is found: its tables and clips at any depth, and which clip belongs to which row.

    MELD.Raw/
      train_sent_emo.csv dev_sent_emo.csv test_sent_emo.csv     here, or inside train/ dev/ test/, or elsewhere below
      train_splits/dia<D>_utt<U>.mp4                            here, or inside train/, or below that
      dev_splits_complete/dia<D>_utt<U>.mp4
      output_repeated_splits_test/dia<D>_utt<U>.mp4             also test_splits/
      output_repeated_splits_test/final_videos_testdia<D>_utt<U>.mp4

A clip is of the split whose folder it lies in, the innermost where several could be meant. Tables and clips are joined
from the tables' side: no row is lost for its clip, and clips without a row are listed.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from system.storage import is_remote

from ..defects import make_defect
from ..raw_files import SYNTHETIC_MARKER, RawFolder
from .utterances import SPLITS, Utterance, read_utterances

FOLDERS = {  # of clips; in order of preference where a clip lies in several
    "train_splits": "train",
    "dev_splits_complete": "dev",
    "output_repeated_splits_test": "test",
    "test_splits": "test",
    "dev_splits": "dev",
    "train": "train",
    "dev": "dev",
    "test": "test",
}
PREFERENCE = list(FOLDERS)
CLIP_NAME = re.compile(r"(final_videos_test)?dia(\d{1,9})_utt(\d{1,9})\.mp4", re.IGNORECASE)
SIDE_FILE = re.compile(r"\._.*|.*\..*\.mp4", re.IGNORECASE)  # what macOS puts beside each file of an archive
ROWS = {"train": 9989, "dev": 1109, "test": 2610}  # of the real MELD
NAMED = 3  # files named where many are counted
MEANT = "folder that MELD.Raw.tar.gz was unpacked to"
Key = tuple[str, int, int]  # split, dialogue, utterance


@dataclass
class RawTree:
    """A whole tree: utterances by split in the order of the tables, and what belongs to none of them."""

    root: RawFolder  # with the clips alone
    utterances: dict[str, list[Utterance]]
    orphans: list[tuple[str, str, str]]  # split, file, why
    defects: list[dict]
    synthetic: bool
    digest: str
    size: int  # bytes of all that is read


@dataclass
class Clips:
    """What lies in the folders of clips."""

    files: dict[Key, list[str]]  # the best file of each utterance first
    strangers: list[tuple[str, str]]  # (split, file) of clips whose names are not of MELD's form
    side_files: list[str]


def read_tree(raw_dir: str | Path, embed: bool) -> RawTree:
    """Read the tables and say which clip belongs to which row; the clips are opened later.

    The digest covers the content of the tables, and of the clips path and size, or content where they are embedded.
    """
    location = str(raw_dir) if is_remote(str(raw_dir)) else str(Path(raw_dir).absolute())
    found = RawFolder.open(location, MEANT)
    root, defects = found.below(""), []
    tables = _find_tables(root)
    utterances = {}
    for split, (name, data) in tables.items():
        utterances[split], odd = read_utterances(data, split, root.where(name))
        defects += odd
    if not any(utterances.values()):
        raise ValueError(f"{root.location} has no rows in {', '.join(name for name, _ in tables.values())}")
    markers = [name for name in root.files if name.rsplit("/", 1)[-1] == SYNTHETIC_MARKER]
    for split in SPLITS:
        defects += _check_count(split, utterances.get(split), synthetic=bool(markers))
    clips = find_clips(root, found.hidden)
    orphans = _join(utterances, clips, root, defects)
    used = [row.clip for rows in utterances.values() for row in rows if row.clip]
    digest, size = root.digest([name for name, _ in tables.values()] + markers)
    if embed:
        clip_digest, clip_size = root.digest(used)
        size += clip_size
    else:  # rows hold paths
        sizes = [[name, _size(root, name)] for name in sorted(used)]
        clip_digest = [root.location, sizes] if used else []
    parts = [digest, clip_digest, orphans, defects, embed]
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    return RawTree(root.only(used), utterances, orphans, defects, bool(markers), digest, size)


def _find_tables(root: RawFolder) -> dict[str, tuple[str, bytes]]:
    """Name and content of the table of each split that has one; copies have to be the same."""
    tables = {}
    for split in SPLITS:
        wanted = f"{split}_sent_emo.csv"
        names = [name for name in root.files if name.rsplit("/", 1)[-1] == wanted]
        contents = {name: root.read(name) for name in sorted(names, key=lambda name: (name.count("/"), name))}
        if len(set(contents.values())) > 1:
            some = ", ".join(contents)
            raise ValueError(f"{root.location} holds several {wanted} that differ ({some}); leave one of them there")
        if contents:
            tables[split] = next(iter(contents.items()))
    if not tables:
        named = ", ".join(f"{split}_sent_emo.csv" for split in SPLITS)
        raise ValueError(f"{root.location} holds none of {named}, at any depth; give the {MEANT}")
    return tables


def _check_count(split: str, rows: list[Utterance] | None, synthetic: bool) -> list[dict]:
    if rows is None:
        return [make_defect("split_missing", detail=f"{split}: there is no {split}_sent_emo.csv")]
    if synthetic or len(rows) == ROWS[split]:
        return []
    return [make_defect("split_count", len(rows), detail=f"{split}: MELD has {ROWS[split]}")]


def find_clips(root: RawFolder, hidden: list[str]) -> Clips:
    """Sort the files in the folders of clips: by utterance, with the best file of each first."""
    files: dict[Key, list[tuple[tuple, str]]] = {}
    strangers = []
    side_files = [name for name in hidden if _folder(name) and SIDE_FILE.fullmatch(name.rsplit("/", 1)[-1])]
    for name in root.files:
        folder, base = _folder(name), name.rsplit("/", 1)[-1]
        if folder is None or not base.lower().endswith(".mp4"):
            continue
        if match := CLIP_NAME.fullmatch(base):
            rank = (match[1] is None, PREFERENCE.index(folder), name.count("/"), name)
            key = (FOLDERS[folder], int(match[2]), int(match[3]))
            files.setdefault(key, []).append((rank, name))
        elif SIDE_FILE.fullmatch(base):
            side_files.append(name)
        else:
            strangers.append((FOLDERS[folder], name))
    return Clips({key: [name for _, name in sorted(some)] for key, some in files.items()}, strangers, side_files)


def _folder(name: str) -> str | None:
    """The innermost folder of a file that tells its split."""
    return next((part for part in reversed(name.split("/")[:-1]) if part in FOLDERS), None)


def _join(
    utterances: dict[str, list[Utterance]], clips: Clips, root: RawFolder, defects: list[dict]
) -> list[tuple[str, str, str]]:
    """Give each row its clip, and return the clips that no row has."""
    claimed = set()
    for split, rows in utterances.items():
        looked_for = any(key[0] == split for key in clips.files)
        if not looked_for:
            defects.append(make_defect("no_clips", len(rows), detail=_why_none(split, root)))
        for row in rows:
            names = clips.files.get(row.key, [])
            claimed.add(row.key)
            row.looked_for, row.clip = looked_for, names[0] if names else None
            row.defects += _file_defects(names)
    orphans = [(key[0], name, "no row") for key, names in clips.files.items() if key not in claimed for name in names]
    orphans += [(split, name, "no clip's name") for split, name in clips.strangers]
    orphans.sort(key=lambda orphan: (SPLITS.index(orphan[0]), orphan[1]))
    defects += _count_by_folder("orphan_clips", [name for _, name, _ in orphans])
    defects += _count_by_folder("side_files", sorted(clips.side_files))
    return orphans


def _file_defects(names: list[str]) -> list[dict]:
    """What the files of one utterance say by their names; the first of them is used."""
    prefixed = [name for name in names if name.rsplit("/", 1)[-1].lower().startswith("final_videos_test")]
    plain = [name for name in names if name not in prefixed]
    found = []
    if prefixed and plain:
        found.append(make_defect("twin_clip", detail=f"{prefixed[0]}, not {plain[0]}"))
    elif prefixed:
        found.append(make_defect("prefixed_clip", detail=prefixed[0]))
    others = max(len(prefixed) - 1, 0) + max(len(plain) - 1, 0)
    if others:
        found.append(make_defect("double_clip", others, detail=names[0]))
    return found


def _why_none(split: str, root: RawFolder) -> str:
    archive = next((name for name in root.files if name.rsplit("/", 1)[-1] == f"{split}.tar.gz"), None)
    folder = next(name for name, of in FOLDERS.items() if of == split)
    return f"{split}: {archive} is to be unpacked" if archive else f"{split}: there is no {folder}/dia<D>_utt<U>.mp4"


def _count_by_folder(what: str, names: list[str]) -> list[dict]:
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        folders.setdefault(folder, []).append(base)
    return [
        make_defect(
            what, len(some), detail=f"{folder}/: {', '.join(some[:NAMED])}" + (", ..." if len(some) > NAMED else "")
        )
        for folder, some in folders.items()
    ]


def _size(root: RawFolder, name: str) -> int:
    file = root.files[name]
    if file is not None:
        return file.size
    try:
        return Path(root.location, name).stat().st_size
    except OSError:  # a link to nowhere, whose row says so
        return 0

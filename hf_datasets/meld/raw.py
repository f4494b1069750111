"""Find MELD's tables and clips in a raw tree, at any depth, and match clips to rows.

    MELD.Raw/
      train_sent_emo.csv dev_sent_emo.csv test_sent_emo.csv     here, in train/ dev/ test/, or in any other subfolder
      train_splits/dia<D>_utt<U>.mp4                            here, in train/, or deeper
      dev_splits_complete/dia<D>_utt<U>.mp4
      output_repeated_splits_test/dia<D>_utt<U>.mp4             also test_splits/
      output_repeated_splits_test/final_videos_testdia<D>_utt<U>.mp4

The innermost of these folders decides the split of a clip. Every row of the tables is kept, with or without a clip.
Clips without a row are listed.
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

FOLDERS = {  # folder of clips: its split; in order of preference, for a clip in several folders
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
SIDE_FILE = re.compile(r"\._.*|.*\..*\.mp4", re.IGNORECASE)  # macOS adds such a file for each file in an archive
ROWS = {"train": 9989, "dev": 1109, "test": 2610}  # of the real MELD
MAX_NAMED = 3  # files named in a defect that counts many
MEANT = "folder that MELD.Raw.tar.gz was unpacked to"  # by --raw_dir
Key = tuple[str, int, int]  # split, dialogue, utterance


@dataclass
class RawTree:
    """The utterances of a raw tree, and the clips that belong to none."""

    root: RawFolder  # only the clips of rows
    utterances: dict[str, list[Utterance]]  # by split, in the order of the tables
    orphans: list[tuple[str, str, str]]  # split, file, reason
    defects: list[dict]
    synthetic: bool
    digest: str
    size: int  # bytes of all files that are read


@dataclass
class Clips:
    """The files in the folders of clips."""

    files: dict[Key, list[str]]  # of each utterance, the best file first
    misnamed: list[tuple[str, str]]  # (split, file) of mp4 files whose names do not have MELD's form
    side_files: list[str]


def read_tree(raw_dir: str | Path, embed: bool) -> RawTree:
    """Read the tables and match clips to rows, without opening the clips.

    The digest covers the content of the tables, and path and size (with `embed`: content) of the clips.
    """
    location = str(raw_dir) if is_remote(str(raw_dir)) else str(Path(raw_dir).absolute())
    opened = RawFolder.open(location, MEANT)
    root, defects = opened.below(""), []
    tables = _find_tables(root)
    utterances = {}
    for split, (name, data) in tables.items():
        utterances[split], table_defects = read_utterances(data, split, root.where(name))
        defects += table_defects
    if not any(utterances.values()):
        raise ValueError(
            f"{root.location}: no rows in {', '.join(name for name, _ in tables.values())}. Download the tables again."
        )
    markers = [name for name in root.files if name.rsplit("/", 1)[-1] == SYNTHETIC_MARKER]
    for split in SPLITS:
        defects += _check_count(split, utterances.get(split), synthetic=bool(markers))
    clips = find_clips(root, opened.hidden)
    orphans = _join(utterances, clips, root, defects)
    used = [row.clip for rows in utterances.values() for row in rows if row.clip]
    digest, size = root.digest([name for name, _ in tables.values()] + markers)
    if embed:
        clip_digest, clip_size = root.digest(used)
        size += clip_size
    else:  # rows contain full paths, which change with the location
        sizes = [[name, _size(root, name)] for name in sorted(used)]
        clip_digest = [root.location, sizes] if used else []
    # Reasons of orphans and details of defects are part of the digest: a change of their text changes every hash.
    parts = [digest, clip_digest, orphans, defects, embed]
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    return RawTree(root.only(used), utterances, orphans, defects, bool(markers), digest, size)


def _find_tables(root: RawFolder) -> dict[str, tuple[str, bytes]]:
    """Return name and content of each split's table; raise ValueError if copies of a table differ."""
    tables = {}
    for split in SPLITS:
        table = f"{split}_sent_emo.csv"
        names = [name for name in root.files if name.rsplit("/", 1)[-1] == table]
        contents = {name: root.read(name) for name in sorted(names, key=lambda name: (name.count("/"), name))}
        if len(set(contents.values())) > 1:
            raise ValueError(f"{root.location}: different copies of {table}: {', '.join(contents)}. Keep one of them.")
        if contents:
            tables[split] = next(iter(contents.items()))
    if not tables:
        names = " or ".join(f"{split}_sent_emo.csv" for split in SPLITS)
        raise ValueError(f"{root.location}: no {names} in any subfolder. Give the {MEANT}.")
    return tables


def _check_count(split: str, rows: list[Utterance] | None, synthetic: bool) -> list[dict]:
    if rows is None:
        return [make_defect("split_missing", detail=f"{split}: no {split}_sent_emo.csv")]
    if synthetic or len(rows) == ROWS[split]:
        return []
    return [make_defect("split_count", len(rows), detail=f"{split}: MELD has {ROWS[split]}")]


def find_clips(root: RawFolder, hidden: list[str]) -> Clips:
    """Group the files in the folders of clips by utterance, the best file of each utterance first."""
    files: dict[Key, list[tuple[tuple, str]]] = {}
    misnamed = []
    side_files = [name for name in hidden if _folder(name) and SIDE_FILE.fullmatch(name.rsplit("/", 1)[-1])]
    for name in root.files:
        folder, base = _folder(name), name.rsplit("/", 1)[-1]
        if folder is None or not base.lower().endswith(".mp4"):
            continue
        if match := CLIP_NAME.fullmatch(base):
            # The prefix final_videos_test marks a corrected clip. The plain clip of that number is a wrong one.
            rank = (match[1] is None, PREFERENCE.index(folder), name.count("/"), name)
            key = (FOLDERS[folder], int(match[2]), int(match[3]))
            files.setdefault(key, []).append((rank, name))
        elif SIDE_FILE.fullmatch(base):
            side_files.append(name)
        else:
            misnamed.append((FOLDERS[folder], name))
    return Clips({key: [name for _, name in sorted(ranked)] for key, ranked in files.items()}, misnamed, side_files)


def _folder(name: str) -> str | None:
    """Return the innermost folder of a file that is one of FOLDERS."""
    return next((part for part in reversed(name.split("/")[:-1]) if part in FOLDERS), None)


def _join(
    utterances: dict[str, list[Utterance]], clips: Clips, root: RawFolder, defects: list[dict]
) -> list[tuple[str, str, str]]:
    """Set the clip of each row, add defects, and return the clips without a row: split, file and reason."""
    claimed = set()
    for split, rows in utterances.items():
        looked_for = any(key[0] == split for key in clips.files)
        if not looked_for:
            defects.append(make_defect("no_clips", len(rows), detail=_no_clips_reason(split, root)))
        for row in rows:
            names = clips.files.get(row.key, [])
            claimed.add(row.key)
            row.looked_for, row.clip = looked_for, names[0] if names else None
            row.defects += _file_defects(names)
    orphans = [(key[0], name, "no row") for key, names in clips.files.items() if key not in claimed for name in names]
    orphans += [(split, name, "no clip's name") for split, name in clips.misnamed]
    orphans.sort(key=lambda orphan: (SPLITS.index(orphan[0]), orphan[1]))
    defects += _count_by_folder("orphan_clips", [name for _, name, _ in orphans])
    defects += _count_by_folder("side_files", sorted(clips.side_files))
    return orphans


def _file_defects(names: list[str]) -> list[dict]:
    """Return the defects that the names of an utterance's files show; the first file is used."""
    prefixed = [name for name in names if name.rsplit("/", 1)[-1].lower().startswith("final_videos_test")]
    plain = [name for name in names if name not in prefixed]
    defects = []
    if prefixed and plain:
        defects.append(make_defect("twin_clip", detail=f"{prefixed[0]}, not {plain[0]}"))
    elif prefixed:
        defects.append(make_defect("prefixed_clip", detail=prefixed[0]))
    copies = max(len(prefixed) - 1, 0) + max(len(plain) - 1, 0)
    if copies:
        defects.append(make_defect("double_clip", copies, detail=names[0]))
    return defects


def _no_clips_reason(split: str, root: RawFolder) -> str:
    archive = next((name for name in root.files if name.rsplit("/", 1)[-1] == f"{split}.tar.gz"), None)
    folder = next(name for name, of in FOLDERS.items() if of == split)
    return f"{split}: unpack {archive}" if archive else f"{split}: no {folder}/dia<D>_utt<U>.mp4"


def _count_by_folder(what: str, names: list[str]) -> list[dict]:
    """Return a defect of the kind `what` for each folder of these files."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, base = name.rpartition("/")
        folders.setdefault(folder, []).append(base)
    return [
        make_defect(
            what,
            len(files),
            detail=f"{folder}/: {', '.join(files[:MAX_NAMED])}" + (", ..." if len(files) > MAX_NAMED else ""),
        )
        for folder, files in folders.items()
    ]


def _size(root: RawFolder, name: str) -> int:
    file = root.files[name]
    if file is not None:
        return file.size
    try:
        return Path(root.location, name).stat().st_size
    except OSError:  # a broken symbolic link: opening the clip reports it as a defect of its row
        return 0

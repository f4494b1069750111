"""Read tables, lists and the list of sounds into one table: every clip with its candidate files and its defects."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media.audioset import Labels, Ontology
from system.storage import is_remote
from system.text import plural

from ..defects import make_defect
from ..raw_files import SYNTHETIC_MARKER, odd_name_defects
from .clips import Clips, join_clips
from .own_lists import read_lists
from .rows import Reading
from .sound_files import FOLDER, Inventory, Matches, Wanted, list_sounds, match_sounds
from .tables import find_tables, find_vocabulary

MAX_NAMED = 3  # files named in a defect that counts many


@dataclass
class Tree:
    """All clips. `table` has the columns of Clips.table, `files` (paths of candidates, best first) and `defects`."""

    table: pa.Table
    in_eval: np.ndarray  # (clips,) bool
    labels: Labels
    ontology: Ontology | None
    target: list[str]  # MIDs
    reading: Reading
    defects: list[dict]  # of the data as a whole, not of one clip
    digest: str
    size: int  # bytes of all files that are read

    def cut(self, clips: np.ndarray, size: int) -> list[pa.Table]:
        """Cut the rows of these clips into tables of `size` clips."""
        # take copies, slice does not: pickling a slice for a worker would send the whole table.
        return [self.table.take(pa.array(clips[start : start + size])) for start in range(0, len(clips), size)]


def read_tree(
    raw_dir: str,
    audio_root: str | None,
    target: list[str],
    lists: dict[str, list[str]],
    check_audio: str = "headers",
    embed_audio: bool = False,
) -> Tree:
    """Read every table and list, list the sounds and match them to the clips.

    Args:
        raw_dir: folder or URL of the tables.
        audio_root: folder or URL of the sounds; None to use sounds below `raw_dir`, if any.
        target: names or MIDs of the target.
        lists: paths of the user's lists by kind.
        check_audio: "headers", "decode" or "none", see Reading.
        embed_audio: put the sounds into the rows.
    """
    here = list_sounds(raw_dir, "folder that holds AudioSet's tables", "--raw_dir")
    own = read_lists(lists)
    tables = find_tables(here.other_files, own.paths)
    if not (tables.weak or tables.strong or own.lists):
        raise ValueError(
            f"--raw_dir={raw_dir}: no AudioSet table, for example balanced_train_segments.csv or "
            "audioset_train_strong.tsv. Give the folder of the tables, or your own lists (--weak_paths ...)."
        )
    with ThreadPoolExecutor(1) as pool:
        # Decompressing the weak tables takes longest, so it runs while the strong tables are read. Their labels have
        # to be known before the weak tables can be parsed.
        tables.unpack_ahead(pool)
        strong = tables.read_strong()
        labels, ontology, mids, meant = find_vocabulary(tables, strong, own, target)
        weak = tables.read_weak(labels)
    clips = join_clips(weak, strong, own.lists, labels, meant, mids, own.groups)
    defects = tables.defects + clips.group_defects
    if audio_root is not None:
        sounds = list_sounds(audio_root, "folder that holds the clips' sound files", "--audio_root")
    else:
        sounds = here if len(here) else None
    if sounds is None:
        defects.append(make_defect("audio_not_given", detail="no --audio_root, no sounds below --raw_dir"))
        files = pa.nulls(len(clips.table), pa.list_(pa.string()))
    else:
        files = _find_files(clips, sounds, defects)
    defects += odd_name_defects(inventory.other_files for inventory in (here, sounds) if inventory is not None)
    markers = [path for path in here.other_files.files if PurePosixPath(path).name == SYNTHETIC_MARKER]
    location = None if sounds is None else sounds.location
    remote = location is not None and is_remote(location)
    reading = Reading(location, remote, check_audio, embed_audio and sounds is not None, bool(markers))
    if sounds is not None and not reading.opens:
        count = pc.sum(pc.greater(pc.list_value_length(files), 0)).as_py()
        detail = "on S3" if remote and check_audio != "none" else "--check_audio none"
        defects.append(make_defect("not_opened", count, detail=detail))
    digest, size = here.other_files.digest(tables.paths() + markers)
    parts = [digest, own.digest, mids, check_audio, embed_audio, sounds and sounds.digest()]
    parts += [] if embed_audio else [location]  # rows then contain full paths, which change with the location
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    table = clips.table.append_column("files", files)
    table = table.append_column("defects", clips.defects.lists(len(table)))
    size += own.size + (int(sounds.sizes.clip(min=0).sum()) if reading.embed else 0)
    return Tree(table, clips.in_eval, labels, ontology, mids, reading, defects, digest, size)


def _find_files(clips: Clips, sounds: Inventory, defects: list[dict]) -> pa.ListArray:
    """Return the paths of each clip's usable files, best first; raise ValueError if no clip has one."""
    start = clips.table["start_seconds"].fill_null(float("nan")).to_numpy()
    paths = None if clips.paths is None else _relative_paths(clips.paths, sounds.location)
    wanted = Wanted(clips.table["clip_id"].combine_chunks(), start, clips.subset, clips.part, paths)
    matches = match_sounds(sounds, wanted)
    _note_unclaimed(matches, sounds, defects)
    _note_file_defects(matches, sounds, clips)
    candidates = matches.usable & ~clips.disputed[matches.row]
    if not candidates.any():
        raise ValueError(
            f"{sounds.location}: {plural(len(sounds), 'sound file')}, no usable file for any clip in the tables. "
            "Name the files Y<id>.wav, <id>.flac, <id>_<start>_<end>.ogg or <segment_id>.mp3, in any subfolder."
        )
    # Matches are sorted by clip, so the lists only need their lengths.
    counts = np.bincount(matches.row[candidates], minlength=len(start))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, sounds.paths(matches.file[candidates]))


def _relative_paths(paths: pa.Array, location: str) -> pa.Array:
    """Make the paths in lists relative to the folder of sounds."""
    relative = pc.replace_substring_regex(paths, r"^\./", "")
    absolute = pc.starts_with(relative, f"{location}/")
    return pc.if_else(absolute, pc.utf8_slice_codeunits(relative, len(location) + 1), relative)


def _note_file_defects(matches: Matches, sounds: Inventory, clips: Clips) -> None:
    """Add the defects that names and sizes of files show, without opening them."""
    first = matches.first
    clip, file = matches.row[first], matches.file[first]
    counts = np.bincount(matches.row, minlength=len(clips.in_eval))
    note = clips.defects.add
    note(np.flatnonzero(counts == 0), "clip_missing")
    is_folder, usable = sounds.sizes[file] == FOLDER, matches.usable[first]
    small = ~usable & ~is_folder
    note(clip[is_folder], "clip_is_folder", None, sounds.paths(file[is_folder]))
    note(clip[small], "clip_too_small", sounds.sizes[file[small]].astype(float), sounds.paths(file[small]))
    misplaced = usable & matches.misplaced[first]
    note(clip[misplaced], "wrong_folder", None, sounds.paths(file[misplaced]))
    double = usable & (counts[clip] > 1)
    note(clip[double], "duplicate_file", counts[clip[double]] - 1.0, sounds.paths(file[double]))


def _note_unclaimed(matches: Matches, sounds: Inventory, defects: list[dict]) -> None:
    """Add a defect for each folder with files that belong to no clip."""
    folders, first, counts = np.unique(sounds.folder[matches.unclaimed], return_index=True, return_counts=True)
    for folder, begin, count in zip(folders, first, counts, strict=True):
        examples = matches.unclaimed[begin : begin + min(count, MAX_NAMED)]
        names = ", ".join(sounds.names.take(pa.array(examples)).to_pylist())
        detail = f"{sounds.folders[folder] or './'}: {names}" + (", ..." if count > MAX_NAMED else "")
        defects.append(make_defect("unclaimed_files", count, detail=detail))

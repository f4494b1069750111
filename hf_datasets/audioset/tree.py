"""Tables, lists and sounds together: every clip with the files that may be its sound, and what is already odd."""

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

from ..defects import make_defect
from ..raw_files import SYNTHETIC_MARKER, odd_name_defects
from .clips import Clips, join_clips
from .own_lists import read_lists
from .rows import Reading
from .sound_files import FOLDER, Inventory, Matches, Wanted, list_sounds, match_sounds
from .tables import find_tables, find_vocabulary

NAMED = 3  # files named where many are counted


@dataclass
class Tree:
    """All clips in the order of their tables; `table` has the columns of Clips.table, `files` and `defects`."""

    table: pa.Table
    in_eval: np.ndarray  # (clips,) bool
    labels: Labels
    ontology: Ontology | None
    target: list[str]  # MIDs
    reading: Reading
    defects: list[dict]  # of no clip
    digest: str
    size: int  # bytes of all that is read

    def cut(self, clips: np.ndarray, size: int) -> list[pa.Table]:
        """Tables of so many clips each, which own their memory: they are sent to other processes."""
        return [self.table.take(pa.array(clips[start : start + size])) for start in range(0, len(clips), size)]


def read_tree(
    raw_dir: str,
    audio_root: str | None,
    target: list[str],
    lists: dict[str, list[str]],
    check_audio: str = "headers",
    embed_audio: bool = False,
) -> Tree:
    """Read every table, list the sounds and say which clip has which. ValueError for what cannot be meant."""
    here = list_sounds(raw_dir, "folder that holds AudioSet's tables", "--raw_dir")
    own = read_lists(lists)
    tables = find_tables(here.others, own.paths)
    if not (tables.weak or tables.strong or own.lists):
        raise ValueError(
            f"--raw_dir {raw_dir} holds none of AudioSet's tables, such as balanced_train_segments.csv or "
            "audioset_train_strong.tsv; give their folder, or your own lists (--weak_paths ...)"
        )
    with ThreadPoolExecutor(1) as pool:
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
        defects.append(make_defect("audio_not_given", detail="no --audio_root, and no sounds below --raw_dir"))
        files = pa.nulls(len(clips.table), pa.list_(pa.string()))
    else:
        files = _find_files(clips, sounds, defects)
    defects += odd_name_defects(inventory.others for inventory in (here, sounds) if inventory is not None)
    markers = [path for path in here.others.files if PurePosixPath(path).name == SYNTHETIC_MARKER]
    location = None if sounds is None else sounds.location
    remote = location is not None and is_remote(location)
    reading = Reading(location, remote, check_audio, embed_audio and sounds is not None, bool(markers))
    if sounds is not None and not reading.opens:
        count = pc.sum(pc.greater(pc.list_value_length(files), 0)).as_py()
        detail = "they lie on S3" if remote and check_audio != "none" else "--check_audio none"
        defects.append(make_defect("not_opened", count, detail=detail))
    digest, size = here.others.digest(tables.paths() + markers)
    parts = [digest, own.digest, mids, check_audio, embed_audio, sounds and sounds.digest()]
    parts += [] if embed_audio else [location]  # rows hold paths
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    table = clips.table.append_column("files", files)
    table = table.append_column("defects", clips.defects.lists(len(table)))
    size += own.size + (int(sounds.sizes.clip(min=0).sum()) if reading.embed else 0)
    return Tree(table, clips.in_eval, labels, ontology, mids, reading, defects, digest, size)


def _find_files(clips: Clips, sounds: Inventory, defects: list[dict]) -> pa.ListArray:
    """Paths of the usable files of each clip, best first; ValueError when no clip has one."""
    start = clips.table["start_seconds"].fill_null(float("nan")).to_numpy()
    paths = None if clips.paths is None else _below(clips.paths, sounds.location)
    wanted = Wanted(clips.table["clip_id"].combine_chunks(), start, clips.subset, clips.part, paths)
    matches = match_sounds(sounds, wanted)
    _note_unclaimed(matches, sounds, defects)
    _note_files(matches, sounds, clips)
    kept = matches.usable & ~clips.disputed[matches.row]
    if not kept.any():
        what = f"{len(sounds)} sound files, none of a clip that the tables have" if len(sounds) else "no sound file"
        raise ValueError(
            f"{sounds.location} holds {what}: no clip can be used. Files are called Y<id>.wav, <id>.flac, "
            "<id>_<start>_<end>.ogg or <segment_id>.mp3, in any folder below it"
        )
    counts = np.bincount(matches.row[kept], minlength=len(start))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, sounds.paths(matches.file[kept]))


def _below(paths: pa.Array, location: str) -> pa.Array:
    """Paths of lists as they are below the folder of sounds."""
    inside = pc.replace_substring_regex(paths, r"^\./", "")
    absolute = pc.starts_with(inside, f"{location}/")
    return pc.if_else(absolute, pc.utf8_slice_codeunits(inside, len(location) + 1), inside)


def _note_files(matches: Matches, sounds: Inventory, clips: Clips) -> None:
    """What is odd about the clips' files, as far as names and sizes tell it."""
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
    """Count the files that belong to no clip, by folder."""
    folders, first, counts = np.unique(sounds.folder[matches.unclaimed], return_index=True, return_counts=True)
    for folder, begin, count in zip(folders, first, counts, strict=True):
        some = matches.unclaimed[begin : begin + min(count, NAMED)]
        names = ", ".join(sounds.names.take(pa.array(some)).to_pylist())
        detail = f"{sounds.folders[folder] or './'}: {names}" + (", ..." if count > NAMED else "")
        defects.append(make_defect("unclaimed_files", count, detail=detail))

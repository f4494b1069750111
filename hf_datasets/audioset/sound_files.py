"""List the sound files of clips once, parse their names, and match them to clips as whole columns.

    unbalanced_train_segments/unbalanced_train_segments_part07/Y--aE2O5G5WE.wav     from the downloader of PANNs
    -aE2O5G5WE0.flac                        the id alone, in any folder
    -aE2O5G5WE0_30.000_40.000.wav           the id, and start and end in the video (s); also with a leading Y
    -aE2O5G5WE0_30000.wav                   the segment_id of the strong tables

An id has 11 characters. It may begin with `-` and contain `_`, so its end is found by its length, never by a `_`.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from system.storage import S3FileManager, S3Object, is_remote, refuse_web_address

from ..raw_files import RawFolder, escaped, is_text

SUFFIXES = ("wav", "flac", "ogg", "opus", "mp3")  # in order of preference: wav is fastest to read, mp3 loses most
MIN_BYTES = 44  # a wav's header without any samples
# Id, start and end. PANNs' downloader puts a Y before the id.
NAME = r"^Y?(?P<ytid>[A-Za-z0-9_-]{11})(?:_(?P<start>\d+(?:\.\d+)?))?(?:_\d+(?:\.\d+)?)?$"
SUBSET_FOLDER = re.compile(r"(unbalanced_train|balanced_train|eval)_segments(?:_part(\d+))?")
SUBSETS = ("unbalanced_train", "balanced_train", "eval", "list")
START_TOLERANCE = 1.0  # s between the clip's start and the start in a file's name, which may be rounded
FOLDER = -1  # instead of a size in bytes: a folder with the name of a sound file


@dataclass(frozen=True)
class Inventory:
    """Sound files below a folder or URL, sorted by path, and all other files."""

    location: str
    folders: tuple[str, ...]  # below the location, each with its last /
    folder: np.ndarray  # (files,) int32, position in `folders`
    names: pa.Array  # (files,) strings
    sizes: np.ndarray  # (files,) int64, bytes; FOLDER for a folder of such a name
    other_files: RawFolder  # also has the names, of sounds too, that are not UTF-8

    def __len__(self) -> int:
        return len(self.names)

    @property
    def remote(self) -> bool:
        """Whether the location is a URL."""
        return is_remote(self.location)

    def paths(self, files: np.ndarray) -> pa.Array:
        """Return the paths, below the location, of the files with these numbers."""
        folders = pa.array(self.folders, pa.string()).take(pa.array(self.folder[files]))
        return pc.binary_join_element_wise(folders, self.names.take(pa.array(files)), "")

    def digest(self) -> str:
        """Return a digest of the files' relative paths and sizes; it does not depend on the location."""
        digest = hashlib.blake2b(digest_size=16)
        for number, folder in enumerate(self.folders):
            begin, end = np.searchsorted(self.folder, [number, number + 1])
            digest.update("\n".join([folder, *self.names[begin:end].to_pylist(), ""]).encode())
        digest.update(self.sizes.astype("<i8").tobytes())
        return digest.hexdigest()


def list_sounds(location: str, meant: str, option: str) -> Inventory:
    """List the sound files in a folder or URL, without hidden files.

    Args:
        location: a folder or s3:// URL.
        meant: which folder the user should give, for the ValueError if there is none.
        option: the option that gave the location, for the same message.
    """
    refuse_web_address(option, location)
    if is_remote(location):
        return _list_remote(location.rstrip("/"), option)
    if not Path(location).is_dir():
        problem = "is a file" if Path(location).exists() else "does not exist"
        raise ValueError(f"{option}={location}: {problem}. Give the {meant}.")
    if not is_text(location):
        raise ValueError(f"{option}={escaped(location)}: the path is not UTF-8. Rename the folder.")
    sounds: dict[str, tuple[list[str], list[int]]] = {}
    others: list[str] = []
    odd: list[str] = []
    pending, seen = [""], set()
    while pending:
        listing = _list_folder(location, pending.pop())
        if listing.inode not in seen:  # a symbolic link may lead back to a folder above it
            seen.add(listing.inode)
            sounds[listing.folder] = listing.names, listing.sizes
            others += listing.others
            odd += listing.odd_names
            pending += listing.folders
    location = location.rstrip("/") or "/"
    return _sorted_inventory(
        location, sounds, RawFolder(location, dict.fromkeys(sorted(others)), odd_names=sorted(odd))
    )


@dataclass(frozen=True)
class _Listing:
    """One folder: its sounds with their sizes in bytes, its other files, and its subfolders."""

    folder: str
    inode: tuple[int, int]
    names: list[str]
    sizes: list[int]
    others: list[str]
    folders: list[str]
    odd_names: list[str]  # escaped


def _list_folder(location: str, folder: str) -> _Listing:
    at = os.path.join(location, folder)
    status = os.stat(at)
    listing = _Listing(folder, (status.st_dev, status.st_ino), [], [], [], [], [])
    with os.scandir(at) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if not is_text(name):
                listing.odd_names.append(escaped(f"{folder}{name}"))
            elif name[name.rfind(".") + 1 :].lower() in SUFFIXES:
                listing.names.append(name)
                listing.sizes.append(_size(entry))
            elif entry.is_dir():
                listing.folders.append(f"{folder}{name}/")
            else:
                listing.others.append(f"{folder}{name}")
    return listing


def _size(entry: os.DirEntry) -> int:
    try:
        status = entry.stat()
    except OSError:  # a broken symbolic link, which is reported like an empty file
        return 0
    return FOLDER if stat.S_ISDIR(status.st_mode) else status.st_size


def _list_remote(location: str, option: str) -> Inventory:
    try:
        objects = S3FileManager.shared().list_objects(location)
    except OSError as error:
        raise ValueError(f"{option} {error}") from error
    sounds: dict[str, tuple[list[str], list[int]]] = {}
    others: dict[str, S3Object | None] = {}
    for file in objects:
        path = file.url[len(location) + 1 :]
        folder, slash, name = path.rpartition("/")
        if not name or path.startswith(".") or "/." in path:
            continue
        if name[name.rfind(".") + 1 :].lower() in SUFFIXES:
            names, sizes = sounds.setdefault(folder + slash, ([], []))
            names.append(name)
            sizes.append(file.size)
        else:
            others[path] = file
    return _sorted_inventory(location, sounds, RawFolder(location, dict(sorted(others.items()))))


def _sorted_inventory(location: str, sounds: dict[str, tuple[list[str], list[int]]], others: RawFolder) -> Inventory:
    """Sort the sounds by path; `sounds` (names and sizes by folder) is emptied to free memory."""
    folders = tuple(sorted(folder for folder, (names, _) in sounds.items() if names))
    # An empty first part, because concatenating needs at least one array.
    names, sizes = [pa.array([], pa.string())], [np.zeros(0, np.int64)]
    for folder in folders:
        folder_names, folder_sizes = sounds.pop(folder)
        folder_names = pa.array(folder_names, pa.string())
        order = pc.sort_indices(folder_names)
        names.append(folder_names.take(order))
        sizes.append(np.array(folder_sizes, np.int64)[order.to_numpy()])
    counts = [len(part) for part in names[1:]]
    folder = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
    return Inventory(location, folders, folder, pa.concat_arrays(names), np.concatenate(sizes), others)


@dataclass(frozen=True)
class Wanted:
    """The properties of clips that identify their files; columns (clips,)."""

    ids: pa.Array  # strings
    start_seconds: np.ndarray  # float64, NaN if unknown
    subset: np.ndarray  # int8, position in SUBSETS
    part: np.ndarray  # int16, -1 for none
    paths: pa.Array | None = None  # strings, null unless a list gives the file's path


@dataclass(frozen=True)
class Matches:
    """The files of each clip, best first.

    Order: usable files before folders and files that are too small, files in the expected folder before files in the
    folder of another subset or part, then by format in the order of SUFFIXES, then by path.
    """

    row: np.ndarray  # (matches,) int64, clip number, ascending
    file: np.ndarray  # (matches,) int64, position in the inventory
    usable: np.ndarray  # (matches,) bool
    misplaced: np.ndarray  # (matches,) bool
    unclaimed: np.ndarray  # (files without a clip,) int64, position in the inventory

    @property
    def first(self) -> np.ndarray:
        """Positions of each clip's best match (clips with a match,)."""
        return np.flatnonzero(np.diff(self.row, prepend=-1))


def match_sounds(inventory: Inventory, wanted: Wanted) -> Matches:
    """Match sound files to clips by id and start in the name, by the whole name, or by a path from a list."""
    stems = pc.replace_substring_regex(inventory.names, r"\.[^.]*$", "")
    suffixes = pc.utf8_lower(pc.replace_substring_regex(inventory.names, r"^.*\.", ""))
    parsed = pc.extract_regex(stems, NAME)
    rows = _positions(parsed.field("ytid") if len(parsed) else stems, wanted.ids, parsed.is_valid())
    if len(parsed):
        starts = pc.if_else(pc.equal(parsed.field("start"), ""), None, parsed.field("start")).cast(pa.float64())
        rows[_of_another_excerpt(starts.to_numpy(zero_copy_only=False), rows, wanted.start_seconds)] = -1
    by_stem = _positions(stems, wanted.ids, None)  # clips of the user's lists, whose id is the name of the file
    rows = np.where(by_stem >= 0, by_stem, rows)
    if wanted.paths is not None:
        by_path = _positions(inventory.paths(np.arange(len(inventory))), wanted.paths, None)
        # A clip with a path matches only the file at that path, not one of the same name in another folder.
        has_path = np.isin(rows, np.flatnonzero(wanted.paths.is_valid().to_numpy(zero_copy_only=False)))
        rows = np.where(by_path >= 0, by_path, np.where(has_path, -1, rows))
    usable = inventory.sizes >= MIN_BYTES
    subsets, parts = _folder_subsets(inventory)
    claimed = rows >= 0
    misplaced = np.zeros(len(rows), bool)
    of = rows[claimed]
    # Subset 3, `list`, has no folder of its own: its files may be anywhere.
    other_subset = (subsets[claimed] >= 0) & (subsets[claimed] != wanted.subset[of]) & (wanted.subset[of] < 3)
    other_part = (parts[claimed] >= 0) & (wanted.part[of] >= 0) & (parts[claimed] != wanted.part[of])
    misplaced[claimed] = other_subset | other_part
    files = np.flatnonzero(claimed)
    preference = pc.index_in(suffixes, value_set=pa.array(SUFFIXES)).to_numpy()
    order = files[np.lexsort((files, preference[files], misplaced[files], ~usable[files], rows[files]))]
    return Matches(rows[order], order, usable[order], misplaced[order], np.flatnonzero(~claimed))


def _positions(values: pa.Array, value_set: pa.Array, where: pa.Array | None) -> np.ndarray:
    """Return the position of each value in `value_set`, -1 if it is not in there or `where` (bool) is false."""
    positions = pc.index_in(values, value_set=value_set, skip_nulls=True)
    if where is not None:
        positions = pc.if_else(where, positions, None)
    return positions.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _of_another_excerpt(starts: np.ndarray, rows: np.ndarray, start_seconds: np.ndarray) -> np.ndarray:
    """Return the files (files,) bool whose names have a start that is not their clip's."""
    expected = np.where(rows >= 0, start_seconds[rows], np.nan)
    with np.errstate(invalid="ignore"):  # NaN: the name or the clip has no start
        # A name does not say its unit: segment ids have milliseconds, other names seconds. Either may fit.
        differs = (np.abs(starts - expected) > START_TOLERANCE) & (np.abs(starts / 1e3 - expected) > START_TOLERANCE)
    return differs


def _folder_subsets(inventory: Inventory) -> tuple[np.ndarray, np.ndarray]:
    """Return subset and part by the name of each file's folder (files,), -1 for folders of another name."""
    subsets = np.full(len(inventory.folders), -1, np.int8)
    parts = np.full(len(inventory.folders), -1, np.int16)
    for number, folder in enumerate(inventory.folders):
        for piece in folder.split("/"):
            if match := SUBSET_FOLDER.fullmatch(piece):
                subsets[number] = SUBSETS.index(match[1])
                parts[number] = -1 if match[2] is None else int(match[2])
    return subsets[inventory.folder], parts[inventory.folder]

"""The sound files of clips where they lie: listed once, told by their names, and matched to clips as whole columns.

    unbalanced_train_segments/unbalanced_train_segments_part07/Y--aE2O5G5WE.wav     as PANNs' downloader leaves them
    -aE2O5G5WE0.flac                        the id alone, in any folder
    -aE2O5G5WE0_30.000_40.000.wav           the id and its seconds in the video, also with Y before it
    -aE2O5G5WE0_30000.wav                   the segment_id of the strong tables

Ids have 11 characters, may begin with `-` and hold `_`; where an id ends is told by its length, never by a `_`.
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

SUFFIXES = ("wav", "flac", "ogg", "opus", "mp3")  # in order of preference: a wav is read fastest, an mp3 lost most
SMALLEST = 44  # bytes, of a wav's header alone
NAME = r"^Y?(?P<ytid>[A-Za-z0-9_-]{11})(?:_(?P<start>\d+(?:\.\d+)?))?(?:_\d+(?:\.\d+)?)?$"
PLACE = re.compile(r"(unbalanced_train|balanced_train|eval)_segments(?:_part(\d+))?")
SUBSETS = ("unbalanced_train", "balanced_train", "eval", "list")
START_TOLERANCE = 1.0  # s between the start in a file's name, which may be rounded, and the clip's
FOLDER = -1  # in place of the bytes of a folder that has a sound file's name


@dataclass(frozen=True)
class Inventory:
    """Sound files below a folder or URL, sorted by path, and all other files."""

    location: str
    folders: tuple[str, ...]  # below the location, each with its last /
    folder: np.ndarray  # (files,) int32, position in `folders`
    names: pa.Array  # (files,) strings
    sizes: np.ndarray  # (files,) int64, bytes; FOLDER for a folder of such a name
    others: RawFolder  # which has the odd names of the sounds too

    def __len__(self) -> int:
        return len(self.names)

    @property
    def remote(self) -> bool:
        """Whether it is a URL."""
        return is_remote(self.location)

    def paths(self, which: np.ndarray) -> pa.Array:
        """Paths below the location of some files, by number."""
        folders = pa.array(self.folders, pa.string()).take(pa.array(self.folder[which]))
        return pc.binary_join_element_wise(folders, self.names.take(pa.array(which)), "")

    def digest(self) -> str:
        """A digest of the files' paths and sizes, the same wherever they lie."""
        digest = hashlib.blake2b(digest_size=16)
        for number, folder in enumerate(self.folders):
            begin, end = np.searchsorted(self.folder, [number, number + 1])
            digest.update("\n".join([folder, *self.names[begin:end].to_pylist(), ""]).encode())
        digest.update(self.sizes.astype("<i8").tobytes())
        return digest.hexdigest()


def list_sounds(location: str, meant: str, option: str) -> Inventory:
    """List a folder or URL; ValueError when there is none. Hidden files are left out."""
    refuse_web_address(option, location)
    if is_remote(location):
        return _list_remote(location.rstrip("/"), option)
    if not Path(location).is_dir():
        what = "is a file; give the" if Path(location).exists() else "does not exist; give the"
        raise ValueError(f"{option} {location} {what} {meant}")
    if not is_text(location):
        raise ValueError(f"{option} {escaped(location)}: the path is not UTF-8; rename the folder")
    found: dict[str, tuple[list[str], list[int]]] = {}
    others: list[str] = []
    odd: list[str] = []
    coming, seen = [""], set()
    while coming:
        listing = _list_folder(location, coming.pop())
        if listing.inode not in seen:  # else a link led back here
            seen.add(listing.inode)
            found[listing.folder] = listing.names, listing.sizes
            others += listing.others
            odd += listing.odd_names
            coming += listing.folders
    location = location.rstrip("/") or "/"
    return _sorted_inventory(
        location, found, RawFolder(location, dict.fromkeys(sorted(others)), odd_names=sorted(odd))
    )


@dataclass(frozen=True)
class _Listing:
    """One folder: its sounds with their bytes, other files, and the folders in it."""

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
    except OSError:  # a link to nowhere
        return 0
    return FOLDER if stat.S_ISDIR(status.st_mode) else status.st_size


def _list_remote(location: str, option: str) -> Inventory:
    try:
        objects = S3FileManager.shared().list_objects(location)
    except OSError as error:
        raise ValueError(f"{option} {error}") from error
    found: dict[str, tuple[list[str], list[int]]] = {}
    others: dict[str, S3Object | None] = {}
    for file in objects:
        path = file.url[len(location) + 1 :]
        folder, slash, name = path.rpartition("/")
        if not name or path.startswith(".") or "/." in path:
            continue
        if name[name.rfind(".") + 1 :].lower() in SUFFIXES:
            names, sizes = found.setdefault(folder + slash, ([], []))
            names.append(name)
            sizes.append(file.size)
        else:
            others[path] = file
    return _sorted_inventory(location, found, RawFolder(location, dict(sorted(others.items()))))


def _sorted_inventory(location: str, found: dict[str, tuple[list[str], list[int]]], others: RawFolder) -> Inventory:
    folders = tuple(sorted(folder for folder, (names, _) in found.items() if names))
    names, sizes = [pa.array([], pa.string())], [np.zeros(0, np.int64)]
    for folder in folders:
        own, own_sizes = found.pop(folder)
        own = pa.array(own, pa.string())
        order = pc.sort_indices(own)
        names.append(own.take(order))
        sizes.append(np.array(own_sizes, np.int64)[order.to_numpy()])
    counts = [len(part) for part in names[1:]]
    folder = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
    return Inventory(location, folders, folder, pa.concat_arrays(names), np.concatenate(sizes), others)


@dataclass(frozen=True)
class Wanted:
    """What a clip's file is told by; columns (clips,)."""

    ids: pa.Array  # strings
    start_seconds: np.ndarray  # float64, NaN where not known
    subset: np.ndarray  # int8, position in SUBSETS
    part: np.ndarray  # int16, -1 for none
    paths: pa.Array | None = None  # strings or null, where a list names the file itself


@dataclass(frozen=True)
class Matches:
    """Which files belong to which clip, best first, and what is odd about it.

    Usable files come before such as are too small or folders; then those that lie where the tables say before those in
    another subset's or part's folder; then by format in the order of SUFFIXES; then by path.
    """

    row: np.ndarray  # (matches,) int64, of the clip, ascending
    file: np.ndarray  # (matches,) int64, in the inventory
    usable: np.ndarray  # (matches,) bool
    misplaced: np.ndarray  # (matches,) bool
    unclaimed: np.ndarray  # (files without a clip,) int64

    @property
    def first(self) -> np.ndarray:
        """Positions of each clip's best match (clips with one,)."""
        return np.flatnonzero(np.diff(self.row, prepend=-1))


def match_sounds(inventory: Inventory, wanted: Wanted) -> Matches:
    """Which file belongs to which clip."""
    stems = pc.replace_substring_regex(inventory.names, r"\.[^.]*$", "")
    suffixes = pc.utf8_lower(pc.replace_substring_regex(inventory.names, r"^.*\.", ""))
    told = pc.extract_regex(stems, NAME)
    rows = _positions(told.field("ytid") if len(told) else stems, wanted.ids, told.is_valid())
    if len(told):
        starts = pc.if_else(pc.equal(told.field("start"), ""), None, told.field("start")).cast(pa.float64())
        rows[_of_another_excerpt(starts.to_numpy(zero_copy_only=False), rows, wanted.start_seconds)] = -1
    by_stem = _positions(stems, wanted.ids, None)  # ids of people's own lists
    rows = np.where(by_stem >= 0, by_stem, rows)
    if wanted.paths is not None:
        named = _positions(inventory.paths(np.arange(len(inventory))), wanted.paths, None)
        theirs = np.isin(rows, np.flatnonzero(wanted.paths.is_valid().to_numpy(zero_copy_only=False)))
        rows = np.where(named >= 0, named, np.where(theirs, -1, rows))
    usable = inventory.sizes >= SMALLEST
    subsets, parts = _claimed_places(inventory)
    claimed = rows >= 0
    misplaced = np.zeros(len(rows), bool)
    of = rows[claimed]
    other_subset = (subsets[claimed] >= 0) & (subsets[claimed] != wanted.subset[of]) & (wanted.subset[of] < 3)
    other_part = (parts[claimed] >= 0) & (wanted.part[of] >= 0) & (parts[claimed] != wanted.part[of])
    misplaced[claimed] = other_subset | other_part
    files = np.flatnonzero(claimed)
    preference = pc.index_in(suffixes, value_set=pa.array(SUFFIXES)).to_numpy()
    order = files[np.lexsort((files, preference[files], misplaced[files], ~usable[files], rows[files]))]
    return Matches(rows[order], order, usable[order], misplaced[order], np.flatnonzero(~claimed))


def _positions(values: pa.Array, among: pa.Array, where: pa.Array | None) -> np.ndarray:
    """Where each value stands among others, -1 for nowhere; only those `where` says so are looked up."""
    found = pc.index_in(values, value_set=among, skip_nulls=True)
    if where is not None:
        found = pc.if_else(where, found, None)
    return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _of_another_excerpt(starts: np.ndarray, rows: np.ndarray, start_seconds: np.ndarray) -> np.ndarray:
    """Files whose names hold another start than their clip's, in seconds or, as segment ids do, milliseconds."""
    expected = np.where(rows >= 0, start_seconds[rows], np.nan)
    with np.errstate(invalid="ignore"):
        differs = (np.abs(starts - expected) > START_TOLERANCE) & (np.abs(starts / 1e3 - expected) > START_TOLERANCE)
    return differs


def _claimed_places(inventory: Inventory) -> tuple[np.ndarray, np.ndarray]:
    """Subset and part that each file's folder stands for (files,), -1 where its name says nothing."""
    subsets = np.full(len(inventory.folders), -1, np.int8)
    parts = np.full(len(inventory.folders), -1, np.int16)
    for number, folder in enumerate(inventory.folders):
        for piece in folder.split("/"):
            if match := PLACE.fullmatch(piece):
                subsets[number] = SUBSETS.index(match[1])
                parts[number] = -1 if match[2] is None else int(match[2])
    return subsets[inventory.folder], parts[inventory.folder]

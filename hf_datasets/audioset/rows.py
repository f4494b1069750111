"""The rows of one shard: which of a clip's files is used, and what its header or its sound says.

Runs in the workers of `prepare`. Nothing here loops over rows but the opening of files.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile

from media.audio import ID3_HEADER, LENGTH_TAG_REACH, UNKNOWN_LENGTH, AudioError, read_audio
from media.quiet_decoder import without_decoder_messages
from system.storage import S3FileManager

from ..raw_files import FetchError
from .clips import defect_array, defect_lists

CHECKS = ("headers", "decode", "none")
TOLERANCE = 0.5  # s that a file may be longer or shorter than its excerpt
AHEAD = 8  # files that are fetched while one is read


@dataclass(frozen=True)
class Reading:
    """Where the sounds lie (None: nowhere) and what is done with them.

    Attributes:
        check: "headers" opens each file and reads its header, "decode" its whole sound, "none" opens nothing. Files on
            S3 are opened only to decode or embed them.
        embed: put the files' bytes into the rows, in place of their paths.
    """

    location: str | None
    remote: bool
    check: str
    embed: bool
    synthetic: bool

    @property
    def opens(self) -> bool:
        """Whether files are opened at all."""
        if self.location is None:
            return False
        return self.embed or self.check == "decode" or (self.check == "headers" and not self.remote)


def read_clips(clips: pa.Table, reading: Reading, schema: pa.Schema) -> pa.Table:
    """Finished rows of a table of clips.

    `clips` has the columns of Clips.table, `files` (list of paths below the location, best first) and `defects`.
    """
    files, defects = clips["files"].combine_chunks(), clips["defects"].combine_chunks()
    seconds = np.full(len(clips), np.nan, np.float32)
    data: list[bytes | None] | None = None
    if reading.opens:
        paths, seconds, data, found = _open_all(clips, reading)
        defects = _with_defects(defects, found)
    else:
        paths = pc.list_element(pc.if_else(pc.greater(pc.list_value_length(files), 0), files, pa.scalar([""])), 0)
        paths = pc.if_else(pc.equal(paths, ""), None, paths)
        if reading.location is not None:
            paths = pc.binary_join_element_wise(reading.location, paths, "/")
    blobs = pa.nulls(len(clips), pa.binary()) if data is None else pa.array(data, pa.binary())
    audio = pa.StructArray.from_arrays([blobs, paths], ["bytes", "path"], mask=paths.is_null())
    columns = {name: clips[name] for name in clips.column_names if name not in ("files", "defects", "usable")}
    columns |= {
        "audio": audio,
        "audio_seconds": pa.array(seconds, mask=np.isnan(seconds)),
        "defects": defects,
        "synthetic": pa.repeat(reading.synthetic, len(clips)),
    }
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


def _open_all(
    clips: pa.Table, reading: Reading
) -> tuple[pa.Array, np.ndarray, list[bytes | None] | None, list[tuple[int, str, float, str]]]:
    """Path, seconds and, where embedded, bytes of each clip's file; and what is wrong: row, kind, how much, detail."""
    paths: list[str | None] = [None] * len(clips)
    seconds = np.full(len(clips), np.nan, np.float32)
    data: list[bytes | None] | None = [None] * len(clips) if reading.embed else None
    found: list[tuple[int, str, float, str]] = []
    files = clips["files"].to_pylist()
    excerpts = pc.subtract(clips["end_seconds"], clips["start_seconds"]).to_pylist()
    for row, candidates in enumerate(files):
        if reading.remote:
            coming = files[row : row + AHEAD + 1]
            S3FileManager.shared().prefetch_files(f"{reading.location}/{one[0]}" for one in coming if one)
        for name in candidates or ():
            path = f"{reading.location}/{name}"
            try:
                content, length = _open(path, reading)
            except _Unreadable as error:
                found.append((row, "clip_unreadable", error.size, f"{name}: {error}"))
                continue
            if excerpts[row] is not None and length is not None and abs(length - excerpts[row]) > TOLERANCE:
                longer = length > excerpts[row]
                kind = "clip_too_long" if longer else "clip_too_short"
                found.append((row, kind, abs(length - excerpts[row]), name))
                if longer:
                    continue
            seconds[row] = np.nan if length is None else length
            paths[row] = PurePosixPath(name).name if reading.embed else path
            if data is not None:
                data[row] = content
            break
    return pa.array(paths, pa.string()), seconds, data, found


class _Unreadable(Exception):
    """A file that is no sound, with its bytes."""

    def __init__(self, why: str, size: int) -> None:
        super().__init__(why)
        self.size = size


def _open(path: str, reading: Reading) -> tuple[bytes | None, float | None]:
    """A file's content, where it was read whole, and its length in s."""
    content, size = None, 0
    try:
        if reading.remote:
            content = _fetch(path)
        elif reading.embed:
            content = Path(path).read_bytes()
        size = os.stat(path).st_size if content is None else len(content)
        return content, _seconds_of(path if content is None else content, reading.check)
    except (AudioError, OSError, soundfile.LibsndfileError) as error:
        raise _Unreadable(_reason(error), size) from None


def _seconds_of(source: str | bytes, check: str) -> float | None:
    """Length in s, as far as it is looked at."""
    if check == "none":
        return None
    if check == "headers":
        with without_decoder_messages():
            header = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else source)
        if 0 < header.frames < UNKNOWN_LENGTH:
            share = _share_there(source) if header.format == "MP3" else 1.0
            return header.frames / header.samplerate * share
    samples, rate = read_audio(source, name="it")
    return len(samples) / rate


def _share_there(mp3: str | bytes) -> float:
    """How much of the bytes that its length tag announces an mp3 has; its frames are announced in the same way."""
    with io.BytesIO(mp3) if isinstance(mp3, bytes) else open(mp3, "rb") as file:
        head = file.read(ID3_HEADER)
        if head.startswith(b"ID3"):  # seven bits of its length in each of four bytes
            file.seek(sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)) + ID3_HEADER)
        else:
            file.seek(0)
        begin = file.tell()
        frame = file.read(LENGTH_TAG_REACH + 16)
        size = file.seek(0, os.SEEK_END) - begin
    place = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags = int.from_bytes(frame[place + 4 : place + 8]) if 0 <= place < LENGTH_TAG_REACH else 0
    at = place + 8 + 4 * (flags & 1)  # after the number of frames, where that is told
    announced = int.from_bytes(frame[at : at + 4]) if flags & 2 else 0
    return min(size / announced, 1.0) if announced else 1.0


def _fetch(url: str) -> bytes:
    try:
        return S3FileManager.shared().read_bytes(url)
    except OSError as error:  # nothing is wrong with the clip: no row may say so
        raise FetchError(f"{error}; finished work is kept, run this again when it can be read") from error


def _reason(error: Exception) -> str:
    """What an error says, without the file's path, which stands before it."""
    if isinstance(error, soundfile.LibsndfileError):  # which says that an mp3 without a frame "does not exist"
        return "its header is that of no sound"
    return (error.strerror if isinstance(error, OSError) else str(error).removeprefix("it: ")) or type(error).__name__


def _with_defects(known: pa.ListArray, found: list[tuple[int, str, float, str]]) -> pa.ListArray:
    """The column `defects` with what was found on opening, after what was known."""
    if not found:
        return known
    rows = [pc.list_parent_indices(known).to_numpy().astype(np.int64), np.array([row for row, *_ in found], np.int64)]
    new = [defect_array(1, what, np.array([how_much]), pa.array([detail])) for _, what, how_much, detail in found]
    return defect_lists(np.concatenate(rows), pa.concat_arrays([known.flatten(), *new]), len(known))

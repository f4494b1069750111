"""Make the rows of one shard: choose each clip's file and check its header or its whole sound.

Runs in the workers of `prepare`. Only opening files loops over rows; everything else works on whole columns.
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
TOLERANCE = 0.5  # s; a file's length may differ this much from its excerpt's (mp3 encoders pad)
PREFETCHED = 8  # remote files being fetched while one is read


@dataclass(frozen=True)
class Reading:
    """How to read the sounds.

    Attributes:
        location: folder or URL of the sounds; None if there are none.
        remote: whether `location` is a URL.
        check: "headers" reads each file's header, "decode" its whole sound, "none" opens nothing. Files on S3 are
            opened only to decode or embed them.
        embed: put the files' bytes into the rows instead of their paths.
        synthetic: value of the column `synthetic`.
    """

    location: str | None
    remote: bool
    check: str
    embed: bool
    synthetic: bool

    @property
    def opens(self) -> bool:
        """Whether sound files are opened."""
        if self.location is None:
            return False
        # Reading two million headers from S3 would cost one request per file, so names and sizes have to do.
        return self.embed or self.check == "decode" or (self.check == "headers" and not self.remote)


def read_clips(clips: pa.Table, reading: Reading, schema: pa.Schema) -> pa.Table:
    """Return the finished rows of a table of clips.

    Args:
        clips: the columns of Clips.table, `files` (paths below the location, best first) and `defects`.
        reading: how to read the sounds.
        schema: columns of the result.
    """
    files, defects = clips["files"].combine_chunks(), clips["defects"].combine_chunks()
    seconds = np.full(len(clips), np.nan, np.float32)
    data: list[bytes | None] | None = None
    if reading.opens:
        paths, seconds, data, new_defects = _open_all(clips, reading)
        defects = _with_defects(defects, new_defects)
    else:
        # list_element fails on an empty list, so clips without a file get a placeholder.
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
    """Open each clip's files until one is usable.

    Returns path, length in s and (if embedded) bytes of each clip's file, and defects: row, kind, how much, detail.
    """
    paths: list[str | None] = [None] * len(clips)
    seconds = np.full(len(clips), np.nan, np.float32)
    data: list[bytes | None] | None = [None] * len(clips) if reading.embed else None
    defects: list[tuple[int, str, float, str]] = []
    files = clips["files"].to_pylist()
    excerpts = pc.subtract(clips["end_seconds"], clips["start_seconds"]).to_pylist()  # lengths, s; None if unknown
    for row, candidates in enumerate(files):
        if reading.remote:
            upcoming = files[row : row + PREFETCHED + 1]
            S3FileManager.shared().prefetch_files(f"{reading.location}/{names[0]}" for names in upcoming if names)
        for name in candidates or ():
            path = f"{reading.location}/{name}"
            try:
                content, length = _open(path, reading)
            except _Unreadable as error:
                defects.append((row, "clip_unreadable", error.size, f"{name}: {error}"))
                continue
            if excerpts[row] is not None and length is not None and abs(length - excerpts[row]) > TOLERANCE:
                longer = length > excerpts[row]
                kind = "clip_too_long" if longer else "clip_too_short"
                defects.append((row, kind, abs(length - excerpts[row]), name))
                # A longer file is probably another excerpt or the whole video, where the labels' times are wrong. A
                # shorter one was cut off: its beginning is right.
                if longer:
                    continue
            seconds[row] = np.nan if length is None else length
            paths[row] = PurePosixPath(name).name if reading.embed else path
            if data is not None:
                data[row] = content
            break
    return pa.array(paths, pa.string()), seconds, data, defects


class _Unreadable(Exception):
    """A file that is not a sound, and its size in bytes."""

    def __init__(self, reason: str, size: int) -> None:
        super().__init__(reason)
        self.size = size


def _open(path: str, reading: Reading) -> tuple[bytes | None, float | None]:
    """Return a file's content (None if only its header was read) and its length in s (None if unknown)."""
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
    """Return the length in s by the header or by decoding; None if nothing is checked."""
    if check == "none":
        return None
    if check == "headers":
        with without_decoder_messages():
            header = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else source)
        # A streamed flac, for example, has no length in its header and has to be decoded.
        if 0 < header.frames < UNKNOWN_LENGTH:
            share = _complete_share(source) if header.format == "MP3" else 1.0
            return header.frames / header.samplerate * share
    samples, rate = read_audio(source, name="it")
    return len(samples) / rate


def _complete_share(mp3: str | bytes) -> float:
    """Return the share (0 to 1) of an mp3 that is there, compared with the number of bytes in its length tag."""
    # The header of an mp3 gives the number of frames of the complete file, even if the file was cut off.
    with io.BytesIO(mp3) if isinstance(mp3, bytes) else open(mp3, "rb") as file:
        head = file.read(ID3_HEADER)
        if head.startswith(b"ID3"):  # the tag's length is four bytes of seven bits each
            file.seek(sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)) + ID3_HEADER)
        else:
            file.seek(0)
        begin = file.tell()
        frame = file.read(LENGTH_TAG_REACH + 16)
        size = file.seek(0, os.SEEK_END) - begin
    # The length tag: "Xing" (variable rate) or "Info" (constant rate), 4 bytes of flags, then the number of frames if
    # flag 1 is set, and the number of bytes if flag 2 is set.
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags = int.from_bytes(frame[tag + 4 : tag + 8]) if 0 <= tag < LENGTH_TAG_REACH else 0
    at = tag + 8 + 4 * (flags & 1)
    total = int.from_bytes(frame[at : at + 4]) if flags & 2 else 0
    return min(size / total, 1.0) if total else 1.0


def _fetch(url: str) -> bytes:
    try:
        return S3FileManager.shared().read_bytes(url)
    except OSError as error:  # the network failed, not the clip: this must not become a defect of the row
        raise FetchError(f"{error}. Finished work is kept: run this again when the file can be read.") from error


def _reason(error: Exception) -> str:
    """Return an error's message without the file's path: the defect's detail already begins with it."""
    # libsndfile's own message is misleading: it says that an mp3 without a frame "does not exist".
    if isinstance(error, soundfile.LibsndfileError):
        return "its header is that of no sound"  # part of the committed sample's rows
    return (error.strerror if isinstance(error, OSError) else str(error).removeprefix("it: ")) or type(error).__name__


def _with_defects(earlier: pa.ListArray, new: list[tuple[int, str, float, str]]) -> pa.ListArray:
    """Append new defects, (row, kind, how much, detail), to the column `defects`."""
    if not new:
        return earlier
    rows = [pc.list_parent_indices(earlier).to_numpy().astype(np.int64), np.array([row for row, *_ in new], np.int64)]
    added = [defect_array(1, what, np.array([how_much]), pa.array([detail])) for _, what, how_much, detail in new]
    return defect_lists(np.concatenate(rows), pa.concat_arrays([earlier.flatten(), *added]), len(earlier))

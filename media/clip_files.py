"""Open clip files with PyAV, with one-line errors, and read their headers."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition

Source = str | Path | bytes | BinaryIO

# Containers that FFmpeg may open. Without this list it would render a text file as a video, and open the files and
# addresses named in a playlist.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,wav,mp3,aac,flac"
KINDS = "mp4, mov, mkv, webm, avi, mpg, ts or flv"


@dataclass(frozen=True)
class Orientation:
    """How to rotate a stored frame upright: swap x and y or not, then mirror y, x or both."""

    sideways: bool = False
    mirror_y: bool = False
    mirror_x: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """Read a frame's display matrix. The angle is rounded to a multiple of 90 degrees."""
        tag = frame.side_data.get("DISPLAYMATRIX")
        if tag is None:
            return cls()
        (x_by_x, y_by_x, _), (x_by_y, y_by_y, _), _ = np.frombuffer(tag, np.int32).reshape(3, 3).tolist()
        if abs(x_by_y) > abs(x_by_x):
            return cls(True, y_by_x < 0, x_by_y < 0)
        return cls(False, y_by_y < 0, x_by_x < 0)

    def swap(self, size: tuple[int, int]) -> tuple[int, int]:
        """Convert the (height, width) of a stored frame to that of the upright frame, or back."""
        return size[::-1] if self.sideways else size

    def turn(self, image: np.ndarray) -> np.ndarray:
        """Rotate a stored image (H, W, 3) upright."""
        image = image.swapaxes(0, 1) if self.sideways else image
        return image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


class VideoError(ValueError):
    """A clip that cannot be read. The message is one line with the clip, the problem and a remedy."""


def describe(source: Source, name: str | None) -> str:
    """Return the name of a source for errors."""
    if name:
        return name
    if isinstance(source, bytes):
        return f"clip of {len(source)} bytes"
    return str(source if isinstance(source, str | Path) else getattr(source, "name", "clip of a file object"))


@contextlib.contextmanager
def opened_clip(source: Source, where: str) -> Iterator[InputContainer]:
    """Open the container of a source. FFmpeg's errors inside the block become `VideoError`."""
    file, start = _file_and_start(source, where)
    if not start:
        raise VideoError(f"{where}: is empty (0 bytes). Fetch it again or leave it out.")
    try:
        with av.open(file, metadata_errors="replace", options={"format_whitelist": CONTAINERS}) as container:
            yield container
    except av.error.FFmpegError as error:
        # An mp4 without its index is typical of an interrupted download or recording, so it gets its own message.
        if start[4:8] == b"ftyp" and isinstance(error, av.error.InvalidDataError):
            problem = "mp4 without its index (no moov atom), truncated or never finished. Fetch it again"
        else:
            problem = f"not a readable clip ({error.strerror}). Give one {KINDS} file"
        raise VideoError(f"{where}: {problem}, or leave it out.") from None


def _file_and_start(source: Source, where: str) -> tuple[str | BinaryIO, bytes]:
    """Return the argument for PyAV, and the first bytes of the file."""
    if isinstance(source, bytes):
        return BytesIO(source), source[:8]
    if isinstance(source, str | Path):
        try:
            with open(source, "rb") as file:
                # Without "file:", FFmpeg takes the part of a path before a colon for a protocol.
                return f"file:{source}", file.read(8)
        except FileNotFoundError:
            raise VideoError(f"{where}: no such file. Check the path.") from None
        except IsADirectoryError:
            raise VideoError(f"{where}: is a folder. Give one {KINDS} file.") from None
        except OSError as error:
            raise VideoError(f"{where}: cannot be opened ({error.strerror}). Check its permissions.") from None
    try:
        source.seek(0)
        start = source.read(8)
        source.seek(0)
    except (AttributeError, OSError, ValueError) as error:
        raise VideoError(f"{where}: not readable ({error}). Give a path, bytes, or an open binary file.") from None
    if not isinstance(start, bytes):
        raise VideoError(f"{where}: open as text. Open it as 'rb'.")
    return source, start


def find_streams(container: InputContainer, where: str) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """Return the video and the audio stream that a player would choose. Cover art is not video."""
    video, audio = container.streams.best("video"), container.streams.best("audio")
    if video and video.disposition & Disposition.attached_pic:
        video = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if not video and not audio:
        raise VideoError(f"{where}: has neither video nor audio. Leave it out.")
    for stream in filter(None, (video, audio)):
        if stream.codec_context is None:
            raise VideoError(f"{where}: no decoder for its {stream.type}. Convert it to H.264 and AAC.")
    return video, audio


def find_origin(container: InputContainer) -> float:
    """Return the start time of the earliest stream, in s of the file's own clock."""
    streams = [*container.streams.video, *container.streams.audio]
    return min((float(s.start_time * s.time_base) for s in streams if s.start_time is not None), default=0.0)


def announced_seconds(container: InputContainer, stream: av.stream.Stream) -> float | None:
    """Return the length of a stream in s from its header, or else that of the whole file."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def seek_to(container: InputContainer, stream: av.stream.Stream, seconds: float) -> None:
    """Seek to the keyframe before `seconds`. A file that does not support seeking is read from its start."""
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(int(seconds / stream.time_base), stream=stream, backward=True)


def decode_packet(packet: av.Packet) -> list[av.VideoFrame | av.AudioFrame] | None:
    """Decode the frames of a packet. Return None if it is damaged."""
    try:
        return None if packet.is_corrupt else packet.decode()
    except av.error.FFmpegError:
        return None

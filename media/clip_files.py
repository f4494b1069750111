"""Files that hold clips: opening them by PyAV, with one line that says what is wrong, and what their headers tell."""

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

# FFmpeg would read a text file as a film of letters, and a playlist as a wish to open what it names.
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,wav,mp3,aac,flac"
KINDS = "mp4, mov, mkv, webm, avi, mpg, ts or flv"


@dataclass(frozen=True)
class Orientation:
    """How a stored frame is put upright: x and y swapped or not, then mirrored in y, in x or in both."""

    sideways: bool = False
    mirror_y: bool = False
    mirror_x: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Orientation":
        """Read a frame's tag, the display matrix; an angle that is no multiple of 90 degrees is rounded to one."""
        tag = frame.side_data.get("DISPLAYMATRIX")
        if tag is None:
            return cls()
        (x_by_x, y_by_x, _), (x_by_y, y_by_y, _), _ = np.frombuffer(tag, np.int32).reshape(3, 3).tolist()
        if abs(x_by_y) > abs(x_by_x):
            return cls(True, y_by_x < 0, x_by_y < 0)
        return cls(False, y_by_y < 0, x_by_x < 0)

    def swap(self, size: tuple[int, int]) -> tuple[int, int]:
        """Turn the (height, width) of a stored frame into that of the upright one, or the other way."""
        return size[::-1] if self.sideways else size

    def turn(self, image: np.ndarray) -> np.ndarray:
        """Put a stored image (H, W, 3) upright."""
        image = image.swapaxes(0, 1) if self.sideways else image
        return image[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


class VideoError(ValueError):
    """A clip that cannot be read: the message is one line that names it, says what is wrong, and what to do."""


def describe(source: Source, name: str | None) -> str:
    """What an error calls a source."""
    if name:
        return name
    if isinstance(source, bytes):
        return f"clip of {len(source)} bytes"
    return str(source if isinstance(source, str | Path) else getattr(source, "name", "clip of a file object"))


@contextlib.contextmanager
def opened_clip(source: Source, where: str) -> Iterator[InputContainer]:
    """The container of a source; FFmpeg's errors within become `VideoError`."""
    file, start = _file_and_start(source, where)
    if not start:
        raise VideoError(f"{where}: is empty (0 bytes); fetch it again or leave it out")
    try:
        with av.open(file, metadata_errors="replace", options={"format_whitelist": CONTAINERS}) as container:
            yield container
    except av.error.FFmpegError as error:
        if start[4:8] == b"ftyp" and isinstance(error, av.error.InvalidDataError):
            said = "an mp4 without its index (no moov atom): cut off, or never finished; fetch it again"
        else:
            said = f"not a readable clip ({error.strerror}); give one {KINDS} file"
        raise VideoError(f"{where}: {said}, or leave it out") from None


def _file_and_start(source: Source, where: str) -> tuple[str | BinaryIO, bytes]:
    """What PyAV opens, and a file's first bytes."""
    if isinstance(source, bytes):
        return BytesIO(source), source[:8]
    if isinstance(source, str | Path):
        try:
            with open(source, "rb") as file:
                return f"file:{source}", file.read(8)  # else FFmpeg takes what stands before a colon for a protocol
        except FileNotFoundError:
            raise VideoError(f"{where}: no such file; check the path") from None
        except IsADirectoryError:
            raise VideoError(f"{where}: is a folder; give one {KINDS} file") from None
        except OSError as error:
            raise VideoError(f"{where}: cannot be opened ({error.strerror}); check its permissions") from None
    try:
        source.seek(0)
        start = source.read(8)
        source.seek(0)
    except (AttributeError, OSError, ValueError) as error:
        raise VideoError(f"{where}: cannot be read ({error}); give a path, bytes, or an open binary file") from None
    if not isinstance(start, bytes):
        raise VideoError(f"{where}: is open as text; open it as 'rb'")
    return source, start


def find_streams(container: InputContainer, where: str) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """The picture and the sound that a player would take; a cover is no picture."""
    picture, sound = container.streams.best("video"), container.streams.best("audio")
    if picture and picture.disposition & Disposition.attached_pic:
        picture = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if not picture and not sound:
        raise VideoError(f"{where}: has neither a picture nor a sound track; leave it out")
    for stream in filter(None, (picture, sound)):
        if stream.codec_context is None:
            raise VideoError(f"{where}: no decoder for its {stream.type}; convert it to H.264 and AAC")
    return picture, sound


def find_origin(container: InputContainer) -> float:
    """s at which the first of the streams starts, by its own count."""
    streams = [*container.streams.video, *container.streams.audio]
    return min((float(s.start_time * s.time_base) for s in streams if s.start_time is not None), default=0.0)


def announced_seconds(container: InputContainer, stream: av.stream.Stream) -> float | None:
    """Length of a stream by its header, or of the whole file where only that is told."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def seek_to(container: InputContainer, stream: av.stream.Stream, seconds: float) -> None:
    """Go to the keyframe before; a file that cannot be sought in is read from its beginning on."""
    with contextlib.suppress(av.error.FFmpegError):
        container.seek(int(seconds / stream.time_base), stream=stream, backward=True)


def decode_packet(packet: av.Packet) -> list[av.VideoFrame | av.AudioFrame] | None:
    """What a packet brings out of the decoder; None when it is damaged."""
    try:
        return None if packet.is_corrupt else packet.decode()
    except av.error.FFmpegError:
        return None

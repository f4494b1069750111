"""Read clips into arrays. PyAV decodes video and audio of a file in one pass, by time rather than by frame count.

Missing data are reported. A file that cannot be read raises `VideoError` with its name. A requested frame for a time
without video is False in `frame_mask`. A clip without an audio track has `audio = None`. How it works:

- Times are seconds from the file's start, independent of the offsets of its streams, so video and audio stay in sync.
- The frames' own time stamps decide which frame is shown at a time. The frame rate may vary or be announced wrong.
- Frames depend on each other, so every frame up to the last requested one is decoded, except frames on which no other
  depends. Only requested frames are converted, directly to the small size. This is most of the speed.
- A window deep in a long file needs one seek, to the keyframe before it.
- A damaged packet is skipped, with a logged warning. The frame before it stays, and the audio has a gap there, so that
  later data keep their time. A truncated file gives the data that exist.
- Frames are rotated as the file says. Phones store them as the sensor saw them, with a tag for the rotation.
"""

import bisect
import logging
import math
from collections import deque
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter

from media.clip_files import (
    Orientation,
    Source,
    VideoError,
    announced_seconds,
    decode_packet,
    describe,
    find_origin,
    find_streams,
    opened_clip,
    seek_to,
)
from media.clip_sound import LEAD, ClipSound

logger = logging.getLogger(__name__)

SAME_TIME = 1e-6  # s; tolerance when times are compared, for rounding of floats
DEEP = 2.0  # s into a file from which on seeking is faster than decoding
LOOKAHEAD = 16  # packets; H.264 and HEVC never reorder more frames than this
DROPPABLE = ("h264", "hevc")  # decoders that can skip frames on which no other depends, with identical other frames
# FULL_CHR_H_INT: without it, two pixels share one color, with errors of up to 5 of 255.
SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class ClipFacts:
    """Data from a clip's headers. None if the stream or the value is missing."""

    has_video: bool
    video_seconds: float | None
    audio_seconds: float | None
    frame_rate: float | None  # Hz, the average
    sampling_rate: int | None  # Hz
    channels: int | None


@dataclass(frozen=True)
class Clip:
    """Video frames and audio of one window."""

    frames: np.ndarray  # (N, H, W, 3) uint8 RGB; for a time without video the frame before it, or zeros
    frame_mask: np.ndarray  # (N,) bool, False if no frame was shown at the requested time
    frame_seconds: np.ndarray  # (N,) float64, requested times in s from the file's start
    audio: np.ndarray | None  # (samples,) float32 mono; None without an audio track or if not requested


def probe_clip(source: Source, name: str | None = None) -> ClipFacts:
    """Read a clip's lengths and rates from its headers, without decoding.

    Errors use `name`: bytes have no name, and a path may be that of a local copy.
    """
    where = describe(source, name)
    with opened_clip(source, where) as container:
        picture, sound = find_streams(container, where)
        frame_rate = picture and (picture.average_rate or picture.guessed_rate)
        return ClipFacts(
            has_video=picture is not None,
            video_seconds=picture and announced_seconds(container, picture),
            audio_seconds=sound and announced_seconds(container, sound),
            frame_rate=float(frame_rate) if frame_rate else None,
            sampling_rate=sound and sound.codec_context.sample_rate,
            channels=sound and sound.codec_context.channels,
        )


def read_clip(
    source: Source,
    *,
    num_frames: int = 16,
    size: tuple[int, int] | None = (128, 171),
    frame_rate: float | None = None,
    start: float = 0.0,
    seconds: float | None = None,
    audio_rate: int | None = None,
    name: str | None = None,
    max_audio_seconds: float | None = None,
) -> Clip:
    """Decode `num_frames` frames and all audio of a window, with one opening of the file.

    The window starts at `start` (s from the file's start) and has `seconds`. Without `seconds` it ends with the
    stream, separately for video and audio. A frame is shown from its own time stamp to that of the next one, the
    last frame until its duration ends. Times without a frame, or after the window, are False in the mask. They get the
    frame of the window before them (or the first one).

    Args:
        source: a path, a file's bytes, or a binary file object (read from its start, left open).
        num_frames: 0 for audio only.
        size: (height, width) to which upright frames are scaled, bilinear; None keeps the size.
        frame_rate: Hz. None takes the centers of `num_frames` equal parts of the window. With a rate the frames are
            1 / rate apart in the middle of the window, or from its start if it is too short.
        audio_rate: Hz; None for video only. Channels are mixed with full scale 1.0: stereo is averaged, like in
            `media.audio.read_audio`. Gaps and a late start are filled with silence, so that sample i is at
            start + i / audio_rate. If the audio ends early, the array is shorter.
        name: name of the clip in errors.
        max_audio_seconds: limit of the audio's length.

    >>> clip = read_clip("dia0_utt0.mp4", audio_rate=16000)
    >>> clip.frames.shape, clip.frame_mask.all(), clip.audio.shape
    ((16, 128, 171, 3), True, (65536,))
    """
    _check_arguments(num_frames, size, frame_rate, start, seconds, audio_rate, max_audio_seconds)
    where = describe(source, name)
    audio_seconds = min((limit for limit in (seconds, max_audio_seconds) if limit is not None), default=None)

    def read(seeking: bool, end: float | None = None) -> Clip | None:
        with opened_clip(source, where) as container:
            video, sound = find_streams(container, where)
            video, sound = video if num_frames else None, sound if audio_rate else None
            if not video and not sound:
                missing = " and no ".join(["video"] * bool(num_frames) + ["audio"] * bool(audio_rate))
                raise VideoError(f"{where}: has no {missing}. Read what it has, or leave it out.")
            origin = find_origin(container)
            first, end = (start, start + seconds) if seconds else _rest(container, video or sound, origin, start, end)
            if end is None and not video:
                end = first
            if end is None:  # the file was streamed without a length, so count its packets and start over
                return read(seeking, _last_end(container, video or sound, origin))
            times = frame_times(num_frames, first, end - first, frame_rate)
            pictures = _Pictures(video, times, end, size, origin) if video else None
            track = ClipSound(sound, start, audio_seconds, int(audio_rate), origin, where) if sound else None
            if seeking:
                seek_to(container, video or sound, (start if sound else times[0]) - LEAD + origin)
            _decode(container, pictures, track, where)
            if seeking and ((pictures and pictures.began_late) or (track and track.began_late)):
                return None
            frames, mask = pictures.finish() if pictures else no_pictures(num_frames, size or (0, 0))
            audio = track.finish() if track else None
        if not mask.any() and (audio is None or not len(audio)):
            raise VideoError(f"{where}: nothing decodes from {start:g} s on. Give an earlier start, or leave it out.")
        return Clip(frames, mask, times, audio)

    clip = read(seeking=True) if start >= DEEP else None
    # In a file without a proper index the seek may land after the window. Then decode all of it.
    return clip or read(seeking=False)


def frame_times(num_frames: int, start: float, seconds: float, frame_rate: float | None = None) -> np.ndarray:
    """Return the times (num_frames,) in s of the frames of a window, see `read_clip`.

    >>> frame_times(4, 10.0, 2.0).tolist(), frame_times(3, 10.0, 2.0, frame_rate=2.0).tolist()
    ([10.25, 10.75, 11.25, 11.75], [10.5, 11.0, 11.5])
    """
    if frame_rate is None:
        return start + (np.arange(num_frames) + 0.5) * (seconds / max(num_frames, 1))
    extent = (num_frames - 1) / frame_rate  # s from the first frame to the last
    return start + max((seconds - extent) / 2, 0.0) + np.arange(num_frames) / frame_rate


class _Pictures:
    """Take a stream's packets, decode as few as possible, and convert the frames shown at the requested times."""

    def __init__(self, stream: av.VideoStream, times: np.ndarray, end: float, size: tuple | None, origin: float):
        self.stream, self.codec, self.origin = stream, stream.codec_context, origin
        self.tick = float(stream.time_base)  # s
        self.size = size  # (height, width) when upright; None until the first frame is decoded
        self.codec.thread_count = 1
        self.by_order = stream.container.format.name == "avi"
        self.droppable = self.codec.name in DROPPABLE and not self.by_order
        self.inside = times < end - SAME_TIME
        self.times = (np.minimum(times, end - 2 * SAME_TIME) + SAME_TIME).tolist()  # show nothing after the window
        self.queue: deque[av.Packet] = deque()
        self.stamps: deque[int] = deque(maxlen=2 * LOOKAHEAD)  # time stamps of the last packets
        self.shown: av.VideoFrame | None = None
        self.shown_at = self.shown_until = -math.inf  # s
        self.first_at = math.inf  # s
        self.filled = 0  # number of requested times that have a frame
        self.images: list[np.ndarray] = []  # (H, W, 3) each, one for each time that has a frame
        self.real: list[bool] = []
        self.image: np.ndarray | None = None  # converted `shown`, or None until it is needed
        self.reformatter = VideoReformatter()
        self.first_dts: int | None = None  # dts of the first packet, used if `by_order`
        self.delay: int | None = None  # packets between a frame's packet and its output
        self.damaged = 0  # packets
        self.broken = False  # frames after `shown` are missing; later ones depend on them until the next keyframe

    @property
    def complete(self) -> bool:
        return self.filled == len(self.times)

    @property
    def began_late(self) -> bool:
        """Whether the first frame is after the first time: the seek went too far, or there is no earlier frame."""
        return self.first_at > self.times[0]

    def feed(self, packet: av.Packet) -> None:
        """Take the next packet in decoding order. The last one is empty."""
        if packet.size:
            self.queue.append(packet)
            if packet.pts is not None and not packet.is_discard:
                self.stamps.append(packet.pts)
        while self.queue and not self.complete and (len(self.queue) > LOOKAHEAD or not packet.size):
            head = self.queue.popleft()
            if self.droppable:
                self.codec.skip_frame = "DEFAULT" if self._is_wanted(head) else "NONREF"
            self._decode(head)
        if not packet.size and not self.complete:
            self._decode(packet)

    def _is_wanted(self, packet: av.Packet) -> bool:
        """Return whether the packet's frame is shown at a requested time."""
        pts = packet.pts
        if pts is None:
            return True
        index = bisect.bisect_left(self.times, self._seconds(pts))  # the first time at which it may be shown
        # Frames may be reordered, so a later frame may be unknown yet. That can only make the result True needlessly.
        later = min((stamp for stamp in self.stamps if stamp > pts), default=None)
        return index < len(self.times) and (later is None or self.times[index] < self._seconds(later))

    def _seconds(self, pts: int) -> float:
        return pts * self.tick - self.origin

    def _decode(self, packet: av.Packet) -> None:
        if self.first_dts is None:
            self.first_dts = packet.dts
        frames = decode_packet(packet)
        if frames is None:
            self.damaged, self.broken = self.damaged + 1, True
        for frame in frames or []:
            if frame.is_corrupt:
                self.damaged, self.broken = self.damaged + 1, True
            if self.broken and not frame.key_frame:
                continue
            begin = self._begin(frame)
            if not math.isfinite(begin):
                begin = 0.0  # the first frame of a stream without time stamps
            self.first_at = min(self.first_at, begin)
            self._settle(begin)
            self.shown, self.shown_at, self.image, self.broken = frame, begin, None, False
            length = frame.duration * self.tick
            self.shown_until = begin + (length or float(1 / (self.stream.average_rate or 25)))

    def _begin(self, frame: av.VideoFrame) -> float:
        # Packets of an avi have an order, but FFmpeg's time stamps for their frames are out of order.
        if self.by_order:
            if frame.dts is None:
                return self.shown_until
            if self.delay is None:
                self.delay = frame.dts - (self.first_dts or 0)
            return self._seconds(frame.dts - self.delay)
        return self.shown_until if frame.pts is None else self._seconds(frame.pts)

    def _settle(self, until: float) -> None:
        """Assign the shown frame to all open times before `until` (s)."""
        if self.shown is None:
            return
        while not self.complete and self.times[self.filled] < until:
            time = self.times[self.filled]
            if self.image is None:
                self.image = self._convert(self.shown)
            self.images.append(self.image)
            end = self.shown_until if self.broken else math.inf
            self.real.append(bool(self.inside[self.filled]) and self.shown_at <= time < end)
            self.filled += 1

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        orientation = Orientation.of(frame)
        self.size = self.size or orientation.swap((self.codec.height, self.codec.width))
        height, width = orientation.swap(self.size)  # of the stored frame
        small = self.reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
        return orientation.turn(small.to_ndarray())

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return frames (N, H, W, 3) and mask (N,)."""
        self.broken = self.broken or not self.complete  # the last frame ends after its own duration
        self._settle(math.inf)
        if not self.images:
            return no_pictures(len(self.times), self.size or (self.codec.height, self.codec.width))
        return np.stack(self.images), np.array(self.real)


def no_pictures(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return black frames (N, H, W, 3) and a mask (N,) of False."""
    return np.zeros((count, *size, 3), np.uint8), np.zeros(count, bool)


def _decode(container: InputContainer, pictures: _Pictures | None, track: ClipSound | None, where: str) -> None:
    """Feed packets to both readers until they are complete."""
    readers = {reader.stream.index: reader for reader in (pictures, track) if reader}
    try:
        for packet in container.demux([reader.stream for reader in readers.values()]):
            reader = readers[packet.stream.index]  # packet.stream_index is wrong in the empty packets at the end
            if not reader.complete:
                reader.feed(packet)
                if all(reader.complete for reader in readers.values()):
                    break
    except av.error.FFmpegError as error:
        logger.warning("%s: not readable to its end (%s). The part before is used.", where, error.strerror)
    if track:
        track.decode()
    for name, reader in (("video", pictures), ("audio", track)):
        if reader and reader.damaged:
            logger.warning("%s: skipped %d damaged packets of the %s.", where, reader.damaged, name)


def _check_arguments(
    num_frames: int,
    size: tuple[int, int] | None,
    frame_rate: float | None,
    start: float,
    seconds: float | None,
    audio_rate: int | None,
    max_audio_seconds: float | None,
) -> None:
    if num_frames < 0 or not (num_frames or audio_rate):
        raise ValueError(f"num_frames={num_frames}, audio_rate={audio_rate}: nothing to read. Give one above 0.")
    if audio_rate is not None and not (isinstance(audio_rate, int | np.integer) and audio_rate > 0):
        raise ValueError(f"audio_rate={audio_rate!r}: must be a positive integer. Give Hz, or None for video only.")
    if size is not None and not (len(size) == 2 and min(size) > 0):
        raise ValueError(f"size={size}: must be two numbers above 0. Give (height, width), or None to keep the size.")
    for name, value in (("frame_rate", frame_rate), ("seconds", seconds), ("max_audio_seconds", max_audio_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r}: must be above 0. Give a number, or None.")
    if not 0 <= start < math.inf:
        raise ValueError(f"start={start}: must be 0 or more. Give seconds.")


def _rest(
    container: InputContainer, stream: av.stream.Stream, origin: float, start: float, end: float | None
) -> tuple[float, float | None]:
    """Return start and end, in s, of the stream after `start`. The end is None if no header has it."""
    begin = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base) - origin
    first, length = max(start, begin), announced_seconds(container, stream)
    if end is None and length is not None:
        end = begin + length
    return first, None if end is None else max(end, first)


def _last_end(container: InputContainer, stream: av.stream.Stream, origin: float) -> float:
    """Return the end of the last frame in s, from all remaining packets."""
    stamps = [(p.pts + (p.duration or 0)) * stream.time_base for p in container.demux(stream) if p.pts is not None]
    return float(max(stamps, default=origin)) - origin

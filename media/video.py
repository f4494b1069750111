"""Clips to arrays: PyAV decodes picture and sound of one file in one pass, by time and not by frame count.

The rule of this file is that what a clip lacks is said. A file that cannot be read raises `VideoError`, which names
it; a picture that was asked for where the stream has none is marked in `frame_mask`, and a clip without a sound track
has `audio = None`. How it works:

- Times are seconds from the file's start, whatever its streams count from, so picture and sound stay together.
- Which picture is shown at a time is told by the frames' own time stamps; the rate may vary or be announced wrong.
- Every frame up to the last wanted one has to be decoded, as frames build on each other, but for those on which none
  builds; only wanted frames are converted, and to the small size at once. That is most of the speed.
- A window deep in a long file is reached by one seek to the keyframe before it.
- A damaged packet is left out, with a logged warning: the picture before it stays, and the sound has a gap there, so
  that what follows keeps its time. A file that is cut off gives what is there.
- Frames are turned as their file says: a phone stores them as its sensor saw them, with a tag that puts them upright.
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

SAME_TIME = 1e-6  # s by which a time may lie before a frame that is shown at it: float's rounding
DEEP = 2.0  # s into a file from which on seeking is worth its while
LOOKAHEAD = 16  # packets; H.264 and HEVC reorder no more frames than these
DROPPABLE = ("h264", "hevc")  # their decoders leave out a frame on which no other builds without a change to the rest
SCALING = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT  # without: a colour for two pixels, off by 5 of 255


@dataclass(frozen=True)
class ClipFacts:
    """What a clip's headers say; None where there is no such stream, or where the headers do not tell."""

    has_video: bool
    video_seconds: float | None
    audio_seconds: float | None
    frame_rate: float | None  # Hz, the average
    sampling_rate: int | None  # Hz
    channels: int | None


@dataclass(frozen=True)
class Clip:
    """Pictures and sound of one window."""

    frames: np.ndarray  # (N, H, W, 3) uint8 RGB; where the stream has no picture the last one before again, or zeros
    frame_mask: np.ndarray  # (N,) bool, False where nothing was shown at the time asked for
    frame_seconds: np.ndarray  # (N,) float64 s from the file's start, the times asked for
    audio: np.ndarray | None  # (samples,) float32 mono; None without a sound track or when not asked for


def probe_clip(source: Source, name: str | None = None) -> ClipFacts:
    """A clip's lengths and rates by its headers; nothing is decoded.

    `name` is what an error calls the clip: bytes have no other, and a path may be that of a local copy.
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
    """Decode the pictures at `num_frames` times of a window, and the sound of all of it, with one opening.

    The window is `seconds` long from `start` on (s from the file's start); without `seconds` it is all that follows,
    which for the picture and for the sound ends where each of them does. A frame counts from its own time stamp to the
    next one's; the last frame to the end of its own duration. Times outside of that or beyond the window are False in
    the mask, and hold the nearest picture before (or the first) of the window.

    Args:
        source: a path, a file's bytes, or a binary file object (read from its beginning, left open).
        num_frames: 0 for the sound alone.
        size: (height, width) to which upright frames are scaled, bilinear; None keeps their own.
        frame_rate: Hz; None takes the centres of `num_frames` equal parts of the window. With a rate the frames are
            1 / rate apart and in the window's middle; where the window is too short for that, from its beginning on.
        audio_rate: Hz; None for the pictures alone. The channels' mix is scaled so that full scale stays 1.0: stereo
            is averaged, as `media.audio.read_audio` does. Silence is put where the sound has gaps or starts late, so
            that sample i is at start + i / audio_rate; where it ends early the array is shorter.
        name: what an error calls the clip.
        max_audio_seconds: takes no more than this of the window's sound.

    >>> clip = read_clip("dia0_utt0.mp4", audio_rate=16000)
    >>> clip.frames.shape, clip.frame_mask.all(), clip.audio.shape
    ((16, 128, 171, 3), True, (65536,))
    """
    _check_arguments(num_frames, size, frame_rate, start, seconds, audio_rate, max_audio_seconds)
    where = describe(source, name)
    audio_seconds = min((limit for limit in (seconds, max_audio_seconds) if limit is not None), default=None)

    def read(seeking: bool, end: float | None = None) -> Clip | None:
        with opened_clip(source, where) as container:
            picture, sound = find_streams(container, where)
            picture, sound = picture if num_frames else None, sound if audio_rate else None
            if not picture and not sound:
                wanted = " and no ".join(["picture"] * bool(num_frames) + ["sound track"] * bool(audio_rate))
                raise VideoError(f"{where}: has no {wanted}; ask for what it has, or leave it out")
            origin = find_origin(container)
            first, end = (
                (start, start + seconds) if seconds else _rest(container, picture or sound, origin, start, end)
            )
            if end is None and not picture:
                end = first
            if end is None:  # the file was streamed without a length
                return read(seeking, _last_end(container, picture or sound, origin))
            times = frame_times(num_frames, first, end - first, frame_rate)
            pictures = _Pictures(picture, times, end, size, origin) if picture else None
            track = ClipSound(sound, start, audio_seconds, int(audio_rate), origin, where) if sound else None
            if seeking:
                seek_to(container, picture or sound, (start if sound else times[0]) - LEAD + origin)
            _decode(container, pictures, track, where)
            if seeking and ((pictures and pictures.began_late) or (track and track.began_late)):
                return None
            frames, mask = pictures.finish() if pictures else no_pictures(num_frames, size or (0, 0))
            audio = track.finish() if track else None
        if not mask.any() and (audio is None or not len(audio)):
            raise VideoError(f"{where}: nothing decodes from {start:g} s on; it ends before, or is damaged")
        return Clip(frames, mask, times, audio)

    clip = read(seeking=True) if start >= DEEP else None
    # Where a file without a proper index was sought in and the place is too late, all of it is decoded.
    return clip or read(seeking=False)


def frame_times(num_frames: int, start: float, seconds: float, frame_rate: float | None = None) -> np.ndarray:
    """Times (num_frames,) in s at which a window is looked at; see `read_clip`.

    >>> frame_times(4, 10.0, 2.0).tolist(), frame_times(3, 10.0, 2.0, frame_rate=2.0).tolist()
    ([10.25, 10.75, 11.25, 11.75], [10.5, 11.0, 11.5])
    """
    if frame_rate is None:
        return start + (np.arange(num_frames) + 0.5) * (seconds / max(num_frames, 1))
    extent = (num_frames - 1) / frame_rate  # s from the first to the last
    return start + max((seconds - extent) / 2, 0.0) + np.arange(num_frames) / frame_rate


class _Pictures:
    """Takes a stream's packets, decodes what is needed, and converts the frames that are shown at the times wanted."""

    def __init__(self, stream: av.VideoStream, times: np.ndarray, end: float, size: tuple | None, origin: float):
        self.stream, self.codec, self.origin = stream, stream.codec_context, origin
        self.tick = float(stream.time_base)  # s
        self.size = size  # (height, width) when upright; None until the first frame tells
        self.codec.thread_count = 1
        self.by_order = stream.container.format.name == "avi"
        self.droppable = self.codec.name in DROPPABLE and not self.by_order
        self.inside = times < end - SAME_TIME
        self.times = (np.minimum(times, end - 2 * SAME_TIME) + SAME_TIME).tolist()  # nothing after the window is shown
        self.queue: deque[av.Packet] = deque()
        self.stamps: deque[int] = deque(maxlen=2 * LOOKAHEAD)  # time stamps of the packets fed last
        self.shown: av.VideoFrame | None = None
        self.shown_at = self.shown_until = -math.inf  # s
        self.first_at = math.inf  # s
        self.filled = 0  # times that are settled
        self.images: list[np.ndarray] = []  # (H, W, 3) each, one for each settled time
        self.real: list[bool] = []
        self.image: np.ndarray | None = None  # of `shown`, once it was converted
        self.reformatter = VideoReformatter()
        self.first_place: int | None = None  # of the first packet, where time goes `by_order`
        self.delay: int | None = None  # packets by which a frame comes out after its own
        self.damaged = 0
        self.broken = False  # whether frames are missing after `shown`; those up to the next keyframe build on them

    @property
    def complete(self) -> bool:
        return self.filled == len(self.times)

    @property
    def began_late(self) -> bool:
        """Whether the first frame came after the first time: a seek went too far, or there is none before."""
        return self.first_at > self.times[0]

    def feed(self, packet: av.Packet) -> None:
        """Packets in the order of decoding; the last one is empty."""
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
        """Whether its frame is shown at one of the times; a later frame not yet known of only makes this true."""
        pts = packet.pts
        if pts is None:
            return True
        place = bisect.bisect_left(self.times, self._seconds(pts))  # the first time at which it can be seen
        later = min((stamp for stamp in self.stamps if stamp > pts), default=None)
        return place < len(self.times) and (later is None or self.times[place] < self._seconds(later))

    def _seconds(self, pts: int) -> float:
        return pts * self.tick - self.origin

    def _decode(self, packet: av.Packet) -> None:
        if self.first_place is None:
            self.first_place = packet.dts
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
        if self.by_order:  # packets of an avi have a place, their frames no time: what FFmpeg gives is out of order
            if frame.dts is None:
                return self.shown_until
            if self.delay is None:
                self.delay = frame.dts - (self.first_place or 0)
            return self._seconds(frame.dts - self.delay)
        return self.shown_until if frame.pts is None else self._seconds(frame.pts)

    def _settle(self, until: float) -> None:
        """Give the picture that is shown now to the times before `until` (s) that have none yet."""
        if self.shown is None:
            return
        while not self.complete and self.times[self.filled] < until:
            time = self.times[self.filled]
            if self.image is None:
                self.image = self._convert(self.shown)
            self.images.append(self.image)
            until_then = self.shown_until if self.broken else math.inf
            self.real.append(bool(self.inside[self.filled]) and self.shown_at <= time < until_then)
            self.filled += 1

    def _convert(self, frame: av.VideoFrame) -> np.ndarray:
        orientation = Orientation.of(frame)
        self.size = self.size or orientation.swap((self.codec.height, self.codec.width))
        height, width = orientation.swap(self.size)  # as the frame is stored
        small = self.reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
        return orientation.turn(small.to_ndarray())

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return frames (N, H, W, 3) and mask (N,)."""
        self.broken = self.broken or not self.complete  # nothing follows the last frame
        self._settle(math.inf)
        if not self.images:
            return no_pictures(len(self.times), self.size or (self.codec.height, self.codec.width))
        return np.stack(self.images), np.array(self.real)


def no_pictures(count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return black frames (N, H, W, 3) and their mask (N,), which says that none is real."""
    return np.zeros((count, *size, 3), np.uint8), np.zeros(count, bool)


def _decode(container: InputContainer, pictures: _Pictures | None, track: ClipSound | None, where: str) -> None:
    """Give both readers the packets of their streams until they have all they want."""
    readers = {reader.stream.index: reader for reader in (pictures, track) if reader}
    try:
        for packet in container.demux([reader.stream for reader in readers.values()]):
            reader = readers[packet.stream.index]  # packet.stream_index is wrong in the empty packets at the end
            if not reader.complete:
                reader.feed(packet)
                if all(reader.complete for reader in readers.values()):
                    break
    except av.error.FFmpegError as error:
        logger.warning("%s: cannot be read to its end (%s); what came before is taken", where, error.strerror)
    if track:
        track.decode()
    for kind, reader in (("picture", pictures), ("sound", track)):
        if reader and reader.damaged:
            logger.warning("%s: %d damaged packets of the %s are left out", where, reader.damaged, kind)


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
        raise ValueError(f"{num_frames = }, {audio_rate = }: give a number of frames above 0, a rate in Hz, or both")
    if audio_rate is not None and not (isinstance(audio_rate, int | np.integer) and audio_rate > 0):
        raise ValueError(f"{audio_rate = }: give a whole number of Hz above 0, or None for the pictures alone")
    if size is not None and not (len(size) == 2 and min(size) > 0):
        raise ValueError(f"{size = }: give (height, width) in pixels, or None to keep the stream's own")
    for name, value in (("frame_rate", frame_rate), ("seconds", seconds), ("max_audio_seconds", max_audio_seconds)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} = {value!r}: give a number above 0, or None")
    if not 0 <= start < math.inf:
        raise ValueError(f"{start = }: give a number of seconds of 0 or more")


def _rest(
    container: InputContainer, stream: av.stream.Stream, origin: float, start: float, end: float | None
) -> tuple[float, float | None]:
    """First and last s of what follows `start` in a stream; the last is None where no header tells."""
    begin = 0.0 if stream.start_time is None else float(stream.start_time * stream.time_base) - origin
    first, length = max(start, begin), announced_seconds(container, stream)
    if end is None and length is not None:
        end = begin + length
    return first, None if end is None else max(end, first)


def _last_end(container: InputContainer, stream: av.stream.Stream, origin: float) -> float:
    """s at which the last frame ends, by all packets that are left."""
    stamps = [(p.pts + (p.duration or 0)) * stream.time_base for p in container.demux(stream) if p.pts is not None]
    return float(max(stamps, default=origin)) - origin

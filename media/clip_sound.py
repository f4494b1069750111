"""The audio of a clip: packets to mono samples, placed by their time stamps."""

import functools
import math

import av
import numpy as np
import soxr

from media.clip_files import VideoError, decode_packet

LEAD = 0.3  # s before a window to seek to: AAC and mp3 frames depend on earlier ones, and keyframes are found by dts
GAP = 0.1  # s; from this difference between time stamps and counted samples on there is a gap. Less is rounding
MARGIN = 0.05  # s of audio around a window that the resampling filter needs, as in media.audio
BATCH = 64  # packets decoded at once. Alternating with video packets, each decoder would evict the other's cache


class ClipSound:
    """Decode the packets of an audio stream and place their samples by time, in a window plus a margin."""

    def __init__(
        self, stream: av.AudioStream, start: float, seconds: float | None, rate: int, origin: float, where: str
    ):
        self.stream, self.start, self.seconds, self.new_rate = stream, start, seconds, rate
        self.origin, self.where = origin, where
        stream.codec_context.thread_count = 1
        self.tick = float(stream.time_base)  # s
        self.rate = 0  # Hz of the decoded audio
        self.position = -1  # position of the next sample, counted from the file's start
        self.parts: list[tuple[int, np.ndarray]] = []  # (first sample from the file's start, mono samples)
        self.converters: dict[tuple[str, str], av.AudioResampler] = {}
        self.first_at = math.inf  # s of the first sample
        self.queue: list[av.Packet] = []
        self.complete = False
        self.damaged = 0
        self.lost = False  # whether a packet after the last samples was damaged

    @property
    def began_late(self) -> bool:
        return self.first_at > self.start

    def feed(self, packet: av.Packet) -> None:
        """Take the next packet in decoding order. The last one is empty."""
        if packet.pts is not None:
            begin = packet.pts * self.tick - self.origin
            if begin + packet.duration * self.tick < self.start - LEAD:
                return  # before the window
            self.complete = self.seconds is not None and begin >= self.start + self.seconds + MARGIN
        self.queue.append(packet)
        if self.complete or len(self.queue) == BATCH:
            self.decode()

    def decode(self) -> None:
        """Decode all packets taken so far."""
        for packet in self.queue:
            frames = decode_packet(packet)
            if frames is None:
                self.damaged, self.lost = self.damaged + 1, True
            for frame in frames or []:
                self._put(frame)
        self.queue.clear()

    def _put(self, frame: av.AudioFrame) -> None:
        if not self.rate:
            self.rate = frame.sample_rate
        if frame.sample_rate != self.rate:
            rates = f"{self.rate} and {frame.sample_rate} Hz"
            raise VideoError(f"{self.where}: the sampling rate changes in the audio ({rates}). Export it again.")
        if frame.pts is not None:
            # Count samples rather than trust each time stamp, which is rounded. Jump only at real gaps.
            place = round((frame.pts * self.tick - self.origin) * self.rate)
            if self.position < 0 or self.lost or abs(place - self.position) > GAP * self.rate:
                self.position = place
            self.lost = False
        self.position = max(self.position, 0) if frame.pts is None else self.position
        self.first_at = min(self.first_at, self.position / self.rate)
        if self.position + frame.samples > (self.start - MARGIN) * self.rate - self._grid:
            self.parts.append((self.position, self._mono(frame)))
        self.position += frame.samples

    @property
    def _grid(self) -> int:
        return self.rate // math.gcd(self.rate, self.new_rate)  # samples after which the two rates coincide

    def _mono(self, frame: av.AudioFrame) -> np.ndarray:
        layout, sample_format, count = frame.layout.name, frame.format.name, frame.layout.nb_channels
        if sample_format == "fltp" and count < 8:  # PyAV supports at most 7 planes
            channels = frame.to_ndarray()
        else:
            if (layout, sample_format) not in self.converters:
                self.converters[layout, sample_format] = av.AudioResampler(format="flt", layout=layout, rate=self.rate)
            # The rate stays the same, so one frame gives one frame.
            (frame,) = self.converters[layout, sample_format].resample(frame)
            channels = frame.to_ndarray().reshape(-1, count).T
        return channels[0] if count == 1 else _mix(layout) @ channels

    def finish(self) -> np.ndarray:
        """Return the samples (samples,) of the window at the new rate."""
        if not self.parts:  # the window is after the end of the audio, or nothing in it decodes
            return np.zeros(0, np.float32)
        first = round(self.start * self.new_rate)  # samples of the new rate
        begin = max(int((self.start - MARGIN) * self.rate), 0) // self._grid * self._grid
        end = max(place + len(samples) for place, samples in self.parts)
        if self.stream.duration is not None:  # AAC pads its last frame; cut the padding off
            begin_pts = self.stream.start_time or 0
            announced = round(((begin_pts + self.stream.duration) * self.tick - self.origin) * self.rate)
            end = announced if end - len(self.parts[-1][1]) < announced < end else end
        if self.seconds is not None:
            end = min(end, math.ceil((self.start + self.seconds + MARGIN) * self.rate))
        audio = np.zeros(max(end - begin, 0), np.float32)
        for place, samples in self.parts:
            samples = samples[max(begin - place, 0) : max(end - place, 0)]
            audio[max(place - begin, 0) :][: len(samples)] = samples
        bad = np.count_nonzero(~np.isfinite(audio))
        if bad:
            raise VideoError(
                f"{self.where}: {bad} of {len(audio)} samples are NaN or infinite. Export the audio again."
            )
        if self.new_rate != self.rate and len(audio):
            audio = soxr.resample(audio, self.rate, self.new_rate, quality="HQ")
        audio = audio[first - begin * self.new_rate // self.rate :]
        if self.seconds is not None:
            audio = audio[: max(round(self.seconds * self.new_rate), 1)]
        return np.ascontiguousarray(audio)


@functools.cache
def _mix(layout: str) -> np.ndarray:
    """Return the weights (channels,) of FFmpeg's mix to mono, with sum 1 (stereo: 0.5 each, center of 5.1: 0.29)."""
    # FFmpeg has no function that returns the weights, so mix one channel at a time and read them off.
    count, length = av.AudioLayout(layout).nb_channels, 64
    one_by_one = np.repeat(np.eye(count, dtype=np.float32), length, axis=0)  # (samples, channels)
    frame = av.AudioFrame.from_ndarray(one_by_one.reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate = 48000
    mixed = av.AudioResampler(format="flt", layout="mono", rate=48000).resample(frame)[0].to_ndarray()[0]
    weights = mixed[length // 2 :: length]
    return weights / weights.sum()

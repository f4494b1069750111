"""The sound of a clip: its packets to mono samples that stand where their time stamps say."""

import functools
import math

import av
import numpy as np
import soxr

from media.clip_files import VideoError, decode_packet

LEAD = 0.3  # s before a window to which is sought: AAC and mp3 build on frames before, keyframes are found by dts
GAP = 0.1  # s between time stamps and samples counted from which on a sound has a gap; less is rounding
MARGIN = 0.05  # s around a window that its resampling looks at, as in media.audio
BATCH = 64  # packets decoded at once; one by one between the picture's, each decoder empties the other's cache


class ClipSound:
    """Takes a stream's packets and puts their samples where their times say, in a window and some more around it."""

    def __init__(
        self, stream: av.AudioStream, start: float, seconds: float | None, rate: int, origin: float, where: str
    ):
        self.stream, self.start, self.seconds, self.new_rate = stream, start, seconds, rate
        self.origin, self.where = origin, where
        stream.codec_context.thread_count = 1
        self.tick = float(stream.time_base)  # s
        self.rate = 0  # Hz of the decoded sound
        self.place = -1  # sample from the file's start at which the next one goes
        self.parts: list[tuple[int, np.ndarray]] = []  # (first sample from the file's start, mono samples)
        self.converters: dict[tuple[str, str], av.AudioResampler] = {}
        self.first_at = math.inf  # s
        self.queue: list[av.Packet] = []
        self.complete = False
        self.damaged = 0
        self.lost = False  # whether a packet was damaged since the last samples

    @property
    def began_late(self) -> bool:
        return self.first_at > self.start

    def feed(self, packet: av.Packet) -> None:
        """Packets in the order of decoding; the last one is empty."""
        if packet.pts is not None:
            begin = packet.pts * self.tick - self.origin
            if begin + packet.duration * self.tick < self.start - LEAD:
                return  # as if it had been sought over
            self.complete = self.seconds is not None and begin >= self.start + self.seconds + MARGIN
        self.queue.append(packet)
        if self.complete or len(self.queue) == BATCH:
            self.decode()

    def decode(self) -> None:
        """Decode what was fed."""
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
            raise VideoError(f"{self.where}: the sampling rate changes within the sound ({rates}); export it again")
        if frame.pts is not None:
            place = round((frame.pts * self.tick - self.origin) * self.rate)
            if self.place < 0 or self.lost or abs(place - self.place) > GAP * self.rate:
                self.place = place
            self.lost = False
        self.place = max(self.place, 0) if frame.pts is None else self.place
        self.first_at = min(self.first_at, self.place / self.rate)
        if self.place + frame.samples > (self.start - MARGIN) * self.rate - self._grid:
            self.parts.append((self.place, self._mono(frame)))
        self.place += frame.samples

    @property
    def _grid(self) -> int:
        return self.rate // math.gcd(self.rate, self.new_rate)  # samples after which both rates meet again

    def _mono(self, frame: av.AudioFrame) -> np.ndarray:
        layout, kind, count = frame.layout.name, frame.format.name, frame.layout.nb_channels
        if kind == "fltp" and count < 8:  # PyAV cannot give more planes than 7
            channels = frame.to_ndarray()
        else:
            if (layout, kind) not in self.converters:
                self.converters[layout, kind] = av.AudioResampler(format="flt", layout=layout, rate=self.rate)
            (frame,) = self.converters[layout, kind].resample(frame)  # no other rate, so one comes out for one
            channels = frame.to_ndarray().reshape(-1, count).T
        return channels[0] if count == 1 else _mix(layout) @ channels

    def finish(self) -> np.ndarray:
        """(samples,) of the window at the new rate."""
        if not self.parts:  # the window lies after the sound's end, or nothing of it decodes
            return np.zeros(0, np.float32)
        first = round(self.start * self.new_rate)  # samples of the new rate
        begin = max(int((self.start - MARGIN) * self.rate), 0) // self._grid * self._grid
        end = max(place + len(samples) for place, samples in self.parts)
        if self.stream.duration is not None:  # AAC fills its last frame up
            begin_pts = self.stream.start_time or 0
            told = round(((begin_pts + self.stream.duration) * self.tick - self.origin) * self.rate)
            end = told if end - len(self.parts[-1][1]) < told < end else end
        if self.seconds is not None:
            end = min(end, math.ceil((self.start + self.seconds + MARGIN) * self.rate))
        audio = np.zeros(max(end - begin, 0), np.float32)
        for place, samples in self.parts:
            samples = samples[max(begin - place, 0) : max(end - place, 0)]
            audio[max(place - begin, 0) :][: len(samples)] = samples
        bad = np.count_nonzero(~np.isfinite(audio))
        if bad:
            raise VideoError(
                f"{self.where}: {bad} of {len(audio)} samples are NaN or infinite; export the sound again"
            )
        if self.new_rate != self.rate and len(audio):
            audio = soxr.resample(audio, self.rate, self.new_rate, quality="HQ")
        audio = audio[first - begin * self.new_rate // self.rate :]
        if self.seconds is not None:
            audio = audio[: max(round(self.seconds * self.new_rate), 1)]
        return np.ascontiguousarray(audio)


@functools.cache
def _mix(layout: str) -> np.ndarray:
    """Weights (channels,) of FFmpeg's mix to mono, with a sum of 1: stereo is averaged, 5.1's centre has 0.29."""
    count, length = av.AudioLayout(layout).nb_channels, 64
    one_by_one = np.repeat(np.eye(count, dtype=np.float32), length, axis=0)  # (samples, channels)
    frame = av.AudioFrame.from_ndarray(one_by_one.reshape(1, -1), format="flt", layout=layout)
    frame.sample_rate = 48000
    mixed = av.AudioResampler(format="flt", layout="mono", rate=48000).resample(frame)[0].to_ndarray()[0]
    weights = mixed[length // 2 :: length]
    return weights / weights.sum()

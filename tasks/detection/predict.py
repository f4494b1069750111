"""Where a detector hears its target in recordings of any length: windows, scores, events, in constant memory."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from evaluation.events import ROUNDING, detect_events
from media.audio import read_audio_blocks
from tasks.detection.collator import SoundExtractor
from tasks.detection.windows import fit_to_scale, with_zeros
from training.prediction import write_predictions
from training.task import Predicted

# N windows, S samples of a window, B windows of a batch, E events


WINDOWS_AT_ONCE = 64
WINDOWS_HELD = 2000  # of one event; a longer one is gone on with from its last windows
ENVELOPE_BINS = 2000  # points of a curve that is drawn, at most


@dataclass
class Envelope:
    """The highest score of each stretch of a recording: stretches grow so that there are never many."""

    stretch: float  # s
    peaks: list[float] = field(default_factory=list)

    def add(self, starts: np.ndarray, scores: np.ndarray) -> None:
        """Scores (N,) of windows that begin at `starts` (N,) s, in order."""
        for start, score in zip(starts.tolist(), scores.tolist(), strict=True):
            while int(start / self.stretch) >= ENVELOPE_BINS:
                pairs = [self.peaks[i : i + 2] for i in range(0, len(self.peaks), 2)]
                self.stretch, self.peaks = 2 * self.stretch, [max(pair) for pair in pairs]
            place = int(start / self.stretch + 1e-6)
            self.peaks += [0.0] * (place + 1 - len(self.peaks))
            self.peaks[place] = max(self.peaks[place], score)


@dataclass(frozen=True)
class Detections:
    """The events of one recording, or of a stretch of it, and the curve of scores that they come from."""

    file: Path
    events: np.ndarray  # (E, 3): start and end in s, score in [0, 1]
    envelope: Envelope  # of the whole recording so far
    target: str
    threshold: float
    seconds: float  # of the recording so far

    def header(self) -> list[str]:
        """The table's columns."""
        return ["file", "start_seconds", "end_seconds", "score", "label"]

    def rows(self) -> Iterator[list[str]]:
        """A row an event."""
        for start, end, score in self.events:
            yield [str(self.file), f"{start:.3f}", f"{end:.3f}", f"{score:.4f}", self.target]

    def join(self, others: Sequence["Detections"]) -> "Detections":
        """A recording's stretches as one."""
        parts = [self, *others]
        events = np.concatenate([part.events for part in parts])
        return replace(self, events=events, envelope=parts[-1].envelope, seconds=parts[-1].seconds)


@torch.inference_mode()
def detect(
    model: PreTrainedModel, extractor: SoundExtractor, sound: Path, threshold: float | None
) -> Iterator[Detections]:
    """The events in a recording, a stretch at a time, by windows as in training: their length is the model's.

    Windows that score at least `threshold` (None: the one chosen on validation) and overlap make one event; where the
    model scores frames, the event begins and ends with the first and the last frame that do.
    """
    detection = model.config.to_dict().get("detection")  # of its run: window and hop in seconds, threshold
    if detection is None:
        raise ValueError("the model's config has no `detection`, which run_train.py writes at the end of a run")
    threshold = float(detection["threshold"] if threshold is None else threshold)
    rate, target = extractor.sampling_rate, cast(dict[int, str], model.config.id2label)[0]
    size, hop = round(detection["clip_seconds"] * rate), round(detection["hop_seconds"] * rate)
    window = size / rate  # s
    held, begun, envelope = Windows(), None, Envelope(hop / rate)
    yield Detections(sound, np.zeros((0, 3)), envelope, target, threshold, 0.0)
    for starts, windows in sliding_windows(read_audio_blocks(sound, rate), size, hop):
        batch = extractor(list(windows), sampling_rate=rate, return_tensors="pt").to(model.device)
        output = model(**batch)
        frames = output.get("frame_logits")
        new = Windows(
            starts / rate,
            output.logits[:, 0].double().sigmoid().cpu().numpy(),
            None if frames is None else frames[..., 0].double().sigmoid().cpu().numpy(),
        )
        envelope.add(new.times, new.scores)
        held = held.followed_by(new)
        goes_on = held.fires_at_its_end(threshold, window)
        if goes_on and len(held.times) < WINDOWS_HELD:
            continue
        events = held.events(threshold, window, begun)
        begun = events[-1] if goes_on else None
        # As many windows as overlap with those to come; of an event that goes on, its last one too.
        held = held.last(-(-size // hop) + goes_on)
        done = events[:-1] if goes_on else events
        yield Detections(sound, done, envelope, target, threshold, float(new.times[-1] + window))
    if held.fires_at_its_end(threshold, window):
        end = float(held.times[-1] + window)
        yield Detections(sound, held.events(threshold, window, begun), envelope, target, threshold, end)


@dataclass(frozen=True)
class Windows:
    """Windows that are still looked at."""

    times: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (N,) s at which each begins
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (N,)
    frames: np.ndarray | None = None  # (N, T)

    def followed_by(self, new: "Windows") -> "Windows":
        """Return these windows followed by `new`."""
        if not len(self.times):
            return new
        frames = None
        if self.frames is not None and new.frames is not None:
            frames = np.concatenate([self.frames, new.frames])
        return Windows(np.concatenate([self.times, new.times]), np.concatenate([self.scores, new.scores]), frames)

    def last(self, count: int) -> "Windows":
        """Return the last `count` windows."""
        frames = None if self.frames is None else self.frames[-count:]
        return Windows(self.times[-count:], self.scores[-count:], frames)

    def fires_at_its_end(self, threshold: float, window: float) -> bool:
        """Whether an event may go on after these windows, which are `window` s long."""
        fired = self.times[self.scores >= threshold]
        return len(fired) > 0 and fired[-1] + window + ROUNDING >= self.times[-1]

    def events(self, threshold: float, window: float, begun: np.ndarray | None) -> np.ndarray:
        """Events (E, 3), the first of which is the end of the one that has `begun` before."""
        found = detect_events(self.times, self.scores, threshold, window, self.frames)
        if begun is not None:
            found[0] = begun[0], found[0, 1], max(begun[2], found[0, 2])
        return found


def sliding_windows(
    blocks: Iterable[np.ndarray], size: int, hop: int, at_once: int = WINDOWS_AT_ONCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """First samples (B,) and windows (B, S) of a sound that comes in blocks (samples,), every `hop` <= `size` samples.

    The last window ends where the sound does; a sound shorter than a window has zeros after it, as in training.
    Together with the windows in hand, no more than a block and a batch is held.
    """
    held, first = np.zeros(0, np.float32), 0  # samples from the next window on, and where that begins
    last, total = np.zeros(0, np.float32), 0  # the last `size` samples, and how many there were
    for block in blocks:
        held, total = np.concatenate([held, block]), total + len(block)
        last = np.concatenate([last, block])[-size:]
        count = max((len(held) - size) // hop + 1, 0)
        for begin in range(0, count, at_once):
            places = np.arange(begin, min(begin + at_once, count)) * hop
            yield first + places, np.stack([fit_to_scale(held[p : p + size]) for p in places])
        held, first = held[count * hop :], first + count * hop
    if total < size or first - hop != total - size:  # the last window did not end where the sound does
        yield np.array([max(total - size, 0)]), fit_to_scale(with_zeros(last, size))[None]


def predict(
    model: PreTrainedModel, extractor: SoundExtractor, sounds: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Write the events in some recordings."""
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold {arguments.threshold}: give a score from 0 to 1")
    events = 0

    def parts(sound: Path) -> Iterator[Detections]:
        nonlocal events
        for part in detect(model, extractor, sound, arguments.threshold):
            events += len(part.events)
            yield part

    written, unreadable = write_predictions(parts, sounds, arguments.output, keep=arguments.plot is not None)
    found = cast(list[Detections], written)
    summary = f"{events} events of {found[0].target} at threshold {found[0].threshold:.3g}" if found else ""
    return Predicted(found, unreadable, summary)

"""Where a model hears a sound in recordings of any length: windows, scores, events, in constant memory.

A detector hears its target. A pretrained encoder hears any of its labels without training: it tags windows with all of
them, or gives the events of one.
"""

import argparse
import difflib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from evaluation.events import ROUNDING, detect_events
from media.audio import read_audio_blocks
from modeling import EfficientAtConfig, EfficientAtModel
from modeling.modeling_classification import AudioClassificationOutput
from system.text import plural
from tasks.detection.collator import SoundExtractor
from tasks.detection.windows import fit_to_scale, with_zeros
from training.prediction import write_predictions
from training.task import Predicted

# N windows, S samples of a window, B windows of a batch, E events


WINDOWS_AT_ONCE = 64
WINDOWS_HELD = 2000  # of one event; a longer one is gone on with from its last windows
ENVELOPE_BINS = 2000  # points of a curve that is drawn, at most
# Of an encoder's own labels. In windows of 1 s, mn04 gives ESC-10's cries 0.3 to 0.6, and the rest below 0.01.
UNTRAINED_THRESHOLD = 0.2


@dataclass
class Envelope:
    """The highest score of each stretch of a recording: stretches grow so that there are never many."""

    stretch: float  # s
    peaks: list[Any] = field(default_factory=list)  # of numbers, or of arrays (L,)

    def add(self, starts: np.ndarray, scores: np.ndarray) -> None:
        """Scores (N,) or (N, L) of windows that begin at `starts` (N,) s, in order."""
        for start, score in zip(starts.tolist(), scores, strict=True):
            while int(start / self.stretch) >= ENVELOPE_BINS:
                pairs = [self.peaks[i : i + 2] for i in range(0, len(self.peaks), 2)]
                self.stretch, self.peaks = 2 * self.stretch, [np.maximum.reduce(pair) for pair in pairs]
            place = int(start / self.stretch + 1e-6)
            self.peaks += [0 * score] * (place + 1 - len(self.peaks))
            self.peaks[place] = np.maximum(self.peaks[place], score)


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


@dataclass(frozen=True)
class Tags:
    """The scores of all of a model's labels in some windows of a recording."""

    file: Path
    times: np.ndarray  # (N,) s at which each window begins
    scores: np.ndarray  # (N, L), in [0, 1]
    window: float  # s
    labels: Sequence[str]
    envelope: Envelope  # of the whole recording so far

    def header(self) -> list[str]:
        """The table's columns."""
        return ["file", "start_seconds", "end_seconds", *self.labels]

    def rows(self) -> Iterator[list[str]]:
        """One row per window."""
        for time, scores in zip(self.times, self.scores, strict=True):
            yield [str(self.file), f"{time:.3f}", f"{time + self.window:.3f}", *(f"{score:.4f}" for score in scores)]

    def join(self, others: Sequence["Tags"]) -> "Tags":
        """A recording's windows, of which the envelope is kept."""
        return self


@dataclass(frozen=True)
class Listening:
    """How a model goes through a recording, and which of its labels is wanted."""

    window: float  # s
    hop: float  # s
    label: int | None  # None: all
    target: str
    threshold: float


def check_threshold(threshold: float | None) -> None:
    """Refuse a threshold that is no score."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold={threshold}: not a score. Give one from 0 to 1.")


def listening(config: PreTrainedConfig, target: str | None, threshold: float | None) -> Listening:
    """What a model's config, and the options of the command, say of its use."""
    detection = config.to_dict().get("detection")  # of its run: window and hop in seconds, threshold
    labels = cast(dict[int, str], config.id2label)
    if detection is not None:
        if target not in (None, labels[0]):
            raise ValueError(f"--target={target}: the model detects {labels[0]!r} alone. Leave the option out.")
        chosen = float(detection["threshold"] if threshold is None else threshold)
        return Listening(detection["clip_seconds"], detection["hop_seconds"], 0, labels[0], chosen)
    if not isinstance(config, EfficientAtConfig):
        raise ValueError("the model's config has no `detection`, which run_train.py writes at the end of a run")
    if EfficientAtModel.__name__ in (config.architectures or []):
        raise ValueError(
            f"model={config.name_or_path}: an encoder without a classifier, which names no sounds. Give one that has "
            "it, such as efficientat_mn04_as, or train a detector on this one, by encoder.name."
        )
    if target is None and threshold is not None:
        raise ValueError(f"--threshold={threshold}: for the events of one label. Name it by --target.")
    places = {name: place for place, name in labels.items()}
    if target is not None and target not in places:
        near = difflib.get_close_matches(target, places, n=3, cutoff=0.4) or sorted(places)[:3]
        raise ValueError(f"--target={target}: not one of the model's {len(places)} labels. Near: {'; '.join(near)}.")
    chosen = UNTRAINED_THRESHOLD if threshold is None else threshold
    label = None if target is None else places[target]
    return Listening(config.window_seconds, config.hop_seconds, label, target or "", chosen)


@torch.inference_mode()
def heard(
    model: PreTrainedModel, extractor: SoundExtractor, sound: Path, use: Listening
) -> Iterator[tuple[np.ndarray, AudioClassificationOutput]]:
    """When windows of a recording begin (B,) in seconds, and what the model says of them, batch by batch."""
    rate = extractor.sampling_rate
    for starts, windows in sliding_windows(
        read_audio_blocks(sound, rate), round(use.window * rate), round(use.hop * rate)
    ):
        batch = extractor(list(windows), sampling_rate=rate, return_tensors="pt").to(model.device)
        yield starts / rate, model(**batch)


def tag(model: PreTrainedModel, extractor: SoundExtractor, sound: Path, use: Listening) -> Iterator[Tags]:
    """Scores of all labels in a recording, some windows at a time."""
    labels, envelope = list(cast(dict[int, str], model.config.id2label).values()), Envelope(use.hop)
    for times, output in heard(model, extractor, sound, use):
        scores = output["logits"].double().sigmoid().cpu().numpy()
        envelope.add(times, scores)
        yield Tags(sound, times, scores, use.window, labels, envelope)


def detect(model: PreTrainedModel, extractor: SoundExtractor, sound: Path, use: Listening) -> Iterator[Detections]:
    """The events in a recording, a stretch at a time, by windows as in training: their length is the model's.

    Windows that score at least the threshold and overlap make one event; where the model scores frames, the event
    begins and ends with the first and the last frame that do.
    """
    rate, target, threshold = extractor.sampling_rate, use.target, use.threshold
    size, hop = round(use.window * rate), round(use.hop * rate)
    window = size / rate  # s
    held, begun, envelope = Windows(), None, Envelope(hop / rate)
    yield Detections(sound, np.zeros((0, 3)), envelope, target, threshold, 0.0)
    for times, output in heard(model, extractor, sound, use):
        frames = output.get("frame_logits")
        new = Windows(
            times,
            output["logits"][:, use.label].double().sigmoid().cpu().numpy(),
            None if frames is None else frames[..., use.label].double().sigmoid().cpu().numpy(),
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
    windows = single_windows(blocks, size, hop)
    while batch := list(itertools.islice(windows, at_once)):
        yield np.array([start for start, _ in batch]), np.stack([window for _, window in batch])


def single_windows(blocks: Iterable[np.ndarray], size: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """First sample and samples (S,) of each window."""
    held, first = np.zeros(0, np.float32), 0  # samples from the next window on, and where that begins
    last, total = np.zeros(0, np.float32), 0  # the last `size` samples, and how many there were
    for block in blocks:
        held, total = np.concatenate([held, block]), total + len(block)
        last = np.concatenate([last, block])[-size:]
        count = max((len(held) - size) // hop + 1, 0)
        for begin in range(0, count * hop, hop):
            yield first + begin, fit_to_scale(held[begin : begin + size])
        held, first = held[count * hop :], first + count * hop
    if total < size or first - hop != total - size:  # the last window did not end where the sound does
        yield max(total - size, 0), fit_to_scale(with_zeros(last, size))


def predict(
    model: PreTrainedModel, extractor: SoundExtractor, sounds: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Write the events in some recordings, or the scores of all labels of a pretrained encoder."""
    use = listening(model.config, arguments.target, arguments.threshold)
    if use.label is None:
        return predict_tags(model, extractor, sounds, arguments.output, use)
    events = 0

    def parts(sound: Path) -> Iterator[Detections]:
        nonlocal events
        for part in detect(model, extractor, sound, use):
            events += len(part.events)
            yield part

    written, unreadable = write_predictions(
        parts, sounds, arguments.output, keep=arguments.plot is not None, synthetic=arguments.synthetic
    )
    found = cast(list[Detections], written)
    summary = f"{plural(events, 'event')} of {found[0].target} at threshold {found[0].threshold:.3g}" if found else ""
    return Predicted(found, unreadable, summary)


def predict_tags(
    model: PreTrainedModel, extractor: SoundExtractor, sounds: Sequence[Path], output: Path, use: Listening
) -> Predicted:
    """Write the scores of all labels, one row per window."""
    written, unreadable = write_predictions(
        lambda sound: tag(model, extractor, sound, use), sounds, output, keep=False, synthetic=False
    )
    found = cast(list[Tags], written)
    if not found:
        return Predicted(found, unreadable, "")
    peaks = np.max([np.max(tags.envelope.peaks, axis=0) for tags in found], axis=0)  # (L,)
    highest = ", ".join(f"{found[0].labels[place]} {peaks[place]:.2f}" for place in np.argsort(-peaks)[:3])
    return Predicted(found, unreadable, f"windows of {use.window:g} s, {len(peaks)} labels, highest: {highest}")

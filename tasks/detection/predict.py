"""Detect sounds in recordings of any length: windows, scores and events, in constant memory.

A detector detects its target. A pretrained encoder works without training: it tags windows with all of its labels,
or detects the events of one.
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
from tasks.detection.windows import limit_peak, pad_with_zeros
from training.prediction import write_predictions
from training.task import Predicted

# N windows, S samples per window, B windows per batch, T frames per window, L labels, E events


WINDOWS_AT_ONCE = 64  # windows per batch
MAX_BUFFERED_WINDOWS = 2000  # of an open event; a longer event is continued from its last windows
ENVELOPE_BINS = 2000  # maximum points of a plotted curve
# Default threshold for an encoder's own labels: in windows of 1 s, mn04 scores the baby cries of ESC-10 from 0.3 to
# 0.6 and its other sounds below 0.01.
UNTRAINED_THRESHOLD = 0.2


@dataclass
class Envelope:
    """Peak score per stretch of a recording; the stretches grow, so that their number stays below ENVELOPE_BINS."""

    stretch: float  # s
    peaks: list[Any] = field(default_factory=list)  # numbers, or arrays (L,)

    def add(self, starts: np.ndarray, scores: np.ndarray) -> None:
        """Add scores (N,) or (N, L) of windows that start at `starts` (N,) s, in order."""
        for start, score in zip(starts.tolist(), scores, strict=True):
            while int(start / self.stretch) >= ENVELOPE_BINS:
                pairs = [self.peaks[i : i + 2] for i in range(0, len(self.peaks), 2)]
                self.stretch, self.peaks = 2 * self.stretch, [np.maximum.reduce(pair) for pair in pairs]
            # 1e-6: a start that is a multiple of the stretch may be rounded down.
            index = int(start / self.stretch + 1e-6)
            self.peaks += [0 * score] * (index + 1 - len(self.peaks))
            self.peaks[index] = np.maximum(self.peaks[index], score)


@dataclass(frozen=True)
class Detections:
    """Events of a recording or a part of it, with the score curve behind them."""

    file: Path
    events: np.ndarray  # (E, 3): start and end in s, score in [0, 1]
    envelope: Envelope  # of the recording up to here
    target: str
    threshold: float
    seconds: float  # of the recording up to here

    def header(self) -> list[str]:
        """Return the column names of the table."""
        return ["file", "start_seconds", "end_seconds", "score", "label"]

    def rows(self) -> Iterator[list[str]]:
        """Yield one row per event."""
        for start, end, score in self.events:
            yield [str(self.file), f"{start:.3f}", f"{end:.3f}", f"{score:.4f}", self.target]

    def join(self, others: Sequence["Detections"]) -> "Detections":
        """Join this and the following parts of a recording."""
        parts = [self, *others]
        events = np.concatenate([part.events for part in parts])
        return replace(self, events=events, envelope=parts[-1].envelope, seconds=parts[-1].seconds)


@dataclass(frozen=True)
class Tags:
    """Scores of all labels in some windows of a recording."""

    file: Path
    times: np.ndarray  # (N,) start of each window, s
    scores: np.ndarray  # (N, L), in [0, 1]
    window: float  # s
    labels: Sequence[str]
    envelope: Envelope  # of the recording up to here

    def header(self) -> list[str]:
        """Return the column names of the table."""
        return ["file", "start_seconds", "end_seconds", *self.labels]

    def rows(self) -> Iterator[list[str]]:
        """Yield one row per window."""
        for time, scores in zip(self.times, self.scores, strict=True):
            yield [str(self.file), f"{time:.3f}", f"{time + self.window:.3f}", *(f"{score:.4f}" for score in scores)]

    def join(self, others: Sequence["Tags"]) -> "Tags":
        """Return these tags: a plot needs only the envelope, which all parts of a recording share."""
        return self


@dataclass(frozen=True)
class PredictionSettings:
    """How a model is applied to a recording."""

    window: float  # s
    hop: float  # s
    label: int | None  # index of the label to detect; None: all labels
    target: str
    threshold: float


def check_threshold(threshold: float | None) -> None:
    """Raise ValueError if a threshold is outside 0 to 1."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold={threshold}: must be from 0 to 1. Give a score in this range.")


def prediction_settings(config: PreTrainedConfig, target: str | None, threshold: float | None) -> PredictionSettings:
    """Combine a model's config with the options of the command; raises ValueError if they do not fit."""
    detection = config.to_dict().get("detection")  # written by its run: window and hop in seconds, threshold
    labels = cast(dict[int, str], config.id2label)
    if detection is not None:
        if target not in (None, labels[0]):
            raise ValueError(f"--target={target}: the model detects only {labels[0]!r}. Leave the option out.")
        chosen = float(detection["threshold"] if threshold is None else threshold)
        return PredictionSettings(detection["clip_seconds"], detection["hop_seconds"], 0, labels[0], chosen)
    if not isinstance(config, EfficientAtConfig):
        raise ValueError(
            f"model={config.name_or_path}: its config has no `detection`. Use a model from a finished detection run; "
            "run_train.py writes the key."
        )
    if EfficientAtModel.__name__ in (config.architectures or []):
        raise ValueError(
            f"model={config.name_or_path}: an encoder without a classifier, so it has no labels. Use one with a "
            "classifier, for example efficientat_mn04_as, or train a detector on this one with encoder.name."
        )
    if target is None and threshold is not None:
        raise ValueError(f"--threshold={threshold}: needs the label to detect. Name it with --target.")
    codes = {name: code for code, name in labels.items()}
    if target is not None and target not in codes:
        near = difflib.get_close_matches(target, codes, n=3, cutoff=0.4) or sorted(codes)[:3]
        raise ValueError(f"--target={target}: not one of the model's {len(codes)} labels. Similar: {'; '.join(near)}.")
    chosen = UNTRAINED_THRESHOLD if threshold is None else threshold
    label = None if target is None else codes[target]
    return PredictionSettings(config.window_seconds, config.hop_seconds, label, target or "", chosen)


@torch.inference_mode()
def predict_windows(
    model: PreTrainedModel, extractor: SoundExtractor, sound: Path, settings: PredictionSettings
) -> Iterator[tuple[np.ndarray, AudioClassificationOutput]]:
    """Yield start times (B,) in s and model outputs of the windows of a recording, batch by batch."""
    rate = extractor.sampling_rate
    for starts, windows in sliding_windows(
        read_audio_blocks(sound, rate), round(settings.window * rate), round(settings.hop * rate)
    ):
        batch = extractor(list(windows), sampling_rate=rate, return_tensors="pt").to(model.device)
        yield starts / rate, model(**batch)


def tag(
    model: PreTrainedModel, extractor: SoundExtractor, sound: Path, settings: PredictionSettings
) -> Iterator[Tags]:
    """Yield the scores of all labels in a recording, batch by batch."""
    labels, envelope = list(cast(dict[int, str], model.config.id2label).values()), Envelope(settings.hop)
    for times, output in predict_windows(model, extractor, sound, settings):
        scores = output["logits"].double().sigmoid().cpu().numpy()
        envelope.add(times, scores)
        yield Tags(sound, times, scores, settings.window, labels, envelope)


def detect(
    model: PreTrainedModel, extractor: SoundExtractor, sound: Path, settings: PredictionSettings
) -> Iterator[Detections]:
    """Yield the events in a recording part by part, from windows of the length that the model was trained on.

    Overlapping windows with a score of at least the threshold make one event. If the model scores frames, the event
    starts with the first and ends with the last frame at or above the threshold.
    """
    rate, target, threshold = extractor.sampling_rate, settings.target, settings.threshold
    size, hop = round(settings.window * rate), round(settings.hop * rate)
    window = size / rate  # s
    buffer, open_event, envelope = Windows(), None, Envelope(hop / rate)
    # Yielded before any audio is read, so that a recording without events has a part as well.
    yield Detections(sound, np.zeros((0, 3)), envelope, target, threshold, 0.0)
    for times, output in predict_windows(model, extractor, sound, settings):
        frames = output.get("frame_logits")
        new = Windows(
            times,
            output["logits"][:, settings.label].double().sigmoid().cpu().numpy(),
            None if frames is None else frames[..., settings.label].double().sigmoid().cpu().numpy(),
        )
        envelope.add(new.times, new.scores)
        buffer = buffer.followed_by(new)
        is_open = buffer.ends_in_event(threshold, window)
        if is_open and len(buffer.times) < MAX_BUFFERED_WINDOWS:
            continue
        events = buffer.events(threshold, window, open_event)
        open_event = events[-1] if is_open else None
        # Keep the windows that overlap with the next ones; for an open event also its last one.
        buffer = buffer.last(-(-size // hop) + is_open)
        finished = events[:-1] if is_open else events
        yield Detections(sound, finished, envelope, target, threshold, float(new.times[-1] + window))
    if buffer.ends_in_event(threshold, window):
        end = float(buffer.times[-1] + window)
        yield Detections(sound, buffer.events(threshold, window, open_event), envelope, target, threshold, end)


@dataclass(frozen=True)
class Windows:
    """Consecutive windows of a recording that may still change an event."""

    times: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (N,) start of each window, s
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

    def ends_in_event(self, threshold: float, window: float) -> bool:
        """Return whether the next window may continue an event of these windows, which are `window` s long."""
        detected = self.times[self.scores >= threshold]
        return len(detected) > 0 and detected[-1] + window + ROUNDING >= self.times[-1]

    def events(self, threshold: float, window: float, open_event: np.ndarray | None) -> np.ndarray:
        """Return the events (E, 3); the first one continues `open_event`, if given."""
        events = detect_events(self.times, self.scores, threshold, window, self.frames)
        if open_event is not None:
            events[0] = open_event[0], events[0, 1], max(open_event[2], events[0, 2])
        return events


def sliding_windows(
    blocks: Iterable[np.ndarray], size: int, hop: int, at_once: int = WINDOWS_AT_ONCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut audio that arrives in blocks (samples,) into windows (B, S), yielded with their first samples (B,).

    `hop` must not exceed `size`. The last window ends where the audio ends. Audio shorter than a window is followed
    by zeros, as in training. At most one block and one batch of windows are in memory.
    """
    windows = single_windows(blocks, size, hop)
    while batch := list(itertools.islice(windows, at_once)):
        yield np.array([start for start, _ in batch]), np.stack([window for _, window in batch])


def single_windows(blocks: Iterable[np.ndarray], size: int, hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first sample and the samples (S,) of each window."""
    pending, first = np.zeros(0, np.float32), 0  # samples from the start of the next window, and that start
    last, total = np.zeros(0, np.float32), 0  # the latest `size` samples, and the number of all so far
    for block in blocks:
        pending, total = np.concatenate([pending, block]), total + len(block)
        last = np.concatenate([last, block])[-size:]
        count = max((len(pending) - size) // hop + 1, 0)
        for begin in range(0, count * hop, hop):
            yield first + begin, limit_peak(pending[begin : begin + size])
        pending, first = pending[count * hop :], first + count * hop
    # The last whole hop may end before the audio does: one more window then ends with it.
    if total < size or first - hop != total - size:
        yield max(total - size, 0), limit_peak(pad_with_zeros(last, size))


def predict(
    model: PreTrainedModel, extractor: SoundExtractor, sounds: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Write the events in recordings, or, with a pretrained encoder and no target, the scores of all labels."""
    settings = prediction_settings(model.config, arguments.target, arguments.threshold)
    if settings.label is None:
        return predict_tags(model, extractor, sounds, arguments.output, settings)
    events = 0

    def parts(sound: Path) -> Iterator[Detections]:
        nonlocal events
        for part in detect(model, extractor, sound, settings):
            events += len(part.events)
            yield part

    written, unreadable = write_predictions(
        parts, sounds, arguments.output, keep=arguments.plot is not None, synthetic=arguments.synthetic
    )
    detections = cast(list[Detections], written)
    summary = ""
    if detections:
        summary = f"{plural(events, 'event')} of {detections[0].target} at threshold {detections[0].threshold:.3g}"
    return Predicted(detections, unreadable, summary)


def predict_tags(
    model: PreTrainedModel,
    extractor: SoundExtractor,
    sounds: Sequence[Path],
    output: Path,
    settings: PredictionSettings,
) -> Predicted:
    """Write the scores of all labels, one row per window."""
    written, unreadable = write_predictions(
        lambda sound: tag(model, extractor, sound, settings), sounds, output, keep=False, synthetic=False
    )
    recordings = cast(list[Tags], written)
    if not recordings:
        return Predicted(recordings, unreadable, "")
    peaks = np.max([np.max(tags.envelope.peaks, axis=0) for tags in recordings], axis=0)  # (L,)
    highest = ", ".join(f"{recordings[0].labels[code]} {peaks[code]:.2f}" for code in np.argsort(-peaks)[:3])
    return Predicted(
        recordings, unreadable, f"windows of {settings.window:g} s, {len(peaks)} labels, highest: {highest}"
    )

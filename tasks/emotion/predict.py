"""Predict the emotions and sentiments of the utterances of clips, and write them as JSON.

A clip is one utterance, whose words `--text` gives, or a recording of several, which `--utterances` lists.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from media.video import VideoError, probe_clip
from modeling import FusionForEmotion, FusionProcessor
from system.text import printable
from tasks.emotion.items import clip_for, clip_inputs
from tasks.emotion.subtitles import Utterance, read_utterances
from training.prediction import whole_file
from training.task import Predicted

TOP = 3  # classes that are listed per head
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class LabelConfidence:
    label: str
    confidence: float


@dataclass(frozen=True)
class UtterancePrediction:
    """The most likely emotions and sentiments of an utterance, the most likely first."""

    start_seconds: float
    end_seconds: float | None  # None: to the end of a clip that was streamed without a length
    text: str | None
    emotions: list[LabelConfidence]
    sentiments: list[LabelConfidence]
    missing: list[str]  # modalities that the model reads and the utterance lacks


@dataclass(frozen=True)
class ClipPrediction:
    """The predictions for the utterances of a clip."""

    file: Path
    utterances: list[UtterancePrediction]


def predict_clips(
    model: FusionForEmotion, processor: FusionProcessor, clips: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Predict clips, and write all predictions as one JSON file, whole or not at all."""
    if arguments.text is not None and arguments.utterances is not None:
        raise ValueError("--text and --utterances both say what is said; give one of them")
    if arguments.text is not None and "text" not in model.config.modalities:
        raise ValueError(f"--text: the model reads {' and '.join(model.config.modalities)}; leave it out")
    if (arguments.text is not None or arguments.utterances is not None) and len(clips) > 1:
        raise ValueError(f"--text and --utterances are of one clip, and {len(clips)} came; predict them one by one")
    utterances = [Utterance(0.0, None, arguments.text)]
    if arguments.utterances is not None:
        utterances = read_utterances(arguments.utterances)
    predictions, unreadable = [], []
    for clip in tqdm(clips, desc="predicting", unit="clip"):
        try:
            predicted = [predict_utterance(model, processor, clip, utterance) for utterance in utterances]
            predictions.append(ClipPrediction(clip, predicted))
        except VideoError as error:
            unreadable.append(printable(error))
    if predictions:
        records = [asdict(clip) | {"file": printable(clip.file)} for clip in predictions]
        text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False)
        with whole_file(arguments.output) as file:
            file.write(text + "\n")
    lines = [line_of(utterance) for clip in predictions for utterance in clip.utterances]
    count = f"{len(lines)} utterance{'s' * (len(lines) != 1)}"
    summary = "\n".join([f"{count}; the model reads {' and '.join(model.config.modalities)}", *lines])
    return Predicted(predictions, unreadable, summary)


def line_of(utterance: UtterancePrediction) -> str:
    """Write a prediction in one line, for the terminal."""
    emotions, sentiments = (
        ", ".join(f"{one.label} {one.confidence:.2f}" for one in ranked)
        for ranked in (utterance.emotions, utterance.sentiments)
    )
    missing = f" (without {' and '.join(utterance.missing)})" if utterance.missing else ""
    return f"{utterance.start_seconds:8.2f} s  {utterance.text or ''}: {emotions}; {sentiments}{missing}"


@torch.inference_mode()
def predict_utterance(
    model: FusionForEmotion, processor: FusionProcessor, clip: Path, utterance: Utterance
) -> UtterancePrediction:
    """Predict one utterance of a clip from the modalities that it has."""
    wanted = set(model.config.modalities)
    facts = probe_clip(clip)
    start, end, text = utterance.start_seconds, utterance.end_seconds, utterance.text
    lengths = {"video": facts.video_seconds, "audio": facts.audio_seconds}  # s
    has = {"video": facts.has_video, "audio": facts.sampling_rate is not None}
    given: dict[str, Any] = {}
    readable = {name for name in wanted & set(has) if has[name] and start < (lengths[name] or math.inf)}
    if not readable and not ("text" in wanted and text and text.strip()):
        raise VideoError(
            f"{clip}: nothing to go by at {start:g} s: no {' and no '.join(sorted(wanted))}; the model reads these"
        )
    if readable:
        seconds = None if end is None else end - start
        read = clip_for(processor, clip, readable, start=start, seconds=seconds)
        given |= clip_inputs(processor, read, wanted)
    if "text" in wanted:
        given["text"] = [text]
    output = model(**{name: value.to(model.device) for name, value in processor(**given).items()})
    known = [seconds for seconds in lengths.values() if seconds is not None]
    return UtterancePrediction(
        start,
        max(known, default=None) if end is None else end,
        text,
        most_likely(output.emotion_logits[0], model.config.emotion_names),
        most_likely(output.sentiment_logits[0], model.config.sentiment_names),
        [name for name, has in zip(model.config.modalities, output.present[0].tolist(), strict=True) if not has],
    )


def most_likely(logits: torch.Tensor, names: Sequence[str]) -> list[LabelConfidence]:
    """Return the TOP classes, the most likely first."""
    confidences, codes = logits.double().softmax(-1).topk(min(TOP, len(names)))
    return [LabelConfidence(names[int(code)], c) for c, code in zip(confidences.tolist(), codes.tolist(), strict=True)]

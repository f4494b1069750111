"""Predict the emotions and sentiments of utterances, and write them as JSON.

A clip is one utterance, whose words `--text` gives, or a recording of several, which `--utterances` lists. A model of
text takes either of them without a clip.
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
from modeling import FusionConfig, FusionForEmotion, FusionProcessor
from system.text import plural, printable
from tasks.emotion.items import clip_for, clip_inputs
from tasks.emotion.subtitles import Utterance, read_utterances
from training.prediction import OF_SYNTHETIC_DATA, whole_file
from training.task import Predicted

TOP = 3  # classes that are listed per head
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", *SOUND_SUFFIXES)
# Ways to give a model something to read, by modality.
REMEDIES = {"text": "--text or --utterances", "video": "a clip with pictures", "audio": "a recording with sound"}


@dataclass(frozen=True)
class LabelConfidence:
    label: str
    confidence: float


@dataclass(frozen=True)
class UtterancePrediction:
    """The most likely emotions and sentiments of an utterance, the most likely first."""

    start_seconds: float | None  # None: of a line of text alone
    end_seconds: float | None  # None: also to the end of a clip that was streamed without a length
    speaker: str | None
    text: str | None
    emotions: list[LabelConfidence]
    sentiments: list[LabelConfidence]
    missing: list[str]  # modalities that the model reads and the utterance lacks


@dataclass(frozen=True)
class ClipPrediction:
    """The predictions for the utterances of a clip, or of a table of lines without one."""

    file: Path | None  # None: of a text of the command line
    utterances: list[UtterancePrediction]


def check_prediction(config: FusionConfig, clips: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together, and an utterance of which the model can read nothing."""
    text, utterances, reads = arguments.text, arguments.utterances, " and ".join(config.modalities)
    if text is not None and utterances is not None:
        raise ValueError(f"--text={text}: --utterances has the words, too. Give one of them.")
    if text is not None and "text" not in config.modalities:
        raise ValueError(f"--text={text}: the model reads {reads}. Leave it out.")
    if (text is not None or utterances is not None) and len(clips) > 1:
        raise ValueError(f"--text and --utterances are of one clip, and {len(clips)} came. Predict them one by one.")
    given = {"text"} if utterances is not None or (text is not None and text.strip()) else set()
    given |= {"audio"} if clips else set()
    given |= {"video"} if any(clip.suffix.lower() not in SOUND_SUFFIXES for clip in clips) else set()
    if not given & set(config.modalities):
        named = ", ".join(printable(clip) for clip in clips) or "no recording"
        remedy = " or ".join(REMEDIES[name] for name in config.modalities)
        raise ValueError(f"{named}: nothing to go by, for the model reads {reads}. Give {remedy}.")
    lines = [] if utterances is None else read_utterances(utterances)
    if clips and any(line.start_seconds is None for line in lines):
        raise ValueError(f"--utterances={utterances}: no columns start and end, which a recording needs. Add them.")
    empty = [place for place, line in enumerate(lines, 1) if not (line.text or "").strip()]
    if empty and not clips:
        raise ValueError(f"--utterances={utterances}: line {empty[0]} has no text. Leave it out, or add the clip.")


def predict_clips(
    model: FusionForEmotion, processor: FusionProcessor, clips: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Predict clips, or text without one, and write all predictions as one JSON file, whole or not at all."""
    utterances = [Utterance(0.0 if clips else None, None, arguments.text)]
    if arguments.utterances is not None:
        utterances = read_utterances(arguments.utterances)
    predictions, unreadable = [], []
    with tqdm(total=max(len(clips), 1) * len(utterances), desc="predicting", unit="utterance") as bar:
        for clip in clips or [None]:
            try:
                predicted = []
                for utterance in utterances:
                    predicted.append(predict_utterance(model, processor, clip, utterance))
                    bar.update()
                predictions.append(ClipPrediction(clip or arguments.utterances, predicted))
            except VideoError as error:
                unreadable.append(printable(error))
    if predictions:
        said = {OF_SYNTHETIC_DATA: True} if arguments.synthetic else {}
        records = [asdict(clip) | {"file": clip.file and printable(clip.file)} | said for clip in predictions]
        text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False)
        with whole_file(arguments.output) as file:
            file.write(text + "\n")
    lines = [line_of(utterance) for clip in predictions for utterance in clip.utterances]
    reads = " and ".join(model.config.modalities)
    summary = "\n".join([f"{plural(len(lines), 'utterance')}; the model reads {reads}", *lines])
    return Predicted(predictions, unreadable, summary)


def line_of(utterance: UtterancePrediction) -> str:
    """Write a prediction in one line, for the terminal."""
    emotions, sentiments = (
        ", ".join(f"{one.label} {one.confidence:.2f}" for one in ranked)
        for ranked in (utterance.emotions, utterance.sentiments)
    )
    missing = f" (without {' and '.join(utterance.missing)})" if utterance.missing else ""
    time = "" if utterance.start_seconds is None else f"{utterance.start_seconds:8.2f} s  "
    speaker = f"{utterance.speaker}: " if utterance.speaker else ""
    return f"{time}{speaker}{utterance.text or ''}: {emotions}; {sentiments}{missing}"


@torch.inference_mode()
def predict_utterance(
    model: FusionForEmotion, processor: FusionProcessor, clip: Path | None, utterance: Utterance
) -> UtterancePrediction:
    """Predict one utterance of a clip, or of text alone, from the modalities that it has."""
    given, end = ({}, utterance.end_seconds) if clip is None else read_part(model, processor, clip, utterance)
    if "text" in model.config.modalities:
        given["text"] = [utterance.text]
    output = model(**{name: value.to(model.device) for name, value in processor(**given).items()})
    return UtterancePrediction(
        utterance.start_seconds,
        end,
        utterance.speaker,
        utterance.text,
        most_likely(output.emotion_logits[0], model.config.emotion_names),
        most_likely(output.sentiment_logits[0], model.config.sentiment_names),
        [name for name, has in zip(model.config.modalities, output.present[0].tolist(), strict=True) if not has],
    )


def read_part(
    model: FusionForEmotion, processor: FusionProcessor, clip: Path, utterance: Utterance
) -> tuple[dict[str, Any], float | None]:
    """The processor's inputs from an utterance's part of a clip, and the end of it in s, where one is known."""
    wanted = set(model.config.modalities)
    facts = probe_clip(clip)
    start, end, text = utterance.start_seconds or 0.0, utterance.end_seconds, utterance.text
    lengths = {"video": facts.video_seconds, "audio": facts.audio_seconds}  # s
    has = {"video": facts.has_video, "audio": facts.sampling_rate is not None}
    readable = {name for name in wanted & set(has) if has[name] and start < (lengths[name] or math.inf)}
    if not readable and not ("text" in wanted and text and text.strip()):
        raise VideoError(
            f"{clip}: nothing to go by at {start:g} s: no {' and no '.join(sorted(wanted))}; the model reads these"
        )
    known = [seconds for seconds in lengths.values() if seconds is not None]
    whole_end = max(known, default=None) if end is None else end
    if not readable:
        return {}, whole_end
    read = clip_for(processor, clip, readable, start=start, seconds=None if end is None else end - start)
    return clip_inputs(processor, read, wanted), whole_end


def most_likely(logits: torch.Tensor, names: Sequence[str]) -> list[LabelConfidence]:
    """Return the TOP classes, the most likely first."""
    confidences, codes = logits.double().softmax(-1).topk(min(TOP, len(names)))
    return [LabelConfidence(names[int(code)], c) for c, code in zip(confidences.tolist(), codes.tolist(), strict=True)]

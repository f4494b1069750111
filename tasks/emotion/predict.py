"""Predict the emotion and sentiment of utterances, and write the predictions as JSON.

A clip is either one utterance, whose text is given by `--text`, or a recording with several utterances, which are
listed by `--utterances`. A model that reads text also accepts either option without a clip.
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
from tasks.emotion.items import clip_inputs, read_clip_for
from tasks.emotion.subtitles import Utterance, read_utterances
from training.prediction import OF_SYNTHETIC_DATA, whole_file
from training.task import Predicted

TOP = 3  # classes that a prediction lists per head
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Sound files are accepted as clips without video.
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", *SOUND_SUFFIXES)
# Modality -> how to provide it, for error messages.
REMEDIES = {"text": "--text or --utterances", "video": "a clip with video", "audio": "a recording with sound"}


@dataclass(frozen=True)
class LabelConfidence:
    label: str
    confidence: float


@dataclass(frozen=True)
class UtterancePrediction:
    """The predictions for one utterance, with the most likely classes first."""

    start_seconds: float | None  # None: a line of text without a recording
    end_seconds: float | None  # None: as above, or the length of the clip is unknown
    speaker: str | None
    text: str | None
    emotions: list[LabelConfidence]
    sentiments: list[LabelConfidence]
    missing: list[str]  # modalities that the model reads but the utterance lacks


@dataclass(frozen=True)
class ClipPrediction:
    """The predictions for the utterances of a clip, or of a table of texts."""

    file: Path | None  # None: the text of --text
    utterances: list[UtterancePrediction]


def check_prediction(config: FusionConfig, clips: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Raise ValueError if options contradict each other, or if the model cannot read anything that is given."""
    text, utterances, reads = arguments.text, arguments.utterances, " and ".join(config.modalities)
    if text is not None and utterances is not None:
        raise ValueError(f"--text={text}: --utterances also gives texts. Give only one of the two.")
    if text is not None and "text" not in config.modalities:
        raise ValueError(f"--text={text}: the model reads {reads}. Remove --text.")
    if (text is not None or utterances is not None) and len(clips) > 1:
        raise ValueError(f"clips={len(clips)}: --text and --utterances describe one clip. Predict one clip at a time.")
    # Judged by suffixes alone, because this runs before any file is opened.
    available = {"text"} if utterances is not None or (text is not None and text.strip()) else set()
    available |= {"audio"} if clips else set()
    available |= {"video"} if any(clip.suffix.lower() not in SOUND_SUFFIXES for clip in clips) else set()
    if not available & set(config.modalities):
        files = ", ".join(printable(clip) for clip in clips) or "no recording"
        remedy = " or ".join(REMEDIES[name] for name in config.modalities)
        raise ValueError(f"{files}: no usable input, because the model reads {reads}. Give {remedy}.")
    lines = [] if utterances is None else read_utterances(utterances)
    if clips and any(line.start_seconds is None for line in lines):
        raise ValueError(f"--utterances={utterances}: a recording needs the columns start and end. Add them.")
    empty = [number for number, line in enumerate(lines, 1) if not (line.text or "").strip()]
    if empty and not clips:
        raise ValueError(f"--utterances={utterances}: line {empty[0]} has no text. Remove it, or give the clip.")


def predict_clips(
    model: FusionForEmotion, processor: FusionProcessor, clips: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Predict clips or texts, and write all predictions to one JSON file, or nothing if an error occurs."""
    # Without --utterances, a clip is one utterance from its start to its end.
    utterances = [Utterance(0.0 if clips else None, None, arguments.text)]
    if arguments.utterances is not None:
        utterances = read_utterances(arguments.utterances)
    predictions, unreadable = [], []
    with tqdm(total=max(len(clips), 1) * len(utterances), desc="predicting", unit="utterance") as bar:
        for clip in clips or [None]:  # None: texts without a clip
            try:
                predicted = []
                for utterance in utterances:
                    predicted.append(predict_utterance(model, processor, clip, utterance))
                    bar.update()
                predictions.append(ClipPrediction(clip or arguments.utterances, predicted))
            # One unreadable clip must not cost the predictions of the others.
            except VideoError as error:
                unreadable.append(printable(error))
    if predictions:
        notice = {OF_SYNTHETIC_DATA: True} if arguments.synthetic else {}
        # A file name may hold bytes that are not UTF-8, which JSON cannot store.
        records = [asdict(clip) | {"file": clip.file and printable(clip.file)} | notice for clip in predictions]
        # allow_nan=False, because NaN is not valid JSON.
        text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False)
        with whole_file(arguments.output) as file:
            file.write(text + "\n")
    lines = [format_line(utterance) for clip in predictions for utterance in clip.utterances]
    reads = ", ".join(model.config.modalities)
    summary = "\n".join([f"{plural(len(lines), 'utterance')}; the model reads {reads}", *lines])
    return Predicted(predictions, unreadable, summary)


def format_line(utterance: UtterancePrediction) -> str:
    """Return a prediction as one line for the terminal."""
    emotions, sentiments = (
        ", ".join(f"{item.label} {item.confidence:.2f}" for item in ranked)
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
    """Predict one utterance of a clip, or one text if `clip` is None, from the modalities that it has."""
    if clip is None:
        inputs, end = {}, utterance.end_seconds
    else:
        inputs, end = read_clip_section(model, processor, clip, utterance)
    if "text" in model.config.modalities:
        inputs["text"] = [utterance.text]  # None: the processor masks it, like every missing modality
    output = model(**{name: value.to(model.device) for name, value in processor(**inputs).items()})
    return UtterancePrediction(
        utterance.start_seconds,
        end,
        utterance.speaker,
        utterance.text,
        most_likely(output.emotion_logits[0], model.config.emotion_names),
        most_likely(output.sentiment_logits[0], model.config.sentiment_names),
        [name for name, has in zip(model.config.modalities, output.present[0].tolist(), strict=True) if not has],
    )


def read_clip_section(
    model: FusionForEmotion, processor: FusionProcessor, clip: Path, utterance: Utterance
) -> tuple[dict[str, Any], float | None]:
    """Return the processor's inputs for the section of a clip, and the end of the section in seconds, if known.

    Raises:
        VideoError: The section and the text of the utterance lack every modality that the model reads.
    """
    wanted = set(model.config.modalities)
    facts = probe_clip(clip)
    start, end, text = utterance.start_seconds or 0.0, utterance.end_seconds, utterance.text
    lengths = {"video": facts.video_seconds, "audio": facts.audio_seconds}  # seconds, None: unknown
    has = {"video": facts.has_video, "audio": facts.sampling_rate is not None}
    # A stream of unknown length counts as readable. If it ends before `start`, decoding finds out.
    readable = {name for name in wanted & set(has) if has[name] and start < (lengths[name] or math.inf)}
    if not readable and not ("text" in wanted and text and text.strip()):
        raise VideoError(
            f"{clip}: no {' and no '.join(sorted(wanted))} at {start:g} s, and the model reads nothing else. Remove "
            "the utterance, or give another clip."
        )
    known_lengths = [seconds for seconds in lengths.values() if seconds is not None]
    section_end = max(known_lengths, default=None) if end is None else end
    if not readable:
        return {}, section_end
    section = read_clip_for(processor, clip, readable, start=start, seconds=None if end is None else end - start)
    return clip_inputs(processor, section, wanted), section_end


def most_likely(logits: torch.Tensor, names: Sequence[str]) -> list[LabelConfidence]:
    """Return the TOP classes with their softmax confidences, most likely first."""
    # float64, so that the confidences of all classes do not visibly sum to more than 1.
    confidences, codes = logits.double().softmax(-1).topk(min(TOP, len(names)))
    pairs = zip(confidences.tolist(), codes.tolist(), strict=True)
    return [LabelConfidence(names[int(code)], confidence) for confidence, code in pairs]

"""A saved model on clips of one's own: emotion and sentiment of each utterance, with its time and text, as JSON.

A clip is one utterance, with `--text` what is said in it; or a recording of many, cut by a table of utterances.
"""

import argparse
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from media.video import VideoError, probe_clip
from modeling import FusionForEmotion, FusionProcessor
from tasks.emotion.items import clip_for, clip_inputs
from tasks.emotion.subtitles import Said, read_utterances
from training.task import Predicted

TOP = 3  # classes that are named of each head
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wav", ".flac", ".ogg", ".mp3")


@dataclass(frozen=True)
class Felt:
    """What a model says of an utterance."""

    start_seconds: float
    end_seconds: float | None  # None: to the end of a clip that was streamed without a length
    text: str | None
    emotions: list[dict[str, Any]]  # the TOP of them, as {"label": ..., "confidence": ...}
    sentiments: list[dict[str, Any]]
    missing: list[str]  # modalities that the model knows and did not get


@dataclass(frozen=True)
class EmotionPrediction:
    """What a model says of a clip."""

    file: Path
    utterances: list[Felt]


def predict_clips(
    model: FusionForEmotion, processor: FusionProcessor, clips: Sequence[Path], arguments: argparse.Namespace
) -> Predicted:
    """Write all predictions as one JSON, whole or not at all; they, why some clips have none, and what was written."""
    if arguments.text is not None and arguments.utterances is not None:
        raise ValueError("--text and --utterances both say what is said; give one of them")
    if arguments.text is not None and "text" not in model.config.modalities:
        raise ValueError(f"--text: the model reads {' and '.join(model.config.modalities)}; leave it out")
    if (arguments.text is not None or arguments.utterances is not None) and len(clips) > 1:
        raise ValueError(f"--text and --utterances are of one clip, and {len(clips)} came; predict them one by one")
    said = [Said(0.0, None, arguments.text)]
    if arguments.utterances is not None:
        said = read_utterances(arguments.utterances)
    found, failed = [], []
    for clip in tqdm(clips, desc="predicting", unit="clip"):
        try:
            found.append(EmotionPrediction(clip, [felt(model, processor, clip, each) for each in said]))
        except VideoError as error:
            failed.append(str(error))
    if found:
        records = [asdict(clip) | {"file": str(clip.file)} for clip in found]
        text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False)
        draft = arguments.output.with_name(arguments.output.name + ".part")
        draft.write_text(text + "\n", encoding="utf-8")
        os.replace(draft, arguments.output)
    count = sum(len(clip.utterances) for clip in found)
    return Predicted(found, failed, f"{count} utterances, by {' and '.join(model.config.modalities)}\n{shown(found)}")


def shown(found: Sequence[EmotionPrediction]) -> str:
    """A line an utterance."""
    lines = []
    for clip in found:
        for one in clip.utterances:
            names = ", ".join(f"{e['label']} {e['confidence']:.2f}" for e in one.emotions)
            moods = ", ".join(f"{e['label']} {e['confidence']:.2f}" for e in one.sentiments)
            lack = f" (without {' and '.join(one.missing)})" if one.missing else ""
            lines.append(f"{one.start_seconds:8.2f} s  {one.text or ''}: {names}; {moods}{lack}")
    return "\n".join(lines)


@torch.inference_mode()
def felt(model: FusionForEmotion, processor: FusionProcessor, clip: Path, said: Said) -> Felt:
    """What the model says of one utterance of a clip, by what there is of it."""
    wanted = set(model.config.modalities)
    facts = probe_clip(clip)
    lasts = {"video": facts.video_seconds, "audio": facts.audio_seconds}  # s
    has = {"video": facts.width is not None, "audio": facts.sampling_rate is not None}
    given: dict[str, Any] = {}
    readable = {name for name in wanted & set(has) if has[name] and said.start_seconds < (lasts[name] or math.inf)}
    if not readable and not ("text" in wanted and said.text and said.text.strip()):
        raise VideoError(
            f"{clip}: nothing to go by at {said.start_seconds:g} s: no {' and no '.join(sorted(wanted))}; the model "
            "reads these"
        )
    if readable:
        seconds = None if said.end_seconds is None else said.end_seconds - said.start_seconds
        read = clip_for(processor, clip, readable, start=said.start_seconds, seconds=seconds)
        given |= clip_inputs(processor, read, wanted)
    if "text" in wanted:
        given["text"] = [said.text]
    output = model(**{name: value.to(model.device) for name, value in processor(**given).items()})
    there = dict(zip(model.config.modalities, output.present[0].tolist(), strict=True))
    known = [seconds for seconds in lasts.values() if seconds is not None]
    return Felt(
        said.start_seconds,
        max(known, default=None) if said.end_seconds is None else said.end_seconds,
        said.text,
        most_likely(output.emotion_logits[0], model.config.emotion_names),
        most_likely(output.sentiment_logits[0], model.config.sentiment_names),
        [name for name, given in there.items() if not given],
    )


def most_likely(logits: torch.Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """The TOP classes, the likeliest first."""
    confidence, place = logits.double().softmax(-1).topk(min(TOP, len(names)))
    return [{"label": names[i], "confidence": c} for c, i in zip(confidence.tolist(), place.tolist(), strict=True)]

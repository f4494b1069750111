"""A saved model on clips of one's own: emotion and sentiment of each utterance, with its time and text, as JSON.

A clip is one utterance, with `--text` what is said in it; or a recording of many, cut by a table of utterances.
"""

import argparse
import csv
import html
import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from media.video import VideoError, probe_clip
from modeling import FusionForEmotion, FusionProcessor
from training.utterances import clip_for, clip_inputs

TOP = 3  # classes that are named of each head
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wav", ".flac", ".ogg", ".mp3")
TIME = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?")
ARROW = re.compile(r"\s*(\S+)\s+-->\s+(\S+)")  # of a cue in .srt and .vtt
TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # markup in cues


@dataclass(frozen=True)
class Said:
    """An utterance of a recording."""

    start_seconds: float
    end_seconds: float | None  # None: to the end of the clip
    text: str | None


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
) -> tuple[list[EmotionPrediction], list[str], str]:
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
    return found, failed, f"{count} utterances, by {' and '.join(model.config.modalities)}\n{shown(found)}"


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


def read_utterances(path: Path) -> list[Said]:
    """The utterances of a .srt, a .vtt, or a .csv with the columns start, end (seconds or h:mm:ss.ms) and text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give .srt, .vtt or .csv in UTF-8") from error
    if path.suffix.lower() == ".csv":
        said = csv_utterances(text, path)
    elif path.suffix.lower() in (".srt", ".vtt"):
        said = cue_utterances(text, path)
    else:
        raise ValueError(f"{path}: utterances come as .srt, .vtt or .csv")
    if not said:
        raise ValueError(f"{path}: holds no utterance")
    return said


def cue_utterances(text: str, path: Path) -> list[Said]:
    """Cues of subtitles: a line with an arrow, and the lines after it up to an empty one."""
    said = []
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        cue = ARROW.match(line)
        if not cue:
            continue
        words, place = [], f"{path}:{number}"
        for other, following in lines:
            if not following.strip():
                break
            if ARROW.match(following):
                raise ValueError(f"{path}:{other}: a cue within that of line {number}; put an empty line between them")
            words.append(TAG.sub("", following).strip())
        spoken = " ".join(words)
        spoken = html.unescape(spoken) if path.suffix.lower() == ".vtt" else spoken
        said.append(checked(seconds_of(cue[1], place), seconds_of(cue[2], place), spoken, place))
    return said


def csv_utterances(text: str, path: Path) -> list[Said]:
    """Rows of a table."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    said = []
    try:
        lacking = [name for name in ("start", "end", "text") if name not in (reader.fieldnames or [])]
        if lacking:
            raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}; it has {reader.fieldnames}")
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if None in row:
                raise ValueError(f"{place}: more cells than columns; put a text with commas in quotes")
            start, end = (seconds_of(row[name], place) for name in ("start", "end"))
            said.append(checked(start, end, row["text"] or "", place))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: {error}; look for a quote that is not closed") from error
    return said


def seconds_of(cell: str | None, place: str) -> float:
    """Seconds, or hours:minutes:seconds with a comma or a point before the milliseconds."""
    cell = (cell or "").strip()
    match = TIME.fullmatch(cell)
    if match:
        hours, minutes, seconds, thousandths = match.groups(default="0")
        whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        return (whole * 1000 + int(thousandths.ljust(3, "0"))) / 1000
    try:
        seconds = float(cell)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{place}: {cell!r} is no time; give seconds or h:mm:ss.ms")
    return seconds


def checked(start: float, end: float, text: str, place: str) -> Said:
    """An utterance that takes time."""
    if not end > start:
        raise ValueError(f"{place}: ends at {end} s, not after its start at {start} s")
    return Said(start, end, text)

"""Read utterances from subtitles (.srt, .vtt) or a csv file."""

import csv
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

TIME = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?")
ARROW = re.compile(r"\s*(\S+)\s+-->\s+(\S+)")  # of a cue in .srt and .vtt
TAG = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # markup in cues


@dataclass(frozen=True)
class Utterance:
    """An utterance of a recording, or a line of text alone."""

    start_seconds: float | None  # None: of a line without a recording
    end_seconds: float | None  # None: to the end of the clip
    text: str | None
    speaker: str | None = None


def read_utterances(path: Path) -> list[Utterance]:
    """Read a .srt, a .vtt, or a .csv with the column text, and optionally speaker, start and end.

    Times are in seconds or h:mm:ss.ms; a table without these columns has lines of text alone.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give .srt, .vtt or .csv in UTF-8") from error
    if path.suffix.lower() == ".csv":
        utterances = csv_utterances(text, path)
    elif path.suffix.lower() in (".srt", ".vtt"):
        utterances = cue_utterances(text, path)
    else:
        raise ValueError(f"{path}: utterances come as .srt, .vtt or .csv")
    if not utterances:
        raise ValueError(f"{path}: holds no utterance")
    return utterances


def cue_utterances(text: str, path: Path) -> list[Utterance]:
    """Read the cues of subtitles: a line with an arrow, and the lines after it up to an empty one."""
    utterances = []
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
        utterances.append(checked(seconds_of(cue[1], place), seconds_of(cue[2], place), spoken, place))
    return utterances


def csv_utterances(text: str, path: Path) -> list[Utterance]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    utterances = []
    try:
        columns = set(reader.fieldnames or [])
        timed = bool(columns & {"start", "end"})
        lacking = [name for name in (("start", "end") if timed else ()) + ("text",) if name not in columns]
        if lacking:
            raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}; it has {reader.fieldnames}")
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if None in row:
                raise ValueError(f"{place}: more cells than columns; put a text with commas in quotes")
            text, speaker = row["text"] or "", row.get("speaker") or None
            if timed:
                start, end = (seconds_of(row[name], place) for name in ("start", "end"))
                utterances.append(checked(start, end, text, place, speaker))
            else:
                utterances.append(Utterance(None, None, text, speaker))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: {error}; look for a quote that is not closed") from error
    return utterances


def seconds_of(cell: str | None, place: str) -> float:
    """Read seconds, or hours:minutes:seconds with a comma or a point before the milliseconds."""
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


def checked(start: float, end: float, text: str, place: str, speaker: str | None = None) -> Utterance:
    """Return an utterance; refuse one that ends before it starts."""
    if not end > start:
        raise ValueError(f"{place}: ends at {end} s, not after its start at {start} s")
    return Utterance(start, end, text, speaker)

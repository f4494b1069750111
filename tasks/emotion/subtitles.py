"""Read utterances from subtitles (.srt, .vtt) or a .csv table."""

import csv
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

# Hours are optional, and subtitles use either a comma (.srt) or a point (.vtt) before the milliseconds.
TIME = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?")
CUE_TIMES = re.compile(r"\s*(\S+)\s+-->\s+(\S+)")  # the line of a cue with its start and end
MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")  # <i>...</i> of both formats, {\an8} of .srt


@dataclass(frozen=True)
class Utterance:
    """An utterance of a recording, or a line of text without a recording."""

    start_seconds: float | None  # None: a line without a recording
    end_seconds: float | None  # None: up to the end of the clip
    text: str | None
    speaker: str | None = None


def read_utterances(path: Path) -> list[Utterance]:
    """Read utterances from a .srt, .vtt or .csv file.

    A .csv needs the column `text`. `speaker`, `start` and `end` are optional. Times are seconds or h:mm:ss.ms. Without
    times, the rows are lines of text without a recording.

    Raises:
        ValueError: The file could not be read, or holds no utterance or a mistake, which is named with its line.
    """
    try:
        # utf-8-sig drops the byte order mark that many Windows programs write.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: could not be read ({error}). Give a .srt, .vtt or .csv file in UTF-8.") from error
    if path.suffix.lower() == ".csv":
        utterances = csv_utterances(text, path)
    elif path.suffix.lower() in (".srt", ".vtt"):
        utterances = cue_utterances(text, path)
    else:
        raise ValueError(f"{path}: not a table of utterances. Give a .srt, .vtt or .csv file.")
    if not utterances:
        raise ValueError(f"{path}: no utterance found. Check that the file has cues or rows.")
    return utterances


def cue_utterances(text: str, path: Path) -> list[Utterance]:
    """Read the cues of subtitles. A cue is a line with its times, and the lines after it up to an empty one."""
    utterances = []
    # One iterator for both loops: the inner loop consumes the text lines of a cue. The "\n" is explicit because
    # splitlines would also split at characters that may occur within a text, such as U+2028.
    lines = iter(enumerate(text.split("\n"), 1))
    for number, line in lines:
        times = CUE_TIMES.match(line)
        if not times:
            continue
        parts, location = [], f"{path}:{number}"
        for text_number, text_line in lines:
            if not text_line.strip():
                break
            if CUE_TIMES.match(text_line):
                raise ValueError(
                    f"{path}:{text_number}: a cue starts inside the cue of line {number}. Put an empty line between "
                    "them."
                )
            parts.append(MARKUP.sub("", text_line).strip())
        spoken = " ".join(parts)
        # Only .vtt defines entities like &amp;. In .srt they are plain text.
        spoken = html.unescape(spoken) if path.suffix.lower() == ".vtt" else spoken
        start, end = (seconds_of(time, location) for time in times.groups())
        utterances.append(make_utterance(start, end, spoken, location))
    return utterances


def csv_utterances(text: str, path: Path) -> list[Utterance]:
    # strict: otherwise a quote that is not closed swallows the rest of the file without an error.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    utterances = []
    try:
        columns = set(reader.fieldnames or [])
        timed = bool(columns & {"start", "end"})
        missing = [name for name in (("start", "end") if timed else ()) + ("text",) if name not in columns]
        if missing:
            raise ValueError(f"{path}: missing columns: {', '.join(missing)} (found {reader.fieldnames}). Add them.")
        for row in reader:
            location = f"{path}:{reader.line_num}"
            if None in row:  # the key under which DictReader stores surplus cells
                raise ValueError(f"{location}: more cells than columns. Put texts with commas in quotes.")
            text, speaker = row["text"] or "", row.get("speaker") or None
            if timed:
                start, end = (seconds_of(row[name], location) for name in ("start", "end"))
                utterances.append(make_utterance(start, end, text, location, speaker))
            else:
                utterances.append(Utterance(None, None, text, speaker))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.reader.line_num}: {error}. Look for a quote that is not closed.") from error
    return utterances


def seconds_of(cell: str | None, location: str) -> float:
    """Parse a time in seconds, or as h:mm:ss.ms with a point or a comma."""
    cell = (cell or "").strip()
    match = TIME.fullmatch(cell)
    if match:
        hours, minutes, seconds, thousandths = match.groups(default="0")
        whole_seconds = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        # Integer milliseconds and one division give the float closest to the written time.
        return (whole_seconds * 1000 + int(thousandths.ljust(3, "0"))) / 1000
    try:
        seconds = float(cell)
    except ValueError:
        seconds = -1.0  # rejected below, like NaN and infinity
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{location}: {cell!r}: not a time. Give seconds or h:mm:ss.ms.")
    return seconds


def make_utterance(start: float, end: float, text: str, location: str, speaker: str | None = None) -> Utterance:
    """Return an utterance. Raise ValueError if it does not end after its start."""
    if not end > start:
        raise ValueError(f"{location}: end={end}: not after start={start}. Correct the times.")
    return Utterance(start, end, text, speaker)

"""Parse MELD's tables, in any of the encodings of their copies: one row per utterance, with its defects."""

import re
from dataclasses import dataclass, field

from ..csv_tables import by_name, errors_in, read_columns, refuse_zero_bytes
from ..defects import make_defect

SPLITS = ("train", "dev", "test")
EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
SENTIMENTS = ("negative", "neutral", "positive")
IMPLIED = {  # the sentiments of each emotion in the real tables
    "anger": ("negative",),
    "disgust": ("negative",),
    "fear": ("negative",),
    "joy": ("positive",),
    "neutral": ("neutral",),
    "sadness": ("negative",),
    "surprise": ("negative", "positive"),
}
COLUMNS = (
    "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode", "StartTime",
    "EndTime",
)  # fmt: skip
CLOCK = re.compile(r"(\d{1,2}):([0-5]?\d):([0-5]?\d)(?:[,.](\d{1,6}))?")  # a quarter of the rows have one-digit hours
MAX_SECONDS = 30.0  # only three real utterances are longer, all cut wrongly; the longest correct one has 28.5 s
# The C1 control characters, as Windows-1252 reads the same bytes: 0x92 is an apostrophe.
C1 = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}


@dataclass
class Utterance:
    """One row of a table."""

    split: str
    dialogue_id: int
    number: int  # Utterance_ID; it has gaps
    turn: int  # position among the dialogue's rows, from 0, without gaps
    text: str
    speaker: str
    emotion: str
    sentiment: str
    season: int
    episode: int
    start_seconds: float | None
    end_seconds: float | None
    clip: str | None = None  # path of its file below the root
    looked_for: bool = True  # whether its split has any clips
    defects: list[dict] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, int]:
        """The unique key: ids alone repeat from split to split."""
        return self.split, self.dialogue_id, self.number

    @property
    def dialogue(self) -> str:
        """The name of its dialogue, for example train_dia0."""
        return f"{self.split}_dia{self.dialogue_id}"

    @property
    def seconds(self) -> float | None:
        """The length by the table; None if a time is missing or the end is not after the start."""
        if self.start_seconds is None or self.end_seconds is None or self.end_seconds <= self.start_seconds:
            return None
        return self.end_seconds - self.start_seconds


def read_utterances(data: bytes, split: str, where: str) -> tuple[list[Utterance], list[dict]]:
    """Return the rows of a table, and defects of the table as a whole.

    Of rows with the same key only the first is kept. Raise ValueError with the line number for an unknown label or a
    malformed number.

    Args:
        data: content of the table.
        split: one of SPLITS.
        where: full path of the table, for messages.
    """
    text, defects = decode_table(data, where)
    utterances: dict[tuple[int, int], Utterance] = {}
    repeated: dict[tuple[int, int], list[int]] = {}
    turns: dict[int, list[Utterance]] = {}
    for line, cells in by_name(*read_columns(text, where, COLUMNS)):
        if not any(cells.values()):
            continue
        at = f"{where} line {line}"
        key = (_integer(cells, "Dialogue_ID", at), _integer(cells, "Utterance_ID", at))
        if key in utterances:
            repeated.setdefault(key, []).append(line)
            continue
        before = turns.setdefault(key[0], [])
        utterance = Utterance(
            split,
            *key,
            turn=len(before),
            text=cells["utterance"],
            speaker=cells["speaker"],
            emotion=_one_of(EMOTIONS, cells, "Emotion", at),
            sentiment=_one_of(SENTIMENTS, cells, "Sentiment", at),
            season=_integer(cells, "Season", at),
            episode=_integer(cells, "Episode", at),
            start_seconds=None,
            end_seconds=None,
        )
        _set_times(utterance, cells)
        _note_defects(utterance, before[-1] if before else None)
        before.append(utterance)
        utterances[key] = utterance
    for key, lines in repeated.items():
        detail = f"left out: line {', '.join(map(str, lines))}"
        utterances[key].defects.append(make_defect("duplicate_utterance", len(lines), detail=detail))
    return list(utterances.values()), defects


def decode_table(data: bytes, where: str) -> tuple[str, list[dict]]:
    """Decode a table as UTF-8, but lines that are not UTF-8 as Windows-1252; returns the text and its defects.

    C1 control characters are also read as Windows-1252.
    """
    # Older copies of MELD have the byte 0x92 for an apostrophe. Others were converted from there to UTF-8 as if that
    # were Latin-1, and have the character U+0092.
    with errors_in(where):
        refuse_zero_bytes(data)
    name = where.rsplit("/", 1)[-1]
    lines, first, not_utf8, controls = [], None, 0, 0
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode()
            controls += sum(ord(character) in C1 for character in text)
        except UnicodeDecodeError:
            # Latin-1 never fails; together with the translation below it is Windows-1252.
            text, first, not_utf8 = line.decode("latin-1"), first or number, not_utf8 + 1
        lines.append(text.translate(C1))
    defects = []
    if not_utf8:
        defects.append(make_defect("table_not_utf8", not_utf8, detail=f"{name}: first in line {first}"))
    if controls:
        defects.append(make_defect("control_characters", controls, detail=name))
    return "\n".join(lines), defects


def parse_clock(cell: str) -> float | None:
    """Return the seconds of a time like "0:16:21,731" or "00:16:21.731"; None for anything else."""
    match = CLOCK.fullmatch(cell.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups(default="")
    whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    # One division of integers, so that the result is the float nearest to the decimal number.
    return int(f"{whole}{fraction}") / 10 ** len(fraction)


def clock_text(seconds: float) -> str:
    """Format a time in the style of MELD's tables."""
    whole, milli = divmod(round(seconds * 1000), 1000)
    # The real tables have one-digit hours in a quarter of the rows, here those with milliseconds that end in 0 or 5.
    hours = f"{whole // 3600}" if milli % 5 == 0 else f"{whole // 3600:02d}"
    return f"{hours}:{whole // 60 % 60:02d}:{whole % 60:02d},{milli:03d}"


def _integer(cells: dict[str, str], column: str, at: str) -> int:
    cell = cells[column.lower()]
    if not re.fullmatch(r"\d{1,9}", cell):
        raise ValueError(f"{at}: {column}={cell!r}: must be an integer, 0 or more. Correct the cell.")
    return int(cell)


def _one_of(names: tuple[str, ...], cells: dict[str, str], column: str, at: str) -> str:
    name = cells[column.lower()].lower()
    if name not in names:
        raise ValueError(f"{at}: {column}={name!r}: must be one of {', '.join(names)}. Correct the cell.")
    return name


def _set_times(utterance: Utterance, cells: dict[str, str]) -> None:
    utterance.start_seconds, utterance.end_seconds = parse_clock(cells["starttime"]), parse_clock(cells["endtime"])
    for column, seconds in (("StartTime", utterance.start_seconds), ("EndTime", utterance.end_seconds)):
        if seconds is None:
            detail = f"{column} is {cells[column.lower()]!r}"
            utterance.defects.append(make_defect("unreadable_time", detail=detail))


def _note_defects(utterance: Utterance, before: Utterance | None) -> None:
    """Add the defects that the table alone shows; `before` is the previous row of the dialogue."""
    note = utterance.defects.append
    start, end = utterance.start_seconds, utterance.end_seconds
    if not utterance.text:
        note(make_defect("empty_text"))
    if utterance.sentiment not in IMPLIED[utterance.emotion]:
        note(make_defect("sentiment_mismatch", detail=f"{utterance.emotion} and {utterance.sentiment}"))
    if start is not None and end is not None and end <= start:
        note(make_defect("no_duration", end - start))
    if utterance.seconds is not None and utterance.seconds > MAX_SECONDS:
        note(make_defect("long_by_table", utterance.seconds))
    if before and before.start_seconds is not None and start is not None and start < before.start_seconds:
        note(make_defect("time_backwards", before.start_seconds - start))

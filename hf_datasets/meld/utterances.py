"""MELD's tables: text in any of the encodings that copies have, a row an utterance, and what is odd about each."""

import re
from dataclasses import dataclass, field

from ..csv_tables import by_name, errors_in, read_columns, refuse_zero_bytes
from ..defects import make_defect

SPLITS = ("train", "dev", "test")
EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
SENTIMENTS = ("negative", "neutral", "positive")
IMPLIED = {  # the sentiment that every real row of an emotion has; surprise may have either
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
CLOCK = re.compile(r"(\d{1,2}):([0-5]?\d):([0-5]?\d)(?:[,.](\d{1,6}))?")  # hours have one digit in a quarter of rows
LONGEST = 30.0  # s: of the real utterances three are longer, all wrongly cut, and the fourth has 28.5 s
C1 = {code: bytes([code]).decode("cp1252", errors="replace") for code in range(0x80, 0xA0)}  # 0x92 is an apostrophe


@dataclass
class Utterance:
    """One row of a table. `clip` is its file's path below the root, None where there is none."""

    split: str
    dialogue_id: int
    number: int  # Utterance_ID; it has gaps
    turn: int  # place among the dialogue's rows, from 0
    text: str
    speaker: str
    emotion: str
    sentiment: str
    season: int
    episode: int
    start_seconds: float | None
    end_seconds: float | None
    clip: str | None = None
    looked_for: bool = True  # whether there are clips of its split at all
    defects: list[dict] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int, int]:
        """What tells utterances apart: ids begin anew in each split."""
        return self.split, self.dialogue_id, self.number

    @property
    def dialogue(self) -> str:
        """Name of its dialogue, such as train_dia0."""
        return f"{self.split}_dia{self.dialogue_id}"

    @property
    def seconds(self) -> float | None:
        """How long it lasts by the table, None where that says nothing."""
        if self.start_seconds is None or self.end_seconds is None or self.end_seconds <= self.start_seconds:
            return None
        return self.end_seconds - self.start_seconds


def read_utterances(data: bytes, split: str, where: str) -> tuple[list[Utterance], list[dict]]:
    """The rows of a table in its order, and defects of the table itself; `where` is its full path, for errors.

    Names and numbers that cannot be understood are a ValueError with the line. Of rows with one key the first stays.
    """
    text, defects = decode_table(data, where)
    utterances: dict[tuple[int, int], Utterance] = {}
    repeated: dict[tuple[int, int], list[int]] = {}
    turns: dict[int, list[Utterance]] = {}
    for line, cells in by_name(*read_columns(text, where, COLUMNS)):
        if not any(cells.values()):
            continue
        place = f"{where} line {line}"
        key = (_whole(cells, "Dialogue_ID", place), _whole(cells, "Utterance_ID", place))
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
            emotion=_one_of(EMOTIONS, cells, "Emotion", place),
            sentiment=_one_of(SENTIMENTS, cells, "Sentiment", place),
            season=_whole(cells, "Season", place),
            episode=_whole(cells, "Episode", place),
            start_seconds=None,
            end_seconds=None,
        )
        _take_times(utterance, cells)
        _note_oddities(utterance, before[-1] if before else None)
        before.append(utterance)
        utterances[key] = utterance
    for key, lines in repeated.items():
        detail = f"left out: line {', '.join(map(str, lines))}"
        utterances[key].defects.append(make_defect("duplicate_utterance", len(lines), detail=detail))
    return list(utterances.values()), defects


def decode_table(data: bytes, where: str) -> tuple[str, list[dict]]:
    """A table's text: UTF-8, and Windows-1252 in lines that are not; C1 controls are what that has in their place.

    Older copies of MELD hold the byte 0x92 where an apostrophe should be, or the character U+0092.
    """
    with errors_in(where):
        refuse_zero_bytes(data)
    name = where.rsplit("/", 1)[-1]
    lines, first, others, controls = [], None, 0, 0
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode()
            controls += sum(ord(character) in C1 for character in text)
        except UnicodeDecodeError:
            text, first, others = line.decode("latin-1"), first or number, others + 1
        lines.append(text.translate(C1))
    defects = []
    if others:
        defects.append(make_defect("table_not_utf8", others, detail=f"{name}: first in line {first}"))
    if controls:
        defects.append(make_defect("control_characters", controls, detail=name))
    return "\n".join(lines), defects


def parse_clock(cell: str) -> float | None:
    """Seconds of "0:16:21,731" or "00:16:21.731"; None for anything else."""
    match = CLOCK.fullmatch(cell.strip())
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups(default="")
    whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
    return int(f"{whole}{fraction}") / 10 ** len(fraction)


def clock_text(seconds: float) -> str:
    """A time as MELD's tables write it; where milliseconds end in 0 or 5 the hour has one digit, as in a quarter."""
    whole, milli = divmod(round(seconds * 1000), 1000)
    hours = f"{whole // 3600}" if milli % 5 == 0 else f"{whole // 3600:02d}"
    return f"{hours}:{whole // 60 % 60:02d}:{whole % 60:02d},{milli:03d}"


def _whole(cells: dict[str, str], column: str, place: str) -> int:
    cell = cells[column.lower()]
    if not re.fullmatch(r"\d{1,9}", cell):
        raise ValueError(f"{place}: {column} is {cell!r}; it takes a whole number from 0 on; mend the cell")
    return int(cell)


def _one_of(names: tuple[str, ...], cells: dict[str, str], column: str, place: str) -> str:
    name = cells[column.lower()].lower()
    if name not in names:
        raise ValueError(f"{place}: {column} is {name!r}; it takes one of {', '.join(names)}; mend the cell")
    return name


def _take_times(utterance: Utterance, cells: dict[str, str]) -> None:
    utterance.start_seconds, utterance.end_seconds = parse_clock(cells["starttime"]), parse_clock(cells["endtime"])
    for column, seconds in (("StartTime", utterance.start_seconds), ("EndTime", utterance.end_seconds)):
        if seconds is None:
            detail = f"{column} is {cells[column.lower()]!r}"
            utterance.defects.append(make_defect("unreadable_time", detail=detail))


def _note_oddities(utterance: Utterance, before: Utterance | None) -> None:
    """What is odd about a row by the table alone; `before` is the one before it in its dialogue."""
    note = utterance.defects.append
    start, end = utterance.start_seconds, utterance.end_seconds
    if not utterance.text:
        note(make_defect("empty_text"))
    if utterance.sentiment not in IMPLIED[utterance.emotion]:
        note(make_defect("sentiment_mismatch", detail=f"{utterance.emotion} and {utterance.sentiment}"))
    if start is not None and end is not None and end <= start:
        note(make_defect("no_duration", end - start))
    if utterance.seconds is not None and utterance.seconds > LONGEST:
        note(make_defect("long_by_table", utterance.seconds))
    if before and before.start_seconds is not None and start is not None and start < before.start_seconds:
        note(make_defect("time_backwards", before.start_seconds - start))

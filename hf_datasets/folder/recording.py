"""One signal's csv file: a column of values, or a time column in seconds and a column of values.

What gives no signal with a rate is refused with its line. Cells that hold text become NaN and are counted.
"""

from dataclasses import dataclass

import numpy as np

from system.text import plural

from ..defects import make_defect
from ..song_rows import check_time, check_trial
from .metadata import Recording
from .tables import read_number, read_rows

TIME_NAMES = ("time", "time(s)", "seconds", "t")  # of a time column, whatever its case and blanks
UNIX_TIME = 1e9  # s, in 2001: no signal starts with such a value, but a file of Empatica's E4 does
TIME_DRIFT = 0.05  # s that one sample may be off an even grid; a whole step where steps are longer


@dataclass
class Signal:
    """What a file holds: values (samples,), NaN where there is no number, and their times (samples,) in s if given."""

    values: np.ndarray
    times: np.ndarray | None
    lines: list[int]  # of the samples
    bad_cells: list[str]  # what is wrong with cells that are neither a number nor empty


def read_recording(data: bytes, recording: Recording) -> tuple[float, float, np.ndarray, list[dict]]:
    """Rate in Hz, time of the first sample on the sound's clock in s, values (samples,), and what is odd about them.

    ValueError when the file gives no signal with a rate.
    """
    signal = read_signal(data, recording.column)
    start, found = 0.0, []
    if signal.times is not None:
        rate, found = check_time(signal.times, recording.rate)
        check_even(signal, rate)
        start = float(signal.times[0])
    elif recording.rate is not None:
        rate = recording.rate
    else:
        raise ValueError(f"no time column ({', '.join(TIME_NAMES)}) and no rate; give `rate` in Hz in metadata.csv")
    if signal.bad_cells:
        found.append(make_defect("non_numeric_cell", len(signal.bad_cells), detail=signal.bad_cells[0]))
    if recording.offset_seconds is not None:
        start = recording.offset_seconds
    return rate, start, signal.values, found + check_trial(signal.values, rate, recording.listener)


def read_signal(data: bytes, column: str | None) -> Signal:
    """The values of a file's only column of values, or of the one called `column`, and its time column."""
    rows = read_rows(data)
    while rows and not rows[-1][1]:
        rows.pop()
    if not rows:
        raise ValueError("the file is empty; a column of values is needed")
    value_at, time_at, named = find_columns(rows[0][1], column)
    width = len(rows[0][1])
    values, times, lines, bad_cells = [], [], [], []
    for line, cells in rows[1:] if named else rows:
        if not cells and width > 1:
            continue
        cells = cells or [""]  # of a single column: a sample that is missing
        if len(cells) != width:
            raise ValueError(
                f"line {line} has {plural(len(cells), 'cell')} where {width} should be ({', '.join(cells)[:40]!r}); "
                "numbers take a decimal point, no comma"
            )
        if time_at is not None:
            times.append(_read_time(cells[time_at], line))
        try:
            values.append(read_number(cells[value_at]))
        except ValueError as error:
            values.append(np.nan)
            bad_cells.append(f"line {line}: {error}")
        lines.append(line)
    if not values:
        raise ValueError("a header and no values")
    if not named and values[0] > UNIX_TIME:
        raise ValueError(
            f"line {lines[0]}: {values[0]:.0f} is a time, as Empatica's E4 writes it above the rate and the values; "
            "delete both lines and give `rate` and `offset_seconds` in metadata.csv"
        )
    return Signal(np.array(values), None if time_at is None else np.array(times), lines, bad_cells)


def find_columns(first: list[str], column: str | None) -> tuple[int, int | None, bool]:
    """Which column holds the values and which the times, by the first row, and whether that is a header."""
    if not any(_is_name(cell) for cell in first):
        if len(first) > 1:
            raise ValueError(
                f"line 1 has {plural(len(first), 'cell')} and no names ({', '.join(first)[:40]!r}); give a header "
                "such as time,eda, or decimal points where these are decimal commas"
            )
        if column is not None:
            raise ValueError(f"no header, where metadata.csv asks for the column {column!r}; leave `column` empty")
        return 0, None, False
    times = [i for i, name in enumerate(first) if "".join(name.lower().split()) in TIME_NAMES]
    others = [name for i, name in enumerate(first) if i not in times]
    if len(times) > 1:
        raise ValueError(f"{len(times)} time columns in {first}; one is needed")
    if not others:
        raise ValueError(f"the header {first} has no column of values")
    if column is None and len(others) > 1:
        raise ValueError(f"{len(others)} columns of values, {others}; name one in metadata.csv's `column`")
    wanted = others[0] if column is None else column
    if others.count(wanted) != 1:
        raise ValueError(f"{others.count(wanted)} columns are called {wanted!r}; the file has {others}")
    return first.index(wanted), times[0] if times else None, True


def check_even(signal: Signal, rate: float) -> None:
    """Refuse times that one rate cannot stand for: values would move to other times without a word."""
    off = np.abs(signal.times - signal.times[0] - np.arange(len(signal.times)) / rate)
    worst = int(off.argmax())
    if off[worst] > max(TIME_DRIFT, 1 / rate):
        raise ValueError(
            f"line {signal.lines[worst]}: time {signal.times[worst]:g} s is {off[worst]:.3g} s off an even grid of "
            f"{rate:.5g} Hz; resample the signal, or fill gaps with rows that have no value"
        )


def _is_name(cell: str) -> bool:
    """Whether a cell of the first row is a column's name: it starts with a letter and is no way to say NaN."""
    try:
        read_number(cell)
    except ValueError:
        return cell[0].isalpha()
    return False


def _read_time(cell: str, line: int) -> float:
    try:
        time = read_number(cell)
    except ValueError as error:
        raise ValueError(f"line {line}: time {error}") from None
    if np.isnan(time):
        raise ValueError(f"line {line} has no time; every row of a file with a time column needs one")
    return time

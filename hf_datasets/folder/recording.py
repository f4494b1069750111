"""Read a signal's csv file: a column of values, with or without a time column in seconds.

A file without a rate or without values raises a ValueError with the line. Cells with text become NaN and are counted.
"""

from dataclasses import dataclass

import numpy as np

from system.text import plural

from ..defects import make_defect
from ..song_rows import check_time, check_trial
from .metadata import Recording
from .tables import read_number, read_rows

TIME_NAMES = ("time", "time(s)", "seconds", "t")  # names of a time column, in any case, with or without blanks
UNIX_TIME = 1e9  # s, in 2001; no signal starts with so large a value, but the files of Empatica's E4 start with a time
TIME_DRIFT = 0.05  # s; largest deviation of a sample from an even grid, unless a time step is longer


@dataclass
class Signal:
    """The content of a signal's file."""

    values: np.ndarray  # (samples,), NaN for a missing value
    times: np.ndarray | None  # (samples,), s
    lines: list[int]  # line number of each sample
    bad_cells: list[str]  # messages about cells that are neither a number nor empty


def read_recording(data: bytes, recording: Recording) -> tuple[float, float, np.ndarray, list[dict]]:
    """Return rate (Hz), start on the sound's clock (s), values (samples,) and defects of a recording.

    Raise ValueError if the file has no values or there is no rate.
    """
    signal = read_signal(data, recording.column)
    start, defects = 0.0, []
    if signal.times is not None:
        rate, defects = check_time(signal.times, recording.rate)
        check_even(signal, rate)
        start = float(signal.times[0])
    elif recording.rate is not None:
        rate = recording.rate
    else:
        raise ValueError(f"no time column ({', '.join(TIME_NAMES)}) and rate=None. Give `rate` (Hz) in metadata.csv.")
    if signal.bad_cells:
        defects.append(make_defect("non_numeric_cell", len(signal.bad_cells), detail=signal.bad_cells[0]))
    if recording.offset_seconds is not None:  # metadata.csv takes precedence over the time column
        start = recording.offset_seconds
    return rate, start, signal.values, defects + check_trial(signal.values, rate, recording.listener)


def read_signal(data: bytes, column: str | None) -> Signal:
    """Read the time column, if any, and the column of values called `column` (None: there is only one)."""
    rows = read_rows(data)
    while rows and not rows[-1][1]:  # empty lines at the end
        rows.pop()
    if not rows:
        raise ValueError("empty file. Give a column of values.")
    value_at, time_at, has_header = find_columns(rows[0][1], column)
    width = len(rows[0][1])
    values, times, lines, bad_cells = [], [], [], []
    for line, cells in rows[1:] if has_header else rows:
        if not cells and width > 1:
            continue
        cells = cells or [""]  # in a file of one column, an empty line is a missing sample
        if len(cells) != width:
            raise ValueError(
                f"line {line}: {plural(len(cells), 'cell')} instead of {width} ({', '.join(cells)[:40]!r}). Use "
                "decimal points, not commas."
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
        raise ValueError("no values below the header. Add values, or leave out the recording.")
    if not has_header and values[0] > UNIX_TIME:
        raise ValueError(
            f"line {lines[0]}: {values[0]:.0f} is a Unix time, as in files of Empatica's E4, which begin with a time "
            "and a rate. Delete both lines, and give `rate` and `offset_seconds` in metadata.csv."
        )
    return Signal(np.array(values), None if time_at is None else np.array(times), lines, bad_cells)


def find_columns(first: list[str], column: str | None) -> tuple[int, int | None, bool]:
    """Find the columns by the first row: returns position of the values, of the times, and whether it is a header."""
    if not any(_is_name(cell) for cell in first):
        if len(first) > 1:
            raise ValueError(
                f"line 1: {plural(len(first), 'cell')} without names ({', '.join(first)[:40]!r}). Give a header, for "
                "example time,eda, or replace decimal commas by points."
            )
        if column is not None:
            raise ValueError(f"column={column!r}: the file has no header. Leave `column` empty in metadata.csv.")
        return 0, None, False
    times = [i for i, name in enumerate(first) if "".join(name.lower().split()) in TIME_NAMES]
    value_names = [name for i, name in enumerate(first) if i not in times]
    if len(times) > 1:
        raise ValueError(f"{len(times)} time columns in {first}. Keep one.")
    if not value_names:
        raise ValueError(f"no column of values in the header {first}. Add one.")
    if column is None and len(value_names) > 1:
        raise ValueError(f"{len(value_names)} columns of values: {value_names}. Name one as `column` in metadata.csv.")
    wanted = value_names[0] if column is None else column
    if value_names.count(wanted) != 1:
        raise ValueError(
            f"column={wanted!r}: {value_names.count(wanted)} columns of that name in {value_names}. Name one."
        )
    return first.index(wanted), times[0] if times else None, True


def check_even(signal: Signal, rate: float) -> None:
    """Raise ValueError with the line if the times are not evenly spaced."""
    # Only rate and start are kept, so uneven values would silently move to other times.
    off = np.abs(signal.times - signal.times[0] - np.arange(len(signal.times)) / rate)
    worst = int(off.argmax())
    if off[worst] > max(TIME_DRIFT, 1 / rate):
        raise ValueError(
            f"line {signal.lines[worst]}: time={signal.times[worst]:g}: {off[worst]:.3g} s off an even grid of "
            f"{rate:.5g} Hz. Resample the signal, or fill gaps with rows without a value."
        )


def _is_name(cell: str) -> bool:
    """Return whether a cell of the first row is a column's name: it starts with a letter, but is not like "nan"."""
    try:
        read_number(cell)
    except ValueError:
        return cell[0].isalpha()
    return False


def _read_time(cell: str, line: int) -> float:
    try:
        time = read_number(cell)
    except ValueError as error:
        raise ValueError(f"line {line}: time={error}") from None
    if np.isnan(time):
        raise ValueError(f"line {line}: time='': empty. Fill in the time of every row.")
    return time

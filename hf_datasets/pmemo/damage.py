"""Damage a synthetic PMEmo tree with every kind of defect that the builder detects."""

from pathlib import Path

SONGS_FOR_ALL = 20  # defects "all" damages the first 20 songs of metadata.csv, most of them in one way each


def damage(root: Path, defects: str) -> None:
    """Damage a tree in place: "none", "few" (all rows still load and train) or "all".

    The synthesizer has already made the third song too short to be rated, and has given every song the defects of the
    published data: EDA that continues after the sound, and chorus times that are too short.
    """
    if defects == "none":
        return
    rows = (root / "metadata.csv").read_text().splitlines()
    songs = [row.split(",")[0] for row in rows[1:]]
    eda = [root / "EDA" / f"{song}_EDA.csv" for song in songs]
    sound = [root / "chorus" / f"{song}.mp3" for song in songs]
    for number, change in ((3, _flatten), (4, _lower), (5, _blank_out)):
        if number < len(songs):
            _edit(eda[number], change)
    if defects == "few":
        return
    sound[6].write_bytes(sound[6].read_bytes()[:10] + bytes(range(256)) * 8)
    eda[7].write_text(eda[7].read_text()[:2000] + "\n1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0,9.0,10.0,11.0,12.0,13.0\n")
    _edit(eda[8], lambda table: _set(table, 100, 1, "#NUM!"))
    sound[9].unlink()
    eda[10].unlink()
    dynamic = root / "annotations" / "dynamic_annotations.csv"
    lines = [line for line in dynamic.read_text().splitlines() if not line.startswith(f"{songs[11]},")]
    static = root / "annotations" / "static_annotations.csv"
    repeated = next((line for line in static.read_text().splitlines() if line.startswith(f"{songs[19]},")), None)
    if repeated is not None:
        static.write_text(static.read_text() + repeated + "\n")
    _write_lines(dynamic, lines)
    (root / "annotations" / "dynamic_annotations_std.csv").unlink()
    _edit(eda[12], lambda table: table[:300] + table[320:])  # a gap in time
    # 200 Hz instead of 50 Hz
    _edit(eda[13], lambda table: [table[0], *([repr(i / 200), *row[1:]] for i, row in enumerate(table[1:]))])
    _edit(eda[14], lambda table: _set(table, 200, 1, "75.0"))  # uS, out of range
    # A blank in a header cell, a repeated listener, and a name that is not six digits
    _edit(eda[15], lambda table: [[table[0][0], f" {table[0][1]}", table[0][1], "P7", *table[0][4:]], *table[1:]])
    _edit(eda[18], lambda table: table[: 1 + 8 * 50])  # 8 s
    # Song 16 is missing from metadata.csv, song 17 is in it twice, and a column name has a blank.
    remaining = [row for row in rows if not row.startswith(f"{songs[16]},")]
    header = remaining[0].replace(",title,", ", title,")
    _write_lines(root / "metadata.csv", [header, *remaining[1:], rows[1 + 17]])
    (root / "EDA" / "notes.txt").write_text("left behind\n")


def _edit(path: Path, change) -> None:  # change: table of cells -> table of cells, header first
    table = [line.split(",") for line in path.read_text().splitlines()]
    _write_lines(path, [",".join(row) for row in change(table)])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def _set(table: list[list[str]], row: int, column: int, cell: str) -> list[list[str]]:
    table[row][column] = cell
    return table


def _flatten(table: list[list[str]]) -> list[list[str]]:
    """Make the first listener flat: a few quantisation steps around one level."""
    for i, row in enumerate(table[1:]):
        row[1] = repr(round(5.0 + 0.0015 * (i * 7 // 50 % 25), 4))
    return table


def _lower(table: list[list[str]]) -> list[list[str]]:
    """Shift the last listener's EDA below zero, like a recorder with an offset."""
    lowest = min(float(row[-1]) for row in table[1:])
    for row in table[1:]:
        row[-1] = repr(float(row[-1]) - lowest - 0.8)
    return table


def _blank_out(table: list[list[str]]) -> list[list[str]]:
    """Blank the last listener's EDA from 6 to 8 s, like an electrode that fell off."""
    for row in table[301:401]:
        row[-1] = ""
    return table

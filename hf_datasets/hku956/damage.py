"""Damage to a synthetic HKU956 tree: each kind of defect that the builder knows, one song a kind."""

from pathlib import Path

from .raw import AUDIO_FOLDER, LINKS, PERSONALITY_TABLE, RATINGS_TABLE, SIGNALS_FOLDER

# How many songs a tree needs: its first ones are damaged, one song for most kinds.
SONGS_NEEDED = {"none": 1, "few": 6, "all": 20}


def damage(root: Path, defects: str) -> None:
    """Damage a tree in place: "none", "few" (all rows still load and train) or "all".

    Skipped songs, and one that is heard again, are in every tree (synthesize.py).
    """
    if defects == "none":
        return
    songs = [line.split(",")[0] for line in (root / LINKS).read_text().splitlines()[1:]]

    def signal(number: int, kind: str) -> Path:
        """The file of the first participant who heard the song, by name."""
        return sorted((root / SIGNALS_FOLDER).glob(f"*/{kind}/*_{songs[number]}.csv"))[0]

    _edit(signal(3, "EDA"), lambda values: [f"{0.3 + 0.00128 * (i * 7 // 4 % 20):.5f}" for i in range(len(values))])
    _edit(signal(4, "EDA"), lambda values: values[:40] + 8 * [""] + values[48:])
    _edit(signal(5, "TEMP"), lambda values: values[:40] + 24 * ["24.5"] + values[64:])  # taken off for 6 s
    if defects == "few":
        return
    sound = root / AUDIO_FOLDER / f"{songs[6]}.mp3"
    sound.write_bytes(sound.read_bytes()[:10] + bytes(range(256)) * 8)
    (root / AUDIO_FOLDER / f"{songs[7]}.mp3").unlink()
    signal(8, "EDA").write_bytes(b"")
    signal(9, "EDA").write_bytes(b"\xff\xfe\x00broken")
    _edit(signal(10, "EDA"), lambda values: values[:30] + ["#NUM!"] + values[31:])
    _edit(signal(11, "EDA"), lambda values: ["1546300800.0", "4.0", *values])
    for path in (root / SIGNALS_FOLDER).glob(f"*/EDA/*_{songs[12]}.csv"):  # a recorder of another rate
        _edit(path, lambda values: [value for value in values for _ in (0, 1)])
    _edit(signal(13, "EDA"), lambda values: values + values[::-1][: len(values) // 3])
    _edit(signal(14, "EDA"), lambda values: [*values[:20], "75.0", *values[21:]])
    _edit(signal(15, "EDA"), lambda values: [f"{float(value) - 9:.5f}" for value in values])
    signal(16, "BVP").unlink()
    signal(16, "EDA").unlink()
    _edit(signal(17, "EDA"), lambda values: values[:12])  # 3 s
    _edit(signal(18, "EDA"), lambda values: [value for value in values for _ in (0, 1)])  # others keep 4 Hz
    first = sorted((root / SIGNALS_FOLDER).iterdir())[0]
    first.rename(first.with_name("participant1"))
    rated = (root / RATINGS_TABLE).read_text().replace(f"{first.name},", "participant1,").splitlines()
    last = next(i for i, line in enumerate(rated) if f",{songs[19]}," in line)
    twice = next(line for line in rated if f",{songs[2]}," in line)
    blank = rated[0].replace(",valence,", ", valence,")
    (root / RATINGS_TABLE).write_text("\n".join([blank, *rated[1:last], *rated[last + 1 :], twice]) + "\n")
    links = (root / LINKS).read_text().splitlines()
    (root / LINKS).write_text("\n".join(line for line in links if not line.startswith(songs[1])) + "\n")
    people = (root / PERSONALITY_TABLE).read_text().replace(f"{first.name},", "participant1,").splitlines()
    (root / PERSONALITY_TABLE).write_text("\n".join(people[:-1]) + "\n")
    (root / SIGNALS_FOLDER / "participant1" / "EDA" / "notes.txt").write_text("left behind\n")


def _edit(path: Path, change) -> None:  # change: lines -> lines
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

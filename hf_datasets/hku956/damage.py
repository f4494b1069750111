"""Damage a synthetic HKU956 tree with every kind of defect that the builder detects."""

from pathlib import Path

from .raw import AUDIO_FOLDER, LINKS, PERSONALITY_TABLE, RATINGS_TABLE, SIGNALS_FOLDER

# Number of songs that each level of damage needs: it damages the first songs, most of them in one way each.
SONGS_NEEDED = {"none": 1, "few": 6, "all": 20}


def damage(root: Path, defects: str) -> None:
    """Damage a tree in place: "none", "few" (all rows still load and train) or "all".

    The synthesizer itself adds skipped songs, and a song that one participant hears twice, to every tree.
    """
    if defects == "none":
        return
    songs = [line.split(",")[0] for line in (root / LINKS).read_text().splitlines()[1:]]

    def signal(number: int, kind: str) -> Path:
        """Return the file of the first participant, in order of names, who heard the song."""
        return sorted((root / SIGNALS_FOLDER).glob(f"*/{kind}/*_{songs[number]}.csv"))[0]

    _edit(signal(3, "EDA"), lambda values: [f"{0.3 + 0.00128 * (i * 7 // 4 % 20):.5f}" for i in range(len(values))])
    _edit(signal(4, "EDA"), lambda values: values[:40] + 8 * [""] + values[48:])
    _edit(signal(5, "TEMP"), lambda values: values[:40] + 24 * ["24.5"] + values[64:])  # wristband off for 6 s
    if defects == "few":
        return
    sound = root / AUDIO_FOLDER / f"{songs[6]}.mp3"
    sound.write_bytes(sound.read_bytes()[:10] + bytes(range(256)) * 8)
    (root / AUDIO_FOLDER / f"{songs[7]}.mp3").unlink()
    signal(8, "EDA").write_bytes(b"")
    signal(9, "EDA").write_bytes(b"\xff\xfe\x00broken")
    _edit(signal(10, "EDA"), lambda values: values[:30] + ["#NUM!"] + values[31:])
    _edit(signal(11, "EDA"), lambda values: ["1546300800.0", "4.0", *values])  # start time and rate, as the E4 exports
    for path in (root / SIGNALS_FOLDER).glob(f"*/EDA/*_{songs[12]}.csv"):  # 8 Hz, all listeners of the song
        _edit(path, lambda values: [value for value in values for _ in (0, 1)])
    _edit(signal(13, "EDA"), lambda values: values + values[::-1][: len(values) // 3])
    _edit(signal(14, "EDA"), lambda values: [*values[:20], "75.0", *values[21:]])
    _edit(signal(15, "EDA"), lambda values: [f"{float(value) - 9:.5f}" for value in values])
    signal(16, "BVP").unlink()
    signal(16, "EDA").unlink()
    _edit(signal(17, "EDA"), lambda values: values[:12])  # 3 s
    _edit(signal(18, "EDA"), lambda values: [value for value in values for _ in (0, 1)])  # 8 Hz, one listener
    # An odd name for the first participant, a trial without ratings, another rated twice, a blank in a column name
    first = sorted((root / SIGNALS_FOLDER).iterdir())[0]
    first.rename(first.with_name("participant1"))
    ratings = (root / RATINGS_TABLE).read_text().replace(f"{first.name},", "participant1,").splitlines()
    last = next(i for i, line in enumerate(ratings) if f",{songs[19]}," in line)
    repeated = next(line for line in ratings if f",{songs[2]}," in line)
    header = ratings[0].replace(",valence,", ", valence,")
    (root / RATINGS_TABLE).write_text("\n".join([header, *ratings[1:last], *ratings[last + 1 :], repeated]) + "\n")
    links = (root / LINKS).read_text().splitlines()
    (root / LINKS).write_text("\n".join(line for line in links if not line.startswith(songs[1])) + "\n")
    people = (root / PERSONALITY_TABLE).read_text().replace(f"{first.name},", "participant1,").splitlines()
    (root / PERSONALITY_TABLE).write_text("\n".join(people[:-1]) + "\n")
    (root / SIGNALS_FOLDER / "participant1" / "EDA" / "notes.txt").write_text("left behind\n")


def _edit(path: Path, change) -> None:  # change: lines -> lines
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

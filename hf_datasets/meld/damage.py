"""Damage to a synthetic MELD tree: each kind of defect that the builder finds in a row or in a folder of clips."""

import shutil
from pathlib import Path

import numpy as np

from .synthetic_clips import show, sing, write_clip
from .utterances import IMPLIED, SENTIMENTS, clock_text, parse_clock

ROWS_FOR_DAMAGE = {"train": 48, "dev": 8, "test": 12}  # a row for each kind of damage, and some more
TOO_LONG, TOO_SHORT = 13.0, 0.12  # s, of clips that were cut wrongly
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(58)


def damage(folders: dict[str, Path], lines: dict[str, list[dict]]) -> None:
    """Damage the clips in these folders and the lines of the tables that are yet to be written, in place."""
    _damage_clips(folders["train"], lines["train"])
    _damage_lines(lines["train"])
    clip_path(folders["dev"], lines["dev"][3]).unlink()
    lines["dev"][5]["Utterance"] = "It’s true: " + lines["dev"][5]["Utterance"]  # a character beyond ASCII
    _double_clips(folders["test"], lines["test"])
    shutil.copy(clip_path(folders["dev"], lines["dev"][0]), folders["dev"] / "dia900_utt9.mp4")
    shutil.copy(clip_path(folders["test"], lines["test"][0]), folders["test"] / "dia901_utt2.mp4")
    shutil.copy(clip_path(folders["train"], lines["train"][0]), folders["train"] / "trailer.mp4")


def _damage_clips(folder: Path, lines: list[dict]) -> None:
    rng = np.random.default_rng(0)
    broken = clip_path(folder, lines[2])
    data = broken.read_bytes()
    broken.write_bytes(data[: len(data) * 2 // 3])  # without its index
    still = show(rng, "neutral", 0.1)[:1].repeat(round(TOO_LONG * 2), axis=0)
    write_clip(clip_path(folder, lines[5]), still, sing(rng, "neutral", TOO_LONG), rate=2)
    write_clip(clip_path(folder, lines[8]), show(rng, "neutral", TOO_SHORT), sing(rng, "neutral", TOO_SHORT))
    for place, (pictures, sound, channels) in {
        11: (True, False, 1),
        14: (False, True, 1),
        17: (True, True, 6),
    }.items():
        line = lines[place]
        shown = show(rng, line["Emotion"], line["seconds"]) if pictures else None
        heard = sing(rng, line["mood"], line["seconds"]) if sound else None
        write_clip(clip_path(folder, line), shown, heard, channels)


def _damage_lines(lines: list[dict]) -> None:
    """In place, with line 32 once more at the end under another emotion."""
    lines[20]["Utterance"] = ""
    lines[23]["Sentiment"] = next(name for name in SENTIMENTS if name not in IMPLIED[lines[23]["Emotion"]])
    lines[26]["EndTime"] = lines[26]["StartTime"]
    later = next(i for i in (29, 30) if lines[i]["Dialogue_ID"] == lines[i - 1]["Dialogue_ID"])
    lines[later]["StartTime"] = _shifted(lines[later - 1]["StartTime"], -5)
    lines[35]["EndTime"] = "unknown"
    lines[38]["EndTime"] = _shifted(lines[38]["StartTime"], 41)
    lines[41]["Utterance"] = "It\x92s true: " + lines[41]["Utterance"]  # an apostrophe that was converted wrongly
    again = "anger" if lines[32]["Emotion"] != "anger" else "sadness"
    lines.append(lines[32] | {"Emotion": again, "Sentiment": "negative", "Sr No.": len(lines) + 1})


def _shifted(clock: str, seconds: int) -> str:
    return clock_text((parse_clock(clock) or 0.0) + seconds)


def _double_clips(folder: Path, lines: list[dict]) -> None:
    """Three corrected clips beside wrong ones, one corrected clip alone, one clip in two folders, and side files."""
    for place in (2, 3, 4):
        plain = clip_path(folder, lines[place])
        plain.rename(folder / f"final_videos_test{plain.name}")
        shutil.copy(clip_path(folder, lines[place + 6]), plain)
    plain = clip_path(folder, lines[6])
    plain.rename(folder / f"final_videos_test{plain.name}")
    other = folder.parent / "test_splits"
    other.mkdir(exist_ok=True)
    double = clip_path(folder, lines[7])
    shutil.copy(double, other / double.name)
    for name in (f"._{double.name}", f"{double.stem}.1.mp4"):
        (folder / name).write_bytes(APPLE_DOUBLE)


def clip_path(folder: Path, line: dict) -> Path:
    """The file of a line's clip."""
    return folder / f"dia{line['Dialogue_ID']}_utt{line['Utterance_ID']}.mp4"

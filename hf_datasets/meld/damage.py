"""Damage a synthetic MELD tree, with every kind of defect that the builder detects in rows and folders of clips."""

import shutil
from pathlib import Path

import numpy as np

from .synthetic_clips import show, sing, write_clip
from .utterances import IMPLIED, SENTIMENTS, clock_text, parse_clock

MIN_ROWS_FOR_DAMAGE = {"train": 48, "dev": 8, "test": 12}  # at least one row for each kind of damage
TOO_LONG, TOO_SHORT = 13.0, 0.12  # lengths of the badly cut clips, s
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(58)  # macOS metadata, a `._` file


def damage(folders: dict[str, Path], lines: dict[str, list[dict]]) -> None:
    """Damage the clips in these folders, and the lines of the tables before they are written, in place."""
    _damage_clips(folders["train"], lines["train"])
    _damage_lines(lines["train"])
    clip_path(folders["dev"], lines["dev"][3]).unlink()
    lines["dev"][5]["Utterance"] = "It’s true: " + lines["dev"][5]["Utterance"]  # not ASCII: encodings differ in it
    _duplicate_clips(folders["test"], lines["test"])
    # Clips without a row.
    shutil.copy(clip_path(folders["dev"], lines["dev"][0]), folders["dev"] / "dia900_utt9.mp4")
    shutil.copy(clip_path(folders["test"], lines["test"][0]), folders["test"] / "dia901_utt2.mp4")
    shutil.copy(clip_path(folders["train"], lines["train"][0]), folders["train"] / "trailer.mp4")


def _damage_clips(folder: Path, lines: list[dict]) -> None:
    rng = np.random.default_rng(0)
    broken = clip_path(folder, lines[2])
    data = broken.read_bytes()
    broken.write_bytes(data[: len(data) * 2 // 3])  # loses the index, which is at the end
    still = show(rng, "neutral", 0.1)[:1].repeat(round(TOO_LONG * 2), axis=0)
    write_clip(clip_path(folder, lines[5]), still, sing(rng, "neutral", TOO_LONG), rate=2)
    write_clip(clip_path(folder, lines[8]), show(rng, "neutral", TOO_SHORT), sing(rng, "neutral", TOO_SHORT))
    for row, (has_video, has_audio, channels) in {
        11: (True, False, 1),
        14: (False, True, 1),
        17: (True, True, 6),
    }.items():
        line = lines[row]
        pictures = show(rng, line["Emotion"], line["seconds"]) if has_video else None
        sound = sing(rng, line["mood"], line["seconds"]) if has_audio else None
        write_clip(clip_path(folder, line), pictures, sound, channels)


def _damage_lines(lines: list[dict]) -> None:
    """Damage lines in place, and append a copy of the line at index 32 with another emotion."""
    lines[20]["Utterance"] = ""
    lines[23]["Sentiment"] = next(name for name in SENTIMENTS if name not in IMPLIED[lines[23]["Emotion"]])
    lines[26]["EndTime"] = lines[26]["StartTime"]
    later = next(i for i in (29, 30) if lines[i]["Dialogue_ID"] == lines[i - 1]["Dialogue_ID"])
    lines[later]["StartTime"] = _shifted(lines[later - 1]["StartTime"], -5)
    lines[35]["EndTime"] = "unknown"
    lines[38]["EndTime"] = _shifted(lines[38]["StartTime"], 41)
    lines[41]["Utterance"] = "It\x92s true: " + lines[41]["Utterance"]  # a Windows-1252 apostrophe taken for Latin-1
    emotion = "anger" if lines[32]["Emotion"] != "anger" else "sadness"
    lines.append(lines[32] | {"Emotion": emotion, "Sentiment": "negative", "Sr No.": len(lines) + 1})


def _shifted(clock: str, seconds: int) -> str:
    return clock_text((parse_clock(clock) or 0.0) + seconds)


def _duplicate_clips(folder: Path, lines: list[dict]) -> None:
    """Make three corrected clips next to wrong ones, a corrected clip alone, a clip in two folders, and side files.

    The real test split has corrected clips under the prefix final_videos_test.
    """
    for row in (2, 3, 4):
        plain = clip_path(folder, lines[row])
        plain.rename(folder / f"final_videos_test{plain.name}")
        shutil.copy(clip_path(folder, lines[row + 6]), plain)
    plain = clip_path(folder, lines[6])
    plain.rename(folder / f"final_videos_test{plain.name}")
    other = folder.parent / "test_splits"
    other.mkdir(exist_ok=True)
    double = clip_path(folder, lines[7])
    shutil.copy(double, other / double.name)
    for name in (f"._{double.name}", f"{double.stem}.1.mp4"):
        (folder / name).write_bytes(APPLE_DOUBLE)


def clip_path(folder: Path, line: dict) -> Path:
    """Return the path of a line's clip."""
    return folder / f"dia{line['Dialogue_ID']}_utt{line['Utterance_ID']}.mp4"

"""Damage the files of a synthetic AudioSet tree: one clip for each kind of defect that the builder detects."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

MIN_CLIPS_FOR_DAMAGE = 40  # clips of the train split: at least one for each kind of damage


def damage(root: Path, clips: list[tuple[str, str, Path]], defects: str) -> None:
    """Damage a tree in place.

    Args:
        clips: id, subset and file of every clip, those of the train split first.
        defects: "none", "few" (the defects of every real download) or "all".
    """
    if defects == "none":
        return
    for number, (_, _, path) in enumerate(clips):
        if number % 15 == 6:  # 7 % of the clips: videos disappear from YouTube
            path.unlink()
    files = [path for _, _, path in clips]
    _cut_off(files[2])
    _cut_off(files[18])
    files[3].write_bytes(b"<html><body>This video is not available</body></html>\n" * 20)  # saved as a sound file
    files[5].write_bytes(b"")
    _convert_to_stereo(files[7])
    shutil.copy(files[8], files[8].with_name(clips[8][0] + files[8].suffix))  # the same clip under another name
    stray = files[0].with_name("Ynot_a_clip1.mp3")
    shutil.copy(files[0], stray)
    if defects == "few":
        return
    files[9].unlink()
    files[9].mkdir()
    files[10].write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")  # shorter than a complete wav header
    elsewhere = root / "audio" / "eval_segments"
    elsewhere.mkdir(parents=True, exist_ok=True)
    files[11].rename(elsewhere / files[11].name)
    _rewrite(files[12], ".wav", lambda sound: np.concatenate([sound, sound]))  # twice as long as it should be
    _rewrite(files[13], ".flac")
    _rewrite(files[14], ".opus", format="OGG", subtype="OPUS")
    _rewrite(files[16], ".mp3")
    _rewrite(files[17], ".wav", _with_nan, subtype="FLOAT")  # only decoding finds it
    _contradict_weak_tables(root / "metadata" / "audioset_train_strong.tsv")


def _cut_off(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _rewrite(path: Path, suffix: str, change: Callable = np.asarray, **options: str) -> None:
    sound, rate = soundfile.read(path)
    path.unlink()
    soundfile.write(path.with_suffix(suffix), change(sound), rate, **options)


def _with_nan(sound: np.ndarray) -> np.ndarray:
    sound[1000] = np.nan
    return sound


def _convert_to_stereo(path: Path) -> None:
    """Replace a sound by the same at 48 kHz in stereo, one channel quieter, as flac."""
    # Not mp3: the encoder's output for stereo differs from run to run. 8 bits keep the flac small.
    sound, rate = soundfile.read(path)
    path.unlink()
    factor = 48000 // rate
    fine = np.interp(np.arange(len(sound) * factor) / factor, np.arange(len(sound)), sound)
    soundfile.write(path.with_suffix(".flac"), np.stack([fine, 0.6 * fine], 1), 48000, subtype="PCM_S8")


def _contradict_weak_tables(path: Path) -> None:
    """Move the first clip of a strong table to another excerpt, and add an event after the end of the last clip."""
    header, *lines = path.read_text().splitlines()
    segment = lines[0].split("\t")[0]
    ytid, start = segment.rsplit("_", 1)
    lines = [line.replace(segment, f"{ytid}_{int(start) + 5000}") for line in lines]
    late = lines[-1].split("\t")
    lines.append("\t".join([late[0], "11.000", "12.000", late[3]]))
    path.write_text("\n".join([header, *lines]) + "\n")

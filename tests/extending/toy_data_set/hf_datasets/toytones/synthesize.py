"""Make synthetic raw files. `prepare toytones --rebuild_samples` builds the config `sample` from them."""

from pathlib import Path

import numpy as np
import soundfile

SAMPLES = {"sample": {"tones": 60}}  # config -> options of `synthesize`
RATE = 22050  # Hz


def synthesize(folder: Path, tones: int) -> str:
    """Write tones whose ratings follow their levels, and return a description of the data."""
    generator, rows = np.random.default_rng(0), ["tone_id,loudness"]
    for number in range(tones):
        loudness, pitch = generator.uniform(), generator.uniform(200, 400)  # Hz
        tone = 10 ** (2 * loudness - 2) * np.sin(2 * np.pi * pitch * np.arange(RATE // 2) / RATE)
        soundfile.write(folder / f"tone{number}.wav", tone, RATE)
        rows.append(f"tone{number},{loudness + generator.normal(0, 0.02):.4f}")
    (folder / "tones.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "SYNTHETIC").touch()  # a file of this name marks raw files as synthetic
    return f"{tones} synthetic tones"

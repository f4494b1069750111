"""Write an example folder, with synthetic sounds and synthetic skin conductance.

    python -m hf_datasets.folder.synthesize --output_dir my_data

Sounds and listeners are those of hf_datasets/pmemo/synthesize.py. The files show all ways to store a signal, in turn:
a time column, a rate in metadata.csv, and one file with a column per listener. Recordings of every third song begin
2 s before the sound.
"""

from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from system.text import plural

from ..pmemo.synthesize import EDA_RATE, Listener, draw_accents, synthesize_sound, write_mp3
from ..synthesizing import run_synthesizer, write_csv
from .metadata import COLUMNS, METADATA

RATE = 10  # of the signals, Hz
EARLY = 2.0  # s; time of a recording before its sound
NAME = "tune"  # splits go by a hash of the song ids: with this name, each of the default splits gets one of six songs

SAMPLES = {"sample": {"num_songs": 6, "num_listeners": 3, "seed": 7}}


def synthesize(
    output_dir: Path,
    num_songs: int = 6,
    num_listeners: int = 3,
    coupling: float = 1.0,
    seed: int = 0,
    seconds: tuple[float, float] = (20.0, 30.0),
) -> str:
    """Write metadata.csv, audio/ and signals/. Every listener hears every song.

    Args:
        output_dir: is created if necessary.
        num_songs: number of songs.
        num_listeners: number of listeners.
        coupling: how much the sound drives the skin conductance, 0 to 1.
        seed: the same seed gives the same folder.
        seconds: shortest and longest song.

    Returns:
        A line that describes how the folder was made; the file SYNTHETIC has it too.
    """
    if num_songs < 1 or num_listeners < 1:
        raise ValueError(f"num_songs={num_songs}, num_listeners={num_listeners}: must be at least 1. Give more.")
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling={coupling}: must be between 0 and 1. Give 0 for no effect of the sound.")
    if not 5 <= seconds[0] <= seconds[1]:
        raise ValueError(f"seconds={seconds}: not a range from 5 s up. Give the shortest and the longest song.")
    root = Path(output_dir)
    for folder in ("audio", "signals"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    origin = (
        f"Synthetic: {plural(num_songs, 'song')}, {plural(num_listeners, 'listener')}, coupling {coupling:g}, "
        f"seed {seed}, {seconds[0]:g}-{seconds[1]:g} s, libsndfile {soundfile.__libsndfile_version__}"
    )
    (root / "SYNTHETIC").write_text(origin + "\n")
    listeners = [Listener(seed, number) for number in range(num_listeners)]
    rows = []
    for number in tqdm(range(num_songs), desc="synthesizing", unit="song"):
        rng = np.random.default_rng([seed, 0, number])
        length = round(rng.uniform(*seconds), 2)  # s
        times, strengths = draw_accents(rng, 0.0, length - 0.3)
        write_mp3(root / "audio" / f"{NAME} {number + 1}.mp3", synthesize_sound(rng, length, times, strengths))
        early = EARLY if number % 3 == 2 else 0.0
        responses = [one.respond(number, length + early, times + early, strengths, coupling) for one in listeners]
        song = {
            "audio": f"audio/{NAME} {number + 1}.mp3",
            "title": f"Synthetic song {number + 1}",
            "artist": f"Synthetic artist {number + 1}",
        }
        eda = np.array(responses)[:, :: EDA_RATE // RATE]  # (listeners, samples)
        rows += [song | row for row in _write_signals(root, number, [one.name for one in listeners], eda, early)]
    write_csv(root / METADATA, [list(COLUMNS), *([row.get(name, "") for name in COLUMNS] for row in rows)])
    return origin


def _write_signals(root: Path, number: int, listeners: list[str], eda: np.ndarray, early: float) -> list[dict]:
    """Write one song's signals (listeners, samples) in uS; returns their cells of metadata.csv, per listener."""
    clock = (np.arange(eda.shape[1]) / RATE).round(3)
    if number % 3 == 2:
        name = f"signals/{NAME} {number + 1}.csv"
        cells = np.round(np.vstack([clock, eda]).T, 4).tolist()
        write_csv(root / name, [["seconds", *listeners], *cells])
        return [
            {"signal": name, "listener": listener, "column": listener, "offset_seconds": -early}
            for listener in listeners
        ]
    rows = []
    for listener, values in zip(listeners, eda.round(4), strict=True):
        name = f"signals/{NAME} {number + 1} {listener}.csv"
        if number % 3 == 0:
            write_csv(root / name, [["time", "eda"], *zip(clock.tolist(), values.tolist(), strict=True)])
            rows.append({"signal": name, "listener": listener})
        else:
            write_csv(root / name, [["eda"], *([value] for value in values.tolist())])
            rows.append({"signal": name, "listener": listener, "rate": RATE})
    return rows


def main(arguments: list[str] | None = None) -> None:
    task = "Write an example folder of recordings."
    output_dir = "the folder, created if necessary"
    run_synthesizer("folder", synthesize, arguments, task, output_dir, seed="the same seed gives the same folder")


if __name__ == "__main__":
    main()

"""Write a raw tree in the layout of PMEmo with synthetic songs and skin conductance.

    python -m hf_datasets.pmemo.synthesize --output_dir /tmp/raw --num_songs 100 --num_listeners 10

How the sound drives the skin conductance:

- A clip is a quiet accompaniment (chords, soft notes) with a few loud accents of different strengths.
- An accent causes a skin conductance response (SCR) in every listener: its strength, delayed by the listener's latency
  of 1 to 2 s, convolved with a Bateman kernel exp(-t/2.0) - exp(-t/0.75), times the listener's gain.
- `coupling` c weights the accents of the clip by c and those of another clip, which is never played, by 1 - c. At 0
  the sound and the EDA are independent, but the EDA by itself has the same distribution as at 1.
- Spontaneous SCRs, a drifting tonic level, noise and quantisation are added, independent of the sound.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from tqdm import tqdm

from system.text import plural

from ..synthesizing import run_synthesizer, write_csv
from .damage import SONGS_FOR_ALL, damage

SAMPLING_RATE = 22050  # Hz
EDA_RATE = 50  # Hz
EDA_EXCESS = 0.15  # s that the EDA continues after the sound, as in the published files
EDA_STEP = 0.0015  # uS, quantisation step of the recorder
RISE, DECAY = 0.75, 2.0  # s, time constants of the Bateman kernel
LATENCY = (1.0, 2.0)  # s
LONGEST_RESPONSE = 20.0  # s, length of the kernel; responses from before the clip reach this far into it
RATINGS_START = 15.0  # s; ratings follow every 0.5 s
MP3_LEVEL = 0.9  # compression level of soundfile: 24 kbit/s at this sampling rate

# The committed configs: a positive control, where sound drives EDA, and a negative one, where it does not.
SAMPLES = {
    "sample": {"num_songs": 20, "num_listeners": 6, "coupling": 1.0, "seed": 1, "defects": "few"},
    "sample_null": {"num_songs": 20, "num_listeners": 6, "coupling": 0.0, "seed": 1, "defects": "few"},
}


def synthesize(
    output_dir: Path,
    num_songs: int = 20,
    num_listeners: int = 6,
    coupling: float = 1.0,
    seed: int = 0,
    seconds: tuple[float, float] = (20.0, 36.0),
    defects: Literal["none", "few", "all"] = "all",
) -> str:
    """Write `output_dir/PMEmo2019`, and return one line with the settings (also in the file SYNTHETIC).

    Args:
        output_dir: the tree is created in this folder.
        num_songs: number of songs.
        num_listeners: number of listeners; each hears every song.
        coupling: share of the EDA that the sound drives, 0 to 1. The sound does not depend on it.
        seed: the same seed gives the same tree.
        seconds: shortest and longest clip.
        defects: "none" beyond those of every published file; "few" (all rows load and train; a flat, a negative and an
            interrupted listener, and a clip that is too short to be rated); or "all" (see damage.py).
    """
    if num_songs < 1 or num_listeners < 1:
        raise ValueError(
            f"num_songs={num_songs}, num_listeners={num_listeners}: must be at least 1. Give positive numbers."
        )
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling={coupling}: must be 0 to 1. Give 0 for EDA independent of the sound, up to 1.")
    if not 5 <= seconds[0] <= seconds[1]:
        raise ValueError(f"seconds={seconds}: must be 5 <= shortest <= longest. Give two lengths in s.")
    if defects == "all" and num_songs < SONGS_FOR_ALL:
        raise ValueError(
            f"num_songs={num_songs}: defects 'all' needs at least {SONGS_FOR_ALL} songs. Give more, or add "
            "--defects few."
        )
    root = Path(output_dir) / "PMEmo2019"
    for folder in ("chorus", "EDA", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    origin = (
        f"Synthetic: {plural(num_songs, 'song')}, {plural(num_listeners, 'listener')}, coupling {coupling:g}, "
        f"seed {seed}, {seconds[0]:g}-{seconds[1]:g} s, defects {defects}, "
        f"libsndfile {soundfile.__libsndfile_version__}"
    )
    (root / "SYNTHETIC").write_text(origin + "\n")
    listeners = [Listener(seed, number) for number in range(num_listeners)]
    tables = _Tables()
    for number, song_id in enumerate(tqdm(_sparse_ids(seed, num_songs), desc="synthesizing", unit="song")):
        # Songs, listeners and trials have separate random streams, so the sound is the same for every `coupling`.
        rng = np.random.default_rng([seed, 0, number])
        length = round(rng.uniform(*seconds), 2)  # s
        if defects != "none" and number == 2:
            length = min(length, 12.0)  # too short to be rated
        times, strengths = draw_accents(rng, 0.0, length - 0.3)
        write_mp3(root / "chorus" / f"{song_id}.mp3", synthesize_sound(rng, length, times, strengths))
        eda = [listener.respond(number, length, times, strengths, coupling) for listener in listeners]
        write_eda(root / "EDA" / f"{song_id}_EDA.csv", [listener.name for listener in listeners], np.array(eda).T)
        tables.add_song(rng, song_id, number, num_songs, length, strengths)
    tables.write(root)
    damage(root, defects)
    return origin


def draw_accents(rng: np.random.Generator, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw the times (s, from `start` to `end`) and strengths (0.3 to 1) of accents, one every 2.5 to 7 s."""
    # The sequence begins long before `start`. If it began there, accents would be more likely at some times after the
    # start than at others, and a model could predict EDA from time alone.
    gaps = rng.uniform(2.5, 7.0, int((end - start + LONGEST_RESPONSE) / 2.5) + 1)
    times = start - LONGEST_RESPONSE + np.cumsum(gaps)
    times = times[(times >= start) & (times < end)]
    return times, rng.uniform(0.3, 1.0, len(times))


def synthesize_sound(rng: np.random.Generator, length: float, times: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Return a clip (samples,) in -1 to 1: slow chords, soft notes on a beat, and loud accents at `times` (s)."""
    clock = np.arange(round(length * SAMPLING_RATE)) / SAMPLING_RATE  # s
    root_pitch = 110 * 2 ** (rng.integers(0, 12) / 12)  # Hz
    scale = root_pitch * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12)
    sound = np.zeros(len(clock))
    for degree in rng.choice(5, 3, replace=False):  # a slowly swelling chord
        swell = 0.6 + 0.4 * np.sin(2 * np.pi * (clock / rng.uniform(6, 14) + rng.uniform()))
        sound += 0.02 * swell * np.sin(2 * np.pi * scale[degree] * clock)
    beats = np.arange(rng.uniform(0, 0.5), length - 0.3, 60 / rng.uniform(80, 140) / 2)  # s, at 80 to 140 bpm
    dense = rng.uniform(0.3, 0.9, int(length / 6) + 1)  # share of beats with a note, drawn again every 6 s
    beats = beats[rng.uniform(size=len(beats)) < dense[(beats / 6).astype(int)]]
    pitches = rng.integers(0, len(scale), len(beats))
    for degree in np.unique(pitches):
        chosen = beats[pitches == degree]
        sound += _strike(_tone(2 * scale[degree], 0.25), chosen, rng.uniform(0.02, 0.06, len(chosen)), len(clock))
    drum = rng.standard_normal(SAMPLING_RATE // 2) * np.exp(-np.arange(SAMPLING_RATE // 2) / SAMPLING_RATE / 0.12)
    sound += _strike(drum * 0.12 + _tone(scale[0], 0.5)[: len(drum)] * 0.45, times, strengths, len(clock))
    return np.clip(sound, -1, 1)


def write_mp3(path: Path, sound: np.ndarray) -> None:
    """Write a clip (samples,) in -1 to 1 at SAMPLING_RATE."""
    soundfile.write(
        path,
        (sound * 32767).astype(np.int16),
        SAMPLING_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=MP3_LEVEL,
        bitrate_mode="CONSTANT",
    )


def bateman_kernel(rate: float) -> np.ndarray:
    """Return the response to one impulse, (samples,) at `rate` Hz, with a peak of 1."""
    clock = np.arange(round(LONGEST_RESPONSE * rate)) / rate
    kernel = np.exp(-clock / DECAY) - np.exp(-clock / RISE)
    return kernel / kernel.max()


def write_eda(path: Path, listeners: list[str], eda: np.ndarray) -> None:
    """Write EDA (samples, listeners) in uS, with float noise such as 8.706660000000001, as in the published files."""
    times = np.arange(len(eda)) / EDA_RATE
    lines = [",".join(["time(s)", *listeners])]
    lines += [",".join(map(repr, [time, *row])) for time, row in zip(times.tolist(), eda.tolist(), strict=True)]
    path.write_text("\n".join(lines) + "\n")


class Listener:
    """A listener, with a gain, latency and tonic level that are the same for all songs."""

    def __init__(self, seed: int, number: int) -> None:
        self.seed, self.number = seed, number
        rng = np.random.default_rng([seed, 1, number])
        self.name = f"{100101 + 7 * number}"
        self.gain = rng.uniform(0.4, 1.5)  # uS, size of the strongest response
        self.latency = rng.uniform(*LATENCY)  # s
        self.level = rng.uniform(2.0, 12.0)  # uS

    def respond(
        self, song: int, length: float, times: np.ndarray, strengths: np.ndarray, coupling: float
    ) -> np.ndarray:
        """Return the EDA (samples,) in uS at EDA_RATE for a song of `length` s with accents at `times` (s)."""
        rng = np.random.default_rng([self.seed, 2, self.number, song])
        samples = round((length + EDA_EXCESS) * EDA_RATE) + 1
        clock = np.arange(samples) / EDA_RATE
        silent_times, silent_strengths = draw_accents(rng, -LONGEST_RESPONSE, length)  # of the clip that is not played
        # Responses to anything before the clip are there at every coupling: no sound of the clip explains them.
        silent_strengths *= np.where(silent_times < 0, 1.0, 1 - coupling)
        # Two spontaneous responses per minute on average
        spontaneous = rng.uniform(-LONGEST_RESPONSE, length, rng.poisson((length + LONGEST_RESPONSE) * 2 / 60))
        events = np.concatenate((times + self.latency, silent_times + self.latency, spontaneous))  # s
        sizes = np.concatenate((coupling * strengths, silent_strengths, rng.uniform(0.1, 0.4, len(spontaneous))))
        before = round(LONGEST_RESPONSE * EDA_RATE)  # samples before the clip
        drive = np.zeros(before + samples)
        positions = np.round(events * EDA_RATE).astype(int) + before
        inside = positions < len(drive)
        np.add.at(drive, positions[inside], sizes[inside])  # `+=` would count two events in one sample once
        phasic = np.convolve(drive, bateman_kernel(EDA_RATE))[before : before + samples]
        tonic = self.level * (1 + rng.normal(0, 0.1)) - self.gain * rng.uniform(0.0, 0.04) * clock
        tonic += np.cumsum(rng.normal(0, 0.004 * self.gain, samples))  # a random walk
        eda = tonic + self.gain * phasic + rng.normal(0, 0.002, samples)
        return np.round(np.maximum(eda, 0.1) / EDA_STEP) * EDA_STEP


class _Tables:
    """The rows of metadata.csv and of the four annotation files."""

    def __init__(self) -> None:
        self.metadata: list[list] = []
        self.ratings: dict[tuple[str, str], list[list]] = {
            (timing, kind): [] for timing in ("static", "dynamic") for kind in ("mean", "std")
        }

    def add_song(
        self, rng: np.random.Generator, song_id: int, number: int, num_songs: int, length: float, strengths: np.ndarray
    ) -> None:
        """Add the rows of a song. Arousal follows the density of accents; clips that are too short get no ratings."""
        artist = number % max(1, (7 * num_songs) // 10)  # some artists have two songs
        start = int(rng.integers(20, 90))  # s
        end = start + max(round(length - 2), 1)  # the published chorus times are about 2 s too short
        clock = [f"{at // 60:02d}:{at % 60:02d}" for at in (start, end)]
        title = f"Synthetic song {number + 1}"
        self.metadata.append(
            [song_id, f"{song_id}.mp3", title, f"Synthetic artist {artist + 1}", "Synthetic album", length, *clock]
        )
        if length < RATINGS_START + 0.5:
            return
        arousal = np.clip(strengths.sum() / length * 3 + rng.normal(0, 0.05), 0, 1)
        means = np.round(np.clip([arousal, rng.uniform(0.2, 0.8)], 0, 1), 4)
        self.ratings["static", "mean"].append([song_id, *means])
        self.ratings["static", "std"].append([song_id, *np.round(rng.uniform(0.1, 0.25, 2), 4)])
        for time in np.arange(RATINGS_START + 0.5, length, 0.5):
            momentary = np.round(np.clip(means + rng.normal(0, 0.02, 2), 0, 1), 4)
            self.ratings["dynamic", "mean"].append([song_id, time, *momentary])
            self.ratings["dynamic", "std"].append([song_id, time, *np.round(rng.uniform(0.1, 0.25, 2), 4)])

    def write(self, root: Path) -> None:
        """Write the five tables, with the headers of the published files."""
        header = ["musicId", "fileName", "title", "artist", "album", "duration", "chorus_start_time"]
        write_csv(root / "metadata.csv", [[*header, "chorus_end_time"], *self.metadata])
        for (timing, kind), rows in self.ratings.items():
            time = ["frameTime"] if timing == "dynamic" else []
            header = ["musicId", *time, f"Arousal({kind})", f"Valence({kind})"]
            name = f"{timing}_annotations{'_std' if kind == 'std' else ''}.csv"
            write_csv(root / "annotations" / name, [header, *rows])


def _sparse_ids(seed: int, count: int) -> list[int]:
    """Return increasing ids with gaps, like the 794 published ids between 1 and 1000."""
    # The third song is too short to be rated, so it gets the id of an unrated song of the real data, 11.
    gaps = np.random.default_rng([seed, 3]).choice([1, 1, 1, 2], count)
    ids = np.cumsum(gaps)
    return [int(i) for i in ids + 11 - (ids[2] if count > 2 else 0)]


def _tone(pitch: float, decay: float) -> np.ndarray:
    """Return one second of a note of `pitch` Hz with harmonics that decays with the time constant `decay` s."""
    clock = np.arange(SAMPLING_RATE) / SAMPLING_RATE  # s
    harmonics = sum(np.sin(2 * np.pi * pitch * k * clock) / k for k in (1, 2, 3, 4))
    # An attack of 5 ms avoids a click.
    return harmonics * np.exp(-clock / decay) * np.minimum(clock / 0.005, 1)


def _strike(template: np.ndarray, times: np.ndarray, strengths: np.ndarray, samples: int) -> np.ndarray:
    """Return (samples,) with the sound `template` added at each of the times (s)."""
    sound = np.zeros(samples + len(template))
    for start, strength in zip((times * SAMPLING_RATE).astype(int), strengths, strict=True):
        sound[start : start + len(template)] += strength * template
    return sound[:samples]


def main(arguments: list[str] | None = None) -> None:
    task = "Write a raw tree in the layout of PMEmo with synthetic songs and listeners."
    run_synthesizer("pmemo", synthesize, arguments, task, "folder in which PMEmo2019/ is created")


if __name__ == "__main__":
    main()

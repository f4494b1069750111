"""Write a raw PMEmo-shaped tree with synthetic sound and skin conductance: nobody was recorded, no song is real.

    python -m hf_datasets.pmemo.synthesize --output_dir /tmp/raw --num_songs 100 --num_listeners 10

How sound becomes skin conductance here, so that one knows what a model can find:

- A clip is a quiet accompaniment (chords, soft notes) and a few loud accents, each of its own strength.
- An accent drives a skin conductance response (SCR) in every listener: the strength, after the listener's latency of
  1-2 s, through a Bateman kernel exp(-t/2.0) - exp(-t/0.75), times the listener's gain.
- `coupling` c mixes the clip's own accents (c) with those of another, never heard clip (1 - c). At 0 sound and EDA are
  independent, but EDA alone looks the same: the number, size and shape of its responses have one distribution.
- Spontaneous SCRs, a tonic level that drifts, noise and quantisation come on top, independent of the sound.
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
EDA_EXCESS = 0.15  # s that EDA goes on after the sound, as upstream
EDA_STEP = 0.0015  # uS, of the recorder's converter
RISE, DECAY = 0.75, 2.0  # s, of the Bateman kernel
LATENCY = (1.0, 2.0)  # s
LONGEST_RESPONSE = 20.0  # s; responses to what was before the clip reach this far into it
RATINGS_START = 15.0  # s; ratings come every half second after it
MP3_LEVEL = 0.9  # soundfile's compression level: 24 kbit/s at this sampling rate

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
    """Write `output_dir/PMEmo2019`; returns one line that says how it was made (also in the file SYNTHETIC).

    Every listener hears every song. `defects`: "none" but those of every upstream file, "few" (rows that load and
    train, a flat, a negative and a gappy listener and a clip too short to be rated) or "all" (see damage.py).
    Each song and each listener has its own random stream, so sound does not depend on `coupling`.
    """
    if num_songs < 1 or num_listeners < 1:
        raise ValueError(f"num_songs = {num_songs}, num_listeners = {num_listeners}: give at least 1 of each")
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling = {coupling}: give 0 (sound drives nothing) to 1 (sound drives all but the rest)")
    if not 5 <= seconds[0] <= seconds[1]:
        raise ValueError(f"seconds = {seconds}: give the shortest clip (5 s or more) and the longest")
    if defects == "all" and num_songs < SONGS_FOR_ALL:
        raise ValueError(
            f"num_songs={num_songs}: all kinds of damage need {SONGS_FOR_ALL} songs. Give more, or add --defects few."
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
        rng = np.random.default_rng([seed, 0, number])
        length = round(rng.uniform(*seconds), 2)  # s
        if defects != "none" and number == 2:
            length = min(length, 12.0)
        times, strengths = draw_accents(rng, 0.0, length - 0.3)
        write_mp3(root / "chorus" / f"{song_id}.mp3", synthesize_sound(rng, length, times, strengths))
        eda = [listener.respond(number, length, times, strengths, coupling) for listener in listeners]
        write_eda(root / "EDA" / f"{song_id}_EDA.csv", [listener.name for listener in listeners], np.array(eda).T)
        tables.add_song(rng, song_id, number, num_songs, length, strengths)
    tables.write(root)
    damage(root, defects)
    return origin


def draw_accents(rng: np.random.Generator, start: float, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Times (s) from `start` to `end` and strengths (0.3 to 1) of accents, one every 2.5 to 7 s.

    The first comes anywhere in its gap, so that no time after the start is likelier than another to hold an accent:
    a model that only knows the time learns nothing.
    """
    gaps = rng.uniform(2.5, 7.0, int((end - start + LONGEST_RESPONSE) / 2.5) + 1)
    times = start - LONGEST_RESPONSE + np.cumsum(gaps)
    times = times[(times >= start) & (times < end)]
    return times, rng.uniform(0.3, 1.0, len(times))


def synthesize_sound(rng: np.random.Generator, length: float, times: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """A clip (samples,) within -1 and 1: chords and soft notes on a beat, and loud accents above them."""
    clock = np.arange(round(length * SAMPLING_RATE)) / SAMPLING_RATE
    root_pitch = 110 * 2 ** (rng.integers(0, 12) / 12)  # Hz
    scale = root_pitch * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14, 16]) / 12)
    sound = np.zeros(len(clock))
    for degree in rng.choice(5, 3, replace=False):  # a chord that swells slowly
        swell = 0.6 + 0.4 * np.sin(2 * np.pi * (clock / rng.uniform(6, 14) + rng.uniform()))
        sound += 0.02 * swell * np.sin(2 * np.pi * scale[degree] * clock)
    beats = np.arange(rng.uniform(0, 0.5), length - 0.3, 60 / rng.uniform(80, 140) / 2)
    dense = rng.uniform(0.3, 0.9, int(length / 6) + 1)  # share of beats with a note, anew every 6 s
    beats = beats[rng.uniform(size=len(beats)) < dense[(beats / 6).astype(int)]]
    pitches = rng.integers(0, len(scale), len(beats))
    for degree in np.unique(pitches):
        chosen = beats[pitches == degree]
        sound += _strike(_tone(2 * scale[degree], 0.25), chosen, rng.uniform(0.02, 0.06, len(chosen)), len(clock))
    drum = rng.standard_normal(SAMPLING_RATE // 2) * np.exp(-np.arange(SAMPLING_RATE // 2) / SAMPLING_RATE / 0.12)
    sound += _strike(drum * 0.12 + _tone(scale[0], 0.5)[: len(drum)] * 0.45, times, strengths, len(clock))
    return np.clip(sound, -1, 1)


def write_mp3(path: Path, sound: np.ndarray) -> None:
    """Write a clip (samples,) within -1 and 1 at SAMPLING_RATE."""
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
    """The SCR after one impulse (samples,): a rise and a slower decay, 1 at its peak, sampled at `rate` Hz."""
    clock = np.arange(round(LONGEST_RESPONSE * rate)) / rate
    kernel = np.exp(-clock / DECAY) - np.exp(-clock / RISE)
    return kernel / kernel.max()


def write_eda(path: Path, listeners: list[str], eda: np.ndarray) -> None:
    """Write EDA (samples, listeners) in uS as upstream does, float noise included."""
    times = np.arange(len(eda)) / EDA_RATE
    lines = [",".join(["time(s)", *listeners])]
    lines += [",".join(map(repr, [time, *row])) for time, row in zip(times.tolist(), eda.tolist(), strict=True)]
    path.write_text("\n".join(lines) + "\n")


class Listener:
    """One person: a name, a gain, a latency and a tonic level, the same for all songs."""

    def __init__(self, seed: int, number: int) -> None:
        self.seed, self.number = seed, number
        rng = np.random.default_rng([seed, 1, number])
        self.name = f"{100101 + 7 * number}"
        self.gain = rng.uniform(0.4, 1.5)  # uS of the strongest response
        self.latency = rng.uniform(*LATENCY)  # s
        self.level = rng.uniform(2.0, 12.0)  # uS

    def respond(
        self, song: int, length: float, times: np.ndarray, strengths: np.ndarray, coupling: float
    ) -> np.ndarray:
        """EDA (samples,) in uS at EDA_RATE while the song's accents sound."""
        rng = np.random.default_rng([self.seed, 2, self.number, song])
        samples = round((length + EDA_EXCESS) * EDA_RATE) + 1
        clock = np.arange(samples) / EDA_RATE
        unheard, loudness = draw_accents(rng, -LONGEST_RESPONSE, length)
        loudness *= np.where(unheard < 0, 1.0, 1 - coupling)  # what came before the clip nobody knows
        spontaneous = rng.uniform(-LONGEST_RESPONSE, length, rng.poisson((length + LONGEST_RESPONSE) * 2 / 60))
        events = np.concatenate((times + self.latency, unheard + self.latency, spontaneous))
        sizes = np.concatenate((coupling * strengths, loudness, rng.uniform(0.1, 0.4, len(spontaneous))))
        before = round(LONGEST_RESPONSE * EDA_RATE)  # samples
        drive = np.zeros(before + samples)
        places = np.round(events * EDA_RATE).astype(int) + before
        inside = places < len(drive)
        np.add.at(drive, places[inside], sizes[inside])
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
        """Ratings follow the density of accents, with noise; clips without rated time have none."""
        artist = number % max(1, (7 * num_songs) // 10)
        start = int(rng.integers(20, 90))
        end = start + max(round(length - 2), 1)  # upstream's chorus times are about 2 s short
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
            now = np.round(np.clip(means + rng.normal(0, 0.02, 2), 0, 1), 4)
            self.ratings["dynamic", "mean"].append([song_id, time, *now])
            self.ratings["dynamic", "std"].append([song_id, time, *np.round(rng.uniform(0.1, 0.25, 2), 4)])

    def write(self, root: Path) -> None:
        """Headers as upstream."""
        header = ["musicId", "fileName", "title", "artist", "album", "duration", "chorus_start_time"]
        write_csv(root / "metadata.csv", [[*header, "chorus_end_time"], *self.metadata])
        for (timing, kind), rows in self.ratings.items():
            time = ["frameTime"] if timing == "dynamic" else []
            header = ["musicId", *time, f"Arousal({kind})", f"Valence({kind})"]
            name = f"{timing}_annotations{'_std' if kind == 'std' else ''}.csv"
            write_csv(root / "annotations" / name, [header, *rows])


def _sparse_ids(seed: int, count: int) -> list[int]:
    """Increasing ids with gaps, as upstream's 794 between 1 and 1000; 11, a known unrated song, is the third."""
    gaps = np.random.default_rng([seed, 3]).choice([1, 1, 1, 2], count)
    ids = np.cumsum(gaps)
    return [int(i) for i in ids + 11 - (ids[2] if count > 2 else 0)]


def _tone(pitch: float, decay: float) -> np.ndarray:
    """One second of a note with harmonics, dying away in `decay` seconds."""
    clock = np.arange(SAMPLING_RATE) / SAMPLING_RATE
    harmonics = sum(np.sin(2 * np.pi * pitch * k * clock) / k for k in (1, 2, 3, 4))
    return harmonics * np.exp(-clock / decay) * np.minimum(clock / 0.005, 1)


def _strike(template: np.ndarray, times: np.ndarray, strengths: np.ndarray, samples: int) -> np.ndarray:
    """The template (samples of one sound) at each of the times (s)."""
    sound = np.zeros(samples + len(template))
    for start, strength in zip((times * SAMPLING_RATE).astype(int), strengths, strict=True):
        sound[start : start + len(template)] += strength * template
    return sound[:samples]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    task = "Write a raw PMEmo-shaped tree of synthetic songs and listeners."
    run_synthesizer("pmemo", synthesize, arguments, task, "PMEmo2019/ is made in here")


if __name__ == "__main__":
    main()

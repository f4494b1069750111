"""Write a raw HKU956-shaped tree with synthetic sound and signals: nobody was recorded, no song is real.

    python -m hf_datasets.hku956.synthesize --output_dir /tmp/raw --num_songs 60 --num_participants 10

Sound drives skin conductance as in PMEmo's synthesizer, from which songs and listeners come; here the recorder is a
wristband: 4 Hz, a few microsiemens, with pulse, heart rate and temperature beside. Each song is heard by some
of the participants; one in five listenings is stopped early, and one participant hears their first song again.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from tqdm import tqdm

from ..pmemo.synthesize import EDA_RATE as FINE_RATE
from ..pmemo.synthesize import Listener, draw_accents, synthesize_sound, write_mp3
from ..synthesizing import run_synthesizer, write_csv
from .damage import SONGS_NEEDED, damage
from .raw import AUDIO_FOLDER, LINKS, PERSONALITY, PERSONALITY_TABLE, RATINGS_TABLE, SIGNALS_FOLDER

RATE = 4  # Hz, of EDA and temperature
PULSE_RATE = 64  # Hz
WRIST_GAIN = 0.4  # of what finger electrodes measure
EDA_STEP = 0.00128  # uS, of the recorder's converter
SKIPS = 0.2  # of listenings
SHORTEST = 0.6  # of the song, when it is skipped

# The committed configs: a positive control, where sound drives EDA, and a negative one, where it does not.
SAMPLES = {
    "sample": {"num_songs": 20, "num_participants": 8, "coupling": 1.0, "seed": 2, "defects": "few"},
    "sample_null": {"num_songs": 20, "num_participants": 8, "coupling": 0.0, "seed": 2, "defects": "few"},
}


def synthesize(
    output_dir: Path,
    num_songs: int = 20,
    num_participants: int = 8,
    listeners_a_song: int = 4,
    coupling: float = 1.0,
    seed: int = 0,
    seconds: tuple[float, float] = (24.0, 36.0),
    defects: Literal["none", "few", "all"] = "all",
) -> str:
    """Write `output_dir/HKU956`, its sounds in `audio/`; returns one line that says how it was made.

    `defects`: "none", "few" (rows that load and train: a flat, a gappy and an unworn sensor) or "all" (damage.py).
    """
    if num_songs < 1 or not 1 <= listeners_a_song <= num_participants:
        raise ValueError(
            f"num_songs = {num_songs}, listeners_a_song = {listeners_a_song}, num_participants = {num_participants}: "
            "give at least 1 of each, and as many participants as listeners"
        )
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling = {coupling}: give 0 (sound drives nothing) to 1 (sound drives all but the rest)")
    if num_songs < SONGS_NEEDED[defects]:
        other = "few" if defects == "all" and num_songs >= SONGS_NEEDED["few"] else "none"
        raise ValueError(
            f"num_songs={num_songs}: defects {defects!r} need {SONGS_NEEDED[defects]} songs. Give more, or add "
            f"--defects {other}."
        )
    root = Path(output_dir) / "HKU956"
    (root / AUDIO_FOLDER).mkdir(parents=True, exist_ok=True)
    origin = (
        f"Synthetic: {num_songs} songs, {num_participants} participants, {listeners_a_song} a song, coupling "
        f"{coupling:g}, seed {seed}, {seconds[0]:g}-{seconds[1]:g} s, defects {defects}, libsndfile "
        f"{soundfile.__libsndfile_version__}"
    )
    (root / "SYNTHETIC").write_text(origin + "\n")
    participants = [Participant(seed, number) for number in range(num_participants)]
    links, ratings = [], []
    for number in tqdm(range(num_songs), desc="synthesizing", unit="song"):
        rng = np.random.default_rng([seed, 0, number])
        song_id = 1_100_000 + 137 * number
        length = round(rng.uniform(*seconds), 2)
        times, strengths = draw_accents(rng, 0.0, length - 0.3)
        write_mp3(root / AUDIO_FOLDER / f"{song_id}.mp3", synthesize_sound(rng, length, times, strengths))
        links.append([song_id, f"https://example.org/track/{song_id}"])
        heard_by = [participants[i] for i in rng.permutation(num_participants)[:listeners_a_song]]
        for person in heard_by + ([heard_by[0]] if number == 0 else []):
            duration = length if rng.uniform() > SKIPS else round(rng.uniform(SHORTEST, 0.95) * length, 2)
            ratings.append(person.listen(root, number, song_id, length, duration, times, strengths, coupling))
    header = ["participant_id", "song_no", "song_id", "valence_rating", "valence", "arousal_rating", "arousal"]
    write_csv(root / LINKS, [["song_id", "link"], *links])
    write_csv(root / RATINGS_TABLE, [[*header, "play_duration"], *sorted(ratings)])
    scores = [f"{name.capitalize()}_score" for name in PERSONALITY]
    write_csv(root / PERSONALITY_TABLE, [["participant_id", *scores], *(p.personality for p in participants)])
    damage(root, defects)
    return origin


class Participant(Listener):
    """A listener with a wristband, who counts the songs they hear."""

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(seed, number)
        self.name = f"hku{1901 + number}"
        rng = np.random.default_rng([seed, 3, number])
        self.warmth, self.pulse = rng.uniform(32.5, 35.0), rng.uniform(60, 85)  # degrees C, beats a minute
        self.personality = [self.name, *rng.integers(2, 15, len(PERSONALITY))]
        self.heard = 0

    def listen(
        self,
        root: Path,
        song: int,
        song_id: int,
        length: float,
        duration: float,
        times: np.ndarray,
        strengths: np.ndarray,
        coupling: float,
    ) -> list:
        """Write all signals of `duration` s of a song of `length` s; returns the row of ratings."""
        rng = np.random.default_rng([self.seed, 4, self.number, self.heard])
        fine = self.respond(song, length, times, strengths, coupling) * WRIST_GAIN
        clock = np.arange(round(duration * RATE)) / RATE
        eda = np.round(np.interp(clock, np.arange(len(fine)) / FINE_RATE, fine) / EDA_STEP) * EDA_STEP
        temperature = self.warmth + np.cumsum(rng.normal(0, 0.005, len(clock)))
        heart = self.pulse + np.cumsum(rng.normal(0, 0.4, int(duration)))
        beats = np.cumsum(np.repeat(heart, PULSE_RATE)[: round(duration * PULSE_RATE)]) / 60 / PULSE_RATE
        signals = {
            "EDA": np.round(eda, 6),
            "TEMP": np.round(temperature, 2),
            "HR": np.round(heart, 2),
            "BVP": np.round(40 * np.sin(2 * np.pi * beats) + rng.normal(0, 3, len(beats)), 2),
        }
        for kind, values in signals.items():
            path = root / SIGNALS_FOLDER / self.name / kind / f"{self.heard}_{song_id}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{value!r}\n" for value in values.tolist()))
        valence, arousal = np.round(rng.uniform(-10, 10, 2), 1)
        words = ["positive" if valence > 0 else "negative", "high" if arousal > 0 else "low"]
        row = [self.name, self.heard, song_id, valence, words[0], arousal, words[1], duration]
        self.heard += 1
        return row


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_synthesizer(
        "hku956",
        synthesize,
        arguments,
        "Write a raw HKU956-shaped tree of synthetic songs and listeners.",
        "HKU956/ is made in here",
        num_participants="number of participants",
        listeners_a_song="how many of them hear each song",
        seconds="length of the songs",
    )


if __name__ == "__main__":
    main()

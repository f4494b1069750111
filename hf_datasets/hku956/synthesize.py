"""Write a raw tree in the layout of HKU956 with synthetic songs and signals.

    python -m hf_datasets.hku956.synthesize --output_dir /tmp/raw --num_songs 60 --num_participants 10

Songs and listeners come from PMEmo's synthesizer, so the sound drives the skin conductance in the same way. The
recorder is a wristband: 4 Hz, a few microsiemens, with pulse, heart rate and temperature. Each song has some of the
participants as listeners. One in five listenings is stopped early, and one participant hears their first song twice.
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
WRIST_GAIN = 0.4  # EDA at the wrist, relative to finger electrodes
EDA_STEP = 0.00128  # uS, quantisation step of the recorder
SKIPS = 0.2  # share of listenings that are stopped early
SHORTEST = 0.6  # smallest share of the song that is heard then

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
    """Write `output_dir/HKU956`, with the sounds in `audio/`, and return one line with the settings.

    Args:
        output_dir: the tree is created in this folder.
        num_songs: number of songs.
        num_participants: number of participants.
        listeners_a_song: how many participants hear each song.
        coupling: share of the EDA that the sound drives, 0 to 1.
        seed: the same seed gives the same tree.
        seconds: shortest and longest song.
        defects: "none"; "few" (all rows load and train; a flat, an interrupted and an unworn sensor); or "all" (see
            damage.py).
    """
    if num_songs < 1 or not 1 <= listeners_a_song <= num_participants:
        raise ValueError(
            f"num_songs={num_songs}, listeners_a_song={listeners_a_song}, num_participants={num_participants}: must "
            "be at least 1, and listeners_a_song at most num_participants. Change the numbers."
        )
    if not 0 <= coupling <= 1:
        raise ValueError(f"coupling={coupling}: must be 0 to 1. Give 0 for EDA independent of the sound, up to 1.")
    if num_songs < SONGS_NEEDED[defects]:
        other = "few" if defects == "all" and num_songs >= SONGS_NEEDED["few"] else "none"
        raise ValueError(
            f"num_songs={num_songs}: defects {defects!r} needs at least {SONGS_NEEDED[defects]} songs. Give more, or "
            f"add --defects {other}."
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
        length = round(rng.uniform(*seconds), 2)  # s
        times, strengths = draw_accents(rng, 0.0, length - 0.3)
        write_mp3(root / AUDIO_FOLDER / f"{song_id}.mp3", synthesize_sound(rng, length, times, strengths))
        links.append([song_id, f"https://example.org/track/{song_id}"])
        listeners = [participants[i] for i in rng.permutation(num_participants)[:listeners_a_song]]
        for person in listeners + ([listeners[0]] if number == 0 else []):  # the first one hears song 0 twice
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
    """A listener with a wristband."""

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(seed, number)
        self.name = f"hku{1901 + number}"
        rng = np.random.default_rng([seed, 3, number])
        self.warmth, self.pulse = rng.uniform(32.5, 35.0), rng.uniform(60, 85)  # degrees C, beats per minute
        self.personality = [self.name, *rng.integers(2, 15, len(PERSONALITY))]
        self.songs_heard = 0  # the next song_no

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
        """Write the signals of a listening of `duration` s to a song of `length` s, and return the row of ratings."""
        rng = np.random.default_rng([self.seed, 4, self.number, self.songs_heard])
        fine = self.respond(song, length, times, strengths, coupling) * WRIST_GAIN
        clock = np.arange(round(duration * RATE)) / RATE  # s
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
            path = root / SIGNALS_FOLDER / self.name / kind / f"{self.songs_heard}_{song_id}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{value!r}\n" for value in values.tolist()))
        valence, arousal = np.round(rng.uniform(-10, 10, 2), 1)
        categories = ["positive" if valence > 0 else "negative", "high" if arousal > 0 else "low"]
        row = [self.name, self.songs_heard, song_id, valence, categories[0], arousal, categories[1], duration]
        self.songs_heard += 1
        return row


def main(arguments: list[str] | None = None) -> None:
    run_synthesizer(
        "hku956",
        synthesize,
        arguments,
        "Write a raw tree in the layout of HKU956 with synthetic songs and signals.",
        "folder in which HKU956/ is created",
        num_participants="number of participants",
        listeners_a_song="how many participants hear each song",
        seconds="length of the songs, s",
    )


if __name__ == "__main__":
    main()

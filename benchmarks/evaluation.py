"""How long it takes to say what a model is worth: all scores, intervals and controls of a data set of PMEmo's size.

    python -m benchmarks.evaluation

7,960 synthetic trials, 794 songs of about 38 s at 4 Hz, 401 listeners; predictions exist already. What `assess` does:
every metric of the model and of seven baselines, 1,000 bootstrap samples, 999 permutations, the ceiling. Fitting the
baselines is timed apart.
"""

import resource
import time

import numpy as np

from benchmarks.timing import print_value
from evaluation.descriptors import DESCRIPTORS
from evaluation.signal_baselines import BASELINES_WITH_SOUND, BASELINES_WITHOUT_SOUND, TrialsWithSound, mean_of_others
from evaluation.signals import PERMUTATIONS, SAMPLES, assess, longest_of_song
from evaluation.trials import Trials, pad_rows

RATE = 4.0  # Hz
SONGS, LISTENERS, TRIALS = 794, 401, 7960
SECONDS, DEVIATION = 38.0, 12.0  # of a song, as in PMEmo


def make_trials() -> tuple[TrialsWithSound, list[str], list[str]]:
    """Trials of slow noise, and who heard what."""
    generator = np.random.default_rng(0)
    frames = np.maximum(generator.normal(SECONDS, DEVIATION, SONGS) * RATE, 12 * RATE).astype(int)
    songs = np.sort(np.concatenate([np.arange(SONGS), generator.integers(0, SONGS, TRIALS - SONGS)]))
    targets = [np.cumsum(generator.normal(size=frames[song])) / 10 for song in songs]
    descriptors = [generator.normal(size=(count, len(DESCRIPTORS))) for count in frames]
    masks = [generator.random(len(target)) < 0.98 for target in targets]
    listeners = generator.integers(0, LISTENERS, TRIALS)
    trials = TrialsWithSound(targets, masks, songs.tolist(), descriptors, RATE)
    return trials, [f"{song}" for song in songs], [f"{listener}" for listener in listeners]


def main() -> None:
    """Time both parts once: each takes long enough."""
    known, songs, listeners = make_trials()
    start = time.perf_counter()
    made = {name: fit(known)(known) for name, fit in (BASELINES_WITHOUT_SOUND | BASELINES_WITH_SOUND).items()} | {
        "others": mean_of_others(known)
    }
    fitted = time.perf_counter()
    trials = Trials.pad(made["ridge"], known.targets, known.masks, songs, listeners, RATE, "uS")
    baselines = {name: pad_rows(rows, np.float64) for name, rows in made.items()}
    began = time.perf_counter()
    assess(trials, baselines, np.zeros(len(songs)), longest_of_song(made["ridge"], songs), trials.target)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{TRIALS} trials, {SONGS} songs, {LISTENERS} listeners, {SAMPLES} samples, {PERMUTATIONS} permutations")
    print_value("baselines_seconds_7960_trials", fitted - start, "s")
    print_value("evaluation_seconds_7960_trials", ended - began, "s")
    print_value("evaluation_peak_memory", peak, "MiB")


if __name__ == "__main__":
    main()

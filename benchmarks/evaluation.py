"""Time and memory of a full assessment on data of the size of PMEmo.

    python -m benchmarks.evaluation

7,960 synthetic trials, 794 songs of about 38 s at 4 Hz, 401 listeners, with given predictions. `assess` computes every
metric of the model and of seven baselines, 1,000 bootstrap samples, 999 permutations and the ceiling. Fitting the
baselines is timed separately.
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
SECONDS, DEVIATION = 38.0, 12.0  # s, mean and standard deviation of song lengths in PMEmo


def make_trials() -> tuple[TrialsWithSound, list[str], list[str]]:
    """Make trials of slow noise; return them with the song and the listener of each."""
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
    # Each part is timed once: both take long enough.
    data, songs, listeners = make_trials()
    start = time.perf_counter()
    predictions = {name: fit(data)(data) for name, fit in (BASELINES_WITHOUT_SOUND | BASELINES_WITH_SOUND).items()} | {
        "others": mean_of_others(data)
    }
    fitted = time.perf_counter()
    trials = Trials.pad(predictions["ridge"], data.targets, data.masks, songs, listeners, RATE, "uS")
    baselines = {name: pad_rows(rows, np.float64) for name, rows in predictions.items()}
    began = time.perf_counter()
    assess(trials, baselines, np.zeros(len(songs)), longest_of_song(predictions["ridge"], songs), trials.target)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{TRIALS} trials, {SONGS} songs, {LISTENERS} listeners, {SAMPLES} samples, {PERMUTATIONS} permutations")
    print_value("baselines_seconds_7960_trials", fitted - start, "s")
    print_value("evaluation_seconds_7960_trials", ended - began, "s")
    print_value("evaluation_peak_memory", peak, "MiB")


if __name__ == "__main__":
    main()

"""False positive rate and power of the verdict "effect", on synthetic data.

    python -m benchmarks.calibration [--full]

The data are descriptors and targets: accents in the loudness of a song drive responses through a Bateman kernel. Each
listener has a separate gain, spontaneous responses and a drift. The model is the mean curve of the training songs plus
ridge regression on the residuals; the rule is that of the reports.

Two kinds of data have no effect. In one, listeners share nothing; in the other, all react to the start of a song,
which the model and the time curve both know. The nominal level is 2.5 %, from the lower bound of a 95 % interval. The
rule has to stay below it: the baseline is the best of three on the test itself, and mismatched sound has to agree.
"""

import argparse
from dataclasses import replace

import numpy as np
from scipy.stats import binomtest

from benchmarks.timing import print_value
from evaluation.descriptors import DESCRIPTORS
from evaluation.signal_baselines import BASELINES_WITHOUT_SOUND, TrialsWithSound, bateman, ridge, time_curve
from evaluation.signals import assess, longest_of_song
from evaluation.trials import Trials

RATE = 4.0  # Hz
SONGS_TRAINED, SONGS_TESTED, LISTENERS = 14, 8, 6
NOMINAL = 0.025  # one side of a 95 % interval
COUPLINGS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)  # strength of the response to sound
DEFAULT_COUPLING = 1.0


def make_set(songs: int, coupling: float, onset: bool, generator: np.random.Generator) -> TrialsWithSound:
    """Make trials of all listeners with all songs.

    Args:
        onset: add a reaction to the start of a song, shared by all listeners.
    """
    kernel = bateman(RATE)
    before = len(kernel)
    reaction = float(onset) * np.exp(-np.arange(200) / 24)
    gains = generator.lognormal(0, 0.4, LISTENERS)
    descriptors, targets, song_of_trial = [], [], []
    for song in range(songs):
        frames = int(generator.integers(90, 150))
        sound = generator.normal(size=(frames, len(DESCRIPTORS)))
        accents = (generator.random(frames) < 0.08) * generator.gamma(4, 0.5, frames)
        sound[:, 0] += accents
        descriptors.append(sound)
        for gain in gains:
            # Spontaneous responses start one kernel before the song. Otherwise their sum would rise at the start of
            # every trial, an effect that all listeners share.
            spontaneous = (generator.random(before + frames) < 0.05) * generator.gamma(4, 0.5, before + frames)
            driven = np.concatenate([np.zeros(before), coupling * accents])
            response = np.convolve(driven + spontaneous, kernel)[before : before + frames]
            drift = np.cumsum(generator.normal(0, 0.05, frames))
            targets.append(gain * response + drift + reaction[:frames] + generator.normal(0, 0.1, frames))
            song_of_trial.append(song)
    spread = np.std(np.concatenate(targets))
    targets = [target / spread for target in targets]
    masks = [np.ones(len(target), bool) for target in targets]
    return TrialsWithSound(targets, masks, song_of_trial, descriptors, RATE)


def time_and_sound(train: TrialsWithSound, test: TrialsWithSound) -> list[np.ndarray]:
    """Predict the mean training trial plus ridge regression on the residuals."""
    curve = time_curve(train)
    residuals = [target - mean for target, mean in zip(train.targets, curve(train), strict=True)]
    of_sound = ridge(replace(train, targets=residuals))
    return [mean + residual for mean, residual in zip(curve(test), of_sound(test), strict=True)]


def verdict_of(coupling: float, onset: bool, seed: int) -> bool:
    """Return whether the verdict on one data set is "effect"."""
    generator = np.random.default_rng([int(1000 * coupling), onset, seed])
    train, test = (make_set(songs, coupling, onset, generator) for songs in (SONGS_TRAINED, SONGS_TESTED))
    predictions = time_and_sound(train, test)
    songs = [f"{song}" for song in test.songs]
    listeners = [f"{n % LISTENERS}" for n in range(len(songs))]
    trials = Trials.pad(predictions, test.targets, test.masks, songs, listeners, RATE, "z")

    def padded(rows: list[np.ndarray]) -> np.ndarray:
        return Trials.pad(rows, test.targets, test.masks, songs, listeners, RATE, "z").prediction

    baselines = {name: padded(fit(train)(test)) for name, fit in BASELINES_WITHOUT_SOUND.items()}
    results = assess(trials, baselines, np.zeros(len(songs)), longest_of_song(predictions, songs), trials.target)
    return results.verdict.verdict == "effect"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1,000 sets without an effect, 100 per strength")
    full = parser.parse_args().full
    print(
        f"{SONGS_TRAINED} songs trained on, {SONGS_TESTED} tested, {LISTENERS} listeners; share of sets with an effect"
    )
    sets = 1000 if full else 200
    nothing = share_of_effects("nothing shared", 0.0, False, sets)
    beginning = share_of_effects("start shared", 0.0, True, sets)
    sets = 100 if full else 20
    power = {each: share_of_effects(f"coupling {each:.1f}", each, True, sets) for each in COUPLINGS}
    print_value("false_positive_rate", nothing, f"of sets, nominal {NOMINAL} at most")
    print_value("false_positive_rate_shared_beginning", beginning, f"of sets, nominal {NOMINAL} at most")
    print_value("power_at_default_coupling", power[DEFAULT_COUPLING], "of sets")


def share_of_effects(name: str, coupling: float, onset: bool, sets: int) -> float:
    """Return how often the verdict is "effect"; print it with its binomial interval."""
    effects = sum(verdict_of(coupling, onset, seed) for seed in range(sets))
    low, high = binomtest(effects, sets).proportion_ci()
    print(f"{name:18}: {effects:4d} of {sets:4d} = {effects / sets:.3f} [{low:.3f}, {high:.3f}]")
    return effects / sets


if __name__ == "__main__":
    main()

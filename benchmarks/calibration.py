"""How often the verdict says "effect": where there is none, and over the strength of one that there is.

    python -m benchmarks.calibration [--full]

Synthetic sets at the level of descriptors: accents in the loudness of a song drive responses through a Bateman kernel,
each listener with a gain, spontaneous responses and a drift of their own. The model knows the time since onset and the
sound: the mean curve of other songs, and ridge regression on what is left of them; the rule is that of the reports.

Two worlds have no effect: in one, listeners share nothing; in the other, a reaction to any beginning, which the model
and the time curve know alike. The nominal level is the 2.5 % of a lower 95 % bound, and the most that the rule may
reach: the baseline is the best of three on the test itself, and mismatched sound has to agree.
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
NOMINAL = 0.025
COUPLINGS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
DEFAULT_COUPLING = 1.0


def make_set(songs: int, coupling: float, onset: bool, generator: np.random.Generator) -> TrialsWithSound:
    """Trials of some songs, all heard by the same listeners, with a shared reaction to the beginning or without.

    Spontaneous responses began long before, so that their sum has no ramp that everyone shares.
    """
    kernel = bateman(RATE)
    before = len(kernel)
    beginning = float(onset) * np.exp(-np.arange(200) / 24)
    gains = generator.lognormal(0, 0.4, LISTENERS)
    descriptors, targets, of = [], [], []
    for song in range(songs):
        frames = int(generator.integers(90, 150))
        sound = generator.normal(size=(frames, len(DESCRIPTORS)))
        accents = (generator.random(frames) < 0.08) * generator.gamma(4, 0.5, frames)
        sound[:, 0] += accents
        descriptors.append(sound)
        for gain in gains:
            own = (generator.random(before + frames) < 0.05) * generator.gamma(4, 0.5, before + frames)
            driven = np.concatenate([np.zeros(before), coupling * accents])
            response = np.convolve(driven + own, kernel)[before : before + frames]
            drift = np.cumsum(generator.normal(0, 0.05, frames))
            targets.append(gain * response + drift + beginning[:frames] + generator.normal(0, 0.1, frames))
            of.append(song)
    spread = np.std(np.concatenate(targets))
    targets = [target / spread for target in targets]
    return TrialsWithSound(targets, [np.ones(len(target), bool) for target in targets], of, descriptors, RATE)


def time_and_sound(train: TrialsWithSound, test: TrialsWithSound) -> list[np.ndarray]:
    """The mean training trial, and ridge regression on how others differ from it."""
    curve = time_curve(train)
    rest = [target - mean for target, mean in zip(train.targets, curve(train), strict=True)]
    of_sound = ridge(replace(train, targets=rest))
    return [mean + heard for mean, heard in zip(curve(test), of_sound(test), strict=True)]


def verdict_of(coupling: float, onset: bool, seed: int) -> bool:
    """Whether the rule says "effect" of one set."""
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
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="1,000 sets without an effect, 100 a strength")
    full = parser.parse_args().full
    print(
        f"{SONGS_TRAINED} songs trained on, {SONGS_TESTED} tested, {LISTENERS} listeners; share of sets with an effect"
    )
    sets = 1000 if full else 200
    nothing = share_of_effects("nothing shared", 0.0, False, sets)
    beginning = share_of_effects("a beginning shared", 0.0, True, sets)
    sets = 100 if full else 20
    power = {each: share_of_effects(f"coupling {each:.1f}", each, True, sets) for each in COUPLINGS}
    print_value("false_positive_rate", nothing, f"of sets, nominal {NOMINAL} at most")
    print_value("false_positive_rate_shared_beginning", beginning, f"of sets, nominal {NOMINAL} at most")
    print_value("power_at_default_coupling", power[DEFAULT_COUPLING], "of sets")


def share_of_effects(world: str, coupling: float, onset: bool, sets: int) -> float:
    """How often the rule says "effect", printed with its binomial interval."""
    found = sum(verdict_of(coupling, onset, seed) for seed in range(sets))
    low, high = binomtest(found, sets).proportion_ci()
    print(f"{world:18}: {found:4d} of {sets:4d} = {found / sets:.3f} [{low:.3f}, {high:.3f}]")
    return found / sets


if __name__ == "__main__":
    main()

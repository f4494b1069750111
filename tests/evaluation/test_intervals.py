"""Intervals keep their level if trials come in clusters, and give a reason if they are undefined."""

import numpy as np
import pytest
from scipy import stats

from evaluation.intervals import Interval, bootstrap, tail_of


def clustered(
    rng: np.random.Generator, songs: int, listeners: int, song_effect: float, listener_effect: float, sets: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values (sets, N) around 0 for every pair of song and listener, and the song and listener of each (N,)."""
    song, listener = (grid.ravel().astype(str) for grid in np.meshgrid(np.arange(songs), np.arange(listeners)))
    effects = rng.normal(size=(sets, listeners, songs))
    effects += song_effect * rng.normal(size=(sets, 1, songs)) + listener_effect * rng.normal(
        size=(sets, listeners, 1)
    )
    return effects.reshape(sets, -1), song, listener


def coverage(intervals: list[Interval], truth: float = 0.0) -> int:
    """Return the number of intervals that contain the truth."""
    return sum(interval.low <= truth <= interval.high for interval in intervals)


@pytest.mark.parametrize("songs", [8, 40])
def test_intervals_over_songs_cover_the_truth_95_percent_of_the_time(songs: int) -> None:
    sets = 300
    values, song, listener = clustered(
        np.random.default_rng(1), songs, 5, song_effect=1.0, listener_effect=0.0, sets=sets
    )
    covered = coverage(bootstrap(values, song, listener, over="songs", samples=500))
    assert stats.binom.ppf(0.001, sets, 0.95) <= covered <= stats.binom.ppf(0.999, sets, 0.95)
    # A bootstrap over single trials, as if they were independent, fails far more often.
    each = np.arange(len(song)).astype(str)
    naive = coverage(bootstrap(values, each, listener, over="songs", samples=500))
    assert naive < stats.binom.ppf(0.001, sets, 0.85)


def test_intervals_over_both_cover_the_truth_with_effects_of_songs_and_listeners() -> None:
    sets = 200
    values, song, listener = clustered(
        np.random.default_rng(2), 20, 20, song_effect=0.5, listener_effect=1.0, sets=sets
    )
    covered = {over: coverage(bootstrap(values, song, listener, over=over, samples=300)) for over in ("songs", "both")}
    assert stats.binom.ppf(0.001, sets, 0.95) <= covered["both"] <= stats.binom.ppf(0.999, sets, 0.95)
    assert covered["songs"] < stats.binom.ppf(0.001, sets, 0.85)


def test_the_width_over_songs_is_that_of_a_t_interval_of_song_means() -> None:
    values, song, listener = clustered(np.random.default_rng(3), 100, 10, song_effect=1.0, listener_effect=0.0)
    over_songs = bootstrap(values[0], song, listener, over="songs", samples=4000)
    song_means = values[0].reshape(10, 100).mean(axis=0)
    error = stats.sem(song_means) * stats.t.ppf(0.975, 99)
    assert over_songs.high - over_songs.low == pytest.approx(2 * error, rel=0.1)
    over_trials = bootstrap(values[0], np.arange(1000).astype(str), listener, over="songs")
    assert over_songs.high - over_songs.low > 1.5 * (over_trials.high - over_trials.low)


@pytest.mark.parametrize(("song_effect", "listener_effect"), [(0, 0), (2, 0), (0, 2), (1, 1)])
def test_the_width_over_both_is_that_of_the_true_spread(song_effect: float, listener_effect: float) -> None:
    # In a balanced grid the variance of the mean is known: the sum of those of songs, listeners and trials.
    values, song, listener = clustered(np.random.default_rng(8), 30, 40, song_effect, listener_effect, sets=60)
    deviation = np.sqrt(song_effect**2 / 30 + listener_effect**2 / 40 + 1 / 1200)
    widths = [each.high - each.low for each in bootstrap(values, song, listener, over="both", samples=400)]
    assert np.mean(widths) == pytest.approx(2 * stats.t.ppf(0.975, 29) * deviation, rel=0.12)


def test_an_interval_over_both_is_not_narrower_than_over_songs() -> None:
    values, song, listener = clustered(np.random.default_rng(9), 12, 9, song_effect=1.0, listener_effect=0.1, sets=20)
    both, songs = (bootstrap(values, song, listener, over=over, samples=2000) for over in ("both", "songs"))
    assert all(one.high - one.low > 0.93 * (other.high - other.low) for one, other in zip(both, songs, strict=True))


@pytest.mark.parametrize(("over", "one"), [("songs", "songs"), ("listeners", "listeners"), ("both", "listeners")])
def test_one_cluster_has_a_mean_and_no_interval(over: str, one: str) -> None:
    songs = ["a"] * 4 if one == "songs" else list("abcd")
    listeners = ["x"] * 4 if one == "listeners" else list("wxyz")
    interval = bootstrap(np.array([1, 2, 3, 4.0]), songs, listeners, over=over)
    assert (interval.mean, interval.low, interval.high) == (2.5, None, None)
    assert interval.clusters[one] == 1
    assert one in interval.reason


def test_undefined_values_are_left_out_and_counted() -> None:
    values, song, listener = clustered(np.random.default_rng(4), 10, 6, 1.0, 0.0)
    values = values[0]
    undefined = song == "3"
    with_gaps = bootstrap(np.where(undefined, np.nan, values), song, listener, samples=5000)
    without = bootstrap(values[~undefined], song[~undefined], listener[~undefined], samples=5000)
    assert (with_gaps.trials, with_gaps.undefined, with_gaps.clusters) == (54, 6, {"songs": 9})
    assert with_gaps.mean == without.mean == pytest.approx(values[~undefined].mean())
    assert [with_gaps.low, with_gaps.high] == pytest.approx([without.low, without.high], abs=0.15)


def test_without_defined_values_the_interval_is_none_with_a_reason() -> None:
    interval = bootstrap(np.full(3, np.nan), list("abc"), list("xyz"))
    assert interval == Interval(None, None, None, {"songs": 0}, 0, 0, 3, interval.reason)
    assert interval.reason


def test_resamples_without_a_defined_value_are_not_counted() -> None:
    interval = bootstrap(np.array([1.0, 2.0, *[np.nan] * 6]), list("abcdefgh"), ["x"] * 8, samples=500)
    assert 300 < interval.samples < 500  # (6/8) ** 8 = 10 % contain neither of the two
    assert (interval.low, interval.high) == (1.0, 2.0)


@pytest.mark.parametrize("over", ["songs", "listeners", "both"])
def test_a_seed_gives_the_same_bounds_for_one_row_and_for_several(over: str) -> None:
    values, song, listener = clustered(np.random.default_rng(5), 12, 7, 0.5, 0.5, sets=3)
    several = bootstrap(values, song, listener, over=over, seed=7)
    alone = bootstrap(values[1], song, listener, over=over, seed=7)
    assert [several[1].low, several[1].high] == pytest.approx([alone.low, alone.high], rel=1e-12)
    assert bootstrap(values[1], song, listener, over=over, seed=7) == alone
    assert bootstrap(values[1], song, listener, over=over, seed=8) != alone


def test_songs_of_any_size_are_drawn_whole() -> None:
    # Songs of 1 and 9 trials: a resample contains one of them or both, so its mean is 0, 0.9 or 1.
    values = np.array([0.0] + [1.0] * 9)
    interval = bootstrap(values, ["a"] + ["b"] * 9, ["x"] * 10)
    assert (interval.mean, interval.low, interval.high) == (0.9, 0.0, 1.0)


def test_many_clusters_use_plain_percentiles_and_few_use_wider_ones() -> None:
    assert tail_of(0.95, 10**6) == pytest.approx(0.025, rel=1e-3)
    assert tail_of(0.95, 10) == pytest.approx(stats.norm.cdf(-2.262157 * np.sqrt(10 / 9)), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"over": "frames"}, "over='frames'"),
        ({"songs": ["a"]}, "1 songs and 2 listeners"),
        ({"values": np.empty(0), "songs": [], "listeners": []}, "values=0 trials"),
        ({"samples": 0}, "samples=0"),
        ({"level": 95.0}, "level=95.0"),
    ],
)
def test_invalid_arguments_are_rejected(change: dict, message: str) -> None:
    request = {"values": np.array([1.0, 2.0]), "songs": ["a", "b"], "listeners": ["x", "y"]}
    with pytest.raises(ValueError, match=message):
        bootstrap(**request | change)

"""Detection measures, compared with results by hand and with plain loops; as functions and as `evaluate` modules."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit

from evaluation.detection import (
    Ranking,
    area_under_precision,
    area_under_roc,
    average_precision,
    bootstrap_clips,
    distance_of,
    false_alarms_within,
    paired_bootstrap,
    precision_recall_curve,
    recall_within,
    resamples,
    roc_auc,
    threshold_for,
)
from evaluation.events import (
    LabelAlarms,
    alarm_peaks,
    average_frames,
    confusers,
    detect_events,
    event_counts,
    merge_windows,
    refine,
)
from evaluation.intervals import Interval
from tests.helpers.metric_modules import OF_DETECTION, load, result_of_card


def d_prime(scores: np.ndarray, targets: np.ndarray) -> float:
    return float(distance_of(roc_auc(scores, targets), float(targets.sum() * (1 - targets).sum())))


def recall_at(scores: np.ndarray, targets: np.ndarray, allowed: float) -> float:
    """Return the recall with at most this number of false alarms."""
    return float(recall_within(*Ranking.of(scores, targets).counts(), np.array(allowed)))


RANKINGS = (average_precision, roc_auc, d_prime)

scored = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and targets with at least one positive and one negative."""
    scores, targets = (np.array(column) for column in zip(*pairs, strict=True))
    assume(targets.any() and not targets.all())
    return scores.astype(float), targets


# Rankings


@pytest.mark.parametrize(
    ("measure", "scores", "targets", "expected"),
    [
        (average_precision, [4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        (average_precision, [4, 3, 2, 1], [0, 0, 0, 1], 1 / 4),
        (average_precision, [4, 3, 3, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2),  # the tie is one threshold
        (average_precision, [1, 1, 1, 1], [1, 0, 0, 0], 1 / 4),
        (average_precision, [1, 2], [1, 1], 1.0),
        (roc_auc, [4, 3, 2, 1], [1, 0, 1, 0], 3 / 4),
        (roc_auc, [4, 3, 3, 1], [1, 0, 1, 0], 3.5 / 4),
        (roc_auc, [1, 1, 1, 1], [1, 0, 0, 0], 1 / 2),
        (roc_auc, [1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        (d_prime, [4, 3, 3, 1], [0, 1, 0, 1], math.sqrt(2) * -1.150349),  # an area of 0.5 / 4
        (d_prime, [1, 1, 1, 1], [1, 0, 0, 0], 0.0),
        (d_prime, [4, 3, 2, 1], [1, 1, 0, 0], math.sqrt(2) * 1.150349),  # an area of 1, kept at 1 - 1 / 8
    ],
)
def test_known_answers(measure, scores, targets, expected) -> None:
    assert measure(np.array(scores), np.array(targets)) == pytest.approx(expected, abs=1e-6)


def test_d_prime_is_the_distance_of_two_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(40_000) % 2 == 1
    assert d_prime(rng.normal(size=40_000) + 1.3 * targets, targets) == pytest.approx(1.3, abs=0.04)


@given(scored)
def test_only_the_order_of_scores_matters(pairs) -> None:
    scores, targets = arrays(pairs)
    order = np.random.default_rng(0).permutation(len(scores))
    for measure in RANKINGS:
        expected = measure(scores, targets)
        assert measure(np.exp(scores) * 3 + 1, targets) == pytest.approx(expected, abs=1e-12)
        assert measure(scores[order], targets[order]) == pytest.approx(expected, abs=1e-12)
    assert roc_auc(-scores, targets) == pytest.approx(1 - roc_auc(scores, targets))
    assert roc_auc(scores, ~targets) == pytest.approx(1 - roc_auc(scores, targets))


@given(st.lists(st.booleans(), min_size=2, max_size=30))
def test_perfect_scores_are_perfect_and_constant_ones_are_chance(targets) -> None:
    scores, targets = arrays([(float(target), target) for target in targets])
    assert average_precision(scores, targets) == roc_auc(scores, targets) == 1
    assert average_precision(0 * scores, targets) == pytest.approx(targets.mean())
    assert (roc_auc(0 * scores, targets), d_prime(0 * scores, targets)) == (0.5, 0)


def test_the_average_precision_of_random_scores_is_the_share_of_positives() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(2000) < 200
    values = [average_precision(rng.random(2000), targets) for _ in range(100)]
    assert np.mean(values) == pytest.approx(0.1, abs=0.005)


@given(scored)
def test_rankings_agree_with_scikit_learn(pairs) -> None:
    peer = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    scores, targets = arrays(pairs)
    assert average_precision(scores, targets) == pytest.approx(peer.average_precision_score(targets, scores))
    assert roc_auc(scores, targets) == pytest.approx(peer.roc_auc_score(targets, scores))
    recall, precision, thresholds = precision_recall_curve(scores, targets)
    curve = peer.precision_recall_curve(targets, scores)
    assert precision == pytest.approx(curve[0][-2::-1])
    assert recall == pytest.approx(curve[1][-2::-1])
    assert thresholds == pytest.approx(curve[2][::-1])


def test_measures_are_nan_without_positives_or_negatives() -> None:
    scores, negatives, positives = np.array([1.0, 2.0]), np.array([0, 0]), np.array([1, 1])
    assert math.isnan(average_precision(scores, negatives))
    assert average_precision(scores, positives) == 1
    for measure in (roc_auc, d_prime):
        assert math.isnan(measure(scores, negatives))
        assert math.isnan(measure(scores, positives))
    assert math.isnan(recall_at(scores, negatives, 10))
    assert [part.tolist() for part in precision_recall_curve(scores, negatives)] == [[], [], []]


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([1, np.nan, np.nan], [1, 0, 0], r"scores\[1\]=nan: 2 of 3 "),
        ([1, 2], [1, 0.5], r"targets\[1\]=0.5"),
        ([1, 2], [1], r"scores.shape=\(2,\), targets.shape=\(1,\)"),
        ([], [], r"scores.shape=\(0,\), targets.shape=\(0,\)"),
        ([[1, 2]], [[0, 1]], r"scores.shape=\(1, 2\), targets.shape=\(1, 2\)"),
    ],
)
def test_invalid_scores_and_targets_are_rejected(scores, targets, message) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(np.array(scores), np.array(targets))


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(0, 1 / 3), (1, 2 / 3), (0.5 * 2, 2 / 3), (1.9, 2 / 3), (2, 1), (3, 1), (0.1 * 10, 2 / 3)],
)
def test_recall_at_false_alarms_by_hand(allowed, expected) -> None:
    # From the top: a hit, a false alarm, a hit, then a hit and a false alarm with equal scores, a false alarm.
    scores, targets = np.array([9, 8, 7, 6, 6, 5]), np.array([1, 0, 1, 1, 0, 0])
    assert recall_at(scores, targets, allowed) == pytest.approx(expected)


def test_recall_is_0_if_the_highest_score_already_raises_too_many_false_alarms() -> None:
    assert recall_at(np.array([9, 8]), np.array([0, 1]), 0) == 0
    assert recall_at(np.array([9, 9]), np.array([0, 1]), 0) == 0


@given(scored, st.integers(1, 10))
def test_false_alarms_at_a_recall_by_a_loop(pairs, tenths) -> None:
    scores, targets = arrays(pairs)
    enough = [t for t in scores if 10 * (targets & (scores >= t)).sum() >= tenths * targets.sum()]
    expected = (~targets & (scores >= max(enough))).sum()
    assert false_alarms_within(*Ranking.of(scores, targets).counts(), tenths / 10) == expected


# Thresholds


@given(scored)
def test_thresholds_by_a_loop(pairs) -> None:
    scores, targets = arrays(pairs)

    def hits_and_false_alarms(threshold: float) -> tuple[int, int]:
        return (targets & (scores >= threshold)).sum(), (~targets & (scores >= threshold)).sum()

    def f1(threshold: float) -> float:
        hits, false_alarms = hits_and_false_alarms(threshold)
        return 2 * hits / (targets.sum() + hits + false_alarms)

    best = max(map(f1, scores))
    lowest = max(t for t in scores if f1(t) == pytest.approx(best))
    middle = threshold_for(scores, targets, "f1")
    assert max(scores[scores < lowest], default=middle - 1) < middle <= lowest
    assert f1(middle) == pytest.approx(best)
    half = threshold_for(scores, targets, "recall:0.5")
    assert half == max(t for t in scores if hits_and_false_alarms(t)[0] >= targets.sum() / 2)
    within = [t for t in scores if hits_and_false_alarms(t)[1] <= 3]
    lowest = threshold_for(scores, targets, "false_alarms:6", hours=0.5)
    assert lowest == min(within, default=np.nextafter(scores.max(), np.inf))
    assert hits_and_false_alarms(lowest)[1] <= 3


@pytest.mark.parametrize(
    ("positives", "negatives", "middle"),
    [
        ([4.0, 2.0], [1.0, -3.0], 1.5),
        ([-20.0], [-30.0, -60.0], -25.0),  # dB
        ([expit(6.0), expit(3.0)], [expit(-5.0), expit(-9.0)], expit(-1.0)),
        ([1.0, 1.0], [expit(1.0)], expit((53 * np.log(2) + 1) / 2)),  # a sigmoid that saturates
        ([1.0], [0.0], 0.5),
        ([1.0], [np.nextafter(1.0, 0.0)], 1.0),
        ([1e-20], [1e-30], 1e-20),
        ([0.9, 0.2], [0.4, 0.3, 0.1], expit((np.log(9) - np.log(1.5)) / 2)),  # one or two positives give the same F1
        ([0.9, 0.8], [], 0.8),  # all clips fire
        ([np.inf], [-np.inf], np.inf),
    ],
)
def test_the_threshold_of_f1_is_in_the_middle_of_its_gap(positives, negatives, middle) -> None:
    scores, targets = np.array(positives + negatives), np.arange(len(positives + negatives)) < len(positives)
    assert threshold_for(scores, targets, "f1") == pytest.approx(middle, rel=1e-6, abs=1e-30)
    assert threshold_for(scores, targets, "recall:1") == min(positives)
    if negatives:
        silent = min(score for score in positives if score > max(negatives))
        assert threshold_for(scores, targets, "false_alarms:0", hours=1.0) == silent


def test_rounding_errors_do_not_change_the_clips_of_a_recall() -> None:
    scores = np.arange(10.0)
    for tenths in range(1, 11):
        assert threshold_for(scores, np.ones(10), f"recall:{tenths / 10}") == 10 - tenths


@pytest.mark.parametrize("rule", ["f2", "recall", "recall:0", "recall:1.1", "recall:x", "false_alarms:-1", "f1:2", ""])
def test_the_error_for_an_unknown_rule_lists_the_rules(rule) -> None:
    with pytest.raises(ValueError, match=f"rule='{rule}': .* f1, recall:0.9, false_alarms:10"):
        threshold_for(np.arange(4), np.arange(4) % 2, rule, hours=1.0)


@pytest.mark.parametrize(
    ("rule", "targets", "hours", "message"),
    [
        ("f1", [0, 0], None, "rule='f1': .* none of 2 "),
        ("recall:0.9", [0, 0], None, "rule='recall:0.9': .* none of 2 "),
        ("false_alarms:1", [0, 1], None, "rule='false_alarms:1': .* hours=None .* 1 negative"),
        ("false_alarms:1", [1, 1], 1.0, "rule='false_alarms:1': .* hours=1.0 .* 0 negative"),
    ],
)
def test_a_rule_without_the_clips_that_it_needs_is_rejected(rule, targets, hours, message) -> None:
    with pytest.raises(ValueError, match=message):
        threshold_for(np.array([1.0, 2.0]), np.array(targets), rule, hours)


# Events


def test_windows_that_touch_make_one_event() -> None:
    times, scores = np.arange(0, 5, 0.5), np.array([0.1, 0.6, 0.9, 0.2, 0.7, 0.1, 0.1, 0.1, 0.5, 0.4])
    assert merge_windows(times, scores, 0.5, window_seconds=1.0).tolist() == [[0.5, 3.0, 0.9], [4.0, 5.0, 0.5]]
    assert merge_windows(times, scores, 0.5, window_seconds=0.5).tolist() == [
        [0.5, 1.5, 0.9],
        [2.0, 2.5, 0.7],
        [4.0, 4.5, 0.5],
    ]
    assert merge_windows(times, scores, 0.95, window_seconds=1.0).shape == (0, 3)
    assert merge_windows([], [], 0.5, window_seconds=1.0).shape == (0, 3)


windows = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), max_size=25)


@given(windows, st.integers(1, 6), st.integers(0, 4))
def test_events_cover_exactly_what_fires_are_separate_and_not_more_than_peaks(pairs, width, threshold) -> None:
    times, scores = np.cumsum([step for step, _ in pairs]), np.array([score for _, score in pairs], float)
    events = merge_windows(times, scores, threshold, width)
    fires = {t + k for t, score in zip(times, scores, strict=True) if score >= threshold for k in range(width)}
    assert fires == {second for start, end, _ in events for second in range(int(start), int(end))}
    assert (events[1:, 0] > events[:-1, 1]).all()
    for start, end, score in events:
        assert score == scores[(times >= start) & (times < end) & (scores >= threshold)].max()
    assert len(events) <= (alarm_peaks(times, scores, width) >= threshold).sum()


def test_peaks_by_hand() -> None:
    times = np.array([0, 1, 2, 3, 4, 5, 9, 10.0])
    scores = np.array([3, 1, 2, 2, 1, 4, 4, 0.0])
    assert alarm_peaks(times, scores, window_seconds=1.0).tolist() == [3, 2, 4, 4]
    assert alarm_peaks(times, np.ones(8), window_seconds=1.0).tolist() == [1, 1]
    assert alarm_peaks([], [], window_seconds=1.0).tolist() == []


@pytest.mark.parametrize(
    ("times", "scores", "seconds", "message"),
    [
        ([0, 2, 1], [1, 1, 1], 1.0, r"times\[2\]=1.0: .*times\[1\]"),
        ([0, 1], [1, np.nan], 1.0, "window 1 of 2: time=1.0, score=nan"),
        ([0, 1], [1], 1.0, r"times.shape=\(2,\), scores.shape=\(1,\)"),
        ([0, 1], [1, 1], 0.0, "window_seconds=0.0"),
    ],
)
def test_invalid_windows_are_rejected(times, scores, seconds, message) -> None:
    with pytest.raises(ValueError, match=message):
        merge_windows(np.array(times), np.array(scores), 0.5, seconds)


def test_overlapping_frames_are_averaged() -> None:
    times, averages, length = average_frames([0.0, 0.5, 3.0], [[0, 1], [0, 1], [1, 1]], window_seconds=1.0)
    assert times.tolist() == [0.0, 0.5, 1.0, 3.0, 3.5]
    assert length == 0.5
    assert averages.tolist() == [0, 0.5, 1, 1, 1]


def test_events_are_trimmed_to_the_frames_that_reach_the_threshold() -> None:
    events = np.array([[0.0, 2.0, 0.9], [5.0, 6.0, 0.7]])
    times, scores = np.arange(0, 6, 0.25), np.zeros(24)
    scores[[2, 5]] = 0.8, 0.6  # 0.5 to 0.75 s and 1.25 to 1.5 s
    scores[14] = 1.0  # outside both
    assert refine(events, times, scores, 0.5, 0.25).tolist() == [[0.5, 1.5, 0.9], [5.0, 6.0, 0.7]]
    assert events[0].tolist() == [0.0, 2.0, 0.9]


def test_frame_scores_locate_a_sound_more_precisely_than_windows() -> None:
    # Windows of 1 s every half second over a sound from 2.3 to 2.7 s; frames last 0.1 s.
    starts = np.arange(0, 5, 0.5)
    middles = starts[:, None] + 0.05 + 0.1 * np.arange(10)
    frames = ((middles > 2.3) & (middles < 2.7)).astype(float)
    by_windows = detect_events(starts, frames.max(axis=1), 0.5, 1.0)
    assert by_windows.tolist() == [[1.5, 3.5, 1.0]]
    assert detect_events(starts, frames.max(axis=1), 0.5, 1.0, frames)[0] == pytest.approx([2.3, 2.7, 1.0])


@pytest.mark.parametrize(
    ("detected", "annotated", "expected"),
    [
        ([[1.0, 2.0]], [[1.2, 2.2]], (1, 0, 0)),
        ([[1.0, 2.0]], [[1.21, 2.0]], (0, 1, 1)),
        ([[1.0, 2.3]], [[1.0, 2.0]], (0, 1, 1)),
        ([[1.0, 12.0]], [[1.0, 10.2]], (1, 0, 0)),  # 20 % of 9.2 s is 1.84 s
        ([[1.0, 12.1]], [[1.0, 10.2]], (0, 1, 1)),
        ([[1.0, 2.0], [1.1, 2.0]], [[1.0, 2.0]], (1, 1, 0)),  # one to one
        ([[1.0, 2.0, 0.9]], [], (0, 1, 0)),
        ([], [[1.0, 2.0]], (0, 0, 1)),
        ([], [], (0, 0, 0)),
    ],
)
def test_event_counts_by_hand(detected, annotated, expected) -> None:
    assert event_counts(np.array(detected), np.array(annotated)) == expected


def test_pairs_are_chosen_for_the_largest_number_of_hits() -> None:
    # The first detected event matches both annotated ones, the second only the one that is closest to the first.
    assert event_counts([[1.0, 2.0], [0.85, 2.0]], [[1.0, 2.0], [1.2, 2.0]]) == (2, 0, 0)


@settings(max_examples=100)
@given(*[st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), max_size=4)] * 2, st.integers(0, 3))
def test_no_other_pairing_of_events_has_more_hits(detected, annotated, collar) -> None:
    detected, annotated = ([(onset, onset + length) for onset, length in events] for events in (detected, annotated))
    few, many = sorted((detected, annotated), key=len)
    most = max(
        sum(abs(a[0] - b[0]) <= collar and abs(a[1] - b[1]) <= collar for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )
    counts = event_counts(np.array(detected), np.array(annotated), collar, collar, 0.0)
    assert counts == (most, len(detected) - most, len(annotated) - most)


@pytest.mark.parametrize(
    ("detected", "message"),
    [
        ([[2.0, 1.0]], r"detected\[0\]=\[2.0, 1.0\]"),
        ([[0.0, 1.0], [np.nan, 1.0]], r"detected\[1\]=\[nan, 1.0\]"),
        ([1.0, 2.0], r"detected.shape=\(2,\)"),
    ],
)
def test_invalid_events_are_rejected(detected, message) -> None:
    with pytest.raises(ValueError, match=message):
        event_counts(np.array(detected), np.array([[0.0, 1.0]]))


def test_confusers_are_the_labels_of_clips_with_false_alarms() -> None:
    # Clip 0 has the target; clip 1 is a cat (listed twice) and speech, 2 a cat, 3 and 4 are speech.
    codes, clips = [7, 7, 2, 7, 7, 2, 2], [0, 1, 1, 1, 2, 3, 4]
    table = confusers(codes, clips, np.array([1, 0, 0, 0, 0]), np.array([5, 2, 1, 0, 0]))
    assert table == [
        LabelAlarms(label=7, clips=2, clips_with_false_alarm=2, false_alarms=3),
        LabelAlarms(label=2, clips=3, clips_with_false_alarm=1, false_alarms=2),
    ]
    assert confusers([], [], np.zeros(2), np.zeros(2)) == []


# Intervals


@given(scored, st.integers(0, 2**31), st.integers(0, 12), st.integers(1, 10))
def test_a_weight_counts_like_that_many_copies_of_the_clip(pairs, seed, allowed, tenths) -> None:
    scores, targets = arrays(pairs)
    weights = np.random.default_rng(seed).integers(0, 3, len(scores))
    repeated = np.repeat(scores, weights), np.repeat(targets, weights)
    assume(repeated[1].any() and not repeated[1].all())
    counts = Ranking.of(scores, targets).weighted(np.arange(len(scores)), len(scores))(weights[None].astype(float))
    assert area_under_precision(*counts)[0] == pytest.approx(average_precision(*repeated))
    assert area_under_roc(*counts)[0] == pytest.approx(roc_auc(*repeated))
    assert recall_within(*counts, np.array([allowed]))[0] == recall_at(*repeated, allowed)
    alone = false_alarms_within(*Ranking.of(*repeated).counts(), tenths / 10)
    assert false_alarms_within(*counts, tenths / 10)[0] == alone


def clips(positives: int = 40, negatives: int = 400, distance: float = 1.5, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return scores, targets and seconds of clips of 10 s."""
    targets = np.arange(positives + negatives) < positives
    scores = np.random.default_rng(seed).normal(size=len(targets)) + distance * targets
    return scores, targets, np.full(len(targets), 10.0)


def intervals(scores, targets, seconds, recordings=None, threshold=1.0, **options) -> dict[str, Interval]:
    """Return the intervals of clips; each clip that fires is one event."""
    recordings = np.arange(len(scores)) if recordings is None else recordings
    alarms = options.pop("alarms", (scores >= threshold).astype(int))
    return bootstrap_clips(scores, targets, seconds, recordings, threshold, alarms, **options)


def test_means_are_the_measures_of_all_clips() -> None:
    scores, targets, seconds = clips()
    results = intervals(scores, targets, seconds, samples=50)
    fired, hours = scores >= 1.0, 400 * 10 / 3600
    hits, misfires = (fired & targets).sum(), (fired & ~targets).sum()
    expected = {
        "average_precision": average_precision(scores, targets),
        "roc_auc": roc_auc(scores, targets),
        "d_prime": d_prime(scores, targets),
        **{f"recall_at_{n}_per_hour": recall_at(scores, targets, hours * n) for n in (1, 10, 60)},
        "false_alarms_at_recall": (scores[~targets] >= threshold_for(scores, targets, "recall:0.9")).sum() / hours,
        "recall": hits / 40,
        "precision": hits / (hits + misfires),
        "f1": 2 * hits / (40 + hits + misfires),
        "false_alarms_per_hour": misfires / hours,
    }
    assert {name: interval.mean for name, interval in results.items()} == pytest.approx(expected)
    assert all(each.low <= each.mean <= each.high and each.samples == 50 for each in results.values())


def test_bounds_are_percentiles_of_resampled_clips() -> None:
    scores, targets, seconds = clips()
    rng = np.random.default_rng(1)
    drawn = [average_precision(scores[rows], targets[rows]) for rows in rng.integers(0, 440, (2000, 440))]
    interval = intervals(scores, targets, seconds, samples=2000)["average_precision"]
    # 0.0216 instead of 0.025: Student's t for 40 recordings with positives
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.0216, 0.9784]), abs=0.015)


@pytest.mark.parametrize(("seed", "same"), [(0, True), (1, False)])
def test_bounds_depend_on_the_seed_but_not_on_the_block_size(seed, same, monkeypatch) -> None:
    scores, targets, seconds = clips()
    expected = intervals(scores, targets, seconds, samples=30)
    monkeypatch.setattr("evaluation.detection.AT_ONCE", 3 * len(scores))
    assert (intervals(scores, targets, seconds, samples=30, seed=seed) == expected) == same


def test_clips_of_one_recording_count_as_one_cluster() -> None:
    scores, targets, seconds = clips()
    alone = intervals(scores, targets, seconds)["roc_auc"]
    repeated = [np.repeat(each, 4) for each in (scores, targets, seconds, np.arange(440))]
    together = intervals(*repeated)["roc_auc"]
    assert together.mean == pytest.approx(alone.mean)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    naive = intervals(*repeated[:3])["roc_auc"]
    assert together.high - together.low > 1.7 * (naive.high - naive.low)
    assert together.clusters == {"positives": 40, "negatives": 400}


def test_recordings_are_drawn_whole() -> None:
    code = np.array([0, 0, 1, 2, 2, 2])
    weights = np.concatenate(list(resamples(code, 50, seed=0)))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_resamples_without_a_positive_are_left_out() -> None:
    scores, targets, seconds = clips(positives=2, negatives=20)
    results = intervals(scores, targets, seconds, samples=500)
    assert 400 < results["average_precision"].samples < 470  # (20 / 22) ** 22 = 12 % have no positive
    assert results["false_alarms_per_hour"].samples == 500


def test_undefined_intervals_are_none_with_a_reason() -> None:
    scores, targets, seconds = clips()
    no_positives = intervals(scores, 0 * targets, seconds, samples=20)
    assert "no positives" in no_positives["average_precision"].reason
    assert "no positives" in no_positives["recall"].reason
    assert no_positives["false_alarms_per_hour"].high is not None
    no_negatives = intervals(scores, 0 * targets + 1, seconds, samples=20)
    assert no_negatives["false_alarms_per_hour"].mean is None
    assert "no negatives" in no_negatives["false_alarms_per_hour"].reason
    silent = intervals(scores, targets, seconds, threshold=99.0, samples=20)
    assert (silent["precision"].mean, silent["precision"].low) == (None, None)
    assert "divide by 0" in silent["precision"].reason
    assert (silent["recall"].mean, silent["recall"].low) == (0, None)
    assert "give 0" in silent["recall"].reason
    one_recording = intervals(scores, targets, seconds, np.where(targets, -1, np.arange(440)), samples=20)
    assert one_recording["recall"].clusters == {"positives": 1}
    assert "one recording" in one_recording["recall"].reason
    perfect = intervals(targets.astype(float), targets, seconds, samples=20)
    assert (perfect["roc_auc"].mean, perfect["roc_auc"].low, perfect["d_prime"].low) == (1, None, None)
    for each in (*no_positives.values(), *no_negatives.values(), *silent.values(), *perfect.values()):
        assert not any(isinstance(value, float) and math.isnan(value) for value in vars(each).values())


def test_each_peak_is_a_false_alarm() -> None:
    # Every negative clip has a second peak as high as the first: twice the false alarms at any threshold.
    scores, targets, seconds = clips()
    negative = np.flatnonzero(~targets)
    peaks = np.repeat(scores[negative], 2), np.repeat(negative, 2)
    once, twice = intervals(scores, targets, seconds), intervals(scores, targets, seconds, peaks=peaks)
    assert twice["false_alarms_at_recall"].mean == 2 * once["false_alarms_at_recall"].mean
    assert twice["recall_at_60_per_hour"].mean == recall_at(scores, targets, 400 * 10 / 3600 * 30)
    assert twice["average_precision"] == once["average_precision"]
    with pytest.raises(ValueError, match="peaks=1: 1 "):
        intervals(scores, targets, seconds, peaks=(np.ones(1), np.zeros(1, int)))


def test_clips_with_unknown_events_are_left_out_of_event_f1() -> None:
    scores, targets, seconds = clips()
    events = np.zeros((440, 3))
    events[:40] = [2, 1, 1]
    events[20:40] = np.nan
    events[50] = [0, 4, 0]
    interval = intervals(scores, targets, seconds, events=events)["event_f1"]
    assert interval.mean == pytest.approx(2 * 40 / (2 * 40 + 20 + 4 + 20))
    assert interval.low < interval.mean < interval.high
    assert (interval.trials, interval.undefined) == (420, 20)


def test_two_models_are_compared_on_the_same_resamples() -> None:
    # The second model is the first with noise. Clips that are hard for both cancel out, so the interval of the
    # difference is narrower than those of the scores suggest.
    scores, targets, seconds = clips(distance=1.0)
    noisy = scores + np.random.default_rng(3).normal(size=440)
    difference = paired_bootstrap(scores, noisy, targets, np.arange(440), area_under_roc, samples=500)
    assert difference.mean == pytest.approx(roc_auc(scores, targets) - roc_auc(noisy, targets))
    assert 0 < difference.low < difference.mean < difference.high
    separate = [intervals(each, targets, seconds)["roc_auc"] for each in (scores, noisy)]
    assert difference.high - difference.low < 0.9 * math.hypot(*[each.high - each.low for each in separate])
    swapped = paired_bootstrap(noisy, scores, targets, np.arange(440), area_under_roc, samples=500)
    assert (swapped.mean, swapped.low, swapped.high) == pytest.approx(
        (-difference.mean, -difference.high, -difference.low)
    )
    same = paired_bootstrap(scores, 2 * scores, targets, np.arange(440), area_under_precision, samples=20)
    assert (same.mean, same.low) == (0, None)
    assert "give 0" in same.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": np.ones(3)}, r"scores=440 rows, .*\[3, 440, 440\]"),
        ({"samples": 0}, "samples=0"),
        ({"level": 95}, "level=95"),
    ],
)
def test_invalid_arguments_are_rejected(change, message) -> None:
    request = dict(zip(("scores", "targets", "seconds"), clips(), strict=True))
    with pytest.raises(ValueError, match=message):
        intervals(**request | change)


# As modules of `evaluate`


@pytest.mark.parametrize("name", OF_DETECTION)
def test_the_examples_of_the_card_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of_card(name, monkeypatch)
    assert next(iter(result)) == name
    assert result[name] is not None


@pytest.mark.parametrize("measure", (average_precision, roc_auc), ids=lambda measure: measure.__name__)
def test_a_module_averages_over_labels(measure, tmp_path: Path) -> None:
    name = measure.__name__
    scores, targets, _ = clips(5, 20)
    columns = np.stack([scores, -scores, scores], axis=1), np.stack([targets, targets, 0 * targets], axis=1)
    one, other = measure(scores, targets), measure(-scores, targets)
    metric = load(name, tmp_path)
    result = metric.compute(predictions=scores.tolist(), references=targets.tolist())
    assert result == {name: pytest.approx(one), "labels": 1, "undefined": 0}
    result = metric.compute(predictions=columns[0].tolist(), references=columns[1].astype(int).tolist())
    assert result == {name: pytest.approx((one + other) / 2), "labels": 2, "undefined": 1}
    result = metric.compute(predictions=[0.1, 0.2], references=[0, 0])
    assert result == {name: None, "labels": 0, "undefined": 1}
    with pytest.raises(ValueError, match=r"label 1: scores\[1\]=nan: 1 of 2 "):
        metric.compute(predictions=[[0.1, 0.2], [0.1, math.nan]], references=[[0, 0], [1, 1]])


def test_clips_with_different_numbers_of_labels_are_rejected(tmp_path: Path) -> None:
    metric = load("roc_auc", tmp_path)
    for predictions, references, message in (
        ([[1, 2], [1]], [[0, 1], [1]], "predictions, references: "),
        ([1, 2, 3], [0, 1], r"scores.shape=\(3,\), targets.shape=\(2,\)"),
        ([[1], [2]], [0, 1], r"scores.shape=\(2, 1\), targets.shape=\(2,\)"),
        ([], [], r"scores.shape=\(0,\), targets.shape=\(0,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=predictions, references=references)

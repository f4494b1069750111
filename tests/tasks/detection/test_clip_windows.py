"""Scored windows and clips: every window of every clip, clip scores from windows, and unreadable clips."""

import json
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logit

from media.audioset import Labels
from tasks.detection.baselines import PlainWindows, WindowDescriptors
from tasks.detection.eval_windows import ClipWindows
from tasks.detection.scores import ClipScores, assess, chance
from tests.helpers.toy_clips import RATE, SCORED_ROWS, toy_side


@pytest.mark.parametrize(
    ("seconds", "hop", "starts"),
    [
        (0.4, 0.2, [0.0, 0.2, 0.4, 0.6]),
        (0.4, 0.25, [0.0, 0.25, 0.5, 0.6]),  # the last one ends with the clip
        (1.0, 0.5, [0.0]),
        (1.5, 0.5, [0.0]),  # shorter than a window: padded with zeros
    ],
)
def test_windows_cover_a_clip_to_its_end(seconds: float, hop: float, starts: list[float]) -> None:
    windows = toy_side(seconds=seconds, hop=hop)
    assert len(windows) == len(starts) * len(SCORED_ROWS)
    np.testing.assert_allclose(windows.start[: len(starts)], starts, atol=1e-9)
    items = [windows[window] for window in range(len(windows))]
    assert all(item["audio"].shape == (round(seconds * RATE),) for item in items)
    assert windows.clip.tolist() == np.repeat(np.arange(len(SCORED_ROWS)), len(starts)).tolist()
    assert all(item["readable"] for item in items)


def test_window_label_follows_events_if_known_else_the_clip() -> None:
    labels = [toy_side()[window]["label"] for window in range(8)]
    assert labels == [1, 1, 1, 0, 1, 1, 1, 0]  # share of the event at 0.3 to 0.5 s: half, all, half, none
    assert [toy_side(strong=False)[window]["label"] for window in range(8)] == 8 * [1]
    assert [toy_side()[window]["label"] for window in range(8, 24)] == 16 * [0]


def test_loudness_is_the_rms_of_the_window_with_a_lower_bound() -> None:
    windows = toy_side()
    audio = windows[5]["audio"].astype(float)
    describe = WindowDescriptors(RATE)
    loudness = describe(PlainWindows(windows)[5][None])[0, 0]
    assert float(loudness) == pytest.approx(10 * np.log10(np.mean(audio**2)), abs=1e-4)
    assert float(describe(PlainWindows(toy_side(silent=(0,)))[2][None])[0, 0]) == pytest.approx(-100)


def test_unreadable_window_has_the_audio_of_another_clip() -> None:
    windows = toy_side(broken=(1,))
    items = [windows[window] for window in range(8)]
    assert [item["readable"] for item in items] == 4 * [True] + 4 * [False]
    assert all(np.abs(item["audio"]).max() > 0.1 for item in items)


def scores_of(windows: ClipWindows, clip_scores: list[float]) -> tuple[ClipScores, ClipScores]:
    """Give each clip this score in its second window and 0.1 in the others; loudness is constant."""
    logits = np.full((len(windows), 1), logit(0.1))
    for clip, score in enumerate(clip_scores):
        logits[4 * clip + 1] = logit(score)
    readable = np.array([windows[window]["readable"] for window in range(len(windows))])
    scores = ClipScores.of(windows, logits, None, readable)
    return scores, ClipScores(windows, np.full(len(windows), -20.0), None, scores.readable)


def test_clip_score_is_its_highest_window_and_unreadable_clips_have_none() -> None:
    scores, _ = scores_of(toy_side(), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    np.testing.assert_allclose(scores.clip_scores, [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    assert scores.hours_of_negatives == pytest.approx(4 / 3600)
    scores, _ = scores_of(toy_side(broken=(1, 15)), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    assert scores.readable.tolist() == [True, False, True, False, True, True]
    np.testing.assert_allclose(scores.clip_scores, [0.9, 0.2, 0.3, 0.4])
    assert scores.targets.tolist() == [True, False, False, False]


def test_events_are_overlapping_windows_above_the_threshold() -> None:
    scores, _ = scores_of(toy_side(), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    events = scores.events(0.75)
    assert [len(clip_events) for clip_events in events] == [1, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(events[0], [[0.2, 0.6, 0.9]], atol=1e-9)


def test_assessment_matches_values_computed_by_hand() -> None:
    scores, loudness = scores_of(toy_side(), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    labels = Labels(("/m/cry", "/m/dog", "/m/rain"), ("Cry", "Dog", "Rain"))
    lists = [[0]] * 14 + [[1]] * 2 + [[1, 2]] * 13 + [[2]] * 24
    table = pa.table({"clip_id": [f"clip{row}" for row in range(len(lists))], "labels": lists})
    rows = table.take(pa.array(SCORED_ROWS))
    results, _ = assess(scores, scores, {"loudness": (loudness, loudness)}, "recall:1", rows, labels, "validation")
    assert results.threshold.value == pytest.approx(0.7)
    # Ranking is hit, false alarm, hit, so average precision is (1 + 2/3) / 2.
    assert results.scores["average_precision"].mean == pytest.approx((1 + 2 / 3) / 2)
    assert results.scores["precision"].mean == pytest.approx(2 / 3)
    assert results.scores["false_alarms_per_hour"].mean == pytest.approx(3600 / 4)
    assert results.confusers[0].name == "Dog"
    assert results.confusers[0].false_alarms == 1
    assert results.baselines["loudness"]["average_precision"].mean == pytest.approx(2 / 6)
    assert results.gains["loudness"].mean == pytest.approx((1 + 2 / 3) / 2 - 2 / 6)
    assert results.baselines["chance"] == chance(2 / 6)
    assert results.timelines[-1].title.startswith("without ")
    assert sum(results.histogram.positives) == 2
    assert sum(results.histogram.negatives) == 4
    assert json.loads(json.dumps(asdict(results), allow_nan=False)) == asdict(results)  # as in metrics.json

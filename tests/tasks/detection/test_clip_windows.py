"""What is scored: every window of every clip, the scores of clips made of them, and clips that cannot be read."""

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
        (0.4, 0.25, [0.0, 0.25, 0.5, 0.6]),  # the last one ends where the clip does
        (1.0, 0.5, [0.0]),
        (1.5, 0.5, [0.0]),  # shorter than a window: zeros follow
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


def test_a_window_is_labelled_by_what_is_in_it_where_that_is_known() -> None:
    labels = [toy_side()[window]["label"] for window in range(8)]
    assert labels == [1, 1, 1, 0, 1, 1, 1, 0]  # of 0.3 to 0.5 s: 0-0.4 half, 0.2-0.6 all, 0.4-0.8 half, 0.6-1 nothing
    assert [toy_side(strong=False)[window]["label"] for window in range(8)] == 8 * [1]
    assert [toy_side()[window]["label"] for window in range(8, 24)] == 16 * [0]


def test_a_window_is_as_loud_as_its_sound_and_silence_has_a_bound() -> None:
    windows = toy_side()
    audio = windows[5]["audio"].astype(float)
    describe = WindowDescriptors(RATE)
    loudness = describe(PlainWindows(windows)[5][None])[0, 0]
    assert float(loudness) == pytest.approx(10 * np.log10(np.mean(audio**2)), abs=1e-4)
    assert float(describe(PlainWindows(toy_side(silent=(0,)))[2][None])[0, 0]) == pytest.approx(-100)


def test_a_window_that_cannot_be_read_has_the_sound_of_another_clip() -> None:
    windows = toy_side(broken=(1,))
    items = [windows[window] for window in range(8)]
    assert [item["readable"] for item in items] == 4 * [True] + 4 * [False]
    assert all(np.abs(item["audio"]).max() > 0.1 for item in items)


def scores_of(windows: ClipWindows, clip_scores: list[float]) -> tuple[ClipScores, ClipScores]:
    """The model says this of each clip in its second window and a tenth in the others; loudness says nothing."""
    logits = np.full((len(windows), 1), logit(0.1))
    for clip, score in enumerate(clip_scores):
        logits[4 * clip + 1] = logit(score)
    readable = np.array([windows[window]["readable"] for window in range(len(windows))])
    scores = ClipScores.of(windows, logits, None, readable)
    return scores, ClipScores(windows, np.full(len(windows), -20.0), None, scores.readable)


def test_a_clip_scores_as_its_highest_window_and_an_unreadable_one_not_at_all() -> None:
    scores, _ = scores_of(toy_side(), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    np.testing.assert_allclose(scores.clip_scores, [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    assert scores.hours_of_negatives == pytest.approx(4 / 3600)
    scores, _ = scores_of(toy_side(broken=(1, 15)), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    assert scores.readable.tolist() == [True, False, True, False, True, True]
    np.testing.assert_allclose(scores.clip_scores, [0.9, 0.2, 0.3, 0.4])
    assert scores.targets.tolist() == [True, False, False, False]


def test_events_are_windows_that_fire_together() -> None:
    scores, _ = scores_of(toy_side(), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    events = scores.events(0.75)
    assert [len(found) for found in events] == [1, 0, 0, 1, 0, 0]
    np.testing.assert_allclose(events[0], [[0.2, 0.6, 0.9]], atol=1e-9)


def test_an_assessment_can_be_checked_by_hand() -> None:
    scores, loud = scores_of(toy_side(), [0.9, 0.7, 0.2, 0.8, 0.3, 0.4])
    labels = Labels(("/m/cry", "/m/dog", "/m/rain"), ("Cry", "Dog", "Rain"))
    lists = [[0]] * 14 + [[1]] * 2 + [[1, 2]] * 13 + [[2]] * 24
    table = pa.table({"clip_id": [f"clip{row}" for row in range(len(lists))], "labels": lists})
    rows = table.take(pa.array(SCORED_ROWS))
    found, _ = assess(scores, scores, {"loudness": (loud, loud)}, "recall:1", rows, labels, "validation")
    assert found.threshold.value == pytest.approx(0.7)
    # Ranked: hit, false alarm, hit: average precision is (1 + 2/3) / 2.
    assert found.scores["average_precision"].mean == pytest.approx((1 + 2 / 3) / 2)
    assert found.scores["precision"].mean == pytest.approx(2 / 3)
    assert found.scores["false_alarms_per_hour"].mean == pytest.approx(3600 / 4)
    assert found.confusers[0].name == "Dog"
    assert found.confusers[0].false_alarms == 1
    assert found.baselines["loudness"]["average_precision"].mean == pytest.approx(2 / 6)
    assert found.gains["loudness"].mean == pytest.approx((1 + 2 / 3) / 2 - 2 / 6)
    assert found.baselines["chance"] == chance(2 / 6)
    assert [line.title.split(":")[0] for line in found.timelines][-1].startswith("without the target")
    assert sum(found.histogram.positives) == 2
    assert sum(found.histogram.negatives) == 4
    assert json.loads(json.dumps(asdict(found), allow_nan=False)) == asdict(found)  # as in metrics.json

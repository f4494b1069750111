"""The verdict on detectors at both extremes: few clips show nothing, and a perfect one is not called chance."""

import re
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from media.audioset import Labels
from tasks.detection.eval_windows import ClipWindows
from tasks.detection.pools import EvalClips
from tasks.detection.results import verdict, verdict_of
from tasks.detection.scores import ClipResults, ClipScores, assess
from tests.helpers.toy_clips import POSITIVES, RATE, toy_clips

LABELS = Labels(("/m/cry", "/m/dog", "/m/rain"), ("Cry", "Dog", "Rain"))


def assessed(
    positives: int, scores: list[float], loudness: list[float], groups: list[str] | None = None
) -> ClipResults:
    """Assess a detector and loudness that say one number of each clip; the first clips hold the target."""
    rows = np.r_[:positives, POSITIVES : POSITIVES + len(scores) - positives].astype(np.int32)
    no_events = np.zeros(len(rows) + 1, np.int64), np.zeros((0, 2), np.float32)
    clips = EvalClips(rows, rows < POSITIVES, np.zeros(len(rows), bool), *no_events)
    windows = ClipWindows(toy_clips()[0], clips, 1.0, 1.0, RATE)
    readable = np.ones(len(rows), bool)
    model, loud = (ClipScores(windows, np.array(each, float), None, readable) for each in (scores, loudness))
    table = pa.table({"clip_id": [f"clip{row}" for row in rows], "labels": [[0]] * len(rows)})
    if groups is not None:
        table = table.append_column("group", pa.array(groups))
    return assess(model, model, {"loudness": (loud, loud)}, "f1", table, LABELS, "validation")[0]


def verdict_on(results: ClipResults) -> str:
    return verdict_of(asdict(results))


BEATEN = "better than chance and loudness"
UNBEATEN = f"not shown to be {BEATEN}"
UP, DOWN = list(np.linspace(0.9, 0.6, 8)), list(np.linspace(0.4, 0.1, 12))
MIXED = [-30.0, -20.0] * 10


@pytest.mark.parametrize(
    ("positives", "scores", "loudness", "expected"),
    [
        (8, UP + DOWN, MIXED, "better than chance and loudness"),  # perfect
        (
            8,
            UP + DOWN,
            UP + DOWN,
            "better than chance, not shown to be better than loudness",
        ),  # and loudness is perfect, too
        (8, DOWN[:8] + UP + DOWN[8:], MIXED, UNBEATEN),  # the worst
        (8, [0.5] * 20, MIXED, UNBEATEN),  # constant
        (8, [0.5] * 20, [-20.0] * 20, UNBEATEN),
        (1, UP + DOWN, MIXED, UNBEATEN),  # one positive shows nothing, although it ranks first
        (2, [0.9, 0.8, 0.2, 0.1], [-30.0, -30.0, -20.0, -20.0], UNBEATEN),  # perfect, of one case in six
        (5, UP[:5] + DOWN[:5], [-30.0] * 5 + [-20.0] * 5, "better than chance and loudness"),  # of one case in 252
    ],
    ids=["perfect", "both perfect", "worst", "constant", "all constant", "one positive", "two by two", "five by five"],
)
def test_verdicts_at_both_extremes(positives: int, scores: list, loudness: list, expected: str) -> None:
    assert verdict_on(assessed(positives, scores, loudness)) == expected


def test_a_perfect_ranking_of_few_recordings_is_not_shown_to_be_better_than_chance() -> None:
    """Of 20 clips it would be one of 184,756 choices; of four recordings, two of each kind, one of six."""
    groups = [name for name in "abcd" for _ in range(5)]
    few = assessed(10, UP + DOWN, MIXED, groups)
    assert few.scores["average_precision"].mean == 1
    assert few.permutation_p["chance"] == pytest.approx(1 / 6)
    assert few.permutation_p["loudness"] >= 1 / 16
    assert verdict_on(few) == UNBEATEN
    many = assessed(10, UP + DOWN, MIXED, list("abcdefghijklmnopqrst"))
    assert verdict_on(many) == BEATEN


def test_p_is_recorded_where_resamples_agree_and_only_there() -> None:
    perfect = assessed(5, UP[:5] + DOWN[:5], MIXED[:10])
    assert perfect.scores["average_precision"].mean == 1
    assert perfect.permutation_p["chance"] == pytest.approx(1 / 252)
    assert re.search(r"\b0\.500, [a-z ]+ 0\.004\b", verdict(asdict(perfect)).text)
    assert assessed(8, DOWN[:8] + UP + DOWN[8:], MIXED).permutation_p == {}
    assert assessed(1, UP + DOWN, MIXED).permutation_p == {}


def test_a_record_of_an_older_version_keeps_its_verdict() -> None:
    record = asdict(assessed(8, UP + DOWN, MIXED))
    del record["permutation_p"], record["gains"]
    assert verdict_of(record) == UNBEATEN

"""Report, card, tables and figures of a model of skin conductance on ordinary and on odd data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from reporting.sections import SYNTHETIC
from tasks.eda.plots import runs
from tasks.eda.report import best_median_worst
from tasks.eda.results import results_table, score_table
from tasks.eda.task import TASK
from tests.helpers.facts.eda import make_facts, make_predictions
from tests.helpers.pages import assert_no_missing_value, model_card, notices, report_files

SCORE = {"mean": 0.5, "low": 0.4, "high": 0.6, "trials": 3, "undefined": 1}
NONE = {"mean": None, "low": None, "high": None, "trials": 0, "undefined": 4}
NAMES = ("rmse", "pearson", "ccc", "detrended_pearson")
RESULTS = {
    "unit": "uS",
    "trials": 4,
    "songs": 2,
    "listeners": 2,
    "note": None,
    "channels": {
        "raw": {
            "model": dict.fromkeys(NAMES, SCORE),
            "baselines": {"training_mean": dict.fromkeys(NAMES, NONE), "others": dict.fromkeys(NAMES, SCORE)},
            "gain": {"over": "time_curve", **SCORE},
            "null": {"score": 0.5, "score_of_wrong": 0.1, "low": 0.0, "high": 0.3, "p": 0.004, "permutations": 999},
            "ceiling": {"leave_one_out": SCORE, "split_half": None, "split_half_songs": 0},
            "interval_over": "songs",
            "verdict": {"verdict": "no effect", "missing": ["2 songs are fewer than 6"], "rule": "the rule"},
        }
    },
}


@pytest.mark.parametrize(
    "changes",
    [{"songs": 1}, {"listeners": 1}, {"constant": 0.3}, {"masked": range(60)}],
    ids=lambda change: str(change),
)
def test_odd_data_leave_no_gap_in_the_page(changes: dict[str, Any]) -> None:
    facts = make_facts(**changes)
    del facts["training"]  # as run_eval.py leaves it
    files = report_files(facts, {}, make_predictions([None, None]))
    assert "figure_trials_raw.png" not in files
    assert_no_missing_value(files["report.html"])


def test_the_trials_shown_are_the_best_the_median_and_the_worst() -> None:
    rows = make_predictions([0.1, None, 0.9, 0.5, -0.2, 0.3]).to_pylist()
    titles = [title for title, _ in best_median_worst(rows)]
    assert [title.rpartition("r = ")[2] for title in titles] == ["0.90", "0.30", "-0.20"]
    assert [title.partition(":")[0] for title in titles] == ["best", "median", "worst"]
    assert len(best_median_worst(rows[:1])) == 1
    assert best_median_worst([]) == []


def test_runs_of_frames_have_their_start_and_stop() -> None:
    assert runs(np.array([1, 1, 0, 0, 1, 0, 1], bool)) == [(0, 2), (4, 5), (6, 7)]
    assert runs(np.zeros(3, bool)) == []


def test_a_picture_of_predictions_has_a_panel_per_sound_and_a_line_per_channel() -> None:
    times = np.arange(12) / 4
    values = np.random.default_rng(0).normal(size=(12, 2))
    one = SimpleNamespace(
        file=Path("$1.wav"), channels=("phasic", "raw"), unit="uS", times=times, values=values, deviations=None
    )
    other = SimpleNamespace(**vars(one) | {"values": values[::-1], "deviations": np.full((12, 2), 0.5)})
    figure = TASK.plot_predictions([one, other])
    for panel, expected in zip(figure.axes, (values, values[::-1]), strict=True):
        assert [line.get_label() for line in panel.lines] == ["phasic", "raw"]
        assert np.array_equal(np.column_stack([line.get_ydata() for line in panel.lines]), expected)
        assert all(np.array_equal(line.get_xdata(), times) for line in panel.lines)
    (without, bands) = (panel.collections for panel in figure.axes)
    assert not without
    for band, curve in zip(bands, values[::-1].T, strict=True):
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((curve.min() - 0.5, curve.max() + 0.5))


def test_the_table_shows_what_is_undefined() -> None:
    assert score_table(RESULTS, "raw").rows == [
        ["model", *["0.500 [0.400, 0.600] (1 undefined)"] * 4],
        ["training mean", *["undefined"] * 4],
        ["others (oracle)", *["0.500 [0.400, 0.600] (1 undefined)"] * 4],
    ]
    assert_no_missing_value(results_table(RESULTS))


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_card_warns_of_synthetic_data_of_a_leaking_split_and_of_a_control(synthetic: bool) -> None:
    facts = make_facts()
    facts["data"] |= {"synthetic": synthetic, "control": "control=1"}
    card, warnings = model_card(facts), notices(facts)
    front = yaml.safe_load(card.split("---\n")[1])
    assert ("synthetic-data" in front["tags"]) == synthetic
    assert [SYNTHETIC in warning for warning in warnings] == [True] * synthetic + [False, False]
    assert "andom_pairs" in warnings[-2]
    assert "ontrol=1" in warnings[-1]
    assert all(text in card for text in warnings)
    assert "(figure_scores_raw.png)" in card

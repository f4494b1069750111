"""The page, the card, the table and the pictures of a model of skin conductance, whatever the data are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reporting.card import SYNTHETIC_NOTICE
from tasks.eda.card import model_card, results_table
from tasks.eda.plots import runs
from tasks.eda.report import best_median_worst, report_files
from tasks.eda.task import TASK
from tests.helpers.facts import SCRIPT
from tests.helpers.facts.eda import make_facts, make_predictions
from tests.helpers.pages import assert_no_missing_value

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


def test_the_page_has_all_that_an_honest_report_holds() -> None:
    page = report_files(make_facts(), {"learning_rate": SCRIPT}, make_predictions([0.1, 0.9, 0.5]))["report.html"]
    assert SCRIPT not in page
    assert "&lt;script&gt;" in page
    for text in (
        "SYNTHETIC DATA",
        "Random_pairs puts songs on two sides",
        "Verdict: ",
        "unreadable_audio 3",
        "flat 7",
    ):
        assert text in page
    for text in ("ab" * 32, "<td>time curve</td>", "<td>others (oracle)</td>", "below 0 uS 2", "detrended spearman"):
        assert (text in page) == (text != "<td>others (oracle)</td>")


@pytest.mark.parametrize(
    "changes",
    [{"songs": 1}, {"listeners": 1}, {"constant": 0.3}, {"masked": range(60)}],
    ids=lambda change: str(change),
)
def test_odd_data_make_a_page_that_says_so(changes: dict[str, Any]) -> None:
    facts = make_facts(**changes)
    del facts["training"]  # as run_eval.py leaves it
    page = report_files(facts, {}, make_predictions([None, None]))["report.html"]
    assert "no effect" in page
    assert "Nothing to draw: no trial has a score." in page
    assert_no_missing_value(page)


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
    table = results_table(RESULTS)
    assert "| model | 0.500 [0.400, 0.600] (1 undefined) |" in table
    assert "| training mean | undefined |" in table
    assert "| others (oracle) |" in table
    assert "0.100 against 0.500, p = 0.004 of 999" in table
    assert "split-half reliability undefined" in table
    assert "**Verdict: no effect** (2 songs are fewer than 6)." in table
    assert "nan" not in table
    assert "None" not in table


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_card_warns_of_what_its_reader_must_know(synthetic: bool) -> None:
    facts = make_facts() | {"test": RESULTS}
    facts["data"] |= {"synthetic": synthetic, "control": "this is a control"}
    card = model_card(facts)
    assert (SYNTHETIC_NOTICE in card) == synthetic
    assert ("synthetic-data" in card) == synthetic
    assert "**WARNING.** Random_pairs puts songs on two sides." in card
    assert "**WARNING.** This is a control." in card
    assert "(figure_scores_raw.png)" in card
    assert "flat 7" in card
    assert "| training mean |" in card

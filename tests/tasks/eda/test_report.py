"""report.html: one file, nothing fetched, nothing hidden, whatever the data are."""

import base64
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.eda.plots import runs
from tasks.eda.report import best_median_worst, report_files
from tests.evaluation.test_assessment import make_assessment

SCRIPT = "<script>alert('song')</script>"
SIDE = {"trials": 60, "songs": 10, "listeners": 6}
LOG = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5, "eval_rmse": 0.9}, {"step": 3, "loss": 1.0}]


def make_facts(**changes: Any) -> dict[str, Any]:
    """The record of a run, with an assessment of made-up trials."""
    facts = {
        "name": "eda",
        "data": {
            "dataset": "hf_datasets/pmemo",
            "config": "sample",
            "files": ["a.parquet"],
            "synthetic": True,
            "songs": 20,
            "trials": 120,
            "sides": dict.fromkeys(("train", "validation", "test"), SIDE),
            "songs_left_out": {"unreadable_audio": 3},
            "trials_rejected": {"flat": 7},
            "trials_between_sides": 11,
            "notes": {"kept below 0 uS": 2},
            "listeners_scaled_by_everyone": [],
            "split_warning": "random_pairs puts songs on two sides",
            "control": None,
        },
        "split": {"sha256": "ab" * 32, "split_by": "random_pairs", "split_seed": 0},
        "training": {
            "steps": 3,
            "epochs": 1.0,
            "best_checkpoint_step": 2,
            "chosen_by": "rmse",
            "processes": 1,
            "precision": "no",
            "data_wait_share": 0.01,
            "log": LOG,
        },
        "parameters": 10,
        "receptive_field_seconds": 2.0,
        "test": {
            "unit": "uS",
            **SIDE,
            "note": None,
            "channels": {"raw": make_assessment(**changes)},
        },
        "versions": {"torch": "2"},
    }
    return facts


def make_predictions(scores: list[float | None]) -> pa.Table:
    """A row a trial, with frames that do not count, and names that would break a page."""
    return pa.Table.from_pylist(
        [
            {
                "song_id": SCRIPT,
                "listener": f"{place}",
                "channel": "raw",
                "unit": "uS",
                "frame_rate": 4.0,
                "target": [0.0, 1.0, None, None, 2.0],
                "prediction": [0.0, 0.5, 0.5, 0.5, 1.0],
                "detrended_pearson": score,
            }
            for place, score in enumerate(scores)
        ]
    )


def test_the_page_is_whole_in_one_file_and_shows_the_figures_that_lie_beside_it() -> None:
    files = report_files(make_facts(), {"learning_rate": SCRIPT}, make_predictions([0.1, 0.9, 0.5]))
    page = files.pop("report.html")
    names = ("scores_raw", "trials_raw", "null_raw", "over_time_raw", "learning")
    assert set(files) == {f"figure_{name}.png" for name in names}
    embedded = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}
    assert embedded == set(files.values())
    assert all(image.startswith(b"\x89PNG") for image in embedded)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in re.sub(r"data:[^\"]+", "", page)
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
    assert "nan" not in re.sub(r"data:[^\"]+", "", page).lower().replace("another", "")


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
    assert "None" not in re.sub(r"data:[^\"]+", "", page)


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

"""Studies: planned before they begin, kept when whole, and gathered over trials rather than over runs."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_study
from evaluation.intervals import bootstrap
from reporting.study import study_files, study_table
from training.study import Study, begin_study, collect, parse_setting, parse_study, plan, pool, run_cells

CONFIG = "configs/eda_tcn.json"


def make_study(tmp_path: Path, *arguments: str) -> Study:
    """A study in a scratch folder."""
    return parse_study([CONFIG, "--output_dir", str(tmp_path / "study"), *arguments])


def finish(folder: Path, r: dict[tuple[str, str], float | None], effect: bool = False) -> None:
    """What a finished run leaves: scores of (song, listener)."""
    folder.mkdir(parents=True)
    score = {"mean": 0.5, "low": 0.4, "high": 0.6}
    channel = {
        "model": {"detrended_pearson": score},
        "baselines": {"time_curve": {"detrended_pearson": score}},
        "verdict": {"verdict": "effect" if effect else "no effect"},
    }
    rows = [
        {
            "song_id": song,
            "listener": who,
            "trial": "0",
            "channel": "raw",
            "frame_rate": 4.0,
            "detrended_pearson": value,
        }
        for (song, who), value in r.items()
    ]
    schema = pa.schema([(name, pa.string()) for name in ("song_id", "listener", "trial", "channel")])
    schema = schema.append(pa.field("frame_rate", pa.float64())).append(pa.field("detrended_pearson", pa.float64()))
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "predictions.parquet")
    facts = {
        "data": {"synthetic": True, "split_warning": None},
        "test": {"channels": {"raw": channel}},
        "training": {"best_validation": 0.25},
    }
    (folder / "metrics.json").write_text(json.dumps(facts))


def test_the_grid_is_settings_times_folds_times_seeds(tmp_path: Path) -> None:
    study = make_study(
        tmp_path, "--seeds", "3", "5", "--folds", "3", "--set", "learning_rate=1e-3,1e-4", "--optim", "sgd"
    )
    cells = plan(study)
    assert [cell.name for cell in cells[:3]] == [
        "setting0-fold0-seed3",
        "setting0-fold0-seed5",
        "setting0-fold1-seed3",
    ]
    assert len(cells) == len({cell.name for cell in cells}) == 12
    assert {cell.setting for cell in cells} == {"learning_rate=1e-3", "learning_rate=1e-4"}
    assert all(cell.arguments[:2] == ("--optim", "sgd") for cell in cells)
    assert cells[-1].arguments[2:8] == ("--learning_rate", "1e-4", "--folds", "3", "--fold", "2")


def test_leaving_one_listener_out_is_a_run_for_everyone_in_the_data(tmp_path: Path) -> None:
    cells = plan(make_study(tmp_path, "--leave_one_listener_out", "--normalisation_scope", "global"))
    assert [cell.name for cell in cells] == [f"listener{cell.part.removeprefix('listener')}-seed0" for cell in cells]
    assert len(cells) == 6
    assert cells[0].arguments[2:6:2] == ("--split_by", "--held_out_listener")


@given(st.lists(st.from_regex(r"[a-z0-9.-]{1,5}", fullmatch=True), min_size=1, unique=True))
def test_values_of_a_setting_are_what_stands_between_the_commas(values: list[str]) -> None:
    assert parse_setting(f"key={','.join(values)}") == ("key", tuple(values))


def test_commas_in_brackets_belong_to_the_value() -> None:
    assert parse_setting('a.b={"x": [1, 2]},[3,4], 5') == ("a.b", ('{"x": [1, 2]}', "[3,4]", "5"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "3", "--leave_one_listener_out"], "choose one"),
        (["--folds", "2"], "3 or more"),
        (["--seeds", "1", "1"], "names a seed twice"),
        (["--set", "learning_rate"], "expected key=value,value"),
        (["--set", "learning_rate=1,,2"], "none empty"),
        (["--set", "learning_rate=1,1"], "must be different"),
        (["--set", "seed=1,2"], "the study sets it itself"),
        (["--set", "learning_rat=1,2"], "did you mean 'learning_rate'"),
        (["--set", "learning_rate=fast"], "invalid float value: 'fast'"),
    ],
)
def test_a_mistake_ends_the_study_before_it_begins(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, SystemExit), match=message):
        plan(make_study(tmp_path, *arguments))
    assert not (tmp_path / "study").exists()


def test_another_study_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1")
    begin_study(study, plan(study))
    begin_study(study, plan(study))  # the same goes on
    other = make_study(tmp_path, "--seeds", "0", "2")
    with pytest.raises(ValueError, match="holds a study with other cells; name another --output_dir"):
        begin_study(other, plan(other))


def test_a_run_that_is_whole_is_kept_and_one_that_fails_costs_the_others_nothing(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher.py"  # in place of run_train.py: seed 1 fails, all others leave metrics.json
    launcher.write_text(
        "import pathlib, sys\n"
        "seed, folder = (sys.argv[sys.argv.index(key) + 1] for key in ('--seed', '--output_dir'))\n"
        "assert sys.argv[-2:] == ['--resume_from_checkpoint', 'true']\n"
        "if seed == '1': raise SystemExit('run_train.py: no memory left')\n"
        "pathlib.Path(folder).mkdir(parents=True)\n"
        "pathlib.Path(folder, 'metrics.json').write_text('{}')\n"
    )
    study = make_study(tmp_path, "--seeds", "0", "1", "2", "--launcher", f"{sys.executable} {launcher}")
    cells = plan(study)
    begin_study(study, cells)
    (study.folder / "seed0").mkdir()
    (study.folder / "seed0" / "metrics.json").write_text("kept")
    assert run_cells(study, cells) == {"seed1": "run_train.py: no memory left"}
    assert (study.folder / "seed0" / "metrics.json").read_text() == "kept"
    assert (study.folder / "seed2" / "metrics.json").is_file()


def test_trials_are_averaged_over_seeds_and_gathered_over_folds() -> None:
    one, two, three = ("a", "x", "0"), ("b", "x", "0"), ("c", "x", "0")
    found = pool([{one: 0.2, two: np.nan}, {one: 0.4, two: np.nan}, {three: 1.0}])
    assert found[one] == pytest.approx(0.3) and found[three] == 1.0 and np.isnan(found[two])


def test_the_table_stands_on_trials_and_says_what_a_reader_must_know(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1", "--set", "learning_rate=1,2")
    cells = plan(study)
    trials = [(song, who) for song in "abc" for who in "xy"]
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    for number, cell in enumerate(cells[:3]):  # the last run has not ended
        shift = {0: -0.1, 1: 0.1, 2: 0.3}[number]
        finish(study.folder / cell.name, dict(zip(trials, values + shift, strict=True)), effect=number == 2)
    found = collect(study, cells)
    first, second = found["rows"]
    expected = bootstrap(values, [song for song, _ in trials], [who for _, who in trials], "both")
    assert (first["mean"], first["low"], first["high"]) == pytest.approx((0.4, expected.low, expected.high))
    assert first["spread_over_seeds"] == pytest.approx(np.std([0.3, 0.5], ddof=1)) and first["difference"] is None
    assert second["mean"] == pytest.approx(0.7) and second["runs"] == 1 and second["spread_over_seeds"] is None
    assert second["difference"]["mean"] == pytest.approx(0.3) == pytest.approx(second["difference"]["low"])
    assert (first["effects"], second["effects"]) == (0, 1)
    table = study_table(found)
    for text in ("3 of 4 runs", "SYNTHETIC DATA", "choose by the validation column", "| 0.700 ["):
        assert text in table
    files = study_files(found)
    rows = list(csv.DictReader(files["study.csv"].splitlines()))
    assert len(rows) == 3 * 2 and {row["who"] for row in rows} == {"model", "time_curve"}
    assert "<td>learning_rate=1</td>" in files["table.html"] and "nan" not in table


def test_a_study_in_which_nothing_ended_says_where_to_look(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    with pytest.raises(ValueError, match="no run has ended; see the .log files there"):
        collect(study, plan(study))


@pytest.mark.slow
def test_a_study_runs_goes_on_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [CONFIG, "--folds", "3", "--max_steps", "2", "--report_to", "none", "--output_dir", str(tmp_path)]
    run_study.main(command)
    said: Any = capsys.readouterr().out
    assert "| as configured | phasic | detrended pearson | 3 | 119 |" in said and "SYNTHETIC DATA" in said
    stamps = [path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")]
    run_study.main(command)
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")] == stamps
    assert capsys.readouterr().out == said
    everyone = ["--leave_one_listener_out", "--normalisation_scope", "global", "--output_dir", str(tmp_path / "each")]
    run_study.main([CONFIG, "--max_steps", "2", "--report_to", "none", *everyone])
    assert "| as configured | phasic | rmse | 6 | 119 |" in capsys.readouterr().out

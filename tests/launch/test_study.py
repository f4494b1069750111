"""Studies are checked before the first run, keep finished runs, and compute intervals over trials, not runs."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st

import run_study
from evaluation.confusion import DialogueResamples
from evaluation.detection import average_precision, roc_auc
from evaluation.intervals import bootstrap, tail_of
from evaluation.regression import drawn_weights, scores_of
from evaluation.splits import SIDES, Split
from launch.run import parse_run
from launch.study import begin_study, collect, plan, run_cells
from launch.study_settings import AS_CONFIGURED, Study, parse_setting, parse_study
from reporting.study import study_files, study_table
from tasks.detection.task import DetectionTask
from tasks.eda.data import divide
from tasks.eda.study import pool
from tasks.eda.task import EdaTask
from tests.conftest import REPOSITORY
from tests.helpers.programs import run

CONFIG, DETECTOR, EMOTIONS = "configs/eda_tcn.json", "configs/baby_cry.json", "configs/meld_sample.json"
CREATIVES = "configs/tunein_attention.json"


def make_study(tmp_path: Path, *arguments: str, config: str = CONFIG) -> Study:
    return parse_study([config, "--output_dir", str(tmp_path / "study"), *arguments])


def finish(folder: Path, r: dict[tuple[str, str], float | None], effect: bool = False) -> None:
    """Write the files of a finished EDA run, with a correlation for each (song, listener)."""
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


def test_a_study_has_a_run_for_each_setting_fold_and_seed(tmp_path: Path) -> None:
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


def test_leave_one_listener_out_has_a_run_per_listener(tmp_path: Path) -> None:
    cells = plan(make_study(tmp_path, "--leave_one_listener_out", "--normalisation_scope", "global"))
    assert [cell.name for cell in cells] == [f"listener{cell.part.removeprefix('listener')}-seed0" for cell in cells]
    assert len(cells) == 6
    assert cells[0].arguments[2:6:2] == ("--split_by", "--held_out_listener")


def test_leave_one_song_out_has_a_run_per_usable_song(tmp_path: Path) -> None:
    cells = plan(make_study(tmp_path, "--leave_one_song_out"))
    held_out = [cell.arguments[cell.arguments.index("--held_out_song") + 1] for cell in cells]
    assert [cell.name for cell in cells] == [f"song{song}-seed0" for song in held_out]
    everything = run_split(*cells[0].arguments)
    assert sorted(held_out) == sorted({trial.split("/")[0] for trial in everything.trials})


def run_split(*arguments: str) -> Split:
    """Return the split of a run on the sample."""
    run = parse_run([CONFIG, *arguments])
    rows = load_dataset(run.arguments.dataset, run.arguments.dataset_config, split="train")
    return divide(EdaTask().trials_of(rows, run), run.settings.split)


def few_songs(folder: Path, songs: int) -> str:
    """Write the first songs of the sample as a data set. The name of one song contains a slash."""
    rows = load_dataset(str(REPOSITORY / "hf_datasets/pmemo"), "sample", split="train")
    table = pa.table(rows.select(range(songs)).with_format("arrow")[:])
    names = pa.array(["rock/1", *table["song_id"].to_pylist()[1:]])
    folder.mkdir()
    pq.write_table(table.set_column(table.column_names.index("song_id"), "song_id", names), folder / "train.parquet")
    return str(folder)


def test_three_songs_allow_at_most_three_folds(tmp_path: Path) -> None:
    data = ["--dataset", few_songs(tmp_path / "data", 3)]
    cells = plan(make_study(tmp_path, *data, "--folds", "3"))
    splits = [run_split(*cell.arguments) for cell in cells]
    assert len(cells) == 3
    assert all(len({split.trials[i].rpartition("/")[0].rpartition("/")[0] for i in split.indices(side)}) == 1
               for split in splits for side in SIDES)  # fmt: skip
    with pytest.raises(ValueError, match=r"^fold0-seed0: folds=4: .*\b3\b"):
        plan(make_study(tmp_path, *data, "--folds", "4"))
    parts = {cell.part for cell in plan(make_study(tmp_path, *data, "--leave_one_song_out"))}
    assert len(parts) == 3
    assert "songrock%2F1" in parts


def test_a_fold_with_an_empty_split_is_reported_before_the_first_run(tmp_path: Path) -> None:
    data = ["--dataset", few_songs(tmp_path / "data", 6), "--split_by", "song_listener", "--normalisation_scope"]
    study = make_study(tmp_path, *data, "global", "--folds", "6", "--seeds", "7", "--split_seed", "1")
    with pytest.raises(ValueError, match="^fold2-seed7: .*validation"):
        plan(study)
    two = ["--dataset", few_songs(tmp_path / "two", 2), "--leave_one_song_out"]
    with pytest.raises(ValueError, match="^song.*-seed0: .*train"):
        plan(make_study(tmp_path, *two))


def test_listener_scaling_with_left_out_listeners_is_rejected_before_data_is_read(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--leave_one_listener_out", "--dataset", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match="normalisation_scope=listener"):
        plan(study)


@given(st.lists(st.text("az09.-", min_size=1, max_size=5), min_size=1, max_size=6, unique=True))
def test_values_of_a_setting_are_separated_by_commas(values: list[str]) -> None:
    assert parse_setting(f"key={','.join(values)}") == ("key", tuple(values))


def test_commas_in_brackets_belong_to_the_value() -> None:
    assert parse_setting('a.b={"x": [1, 2]},[3,4], 5') == ("a.b", ('{"x": [1, 2]}', "[3,4]", "5"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "3", "--leave_one_listener_out"], "^--folds, .*--leave_one_listener_out"),
        (["--leave_one_song_out", "--leave_one_listener_out"], "--leave_one_song_out, --leave_one_listener_out"),
        (["--folds", "2"], "^--folds=2: "),
        (["--seeds", "1", "1"], r"^--seeds=\[1, 1\]: "),
        (["--set", "learning_rate"], "^--set='learning_rate': "),
        (["--set", "learning_rate=1,,2"], "^--set='learning_rate=1,,2': "),
        (["--set", "learning_rate=1,1"], "^--set='learning_rate=1,1': "),
        (["--set", "seed=1,2"], "^--set=seed: "),
        (["--set", "learning_rat=1,2"], r"'learning_rat'.*'learning_rate'\?"),
        (["--set", "learning_rate=fast"], "learning_rate.*'fast'"),
    ],
)
def test_a_mistake_is_reported_before_the_first_run(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, SystemExit), match=message):
        plan(make_study(tmp_path, *arguments))
    assert not (tmp_path / "study").exists()


def test_another_study_in_the_same_folder_is_rejected(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1")
    begin_study(study, plan(study))
    begin_study(study, plan(study))  # the same study can be continued
    other = make_study(tmp_path, "--seeds", "0", "2")
    with pytest.raises(ValueError, match=rf"output_dir={study.folder}: .*\bcells\b"):
        begin_study(other, plan(other))


def test_finished_runs_are_kept_and_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    launcher = tmp_path / "launcher.py"  # in place of run_train.py: seed 1 fails, the others write metrics.json
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
    (study.folder / "seed0" / "metrics.json").write_text("old")
    assert run_cells(study, cells) == {"seed1": "run_train.py: no memory left"}
    assert (study.folder / "seed0" / "metrics.json").read_text() == "old"
    assert (study.folder / "seed2" / "metrics.json").is_file()


def test_trials_are_averaged_over_seeds_and_combined_over_folds() -> None:
    one, two, three = ("a", "x", "0"), ("b", "x", "0"), ("c", "x", "0")
    pooled = pool([{one: 0.2, two: np.nan}, {one: 0.4, two: np.nan}, {three: 1.0}])
    assert pooled[one] == pytest.approx(0.3)
    assert pooled[three] == 1.0
    assert np.isnan(pooled[two])


def test_rows_of_signals_are_bootstrapped_over_trials(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1", "--set", "learning_rate=1,2")
    cells = plan(study)
    trials = [(song, who) for song in "abc" for who in "xy"]
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    for number, cell in enumerate(cells[:3]):  # the last run has not finished
        shift = {0: -0.1, 1: 0.1, 2: 0.3}[number]
        finish(study.folder / cell.name, dict(zip(trials, values + shift, strict=True)), effect=number == 2)
    results = collect(study, cells)
    first, second = results["rows"]
    expected = bootstrap(values, [song for song, _ in trials], [who for _, who in trials], "both")
    assert (first["mean"], first["low"], first["high"]) == pytest.approx((0.4, expected.low, expected.high))
    assert first["spread_over_seeds"] == pytest.approx(np.std([0.3, 0.5], ddof=1))
    assert first["difference"] is None
    assert second["mean"] == pytest.approx(0.7)
    assert second["runs"] == 1
    assert second["spread_over_seeds"] is None
    assert second["difference"]["mean"] == pytest.approx(0.3) == pytest.approx(second["difference"]["low"])
    assert (first["effects"], second["effects"]) == (0, 1)
    assert (results["finished"], results["planned"], results["synthetic"]) == (3, 4, True)
    table = study_table(results)
    for text in ("3 of 4", "SYNTHETIC DATA", "| 0.700 ["):
        assert text in table
    files = study_files(results)
    rows = list(csv.DictReader(files["study.csv"].splitlines()))
    assert len(rows) == 3 * 2
    assert {row["who"] for row in rows} == {"model", "time_curve"}
    assert "<td>learning_rate=1</td>" in files["table.html"]
    hostile = study_files({**results, "rows": [{**row, "setting": "=a|b<img>"} for row in results["rows"]]})
    assert {row["setting"] for row in csv.DictReader(hostile["table.csv"].splitlines())} == {"'=a|b<img>"}
    assert "| =a\\|b\\<img\\> |" in hostile["table.md"]
    assert "nan" not in table


def finish_detector(folder: Path, targets: list[bool], scores: list[float], target: str = "Baby cry") -> None:
    """Write the files of a finished detection run."""
    folder.mkdir(parents=True)
    ids = [f"clip{place}" for place in range(len(scores))][::-1]  # not sorted by id
    pq.write_table(pa.table({"clip_id": ids, "target": targets, "score": scores}), folder / "predictions.parquet")
    measures = {"average_precision": average_precision, "roc_auc": roc_auc}
    values = {name: measure(np.array(scores), np.array(targets)) for name, measure in measures.items()}
    intervals = {name: {"mean": value, "low": None, "high": None} for name, value in values.items()}
    facts = {
        "data": {"synthetic": False, "split_warning": None},
        "test": {
            "scores": intervals,
            "baselines": {"loudness": intervals},
            "target": [{"mid": "/t/x", "name": target}],
        },
        "training": {"best_validation": 0.75},
    }
    (folder / "metrics.json").write_text(json.dumps(facts))


def test_scores_of_detectors_are_averaged_over_runs_and_compared_on_the_same_clips(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1", "--set", "learning_rate=1,2", config=DETECTOR)
    cells, dice = plan(study), np.random.default_rng(0)
    targets = dice.random(40) < 0.4
    runs = [np.where(targets, dice.normal(gain, 1, 40), dice.normal(0, 1, 40)) for gain in (0.5, 0.5, 3, 3)]
    for cell, scores in zip(cells, runs, strict=True):
        finish_detector(study.folder / cell.name, targets.tolist(), scores.tolist())
    results = collect(study, cells)
    expected = [average_precision(scores, targets) for scores in runs]
    first, auc, second, _ = results["rows"]
    assert (first["score"], auc["score"], first["channel"], first["trials"]) == (
        "average_precision",
        "roc_auc",
        "Baby cry",
        40,
    )
    assert first["mean"] == pytest.approx(np.mean(expected[:2]))
    assert first["low"] < first["mean"] < first["high"]
    assert first["spread_over_seeds"] == pytest.approx(np.std(expected[:2], ddof=1))
    assert first["difference"] is None
    difference = second["difference"]
    assert difference["mean"] == pytest.approx(np.mean(expected[2:]) - np.mean(expected[:2]))
    assert 0 < difference["low"] < difference["mean"] < difference["high"]
    files = study_files(results)
    header = next(line for line in files["table.md"].splitlines() if line.startswith("| setting |"))
    columns = ["setting", "target", "score", "runs", "clips", "mean", "spread over seeds", "difference", "validation"]
    assert [cell.strip() for cell in header.strip("|").split("|")] == columns
    assert len(list(csv.DictReader(files["study.csv"].splitlines()))) == 4 * 2 * 2
    assert "songs" not in files["table.html"]
    assert "nan" not in files["table.md"]


def test_runs_that_scored_different_clips_are_neither_averaged_nor_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--set", "target=Crying,Whimper", config=DETECTOR)
    cells, scores = plan(study), [0.1, 0.2, 0.3, 0.4]
    finish_detector(study.folder / cells[0].name, [True, False, False, True], scores)
    finish_detector(study.folder / cells[1].name, [True, True, False, True], scores, target="Whimper")
    rows = collect(study, cells)["rows"]
    assert [row["channel"] for row in rows[::2]] == ["Baby cry", "Whimper"]
    assert all(row["difference"] is None for row in rows)
    other = make_study(tmp_path / "other", "--seeds", "0", "1", config=DETECTOR)
    cells = plan(other)
    finish_detector(other.folder / cells[0].name, [True, False, False, True], scores)
    finish_detector(other.folder / cells[1].name, [True, False, True], scores[1:])
    with pytest.raises(ValueError, match=AS_CONFIGURED):
        collect(other, cells)


MOODS = {"emotion": ["anger", "joy", "neutral"], "sentiment": ["negative", "neutral", "positive"]}


def finish_emotions(folder: Path, rows: list[dict[str, str]], beaten: bool = True) -> None:
    """Write the files of a finished emotion run.

    Args:
        rows: id, dialogue, true and predicted classes of each utterance.
        beaten: whether the model beats its baselines.
    """
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([{**row, "p_emotion_joy": 0.3} for row in rows[::-1]])  # not sorted by id
    pq.write_table(table, folder / "predictions.parquet")
    heads = {}
    for head, classes in MOODS.items():
        scores = {name: {"mean": value[0], "low": None, "high": None} for name, value in scored(rows, head).items()}
        rivals = {"baselines": {"majority": {"scores": scores}}, "ablations": {"text alone": {"scores": scores}}}
        verdict = {"unbeaten": [] if beaten else ["majority"]}
        heads[head] = {"classes": classes, "scores": scores, **rivals, "verdict": verdict}
    facts = {
        "data": {"synthetic": True, "split_warning": None},
        "test": {"heads": heads},
        "training": {"best_validation": 0.5},
    }
    (folder / "metrics.json").write_text(json.dumps(facts))


def scored(rows: list[dict[str, str]], head: str) -> dict[str, np.ndarray]:
    """Return the scores of the rows, followed by those of resampled dialogues."""
    codes = [np.array([MOODS[head].index(row[name]) for row in rows]) for name in (head, f"predicted_{head}")]
    resamples = DialogueResamples.draw([row["dialogue"] for row in rows])
    return resamples.scores(*codes, 3, np.ones(len(rows), bool))


def make_utterances(accuracy: float, seed: int, rows: int = 60) -> list[dict[str, str]]:
    """Return the same utterances for every seed, with predictions of about this accuracy."""
    truth, dice = np.random.default_rng(7), np.random.default_rng(seed)
    utterances = []
    for place in range(rows):
        row = {"utterance_id": f"dia{place // 6:02d}_utt{place % 6}", "dialogue": f"dia{place // 6:02d}"}
        for head, classes in MOODS.items():
            row[head] = str(truth.choice(classes))
            row[f"predicted_{head}"] = row[head] if dice.random() < accuracy else str(dice.choice(classes))
        utterances.append(row)
    return utterances


def test_scores_of_classifiers_are_averaged_over_runs_and_compared_on_the_same_dialogues(tmp_path: Path) -> None:
    subsets = 'model_config.modalities=["text","video","audio"],["text"]'
    study = make_study(tmp_path, "--seeds", "0", "1", "--set", subsets, config=EMOTIONS)
    cells = plan(study)
    assert cells[0].arguments[:2] == ("--model_config.modalities", '["text","video","audio"]')
    assert parse_run([EMOTIONS, *cells[2].arguments]).arguments.model_config["modalities"] == ["text"]
    runs = [make_utterances(accuracy, seed) for seed, accuracy in enumerate((0.3, 0.3, 0.9, 0.9))]
    for cell, rows in zip(cells, runs, strict=True):
        finish_emotions(study.folder / cell.name, rows, beaten=cell.name.startswith("setting1"))
    results = collect(study, cells)
    key = ("emotion", "weighted_f1")
    first, second = [row for row in results["rows"] if (row["channel"], row["score"]) == key]
    values = [scored(rows, "emotion")["weighted_f1"] for rows in runs]
    mean = (values[0] + values[1]) / 2
    tail = tail_of(0.95, 10)  # for ten dialogues
    expected = [mean[0], *np.quantile(mean[1:], [tail, 1 - tail])]
    assert [first[key] for key in ("mean", "low", "high")] == pytest.approx(expected)
    assert first["trials"] == 60
    assert first["clusters"] == {"dialogues": 10}
    assert first["spread_over_seeds"] == pytest.approx(np.std([values[0][0], values[1][0]], ddof=1))
    assert first["difference"] is None
    assert (first["effects"], second["effects"]) == (0, 2)
    gain = (values[2] + values[3]) / 2 - mean  # paired: both are computed on the same resampled dialogues
    expected = [gain[0], *np.quantile(gain[1:], [tail, 1 - tail])]
    assert [second["difference"][key] for key in ("mean", "low", "high")] == pytest.approx(expected)
    files = study_files(results)
    assert '| model_config.modalities=["text"] | emotion | weighted f1 | 2 | 60 |' in files["table.md"]
    assert "dialogues" in files["table.html"]
    assert "nan" not in files["table.md"]
    rows = list(csv.DictReader(files["study.csv"].splitlines()))
    assert len(rows) == 4 * 2 * 3 * 3
    assert {row["who"] for row in rows} == {"model", "majority", "text alone"}


def test_runs_that_scored_different_utterances_are_neither_averaged_nor_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--set", "max_text_tokens=32,64", config=EMOTIONS)
    cells = plan(study)
    finish_emotions(study.folder / cells[0].name, make_utterances(0.5, 0))
    finish_emotions(study.folder / cells[1].name, make_utterances(0.5, 0, rows=54))
    assert all(row["difference"] is None for row in collect(study, cells)["rows"])
    other = make_study(tmp_path / "other", "--seeds", "0", "1", config=EMOTIONS)
    cells, rows = plan(other), make_utterances(0.5, 0)
    finish_emotions(other.folder / cells[0].name, rows)
    relabelled = next(name for name in MOODS["emotion"] if name != rows[-1]["emotion"])
    finish_emotions(other.folder / cells[1].name, [*rows[:-1], rows[-1] | {"emotion": relabelled}])
    with pytest.raises(ValueError, match=AS_CONFIGURED):
        collect(other, cells)


def finish_creatives(
    folder: Path, targets: np.ndarray, predictions: np.ndarray, beaten: bool = True, unit: str = "seconds"
) -> None:
    """Write the files of a finished attention run."""
    folder.mkdir(parents=True)
    ids = [f"{place:03d}" for place in range(len(targets))]
    table = pa.table({"creative_id": ids, "target": targets, "prediction": predictions})
    pq.write_table(table.take(np.arange(len(ids))[::-1]), folder / "predictions.parquet")  # not sorted by id
    scores = {name: {"mean": 0.5, "low": None, "high": None} for name in ("spearman", "r2")}
    rivals = {"baselines": {"mean": {"scores": scores}}, "ablations": {"text alone": {"scores": scores}}}
    verdict = {"unbeaten": [] if beaten else ["mean"]}
    facts = {
        "data": {"synthetic": True, "split_warning": None},
        "test": {"unit": unit, "scores": scores, **rivals, "verdict": verdict},
        "training": {"best_validation": 0.5},
    }
    (folder / "metrics.json").write_text(json.dumps(facts))


def test_scores_of_attention_models_are_averaged_over_runs_and_compared_on_the_same_creatives(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1", "--set", "model_config.fusion=concat,gated", config=CREATIVES)
    cells, dice = plan(study), np.random.default_rng(0)
    targets = dice.standard_normal(50)
    runs = [targets + dice.normal(0, noise, 50) for noise in (0.9, 1.0, 0.2, 0.3)]
    for cell, predictions in zip(cells, runs, strict=True):
        finish_creatives(study.folder / cell.name, targets, predictions, cell.name.startswith("setting1"))
    results = collect(study, cells)
    first, second = [row for row in results["rows"] if row["score"] == "r2"]
    weights = np.concatenate([np.ones((1, 50)), *drawn_weights(50, 1000, 0)])
    values = [scores_of(targets, predictions, weights)["r2"] for predictions in runs]
    mean, tail = (values[0] + values[1]) / 2, tail_of(0.95, 50)
    expected = [mean[0], *np.quantile(mean[1:], [tail, 1 - tail])]
    assert [first[key] for key in ("mean", "low", "high")] == pytest.approx(expected)
    assert first["trials"] == 50
    assert first["clusters"] == {"creatives": 50}
    assert first["channel"] == "seconds"
    assert first["spread_over_seeds"] == pytest.approx(np.std([values[0][0], values[1][0]], ddof=1))
    assert first["difference"] is None
    assert (first["effects"], second["effects"]) == (0, 2)
    gain = (values[2] + values[3]) / 2 - mean  # paired: both are computed on the same resampled creatives
    expected = [gain[0], *np.quantile(gain[1:], [tail, 1 - tail])]
    assert [second["difference"][key] for key in ("mean", "low", "high")] == pytest.approx(expected)
    assert next(row for row in results["rows"][5:] if row["score"] == "mae")["difference"]["high"] < 0
    files = study_files(results)
    assert "| model_config.fusion=gated | seconds | r2 | 2 | 50 |" in files["table.md"]
    assert "creatives" in files["table.html"]
    assert "nan" not in files["table.md"]
    rows = list(csv.DictReader(files["study.csv"].splitlines()))
    assert len(rows) == 4 * 3 * 2
    assert {row["who"] for row in rows} == {"model", "mean", "text alone"}


def test_a_run_with_constant_predictions_has_an_undefined_correlation(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--seeds", "0", "1", config=CREATIVES)
    cells, targets = plan(study), np.arange(12.0)
    finish_creatives(study.folder / cells[0].name, targets, targets + 1)
    finish_creatives(study.folder / cells[1].name, targets, np.full(12, 3.0))
    results = collect(study, cells)
    spearman, r2 = (next(row for row in results["rows"] if row["score"] == score) for score in ("spearman", "r2"))
    assert spearman["mean"] is None
    assert spearman["spread_over_seeds"] is None
    assert spearman["reason"].startswith("seed1: ")
    assert r2["mean"] is not None
    assert r2["spread_over_seeds"] > 0
    files = study_files(results)
    assert "| spearman | 2 | 12 | undefined |" in files["table.md"]
    assert "nan" not in files["table.md"] + files["table.csv"]


def test_runs_that_scored_different_creatives_are_neither_averaged_nor_compared(tmp_path: Path) -> None:
    study = make_study(tmp_path, "--set", "test_fraction=0.1,0.2", config=CREATIVES)
    cells, targets = plan(study), np.arange(10.0)
    finish_creatives(study.folder / cells[0].name, targets[:8], targets[:8] + 0.5)
    finish_creatives(study.folder / cells[1].name, targets, targets + 0.5)
    assert all(row["difference"] is None for row in collect(study, cells)["rows"])
    other = make_study(tmp_path / "other", "--seeds", "0", "1", config=CREATIVES)
    cells = plan(other)
    finish_creatives(other.folder / cells[0].name, targets, targets)
    finish_creatives(other.folder / cells[1].name, targets + 1, targets)
    with pytest.raises(ValueError, match=AS_CONFIGURED):
        collect(other, cells)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [(["--folds", "3"], "folds"), (["--leave_one_listener_out"], "split_by")],
)
def test_a_split_that_the_task_does_not_support_is_rejected(arguments: list[str], key: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"baby_cry.json: unknown key '{key}'"):
        plan(make_study(tmp_path, *arguments, config=DETECTOR))


def test_a_task_without_study_support_is_rejected_with_the_supported_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DetectionTask, "study", None)
    with pytest.raises(ValueError, match="task='detection': .* attention, eda, emotion"):
        plan(make_study(tmp_path, config=DETECTOR))


def test_collecting_without_a_finished_run_points_to_the_logs(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    with pytest.raises(ValueError, match=rf"^{study.folder}: .*\.log"):
        collect(study, plan(study))


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the runs of a study as forks, which is faster. A test above starts them with a launcher."""

    def forked(command: list[str], stdout: TextIO, **streams: Any) -> subprocess.CompletedProcess:
        done = run(*command)
        stdout.write(done.stdout + done.stderr)
        return done

    monkeypatch.setattr("launch.study.subprocess.run", forked)


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_study_of_signals_runs_and_repeats_no_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [CONFIG, "--folds", "3", "--max_steps", "2", "--report_to", "none", "--output_dir", str(tmp_path)]
    run_study.main(command)
    output: Any = capsys.readouterr().out
    assert f"| {AS_CONFIGURED} | phasic | detrended pearson | 3 | 119 |" in output
    assert "SYNTHETIC DATA" in output
    stamps = [path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")]
    run_study.main(command)
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*/metrics.json")] == stamps
    assert capsys.readouterr().out == output
    leave_out = ["--leave_one_listener_out", "--normalisation_scope", "global", "--output_dir", str(tmp_path / "each")]
    run_study.main([CONFIG, "--max_steps", "2", "--report_to", "none", *leave_out])
    assert f"| {AS_CONFIGURED} | phasic | rmse | 6 | 119 |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_study_of_a_detector_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ["--max_steps", "2", "--report_to", "none", "--output_dir", str(tmp_path)]
    run_study.main([DETECTOR, *quiet])
    output = capsys.readouterr().out
    target = "Baby cry, infant cry"
    assert f"| {AS_CONFIGURED} | {target} | average precision | 1 |" in output
    assert "SYNTHETIC DATA" in output


@pytest.mark.slow
@pytest.mark.usefixtures("forks")
def test_a_study_of_single_modalities_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ["--max_steps", "2", "--report_to", "none", "--output_dir", str(tmp_path)]
    run_study.main([EMOTIONS, "--set", 'model_config.modalities=["text"],["audio"]', *quiet])
    output = capsys.readouterr().out
    assert '| model_config.modalities=["audio"] | sentiment | macro f1 | 1 | 90 |' in output
    assert "SYNTHETIC DATA" in output

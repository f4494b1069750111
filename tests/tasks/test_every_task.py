"""Test the rules that every task follows. A new task in `tasks/__init__.py` is tested without a change here.

The slow tests share one short run per task, with its first config that needs no download.
"""

import ast
import csv
import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from transformers import EvalPrediction

import run_eval
import run_predict
import run_train
from launch.pages import renew_pages
from launch.run import load_task, parse_run
from launch.scoring import saved_run
from launch.settings import setting_groups
from launch.study import collect, plan
from launch.study_settings import parse_study
from modeling.layers import IGNORE_LABEL
from reporting.sections import SYNTHETIC
from reporting.study import study_files
from system.text import printable
from tasks import TASKS
from tasks.detection.data import model_scores
from tests.conftest import REPOSITORY
from tests.helpers.configs import CONFIGS, LITTLE_SCORED, OF_TASK, SAMPLE
from tests.helpers.facts import attention, detection, eda, emotion
from tests.helpers.metric_modules import load, module_of
from tests.helpers.pages import assert_no_missing_value, embedded_images, model_card, report_files, without_images
from tests.helpers.run_folders import OF_EVERY_RUN, record
from training.build import build_trainer
from training.prediction import OF_SYNTHETIC_DATA, load_model
from training.run_folder import describe_run, read_record
from training.settings import RunArguments
from training.task import DataRecord, Run, RunFacts, Task, TrainingRecord
from training.trainer import SignalTrainer
from training.trainer_arguments import RunTrainingArguments

FILES = {"task", "data", "settings", "evaluate", "items", "records", "study", "results", "report", "plots"}
# Options of run_predict.py that only some tasks support.
OPTIONS = sorted(vars(run_predict.parse(["model", "sound"])).keys() - {"model", "sounds", "output", "plot", "device"})
# Figures in the report of a made-up run, and the ones that need a training log.
FIGURES = {
    "eda": {"scores_raw", "trials_raw", "null_raw", "over_time_raw", "learning"},
    "detection": {
        "precision_recall", "scores", "timelines", "confusers", "learning", "composition", "coverage", "mining",
    },
    "emotion": {"confusion_emotion", "confusion_sentiment", "classes", "ablations", "calibration", "learning"},
    "attention": {"predicted", "compared", "removals", "residuals", "learning"},
}  # fmt: skip
TRAINING_FIGURES = {"learning", "composition", "coverage", "mining"}
STEPS = 2
SHORT_RUN = (
    "--max_steps", str(STEPS), "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1",
    "--save_strategy", "steps", "--save_steps", "1", "--disable_tqdm", "true", "--report_to", "none",
    "--use_cpu", "true",
)  # fmt: skip


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


# The interface


def test_a_task_is_registered_under_its_name(task: Task) -> None:
    assert TASKS[task.name] == f"tasks.{task.name}.task"


def test_a_task_folder_uses_the_common_file_names(task: Task) -> None:
    # A small task may be one file and its study tables. A task with more files uses the common names.
    files = {path.stem for path in (REPOSITORY / "tasks" / task.name).glob("*.py")}
    assert files <= {"__init__", "task", "study"} or files >= FILES


def test_every_key_has_a_help_text_and_a_default_in_a_frozen_group(task: Task) -> None:
    groups = setting_groups(task.settings).values()
    assert all(group.__dataclass_params__.frozen for group in (task.settings, *groups))
    for item in (item for group in groups for item in dataclasses.fields(group)):
        assert item.metadata.get("help"), item.name
        assert dataclasses.MISSING in (item.default, item.default_factory), item.name
        assert (item.default, item.default_factory) != (dataclasses.MISSING,) * 2, item.name


def test_every_key_is_unique(task: Task) -> None:
    groups = (RunArguments, *setting_groups(task.settings).values(), RunTrainingArguments)
    keys = [item.name for group in groups for item in dataclasses.fields(group)]
    assert sorted(keys) == sorted(set(keys))


def test_help_lists_every_key_with_its_default(task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as system_exit:
        parse_run(["--task", task.name, "--help"])
    assert system_exit.value.code == 0
    text = capsys.readouterr().out
    for group in (RunArguments, RunTrainingArguments, *setting_groups(task.settings).values()):
        for item in dataclasses.fields(group):
            assert item.init is False or f"--{item.name} " in text, item.name
    assert "(default: 0.001)" in text


def test_every_validation_metric_has_a_direction_and_the_first_is_the_default(task: Task) -> None:
    def parse_training(*options: str) -> RunTrainingArguments:
        return parse_run([str(OF_TASK[task.name]), *options]).training

    for metric, more_is_better in task.validation_metrics.items():
        assert parse_training("--metric_for_best_model", metric).greater_is_better is more_is_better
    default = parse_run(["--task", task.name]).training
    assert default.metric_for_best_model == next(iter(task.validation_metrics))


def test_a_config_names_the_task(task: Task) -> None:
    run = parse_run([str(OF_TASK[task.name])])
    assert run.task is task
    assert isinstance(run.settings, task.settings)
    assert run.arguments.model_type in {config.model_type for config in task.model_configs}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_recorded_config_resolves_to_itself(path: Path, tmp_path: Path) -> None:
    resolved = parse_run([str(path)]).resolved()
    (tmp_path / "run_config.json").write_text(json.dumps(resolved, allow_nan=False), encoding="utf-8")
    assert parse_run([str(tmp_path / "run_config.json")]).resolved() == resolved


def test_records_and_trainers_extend_the_common_classes(task: Task) -> None:
    assert issubclass(task.trainer, SignalTrainer)
    assert issubclass(task.data_record, DataRecord)
    assert issubclass(task.training_record, TrainingRecord)
    assert all(record.__dataclass_params__.frozen for record in (task.data_record, task.training_record))
    assert "synthetic" in task.columns


@pytest.mark.parametrize("option", OPTIONS)
def test_a_prediction_accepts_only_the_options_of_its_task(task: Task, option: str, tmp_path: Path) -> None:
    (tmp_path / "run_config.json").write_text(json.dumps({"task": task.name}), encoding="utf-8")
    command = [str(tmp_path), "clip.mp4", "--output", str(tmp_path / "out.csv"), f"--{option}", "0.5"]
    # The folder has no model, so the command fails in any case.
    with pytest.raises((ValueError, OSError)) as error:
        run_predict.main(command)
    rejected = str(error.value).startswith(f"--{option}: ")
    assert rejected == (option not in task.prediction_options), error.value


def test_a_task_with_file_suffixes_can_predict(task: Task) -> None:
    assert (type(task).predict is not Task.predict) == bool(task.suffixes)
    assert set(task.prediction_options) <= set(OPTIONS)
    assert all(re.fullmatch(r"\.[a-z0-9]+", suffix) for suffix in (*task.suffixes, task.output_suffix))


def test_optional_methods_have_no_effect_or_raise(task: Task) -> None:
    data = object()
    assert Task.cache(task, data, None) is data
    assert Task.trainer_settings(task, data, None) == {}
    assert Task.about_training(task, None, data) == {}
    assert Task.extra_pages(task, None, data) == {}
    with pytest.raises(ValueError, match=f"task={task.name}: "):
        Task.plot_predictions(task, [])


# Reports and cards of made-up runs


def make_run(name: str) -> tuple[dict[str, Any], pa.Table]:
    """Return the facts (metrics.json) and the predictions of a made-up run."""
    if name == "attention":
        test, predictions = attention.make_run()
        return attention.make_facts(test), predictions
    if name == "eda":
        return eda.make_facts(), eda.make_predictions([0.1, 0.9, 0.5])
    return {"detection": detection, "emotion": emotion}[name].make_facts(), pa.table({})


def file_names(figures: set[str]) -> set[str]:
    return {f"figure_{name}.png" for name in figures}


def check_page(files: dict[str, str | bytes], figures: Sequence[Figure]) -> str:
    """Check that the report is one self-contained file with all figures, and return its text without images."""
    page = files["report.html"]
    pictures = {name: content for name, content in files.items() if name != "report.html"}
    assert all(image.startswith(b"\x89PNG") for image in pictures.values())
    assert embedded_images(page) == set(pictures.values())
    assert page.count("<img") == len(figures) == len(pictures)
    assert all(panel.has_data() for figure in figures for panel in figure.axes)
    assert_no_missing_value(page)
    # No link or image points outside the page, so that it works offline and on another machine.
    text = without_images(page)
    assert re.findall(r'(?:src|href)="(?!["#])', text) == []
    assert "http" not in text
    return text


@pytest.mark.parametrize("name", FIGURES)
def test_a_report_is_one_file_with_every_figure(name: str, figures: list[Figure]) -> None:
    facts, predictions = make_run(name)
    files = report_files(facts, {"seed": 0}, predictions)
    assert set(files) == {"report.html", *file_names(FIGURES[name])}
    text = check_page(files, figures)
    assert text.index("SYNTHETIC DATA") < text.index("Verdict") < text.index("Scores</h2>")


@pytest.mark.parametrize("name", FIGURES)
def test_scores_without_training_have_a_report(name: str, figures: list[Figure]) -> None:
    facts, predictions = make_run(name)
    # run_eval.py records nothing about training.
    for key in ("training", "base", "parameters", "receptive_field_seconds"):
        del facts[key]
    facts |= {"model": f"outputs/{name}", "side": "validation"}
    files = report_files(facts, {}, predictions)
    assert set(files) == {"report.html", *file_names(FIGURES[name] - TRAINING_FIGURES)}
    text = check_page(files, figures)
    opening = text.split("Verdict")[0]
    assert "validation" in opening.lower()
    assert facts["data"]["dataset"] in opening
    assert "<h2>Training</h2>" not in text


def check_card(text: str, facts: dict[str, Any]) -> ModelCard:
    """Check the metadata of a card, and that its code is valid Python."""
    card = ModelCard(text)
    assert card.data.model_name == facts["name"]
    assert card.data.license == "other"
    assert card.data.library_name == "transformers"
    assert "synthetic-data" in card.data.tags
    assert len(card.data.eval_results) >= 3
    for result in card.data.eval_results:
        assert (result.dataset_type, result.dataset_config) == (facts["data"]["dataset"], facts["data"]["config"])
        assert (result.dataset_split, result.metric_args["level"]) == ("test", 0.95)
        assert np.isfinite(result.metric_value)
        if "low" in result.metric_args:
            assert result.metric_args["low"] <= result.metric_value <= result.metric_args["high"]
    assert any("low" in result.metric_args for result in card.data.eval_results)
    assert text.index(SYNTHETIC) < text.index("Verdict")
    assert_no_missing_value(text)
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(code)
    return card


@pytest.mark.parametrize("name", FIGURES)
def test_a_card_has_metadata_for_the_hub(name: str) -> None:
    facts, _ = make_run(name)
    check_card(model_card(facts), facts)


# Keys of counts, which pages show together with a noun.
COUNTED = {
    "trials", "songs", "listeners", "rows", "clips", "creatives", "dialogues", "steps", "epochs", "processes",
    "positives", "positives_per_step", "undecodable", "utterances", "positive_clips", "strong_negatives",
    "weak_negatives",
}  # fmt: skip
# "1" and a plural noun, for example "1 trials".
PLURAL_AFTER_ONE = re.compile(r"(?<![\w.,:-])1 (?!is\b|has\b|process\b|less\b|class\b)[a-z]+[^s\W]s\b")


def with_counts_of_one(record: Any) -> Any:
    """Return the record with every count set to 1."""
    if isinstance(record, dict):
        changed = {key: with_counts_of_one(value) for key, value in record.items()}
        ones = {key: 1 for key, value in record.items() if key in COUNTED and isinstance(value, (int, float))}
        return changed | ones
    return [with_counts_of_one(value) for value in record] if isinstance(record, list) else record


@pytest.mark.parametrize("name", FIGURES)
def test_no_page_has_a_plural_noun_after_a_count_of_one(name: str) -> None:
    task, (facts, predictions) = load_task(name), make_run(name)
    facts = json.loads(json.dumps(facts))
    facts["data"], facts["training"] = (with_counts_of_one(facts[key]) for key in ("data", "training"))
    facts["test"] |= {key: 1 for key in facts["test"] if key in COUNTED}
    pages = [model_card(facts), task.results_table(facts["test"]), task.conclusion(facts["test"])]
    pages.append(without_images(report_files(facts, {}, predictions)["report.html"]))
    assert [match[0] for page in pages for match in PLURAL_AFTER_ONE.finditer(page)] == []
    assert any(re.search(r"\b1 [a-z]+\b", page) for page in pages)


# A finished run


class FinishedRun(NamedTuple):
    """A run on the sample, with the objects that it used in memory."""

    folder: Path
    facts: RunFacts
    data: Any
    validations: list[EvalPrediction]  # the model outputs of each validation


@pytest.fixture(scope="module")
def finished(task: Task, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder, captured, outputs = tmp_path_factory.mktemp("runs") / task.name, [], []

    def describe(*arguments: Any) -> RunFacts:
        captured.append(describe_run(*arguments))
        return captured[-1]

    def build(run: Run, model: Any, extractor: Any, data: Any) -> SignalTrainer:
        trainer = build_trainer(run, model, extractor, data)
        trainer.validation_metrics = lambda output: outputs.append(output) or data.validation_metrics(output)
        captured.append(data)
        return trainer

    settings = [*SAMPLE, *SHORT_RUN, *LITTLE_SCORED.get(task.name, ())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_train, "describe_run", describe)
        patch.setattr(run_train, "build_trainer", build)
        run_train.main([str(OF_TASK[task.name]), *settings, "--output_dir", str(folder)])
    data, facts = captured  # in the order of the calls
    return FinishedRun(folder, facts, data, outputs)


def validations_of(finished: FinishedRun) -> list[dict[str, float]]:
    """Return the logged scores of each validation."""
    entries = [entry for entry in finished.facts.training.log if "eval_loss" in entry]
    return [{key.removeprefix("eval_"): entry[key] for key in entry if key.startswith("eval_")} for entry in entries]


@pytest.mark.slow
def test_metrics_json_holds_the_records_of_the_run(task: Task, finished: FinishedRun) -> None:
    folder, facts = finished.folder, finished.facts
    assert {path.name for path in folder.iterdir()} >= OF_EVERY_RUN
    assert dataclasses.is_dataclass(facts.test)
    assert isinstance(facts.data, task.data_record)
    assert isinstance(facts.training, task.training_record)
    assert json.loads(json.dumps(asdict(facts), allow_nan=False)) == record(folder)


@pytest.mark.slow
def test_run_config_json_resolves_to_itself(finished: FinishedRun) -> None:
    path = finished.folder / "run_config.json"
    assert parse_run([str(path)]).resolved() == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_best_checkpoint_has_the_best_validation_score(task: Task, finished: FinishedRun) -> None:
    training, validations = finished.facts.training, validations_of(finished)
    assert len(validations) == training.steps == STEPS
    timings = {"runtime", "samples_per_second", "steps_per_second"}
    assert all(scores.keys() - timings <= task.validation_metrics.keys() for scores in validations)
    metric = training.chosen_by
    best = max if task.validation_metrics[metric] else min
    assert training.best_validation == best(scores[metric] for scores in validations)


def inputs_of(task: str, data: Any, output: EvalPrediction) -> dict[str, list[dict[str, Any]]]:
    """Return the inputs of the metric modules in a validation, one per channel, by head ("" if there is one)."""
    first = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    labels: Any = output.label_ids
    if task == "eda":
        channels = [(first[..., channel], labels[..., channel]) for channel in range(labels.shape[-1])]
        return {"": [{"predictions": p, "references": y, "mask": y != IGNORE_LABEL} for p, y in channels]}
    if task == "detection":
        scores = model_scores(data.validation, output)  # without unreadable clips
        return {"": [{"predictions": scores.clip_scores, "references": scores.targets}]}
    if task == "emotion":
        return {head: [{"predictions": output.predictions[i].argmax(-1), "references": labels[:, i]}]
                for i, head in enumerate(("emotion", "sentiment"))}  # fmt: skip
    # One number per item: all items form one trial.
    return {"": [{"predictions": [first.ravel()], "references": [labels.ravel()], "mask": [[True] * labels.size]}]}


@pytest.mark.slow
def test_logged_validation_scores_equal_those_of_the_metric_modules(
    task: Task, finished: FinishedRun, tmp_path: Path
) -> None:
    # Exactly equal, also if the module reads the batch from an Arrow file (`add_batch`).
    for logged, output in zip(validations_of(finished), finished.validations, strict=True):
        head_inputs = inputs_of(task.name, finished.data, output)
        for score in task.validation_metrics.keys() - {"loss"}:
            metric = load(module_of(score), tmp_path)
            values = []
            for inputs in head_inputs[score.removesuffix(module_of(score)).rstrip("_")]:
                metric.add_batch(**inputs)
                values.append(metric.compute()[module_of(score)])
                assert values[-1] == metric.compute(**inputs)[module_of(score)]
            assert logged[score] == np.mean(values), score


@pytest.mark.slow
def test_the_card_of_a_run_has_scores_and_figures(task: Task, finished: FinishedRun) -> None:
    card = check_card((finished.folder / "README.md").read_text(encoding="utf-8"), record(finished.folder))
    figure_names = re.findall(r"!\[[^]]*\]\((.*?)\)", card.text)
    assert figure_names
    assert all((finished.folder / name).is_file() for name in figure_names)


# A name that tries to inject HTML, a shell command, YAML and Markdown.
HOSTILE = 'e"><img src=x onerror=alert(2)>`$(id)`\n---\n# ![a](http://b) | c'


@pytest.mark.parametrize("name", FIGURES)
def test_a_card_escapes_names(name: str) -> None:
    facts, _ = make_run(name)
    facts = json.loads(json.dumps(facts)) | {"name": HOSTILE, "base": {"model": HOSTILE}}
    facts["base"]["test_trials_it_was_trained_on"] = None
    facts["data"] |= {"dataset": HOSTILE, "config": HOSTILE}
    text = model_card(facts)
    metadata = yaml.safe_load(text.split("\n---\n")[0])
    assert metadata["license"] == "other"
    assert [index["name"] for index in metadata.get("model-index", [])] in ([HOSTILE], [])
    (snippet,) = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    names = [node.value.value for node in ast.walk(ast.parse(snippet))
             if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "folder"]  # fmt: skip
    assert names == [HOSTILE]
    body = text.split("\n---\n", 1)[1].replace(snippet, "")
    html = MarkdownIt("commonmark").enable("table").render(body)
    assert "<img src=x" not in html
    assert 'href="http://b"' not in html
    assert 'src="http://b"' not in html
    assert html.count("<h1>") == 1
    assert "&lt;img src=x onerror=alert(2)&gt;" in html.split("<h1>")[1].split("</h1>")[0]


@pytest.mark.slow
@pytest.mark.parametrize("synthetic", [True, False])
def test_predictions_of_a_model_of_synthetic_data_are_marked(
    task: Task,
    finished: FinishedRun,
    synthetic: bool,
    tmp_path: Path,
    figures: list[Figure],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Marked in the table or JSON, on the terminal, and in the plot if the task has one.
    if not task.suffixes:
        pytest.skip("task without recordings")
    model = tmp_path / "model"
    shutil.copytree(finished.folder, model, ignore=shutil.ignore_patterns("checkpoint-*"))
    facts = record(model)
    facts["data"]["synthetic"] = synthetic
    (model / "metrics.json").write_text(json.dumps(facts))
    sound = tmp_path / "a.wav"
    soundfile.write(sound, np.sin(np.arange(3 * 16000) / 20).astype(np.float32), 16000)
    output = tmp_path / f"out{task.output_suffix}"
    has_plot = type(task).plot_predictions is not Task.plot_predictions
    options = ["--threshold", "0"] if "threshold" in task.prediction_options else []
    plot = ["--plot", str(tmp_path / "out.png")] if has_plot else []
    run_predict.main([str(model), str(sound), "--output", str(output), *options, *plot])
    text = output.read_text(encoding="utf-8")
    rows = json.loads(text) if task.output_suffix == ".json" else [*csv.DictReader(io.StringIO(text))]
    assert rows
    assert {str(row.get(OF_SYNTHETIC_DATA)).lower() for row in rows} == {"true" if synthetic else "none"}
    assert ("SYNTHETIC" in capsys.readouterr().out) == synthetic
    assert len(figures) == has_plot
    assert all(("SYNTHETIC" in figure.get_suptitle()) == synthetic for figure in figures)


@pytest.mark.slow
def test_damaged_recordings_and_odd_names_do_not_affect_other_recordings(
    task: Task, finished: FinishedRun, tmp_path: Path
) -> None:
    if not task.suffixes:
        pytest.skip("task without recordings")
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    tone = np.sin(np.arange(3 * 16000) / 20).astype(np.float32)
    # A name that a spreadsheet would run as a formula, and names that are not UTF-8.
    names = ["a.wav", "=1+1.wav", os.fsdecode(b"caf\xe9.wav"), "z.wav"]
    for sound in names:
        with open(sounds / sound, "wb") as file:
            soundfile.write(file, tone, 16000, format="WAV")
    (sounds / "empty.wav").touch()
    (sounds / os.fsdecode(b"damag\xe9.wav")).write_bytes(b"RIFF" + bytes(range(200)))
    output, plot = tmp_path / f"out{task.output_suffix}", tmp_path / "out.png"
    with pytest.raises(ValueError, match="2 of 6 recordings") as error:
        run_predict.main([str(finished.folder), str(sounds), "--output", str(output), "--plot", str(plot)])
    assert "empty.wav" in str(error.value)
    assert "damag\\udce9.wav" in str(error.value)
    str(error.value).encode()  # raises if the message cannot be printed as UTF-8
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out.png", output.name, "sounds"])
    text = output.read_text(encoding="utf-8")
    rows = json.loads(text) if task.output_suffix == ".json" else csv.DictReader(io.StringIO(text))
    predicted, readable = {Path(row["file"]).name for row in rows}, {printable(name) for name in names}
    # A detector writes one row per event, and a sound may have no event.
    assert predicted == readable or (task.name == "detection" and predicted < readable)


@pytest.mark.slow
def test_scoring_a_run_folder_gives_the_scores_of_its_training(
    task: Task, finished: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without a data set, run_eval.py uses the one of the run.
    expected = record(finished.folder)
    run_eval.main([str(finished.folder), "--output_dir", str(tmp_path)])
    assert task.results_table(expected["test"]) in capsys.readouterr().out
    scored = record(tmp_path)
    assert scored["test"] == expected["test"]
    assert scored["data"]["files"] == expected["data"]["files"]


@pytest.mark.slow
def test_a_checkpoint_is_scored_with_the_settings_of_its_run(
    task: Task, finished: FinishedRun, tmp_path: Path
) -> None:
    # The best checkpoint is also the final model of the run.
    folder, facts = finished.folder, finished.facts
    checkpoint = folder / f"checkpoint-{facts.training.best_checkpoint_step}"
    runs = [saved_run(run_eval.parse([str(path), "--output_dir", str(tmp_path)])) for path in (folder, checkpoint)]
    run_settings, checkpoint_settings = (run.resolved() for run in runs)
    assert checkpoint_settings == run_settings | {"model_name_or_path": str(checkpoint)}
    assert read_record(str(checkpoint), "metrics.json") == record(folder)
    models = [load_model(str(path), "cpu", task)[0].state_dict() for path in (folder, checkpoint)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    for path in (folder, checkpoint):
        with pytest.raises(ValueError, match=f"output_dir={path}: "):
            run_eval.main([str(checkpoint), "--output_dir", str(path)])


@pytest.mark.slow
def test_reports_and_cards_can_be_rebuilt_from_the_run_folder(
    task: Task, finished: FinishedRun, tmp_path: Path
) -> None:
    copy = tmp_path / task.name
    shutil.copytree(finished.folder, copy, ignore=shutil.ignore_patterns("checkpoint-*"))
    names = {"README.md", "report.html", *(path.name for path in copy.glob("*.png"))}
    for name in names:
        (copy / name).unlink()
    assert {path.name for path in renew_pages(copy)} == names
    assert all((copy / name).read_bytes() == (finished.folder / name).read_bytes() for name in names)
    assert_no_missing_value((copy / "README.md").read_text(encoding="utf-8"))
    assert_no_missing_value(task.results_table(record(copy)["test"]))


@pytest.mark.slow
def test_a_report_of_scores_needs_no_training_record(task: Task, finished: FinishedRun, figures: list[Figure]) -> None:
    facts = record(finished.folder)
    facts = {key: facts[key] for key in ("name", "task", "data", "split", "test", "versions", "threads")}
    facts |= {"model": str(finished.folder), "side": "test"}
    predictions = pq.read_table(finished.folder / "predictions.parquet")
    check_page(report_files(facts, {"seed": 0}, predictions), figures)


@pytest.mark.slow
def test_a_study_of_identical_runs_has_no_differences(task: Task, finished: FinishedRun, tmp_path: Path) -> None:
    settings = ["--seeds", "0", "1", "--set", "learning_rate=1,2"]
    study = parse_study([str(OF_TASK[task.name]), "--output_dir", str(tmp_path), *settings])
    cells = plan(study)
    for cell in cells:
        (study.folder / cell.name).mkdir()
        for name in ("metrics.json", "predictions.parquet"):
            shutil.copy(finished.folder / name, study.folder / cell.name)
    results = collect(study, cells)
    assert results["finished"] == results["planned"] == 4
    assert {row["setting"] for row in results["rows"]} == {"learning_rate=1", "learning_rate=2"}
    assert all(row["runs"] == 2 for row in results["rows"])
    defined = [row for row in results["rows"] if row["mean"] is not None]
    assert defined
    assert all(row["spread_over_seeds"] == pytest.approx(0, abs=1e-12) for row in defined)
    differences = [row["difference"]["mean"] for row in defined if row["difference"]]
    assert differences == pytest.approx([0] * len(differences), abs=1e-12)
    assert "model" in {row["who"] for row in results["runs"]}
    files = study_files(results)
    assert_no_missing_value(files["table.md"])


def baseline_tables(scores: Any) -> Iterator[dict[str, Any]]:
    """Yield every table of baselines in a record of scores."""
    for name, inner in scores.items() if isinstance(scores, dict) else ():
        if name == "baselines":
            yield inner
        else:
            yield from baseline_tables(inner)


@pytest.mark.parametrize("name", FIGURES)
def test_a_report_shows_the_simple_baseline(name: str) -> None:
    task, (facts, predictions) = load_task(name), make_run(name)
    facts = json.loads(json.dumps(facts))
    tables = list(baseline_tables(facts["test"]))
    assert tables
    table_with, report_with = pages_with_scores(task, facts, predictions)
    for table in tables:
        del table[task.simple_baseline]
    table_without, report_without = pages_with_scores(task, facts, predictions)
    assert table_with != table_without
    assert report_with != report_without


def pages_with_scores(task: Task, facts: dict[str, Any], predictions: pa.Table) -> tuple[str, str | bytes]:
    return task.results_table(facts["test"]), report_files(facts, {}, predictions)["report.html"]


@pytest.mark.slow
def test_a_run_is_compared_with_the_simple_baseline(task: Task, finished: FinishedRun) -> None:
    tables = list(baseline_tables(record(finished.folder)["test"]))
    assert tables
    assert all(task.simple_baseline in table for table in tables)

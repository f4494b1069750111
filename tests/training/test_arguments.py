"""Configs: one flat file, the command line above it, and a mistake answered in one line."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.key_table import write_key_table
from launch.run import parse_run
from launch.settings import setting_groups, settings_of
from tasks import TASKS
from tasks.eda.task import TASK as eda
from tests.conftest import REPOSITORY
from tests.helpers.configs import CONFIGS
from tests.helpers.tiny_trainer import tiny_trainer
from training.build import build_model, new_config
from training.command_line import ALIASES
from training.parts import sizes_of_parts
from training.settings import PLATEAU_ARGUMENTS, SCHEDULER_ALIASES, TORCH_SCHEDULERS, RunArguments, training_keys
from training.task import Run
from training.trainer_arguments import RunTrainingArguments


def parse(tmp_path: Path, config: dict, *rest: str) -> Run:
    """A run from a config written to a file."""
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return parse_run([str(path), "--output_dir", str(tmp_path / "out"), *rest])


def failure(tmp_path: Path, config: dict, *rest: str) -> str:
    """The one line that a mistake is answered with."""
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, config, *rest)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_to_a_model(path: Path) -> None:
    run = parse_run([str(path)])
    of_frames = run.arguments.model_type not in ("fusion", "encoder_head")
    settings: dict[str, Any] = {"input_size": 8, "frame_rate": 4.0} if of_frames else {}
    if run.arguments.task == "attention":
        settings["embedding_sizes"] = dict.fromkeys(run.arguments.model_config["modalities"], 8)
    model = build_model(run, settings)
    assert sum(map(sum, sizes_of_parts(model).values())) == model.num_parameters() > 0
    assert run.training.output_dir == f"outputs/{path.stem}"


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = {"learning_rate": 0.1, "model_config": {"dropout": 0.5, "kernel_size": 5}}
    run = parse(tmp_path, config, "--learning_rate", "1e-4", "--model_config.dropout", "0.25")
    assert run.training.learning_rate == 1e-4
    assert run.arguments.model_config == {"dropout": 0.25, "kernel_size": 5}


def test_numbers_may_be_written_as_text(tmp_path: Path) -> None:
    assert parse(tmp_path, {"learning_rate": "1e-3"}).training.learning_rate == 1e-3


def test_null_is_a_value(tmp_path: Path) -> None:
    assert parse(tmp_path, {"low_pass_hz": None}).settings.target.low_pass_hz is None


@pytest.mark.parametrize(
    ("metric", "better"), [("rmse", False), ("eval_rmse", False), ("loss", False), ("pearson", True)]
)
def test_the_best_checkpoint_is_not_the_worst(tmp_path: Path, metric: str, better: bool) -> None:
    assert parse(tmp_path, {"metric_for_best_model": metric}).training.greater_is_better is better


def test_what_one_writes_in_json_one_may_write_on_the_command_line(tmp_path: Path) -> None:
    run = parse(
        tmp_path,
        {
            "resume_from_checkpoint": True,
            "held_out_listener": 100101,
            "split_by": "leave_one_listener_out",
            "normalisation_scope": "global",
        },
    )
    assert run.training.resume_from_checkpoint == "true"
    assert run.settings.split.held_out_listener == "100101"
    run = parse(tmp_path, {}, "--low_pass_hz", "null", "--model_config.dropout=0.3", "--seed", "1")
    assert run.settings.target.low_pass_hz is None
    assert run.arguments.model_config == {"dropout": 0.3}
    assert run.training.seed == 1


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"metric_for_best_model": "ccc"}, ["'ccc'", "rmse, pearson, loss"]),
        ({"num_train_epochs": 0}, ["trains nothing"]),
        ({"early_stopping_patience": 3, "load_best_model_at_end": False}, ["load_best_model_at_end"]),
        ({"early_stopping_patience": -1}, ["early_stopping_patience=-1"]),
        ({"prefetch_batches": -1}, ["prefetch_batches=-1"]),
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor", "leave it out"]),
        ({"folds": 4, "split_by": "leave_one_listener_out", "held_out_listener": "1"}, ["folds"]),
        ({"learning_rat": 0.1}, ["experiment.json", "'learning_rat'", "'learning_rate'"]),
        ({"model_confg": {}}, ["'model_confg'", "'model_config'"]),
        ({"task": "edda"}, ["'edda'", "eda"]),
        ({"learning_rate": "fast"}, ["learning_rate = 'fast'"]),
        ({"learning_rate": [1]}, ["learning_rate = [1]"]),
        ({"learning_rate": True}, ["learning_rate = true"]),
        ({"num_train_epochs": {}}, ["num_train_epochs = {}"]),
        ({"model_config": 3}, ["model_config = 3"]),
        ({"model_config": None}, ["model_config = null"]),
        ({"frame_rate": None}, ["frame_rate = null"]),
        ({"eval_strategy": "sometimes"}, ["sometimes"]),
        ({"hub_token": "secret-value"}, ["hub_token", "HF_TOKEN"]),
        ({"split_by": "songs"}, ["split_by = 'songs'", "song_listener"]),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_steps": 10}, ["warmup_steps"]),
        ({"lr_scheduler_type": "OneCycleLR", "warmup_steps": 10}, ["warmup_steps"]),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_kwargs": {"T_max": 0}}, ["T_max=0"]),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_kwargs": "step_size"}, ["lr_scheduler_kwargs=step_size"]),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_kwargs": "[1]"}, ["lr_scheduler_kwargs=[1]"]),
        ({"optim": "adamm"}, ["adamm"]),
        ({"optim": "Adam"}, ["optim=Adam", "'adam'"]),
        ({"lr_scheduler_type": "one_cycle"}, ["lr_scheduler_type=one_cycle", "'OneCycleLR'"]),
        ({"lr_scheduler_type": "plateau"}, ["lr_scheduler_type=plateau", "reduce_lr_on_plateau"]),
        ({"params": {"kernel_size": 3}}, ["'params.kernel_size'", "'model_config.kernel_size'"]),
        ({"model": {"architecture": "tcn", "params": {}}}, ["'model.architecture'", "'model_type'"]),
        ({"optimizer": {"name": "adam", "lr": 1}}, ["'optimizer.lr'", "'learning_rate'"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_way_out(tmp_path: Path, config: dict, parts: list[str]) -> None:
    message = failure(tmp_path, config)
    assert all(part in message for part in parts), message
    assert "secret-value" not in message


@pytest.mark.parametrize(
    ("rest", "parts"),
    [
        (["--lerning_rate", "1"], ["'lerning_rate'", "'learning_rate'"]),
        (["--learning_rate", "x"], ["learning_rate", "'x'"]),
        (["stray"], ["'stray'", "--key value"]),
        (["lr=1e-3"], ["'lr=1e-3'", "'--learning_rate 1e-3'"]),
        (["learning_rate=1e-3"], ["'--learning_rate 1e-3'"]),
        (["params.kernel_size=5"], ["'--model_config.kernel_size 5'"]),
        (["-lr", "1e-3"], ["'lr'", "'learning_rate'"]),
        (["--batch-size=4"], ["'per_device_train_batch_size'"]),
        (["--model.params.kernel_size", "5"], ["'model_config.kernel_size'"]),
        (["--optimizer.lr", "1"], ["'learning_rate'"]),
        (["--model_config.dropout"], ["--model_config.dropout", "needs a value"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(tmp_path: Path, rest: list[str], parts: list[str]) -> None:
    message = failure(tmp_path, {}, *rest)
    assert all(part in message for part in parts), message


KEYS_OF_ALL_RUNS = {item.name for kind in (RunArguments, training_keys()) for item in dataclasses.fields(kind)}
KEYS_OF_TASKS = {
    name: {item.name for group in setting_groups(settings_of(name)).values() for item in dataclasses.fields(group)}
    for name in TASKS
}


@pytest.mark.parametrize("word", ALIASES)
def test_a_word_of_other_projects_leads_to_a_key(word: str, tmp_path: Path) -> None:
    """In a file and on the command line, of a task that has the key."""
    key = ALIASES[word]
    tasks = [name for name, keys in KEYS_OF_TASKS.items() if key in KEYS_OF_ALL_RUNS | keys]
    assert tasks, key
    assert not any(word in keys for keys in (KEYS_OF_ALL_RUNS, *KEYS_OF_TASKS.values()))
    config = {"task": tasks[0]}
    for message in (failure(tmp_path, config | {word: 1}), failure(tmp_path, config, f"--{word}", "1")):
        assert f"{word!r}; did you mean {key!r}?" in message


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape("nowhere.json: no such config file; there is")):
        parse_run([str(tmp_path / "nowhere.json")])
    broken = tmp_path / "broken.json"
    broken.write_text('{\n"learning_rate": 1e-3,\n}')
    with pytest.raises(SystemExit, match=r"broken.json:\d: not valid JSON"):
        parse_run([str(broken)])
    broken.write_text("[1]")
    with pytest.raises(SystemExit, match="expected one JSON object"):
        parse_run([str(broken)])


@pytest.mark.parametrize(
    "content",
    ['{"learning_rate": 1}'.encode("utf-16"), b'{"a": ' + b"[" * 100_000, b'{"learning_rate": ' + b"1" * 5000 + b"}"],
    ids=["utf-16", "nested", "digits"],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        parse_run([str(broken)])
    assert str(ended.value).startswith(f"{broken}: ")
    assert len(str(ended.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ('{"learning_rate": 1e400}', "learning_rate=inf"),
        ('{"learning_rate": -Infinity}', "learning_rate=-inf"),
        ('{"weight_decay": NaN}', "weight_decay=nan"),
        ('{"model_config": {"dropout": NaN}}', "model_config.dropout=nan"),
        ('{"feature_config": {"sizes": [1, 1e999]}}', "feature_config.sizes[1]=inf"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_its_key(tmp_path: Path, config: str, key: str) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(config)
    with pytest.raises(SystemExit, match=re.escape(f"{path}: {key}: ")):
        parse_run([str(path)])


def test_a_number_on_the_command_line_is_checked_too() -> None:
    with pytest.raises(SystemExit, match="learning_rate=nan"):
        parse_run(["configs/eda_tcn.json", "--learning_rate", "nan"])
    with pytest.raises(SystemExit, match="lr_scheduler_kwargs.num_cycles=nan"):
        parse_run(["configs/eda_tcn.json", "--lr_scheduler_kwargs", '{"num_cycles": NaN}'])


SCHEDULERS = {**TORCH_SCHEDULERS, "ReduceLROnPlateau": ((), PLATEAU_ARGUMENTS)}
OF_THE_RUN = ("optimizer", "last_epoch", "total_steps", "epochs", "steps_per_epoch")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_arguments_of_a_scheduler_are_those_of_torch(name: str, tmp_path: Path) -> None:
    """All of them but those that the run decides; another one and a missing one are refused by name."""
    needed, others = SCHEDULERS[name]
    torchs = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
    assert {*needed, *others} == torchs.keys() - set(OF_THE_RUN)
    without_default = {key for key, parameter in torchs.items() if parameter.default is parameter.empty}
    assert without_default <= {*needed, *OF_THE_RUN, "max_lr"}  # max_lr is learning_rate
    config = {"lr_scheduler_type": name, "lr_scheduler_kwargs": dict.fromkeys(needed, 1)}
    assert parse(tmp_path, config).training.lr_scheduler_kwargs == config["lr_scheduler_kwargs"]
    for key in needed:
        assert f"needs {key}" in failure(tmp_path, {"lr_scheduler_type": name})
    config["lr_scheduler_kwargs"]["total_steps"] = 5
    assert "lr_scheduler_kwargs.total_steps: " in failure(tmp_path, config)


@pytest.mark.parametrize(("alias", "name"), SCHEDULER_ALIASES.items())
def test_a_scheduler_has_its_name_in_torch_and_in_transformers(alias: str, name: str, tmp_path: Path) -> None:
    given = {"lr_scheduler_kwargs": dict.fromkeys(TORCH_SCHEDULERS.get(name, ((),))[0], 1)}
    runs = [parse(tmp_path, {"lr_scheduler_type": key, **given}) for key in (alias, name)]
    assert runs[0].resolved()["lr_scheduler_type"] == runs[1].resolved()["lr_scheduler_type"] == name


def test_a_run_records_no_secret_of_a_url(tmp_path: Path) -> None:
    url = "https://user:hush@host/x?X-Amz-Signature=hush&part=1"
    run = parse_run(["--output_dir", str(tmp_path), "--dataset", url, "--run_name", url])
    assert run.arguments.dataset == url
    record = run.resolved()
    assert "hush" not in json.dumps(record)
    assert record["dataset"] == "https://***@host/x?X-Amz-Signature=***&part=1"


def test_an_unknown_key_inside_model_config_names_the_nearest() -> None:
    arguments = RunArguments(model_config={"num_chanels": 8})
    with pytest.raises(ValueError, match=r"'model_config.num_chanels'; did you mean 'model_config.num_channels'"):
        new_config(arguments, {"input_size": 8, "output_size": 1}, eda.model_configs)
    arguments = RunArguments(model_config={"architecture": "tcn"})
    with pytest.raises(ValueError, match="'model_config.architecture'; did you mean 'model_type'"):
        new_config(arguments, {"input_size": 8, "output_size": 1}, eda.model_configs)


def test_a_key_that_follows_from_the_data_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="input_size follows from the data"):
        new_config(RunArguments(model_config={"input_size": 3}), {"input_size": 8}, eda.model_configs)


def test_an_unknown_model_type_is_refused() -> None:
    with pytest.raises(ValueError, match="model_type = 'tnc' is not known"):
        new_config(RunArguments(model_type="tnc"), {}, eda.model_configs)


@pytest.mark.parametrize("kind", [RunArguments, RunTrainingArguments])
def test_every_key_of_all_tasks_has_a_help_text(kind: type) -> None:
    for item in dataclasses.fields(kind):
        assert item.init is False or item.metadata.get("help"), item.name


def test_the_readme_has_the_keys_as_they_are(tmp_path: Path) -> None:
    """`python -m launch.key_table` brings the README up to date."""
    copy = tmp_path / "README.md"
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    write_key_table(copy)
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("optim", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_optimizers_of_the_seed_are_reachable(tmp_path: Path, optim: str, kind: type) -> None:
    trainer = tiny_trainer(tmp_path, optim=optim, learning_rate=0.5)
    trainer.create_optimizer()
    assert type(trainer.optimizer) is kind
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5


def test_a_config_may_say_how_s3_is_reached_but_never_hold_a_secret() -> None:
    run = parse_run(["configs/eda_tcn.json", "--s3.profile", "lab", "--s3.endpoint_url", "http://here"])
    assert run.arguments.s3 == {"profile": "lab", "endpoint_url": "http://here"}
    for wrong in (
        ["--s3.secret_key", "x"],
        ["--s3.profile", "AKIAABCDEFGHIJKLMNOP"],
        ["--s3.profile", "HFAKabcdefgh"],
        ["--s3.endpoint", "x"],
    ):
        with pytest.raises((SystemExit, ValueError), match="s3: .*(looks like a secret|it takes profile)"):
            parse_run(["configs/eda_tcn.json", *wrong])

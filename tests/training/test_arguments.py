"""Configs and command lines: how they merge, and that every mistake gives a one-line message."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.run import parse_run
from launch.settings import setting_groups, settings_of
from tasks import TASKS
from tasks.eda.task import TASK as eda
from tests.helpers.configs import CONFIGS
from tests.helpers.tiny_trainer import tiny_trainer
from training.build import build_model, new_config
from training.command_line import ALIASES
from training.parts import sizes_of_parts
from training.settings import PLATEAU_ARGUMENTS, SCHEDULER_ALIASES, TORCH_SCHEDULERS, RunArguments, training_keys
from training.task import Run
from training.trainer_arguments import RunTrainingArguments


def parse(tmp_path: Path, config: dict, *rest: str) -> Run:
    """Parse a config file, with further command-line arguments."""
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return parse_run([str(path), "--output_dir", str(tmp_path / "out"), *rest])


def failure(tmp_path: Path, config: dict, *rest: str) -> str:
    """Return the one-line message for a wrong config or command line."""
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, config, *rest)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_parses_to_a_model(path: Path) -> None:
    run = parse_run([str(path)])
    reads_frames = run.arguments.model_type not in ("fusion", "encoder_head")
    settings: dict[str, Any] = {"input_size": 8, "frame_rate": 4.0} if reads_frames else {}
    if run.arguments.task == "attention":
        settings["embedding_sizes"] = dict.fromkeys(run.arguments.model_config["modalities"], 8)
    model = build_model(run, settings)
    assert sum(map(sum, sizes_of_parts(model).values())) == model.num_parameters() > 0
    assert run.training.output_dir == f"outputs/{path.stem}"


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    config = {"learning_rate": 0.1, "model_config": {"dropout": 0.5, "kernel_size": 5}}
    run = parse(tmp_path, config, "--learning_rate", "1e-4", "--model_config.dropout", "0.25")
    assert run.training.learning_rate == 1e-4
    assert run.arguments.model_config == {"dropout": 0.25, "kernel_size": 5}


def test_numbers_may_be_written_as_text(tmp_path: Path) -> None:
    assert parse(tmp_path, {"learning_rate": "1e-3"}).training.learning_rate == 1e-3


def test_a_key_can_be_set_to_null(tmp_path: Path) -> None:
    assert parse(tmp_path, {"low_pass_hz": None}).settings.target.low_pass_hz is None


@pytest.mark.parametrize(
    ("metric", "better"), [("rmse", False), ("eval_rmse", False), ("loss", False), ("pearson", True)]
)
def test_greater_is_better_follows_the_direction_of_the_metric(tmp_path: Path, metric: str, better: bool) -> None:
    assert parse(tmp_path, {"metric_for_best_model": metric}).training.greater_is_better is better


def test_json_values_and_command_line_text_give_the_same_settings(tmp_path: Path) -> None:
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
        ({"num_train_epochs": 0}, ["num_train_epochs=0"]),
        ({"early_stopping_patience": 3, "load_best_model_at_end": False}, ["load_best_model_at_end"]),
        ({"early_stopping_patience": -1}, ["early_stopping_patience=-1"]),
        ({"prefetch_batches": -1}, ["prefetch_batches=-1"]),
        ({"label_smoothing_factor": 0.1}, ["label_smoothing_factor=0.1"]),
        ({"folds": 4, "split_by": "leave_one_listener_out", "held_out_listener": "1"}, ["folds"]),
        ({"learning_rat": 0.1}, ["experiment.json", "'learning_rat'", "'learning_rate'"]),
        ({"model_confg": {}}, ["'model_confg'", "'model_config'"]),
        ({"task": "edda"}, ["'edda'", "eda"]),
        ({"learning_rate": "fast"}, ["learning_rate='fast'"]),
        ({"learning_rate": [1]}, ["learning_rate=[1]"]),
        ({"learning_rate": True}, ["learning_rate=true"]),
        ({"num_train_epochs": {}}, ["num_train_epochs={}"]),
        ({"model_config": 3}, ["model_config=3"]),
        ({"model_config": None}, ["model_config=null"]),
        ({"frame_rate": None}, ["frame_rate=null"]),
        ({"eval_strategy": "sometimes"}, ["sometimes"]),
        ({"hub_token": "secret-value"}, ["hub_token", "HF_TOKEN"]),
        ({"split_by": "songs"}, ["split_by", "'songs'", "song_listener"]),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_steps": 10}, ["warmup_steps"]),
        ({"lr_scheduler_type": "OneCycleLR", "warmup_steps": 10}, ["warmup_steps"]),
        ({"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_kwargs": {"T_max": 0}}, ["T_max=0"]),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_kwargs": "step_size"}, ["lr_scheduler_kwargs=step_size"]),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_kwargs": "[1]"}, ["lr_scheduler_kwargs=[1]"]),
        ({"optim": "adamm"}, ["adamm"]),
        ({"optim": "Adam"}, ["optim='Adam'", "'adam'"]),
        ({"lr_scheduler_type": "one_cycle"}, ["lr_scheduler_type='one_cycle'", "'OneCycleLR'"]),
        ({"lr_scheduler_type": "plateau"}, ["lr_scheduler_type='plateau'", "reduce_lr_on_plateau"]),
        ({"params": {"kernel_size": 3}}, ["'params.kernel_size'", "'model_config.kernel_size'"]),
        ({"model": {"architecture": "tcn", "params": {}}}, ["'model.architecture'", "'model_type'"]),
        ({"optimizer": {"name": "adam", "lr": 1}}, ["'optimizer.lr'", "'learning_rate'"]),
    ],
)
def test_a_mistake_in_the_file_gives_one_line_with_key_and_remedy(
    tmp_path: Path, config: dict, parts: list[str]
) -> None:
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
        (["--model_config.dropout"], ["--model_config.dropout: "]),
    ],
)
def test_a_mistake_on_the_command_line_gives_one_line_with_the_key(
    tmp_path: Path, rest: list[str], parts: list[str]
) -> None:
    message = failure(tmp_path, {}, *rest)
    assert all(part in message for part in parts), message


KEYS_OF_ALL_RUNS = {item.name for kind in (RunArguments, training_keys()) for item in dataclasses.fields(kind)}
KEYS_OF_TASKS = {
    name: {item.name for group in setting_groups(settings_of(name)).values() for item in dataclasses.fields(group)}
    for name in TASKS
}


@pytest.mark.parametrize("alias", ALIASES)
def test_a_key_of_other_projects_suggests_ours(alias: str, tmp_path: Path) -> None:
    key = ALIASES[alias]
    tasks = [name for name, keys in KEYS_OF_TASKS.items() if key in KEYS_OF_ALL_RUNS | keys]
    assert tasks, key
    assert not any(alias in keys for keys in (KEYS_OF_ALL_RUNS, *KEYS_OF_TASKS.values()))
    config = {"task": tasks[0]}
    for message in (failure(tmp_path, config | {alias: 1}), failure(tmp_path, config, f"--{alias}", "1")):
        assert f"unknown key {alias!r}. " in message
        assert f"{key!r}?" in message


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"nowhere\.json: .*there\.json"):
        parse_run([str(tmp_path / "nowhere.json")])
    broken = tmp_path / "broken.json"
    broken.write_text('{\n"learning_rate": 1e-3,\n}')
    with pytest.raises(SystemExit, match=r"broken\.json:\d: "):
        parse_run([str(broken)])
    broken.write_text("[1]")
    with pytest.raises(SystemExit, match=r"broken\.json: .*\blist\b"):
        parse_run([str(broken)])


@pytest.mark.parametrize(
    "content",
    ['{"learning_rate": 1}'.encode("utf-16"), b'{"a": ' + b"[" * 100_000, b'{"learning_rate": ' + b"1" * 5000 + b"}"],
    ids=["utf-16", "nested", "digits"],
)
def test_an_unreadable_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(content)
    with pytest.raises(SystemExit) as error:
        parse_run([str(broken)])
    assert str(error.value).startswith(f"{broken}: ")
    assert len(str(error.value).splitlines()) == 1


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
def test_nan_and_infinity_in_a_file_are_rejected_by_key(tmp_path: Path, config: str, key: str) -> None:
    path = tmp_path / "experiment.json"
    path.write_text(config)
    with pytest.raises(SystemExit, match=re.escape(f"{path}: {key}: ")):
        parse_run([str(path)])


def test_nan_on_the_command_line_is_rejected_by_key() -> None:
    with pytest.raises(SystemExit, match="learning_rate=nan"):
        parse_run(["configs/eda_tcn.json", "--learning_rate", "nan"])
    with pytest.raises(SystemExit, match="lr_scheduler_kwargs.num_cycles=nan"):
        parse_run(["configs/eda_tcn.json", "--lr_scheduler_kwargs", '{"num_cycles": NaN}'])


SCHEDULERS = {**TORCH_SCHEDULERS, "ReduceLROnPlateau": ((), PLATEAU_ARGUMENTS)}
SET_BY_THE_RUN = ("optimizer", "last_epoch", "total_steps", "epochs", "steps_per_epoch")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_has_the_arguments_that_it_has_in_torch(name: str, tmp_path: Path) -> None:
    """Except for those that the run sets. An unknown and a missing argument are reported by name."""
    required, optional = SCHEDULERS[name]
    in_torch = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
    assert {*required, *optional} == in_torch.keys() - set(SET_BY_THE_RUN)
    without_default = {key for key, parameter in in_torch.items() if parameter.default is parameter.empty}
    assert without_default <= {*required, *SET_BY_THE_RUN, "max_lr"}  # learning_rate is the default of max_lr
    config = {"lr_scheduler_type": name, "lr_scheduler_kwargs": dict.fromkeys(required, 1)}
    assert parse(tmp_path, config).training.lr_scheduler_kwargs == config["lr_scheduler_kwargs"]
    for key in required:
        assert f"lr_scheduler_kwargs: {name} needs {key}" in failure(tmp_path, {"lr_scheduler_type": name})
    config["lr_scheduler_kwargs"]["total_steps"] = 5
    assert "lr_scheduler_kwargs.total_steps: " in failure(tmp_path, config)


@pytest.mark.parametrize(("alias", "name"), SCHEDULER_ALIASES.items())
def test_a_scheduler_can_be_given_by_its_alias(alias: str, name: str, tmp_path: Path) -> None:
    arguments = {"lr_scheduler_kwargs": dict.fromkeys(TORCH_SCHEDULERS.get(name, ((),))[0], 1)}
    runs = [parse(tmp_path, {"lr_scheduler_type": key, **arguments}) for key in (alias, name)]
    assert runs[0].resolved()["lr_scheduler_type"] == runs[1].resolved()["lr_scheduler_type"] == name


def test_secrets_in_urls_are_not_recorded(tmp_path: Path) -> None:
    url = "https://user:hush@host/x?X-Amz-Signature=hush&part=1"
    run = parse_run(["--output_dir", str(tmp_path), "--dataset", url, "--run_name", url])
    assert run.arguments.dataset == url
    record = run.resolved()
    assert "hush" not in json.dumps(record)
    assert record["dataset"] == "https://***@host/x?X-Amz-Signature=***&part=1"


def test_an_unknown_key_in_model_config_suggests_the_closest_key() -> None:
    arguments = RunArguments(model_config={"num_chanels": 8})
    with pytest.raises(ValueError, match=r"'model_config\.num_chanels'.*'model_config\.num_channels'\?"):
        new_config(arguments, {"input_size": 8, "output_size": 1}, eda.model_configs)
    arguments = RunArguments(model_config={"architecture": "tcn"})
    with pytest.raises(ValueError, match=r"'model_config\.architecture'.*'model_type'\?"):
        new_config(arguments, {"input_size": 8, "output_size": 1}, eda.model_configs)


def test_a_key_that_follows_from_the_data_cannot_be_set() -> None:
    with pytest.raises(ValueError, match=r"model_config\.input_size=3: .*\(8\)"):
        new_config(RunArguments(model_config={"input_size": 3}), {"input_size": 8}, eda.model_configs)


def test_an_unknown_model_type_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"model_type='tnc': .*\btcn\b"):
        new_config(RunArguments(model_type="tnc"), {}, eda.model_configs)


@pytest.mark.parametrize("kind", [RunArguments, RunTrainingArguments])
def test_every_key_has_a_help_text(kind: type) -> None:
    for item in dataclasses.fields(kind):
        assert item.init is False or item.metadata.get("help"), item.name


@pytest.mark.parametrize(
    ("optim", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_an_optimizer_is_selected_by_name(tmp_path: Path, optim: str, kind: type) -> None:
    trainer = tiny_trainer(tmp_path, optim=optim, learning_rate=0.5)
    trainer.create_optimizer()
    assert type(trainer.optimizer) is kind
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5


def test_s3_options_can_be_set_but_must_not_contain_secrets() -> None:
    run = parse_run(["configs/eda_tcn.json", "--s3.profile", "lab", "--s3.endpoint_url", "http://here"])
    assert run.arguments.s3 == {"profile": "lab", "endpoint_url": "http://here"}
    for wrong in (
        ["--s3.secret_key", "x"],
        ["--s3.profile", "AKIAABCDEFGHIJKLMNOP"],
        ["--s3.profile", "HFAKabcdefgh"],
        ["--s3.endpoint", "x"],
    ):
        with pytest.raises((SystemExit, ValueError), match=r"\bs3\b") as error:
            parse_run(["configs/eda_tcn.json", *wrong])
        assert "AKIAABCDEFGHIJKLMNOP" not in str(error.value)

"""Every program handles --help and command-line mistakes before its slow imports."""

import dataclasses
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from transformers import HfArgumentParser, TrainingArguments

from launch.run import parse_run
from launch.settings import read_settings
from tests.conftest import REPOSITORY
from tests.helpers.configs import CONFIGS
from tests.helpers.source_files import PROGRAMS
from training.settings import TrainingKeys, training_keys
from training.trainer_arguments import RunTrainingArguments
from training.trainer_keys import installed_keys

SLOW = ("torch", "transformers", "datasets", "librosa")
# Runs a program as the main module. The last line on stderr names the slow modules that it has imported.
WRAPPER = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(name for name in {SLOW} if name in sys.modules), file=sys.stderr))
sys.path.insert(0, "")
sys.argv = sys.argv[1:]
name = sys.argv[0]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
CONFIG = "configs/eda_tcn.json"
NO_CONFIG = (["configs/eda_tnc.json"], r"configs/eda_tnc\.json: .*eda_tcn")
UNKNOWN_KEY = r"learning_rat\b.*'learning_rate'"
JOB = ["--role", "r", "--bucket", "lab", "--instance_type", "t", "--image_uri", "i"]
# Mistakes that argparse alone does not notice, and a pattern in each message.
MISTAKES = {
    "run_train": [
        NO_CONFIG,
        ([CONFIG, "--learning_rat", "1"], rf"configs/eda_tcn\.json: .*{UNKNOWN_KEY}"),
        ([CONFIG, "--learning_rate", "x"], "--learning_rate/--learning-rate: .*'x'"),
        ([CONFIG, "--task", "edda"], "task ?= ?'edda'"),
        ([CONFIG, "--window_seconds", "-1"], r"window_seconds ?= ?-1\.0"),
        ([CONFIG, "--hub_strategy", "x"], "--hub_strategy/--hub-strategy: .*'x'"),
        ([CONFIG, "--lr_scheduler_type", "x"], r"\bx .*SchedulerType.*'linear'"),
        ([CONFIG, "--lr_scheduler_type", "CosineAnnealingLR"], "lr_scheduler_kwargs.*T_max"),
        ([CONFIG, "--optim", "x"], r"\bx .*OptimizerNames.*'adamw_torch'"),
        ([CONFIG, "--metric_for_best_model", "x"], "metric_for_best_model ?= ?'x'"),
        ([CONFIG, "--dataset", "hf_datasets/pmeom"], "dataset ?= ?'hf_datasets/pmeom': .*pmemo"),
        ([CONFIG, "--streaming", "true"], "streaming.*eda"),
    ],
    "run_study": [
        NO_CONFIG,
        ([CONFIG, "--learning_rat", "1"], UNKNOWN_KEY),
        ([CONFIG, "--set", "learning_rate=1,x"], "--learning_rate/--learning-rate: .*'x'"),
    ],
    "run_predict": [(["model"], "sounds: .*--text")],
    "run_sagemaker": [
        ([NO_CONFIG[0][0], *JOB], NO_CONFIG[1]),
        ([CONFIG, *JOB, "--learning_rat", "1"], UNKNOWN_KEY),
        ([CONFIG, *JOB, "--rolle", "r"], r"--rolle\b.*--role\b"),
    ],
    "launch.explain_plan": [NO_CONFIG, (["configs/baby_cry.json", "--cipl_seconds", "1"], "'clip_seconds'")],
    "launch.count_parameters": [
        NO_CONFIG,
        ([CONFIG], "task='eda'"),
        (["configs/meld_guide.json", "--x", "1"], "'x'"),
    ],
    "launch.pages": [(["nowhere"], r"nowhere: .*metrics\.json")],
    "launch.convert_efficientat": [
        (["x.pt", "configs", "--labels", "y"], "configs: "),
        (["mn10_as_mels_40_mAP_453.pt", "x", "--labels", "y"], r"weights=mn10_as_mels_40_mAP_453\.pt: "),
    ],
    "launch.extract": [
        (["--encoder", "x", "--input", "y", "--output", "z", "--num_proc", "0"], "--num_proc=0: "),
        (["--encoder", "x", "--input", "configs", "--output", "configs/z"], "--output=configs/z: .*--input"),
        (["--encoder", "mn_hop_5.pt", "--input", "y", "--output", "z"], r"--encoder=mn_hop_5\.pt: "),
    ],
    "hf_datasets.prepare": [
        (["pmeom", "--raw_dir", "x"], "prepare: .*'pmeom'"),
        (["pmemo", "--raw_dir", "x", "--s3", "x"], "prepare: .*--s3.*key=value"),
    ],
    "hf_datasets.push_dataset": [(["pmeom", "me/x"], "push_dataset: .*'pmeom'")],
    "hf_datasets.tunein.write_batches": [
        (["--output_dir", "x", "--missing", "y"], "write_batches: .*--missing.*random, ")
    ],
}


def answer(program: str, *arguments: str) -> tuple[int, str, list[str], list[str]]:
    """Return a program's exit code, stdout, lines of stderr, and the slow modules that it imported."""
    command = [sys.executable, "-c", WRAPPER, program, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    *lines, imported = done.stderr.splitlines()
    assert imported.startswith("imported:")
    return done.returncode, done.stdout, lines, imported.split()[1:]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_unknown_options_are_handled_before_the_slow_imports(program: str) -> None:
    code, text, lines, imported = answer(program, "--help")
    assert (code, lines, imported) == (0, [], [])
    assert text.startswith("usage: ")
    code, _, lines, imported = answer(program, "--no_program_has_this", "x")
    assert code != 0
    assert imported == []
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "pattern"),
    [(program, *mistake) for program, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_mistakes_are_reported_in_one_line_before_the_slow_imports(
    program: str, arguments: list[str], pattern: str
) -> None:
    code, _, lines, imported = answer(program, *arguments)
    assert code == 1
    assert imported == []
    (line,) = lines
    assert re.search(pattern, line), line


def test_the_training_keys_read_from_source_match_the_class() -> None:
    # Reading the source avoids the import of transformers. Compare names, defaults, and all metadata that can be read.
    ours = {item.name for item in dataclasses.fields(TrainingKeys)}
    imported = {item.name: item for item in dataclasses.fields(TrainingArguments)}
    read = {item.name: item for item in dataclasses.fields(installed_keys())}
    assert list(read) == [name for name, item in imported.items() if item.init]
    for name, item in read.items():
        assert item.metadata.items() <= imported[name].metadata.items(), name
        if name not in ours:
            assert (item.default, item.default_factory) == (imported[name].default, imported[name].default_factory)
    assert {item.name for item in dataclasses.fields(training_keys())} == {
        item.name for item in dataclasses.fields(RunTrainingArguments) if item.init
    }


def parsers() -> tuple[HfArgumentParser, HfArgumentParser]:
    """Return a parser of the keys read from source, and one of the class."""
    return HfArgumentParser(training_keys()), HfArgumentParser(RunTrainingArguments)


VALUES = ("1", "-1", "0.5", "x", "true", "no", "steps", "[1]", "{}", "none", "best", "gloo", "")


@pytest.mark.parametrize("key", [item.name for item in dataclasses.fields(training_keys())])
def test_values_are_parsed_from_source_keys_as_from_the_class(key: str) -> None:
    read, imported = ([parsed_value(parser, f"--{key}", value) for value in VALUES] for parser in parsers())
    checked_later = "choices" in TrainingArguments.__dataclass_fields__.get(key, dataclasses.field()).metadata
    for value, early, late in zip(VALUES, read, imported, strict=True):
        assert early == late or (checked_later and late is None), value


def parsed_value(parser: HfArgumentParser, option: str, value: str) -> typing.Any:
    """Return the parsed value of an option, or None if the parser refuses it."""
    parser.error = lambda message: (_ for _ in ()).throw(ValueError(message))
    try:
        return parser.parse_args([option, value]).__dict__[option.removeprefix("--")]
    except (ValueError, TypeError):
        return None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_read_early_are_those_of_the_run(path: Path) -> None:
    read, run = read_settings([str(path)]), parse_run([str(path)])
    assert (read.arguments, read.settings) == (run.arguments, run.settings)
    assert type(read.settings) is run.task.settings
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in config.keys() & {item.name for item in dataclasses.fields(read.training)}:
        assert getattr(read.training, key) == config[key]


def test_choices_known_only_to_the_class_are_checked_by_it() -> None:
    with pytest.raises(SystemExit, match="log_level='x': .*detail, debug, "):
        parse_run([CONFIG, "--log_level", "x"])

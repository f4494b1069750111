"""Every program answers --help and mistakes of its command line before it imports what takes seconds."""

import dataclasses
import json
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
# Runs a program as its main module; its last line on stderr names the slow modules that it has imported.
WRAPPER = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(name for name in {SLOW} if name in sys.modules), file=sys.stderr))
sys.path.insert(0, "")
sys.argv = sys.argv[1:]
name = sys.argv[0]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""
CONFIG = "configs/eda_tcn.json"
NO_CONFIG = (["configs/eda_tnc.json"], "configs/eda_tnc.json: no such config file; there is ")
UNKNOWN_KEY = "configs/eda_tcn.json: unknown key 'learning_rat'; did you mean 'learning_rate'?"
JOB = ["--role", "r", "--bucket", "lab", "--instance_type", "t", "--image_uri", "i"]
# Mistakes that take more than argparse to see, and a part of each message.
MISTAKES = {
    "run_train": [
        NO_CONFIG,
        ([CONFIG, "--learning_rat", "1"], UNKNOWN_KEY),
        ([CONFIG, "--learning_rate", "x"], "argument --learning_rate/--learning-rate: invalid float value: 'x'"),
        ([CONFIG, "--task", "edda"], "task = 'edda' is not known"),
        ([CONFIG, "--window_seconds", "-1"], "window_seconds = -1.0 must be positive"),
        ([CONFIG, "--hub_strategy", "x"], "argument --hub_strategy/--hub-strategy: invalid choice: 'x'"),
        ([CONFIG, "--lr_scheduler_type", "x"], "x is not a valid SchedulerType, please select one of ['linear', "),
        ([CONFIG, "--lr_scheduler_type", "CosineAnnealingLR"], "lr_scheduler_kwargs: CosineAnnealingLR needs T_max."),
        ([CONFIG, "--optim", "x"], "x is not a valid OptimizerNames, please select one of ['adamw_torch', "),
        ([CONFIG, "--metric_for_best_model", "x"], "metric_for_best_model = 'x' is not known"),
        ([CONFIG, "--dataset", "hf_datasets/pmeom"], "dataset = 'hf_datasets/pmeom': no such folder; there is "),
        ([CONFIG, "--streaming", "true"], "streaming: task 'eda' takes none"),
    ],
    "run_study": [
        NO_CONFIG,
        ([CONFIG, "--learning_rat", "1"], UNKNOWN_KEY),
        ([CONFIG, "--set", "learning_rate=1,x"], "argument --learning_rate/--learning-rate: invalid float value: 'x'"),
    ],
    "run_predict": [(["model"], "sounds: none is given. Name a recording, or give --text")],
    "run_sagemaker": [
        ([NO_CONFIG[0][0], *JOB], NO_CONFIG[1]),
        ([CONFIG, *JOB, "--learning_rat", "1"], "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ([CONFIG, *JOB, "--rolle", "r"], "unknown option --rolle; did you mean --role?"),
    ],
    "launch.explain_plan": [NO_CONFIG, (["configs/baby_cry.json", "--cipl_seconds", "1"], "'clip_seconds'")],
    "launch.count_parameters": [NO_CONFIG, ([CONFIG], "task=eda: "), (["configs/meld_guide.json", "--x", "1"], "'x'")],
    "launch.pages": [(["nowhere"], "nowhere: no metrics.json")],
    "launch.convert_efficientat": [
        (["x.pt", "configs", "--labels", "y"], "configs: is there already."),
        (["mn10_as_mels_40_mAP_453.pt", "x", "--labels", "y"], "weights=mn10_as_mels_40_mAP_453.pt: "),
    ],
    "launch.extract": [
        (
            ["--encoder", "x", "--input", "y", "--output", "z", "--num_proc", "0"],
            "--num_proc=0: too few. Give 1 or more",
        ),
        (["--encoder", "x", "--input", "configs", "--output", "configs/z"], "--output=configs/z: in --input"),
        (["--encoder", "mn_hop_5.pt", "--input", "y", "--output", "z"], "--encoder=mn_hop_5.pt: "),
    ],
    "hf_datasets.prepare": [
        (["pmeom", "--raw_dir", "x"], "prepare: there is no data set 'pmeom'"),
        (["pmemo", "--raw_dir", "x", "--s3", "x"], "prepare: --s3 x: it takes key=value"),
    ],
    "hf_datasets.push_dataset": [(["pmeom", "me/x"], "push_dataset: there is no data set 'pmeom'")],
    "hf_datasets.tunein.write_batches": [
        (["--output_dir", "x", "--missing", "y"], "write_batches: --missing y: it takes one of random, ")
    ],
}


def answer(program: str, *arguments: str) -> tuple[int, str, list[str], list[str]]:
    """Exit code, stdout and lines of stderr of a program, and the slow modules that it imported."""
    command = [sys.executable, "-c", WRAPPER, program, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    *said, imported = done.stderr.splitlines()
    assert imported.startswith("imported:")
    return done.returncode, done.stdout, said, imported.split()[1:]


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_unknown_options_are_answered_before_the_slow_imports(program: str) -> None:
    code, text, said, imported = answer(program, "--help")
    assert (code, said, imported) == (0, [], [])
    assert text.startswith("usage: ")
    code, _, said, imported = answer(program, "--no_program_has_this", "x")
    assert code != 0
    assert imported == []
    assert not [line for line in said if "Traceback" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [(program, *mistake) for program, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_mistakes_are_answered_in_one_line_before_the_slow_imports(
    program: str, arguments: list[str], message: str
) -> None:
    code, _, said, imported = answer(program, *arguments)
    assert code == 1
    assert imported == []
    (line,) = said
    assert message in line


def test_the_keys_in_the_source_of_training_arguments_are_those_of_the_class() -> None:
    """Names, defaults, and all of their metadata that can be read."""
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
    """A parser of the keys that were read, and one of the class."""
    return HfArgumentParser(training_keys()), HfArgumentParser(RunTrainingArguments)


VALUES = ("1", "-1", "0.5", "x", "true", "no", "steps", "[1]", "{}", "none", "best", "gloo", "")


@pytest.mark.parametrize("key", [item.name for item in dataclasses.fields(training_keys())])
def test_a_value_is_taken_before_the_imports_as_it_is_after_them(key: str) -> None:
    read, imported = (
        [taken(parser, f"--{key}", *words) for words in ([value] for value in VALUES)] for parser in parsers()
    )
    checked_later = "choices" in TrainingArguments.__dataclass_fields__.get(key, dataclasses.field()).metadata
    for value, early, late in zip(VALUES, read, imported, strict=True):
        assert early == late or (checked_later and late is None), value


def taken(parser: HfArgumentParser, *words: str) -> typing.Any:
    """What a parser makes of an option, or None where it refuses it."""
    parser.error = lambda message: (_ for _ in ()).throw(ValueError(message))
    try:
        return parser.parse_args([*words]).__dict__[words[0].removeprefix("--")]
    except (ValueError, TypeError):
        return None


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_read_of_a_config_is_what_the_run_gets(path: Path) -> None:
    read, run = read_settings([str(path)]), parse_run([str(path)])
    assert (read.arguments, read.settings) == (run.arguments, run.settings)
    assert type(read.settings) is run.task.settings
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in config.keys() & {item.name for item in dataclasses.fields(read.training)}:
        assert getattr(read.training, key) == config[key]


def test_a_choice_that_only_the_class_knows_is_checked_by_it() -> None:
    with pytest.raises(SystemExit, match="log_level='x': not known. Give one of detail, debug, "):
        parse_run([CONFIG, "--log_level", "x"])

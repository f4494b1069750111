"""The README holds: its commands run, or parse where they need what is not here; so do links, names and quotes."""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from launch.run import parse_run
from launch.sagemaker.job import parse_job
from launch.study import plan
from launch.study_settings import parse_study
from tests.conftest import REPOSITORY
from tests.helpers.source_files import PRODUCT, tree_of
from training.environment import TRIPLES

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

# Why a command is not run here, by what stands in it; it must parse nevertheless.
NEEDS = {
    r"^pip install": "a network",
    r"\bpytest\b": "this suite itself",
    r"s3://|run_sagemaker": "a cloud",
    r"(?<!\w)/data/|--dataset hf_datasets/audioset": "real data",
    r"\byou/|--push_to_hub": "the Hub",
    r"multi_gpu|multi_node": "several GPUs",
    r"meld_fusion|meld_text|efficientat|_pretrained|_finetuned|--dataset embeddings": "weights of encoders",
    r"\b(song|another|recording|clip|film)\.(mp3|wav|mp4|srt)\b": "a recording of the reader's",
    r"leave_one_listener_out|--folds|--set learning_rate|configs/meld_sample.json --seeds": "much time",
}

# Settings that make a command short; the first that fits is appended. All else is as printed.
SHORT = {
    "run_study.py": "--max_steps 2 --ablations false",
    "configs/baby_cry.json": "--max_steps 2 --max_eval_clips 24",
    "configs/meld_sample.json": "--max_steps 2",
    "run_train.py": "--max_steps 2",
}
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
LIMIT = 600  # seconds a command, on a busy machine


def commands() -> list[str]:
    """Every command of the bash blocks, once each, in order: lines go on after a backslash and end at `&&`."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(part.strip() for line in lines for part in line.split("&&") if part.strip()))


def need_of(command: str) -> str | None:
    """What a command needs that is not here, or None."""
    return next((need for pattern, need in NEEDS.items() if re.search(pattern, command)), None)


def shortened(command: str) -> str:
    """A command with the settings that make it short."""
    return command + next((f" {settings}" for part, settings in SHORT.items() if part in command), "")


RUN = list(dict.fromkeys(shortened(command) for command in commands() if need_of(command) is None))

# What reads the settings of a run, or of each run of a study, without starting it; other programs stop by themselves.
PARSERS = {
    "run_train.py": parse_run,
    "run_study.py": lambda words: plan(parse_study(words)),
    "run_sagemaker.py": parse_job,
}


class Parsed(BaseException):
    """An argument parser took its command line."""


@contextlib.contextmanager
def stopping_after_the_parser(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any program ends as soon as it has read its command line."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: list[str]) -> None:
        parse(self, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        yield


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not known here is an error, so that no command goes unread."""
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    if words[0] == "pip":
        asked = {word for word in words if "==" in word}
        if asked:
            assert asked in [{f"{name}=={number}" for name, number in triple.items()} for triple in TRIPLES]
            assert words[:2] + words[5:] in (["pip", "install"], ["pip", "install", "--index-url", CPU_WHEELS])
            return
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        (extra,) = re.fullmatch(r"pip install -e \.(?:\[(\w+)\])?", " ".join(words)).groups()
        assert extra is None or extra in project["optional-dependencies"]
        return
    if words[0] == "pytest":
        assert set(words[1:]) <= {"-n", "2", "--dist", "loadfile", "-m", "slow"}
        return
    if words[:2] == ["accelerate", "launch"]:
        launched = launch_command_parser().parse_args(words[2:])
        assert launched.config_file is None or (REPOSITORY / launched.config_file).is_file()
        words = ["python", launched.training_script, *launched.training_script_args]
    assert words.pop(0) == "python"
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")  # stands in the settings of whoever has AWS
    if words[0] in PARSERS:
        assert PARSERS[words[0]](words[1:])
        return
    module, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0].removesuffix(".py"), words[1:])
    with stopping_after_the_parser(monkeypatch):
        importlib.import_module(module).main(arguments)


def test_most_commands_run_and_the_others_say_why() -> None:
    programs = {path.name for path in REPOSITORY.glob("run_*.py")} - {"run_sagemaker.py"}
    assert {name for name in programs if any(name in command for command in RUN)} == programs
    unused = [pattern for pattern in NEEDS if not any(re.search(pattern, command) for command in commands())]
    assert not unused, f"no command needs these any more: {unused}"


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path: Path) -> None:
    """In order, offline, in a copy of what git has, by the programs of this environment, and shortened by SHORT."""
    copy = tmp_path / "feltsound"
    for name in subprocess.check_output(["git", "ls-files", ":!docs"], cwd=REPOSITORY, text=True).splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    ours = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "huggingface"), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"HOME": str(tmp_path), "LANG": "C.UTF-8", "PATH": path, **ours}
    for command in RUN:
        done = subprocess.run(
            command, shell=True, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    made = {path.stem for path in (copy / "docs/pictures").iterdir()}
    assert made == {"eda", "detection", "emotion", "attention", "study"}
    table = (copy / "outputs/study-tunein_attention/table.md").read_text()
    assert "| model_config.fusion=gated | attention | spearman | 1 |" in table
    assert "SYNTHETIC DATA" in table
    assert (copy / "predictions.csv").stat().st_size
    assert (copy / "predictions.png").stat().st_size


def test_files_and_modules_that_are_named_exist() -> None:
    for module in re.findall(r"python -m\s+([\w.]+)", README):
        assert module.startswith("benchmarks.<") or importlib.util.find_spec(module), module
    folders = "|".join(sorted(path.name for path in REPOSITORY.iterdir() if path.is_dir() and path.name[0].isalpha()))
    for name in re.findall(rf"(?<![\w/.:])((?:{folders})/[\w./*<>-]*\w|run_\w+\.py)", README):
        assert "<" in name or name.startswith("outputs/") or list(REPOSITORY.glob(name)), name


def test_python_blocks_compile() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(\s*([^)\s]+)\s*\)", README)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("http"):
            assert (REPOSITORY / link).exists(), link


def test_pictures_are_shown_and_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (REPOSITORY / "docs/pictures").iterdir()}
    assert set(sizes) == set(re.findall(r"!\[[^]]*\]\(docs/pictures/([^)]+)\)", README))
    assert sum(sizes.values()) < 500_000


def messages() -> Iterator[str]:
    """Every text in the source, with … for each value that is put into it, and '…' where it is quoted."""
    for path in PRODUCT:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    part.value if isinstance(part, ast.Constant) else "'…'" if part.conversion == ord("r") else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_errors_that_are_explained_are_those_of_the_source() -> None:
    section = README.split("## Troubleshooting")[1].split("\n## ")[0]
    quoted = re.findall(r"^\| `([^`].*?)` \| ", section, re.MULTILINE)
    assert quoted
    known = list(messages())
    for words in quoted:
        assert any(words in message for message in known), f"no program says {words!r}"

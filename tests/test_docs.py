"""The pages in README.md, docs/ and CONTRIBUTING.md: commands run or parse, and links, names and quotes exist."""

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
from functools import cache
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from launch.key_table import write_key_table
from launch.run import parse_run
from launch.sagemaker.job import parse_job
from launch.study import plan
from launch.study_settings import parse_study
from tests.conftest import REPOSITORY
from tests.helpers.source_files import PRODUCT, tree_of
from training.environment import TRIPLES

DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
# In this order, because commands use the runs of the pages before them.
FIRST_PAGES = (README, DOCS / "quickstart.md", DOCS / "reading_a_report.md")
PAGES = [*FIRST_PAGES, *sorted({*DOCS.rglob("*.md"), REPOSITORY / "CONTRIBUTING.md"} - {*FIRST_PAGES})]
CARDS = [REPOSITORY / "benchmarks/README.md", *sorted(REPOSITORY.glob("hf_datasets/*/README.md"))]
LINKED = [*PAGES, *CARDS, REPOSITORY / "CHANGELOG.md"]

MOST_LINES, MOST_WORDS = 150, 1400  # of the README, which newcomers read from start to end

# Why a command is not run here, by a pattern in it. It must parse all the same.
NEEDS = {
    r"^pip install": "a network",
    r"\bpytest\b": "this suite itself",
    r"s3://|run_sagemaker": "a cloud",
    r"(?<!\w)/data/|--dataset hf_datasets/audioset": "real data",
    r"\byou/|--push_to_hub": "the Hub",
    r"multi_gpu|multi_node": "several GPUs",
    r"meld_fusion|meld_text|efficientat|_pretrained|_finetuned|--dataset embeddings": "weights of encoders",
    r"\b(song|recording|clip|film)\.(mp3|wav|mp4|srt)\b": "a recording of the reader's",
    r"leave_one_listener_out|--folds|--set learning_rate|configs/meld_sample.json --seeds": "much time",
}

# Settings that make a command short; the first that fits is appended, all else is as printed.
SHORT = {
    "run_study.py": "--max_steps 2 --ablations false",
    "configs/baby_cry.json": "--max_steps 2 --max_eval_clips 24",
    "configs/meld_sample.json": "--max_steps 2",
    "run_train.py": "--max_steps 2",
}
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
LIMIT = 600  # seconds per command, on a busy machine


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Return each command of the bash blocks once, in order. A line continues after a backslash and ends at `&&`."""
    blocks = "".join(block for page in PAGES for block in code_blocks(page, "bash"))
    lines = blocks.replace("\\\n", " ").splitlines()
    parts = [" ".join(part.split()) for line in lines for part in line.split("&&")]
    return list(dict.fromkeys(part for part in parts if part))


def need_of(command: str) -> str | None:
    """Return what a command needs that is not here, or None."""
    return next((need for pattern, need in NEEDS.items() if re.search(pattern, command)), None)


def shortened(command: str) -> str:
    return command + next((f" {settings}" for part, settings in SHORT.items() if part in command), "")


RUN = list(dict.fromkeys(shortened(command) for command in commands() if need_of(command) is None))

# Parsers of a run, or of each run of a study, that start nothing; other programs are stopped after their parser.
PARSERS = {
    "run_train.py": parse_run,
    "run_study.py": lambda arguments: plan(parse_study(arguments)),
    "run_sagemaker.py": parse_job,
}


class Parsed(BaseException):
    """An argument parser accepted its command line."""


@contextlib.contextmanager
def stopping_after_the_parser(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop any program as soon as it has read its command line."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *arguments: list[str]) -> None:
        parse(self, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(Parsed):
        yield


def check_pip(arguments: list[str]) -> None:
    """Accept an editable install of a known extra, or a set of torch packages that is known to work."""
    pinned = {argument for argument in arguments if "==" in argument}
    if pinned:
        assert pinned in [{f"{name}=={version}" for name, version in triple.items()} for triple in TRIPLES]
        assert arguments[:2] + arguments[5:] in (["pip", "install"], ["pip", "install", "--index-url", CPU_WHEELS])
        return
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extra,) = re.fullmatch(r"pip install -e \.(?:\[(\w+)\])?", " ".join(arguments)).groups()
    assert extra is None or extra in project["optional-dependencies"]


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not known here is an error, so that no command goes unchecked."""
    arguments = shlex.split(command)
    while "=" in arguments[0]:
        arguments.pop(0)
    if arguments[0] == "pip":
        check_pip(arguments)
        return
    if arguments[0] == "pytest":
        assert set(arguments[1:]) <= {"-n", "2", "--dist", "loadfile", "-m", "slow"}
        return
    if arguments[:2] == ["accelerate", "launch"]:
        launched = launch_command_parser().parse_args(arguments[2:])
        assert launched.config_file is None or (REPOSITORY / launched.config_file).is_file()
        arguments = ["python", launched.training_script, *launched.training_script_args]
    assert arguments.pop(0) == "python"
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")  # which anyone with AWS has in their settings
    if arguments[0] in PARSERS:
        assert PARSERS[arguments[0]](arguments[1:])
        return
    is_module = arguments[0] == "-m"
    module = arguments[1] if is_module else arguments[0].removesuffix(".py")
    with stopping_after_the_parser(monkeypatch):
        importlib.import_module(module).main(arguments[2 if is_module else 1 :])


def test_most_commands_run_and_the_others_say_why() -> None:
    programs = {path.name for path in REPOSITORY.glob("run_*.py")} - {"run_sagemaker.py"}
    assert {name for name in programs if any(name in command for command in RUN)} == programs
    unused = [pattern for pattern in NEEDS if not any(re.search(pattern, command) for command in commands())]
    assert unused == []


@pytest.mark.slow
def test_the_commands_run_as_printed(tmp_path: Path) -> None:
    """In order, offline, in a copy of the files in git, with the programs of this environment, shortened by SHORT."""
    copy = tmp_path / "feltsound"
    tracked = subprocess.check_output(["git", "ls-files", ":!docs/pictures"], cwd=REPOSITORY, text=True)
    for name in tracked.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((REPOSITORY / name).read_bytes())
    ours = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "huggingface"), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"HOME": str(tmp_path), "LANG": "C.UTF-8", "PATH": path, **ours}
    for command in RUN:
        result = subprocess.run(
            command, shell=True, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        assert result.returncode == 0, f"{command}\n{result.stdout[-1000:]}\n{result.stderr[-3000:]}"
    pictures = {path.stem for path in (copy / "docs/pictures").iterdir()}
    assert pictures == {"eda", "detection", "emotion", "attention", "study"}
    table = (copy / "outputs/study-tunein_attention/table.md").read_text()
    assert "| model_config.fusion=gated | attention | spearman | 1 |" in table
    assert "SYNTHETIC DATA" in table
    assert (copy / "predictions.csv").stat().st_size
    assert (copy / "predictions.png").stat().st_size


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= MOST_LINES
    assert len(text_of(README).split()) <= MOST_WORDS


# names.md has names of other projects, too; tests/test_names.py checks it.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "names.md"], ids=name_of)
def test_files_and_modules_that_are_named_exist(page: Path) -> None:
    text = re.sub(r"\]\([^)]*\)", "]", text_of(page))  # links are checked by another test, from the page's folder
    modules = {name for name in re.findall(r"python -m\s+([\w.]+)", text) if not name.endswith(".")}
    assert [module for module in modules if not importlib.util.find_spec(module)] == []
    folders = "|".join(sorted(path.name for path in REPOSITORY.iterdir() if path.is_dir() and path.name[0].isalpha()))
    names = set(re.findall(rf"(?<![\w/.:])((?:{folders})/[\w./*<>-]*\w|run_\w+\.py)", text))
    files = {name for name in names if "<" not in name and not name.startswith("outputs/")}
    assert [name for name in files if not list(REPOSITORY.glob(name))] == []


def test_configs_that_are_named_exist() -> None:
    configs = {path.stem for path in REPOSITORY.glob("configs/*.json")}
    table = text_of(README).split("## Tasks")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| [`")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row.split(" | ")[4])} == configs


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_compile(page: Path) -> None:
    for block in code_blocks(page, "python"):
        compile(block, str(page), "exec")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    outside_code = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", outside_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text_of(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_index_lists_every_page() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#]+\.md)\)", text_of(index))}
    assert {name_of(page) for page in PAGES if page != index} <= {name_of(page) for page in linked}


def test_pictures_are_shown_and_small() -> None:
    sizes = {path.name: path.stat().st_size for path in (DOCS / "pictures").iterdir()}
    shown = {Path(link).name for page in PAGES for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text_of(page))}
    assert shown == set(sizes)
    assert sum(sizes.values()) < 500_000


def test_the_page_of_keys_is_what_its_command_writes(tmp_path: Path) -> None:
    """If this fails, run `python -m launch.key_table`."""
    page = DOCS / "configs.md"
    copy = tmp_path / page.name
    copy.write_text(text_of(page), encoding="utf-8")
    write_key_table(copy)
    assert copy.read_text(encoding="utf-8") == text_of(page)


def test_the_workflow_runs_the_checks_on_the_oldest_python() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["ci"]["steps"]
    assert "bash .ci/run" in [step.get("run") for step in steps]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [step["with"]["python-version"] for step in steps if "with" in step] == [
        project["requires-python"].removeprefix(">=")
    ]


@pytest.mark.parametrize("path", sorted((REPOSITORY / ".github/ISSUE_TEMPLATE").iterdir()), ids=name_of)
def test_issue_forms_have_a_name_and_fields(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 0


def messages() -> Iterator[str]:
    """Yield every text in the source, with … for each value that is put into it, and '…' where it is quoted."""
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
    quotes = re.findall(r"^\| `([^`].*?)` \| ", text_of(DOCS / "troubleshooting.md"), re.MULTILINE)
    assert len(quotes) >= 10
    texts = list(messages())
    missing = [quote for quote in quotes if not any(quote in text for text in texts)]
    assert not missing, "no program prints these any more:\n" + "\n".join(missing)

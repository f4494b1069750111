"""Imports point one way, there are no import cycles, and files and functions stay short."""

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.helpers.source_files import FILES, FREE, PACKAGES, PRODUCT, tree_of

BELOW = ("system", "media", "modeling", "evaluation", "reporting")
# Package -> our packages that it may import, in addition to itself. Root scripts, benchmarks and tests import any.
ALLOWED: dict[str, set[str]] = {name: set() for name in BELOW} | {
    "reporting": {"system"},
    "hf_datasets": {"system", "media"},
    "training": {"system", "media", "modeling", "reporting"},
    "tasks": {*BELOW, "training"},
    "launch": {*BELOW, "training", "tasks"},
}
LOADS_BY_NAME = ("launch", "hf_datasets")  # tasks and builders

MOST_LINES_OF_A_FUNCTION = 80
MOST_LINES, MANY_LINES = 700, 450  # per file: the limit, and the size from which a reason is needed
MOST_FILES, MANY_FILES = 32, 20  # Python files per folder, in the same way
ANY_NUMBER_OF_FILES = ("modeling", "benchmarks")  # modeling is flat because only flat modules load from the Hub
REASONS: dict[str, str] = {
    "evaluation": "one module per type of score, baseline, control and interval",
    "hf_datasets/audioset/clips.py": "weak, strong and own tables are joined into one, rule by rule",
    "tasks/detection": "two-tier sampling, mining and windows over time are parts that no other task has",
    "training": "encoders, their stored embeddings and the trainers on them are shared by tasks",
    "tests/evaluation/test_detection_metrics.py": "every metric of detection against its definition",
    "tests/evaluation/test_metrics.py": "every metric module against its definition",
    "tests/hf_datasets/test_pmemo.py": "every defect of the published files, one test each",
    "tests/hf_datasets/test_prepare.py": "one command with many options, tried on every data set",
    "tests/helpers": "one module per domain of synthetic data",
    "tests/launch/test_study.py": "one command, from planning to the table, for every task",
    "tests/media/test_biosignal.py": "every step of signal processing against its definition",
    "tests/media/test_video.py": "every container and codec that is read",
    "tests/modeling/test_audio_features.py": "the properties that every setting of log-mel and MFCC keeps",
    "tests/modeling/test_signal_models.py": "the properties that every signal model keeps, over all of them",
    "tests/tasks/test_every_task.py": "the rules of every task, which share one short run of each",
}

MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
NAMES = {path: name for name, path in MODULES.items()}
TASK_MODULES = fnmatch.filter(MODULES, "tasks.*.task")


def loads_by_name(path: Path) -> list[ast.Call]:
    """Return the calls that import a module by name."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    return [c for c in calls if getattr(c.func, "attr", getattr(c.func, "id", "")) in ("import_module", "__import__")]


def matching_modules(argument: ast.expr) -> list[str]:
    """Return our modules that an argument of `import_module` can name: `f"a.{b}"` is `a.*`, a variable any task."""
    if isinstance(argument, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "*" for part in argument.values)
        return fnmatch.filter(MODULES, "".join(map(str, parts)))
    return [argument.value] if isinstance(argument, ast.Constant) and argument.value in MODULES else TASK_MODULES


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each of our modules that a file imports: at the top, in a function or by `importlib`."""
    package = ".".join((NAMES[path] + ".x" if path.name == "__init__.py" else NAMES[path]).split(".")[:-1]).split(".")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module or ""]).strip(".")
            for name in (f"{module}.{alias.name}" for alias in node.names):
                if name in MODULES or module in MODULES:
                    yield node.lineno, name if name in MODULES else module
    for call in loads_by_name(path):
        yield from ((call.lineno, name) for name in matching_modules(call.args[0]))


def import_cycles() -> list[set[str]]:
    """Return the groups of modules that import one another, directly or through others."""
    graph = {name: {other for _, other in imported_modules(path)} - {name} for name, path in MODULES.items()}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    # A group is all modules that a module reaches and that reach it.
    closure = {name: reached(name) for name in graph}
    groups = [frozenset(other for other in closure[name] if name in closure[other]) for name in graph]
    return [set(group) for group in dict.fromkeys(groups) if group]


def test_there_are_no_import_cycles() -> None:
    assert import_cycles() == []


def test_every_package_has_a_rule() -> None:
    assert set(PACKAGES) == set(ALLOWED) | FREE


@pytest.mark.parametrize("path", [path for path in PRODUCT if len(path.parts) > 1], ids=str)
def test_imports_point_down(path: Path) -> None:
    package = path.parts[0]
    for line, name in imported_modules(path):
        other = MODULES[name].parts
        assert other[0] in {package, *ALLOWED[package]}, f"{path}:{line} imports {name}"
        if package == other[0] == "tasks" and len(other) > 2:
            assert other[1] == path.parts[1], f"{path}:{line} imports another task: {name}"


@pytest.mark.parametrize("path", [path for path in PRODUCT if path.parts[0] not in LOADS_BY_NAME], ids=str)
def test_modules_are_loaded_by_name_only_to_find_tasks_and_builders(path: Path) -> None:
    assert [call.lineno for call in loads_by_name(path)] == []


@pytest.mark.parametrize("path", [path for path in PRODUCT if path.parts[0] == "modeling"], ids=str)
def test_modeling_imports_its_siblings_by_name(path: Path) -> None:
    # save_pretrained copies only flat modules that use `from .file import Name`; others cannot be loaded elsewhere.
    assert len(path.parts) == 2, f"{path}: modeling is flat"
    for node in ast.walk(tree_of(path)):
        line = f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names if alias.name.partition(".")[0] == "modeling"] == [], line
        if isinstance(node, ast.ImportFrom) and node.level:
            assert (node.level, node.module) != (1, None), line
            assert node.level == 1, line
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] != "modeling", line


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_are_short(path: Path) -> None:
    lengths = {
        f"{node.name}, line {node.lineno}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "tests" and p.name.startswith("test_")], ids=str)
def test_no_test_file_imports_another(path: Path) -> None:
    imported = [MODULES[name] for _, name in imported_modules(path)]
    assert [str(other) for other in imported if other.parts[0] == "tests" and other.name.startswith("test_")] == []


def test_files_and_folders_are_small_or_have_a_reason(capsys: pytest.CaptureFixture) -> None:
    lines = {str(path): len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    parents = [str(path.parent) for path in FILES]
    files = {name: parents.count(name) for name in set(parents) - set(ANY_NUMBER_OF_FILES)}
    large = {name: f"{count} lines" for name, count in sorted(lines.items()) if count > MANY_LINES}
    large |= {name: f"{count} files" for name, count in sorted(files.items()) if count > MANY_FILES}
    with capsys.disabled():
        for name, size in large.items():
            print(f"\n{name}, {size}: {REASONS.get(name)}", end="")
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert {name: count for name, count in files.items() if count > MOST_FILES} == {}
    assert set(REASONS) == set(large)

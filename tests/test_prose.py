"""Plain English in code, documents and tests: no phrase of the list, and no test that asserts a sentence."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".html", ".jinja"}
PHRASES = [
    re.compile(line.split("\t")[0], re.IGNORECASE)
    for line in (Path(__file__).parent / "helpers" / "phrases.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
# Lines that may contain a phrase, and why: (file, part of the line) -> reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}
SENTENCE = re.compile(r"[A-Za-z][a-z']*(?:,? [A-Za-z][a-z']*){3,}")  # four words or more in a row
TRACKED = [
    Path(name)
    for name in subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()
    if Path(name).suffix in SUFFIXES and (REPOSITORY / name).is_file()
]
TESTS = [path for path in TRACKED if path.parts[0] == "tests" and path.suffix == ".py"]


def prose_lines(path: Path) -> list[str]:
    """Return the prose on each line: all of a document; comments, docstrings and longer strings of Python."""
    lines = (REPOSITORY / path).read_text(encoding="utf-8").splitlines()
    if path.suffix != ".py":
        return lines
    prose, in_docstring = [], False
    for line in lines:
        quotes = line.count('"""')
        if in_docstring or quotes:
            prose.append(line)
            in_docstring ^= quotes % 2 == 1
        else:
            comment = line.split("#", 1)[1] if "#" in line else ""
            prose.append(" ".join([*re.findall(r'"([^"\n]{12,})"', line), comment]))
    return prose


@pytest.mark.parametrize("path", TRACKED, ids=str)
def test_no_phrase_of_the_list(path: Path) -> None:
    allowed = [text for file, text in EXCEPTIONS if file == str(path)]
    found = {
        f"{path}:{number}": match.group(0)
        for number, line in enumerate(prose_lines(path), 1)
        for phrase in PHRASES
        if (match := phrase.search(line)) and not any(text in line for text in allowed)
    }
    assert found == {}


def test_every_exception_is_needed() -> None:
    for file, text in EXCEPTIONS:
        assert any(text in line for line in prose_lines(Path(file))), (file, text)


def asserted_texts(tree: ast.AST) -> list[ast.Constant]:
    """Return the string literals in `assert` statements and in `match=` arguments."""
    asserted = [node.test for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    asserted += [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "match"]
    return [
        node
        for expression in asserted
        for node in ast.walk(expression)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_no_test_asserts_a_sentence(path: Path) -> None:
    """A sentence may be reworded at any time. Tests assert numbers, keys, names and structure."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    texts = [node for node in asserted_texts(tree) if SENTENCE.search(node.value.replace("\\", ""))]
    assert {f"{path}:{node.lineno}": node.value for node in texts} == {}

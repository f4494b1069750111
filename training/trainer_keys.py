"""The keys of transformers' TrainingArguments and its parser, read from its files: importing it takes seconds."""

import ast
import builtins
import dataclasses
import functools
from enum import StrEnum
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import HfArgumentParser


class InstalledEnum(StrEnum):
    """The values that a key takes; another one is an error in transformers' own words."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        known = list(cls._value2member_map_)
        raise ValueError(f"{value} is not a valid {cls.__name__}, please select one of {known}")


def installed_file(module: str) -> Path:
    """A file of transformers."""
    package = find_spec("transformers")
    if package is None or not package.submodule_search_locations:
        raise ImportError("transformers is not installed. Run pip install -e . in this folder.")
    return Path(package.submodule_search_locations[0]) / f"{module}.py"


def load_parser() -> "type[HfArgumentParser]":
    """The parser of transformers, a file that needs nothing else of it."""
    spec = spec_from_file_location("hf_argparser", installed_file("hf_argparser"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HfArgumentParser


@functools.cache
def definitions(module: str) -> dict[str, ast.ClassDef | ast.ImportFrom]:
    """The classes of a module of transformers, and its imports from its siblings, by name."""
    found: dict[str, ast.ClassDef | ast.ImportFrom] = {}
    for node in ast.parse(installed_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= dict.fromkeys((alias.name for alias in node.names), node)
    return found


def kind_of(name: str, module: str) -> Any:
    """The enum that a module of transformers defines or imports; of another class, one that takes no text."""
    node = definitions(module).get(name)
    if isinstance(node, ast.ImportFrom):
        return kind_of(name, str(node.module))
    members = constants(node) if node else {}
    return InstalledEnum(name, members) if members else type(name, (), {})


def constants(definition: ast.ClassDef) -> dict[str, Any]:
    """The names in a class that are given a constant without a type."""
    return {
        target.id: item.value.value
        for item in definition.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
        for target in item.targets
        if isinstance(target, ast.Name)
    }


@functools.cache
def installed_keys() -> type:
    """A dataclass with the fields of TrainingArguments: names, types, defaults, and texts of `--help`."""
    module = "training_args"
    definition = definitions(module)["TrainingArguments"]
    assert isinstance(definition, ast.ClassDef)
    names = vars(builtins) | {"Any": Any, "Literal": Literal, "field": dataclasses.field} | constants(definition)

    def value_of(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), module, "eval"), names)

    fields = []
    for item in definition.body:
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        assert isinstance(item.value, ast.Call), item.target.id
        unknown = {node.id for node in ast.walk(item.annotation) if isinstance(node, ast.Name)} - names.keys()
        names |= {name: kind_of(name, module) for name in unknown}
        given = {str(part.arg): part.value for part in item.value.keywords}
        described = given.pop("metadata")
        assert isinstance(described, ast.Dict), item.target.id
        metadata = {}
        for key, value in zip(filter(None, described.keys), described.values, strict=True):
            try:
                metadata[value_of(key)] = value_of(value)
            except NameError:
                pass  # choices that another module makes: RunTrainingArguments checks them
        options: dict[str, Any] = {key: value_of(value) for key, value in given.items()}
        fields.append((item.target.id, value_of(item.annotation), dataclasses.field(metadata=metadata, **options)))
    return dataclasses.make_dataclass("InstalledKeys", fields)

"""Read the keys of transformers' TrainingArguments from its source file, because that import is slow (seconds)."""

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
    """A copy of an enum of transformers: the allowed values of a key."""

    @classmethod
    def _missing_(cls, value: object) -> Any:
        # The same message as in transformers' ExplicitEnum.
        known = list(cls._value2member_map_)
        raise ValueError(f"{value} is not a valid {cls.__name__}, please select one of {known}")


def installed_file(module: str) -> Path:
    """Return the path of a module of transformers, without importing it."""
    package = find_spec("transformers")
    if package is None or not package.submodule_search_locations:
        raise ImportError("transformers is not installed. Run `pip install -e .` in this folder.")
    return Path(package.submodule_search_locations[0]) / f"{module}.py"


def load_parser() -> "type[HfArgumentParser]":
    """Load HfArgumentParser from its file, which imports nothing else from transformers."""
    # A normal import would run transformers/__init__.py and its submodules first.
    spec = spec_from_file_location("hf_argparser", installed_file("hf_argparser"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.HfArgumentParser


@functools.cache
def definitions(module: str) -> dict[str, ast.ClassDef | ast.ImportFrom]:
    """Return the classes of a module of transformers and its relative imports, by name."""
    nodes: dict[str, ast.ClassDef | ast.ImportFrom] = {}
    for node in ast.parse(installed_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            nodes[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            nodes |= dict.fromkeys((alias.name for alias in node.names), node)
    return nodes


def type_named(name: str, module: str) -> Any:
    """Return a copy of an enum that a module of transformers defines or imports; an empty class if it is no enum."""
    node = definitions(module).get(name)
    if isinstance(node, ast.ImportFrom):
        return type_named(name, str(node.module))
    # A class without constants is no enum. The result then accepts no value from the command line.
    members = constants(node) if node else {}
    return InstalledEnum(name, members) if members else type(name, (), {})


def constants(definition: ast.ClassDef) -> dict[str, Any]:
    """Return the constants assigned in the body of a class, such as the members of an enum."""
    return {
        target.id: item.value.value
        for item in definition.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)
        for target in item.targets
        if isinstance(target, ast.Name)
    }


@functools.cache
def installed_keys() -> type:
    """Return a dataclass with the fields of TrainingArguments: names, types, defaults and help texts."""
    module = "training_args"
    definition = definitions(module)["TrainingArguments"]
    assert isinstance(definition, ast.ClassDef)
    names = vars(builtins) | {"Any": Any, "Literal": Literal, "field": dataclasses.field} | constants(definition)

    # Defaults and annotations are simple expressions. `names` has everything that they may refer to.
    def value_of(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), module, "eval"), names)

    fields = []
    for item in definition.body:
        if not (isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)):
            continue
        assert isinstance(item.value, ast.Call), item.target.id
        # Annotations name enums that training_args.py imports.
        unknown = {node.id for node in ast.walk(item.annotation) if isinstance(node, ast.Name)} - names.keys()
        names |= {name: type_named(name, module) for name in unknown}
        # Each field is written as `name: type = field(default=..., metadata={"help": ..., "choices": ...})`.
        given = {str(part.arg): part.value for part in item.value.keywords}
        described = given.pop("metadata")
        assert isinstance(described, ast.Dict), item.target.id
        metadata = {}
        for key, value in zip(filter(None, described.keys), described.values, strict=True):
            try:
                metadata[value_of(key)] = value_of(value)
            except NameError:
                pass  # choices that are computed in another module; RunTrainingArguments checks them
        options: dict[str, Any] = {key: value_of(value) for key, value in given.items()}
        fields.append((item.target.id, value_of(item.annotation), dataclasses.field(metadata=metadata, **options)))
    return dataclasses.make_dataclass("InstalledKeys", fields)

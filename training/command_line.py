"""Read config files and command lines; a key that does not exist is an error that names the nearest one."""

import argparse
import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.settings import DICTS, SECRET_KEYS, RunArguments, training_keys
from training.trainer_keys import load_parser

if TYPE_CHECKING:
    from transformers import HfArgumentParser
else:
    HfArgumentParser = load_parser()

# Words of papers, guides and other projects -> our key.
ALIASES = {
    "architecture": "model_type",
    "model": "model_type",
    "model_name": "model_type",
    "params": "model_config",
    "model_params": "model_config",
    "audio_feature_config": "feature_config",
    "pretrained": "model_name_or_path",
    "data": "dataset",
    "data_dir": "dataset",
    "processed_data_dir": "dataset",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler_config": "lr_scheduler_kwargs",
    "grad_clip": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "patience": "early_stopping_patience",
    "warmup": "warmup_steps",
    "num_workers": "dataloader_num_workers",
    "prefetch_size": "prefetch_batches",
    "random_seed": "seed",
    "resume": "resume_from_checkpoint",
    "checkpoint": "resume_from_checkpoint",
    "save_dir": "output_dir",
    "sample_rate": "sampling_rate",
    "clip_duration": "clip_seconds",
    "max_length": "max_text_tokens",
}


def read_config(path: Path) -> dict[str, Any]:
    """The keys of a JSON file."""
    if not path.is_file():
        found = ", ".join(sorted(str(file) for file in path.parent.glob("*.json"))) or "no .json file beside it"
        raise ValueError(f"{path}: no such config file; there is {found}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}). Save it again as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{path}: its objects or lists are nested too deep. Give one object of keys.") from error
    except ValueError as error:  # an integer of thousands of digits
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected one JSON object of keys and values, got {type(config).__name__}")
    return config


def command_line_value(rest: list[str], key: str) -> str | None:
    """The last value given to --key, before there is a parser."""
    values = [value for flag, value in zip(rest, rest[1:], strict=False) if flag == f"--{key}"]
    return values[-1] if values else None


def take_nested(rest: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take `--model_config.dropout 0.2` and its like out of the command line; values are JSON, else text."""
    kept, nested = [], {}
    tokens = iter(rest)
    for token in tokens:
        flag, dot, key = token.partition(".")
        if not (dot and flag.removeprefix("--") in DICTS):
            kept.append(token)
            continue
        key, equals, value = key.partition("=")
        value = value if equals else next(tokens, None)
        if value is None:
            raise ValueError(f"{token} needs a value")
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass  # a bare word: the text itself
        nested.setdefault(flag.removeprefix("--"), {})[key] = value
    return kept, nested


def make_parser(kinds: tuple[type, ...]) -> HfArgumentParser:
    """A parser over all keys; one line a mistake."""
    parser = RunParser(
        kinds,  # pyright: ignore[reportArgumentType]  (dataclasses, as its own annotation says in words)
        prog="run_train.py",
        usage="accelerate launch run_train.py [config.json] [--key value ...]",
        description="Train a model on what a config names. A key on the command line wins over the file. Keys of "
        "another task are listed by --task <name> --help.",
        allow_abbrev=False,
    )
    hints = type_hints(kinds)
    for action in parser._actions:
        if action.dest in DICTS:
            action.type = json_object
        elif type(None) in typing.get_args(hints.get(action.dest)) and action.type in (int, float, str):
            action.type = nullable(action.type)
    return parser


def type_hints(kinds: tuple[type, ...]) -> dict[str, Any]:
    """The type of every key."""
    return {key: hint for kind in kinds for key, hint in typing.get_type_hints(kind).items()}


def nullable(kind: type) -> typing.Callable[[str], Any]:
    """A reader of the command line that takes null too."""

    def read(text: str) -> Any:
        return None if text in ("null", "None") else kind(text)

    read.__name__ = f"{kind.__name__} or null"  # argparse names it in its messages
    return read


class RunParser(HfArgumentParser):
    """An argument parser whose mistakes are errors of ours: one line with the nearest valid key."""

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(message)

    def parse_args_into_dataclasses(self, args: list[str], **options: Any) -> tuple[Any, ...]:
        """As in transformers, but a flag that nobody reads is named with its nearest neighbour."""
        *settings, unknown = super().parse_args_into_dataclasses(args, return_remaining_strings=True, **options)
        known = {action.dest for action in self._actions}
        flags = [token for token in unknown if re.match("--?[a-zA-Z]", token)]
        if flags:
            raise ValueError(unknown_key(flags[0].lstrip("-").partition("=")[0], known))
        if unknown:
            key, equals, value = unknown[0].partition("=")
            key = key if key in known else nearest_key(key, known)
            advice = f"did you mean '--{key} {value}'?" if equals and key else "settings are given as --key value"
            raise ValueError(f"unexpected {' '.join(unknown)!r}; {advice}")
        return tuple(settings)


def json_object(text: str) -> dict[str, Any]:
    """A dict written as JSON."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text}")
    return value


def check_keys(config: dict[str, Any], parser: HfArgumentParser, task: str) -> None:
    """Refuse keys that nobody reads, and secrets."""
    known = {action.dest for action in parser._actions} - {"help"}
    for key in config:
        if key in SECRET_KEYS:
            raise ValueError(f"{key} is a secret and does not belong in a file; run `hf auth login` or set HF_TOKEN")
        if key not in known:
            raise ValueError(f"{unknown_key(key, known, config[key])} (task {task!r})")


def unknown_key(key: str, known: Collection[str], value: Any = None) -> str:
    """A message that names the nearest valid key; of an object, that of the first of its keys which has one."""
    inside = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
    key, nearest = next(
        ((name, alias) for name in (*inside, key) if (alias := alias_of(name, known))), (key, nearest_key(key, known))
    )
    advice = f"did you mean {nearest!r}?" if nearest else "run_train.py --help lists all keys"
    return f"unknown key {key!r}; {advice}"


def nearest_key(key: str, known: Collection[str]) -> str | None:
    """The valid key that a wrong one most likely means."""
    nearest = difflib.get_close_matches(key, sorted(known), n=1)
    return alias_of(key, known) or next(iter(nearest), None)


def alias_of(key: str, known: Collection[str]) -> str | None:
    """Our key for a word of other projects: `model.params.kernel_size` is `model_config.kernel_size`."""
    valid = {*known, *(item.name for kind in (RunArguments, training_keys()) for item in dataclasses.fields(kind))}
    words = key.lower().replace("-", "_").split(".")
    for start, word in enumerate(words):
        ours, inside = ALIASES.get(word, word), words[start + 1 :]
        found = ".".join([ours, *inside])
        if found != key and ours in valid and (not inside or ours in DICTS):
            return found
    return None


def convert(parser: HfArgumentParser, hints: dict[str, Any], key: str, value: Any) -> Any:
    """Check a JSON value against the field's type, and read text as the command line would."""
    kinds = {typing.get_origin(kind) or kind for kind in (hints[key], *typing.get_args(hints[key]))}
    for kind, name in ((type(None), "null"), (dict, "an object"), (list, "a list")):
        if isinstance(value, kind) and kind not in kinds:
            raise ValueError(f"{key} = {json.dumps(value)} is not valid: {name} does not fit here")
    if value is None or isinstance(value, (dict, list)):
        return value
    if dict in kinds and str not in kinds:
        raise ValueError(f"{key} = {value!r} is not valid: it takes an object of names and values")
    if isinstance(value, bool) and key == "resume_from_checkpoint":
        return json.dumps(value)  # documented as true, and text on the command line
    if isinstance(value, bool) and bool not in kinds:
        raise ValueError(f"{key} = {json.dumps(value)} is not valid: true and false do not fit here")
    action = next(action for action in parser._actions if action.dest == key)
    if not callable(action.type):
        return value
    if str in kinds:
        return str(value)  # a listener is often written as a number
    try:
        return action.type(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{key} = {value!r} is not valid: {error}") from error

"""Read config files and command lines. An unknown key is an error that suggests the closest valid key."""

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

# Names used by papers, guides and other projects -> our key. They only improve the suggestion in an error message.
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
    """Read a JSON file of config keys; raise ValueError for a missing or malformed file."""
    if not path.is_file():
        configs = ", ".join(sorted(str(file) for file in path.parent.glob("*.json")))
        remedy = f"Give one of {configs}." if configs else "Give the path of a .json file."
        raise ValueError(f"{path}: config file not found. {remedy}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}). Save it again as UTF-8.") from error
    except RecursionError as error:
        raise ValueError(f"{path}: objects or lists are nested too deep. Give one object of keys.") from error
    except ValueError as error:  # Python refuses to parse an integer of more than 4300 digits
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(config).__name__}. Give one object of keys.")
    return config


def command_line_value(rest: list[str], key: str) -> str | None:
    """Return the last value of --key, or None. For keys that are needed before the parser can be built."""
    values = [value for flag, value in zip(rest, rest[1:], strict=False) if flag == f"--{key}"]
    return values[-1] if values else None


def take_nested(rest: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Split arguments like `--model_config.dropout 0.2` from the command line.

    Returns:
        The other arguments, and the nested values by key. Values are parsed as JSON where possible, else kept as text.
    """
    others, nested = [], {}
    tokens = iter(rest)
    for token in tokens:
        flag, dot, key = token.partition(".")
        if not (dot and flag.removeprefix("--") in DICTS):
            others.append(token)
            continue
        key, equals, value = key.partition("=")
        value = value if equals else next(tokens, None)
        if value is None:
            raise ValueError(f"{token}: no value is given. Write {token} VALUE.")
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            pass  # a bare word is its own value
        nested.setdefault(flag.removeprefix("--"), {})[key] = value
    return others, nested


def make_parser(dataclass_types: tuple[type, ...]) -> HfArgumentParser:
    """Return a parser for the fields of all these dataclasses."""
    parser = RunParser(
        dataclass_types,  # pyright: ignore[reportArgumentType]  (dataclasses, as its own annotation says in words)
        prog="run_train.py",
        usage="accelerate launch run_train.py [config.json] [--key value ...]",
        description="Train a model as a config file describes. A key on the command line overrides the file. Use "
        "--task <name> --help to list the keys of another task.",
        allow_abbrev=False,  # a new key could change the meaning of an abbreviation
    )
    hints = type_hints(dataclass_types)
    # HfArgumentParser does not know dicts, and it drops the None of an optional type.
    for action in parser._actions:
        if action.dest in DICTS:
            action.type = json_object
        elif type(None) in typing.get_args(hints.get(action.dest)) and action.type in (int, float, str):
            action.type = nullable(action.type)
    return parser


def type_hints(dataclass_types: tuple[type, ...]) -> dict[str, Any]:
    return {key: hint for group in dataclass_types for key, hint in typing.get_type_hints(group).items()}


def nullable(kind: type) -> typing.Callable[[str], Any]:
    """Return a command-line type that also accepts null."""

    def read(text: str) -> Any:
        return None if text in ("null", "None") else kind(text)

    read.__name__ = f"{kind.__name__} or null"  # argparse puts it into its error messages
    return read


class RunParser(HfArgumentParser):
    """An argument parser that raises ValueError with one line, instead of printing usage and exiting."""

    def error(self, message: str) -> typing.NoReturn:
        raise ValueError(message)

    def parse_args_into_dataclasses(self, args: list[str], **options: Any) -> tuple[Any, ...]:
        """Parse as transformers does, but suggest the closest valid key for an unknown flag."""
        *settings, unknown = super().parse_args_into_dataclasses(args, return_remaining_strings=True, **options)
        known = {action.dest for action in self._actions}
        # A token such as -1 is a value, not a flag.
        flags = [token for token in unknown if re.match("--?[a-zA-Z]", token)]
        if flags:
            raise ValueError(unknown_key(flags[0].lstrip("-").partition("=")[0], known))
        # The remaining words have no flag. A common mistake is `key=value` without the dashes.
        if unknown:
            key, equals, value = unknown[0].partition("=")
            key = key if key in known else nearest_key(key, known)
            advice = f"Did you mean '--{key} {value}'?" if equals and key else "Give settings as --key value."
            raise ValueError(f"unexpected {' '.join(unknown)!r}. {advice}")
        return tuple(settings)


def json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text}")
    return value


def check_keys(config: dict[str, Any], parser: HfArgumentParser, task: str) -> None:
    """Raise ValueError for unknown keys, and for secrets, which must not be saved in a file."""
    known = {action.dest for action in parser._actions} - {"help"}
    for key in config:
        if key in SECRET_KEYS:
            raise ValueError(f"{key}: is a secret and must not be in a file. Run `hf auth login` or set HF_TOKEN.")
        if key not in known:
            raise ValueError(f"{unknown_key(key, known, config[key])} (task {task!r})")


def unknown_key(key: str, known: Collection[str], value: Any = None) -> str:
    """Return an error message that suggests the closest valid key.

    Args:
        value: the value of the key. If it is an object, the first of its inner keys with a known alias is reported.
    """
    inside = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
    key, nearest = next(
        ((name, alias) for name in (*inside, key) if (alias := alias_of(name, known))), (key, nearest_key(key, known))
    )
    advice = f"Did you mean {nearest!r}?" if nearest else "Run run_train.py --help to list all keys."
    return f"unknown key {key!r}. {advice}"


def nearest_key(key: str, known: Collection[str]) -> str | None:
    """Return the valid key that an unknown one most likely means, or None."""
    nearest = difflib.get_close_matches(key, sorted(known), n=1)
    return alias_of(key, known) or next(iter(nearest), None)


def alias_of(key: str, known: Collection[str]) -> str | None:
    """Return our key for another project's, or None: `model.params.kernel_size` is `model_config.kernel_size`."""
    valid = {*known, *(item.name for kind in (RunArguments, training_keys()) for item in dataclasses.fields(kind))}
    parts = key.lower().replace("-", "_").split(".")
    # Other projects nest their keys, so leading parts such as "model." or "training." are dropped one by one.
    for start, part in enumerate(parts):
        ours, inside = ALIASES.get(part, part), parts[start + 1 :]
        candidate = ".".join([ours, *inside])
        if candidate != key and ours in valid and (not inside or ours in DICTS):
            return candidate
    return None


def convert(parser: HfArgumentParser, hints: dict[str, Any], key: str, value: Any) -> Any:
    """Check a JSON value against the type of its key, and convert text as the command line would."""
    types = {typing.get_origin(hint) or hint for hint in (hints[key], *typing.get_args(hints[key]))}
    for json_type, name in ((type(None), "null"), (dict, "an object"), (list, "a list")):
        if isinstance(value, json_type) and json_type not in types:
            raise ValueError(f"{key}={json.dumps(value)}: must not be {name}. Give a single value or remove the key.")
    if value is None or isinstance(value, (dict, list)):
        return value
    if dict in types and str not in types:
        raise ValueError(f"{key}={value!r}: must be an object. Give an object of names and values.")
    if isinstance(value, bool) and key == "resume_from_checkpoint":
        return json.dumps(value)  # its field is text: a path or "true"
    if isinstance(value, bool) and bool not in types:
        raise ValueError(f"{key}={json.dumps(value)}: must not be true or false. Give a value of its own type.")
    action = next(action for action in parser._actions if action.dest == key)
    if not callable(action.type):
        return value
    # Let argparse convert the value, so that a config and the command line accept the same text.
    if str in types:
        return str(value)  # ids of songs and listeners are often written as numbers
    try:
        return action.type(str(value))
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"{key}={value!r}: not valid ({error}). Run run_train.py --help for its values.") from error

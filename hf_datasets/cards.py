"""Read and change the configs in the YAML front matter of a data set card."""

import re

import yaml

from .output import Location

CARD = "README.md"
POINTER = ".huggingface.yaml"  # `datasets` prefers its configs to those of the card


def sample_configs(output: Location) -> list[dict]:
    """Return the configs of the card, except `full`, whose files all exist in this folder."""
    front, _ = split_card(output.read_text(CARD) or "")
    return [
        # `full` becomes the default instead.
        {key: value for key, value in config.items() if key != "default"}
        for config in front.get("configs", [])
        if config["config_name"] != "full" and all(output.has(f["path"]) for f in config["data_files"])
    ]


def split_card(text: str) -> tuple[dict, str]:
    """Return the YAML front matter of a card (empty if it has none) and the text below it."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    return (yaml.safe_load(match[1]) or {}, match[2]) if match else ({}, text)


def with_configs(card: str, configs: list[dict]) -> str:
    """Return the card with its configs replaced."""
    front, body = split_card(card)
    front = yaml.safe_dump(front | {"configs": configs}, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{body}"

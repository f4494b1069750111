"""The card of a data set, and the configs that its YAML names."""

import re

import yaml

from .output import Place

CARD, POINTER = "README.md", ".huggingface.yaml"


def sample_configs(output: Place) -> list[dict]:
    """Return the configs of the card other than `full` whose files are all in this folder."""
    front, _ = split_card(output.read_text(CARD) or "")
    return [
        {key: value for key, value in config.items() if key != "default"}
        for config in front.get("configs", [])
        if config["config_name"] != "full" and all(output.has(f["path"]) for f in config["data_files"])
    ]


def split_card(text: str) -> tuple[dict, str]:
    """Return the YAML at the top of a card, empty if there is none, and the text below it."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    return (yaml.safe_load(match[1]) or {}, match[2]) if match else ({}, text)


def with_configs(card: str, configs: list[dict]) -> str:
    """Return the card with these configs in its YAML."""
    front, body = split_card(card)
    front = yaml.safe_dump(front | {"configs": configs}, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{body}"

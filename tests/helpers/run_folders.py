"""What runs leave in their folders: read it, compare it, and check that it is complete."""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

OF_EVERY_RUN = {
    "model.safetensors", "config.json", "metrics.json", "README.md", "run_config.json", "data.json", "splits.json",
    "predictions.parquet", "report.html",
}  # fmt: skip


def record(folder: Path) -> dict[str, Any]:
    """Return what a run recorded about itself."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def numbers(record: dict[str, Any], path: str = "") -> dict[str, float]:
    """Return the numbers in a nested record by their path."""
    found: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{path}/{key}")
        elif isinstance(value, (int, float)):
            found[f"{path}/{key}"] = value
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    """Compare the weights of two runs bit by bit."""
    weights, expected = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert weight.tobytes() == expected[name].tobytes(), name


def assert_complete(folder: Path, said: str, files: set[str], compared: list[str]) -> None:
    """Check a finished run on synthetic data; `compared` are the words that stand next to its scores."""
    assert OF_EVERY_RUN | files <= {path.name for path in folder.iterdir()}
    assert record(folder)["data"]["synthetic"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    for text in (card, said):
        for words in ("SYNTHETIC DATA", *compared):
            assert words in text
    assert f"report: {folder / 'report.html'}" in said
    assert "nan" not in card.lower()


def copy_as_interrupted(whole: Path, folder: Path, checkpoint: str) -> None:
    """Make `folder` what `whole` was when it had just written a checkpoint."""
    folder.mkdir()
    for name in ("run_config.json", "data.json", "splits.json"):
        shutil.copy(whole / name, folder)
    shutil.copytree(whole / checkpoint, folder / checkpoint)

"""Read, compare and check the folders of runs."""

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
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def numbers(record: dict[str, Any], path: str = "") -> dict[str, float]:
    """Return the numbers in a nested record by their path."""
    by_path: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            by_path |= numbers(value, f"{path}/{key}")
        elif isinstance(value, (int, float)):
            by_path[f"{path}/{key}"] = value
    return by_path


def assert_same_weights(one: Path, other: Path) -> None:
    """Assert that the weights of two runs are identical, bit by bit."""
    weights, expected = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert weight.tobytes() == expected[name].tobytes(), name


def assert_complete(folder: Path, stdout: str, files: set[str], baselines: list[str]) -> None:
    """Assert that a run on synthetic data is finished and that its card and output name the baselines."""
    assert OF_EVERY_RUN | files <= {path.name for path in folder.iterdir()}
    assert record(folder)["data"]["synthetic"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    for text in (card, stdout):
        for phrase in ("SYNTHETIC DATA", *baselines):
            assert phrase in text
    assert f"report: {folder / 'report.html'}" in stdout
    assert "nan" not in card.lower()


def copy_as_interrupted(finished: Path, folder: Path, checkpoint: str) -> None:
    """Make `folder` look like the run `finished` just after it had written a checkpoint."""
    folder.mkdir()
    for name in ("run_config.json", "data.json", "splits.json"):
        shutil.copy(finished / name, folder)
    shutil.copytree(finished / checkpoint, folder / checkpoint)

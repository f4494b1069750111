"""Saving a run is all or nothing, and only some of its files are shared on the Hub."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import launch.sharing
import training.run_folder
from launch.run import parse_run
from launch.sharing import push_run
from modeling.configuration_tcn import TcnConfig
from modeling.feature_extraction_audio import AudioFeatureExtractor
from modeling.modeling_tcn import TcnForSignalRegression
from training.run_folder import save_run
from training.task import Evaluation


def save(folder: Path, metrics: dict[str, Any]) -> Path:
    run = parse_run(["--output_dir", str(folder)])
    model = TcnForSignalRegression(TcnConfig(input_size=4, num_blocks=1, num_channels=4))
    records = {"splits.json": {}, "metrics.json": metrics}
    evaluation = Evaluation({}, pa.table({"a": [1]}))
    return save_run(run, model, AudioFeatureExtractor(), {"README.md": "# card"}, records, evaluation)


def test_a_failed_save_leaves_the_old_run_unfinished_and_no_partial_files(tmp_path: Path) -> None:
    save(tmp_path, {"score": 1})
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="nan"):
        save(tmp_path, {"score": float("nan")})  # the json module raises this error
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".saving-*"))


def test_metrics_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = training.run_folder.os.replace
    record = SimpleNamespace(replace=lambda source, target: (order.append(Path(target).name), replace(source, target)))
    monkeypatch.setattr(training.run_folder, "os", record)
    save(tmp_path, {})
    assert order[-1] == "metrics.json"
    assert "model.safetensors" in order


def test_no_token_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hush1")
    run = parse_run(["--output_dir", str(tmp_path), "--hub_token", "hf_hush2"])
    assert "hf_hush" not in json.dumps(run.resolved())
    save(tmp_path, {})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_hush" in path.read_bytes()]


def test_only_the_finished_run_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Apply the patterns given to the upload to the files that training leaves.
    from huggingface_hub.utils import filter_repo_objects

    uploads: list[dict] = []

    class Hub:
        def create_repo(self, name: str, private: bool | None, exist_ok: bool) -> SimpleNamespace:
            return SimpleNamespace(repo_id=f"me/{name}")

        def upload_folder(self, **options: Any) -> None:
            uploads.append(options)

    monkeypatch.setattr(launch.sharing, "HfApi", lambda token: Hub())
    (tmp_path / "metrics.json").write_text("{}")
    push_run(tmp_path, "eda-tcn", private=True)
    (options,) = uploads
    paths = ["model.safetensors", "README.md", "layers.py", "checkpoint-7/optimizer.pt", "runs/x/events", ".cache/x"]
    paths += [
        "predictions.parquet",
        "report.html",
        "figure_trials_raw.png",
    ]  # they show recordings of people
    shared = list(filter_repo_objects(paths, ignore_patterns=options["ignore_patterns"]))
    assert shared == paths[:3]
    assert options["repo_id"] == "me/eda-tcn"

"""The folder of a run: whole or not there, and what of it is shared."""

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
from tasks.eda.card import model_card, results_table
from training.run_folder import save_run

SCORE = {"mean": 0.5, "low": 0.4, "high": 0.6, "trials": 3, "undefined": 1}
NONE = {"mean": None, "low": None, "high": None, "trials": 0, "undefined": 4}
NAMES = ("rmse", "pearson", "ccc", "detrended_pearson")
RESULTS = {
    "unit": "uS",
    "trials": 4,
    "songs": 2,
    "listeners": 2,
    "note": None,
    "channels": {
        "raw": {
            "model": dict.fromkeys(NAMES, SCORE),
            "baselines": {"training_mean": dict.fromkeys(NAMES, NONE), "others": dict.fromkeys(NAMES, SCORE)},
            "gain": {"over": "time_curve", **SCORE},
            "null": {"score": 0.5, "score_of_wrong": 0.1, "low": 0.0, "high": 0.3, "p": 0.004, "permutations": 999},
            "ceiling": {"leave_one_out": SCORE, "split_half": None, "split_half_songs": 0},
            "interval_over": "songs",
            "verdict": {"verdict": "no effect", "missing": ["2 songs are fewer than 6"], "rule": "the rule"},
        }
    },
}


def save(folder: Path, metrics: dict[str, Any]) -> Path:
    """Save a tiny run."""
    run = parse_run(["--output_dir", str(folder)])
    model = TcnForSignalRegression(TcnConfig(input_size=4, num_blocks=1, num_channels=4))
    records = {"splits.json": {}, "metrics.json": metrics}
    return save_run(run, model, AudioFeatureExtractor(), {"README.md": "# card"}, records, pa.table({"a": [1]}))


def test_a_saving_that_fails_leaves_the_old_run_unfinished_but_nothing_half(tmp_path: Path) -> None:
    save(tmp_path, {"score": 1})
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(tmp_path, {"score": float("nan")})  # a NaN in a record is refused, not written
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".saving-*"))


def test_metrics_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = training.run_folder.os.replace
    record = SimpleNamespace(replace=lambda source, target: (order.append(Path(target).name), replace(source, target)))
    monkeypatch.setattr(training.run_folder, "os", record)
    save(tmp_path, {})
    assert order[-1] == "metrics.json"
    assert "model.safetensors" in order


def test_no_secret_reaches_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hush1")
    run = parse_run(["--output_dir", str(tmp_path), "--hub_token", "hf_hush2"])
    assert "hf_hush" not in json.dumps(run.resolved())
    save(tmp_path, {})
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_hush" in path.read_bytes()]


def test_only_the_finished_run_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patterns that the upload is given, tried on a folder as training leaves it."""
    from huggingface_hub.utils import filter_repo_objects

    uploads: list[dict] = []

    class Hub:
        """The two calls of HfApi, recorded."""

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
    ]  # these show what was recorded from people
    shared = list(filter_repo_objects(paths, ignore_patterns=options["ignore_patterns"]))
    assert shared == paths[:3]
    assert options["repo_id"] == "me/eda-tcn"


def test_the_table_shows_what_is_undefined() -> None:
    table = results_table(RESULTS)
    assert "| model | 0.500 [0.400, 0.600] (1 undefined) |" in table
    assert "| training mean | undefined |" in table
    assert "| others (oracle) |" in table
    assert "0.100 against 0.500, p = 0.004 of 999" in table
    assert "split-half reliability undefined" in table
    assert "**Verdict: no effect** (2 songs are fewer than 6)." in table
    assert "nan" not in table
    assert "None" not in table


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_card_warns_of_what_its_reader_must_know(synthetic: bool) -> None:
    side = {"trials": 4, "songs": 2, "listeners": 2}
    facts = {
        "name": "eda",
        "data": {
            "dataset": "d",
            "config": "c",
            "synthetic": synthetic,
            "sides": dict.fromkeys(("train", "validation", "test"), side),
            "songs_left_out": {},
            "trials_rejected": {"flat": 2},
            "trials_between_sides": 0,
            "split_warning": "random_pairs leaks",
            "control": "this is a control",
        },
        "split": {"sha256": "0" * 64, "split_by": "random_pairs", "split_seed": 0},
        "base": None,
        "model": {"model_type": "tcn", "frame_rate": 4.0},
        "parameters": 10,
        "receptive_field_seconds": 2.0,
        "training": {"steps": 1, "best_checkpoint_step": 1, "chosen_by": "loss"},
        "test": RESULTS,
        "versions": {"torch": "2"},
    }
    card = model_card(facts)
    assert ("SYNTHETIC DATA" in card) == synthetic == ("synthetic-data" in card)
    assert "**WARNING.** Random_pairs leaks." in card
    assert "**WARNING.** This is a control." in card
    assert "(figure_scores_raw.png)" in card
    assert "flat 2" in card
    assert "| training mean |" in card

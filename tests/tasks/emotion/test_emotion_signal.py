"""Positive control: the sample encodes emotions in text, video and audio. Each is learned, and all together best."""

import json
import sys
from pathlib import Path

import pytest

from tests.helpers.programs import run

pytestmark = pytest.mark.slow

SETTINGS = {"all": ["text", "video", "audio"], "text": ["text"], "video": ["video"], "audio": ["audio"]}
EPOCHS = {"all": "8", "text": "12", "video": "8", "audio": "8"}  # text takes longest, because its encoder is a BERT
QUIET = ("--report_to", "none", "--disable_tqdm", "true", "--num_threads", "1")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Return the emotion scores of the test split, by setting."""
    scores = {}
    for name, modalities in SETTINGS.items():
        folder = tmp_path_factory.mktemp(name) / "run"
        command = ["run_train.py", "configs/meld_sample.json", "--output_dir", folder, *QUIET]
        command += ["--num_train_epochs", EPOCHS[name], "--model_config.modalities", json.dumps(modalities)]
        run(sys.executable, *command)
        scores[name] = json.loads((Path(folder) / "metrics.json").read_text())["test"]["heads"]["emotion"]
    return scores


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_beats_predictions_from_class_frequencies(name: str, scored: dict[str, dict]) -> None:
    assert {"majority", "dealt"} <= set(scored[name]["verdict"]["beaten"]), scored[name]["scores"]["weighted_f1"]


def test_all_modalities_beat_each_alone(scored: dict[str, dict]) -> None:
    f1 = {name: results["scores"]["weighted_f1"]["mean"] for name, results in scored.items()}
    assert f1["all"] > max(f1[name] for name in ("text", "video", "audio")), f1


def test_removing_a_modality_lowers_the_score(scored: dict[str, dict]) -> None:
    # Modalities are redundant, so a removal costs little: only two of the three have to cost something.
    costs = {
        name: ablation["difference"]["weighted_f1"]["mean"]
        for name, ablation in scored["all"]["ablations"].items()
        if name.startswith("without")
    }
    assert len(costs) == 3, costs
    assert sum(cost > 0 for cost in costs.values()) >= 2, costs
    assert max(costs.values()) > 0.03, costs

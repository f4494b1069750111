"""Emotions are in the sample's words, pictures and sounds: each is found alone, and all of them find more."""

import json
import sys
from pathlib import Path

import pytest

from tests.helpers.programs import run

pytestmark = pytest.mark.slow

SETTINGS = {"all": ["text", "video", "audio"], "text": ["text"], "video": ["video"], "audio": ["audio"]}
EPOCHS = {"all": "8", "text": "12", "video": "8", "audio": "8"}  # words are learnt last: their encoder is a BERT
QUIET = ("--report_to", "none", "--disable_tqdm", "true", "--num_threads", "1")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What the test side says of the emotions of each setting."""
    found = {}
    for name, modalities in SETTINGS.items():
        folder = tmp_path_factory.mktemp(name) / "run"
        command = ["run_train.py", "configs/meld_sample.json", "--output_dir", folder, *QUIET]
        command += ["--num_train_epochs", EPOCHS[name], "--model_config.modalities", json.dumps(modalities)]
        run(sys.executable, *command)
        found[name] = json.loads((Path(folder) / "metrics.json").read_text())["test"]["heads"]["emotion"]
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_learnt_is_more_than_how_often_a_class_occurs(name: str, scored: dict[str, dict]) -> None:
    assert {"majority", "dealt"} <= set(scored[name]["verdict"]["beaten"]), scored[name]["scores"]["weighted_f1"]


def test_all_together_find_more_than_any_alone(scored: dict[str, dict]) -> None:
    f1 = {name: found["scores"]["weighted_f1"]["mean"] for name, found in scored.items()}
    assert f1["all"] > max(f1[name] for name in ("text", "video", "audio")), f1


def test_a_modality_that_is_kept_from_the_model_costs(scored: dict[str, dict]) -> None:
    """Each costs less than it would alone, as the others say much of the same; none is of no use."""
    costs = {
        name: found["difference"]["weighted_f1"]["mean"]
        for name, found in scored["all"]["ablations"].items()
        if name.startswith("without")
    }
    assert len(costs) == 3, costs
    assert sum(cost > 0 for cost in costs.values()) >= 2, costs
    assert max(costs.values()) > 0.03, costs

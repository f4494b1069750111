"""Negative control: labels without any relation to the clips are not learned."""

import sys
from pathlib import Path

import pytest

from tests.helpers.programs import run
from tests.helpers.run_folders import record


@pytest.mark.slow
def test_unrelated_labels_are_not_learned_and_defective_rows_are_kept(tmp_path: Path) -> None:
    command = ["run_train.py", "configs/meld_sample.json", "--dataset_config", "sample_null", "--report_to", "none"]
    run(sys.executable, *command, "--num_train_epochs", "6", "--output_dir", tmp_path)
    facts = record(tmp_path)
    for head, results in facts["test"]["heads"].items():
        assert {"majority", "tfidf", "dealt"} == set(results["verdict"]["unbeaten"]), head
        for name, baseline in results["baselines"].items():
            assert baseline["difference"]["weighted_f1"]["low"] <= 0, (head, name)
    data = facts["data"]
    rows = {side: counts["utterances"] for side, counts in data["sides"].items()}
    assert rows == {"train": 80, "validation": 24, "test": 60}
    assert sum(rows.values()) == data["rows"]
    assert {head: len(names) for head, names in data["label_names"].items()} == {"emotion": 7, "sentiment": 3}
    assert data["notes"]["twin_clip"] == 3
    assert data["notes"]["video_unreadable"] == 1

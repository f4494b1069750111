"""The negative control of the emotion task: labels that tell nothing are not found."""

import sys
from pathlib import Path

import pytest

from tests.helpers.programs import run
from tests.helpers.run_folders import record


@pytest.mark.slow
def test_labels_that_tell_nothing_are_not_found_and_no_odd_row_is_dropped(tmp_path: Path) -> None:
    command = ["run_train.py", "configs/meld_sample.json", "--dataset_config", "sample_null", "--report_to", "none"]
    run(sys.executable, *command, "--num_train_epochs", "6", "--output_dir", tmp_path)
    facts = record(tmp_path)
    for head, found in facts["test"]["heads"].items():
        assert {"majority", "tfidf", "dealt"} == set(found["verdict"]["unbeaten"]), head
        for rival, baseline in found["baselines"].items():
            assert baseline["difference"]["weighted_f1"]["low"] <= 0, (head, rival)
    data = facts["data"]
    rows = {side: found["utterances"] for side, found in data["sides"].items()}
    assert rows == {"train": 80, "validation": 24, "test": 60}
    assert sum(rows.values()) == data["rows"]
    assert {head: len(names) for head, names in data["label_names"].items()} == {"emotion": 7, "sentiment": 3}
    assert data["notes"]["twin_clip"] == 3
    assert data["notes"]["video_unreadable"] == 1

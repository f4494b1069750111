"""The negative control of the emotion task: labels that tell nothing are not found, and the report says so."""

import sys
from pathlib import Path

import pytest

from tests.helpers.programs import run
from tests.helpers.run_folders import record


@pytest.mark.slow
def test_labels_that_tell_nothing_are_not_found_and_the_pages_say_what_was_done_with_odd_rows(tmp_path: Path) -> None:
    command = ["run_train.py", "configs/meld_sample.json", "--dataset_config", "sample_null", "--report_to", "none"]
    done = run(sys.executable, *command, "--num_train_epochs", "6", "--output_dir", tmp_path)
    facts = record(tmp_path)
    for head, found in facts["test"]["heads"].items():
        assert {"majority", "tfidf", "dealt"} == set(found["verdict"]["unbeaten"]), head
        rivals = "the majority class, TF-IDF and its own answers, dealt at random"
        assert f"Verdict, {head}: not shown to be better than {rivals}" in done.stdout
    assert facts["data"]["notes"]["twin_clip"] == 3
    assert facts["data"]["notes"]["video_unreadable"] == 1
    assert facts["versions"]["scikit-learn"][0].isdigit()
    for page in (tmp_path / "report.html", tmp_path / "README.md"):
        text = page.read_text()
        for said in (
            "dev chooses the checkpoint and is not merged into it",
            "no context window, no speaker",
            "is masked; no row is dropped",
            "final_videos_test... is used, for the other is wrong (3 rows)",
            "emotion anger, disgust, fear, joy, neutral, sadness, surprise; sentiment negative, neutral, positive",
            "not shown to be better than the majority class",
        ):
            assert said in text, (page.name, said)

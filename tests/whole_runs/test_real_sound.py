"""Real sound: ESC-10 as a small AudioSet tree, from files to a detector that is scored on recordings it never met."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from benchmarks.esc10 import FOLDS, TARGET, make_tree, prepare_tree, train
from tests.helpers.run_folders import record

pytestmark = pytest.mark.slow

EVAL_FOLD = FOLDS[-1]
EPOCHS = "6"  # of the config's 30; most of the time goes into scoring validation and test


@pytest.fixture(scope="module")
def tree(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The prepared data set, and which recordings each clip is made of."""
    esc10, metadata = real_data / "esc10", real_data / "audioset" / "meta"
    if not esc10.is_dir() or not metadata.is_dir():
        pytest.skip(f"no real sound: {esc10} and {metadata} are needed (set FELTSOUND_REAL_DATA)")
    folder = tmp_path_factory.mktemp("esc10")
    recordings = make_tree(esc10, metadata, folder, EVAL_FOLD)
    return prepare_tree(folder), recordings


def test_a_detector_of_real_cries_beats_chance_on_recordings_that_it_never_met(
    tree: tuple[Path, dict[str, list[str]]], tmp_path: Path
) -> None:
    data, recordings = tree
    scores = train(data, tmp_path, "--num_train_epochs", EPOCHS)
    metrics = record(tmp_path)
    test = metrics["test"]
    assert [target["name"] for target in test["target"]] == [TARGET]
    assert not metrics["data"]["synthetic"]
    assert len(scores) == test["clips"] == test["positives"] + test["negatives"]
    assert test["positives"] >= 8
    share = test["baselines"]["chance"]["average_precision"]["mean"]
    assert share == pytest.approx(test["positives"] / test["clips"])
    assert test["scores"]["average_precision"]["mean"] > 1.5 * share
    assert metrics["training"]["composition"]["served"] == metrics["training"]["composition"]["planned"]
    members = json.loads((tmp_path / "splits.json").read_text())["trials"]
    heard, tested = (
        {recording for side in sides for clip in members[side] for recording in recordings[clip]}
        for sides in (("train", "validation"), ("test",))
    )
    assert heard
    assert tested
    assert not heard & tested


def test_what_is_wrong_with_the_files_is_counted(tree: tuple[Path, dict[str, list[str]]]) -> None:
    data, recordings = tree
    rows = load_dataset(str(data))
    assert len(rows["train"]) + len(rows["eval"]) == len(recordings)
    kinds = [defect["what"] for row in rows["train"].select_columns(["defects"]) for defect in row["defects"]]
    assert "clip_missing" in kinds
    assert "clip_too_short" in kinds
    assert not any(row["defects"] for row in rows["eval"].select_columns(["defects"]))
    missing = pq.read_table(next((data / "data").glob("train-*.parquet")))["audio"].null_count
    assert missing == kinds.count("clip_missing")

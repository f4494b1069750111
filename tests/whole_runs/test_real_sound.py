"""Real sound: ESC-10 in the format of AudioSet, from files to a detector that is scored on new recordings."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from benchmarks.esc10 import TARGET, Training
from benchmarks.esc10_tree import CLASSES, FOLDS, Recordings, make_tree, prepare_tree
from benchmarks.few_examples import COUNTS, DRAWS, drawn_groups, groups_with_target, weak_rows, with_few
from tests.helpers.programs import run
from tests.helpers.run_folders import record

pytestmark = pytest.mark.slow

EVAL_FOLD = FOLDS[-1]
EPOCHS = "6"  # of 30 in the config; scoring validation and test takes most of the time anyway


@pytest.fixture(scope="module")
def tree(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return the prepared data set and the group of each clip."""
    esc10, metadata = real_data / "esc10", real_data / "audioset" / "meta"
    if not esc10.is_dir() or not metadata.is_dir():
        pytest.skip(f"{esc10}, {metadata}: not found. Set FELTSOUND_REAL_DATA.")
    folder = tmp_path_factory.mktemp("esc10")
    groups = make_tree(Recordings.of(esc10, "recording"), metadata, folder, EVAL_FOLD)
    return prepare_tree(folder), groups


def test_a_detector_of_real_cries_beats_chance_on_new_recordings(
    tree: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data, groups = tree
    training = Training(TARGET, data, "scratch", 0, tmp_path, ("--num_train_epochs", EPOCHS))
    run(sys.executable, "run_train.py", *training.arguments())
    metrics = record(training.output)
    test = metrics["test"]
    assert [target["name"] for target in test["target"]] == [CLASSES[TARGET]]
    assert not metrics["data"]["synthetic"]
    scores = pq.read_table(training.output / "predictions.parquet")
    assert len(scores) == test["clips"] == test["positives"] + test["negatives"]
    assert test["baselines"]["mfcc_regression"]["average_precision"]["mean"] > share_of(test)
    assert test["positives"] >= 8
    share = test["baselines"]["chance"]["average_precision"]["mean"]
    assert share == pytest.approx(share_of(test))
    assert test["scores"]["average_precision"]["mean"] > 1.5 * share
    assert metrics["training"]["composition"]["served"] == metrics["training"]["composition"]["planned"]
    members = json.loads((training.output / "splits.json").read_text())["trials"]
    train, validation, tested = ({groups[clip] for clip in members[side]} for side in ("train", "validation", "test"))
    assert train
    assert validation
    assert tested
    assert not train & validation
    assert not (train | validation) & tested


def share_of(test: dict) -> float:
    return test["positives"] / test["clips"]


def test_defects_of_files_are_counted(tree: tuple[Path, dict[str, str]]) -> None:
    data, groups = tree
    rows = load_dataset(str(data))
    assert len(rows["train"]) + len(rows["eval"]) == len(groups)
    defects = [defect["what"] for row in rows["train"].select_columns(["defects"]) for defect in row["defects"]]
    assert "clip_missing" in defects
    assert "clip_too_short" in defects
    assert not any(row["defects"] for row in rows["eval"].select_columns(["defects"]))
    missing = pq.read_table(next((data / "data").glob("train-*.parquet")))["audio"].null_count
    assert missing == defects.count("clip_missing")


def test_few_recordings_with_the_target_are_kept_and_all_without_it(tree: tuple[Path, dict[str, str]]) -> None:
    data, groups = tree
    target_groups = groups_with_target(data.parent, TARGET)
    draws = {(count, draw): drawn_groups(target_groups, count, draw) for count in COUNTS for draw in range(DRAWS)}
    assert all(len(set(drawn)) == count and set(drawn) <= set(target_groups) for (count, _), drawn in draws.items())
    assert len({tuple(sorted(drawn)) for drawn in draws.values()}) > len(COUNTS)
    few = with_few(data.parent, TARGET, COUNTS[0], 0)
    kept = {clip for group in draws[COUNTS[0], 0] for clip in target_groups[group]}
    with_target = {clip for members in target_groups.values() for clip in members}
    everything = {clip for clip, _ in weak_rows(data.parent)}
    assert {clip for clip, _ in weak_rows(few.parent)} == (everything - with_target) | kept
    rows = load_dataset(str(few))
    assert set(rows["train"]["clip_id"]) == {clip for clip, _ in weak_rows(few.parent)}
    assert {groups[clip] for clip in kept} == set(draws[COUNTS[0], 0])

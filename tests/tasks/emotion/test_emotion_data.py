"""Test the data of the emotion task: the split, truncation, class weights, and checks of the settings."""

import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from launch.run import parse_run
from system.text import MISLEADING
from tasks.emotion import make_tokenizer
from tasks.emotion.data import SIDES
from tasks.emotion.records import SideCounts
from tasks.emotion.split import UtteranceSplit
from tasks.emotion.task import TASK, load_video_weights
from tests.conftest import REPOSITORY
from tests.helpers.emotion_rows import CONFIG, changed, in_three, prepare
from tests.helpers.tiny_fusion import TINY_BERT, tiny_model


def test_the_split_is_that_of_the_data_set_and_its_digest_does_not_depend_on_the_order(rows: datasets.Dataset) -> None:
    split = UtteranceSplit.of(in_three(rows), SIDES)
    record = split.record()
    assert record["counts"] == {"train": 6, "validation": 1, "test": 1}
    assert record["warning"] is None
    assert record["trials"]["validation"] == [rows[6]["utterance_id"]]
    reversed_rows = in_three(rows).select(range(len(rows) - 1, -1, -1))
    reversed_split = UtteranceSplit.of(reversed_rows, SIDES)
    assert reversed_split.sha256 == split.sha256 == record["sha256"]
    assert reversed_split.record() == record
    moved = changed(in_three(rows), 0, split="test")
    assert UtteranceSplit.of(moved, SIDES).sha256 != split.sha256


def test_missing_modalities_are_counted_by_split(rows: datasets.Dataset) -> None:
    split = UtteranceSplit.of(changed(in_three(rows), 7, has_audio=False), SIDES)
    assert split.sides["test"] == SideCounts(1, 1, {"text": 0, "video": 0, "audio": 1})


def test_a_dialogue_in_two_splits_gives_a_warning(rows: datasets.Dataset) -> None:
    _, _, data = prepare(changed(in_three(rows), 7, dialogue="train_dia0"))
    assert "1 dialogue " in data.record()["split_warning"]
    assert prepare(in_three(rows))[2].record()["split_warning"] is None


def test_an_empty_split_is_rejected_only_for_training(rows: datasets.Dataset) -> None:
    run = parse_run([CONFIG])
    processor = TASK.features(run)
    without_test = in_three(rows).select(range(7))
    with pytest.raises(ValueError, match="^hf_datasets/meld: .* split test"):
        TASK.prepare(without_test, processor, run)
    assert len(TASK.prepare(without_test, processor, run, saved={}).sides["all"]) == 7


def test_a_long_text_is_truncated_and_counted(rows: datasets.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.set_verbosity_error()
    long_text = changed(in_three(rows), 0, text="ferry " * 5000)
    with caplog.at_level(logging.WARNING):
        _, _, data = prepare(long_text)
    assert len(data.train[0]["input_ids"]) == 64
    assert data.record()["texts_cut"] == {"train": 1, "validation": 0, "test": 0, "all": 1}
    (message,) = [record.getMessage() for record in caplog.records if record.name == "tasks.emotion.data"]
    assert message.startswith("train: ")
    assert "1 text " in message
    assert "max_text_tokens=64" in message
    assert data.lengths.max() == 64


def test_a_batch_size_of_one_is_rejected(rows: datasets.Dataset) -> None:
    run, _, data = prepare(in_three(rows), "--per_device_train_batch_size", "1")
    with pytest.raises(ValueError, match="per_device_train_batch_size ?= ?1: "):
        TASK.sampler(data, run)


# Class weights


@pytest.mark.parametrize("name", ["root", "inverse"])
def test_class_weights_have_a_mean_of_1_over_training_utterances(rows: datasets.Dataset, name: str) -> None:
    labels = [0, 0, 0, 0, 1, 3, 2, 2]  # the first six are the training split, which lacks class 2
    table = in_three(rows).remove_columns("emotion").add_column("emotion", labels)
    table = table.cast_column("emotion", rows.features["emotion"])
    run, processor, data = prepare(table, "--class_weights", name)
    settings = TASK.model_settings(data, processor, run)
    weights = np.array(settings["emotion_weights"])
    assert (weights * [4, 1, 0, 1, 0, 0, 0]).sum() / 6 == pytest.approx(1)
    # Class 0 has four times the rows of classes 1 and 3, which therefore get this multiple of its weight.
    rare = {"inverse": 4.0, "root": 2.0}[name]
    share = 6 / (4 + 2 * rare)
    assert weights == pytest.approx([share, rare * share, 0, rare * share, 0, 0, 0])
    assert len(settings["sentiment_weights"]) == 3


def test_there_are_no_class_weights_by_default(rows: datasets.Dataset) -> None:
    run, processor, data = prepare(in_three(rows))
    settings = TASK.model_settings(data, processor, run)
    assert "emotion_weights" not in settings
    assert settings["text_config"]["model_type"] == "bert"


# Settings and weights that cannot be used


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--text_model", "{}/nothing"], "text_model='{}/nothing': .* Hub name"),
        (["--text_model", "{}/broken"], "text_model='{}/broken': .* Hub name"),
        (["--feature_config.crop_sizes", "3"], "'feature_config.crop_sizes'.*'feature_config.crop_size'"),
        (["--max_text_tokens", "65"], "max_text_tokens=65: .* 64"),
        (["--max_text_tokens", "2"], "max_text_tokens=2: .* 3"),
        (["--class_weights", "square"], "class_weights='square': .* none, root, inverse"),
        (["--learning_rates.text", "0"], "learning_rates.text=0: "),
        (["--learning_rates.text", "fast"], "learning_rates.text='fast': "),
        (["--metric_for_best_model", "f1"], "metric_for_best_model ?= ?'f1'.*emotion_weighted_f1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_an_invalid_setting_is_named_in_one_line(
    rows: datasets.Dataset, settings: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    settings = [text.replace("{}", str(tmp_path)) for text in settings]
    with pytest.raises((ValueError, SystemExit), match=message.replace("{}", str(tmp_path))) as error:
        run, processor, data = prepare(in_three(rows), *settings)
        TASK.model_settings(data, processor, run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "garbage", "empty", "other", "offline"])
def test_video_weights_that_cannot_be_loaded_are_named_in_one_line(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_offline(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail_offline)
    path = tmp_path / "weights.pt"
    if damage == "garbage":
        path.write_bytes(b"no weights" * 30)
    elif damage == "empty":
        path.touch()
    elif damage == "other":
        torch.save({"stem.0.weight": torch.zeros(2)}, path)
    source = "kinetics" if damage == "offline" else str(path)
    model = tiny_model(modalities=["video"], video_encoder="r3d_18")
    with pytest.raises(ValueError, match=f"video_weights='{source}': .* local path") as error:
        load_video_weights(model, source)
    assert "\n" not in str(error.value)
    assert not any(phrase in str(error.value) for phrase in MISLEADING)


def test_the_committed_tokenizer_is_what_its_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    make_tokenizer.main(["hf_datasets/meld", str(tmp_path)])
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        written, committed = (json.loads((folder / name).read_text()) for folder in (tmp_path, TINY_BERT))
        for settings in (written, committed):
            settings.pop("transformers_version", None)
        assert written == committed, name


def test_a_frozen_random_video_encoder_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(modalities=["video"], video_encoder="r3d_18", freeze_video=True)
    load_video_weights(model, "none")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "video_weights=none" in record.getMessage()
    assert "freeze_video=true" in record.getMessage()


def test_a_new_model_gets_the_weights_of_its_text_encoder(tmp_path: Path, rows: datasets.Dataset) -> None:
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(TINY_BERT))
    encoder.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY_BERT).save_pretrained(tmp_path)
    _, _, data = prepare(in_three(rows), "--text_model", str(tmp_path), "--model_config.modalities", '["text"]')
    model = tiny_model(modalities=["text"], text_pooling="mean")
    TASK.initialise(model, data, new=True, resumed=False)
    for name, weight in model.fusion.branches["text"].encoder.state_dict().items():
        assert torch.equal(weight, encoder.state_dict()[name]), name

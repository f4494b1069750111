"""Utterances divided into sides, weights of classes, and settings of encoders that cannot be."""

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


def test_the_split_is_that_of_the_data_and_its_digest_does_not_depend_on_order(rows: datasets.Dataset) -> None:
    split = UtteranceSplit.of(in_three(rows), SIDES)
    record = split.record()
    assert record["counts"] == {"train": 6, "validation": 1, "test": 1}
    assert record["warning"] is None
    assert record["trials"]["validation"] == [rows[6]["utterance_id"]]
    turned = in_three(rows).select(range(len(rows) - 1, -1, -1))
    again = UtteranceSplit.of(turned, SIDES)
    assert again.sha256 == split.sha256 == record["sha256"]
    assert again.record() == record
    moved = changed(in_three(rows), 0, split="test")
    assert UtteranceSplit.of(moved, SIDES).sha256 != split.sha256


def test_what_each_side_lacks_is_counted(rows: datasets.Dataset) -> None:
    split = UtteranceSplit.of(changed(in_three(rows), 7, has_audio=False), SIDES)
    assert split.sides["test"] == SideCounts(1, 1, {"text": 0, "video": 0, "audio": 1})


def test_a_dialogue_on_two_sides_is_warned_of(rows: datasets.Dataset) -> None:
    torn = changed(in_three(rows), 7, dialogue="train_dia0")
    _, _, data = prepare(torn)
    assert data.record()["split_warning"] == "utterances of 1 dialogue are on more than one side"
    assert prepare(in_three(rows))[2].record()["split_warning"] is None


def test_a_data_set_without_a_side_is_refused_for_training_alone(rows: datasets.Dataset) -> None:
    run = parse_run([CONFIG])
    processor = TASK.features(run)
    whole = in_three(rows).select(range(7))
    with pytest.raises(ValueError, match="no utterance on the side test; prepare it with all tables"):
        TASK.prepare(whole, processor, run)
    assert len(TASK.prepare(whole, processor, run, saved={}).sides["all"]) == 7


def test_a_text_of_5000_words_is_cut_and_counted(rows: datasets.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.set_verbosity_error()
    long = changed(in_three(rows), 0, text="ferry " * 5000)
    with caplog.at_level(logging.WARNING):
        _, _, data = prepare(long)
    assert len(data.train[0]["input_ids"]) == 64
    assert data.record()["texts_cut"] == {"train": 1, "validation": 0, "test": 0, "all": 1}
    assert "train: cut, for more than 64 tokens: 1 text" in caplog.text
    assert data.lengths.max() == 64


def test_a_batch_size_of_one_is_refused(rows: datasets.Dataset) -> None:
    run, _, data = prepare(in_three(rows), "--per_device_train_batch_size", "1")
    with pytest.raises(ValueError, match="per_device_train_batch_size = 1: BatchNorm has no variance of one item"):
        TASK.sampler(data, run)


# Weights of classes


@pytest.mark.parametrize("name", ["root", "inverse"])
def test_class_weights_have_a_mean_of_1_over_the_utterances_of_training(rows: datasets.Dataset, name: str) -> None:
    labels = [0, 0, 0, 0, 1, 3, 2, 2]  # of training the first six; class 2 is of the other sides alone
    table = in_three(rows).remove_columns("emotion").add_column("emotion", labels)
    table = table.cast_column("emotion", rows.features["emotion"])
    run, processor, data = prepare(table, "--class_weights", name)
    settings = TASK.model_settings(data, processor, run)
    weights = np.array(settings["emotion_weights"])
    assert (weights * [4, 1, 0, 1, 0, 0, 0]).sum() / 6 == pytest.approx(1)
    rare = {"inverse": 4.0, "root": 2.0}[name]  # a class with a quarter of another's rows weighs so much more
    share = 6 / (4 + 2 * rare)
    assert weights == pytest.approx([share, rare * share, 0, rare * share, 0, 0, 0])
    assert len(settings["sentiment_weights"]) == 3


def test_class_weights_are_none_unless_asked_for(rows: datasets.Dataset) -> None:
    run, processor, data = prepare(in_three(rows))
    settings = TASK.model_settings(data, processor, run)
    assert "emotion_weights" not in settings
    assert settings["text_config"]["model_type"] == "bert"


# What cannot be had


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--text_model", "{}/nothing"], "text_model = '{}/nothing' cannot be had .*a name on the Hub, which needs"),
        (["--text_model", "{}/broken"], "text_model = '{}/broken' cannot be had"),
        (
            ["--feature_config.crop_sizes", "3"],
            "unknown key 'feature_config.crop_sizes'; did you mean 'feature_config.crop_size'",
        ),
        (["--max_text_tokens", "65"], r"max_text_tokens = 65 is more than the text encoder takes \(64\); lower it"),
        (["--max_text_tokens", "2"], "max_text_tokens = 2: give 3 or more"),
        (["--class_weights", "square"], "class_weights = 'square' is not known; it takes one of none, root, inverse"),
        (["--learning_rates.text", "0"], "learning_rates.text=0: .* Give a number above 0"),
        (["--learning_rates.text", "fast"], "learning_rates.text='fast': .* Give a number above 0"),
        (["--metric_for_best_model", "f1"], "metric_for_best_model = 'f1' is not known.*emotion_weighted_f1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_is_named(rows: datasets.Dataset, settings: list, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    settings = [text.replace("{}", str(tmp_path)) for text in settings]
    with pytest.raises((ValueError, SystemExit), match=said.replace("{}", str(tmp_path))) as caught:
        run, processor, data = prepare(in_three(rows), *settings)
        TASK.model_settings(data, processor, run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "garbage", "empty", "other", "offline"])
def test_video_weights_that_cannot_be_had_are_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    path = tmp_path / "weights.pt"
    if kind == "garbage":
        path.write_bytes(b"no weights" * 30)
    elif kind == "empty":
        path.touch()
    elif kind == "other":
        torch.save({"stem.0.weight": torch.zeros(2)}, path)
    source = "kinetics" if kind == "offline" else str(path)
    model = tiny_model(modalities=["video"], video_encoder="r3d_18")
    with pytest.raises(ValueError, match=f"video_weights = '{source}' cannot be had .*local folder or file") as caught:
        load_video_weights(model, source)
    assert "\n" not in str(caught.value)
    assert not any(words in str(caught.value) for words in MISLEADING)


def test_the_tokenizer_of_the_sample_is_what_its_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    make_tokenizer.main(["hf_datasets/meld", str(tmp_path)])
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        made, kept = (json.loads((folder / name).read_text()) for folder in (tmp_path, TINY_BERT))
        for record in (made, kept):
            record.pop("transformers_version", None)
        assert made == kept, name


def test_a_random_encoder_that_stays_so_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(modalities=["video"], video_encoder="r3d_18", freeze_video=True)
    load_video_weights(model, "none")
    assert "the video encoder is random and stays so" in caplog.text


def test_the_text_encoder_takes_the_weights_of_its_folder(tmp_path: Path, rows: datasets.Dataset) -> None:
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(TINY_BERT))
    encoder.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(TINY_BERT).save_pretrained(tmp_path)
    _, _, data = prepare(in_three(rows), "--text_model", str(tmp_path), "--model_config.modalities", '["text"]')
    model = tiny_model(modalities=["text"], text_pooling="mean")
    TASK.initialise(model, data, new=True, resumed=False)
    for name, weight in model.fusion.branches["text"].encoder.state_dict().items():
        assert torch.equal(weight, encoder.state_dict()[name]), name

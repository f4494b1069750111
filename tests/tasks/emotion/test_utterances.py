"""Utterances as training items: masks for what is not there, cached encoders, class weights, and who is where."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hf_datasets.meld.synthetic_clips import show, sing, write_clip
from launch.run import parse_run
from modeling import FusionForEmotion, FusionProcessor
from modeling.configuration_fusion import INPUTS
from tasks.emotion import make_tokenizer
from tasks.emotion.data import SIDES, EmotionData
from tasks.emotion.items import UtteranceDataset, cache_features
from tasks.emotion.records import SideCounts
from tasks.emotion.split import UtteranceSplit
from tasks.emotion.task import TASK, load_video_weights
from tests.conftest import REPOSITORY
from tests.helpers.tiny_fusion import TINY_BERT, tiny_model, tiny_processor
from training.collators import PaddingCollator
from training.samplers import LengthGroupedSampler
from training.task import Run

MODALITIES = ("text", "video", "audio")
CONFIG = "configs/meld_sample.json"
MASKS = {name: mask for name, (_, mask) in INPUTS.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """The first utterances of the sample, whose cache is this run's own."""
    folder, cache = str(REPOSITORY / "hf_datasets/meld"), str(tmp_path_factory.mktemp("cache"))
    return datasets.load_dataset(folder, "sample", split="train", cache_dir=cache).select(range(8))


@pytest.fixture(scope="module")
def processor() -> FusionProcessor:
    """Of tiny models."""
    return tiny_processor()


def changed(rows: datasets.Dataset, place: int, **cells: object) -> datasets.Dataset:
    """The rows, one of them with other cells."""
    table = [dict(row) for row in rows]
    table[place] |= cells
    return datasets.Dataset.from_list(table, features=rows.features)


def dataset_of(rows: datasets.Dataset, processor: FusionProcessor, **settings: Any) -> UtteranceDataset:
    """Items of some rows."""
    return UtteranceDataset(rows, processor, **{"modalities": MODALITIES, "max_text_tokens": 32} | settings)


def there(item: dict[str, torch.Tensor]) -> dict[str, bool]:
    """Which modalities an item has."""
    return {name: bool(item[mask].any()) for name, mask in MASKS.items() if mask in item}


def logits_of(model: FusionForEmotion, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, emotions + sentiments)."""
    given = {name: value for name, value in batch.items() if name not in ("labels", "undecodable")}
    with torch.inference_mode():
        output = model.eval()(**given)
    return torch.cat([output.emotion_logits, output.sentiment_logits], 1)


# Items and batches


def test_an_item_has_no_batch_dimension(rows: datasets.Dataset, processor: FusionProcessor) -> None:
    item = dataset_of(rows, processor)[0]
    tokens, frames = len(item["input_ids"]), len(item["input_features"])
    assert {name: tuple(value.shape) for name, value in item.items()} == {
        "input_ids": (tokens,), "attention_mask": (tokens,), "pixel_values": (3, 4, 16, 16), "frame_mask": (4,),
        "input_features": (frames, 8), "features_mask": (frames,), "labels": (2,), "undecodable": (),
    }  # fmt: skip
    assert item["labels"].tolist() == [rows[0]["emotion"], rows[0]["sentiment"]]
    assert 4 < tokens < 32
    assert frames > 10
    assert not item["undecodable"]
    assert all(there(item).values())


def test_a_seed_beside_the_index_changes_nothing(rows: datasets.Dataset, processor: FusionProcessor) -> None:
    dataset = dataset_of(rows, processor)
    for name, value in dataset[3, 12345].items():
        assert torch.equal(value, dataset[3][name]), name


def test_a_batch_is_padded_to_its_longest_and_padding_changes_no_answer(
    rows: datasets.Dataset, processor: FusionProcessor
) -> None:
    dataset, model = dataset_of(rows, processor), tiny_model(fusion="attention")
    items, collate = [dataset[index] for index in range(len(rows))], PaddingCollator(pad_token_id=7)
    batch = collate(items)
    longest = max(len(item["input_ids"]) for item in items)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (8, longest)
    for place, item in enumerate(items):
        length = len(item["input_ids"])
        assert torch.equal(batch["input_ids"][place, :length], item["input_ids"])
        assert (batch["input_ids"][place, length:] == 7).all()
        assert not batch["attention_mask"][place, length:].any()
        heard = len(item["features_mask"])
        assert torch.equal(batch["input_features"][place, :heard], item["input_features"])
        assert not batch["input_features"][place, heard:].any()
        assert not batch["features_mask"][place, heard:].any()
    assert len({len(item["input_ids"]) for item in items}) > 1
    assert len({len(i["features_mask"]) for i in items}) > 1
    alone = torch.cat([logits_of(model, collate([item])) for item in items])
    torch.testing.assert_close(logits_of(model, batch), alone, atol=1e-5, rtol=1e-5)


def test_a_text_of_5000_words_is_cut_and_counted(rows: datasets.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.set_verbosity_error()
    long = changed(in_three(rows), 0, text="ferry " * 5000)
    with caplog.at_level(logging.WARNING):
        _, _, data = prepare(long)
    assert len(data.train[0]["input_ids"]) == 64
    assert data.record()["texts_cut"] == {"train": 1, "validation": 0, "test": 0, "all": 1}
    assert "train: 1 texts have more than 64 tokens and are cut" in caplog.text
    assert data.lengths.max() == 64


# What is not there


@pytest.mark.parametrize(
    ("cells", "has", "undecodable"),
    [
        ({"text": "", "has_text": False}, ("video", "audio"), False),
        ({"has_audio": False}, ("text", "video"), False),
        ({"has_video": False}, ("text", "audio"), False),
        ({"clip": None, "has_video": False, "has_audio": False}, ("text",), False),
        ({"clip": None}, ("text",), True),
        ({"clip": {"bytes": b"this is no clip" * 50, "path": None}}, ("text",), True),
        ({"clip": {"bytes": b"", "path": None}}, ("text",), True),
        ({"clip": {"bytes": None, "path": "/nowhere/dia0_utt0.mp4"}}, ("text",), True),
        # what a row says to be unusable, as a clip of minutes for a row of seconds, is not even opened
        ({"clip": {"bytes": b"x", "path": None}, "has_video": False, "has_audio": False}, ("text",), False),
        ({"text": None, "has_text": False, "clip": None, "has_video": False, "has_audio": False}, (), False),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_what_a_row_lacks_is_a_mask_of_zeros_and_no_row_is_dropped(
    rows: datasets.Dataset,
    processor: FusionProcessor,
    cells: dict,
    has: tuple[str, ...],
    undecodable: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = dataset_of(changed(rows, 3, **cells), processor)
    item = dataset[3]
    assert {name for name, found in there(item).items() if found} == set(has)
    assert bool(item["undecodable"]) is undecodable
    assert (rows[3]["utterance_id"] in caplog.text) is undecodable
    batch = PaddingCollator(0)([dataset[index] for index in range(len(rows))])
    assert len(batch["labels"]) == len(rows)
    assert all(value.isfinite().all() for value in batch.values())
    assert logits_of(tiny_model(), batch).isfinite().all()


def test_a_clip_without_the_sound_or_the_picture_that_its_row_promises_is_undecodable(
    rows: datasets.Dataset, processor: FusionProcessor, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pictures, sound = show(random, "joy", 0.5), sing(random, "joy", 0.5)
    parts = {"mute": (pictures, None), "blind": (None, sound), "no_frame": (pictures[:0], sound)}
    for (name, clip), lacks in zip(parts.items(), ("audio", "video", "video"), strict=True):
        write_clip(tmp_path / f"{name}.mp4", *clip)
        cells = {"clip": {"bytes": None, "path": str(tmp_path / f"{name}.mp4")}}
        item = dataset_of(changed(rows, 1, **cells), processor)[1]
        assert item["undecodable"]
        assert [one for one, found in there(item).items() if not found] == [lacks]
        item = dataset_of(changed(rows, 1, **cells, **{f"has_{lacks}": False}), processor)[1]
        assert not item["undecodable"]
        assert [one for one, found in there(item).items() if not found] == [lacks]


@pytest.mark.parametrize("hidden", MODALITIES)
def test_a_hidden_modality_is_as_if_it_were_not_there(
    rows: datasets.Dataset, processor: FusionProcessor, hidden: str
) -> None:
    item = dataset_of(rows, processor, hidden=frozenset({hidden}))[0]
    assert [name for name, found in there(item).items() if not found] == [hidden]
    assert not item["undecodable"]
    lacking = changed(rows, 0, **{f"has_{hidden}": False})
    batches = [PaddingCollator(0)([one]) for one in (item, dataset_of(lacking, processor)[0])]
    model = tiny_model(learned_absent=True)
    assert torch.equal(logits_of(model, batches[0]), logits_of(model, batches[1]))
    whole = PaddingCollator(0)([dataset_of(rows, processor)[0]])
    assert not torch.allclose(logits_of(model, whole), logits_of(model, batches[0]))


def test_files_are_named_only_where_they_will_be_read(rows: datasets.Dataset, processor: FusionProcessor) -> None:
    far = changed(rows, 0, clip={"bytes": None, "path": "s3://bucket/dia0_utt0.mp4"})
    assert dataset_of(far, processor).files_of((0, 5)) == ["s3://bucket/dia0_utt0.mp4"]
    assert dataset_of(far, processor).files_of(1) == []  # its bytes are in the row
    assert dataset_of(far, processor, modalities=("text",)).files_of(0) == []
    assert dataset_of(far, processor, cached=far).files_of(0) == []


# Caching what frozen encoders make


FROZEN = {"freeze_text": True, "freeze_video": True}


@pytest.mark.parametrize("freeze_audio", [False, True])
def test_cached_features_give_the_same_answers(
    rows: datasets.Dataset, processor: FusionProcessor, freeze_audio: bool
) -> None:
    spoilt = changed(changed(rows, 1, text="", has_text=False), 4, clip={"bytes": b"garbage" * 9, "path": None})
    model = tiny_model(freeze_audio_conv=freeze_audio, learned_absent=True, **FROZEN)
    plain = dataset_of(spoilt, processor)
    cached = dataset_of(spoilt, processor, cached=cache_features(plain, model))
    assert not model.training
    one, other = (PaddingCollator(0)([each[index] for index in range(len(rows))]) for each in (plain, cached))
    assert "pixel_values" not in other
    assert "input_ids" not in other
    assert ("input_features" in other) is not freeze_audio
    for name in ("labels", "undecodable", *MASKS.values()):
        assert torch.equal(one[name], other[name]), name
    assert one["undecodable"].tolist() == [index == 4 for index in range(len(rows))]
    torch.testing.assert_close(logits_of(model, other), logits_of(model, one), atol=1e-5, rtol=1e-5)
    hidden = [replace_hidden(each, "video")[0] for each in (plain, cached)]
    answers = [logits_of(model, PaddingCollator(0)([item])) for item in hidden]
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


def replace_hidden(dataset: UtteranceDataset, hidden: str) -> UtteranceDataset:
    """The same items without a modality."""
    settings = {"hidden": frozenset({hidden}), "cached": dataset.cached}
    return dataset_of(dataset.rows, dataset.processor, **settings)


def test_a_cache_is_found_again_until_something_changes_that_it_depends_on(
    rows: datasets.Dataset, processor: FusionProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = UtteranceDataset.read, []
    monkeypatch.setattr(UtteranceDataset, "read", lambda self, index: reads.append(index) or read(self, index))

    def made(model: FusionForEmotion, rows: datasets.Dataset = rows, **settings: Any) -> tuple[str, int]:
        """Name of the cache, and how many rows were read for it."""
        reads.clear()
        table = cache_features(dataset_of(rows, processor, **settings), model)
        return table._fingerprint, len(reads)

    with torch.no_grad():
        model = tiny_model(**FROZEN)
        bias = model.fusion.branches["video"].encoder[1].bias
        first, count = made(model)
        assert count == len(rows)
        assert made(model) == (first, 0)
        model.emotion[0].weight += 1  # what comes after the frozen encoders has no part in it
        assert made(model) == (first, 0)
        names = {first}
        bias += 1
        names.add(made(model)[0])
        model.fusion.branches["text"].encoder.embeddings.word_embeddings.weight += 1
        names.add(made(model)[0])
        names.add(made(model, max_text_tokens=16)[0])
        names.add(made(model, rows=rows.select(range(4)))[0])
        assert len(names) == 5


def test_the_task_caches_every_side_in_a_copy_of_the_data(rows: datasets.Dataset) -> None:
    model = tiny_model(num_mel_bins=64, **FROZEN)
    _, _, data = prepare(in_three(rows), "--cache_features", "true")
    cached = TASK.cache(data, model)
    assert {name for name, side in cached.sides.items() if side.cached is not None} == set(SIDES)
    assert all(side.cached is None for side in data.sides.values())
    for name in SIDES:
        one, other = data.sides[name][0], cached.sides[name][0]
        assert {"pixel_values", "input_ids"} <= one.keys() - other.keys()
        assert {"text_features", "video_features"} <= other.keys()
        assert torch.equal(one["input_features"], other["input_features"])
    _, _, plain = prepare(in_three(rows))
    assert TASK.cache(plain, model) is plain


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"freeze_text": True, "freeze_video": False}, "the video encoder is trained.*freeze_video true"),
        ({"freeze_text": False, "freeze_video": False, "modalities": ["text", "audio"]}, "no encoder is frozen"),
    ],
    ids=str,
)
def test_a_cache_that_would_be_of_no_use_is_refused(rows: datasets.Dataset, settings: dict, said: str) -> None:
    keys = [f"--model_config.{key}={json.dumps(value)}" for key, value in settings.items()]
    _, _, data = prepare(in_three(rows), "--cache_features", "true", *keys)
    model = tiny_model(num_mel_bins=64, **settings)
    with pytest.raises(ValueError, match=f"cache_features: .*{said}"):
        TASK.cache(data, model)


# Order


@given(st.integers(2, 200), st.integers(2, 17), st.integers(0, 5))
def test_no_batch_has_fewer_items_than_asked_and_others_are_left_out_each_epoch(
    count: int, size: int, epoch: int
) -> None:
    sampler = LengthGroupedSampler(np.arange(count) % 7, size, 0, smallest_batch=2)
    sampler.set_epoch(epoch)
    drawn = [index for index, _ in sampler]
    batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    assert all(len(batch) >= 2 for batch in batches)
    assert len(drawn) == len(set(drawn)) == len(sampler) == count - (count % size == 1)
    unasked = LengthGroupedSampler(np.arange(count) % 7, size, 0)
    unasked.set_epoch(epoch)
    assert [index for index, _ in unasked][: len(drawn)] == drawn
    assert len(unasked) == count


def test_which_item_is_left_out_changes() -> None:
    sampler = LengthGroupedSampler(np.ones(33), 16, 0, smallest_batch=2)
    left_out = set()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        left_out |= set(range(33)) - {index for index, _ in sampler}
    assert len(left_out) > 15


@given(st.integers(2, 120), st.integers(2, 9), st.integers(2, 3))
def test_several_processes_are_served_each_item_once_a_step(count: int, size: int, world: int) -> None:
    """As Accelerate divides the batches; the last of an epoch are filled up, from its beginning."""
    sampler = LengthGroupedSampler(np.arange(count) % 7, size, 0, smallest_batch=2)
    batches = BatchSampler(sampler, size, drop_last=False)
    ranks = [list(BatchSamplerShard(batches, num_processes=world, process_index=rank)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step in zip(*ranks, strict=True):
        served = [index for batch in step for index, _ in batch]
        assert all(len(batch) == len(step[0]) >= 2 for batch in step)
        assert len(set(served)) == len(served) or count < world * size
    everything = {index for rank in ranks for batch in rank for index, _ in batch}
    assert len(everything) == len(sampler)


def test_a_batch_size_of_one_is_refused(rows: datasets.Dataset) -> None:
    run, _, data = prepare(in_three(rows), "--per_device_train_batch_size", "1")
    with pytest.raises(ValueError, match="per_device_train_batch_size = 1: BatchNorm has no variance of one item"):
        TASK.sampler(data, run)


# Sides


def in_three(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with their sides anew: six of training, one of each other side, each in its own dialogue."""
    sides = ["train"] * (len(rows) - 2) + ["dev", "test"]
    dialogues = [f"{side}_dia0" for side in sides]
    rows = rows.remove_columns(["split", "dialogue"])
    return rows.add_column("split", sides).add_column("dialogue", dialogues)


def prepare(rows: datasets.Dataset, *settings: str) -> tuple[Run, FusionProcessor, EmotionData]:
    """A run of the sample's config and its data."""
    run = parse_run([CONFIG, *settings])
    processor = TASK.features(run)
    return run, processor, TASK.prepare(rows, processor, run)


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
    assert data.record()["split_warning"] == "1 dialogues have utterances on more than one side"
    assert prepare(in_three(rows))[2].record()["split_warning"] is None


def test_a_data_set_without_a_side_is_refused_for_training_alone(rows: datasets.Dataset) -> None:
    run = parse_run([CONFIG])
    processor = TASK.features(run)
    whole = in_three(rows).select(range(7))
    with pytest.raises(ValueError, match="no utterance on the side test; prepare it with all tables"):
        TASK.prepare(whole, processor, run)
    assert len(TASK.prepare(whole, processor, run, saved={}).sides["all"]) == 7


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
        (["--learning_rates.text", "0"], "learning_rates.text = 0: give a number above 0"),
        (["--learning_rates.text", "fast"], "learning_rates.text = 'fast': give a number above 0"),
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


def test_the_tokenizer_of_the_sample_is_what_its_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("sys.argv", ["make_tokenizer", "hf_datasets/meld", str(tmp_path)])
    make_tokenizer.main()
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

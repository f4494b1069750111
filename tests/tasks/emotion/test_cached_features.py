"""What frozen encoders make of utterances, kept on the disk."""

import json
from typing import Any

import datasets
import pytest
import torch

from modeling import FusionForEmotion, FusionProcessor
from modeling.configuration_fusion import INPUTS
from tasks.emotion import items
from tasks.emotion.data import SIDES
from tasks.emotion.items import UtteranceDataset, cache_features
from tasks.emotion.task import TASK
from tests.helpers.emotion_rows import changed, dataset_of, in_three, logits_of, prepare
from tests.helpers.tiny_fusion import tiny_model
from training.collators import PaddingCollator

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
    for name in ("labels", "undecodable", *(mask for _, mask in INPUTS.values())):
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
        monkeypatch.setattr(items, "CACHE_VERSION", items.CACHE_VERSION + 1)
        names.add(made(model)[0])
        assert len(names) == 6


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

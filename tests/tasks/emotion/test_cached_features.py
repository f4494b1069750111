"""Test the on-disk cache of frozen encoder outputs."""

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
def test_cached_features_give_the_same_predictions(
    rows: datasets.Dataset, processor: FusionProcessor, freeze_audio: bool
) -> None:
    # Row 1 lacks text, and the clip of row 4 cannot be decoded.
    defective = changed(changed(rows, 1, text="", has_text=False), 4, clip={"bytes": b"garbage" * 9, "path": None})
    model = tiny_model(freeze_audio_conv=freeze_audio, learned_absent=True, **FROZEN)
    plain = dataset_of(defective, processor)
    cached = dataset_of(defective, processor, cached=cache_features(plain, model))
    assert not model.training
    plain_batch, cached_batch = (
        PaddingCollator(0)([dataset[index] for index in range(len(rows))]) for dataset in (plain, cached)
    )
    assert "pixel_values" not in cached_batch
    assert "input_ids" not in cached_batch
    assert ("input_features" in cached_batch) is not freeze_audio
    for name in ("labels", "undecodable", *(mask for _, mask in INPUTS.values())):
        assert torch.equal(plain_batch[name], cached_batch[name]), name
    assert plain_batch["undecodable"].tolist() == [index == 4 for index in range(len(rows))]
    torch.testing.assert_close(logits_of(model, cached_batch), logits_of(model, plain_batch), atol=1e-5, rtol=1e-5)
    without_video = [hide_modality(dataset, "video")[0] for dataset in (plain, cached)]
    logits = [logits_of(model, PaddingCollator(0)([item])) for item in without_video]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def hide_modality(dataset: UtteranceDataset, hidden: str) -> UtteranceDataset:
    settings = {"hidden": frozenset({hidden}), "cached": dataset.cached}
    return dataset_of(dataset.rows, dataset.processor, **settings)


def test_a_cache_is_reused_until_the_data_the_settings_or_frozen_weights_change(
    rows: datasets.Dataset, processor: FusionProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = UtteranceDataset.read, []
    monkeypatch.setattr(UtteranceDataset, "read", lambda self, index: reads.append(index) or read(self, index))

    def build_cache(model: FusionForEmotion, rows: datasets.Dataset = rows, **settings: Any) -> tuple[str, int]:
        """Return the fingerprint of the cache, and the number of rows that were read to build it."""
        reads.clear()
        table = cache_features(dataset_of(rows, processor, **settings), model)
        return table._fingerprint, len(reads)

    with torch.no_grad():
        model = tiny_model(**FROZEN)
        bias = model.fusion.branches["video"].encoder[1].bias
        first, count = build_cache(model)
        assert count == len(rows)
        assert build_cache(model) == (first, 0)
        model.emotion[0].weight += 1  # not a frozen encoder, so it is not part of the cache key
        assert build_cache(model) == (first, 0)
        fingerprints = {first}
        bias += 1
        fingerprints.add(build_cache(model)[0])
        model.fusion.branches["text"].encoder.embeddings.word_embeddings.weight += 1
        fingerprints.add(build_cache(model)[0])
        fingerprints.add(build_cache(model, max_text_tokens=16)[0])
        fingerprints.add(build_cache(model, rows=rows.select(range(4)))[0])
        monkeypatch.setattr(items, "CACHE_VERSION", items.CACHE_VERSION + 1)
        fingerprints.add(build_cache(model)[0])
        assert len(fingerprints) == 6


def test_the_task_caches_every_split_in_a_copy_of_the_data(rows: datasets.Dataset) -> None:
    model = tiny_model(num_mel_bins=64, **FROZEN)
    _, _, data = prepare(in_three(rows), "--cache_features", "true")
    cached = TASK.cache(data, model)
    assert {name for name, side in cached.sides.items() if side.cached is not None} == set(SIDES)
    assert all(side.cached is None for side in data.sides.values())
    for name in SIDES:
        plain_item, cached_item = data.sides[name][0], cached.sides[name][0]
        assert {"pixel_values", "input_ids"} <= plain_item.keys() - cached_item.keys()
        assert {"text_features", "video_features"} <= cached_item.keys()
        assert torch.equal(plain_item["input_features"], cached_item["input_features"])
    _, _, uncached = prepare(in_three(rows))
    assert TASK.cache(uncached, model) is uncached


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_text": True, "freeze_video": False}, "model_config.freeze_video=true"),
        ({"freeze_text": False, "freeze_video": False, "modalities": ["text", "audio"]}, "no encoder"),
    ],
    ids=str,
)
def test_a_useless_cache_is_rejected(rows: datasets.Dataset, settings: dict, message: str) -> None:
    keys = [f"--model_config.{key}={json.dumps(value)}" for key, value in settings.items()]
    _, _, data = prepare(in_three(rows), "--cache_features", "true", *keys)
    model = tiny_model(num_mel_bins=64, **settings)
    with pytest.raises(ValueError, match=f"cache_features=true: .*{message}"):
        TASK.cache(data, model)

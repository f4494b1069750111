"""Test the items of the emotion task: inputs, batches, and masks for missing modalities."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from hf_datasets.meld.synthetic_clips import show, sing, write_clip
from modeling import FusionProcessor
from modeling.configuration_fusion import INPUTS
from tests.helpers.emotion_rows import MODALITIES, changed, dataset_of, logits_of
from tests.helpers.tiny_fusion import tiny_model
from training.collators import PaddingCollator

MASKS = {name: mask for name, (_, mask) in INPUTS.items()}


def present_modalities(item: dict[str, torch.Tensor]) -> dict[str, bool]:
    """Return whether the item has each modality, by its mask."""
    return {name: bool(item[mask].any()) for name, mask in MASKS.items() if mask in item}


def missing_modalities(item: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, present in present_modalities(item).items() if not present]


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
    assert all(present_modalities(item).values())


def test_the_seed_of_an_index_has_no_effect(rows: datasets.Dataset, processor: FusionProcessor) -> None:
    dataset = dataset_of(rows, processor)
    for name, value in dataset[3, 12345].items():
        assert torch.equal(value, dataset[3][name]), name


def test_batches_are_padded_and_padding_does_not_change_predictions(
    rows: datasets.Dataset, processor: FusionProcessor
) -> None:
    dataset, model = dataset_of(rows, processor), tiny_model(fusion="attention")
    items, collate = [dataset[index] for index in range(len(rows))], PaddingCollator(pad_token_id=7)
    batch = collate(items)
    longest = max(len(item["input_ids"]) for item in items)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (8, longest)
    for index, item in enumerate(items):
        tokens, frames = len(item["input_ids"]), len(item["features_mask"])
        assert torch.equal(batch["input_ids"][index, :tokens], item["input_ids"])
        assert (batch["input_ids"][index, tokens:] == 7).all()
        assert not batch["attention_mask"][index, tokens:].any()
        assert torch.equal(batch["input_features"][index, :frames], item["input_features"])
        assert not batch["input_features"][index, frames:].any()
        assert not batch["features_mask"][index, frames:].any()
    # The items differ in both lengths, so there is padding to test.
    assert len({len(item["input_ids"]) for item in items}) > 1
    assert len({len(item["features_mask"]) for item in items}) > 1
    alone = torch.cat([logits_of(model, collate([item])) for item in items])
    torch.testing.assert_close(logits_of(model, batch), alone, atol=1e-5, rtol=1e-5)


# Missing modalities


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
        # A clip that the row declares unusable, for example because its length is wrong, is not opened.
        ({"clip": {"bytes": b"x", "path": None}, "has_video": False, "has_audio": False}, ("text",), False),
        ({"text": None, "has_text": False, "clip": None, "has_video": False, "has_audio": False}, (), False),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_a_missing_modality_has_a_mask_of_zeros_and_no_row_is_dropped(
    rows: datasets.Dataset,
    processor: FusionProcessor,
    cells: dict,
    has: tuple[str, ...],
    undecodable: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = dataset_of(changed(rows, 3, **cells), processor)
    item = dataset[3]
    assert {name for name, present in present_modalities(item).items() if present} == set(has)
    assert bool(item["undecodable"]) is undecodable
    assert (rows[3]["utterance_id"] in caplog.text) is undecodable
    batch = PaddingCollator(0)([dataset[index] for index in range(len(rows))])
    assert len(batch["labels"]) == len(rows)
    assert all(value.isfinite().all() for value in batch.values())
    assert logits_of(tiny_model(), batch).isfinite().all()


def test_a_clip_without_a_stream_that_its_row_claims_is_undecodable(
    rows: datasets.Dataset, processor: FusionProcessor, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    frames, sound = show(random, "joy", 0.5), sing(random, "joy", 0.5)
    streams = {"without_audio": (frames, None), "without_video": (None, sound), "without_frames": (frames[:0], sound)}
    for (name, clip), missing in zip(streams.items(), ("audio", "video", "video"), strict=True):
        write_clip(tmp_path / f"{name}.mp4", *clip)
        cells = {"clip": {"bytes": None, "path": str(tmp_path / f"{name}.mp4")}}
        item = dataset_of(changed(rows, 1, **cells), processor)[1]
        assert item["undecodable"]
        assert missing_modalities(item) == [missing]
        item = dataset_of(changed(rows, 1, **cells, **{f"has_{missing}": False}), processor)[1]
        assert not item["undecodable"]
        assert missing_modalities(item) == [missing]


@pytest.mark.parametrize("hidden", MODALITIES)
def test_a_hidden_modality_equals_a_missing_one(
    rows: datasets.Dataset, processor: FusionProcessor, hidden: str
) -> None:
    item = dataset_of(rows, processor, hidden=frozenset({hidden}))[0]
    assert missing_modalities(item) == [hidden]
    assert not item["undecodable"]
    lacking = changed(rows, 0, **{f"has_{hidden}": False})
    hidden_batch = PaddingCollator(0)([item])
    lacking_batch = PaddingCollator(0)([dataset_of(lacking, processor)[0]])
    model = tiny_model(learned_absent=True)
    assert torch.equal(logits_of(model, hidden_batch), logits_of(model, lacking_batch))
    complete_batch = PaddingCollator(0)([dataset_of(rows, processor)[0]])
    assert not torch.allclose(logits_of(model, complete_batch), logits_of(model, hidden_batch))


def test_only_files_that_will_be_read_are_prefetched(rows: datasets.Dataset, processor: FusionProcessor) -> None:
    remote = changed(rows, 0, clip={"bytes": None, "path": "s3://bucket/dia0_utt0.mp4"})
    assert dataset_of(remote, processor).files_of((0, 5)) == ["s3://bucket/dia0_utt0.mp4"]
    assert dataset_of(remote, processor).files_of(1) == []  # the bytes are in the row
    assert dataset_of(remote, processor, modalities=("text",)).files_of(0) == []
    assert dataset_of(remote, processor, cached=remote).files_of(0) == []

"""`EmbeddingBatches` reads the batches of `write_batches`, checks them, and can be trained on."""

import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_datasets.tunein.read_batches import EmbeddingBatches
from hf_datasets.tunein.write_batches import Settings, write_batches
from tests.conftest import REPOSITORY
from tests.helpers.raw_trees.tunein import read_batches


def assert_as_written(batches: EmbeddingBatches, written: list) -> None:
    loaded = list(DataLoader(batches, batch_size=None))
    assert len(loaded) == len(batches) == len(written)
    for batch, (ids, tensors) in zip(loaded, written, strict=True):
        assert batch.pop("creative_ids") == ids
        assert batch.keys() == tensors.keys()
        for name, values in tensors.items():
            np.testing.assert_array_equal(batch[name].numpy(), values)


def test_batches_are_read_as_they_were_written(damaged, tmp_path):
    write_batches(damaged, tmp_path, Settings(batch_size=7))
    assert_as_written(EmbeddingBatches(str(tmp_path)), read_batches(tmp_path))


def test_batches_on_s3_are_read_as_from_a_folder(damaged, tmp_path, s3):
    write_batches(damaged, tmp_path, Settings(batch_size=64))
    s3.put_folder(tmp_path, "s3://lab/batches")
    assert_as_written(EmbeddingBatches("s3://lab/batches"), read_batches(tmp_path))


def test_unfinished_and_damaged_batches_are_an_error(damaged, tmp_path):
    with pytest.raises(ValueError, match=f"data_dir={re.escape(str(tmp_path))}: .*latest_embeddings/manifest.json"):
        EmbeddingBatches(str(tmp_path))
    write_batches(damaged, tmp_path)
    path = tmp_path / "latest_embeddings" / "batch_00001_00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    batches = EmbeddingBatches(str(tmp_path))
    assert len(batches[1]["targets"]) == 16
    with pytest.raises(ValueError, match=r"batch_00001_00002\.safetensors: .*manifest\.json"):
        batches[2]


def test_the_training_loop_of_the_card_learns(tmp_path, monkeypatch):
    card = (REPOSITORY / "hf_datasets/tunein/README.md").read_text(encoding="utf-8")
    (loop,) = (code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "EmbeddingBatches" in code)
    write_batches(REPOSITORY / "hf_datasets/tunein", tmp_path / "batches")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(loop, scope)
    targets = torch.cat([batch["targets"] for batch in scope["batches"]])
    assert len(scope["losses"]) == 5
    assert scope["losses"][-1] < 0.9 * targets.var().item()  # the variance is the loss of the best constant
    assert scope["losses"] == sorted(scope["losses"], reverse=True)

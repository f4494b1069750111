"""Read the batches that `write_batches` made, to train on: a `Dataset` of whole batches, from a folder or from S3."""

import hashlib
import json
from typing import Any

from safetensors.torch import load
from torch.utils.data import Dataset

from system.storage import S3FileManager

from ..output import place
from .write_batches import FOLDER, MANIFEST


class EmbeddingBatches(Dataset[dict[str, Any]]):
    """Batches in the order of the manifest, each a dict of the tensors that `write_batches` describes and its ids.

    A `DataLoader` takes it with `batch_size=None`. A file that is not the one in the manifest is a ValueError.
    """

    def __init__(self, data_dir: str) -> None:
        """`data_dir` is the --output_dir of `write_batches`."""
        source = place(data_dir, "data_dir")
        text = source.read_text(f"{FOLDER}/{MANIFEST}")
        if text is None:
            raise ValueError(f"data_dir={source}: no {FOLDER}/{MANIFEST}. Let hf_datasets.tunein.write_batches end.")
        self.manifest: dict[str, Any] = json.loads(text)
        self.files = [source.where(f"{FOLDER}/{entry['file']}") for entry in self.manifest["batches"]]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        entry = self.manifest["batches"][number]
        data = S3FileManager.shared().read_bytes(self.files[number])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{self.files[number]}: not the bytes in {MANIFEST}. Run write_batches again.")
        return load(data) | {"creative_ids": entry["creative_ids"]}

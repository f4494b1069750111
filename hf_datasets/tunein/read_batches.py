"""A torch `Dataset` of the batches that `write_batches` wrote, in a folder or on S3."""

import hashlib
import json
from typing import Any

from safetensors.torch import load
from torch.utils.data import Dataset

from system.storage import S3FileManager

from ..output import open_location
from .write_batches import FOLDER, MANIFEST


class EmbeddingBatches(Dataset[dict[str, Any]]):
    """Batches in the order of the manifest: dicts with the tensors that `write_batches` describes and `creative_ids`.

    Use it in a `DataLoader` with `batch_size=None`, because an item is a batch already. A file that differs from the
    manifest raises ValueError.
    """

    def __init__(self, data_dir: str) -> None:
        """Read the manifest in `data_dir`, the --output_dir of `write_batches`."""
        source = open_location(data_dir, "data_dir")
        text = source.read_text(f"{FOLDER}/{MANIFEST}")
        if text is None:
            raise ValueError(
                f"data_dir={source}: no {FOLDER}/{MANIFEST}. Let hf_datasets.tunein.write_batches finish first."
            )
        self.manifest: dict[str, Any] = json.loads(text)
        self.files = [source.where(f"{FOLDER}/{entry['file']}") for entry in self.manifest["batches"]]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict[str, Any]:
        entry = self.manifest["batches"][number]
        # Checked on every read: a run of `write_batches` with other settings may replace files during training.
        data = S3FileManager.shared().read_bytes(self.files[number])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{self.files[number]}: its SHA-256 is not that in {MANIFEST}. Run write_batches again.")
        return load(data) | {"creative_ids": entry["creative_ids"]}

"""Windows whose embeddings by a frozen encoder are computed once and kept on the disk, in place of their sound."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState

from modeling.modeling_encoder import EncoderForAudioClassification
from tasks.detection.collator import SoundExtractor
from tasks.detection.eval_windows import ClipWindows
from tasks.detection.windows import AudioSetWindows
from training.embeddings import StoredRecords, WindowEmbeddings, array_digest, key_of, stored_records
from training.environment import versions
from training.official_efficientat import digest
from training.rows import file_states

# N windows, K frames of embeddings, D numbers of an embedding, V views of an item

VERSION = 2  # of what is stored
ON_GPU = 64  # windows that go through the encoder together; on a CPU one by one, as batches change last digits


def embedded_training(
    windows: AudioSetWindows, views: int, model: EncoderForAudioClassification, extractor: SoundExtractor
) -> AudioSetWindows:
    """The same windows, each item with so many views; which of them is used follows from the seed asked for."""
    seeds = np.random.default_rng(0).integers(2**63, size=(len(windows), views))  # the same for more items
    wanted = np.stack([np.repeat(np.arange(len(windows)), views), seeds.ravel()], 1)
    return with_embeddings(windows, WindowEmbeddings(embed_windows(windows, wanted, model, extractor), views))


def embedded_side(side: ClipWindows, model: EncoderForAudioClassification, extractor: SoundExtractor) -> ClipWindows:
    """The same side, its windows by their embeddings."""
    other = copy.copy(side)
    other.windows = with_embeddings(side.windows, WindowEmbeddings(embed_side(side, model, extractor), 1))
    return other


def with_embeddings(windows: AudioSetWindows, embeddings: WindowEmbeddings | None) -> AudioSetWindows:
    """The same windows by their embeddings; None: by their sound."""
    other = copy.copy(windows)
    other.embeddings = embeddings
    return other


def embed_side(side: ClipWindows, model: EncoderForAudioClassification, extractor: SoundExtractor) -> StoredRecords:
    """The embeddings of all windows of a side."""
    places = np.arange(len(side))
    return embed_windows(side.windows, np.stack([places, places], 1), model, extractor)


def embed_windows(
    windows: AudioSetWindows,
    wanted: Sequence[tuple[int, int]] | np.ndarray,
    model: EncoderForAudioClassification,
    extractor: SoundExtractor,
) -> StoredRecords:
    """The embeddings of windows by number and seed (N, 2), from the disk where they were computed before."""
    windows = with_embeddings(windows, None)
    files = [windows.sounds.file(row) for row in np.unique(windows.items.clip).tolist()]
    states, remote = file_states([file for file in files if file is not None])
    windows.sounds = windows.sounds.pinned(remote)  # an older copy, or another file in its place, must not be stored
    wanted = np.asarray(wanted, np.int64).reshape(-1, 2)
    settings = {
        "version": VERSION,
        "libraries": versions(),
        "encoder": digest(model.encoder.base_model.state_dict()),
        "extractor": extractor.to_dict(),
        "rows": windows.sounds.rows._fingerprint,
        "files": key_of(states),
        "items": array_digest(*windows.items.columns()),
        "wanted": array_digest(wanted),
        "samples": windows.samples,
        "sampling_rate": windows.sampling_rate,
        "augmentation": None if windows.augmentation is None else asdict(windows.augmentation),
    }

    def compute(places: range) -> np.ndarray:
        device = torch.device(PartialState().device or "cpu")
        encoder, training = cast(Any, model).to(device), model.training
        encoder.eval()
        size = 1 if device.type == "cpu" else ON_GPU
        pairs = wanted[places.start : places.stop]
        parts = [
            embed_batch(windows, pairs[first : first + size].tolist(), encoder, extractor)
            for first in range(0, len(pairs), size)
        ]
        model.train(training)
        return np.concatenate(parts)

    return stored_records(key_of(settings), len(wanted), compute)


@torch.inference_mode()
def embed_batch(
    windows: AudioSetWindows,
    pairs: Sequence[tuple[int, int]],
    model: EncoderForAudioClassification,
    extractor: SoundExtractor,
) -> np.ndarray:
    """Records (N,) of some windows: `served` and `embeddings` (1 + K, D)."""
    found = [windows[item, seed] for item, seed in pairs]
    batch = extractor([each["audio"] for each in found], sampling_rate=extractor.sampling_rate, return_tensors="pt")
    features = batch["input_features"]
    if windows.augmentation is not None:
        features = windows.augmentation.masked(features, [seed for _, seed in pairs])
    embeddings = model.embed(features.to(model.device)).to(torch.float16).cpu().numpy()
    records = np.zeros(len(pairs), [("served", np.int64), ("embeddings", np.float16, embeddings.shape[1:])])
    records["served"], records["embeddings"] = [each["item"] for each in found], embeddings
    return records

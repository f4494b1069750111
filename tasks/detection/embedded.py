"""Replace the audio of windows by embeddings of a frozen encoder, computed once and cached on disk."""

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

# N windows, K frames of embeddings, D numbers per embedding, V views per item

VERSION = 2  # of the stored records; raise it when they change, to make older ones unreachable
GPU_BATCH = 64  # windows per forward pass on a GPU


def embedded_training(
    windows: AudioSetWindows, views: int, model: EncoderForAudioClassification, extractor: SoundExtractor
) -> AudioSetWindows:
    """Return the windows with `views` stored embeddings per item; the requested seed selects the view."""
    # A fixed generator: a data set with more items begins with the same seeds.
    seeds = np.random.default_rng(0).integers(2**63, size=(len(windows), views))
    wanted = np.stack([np.repeat(np.arange(len(windows)), views), seeds.ravel()], 1)
    return with_embeddings(windows, WindowEmbeddings(embed_windows(windows, wanted, model, extractor), views))


def embedded_side(side: ClipWindows, model: EncoderForAudioClassification, extractor: SoundExtractor) -> ClipWindows:
    """Return the split with stored embeddings instead of audio."""
    copied = copy.copy(side)
    copied.windows = with_embeddings(side.windows, WindowEmbeddings(embed_side(side, model, extractor), 1))
    return copied


def with_embeddings(windows: AudioSetWindows, embeddings: WindowEmbeddings | None) -> AudioSetWindows:
    """Return a shallow copy of the windows that serves `embeddings`; None: that serves audio."""
    copied = copy.copy(windows)
    copied.embeddings = embeddings
    return copied


def embed_side(side: ClipWindows, model: EncoderForAudioClassification, extractor: SoundExtractor) -> StoredRecords:
    """Return the embeddings of all windows of a split."""
    numbers = np.arange(len(side))
    return embed_windows(side.windows, np.stack([numbers, numbers], 1), model, extractor)


def embed_windows(
    windows: AudioSetWindows,
    wanted: Sequence[tuple[int, int]] | np.ndarray,
    model: EncoderForAudioClassification,
    extractor: SoundExtractor,
) -> StoredRecords:
    """Return the embeddings of windows given as item numbers and seeds (N, 2), from the disk if cached there."""
    windows = with_embeddings(windows, None)
    files = [windows.sounds.file(row) for row in np.unique(windows.items.clip).tolist()]
    states, remote = file_states([file for file in files if file is not None])
    # Pinned to the object versions in the key: embeddings of a stale or replaced file must not be cached.
    windows.sounds = windows.sounds.pinned(remote)
    wanted = np.asarray(wanted, np.int64).reshape(-1, 2)
    # Everything that changes an embedding is part of the cache key.
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

    def compute(rows: range) -> np.ndarray:
        device = torch.device(PartialState().device or "cpu")
        encoder, training = cast(Any, model).to(device), model.training
        encoder.eval()
        # One window at a time on a CPU: there the batch size changes the last digits, and records would depend on it.
        size = 1 if device.type == "cpu" else GPU_BATCH
        pairs = wanted[rows.start : rows.stop]
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
    """Embed a batch of windows; returns records (N,) of `served` and `embeddings` (1 + K, D)."""
    batch_windows = [windows[item, seed] for item, seed in pairs]
    audio = [window["audio"] for window in batch_windows]
    features = extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
    if windows.augmentation is not None:
        features = windows.augmentation.mask_features(features, [seed for _, seed in pairs])
    embeddings = model.embed(features.to(model.device)).to(torch.float16).cpu().numpy()
    records = np.zeros(len(pairs), [("served", np.int64), ("embeddings", np.float16, embeddings.shape[1:])])
    records["served"], records["embeddings"] = [window["item"] for window in batch_windows], embeddings
    return records

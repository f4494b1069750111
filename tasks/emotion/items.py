"""Training items of utterances: text, video frames and audio of the clip, with masks.

An item is decoded from its row when it is requested, or read from an on-disk cache of frozen encoder outputs. A
modality that a row lacks, or that cannot be decoded, gets a mask of zeros. No utterance is dropped.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from torch.utils.data import Dataset

from media.video import Clip, VideoError, read_clip
from modeling import FusionForEmotion, FusionProcessor
from modeling.configuration_fusion import INPUTS
from system.storage import S3FileManager, is_remote
from training.collators import PaddingCollator
from training.environment import versions
from training.streaming import arrow_rows, is_streamed

logger = logging.getLogger(__name__)

# Shapes: L tokens, N video frames, T audio frames, F mel bands, E dimensions of an encoder output.

HEADS = ("emotion", "sentiment")
COLUMNS = ("utterance_id", "text", *HEADS, "clip", "has_text", "has_audio", "has_video")
# Part of the cache key. Raise it if a code change gives different features for the same rows and settings.
CACHE_VERSION = 1
ENCODING_BATCH = 16  # utterances per batch through the frozen encoders; bounds memory while a cache is built


@dataclass
class UtteranceDataset(Dataset):
    """Utterances as items, indexed by `index` or by `(index, seed)`. Nothing is random, so the seed is ignored.

    Args:
        rows: with the columns in COLUMNS.
        processor: turns text, frames and audio into model inputs.
        max_text_tokens: longer texts are truncated.
        hidden: modalities that are masked as if every row lacked them.
        cached: the result of `cache_features` for these rows.
    """

    rows: datasets.Dataset
    processor: FusionProcessor
    modalities: Sequence[str]
    max_text_tokens: int
    hidden: frozenset[str] = frozenset()
    cached: datasets.Dataset | None = None

    def __post_init__(self) -> None:
        # Create these views once: creating one takes as long as reading ten items.
        self.needs_clips = bool({"video", "audio"} & set(self.modalities))
        self.read_rows = arrow_rows(self.rows, [name for name in COLUMNS if name != "clip" or self.needs_clips])
        # Labels and flags have a view of their own, so that a cached item is read without its clip.
        self.label_rows = self.rows.select_columns([*HEADS, *(name for name in COLUMNS if name.startswith("has_"))])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return the model inputs without a batch dimension, for example `input_ids` (L,), and `labels` (2,).

        `undecodable` is true if the row claims a modality that could not be decoded.
        """
        index = item[0] if isinstance(item, tuple) else item
        inputs = self.read(index) if self.cached is None else read_cached(self.cached, index)
        row = self.label_rows[index]
        # An empty mask of a modality that the row claims means that decoding failed.
        expected = {name for name in self.modalities if row[f"has_{name}"]} - self.hidden
        undecodable = any(not inputs[INPUTS[name][1]].any() for name in expected)
        for name in self.hidden:
            mask = INPUTS[name][1]
            inputs[mask] = torch.zeros_like(inputs[mask])
        labels = torch.tensor([row[head] for head in HEADS])
        return inputs | {"labels": labels, "undecodable": torch.tensor(undecodable)}

    def read(self, index: int) -> dict[str, torch.Tensor]:
        """Decode a row, and return its model inputs."""
        (row,) = self.read_rows[index].to_pylist()
        wanted = {name for name in self.modalities if row[f"has_{name}"] and name not in self.hidden}
        clip = self.decode(row, wanted & {"video", "audio"})
        inputs = clip_inputs(self.processor, clip, self.modalities)
        if "text" in self.modalities:
            inputs |= {"text": [row["text"] if "text" in wanted else None], "max_length": self.max_text_tokens}
        return {name: value[0] for name, value in self.processor(**inputs).items()}

    def decode(self, row: dict[str, Any], wanted: set[str]) -> Clip | None:
        """Decode the wanted modalities of a row's clip. Log a warning and return None if that fails."""
        if not wanted:
            return None
        try:
            with clip_source(row["clip"]) as source:
                return read_clip_for(self.processor, source, wanted, name=row["utterance_id"])
        except VideoError as error:
            logger.warning("%s: clip not decoded, so video and audio are masked: %s", row["utterance_id"], error)
            return None

    def files_of(self, item: tuple[int, int] | int) -> list[str]:
        """Return the file or URL that an item is read from, for prefetching."""
        index = item[0] if isinstance(item, tuple) else item
        if self.cached is not None or not self.needs_clips:
            return []
        if is_streamed(self.rows):
            return [self.read_rows.url_of(index)]
        (clip,) = self.read_rows[index]["clip"].to_pylist()
        # A clip with bytes is already in the row.
        return [] if clip is None or clip["bytes"] is not None or not clip["path"] else [clip["path"]]


def read_clip_for(processor: FusionProcessor, source: Any, wanted: Collection[str], **options: Any) -> Clip:
    """Read the wanted modalities of a clip at the frame size and rates of the processor.

    Args:
        options: further arguments of `read_clip`, for example `start` and `seconds`.
    """
    extractor = processor.feature_extractor
    return read_clip(
        source,
        num_frames=extractor.clip_frames if "video" in wanted else 0,
        size=tuple(extractor.frame_size),
        frame_rate=extractor.video_frame_rate,
        audio_rate=extractor.sampling_rate if "audio" in wanted else None,
        max_audio_seconds=extractor.max_audio_seconds,
        **options,
    )


def clip_inputs(processor: FusionProcessor, clip: Clip | None, modalities: Collection[str]) -> dict[str, Any]:
    """Return the processor arguments for one clip, with None for each modality that it lacks."""
    inputs: dict[str, Any] = {}
    if "video" in modalities:
        # A stream without a single decoded frame counts as missing.
        video = clip if clip is not None and clip.frame_mask.any() else None
        inputs["videos"] = [None if video is None else video.frames]
        inputs["frame_masks"] = [None if video is None else video.frame_mask]
    if "audio" in modalities:
        inputs["audio"] = [None if clip is None else clip.audio]
        inputs["sampling_rate"] = processor.feature_extractor.sampling_rate
    return inputs


@contextlib.contextmanager
def clip_source(clip: dict[str, Any] | None) -> Iterator[bytes | str]:
    """Yield a clip as bytes or as a local path. A remote file is downloaded and kept until the block ends."""
    if clip is None or (clip["bytes"] is None and not clip["path"]):
        raise VideoError("the row has no clip")
    if clip["bytes"] is not None:
        yield clip["bytes"]
    # A lease, because the local copy of a remote file may otherwise be evicted while it is decoded.
    elif is_remote(clip["path"]):
        with S3FileManager.shared().lease(clip["path"]) as path:
            yield str(path)
    else:
        yield clip["path"]


def cache_features(dataset: UtteranceDataset, model: FusionForEmotion) -> datasets.Dataset:
    """Return an on-disk table with the inputs of the trained parts of the model, in the order of the rows.

    It holds the output (E,) of each frozen encoder, and the inputs of the other encoders. A later call with the same
    data, settings and weights reuses the table. The first process on a machine builds it while the others wait.

    Raises:
        ValueError: The video encoder is trained, so the cache would hold video frames.
    """
    frozen = [name for name in dataset.modalities if model.fusion.branches[name].frozen]
    if "video" in dataset.modalities and "video" not in frozen:
        raise ValueError(
            "cache_features=true: the video encoder is trained, so the cache would hold video frames, several MB per "
            "clip. Set model_config.freeze_video=true, or remove cache_features."
        )
    collate = PaddingCollator(dataset.processor.tokenizer.pad_token_id)
    # Hidden modalities are masked when a cached item is read, so that ablations share one cache.
    read = replace(dataset, cached=None, hidden=frozenset()).read

    def encode(_: list[str], indices: list[int]) -> dict[str, list[np.ndarray]]:
        items = [read(index) for index in indices]
        batch = collate(items)
        columns = {}
        for name in dataset.modalities:
            value, mask = INPUTS[name]
            columns[mask] = [item[mask].numpy() for item in items]
            if name in frozen:
                encoded = model.fusion.encode(name, batch[value].to(model.device), batch[mask].to(model.device))
                # float(), because NumPy has no bfloat16.
                columns[f"{name}_features"] = list(encoded.float().cpu().numpy())
            else:
                columns[value] = [flatten_features(item[value]) for item in items]
        return columns

    # Evaluation mode: dropout would make the outputs random, and BatchNorm would depend on the batch.
    was_training = model.training
    model.eval()
    with torch.inference_mode(), PartialState().local_main_process_first():
        table = dataset.rows.map(
            encode,
            batched=True,
            batch_size=ENCODING_BATCH,
            with_indices=True,
            input_columns=["utterance_id"],  # `encode` reads rows by index: avoid decoding all columns a second time
            remove_columns=dataset.rows.column_names,
            features=cached_columns(dataset.modalities, frozen),
            new_fingerprint=cache_key(dataset, model, frozen),
            desc="encoding with frozen encoders",
        )
    model.train(was_training)
    return table.with_format("numpy")


def cached_columns(modalities: Sequence[str], frozen: Sequence[str]) -> datasets.Features:
    """Return the column types of a cached table: a mask per modality, and its features or inputs."""
    dtypes = {INPUTS[name][1]: "int64" for name in modalities}
    for name in modalities:
        column = f"{name}_features" if name in frozen else INPUTS[name][0]
        dtypes[column] = "int64" if column == "input_ids" else "float32"
    return datasets.Features({name: datasets.List(datasets.Value(dtypes[name])) for name in sorted(dtypes)})


def read_cached(table: datasets.Dataset, index: int) -> dict[str, torch.Tensor]:
    """Return the model inputs of one row of a cached table."""
    row = {name: torch.tensor(value) for name, value in table[index].items()}
    if "input_features" in row:
        row["input_features"] = row["input_features"].unflatten(0, (len(row["features_mask"]), -1))  # (T, F)
    return row


def flatten_features(features: torch.Tensor) -> np.ndarray:
    """Return features as the flat array that `read_cached` expects."""
    # Stored flat because `datasets.Array2D` takes three times as long to read.
    return features.numpy().ravel()


def cache_key(dataset: UtteranceDataset, model: FusionForEmotion, frozen: Sequence[str]) -> str:
    """Return a digest of everything that cached features depend on, including the weights of frozen encoders."""
    # Library versions count, because another decoder or resampler gives slightly different features.
    settings = [
        CACHE_VERSION, dataset.rows._fingerprint, list(dataset.modalities), sorted(frozen), dataset.max_text_tokens,
        dataset.processor.feature_extractor.to_dict(), dataset.processor.tokenizer.get_vocab(), versions(),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(frozen):
        weights = model.fusion.branches[name].get_submodule("encoder").state_dict()
        for key, value in weights.items():
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]

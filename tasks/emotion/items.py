"""Utterances as training items: the text, the frames and the sound of the clip, and masks.

An item is read from its row when it is needed, or from a table on the disk with the outputs of frozen encoders. A
modality that a row lacks, or that cannot be decoded, has a mask of zeros: no utterance is left out.
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

# L tokens, N frames of a clip, T frames of sound, F mel bands, E numbers that an encoder makes

HEADS = ("emotion", "sentiment")
COLUMNS = ("utterance_id", "text", *HEADS, "clip", "has_text", "has_audio", "has_video")
CACHE_VERSION = 1  # raise it when the same rows and settings give other features: cached ones are not used then
ENCODED_AT_ONCE = 16  # utterances that go through frozen encoders together


@dataclass
class UtteranceDataset(Dataset):
    """Utterances of a data set as items, by (index, seed) or index. Nothing is random, so the seed is not used.

    Args:
        rows: with COLUMNS.
        processor: makes inputs of text, frames and sound.
        max_text_tokens: longer texts are cut.
        hidden: modalities that look absent to the model.
        cached: what `cache_features` made of the rows.
    """

    rows: datasets.Dataset
    processor: FusionProcessor
    modalities: Sequence[str]
    max_text_tokens: int
    hidden: frozenset[str] = frozenset()
    cached: datasets.Dataset | None = None

    def __post_init__(self) -> None:
        # These views are made once: making one takes as long as reading ten items.
        self.needs_clips = bool({"video", "audio"} & set(self.modalities))
        self.read_rows = arrow_rows(self.rows, [name for name in COLUMNS if name != "clip" or self.needs_clips])
        self.label_rows = self.rows.select_columns([*HEADS, *(name for name in COLUMNS if name.startswith("has_"))])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return inputs without a batch dimension, such as `input_ids` (L,), and `labels` (2,).

        `undecodable` tells whether a modality that the row has could not be read.
        """
        index = item[0] if isinstance(item, tuple) else item
        inputs = self.read(index) if self.cached is None else read_cached(self.cached, index)
        row = self.label_rows[index]
        expected = {name for name in self.modalities if row[f"has_{name}"]} - self.hidden
        undecodable = any(not inputs[INPUTS[name][1]].any() for name in expected)
        for name in self.hidden:
            mask = INPUTS[name][1]
            inputs[mask] = torch.zeros_like(inputs[mask])
        labels = torch.tensor([row[head] for head in HEADS])
        return inputs | {"labels": labels, "undecodable": torch.tensor(undecodable)}

    def read(self, index: int) -> dict[str, torch.Tensor]:
        """Decode a row and make the inputs of it."""
        (row,) = self.read_rows[index].to_pylist()
        wanted = {name for name in self.modalities if row[f"has_{name}"] and name not in self.hidden}
        clip = self.decode(row, wanted & {"video", "audio"})
        given = clip_inputs(self.processor, clip, self.modalities)
        if "text" in self.modalities:
            given |= {"text": [row["text"] if "text" in wanted else None], "max_length": self.max_text_tokens}
        return {name: value[0] for name, value in self.processor(**given).items()}

    def decode(self, row: dict[str, Any], wanted: set[str]) -> Clip | None:
        """Read the wanted parts of a row's clip; None, with a warning, if it cannot be decoded."""
        if not wanted:
            return None
        try:
            with clip_source(row["clip"]) as source:
                return clip_for(self.processor, source, wanted, name=row["utterance_id"])
        except VideoError as error:
            logger.warning("%s: its picture and sound are taken as missing: %s", row["utterance_id"], error)
            return None

    def files_of(self, item: tuple[int, int] | int) -> list[str]:
        """Return the file or URL that an item reads, so that it can be fetched ahead."""
        index = item[0] if isinstance(item, tuple) else item
        if self.cached is not None or not self.needs_clips:
            return []
        if is_streamed(self.rows):
            return [self.read_rows.url_of(index)]
        (clip,) = self.read_rows[index]["clip"].to_pylist()
        return [] if clip is None or clip["bytes"] is not None or not clip["path"] else [clip["path"]]


def clip_for(processor: FusionProcessor, source: Any, wanted: Collection[str], **window: Any) -> Clip:
    """Read the wanted modalities of a clip, in the size and at the rates of a processor."""
    extractor = processor.feature_extractor
    return read_clip(
        source,
        num_frames=extractor.clip_frames if "video" in wanted else 0,
        size=tuple(extractor.frame_size),
        frame_rate=extractor.video_frame_rate,
        audio_rate=extractor.sampling_rate if "audio" in wanted else None,
        max_audio_seconds=extractor.max_audio_seconds,
        **window,
    )


def clip_inputs(processor: FusionProcessor, clip: Clip | None, modalities: Collection[str]) -> dict[str, Any]:
    """Return the arguments of a processor for one clip; None for what the clip lacks."""
    given: dict[str, Any] = {}
    if "video" in modalities:
        seen = clip if clip is not None and clip.frame_mask.any() else None
        given["videos"] = [None if seen is None else seen.frames]
        given["frame_masks"] = [None if seen is None else seen.frame_mask]
    if "audio" in modalities:
        given["audio"] = [None if clip is None else clip.audio]
        given["sampling_rate"] = processor.feature_extractor.sampling_rate
    return given


@contextlib.contextmanager
def clip_source(clip: dict[str, Any] | None) -> Iterator[bytes | str]:
    """Yield a clip as bytes, or as the path of a local file, which is kept until the block ends."""
    if clip is None or (clip["bytes"] is None and not clip["path"]):
        raise VideoError("the row has no clip")
    if clip["bytes"] is not None:
        yield clip["bytes"]
    elif is_remote(clip["path"]):
        with S3FileManager.shared().lease(clip["path"]) as path:
            yield str(path)
    else:
        yield clip["path"]


def cache_features(dataset: UtteranceDataset, model: FusionForEmotion) -> datasets.Dataset:
    """Return a table on the disk, in the order of the rows, with what the trained parts of a model take.

    That is the vector (E,) of a frozen encoder, and the input of any other one. The table is found again by a digest
    of all that it depends on. The first process of a machine makes it, and the others wait.
    """
    frozen = [name for name in dataset.modalities if model.fusion.branches[name].frozen]
    if "video" in dataset.modalities and "video" not in frozen:
        raise ValueError(
            "cache_features: the video encoder is trained, so its frames would have to be kept, some MB a clip; set "
            "model_config.freeze_video true, or leave cache_features out"
        )
    collate = PaddingCollator(dataset.processor.tokenizer.pad_token_id)
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
                columns[f"{name}_features"] = list(encoded.float().cpu().numpy())
            else:
                columns[value] = [flat(item[value]) for item in items]
        return columns

    training = model.training
    model.eval()
    with torch.inference_mode(), PartialState().local_main_process_first():
        table = dataset.rows.map(
            encode,
            batched=True,
            batch_size=ENCODED_AT_ONCE,
            with_indices=True,
            input_columns=["utterance_id"],
            remove_columns=dataset.rows.column_names,
            features=cached_columns(dataset.modalities, frozen),
            new_fingerprint=cache_key(dataset, model, frozen),
            desc="frozen encoders",
        )
    model.train(training)
    return table.with_format("numpy")


def cached_columns(modalities: Sequence[str], frozen: Sequence[str]) -> datasets.Features:
    """Return the columns of a cached table: a mask per modality, and its features or its input."""
    kinds = {INPUTS[name][1]: "int64" for name in modalities}
    for name in modalities:
        column = f"{name}_features" if name in frozen else INPUTS[name][0]
        kinds[column] = "int64" if column == "input_ids" else "float32"
    return datasets.Features({name: datasets.List(datasets.Value(kinds[name])) for name in sorted(kinds)})


def read_cached(table: datasets.Dataset, index: int) -> dict[str, torch.Tensor]:
    """Return the inputs of one row of a cached table."""
    row = {name: torch.tensor(value) for name, value in table[index].items()}
    if "input_features" in row:
        row["input_features"] = row["input_features"].unflatten(0, (len(row["features_mask"]), -1))
    return row


def flat(features: torch.Tensor) -> np.ndarray:
    """Return features as `read_cached` expects them: `datasets.Array2D` takes three times as long to read."""
    return features.numpy().ravel()


def cache_key(dataset: UtteranceDataset, model: FusionForEmotion, frozen: Sequence[str]) -> str:
    """Return a digest of everything that cached features depend on."""
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

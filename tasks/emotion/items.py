"""Utterances as training items: what was said, the frames and the sound of the clip, and which of these there are.

An item is read from its row when it is asked for, or, where frozen encoders' outputs are cached, from a table on the
disk. What a row lacks, and what of it cannot be decoded, is a mask of zeros: no utterance is ever left out.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
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

# L tokens, N frames of a clip, T frames of sound, F mel bands, E numbers that an encoder makes, M modalities


HEADS = ("emotion", "sentiment")
COLUMNS = ("utterance_id", "text", *HEADS, "clip", "has_text", "has_audio", "has_video")
CACHED_AT_ONCE = 16  # utterances that go through frozen encoders together


@dataclass
class UtteranceDataset(Dataset):
    """Some utterances of a data set as items, (index, seed) or index; the seed has nothing to decide.

    Args:
        rows: of the data set, with COLUMNS.
        processor: text, frames and sound to inputs.
        modalities: what is read; of these, `hidden` is what is kept from the model.
        max_text_tokens: where texts are cut.
        cached: a table with what frozen encoders made of each row, in the order of the rows.
    """

    rows: datasets.Dataset
    processor: FusionProcessor
    modalities: Sequence[str]
    max_text_tokens: int
    hidden: frozenset[str] = frozenset()
    cached: datasets.Dataset | None = None

    def __post_init__(self) -> None:
        # Views of what is read, made once: making one takes as long as reading ten items.
        self.needs_clips = bool({"video", "audio"} & set(self.modalities))
        self.read_rows = arrow_rows(self.rows, [name for name in COLUMNS if name != "clip" or self.needs_clips])
        self.told_rows = self.rows.select_columns([*HEADS, *(name for name in COLUMNS if name.startswith("has_"))])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, torch.Tensor]:
        """Inputs without a batch dimension, such as `input_ids` (L,), and `labels` (2,).

        `undecodable` is whether something that the row has could not be read.
        """
        index = item[0] if isinstance(item, tuple) else item
        inputs = self.read(index) if self.cached is None else self.remembered(index)
        row = self.told_rows[index]
        promised = {name for name in self.modalities if row[f"has_{name}"]} - self.hidden
        undecodable = any(not inputs[INPUTS[name][1]].any() for name in promised)
        for name in self.hidden:
            mask = INPUTS[name][1]
            inputs[mask] = torch.zeros_like(inputs[mask])
        labels = torch.tensor([row[head] for head in HEADS])
        return inputs | {"labels": labels, "undecodable": torch.tensor(undecodable)}

    def remembered(self, index: int) -> dict[str, torch.Tensor]:
        """The cached inputs of one row."""
        row = {name: torch.tensor(value) for name, value in self.cached[index].items()}
        if "input_features" in row:  # stored flat
            row["input_features"] = row["input_features"].unflatten(0, (len(row["features_mask"]), -1))
        return row

    def read(self, index: int) -> dict[str, torch.Tensor]:
        """The inputs of one row, decoded and processed."""
        (row,) = self.read_rows[index].to_pylist()
        wanted = {name for name in self.modalities if row[f"has_{name}"] and name not in self.hidden}
        clip = self.decode(row, wanted & {"video", "audio"})
        given = clip_inputs(self.processor, clip, self.modalities)
        if "text" in self.modalities:
            given |= {"text": [row["text"] if "text" in wanted else None], "max_length": self.max_text_tokens}
        return {name: value[0] for name, value in self.processor(**given).items()}

    def decode(self, row: dict[str, Any], wanted: set[str]) -> Clip | None:
        """Frames and sound of a row's clip, as far as wanted; None where it cannot be decoded, which is noted."""
        if not wanted:
            return None
        try:
            with clip_source(row["clip"]) as source:
                return clip_for(self.processor, source, wanted, name=row["utterance_id"])
        except VideoError as error:
            logger.warning("%s: its picture and sound are taken as missing: %s", row["utterance_id"], error)
            return None

    def files_of(self, item: tuple[int, int] | int) -> list[str]:
        """The file or URL that an item reads, so that it can be fetched ahead."""
        index = item[0] if isinstance(item, tuple) else item
        if self.cached is not None or not self.needs_clips:
            return []
        if is_streamed(self.rows):
            return [self.read_rows.url_of(index)]
        (clip,) = self.read_rows[index]["clip"].to_pylist()
        return [] if clip is None or clip["bytes"] is not None or not clip["path"] else [clip["path"]]


def clip_for(processor: FusionProcessor, source: Any, wanted: Collection[str], **window: Any) -> Clip:
    """Frames and sound of a clip, as far as wanted, in the sizes and at the rates of a processor."""
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
    """What a processor is given of one clip for some modalities: None for what there is not."""
    given: dict[str, Any] = {}
    if "video" in modalities:
        seen = clip is not None and clip.frame_mask.any()
        given |= {"videos": [clip.frames if seen else None], "frame_masks": [clip.frame_mask if seen else None]}
    if "audio" in modalities:
        sound = None if clip is None else clip.audio
        given |= {"audio": [sound], "sampling_rate": processor.feature_extractor.sampling_rate}
    return given


@contextlib.contextmanager
def clip_source(clip: dict[str, Any] | None) -> Iterator[bytes | str]:
    """A clip as its bytes, or the path of a file on this machine, which stays there for as long as the block lasts."""
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
    """What each row becomes before the first part that is trained: a table on the disk, made once, in order of rows.

    Frozen encoders give their vector (E,); encoders that are trained get what they take. The table is found again by a
    digest of the rows, the processor and the frozen weights; of a machine's processes the first makes it, and the
    others wait.
    """
    frozen = [name for name in dataset.modalities if model.fusion.branches[name].frozen]
    if "video" in dataset.modalities and "video" not in frozen:
        raise ValueError(
            "cache_features: the video encoder is trained, so its frames would have to be kept, some MB a clip; set "
            "model_config.freeze_video true, or leave cache_features out"
        )
    collate = PaddingCollator(dataset.processor.tokenizer.pad_token_id)
    read = replace(dataset, cached=None, hidden=frozenset()).read

    def encode(_: list[str], indices: list[int]) -> dict[str, list]:
        items = [read(index) for index in indices]
        batch = collate(items)
        columns: dict[str, list] = {}
        for name in dataset.modalities:
            value, mask = INPUTS[name]
            columns[mask] = [item[mask].numpy() for item in items]
            if name in frozen:
                encoded = model.fusion.encode(name, batch[value].to(model.device), batch[mask].to(model.device))
                columns[f"{name}_features"] = list(encoded.float().cpu().numpy())
            else:
                columns[value] = [item[value].numpy().ravel() for item in items]
        return columns

    kinds = {"input_ids": "int64", "input_features": "float32"} | {f"{name}_features": "float32" for name in frozen}
    kinds |= {INPUTS[name][1]: "int64" for name in dataset.modalities}
    names = {INPUTS[name][1] for name in dataset.modalities}
    names |= {f"{name}_features" if name in frozen else INPUTS[name][0] for name in dataset.modalities}
    training = model.training
    model.eval()
    with torch.inference_mode(), PartialState().local_main_process_first():
        made = dataset.rows.map(
            encode,
            batched=True,
            batch_size=CACHED_AT_ONCE,
            with_indices=True,
            input_columns=["utterance_id"],
            remove_columns=dataset.rows.column_names,
            features=datasets.Features({name: datasets.List(datasets.Value(kinds[name])) for name in sorted(names)}),
            new_fingerprint=cache_key(dataset, model, frozen),
            desc="frozen encoders",
        )
    model.train(training)
    return made.with_format("numpy")


def cache_key(dataset: UtteranceDataset, model: FusionForEmotion, frozen: Sequence[str]) -> str:
    """A digest of all that cached features depend on."""
    settings = [
        dataset.rows._fingerprint, list(dataset.modalities), sorted(frozen), dataset.max_text_tokens,
        dataset.processor.feature_extractor.to_dict(), dataset.processor.tokenizer.get_vocab(), versions(),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name in sorted(frozen):
        for key, value in model.fusion.branches[name].encoder.state_dict().items():
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]

"""Split the utterances of a data set, and turn them into training items."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import datasets
import numpy as np
from transformers import EvalPrediction

from evaluation.validation import validation_scores
from modeling import FusionConfig, FusionProcessor
from modeling.configuration_fusion import MODALITIES
from system.text import plural
from tasks.emotion.items import HEADS, UtteranceDataset
from tasks.emotion.settings import EmotionSettings, EmotionTaskSettings, EncoderSettings
from tasks.emotion.split import UtteranceSplit
from training.streaming import StreamedRows
from training.task import Run

logger = logging.getLogger(__name__)

SCORES = ("weighted_f1", "macro_f1")  # computed for each head at each validation
SIDES = {"train": "train", "validation": "dev", "test": "test"}  # split -> its name in the data set
# Defect of a clip file -> how `prepare` resolved it, for cards and reports. Some test clips of MELD exist under two
# names with different content, and only the prefixed file belongs to the row.
CLIP_DEFECTS = {
    "twin_clip": "If a clip exists twice, the file named final_videos_test... is used, because the other one is wrong",
    "prefixed_clip": "Clips that exist only under the name final_videos_test... are used",
}

COLUMNS = (
    "utterance_id", "split", "dialogue", "text", "speaker", "emotion", "sentiment", "clip", "clip_seconds", "has_text",
    "has_audio", "has_video", "defects", "synthetic",
)  # fmt: skip


@dataclass(frozen=True)
class EmotionData:
    """The items of each split of the data set."""

    sides: dict[str, UtteranceDataset]  # by split; "all" holds every utterance
    split: UtteranceSplit
    names: dict[str, list[str]]  # head -> class names, in the order of their codes
    lengths: np.ndarray  # tokens of each training item, to group items of similar length into batches
    texts_cut: dict[str, int]  # split -> texts longer than max_text_tokens
    notes: dict[str, int]  # defect -> rows
    encoders: EncoderSettings
    settings: EmotionSettings

    @property
    def train(self) -> UtteranceDataset:
        return self.sides["train"]

    @property
    def validation(self) -> UtteranceDataset:
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return the weighted and macro F1 of both heads."""
        scores, labels = {}, cast(np.ndarray, output.label_ids)  # (N, heads)
        for index, head in enumerate(HEADS):
            predicted = output.predictions[index].argmax(-1)
            head_scores = validation_scores(SCORES, predictions=predicted, references=labels[:, index])
            scores |= {f"{head}_{name}": value for name, value in head_scores.items()}
        return scores

    def record(self) -> dict[str, Any]:
        """Return the fields that `EmotionDataRecord` adds to `DataRecord`."""
        return {
            "sides": self.split.sides,
            "texts_cut": self.texts_cut,
            "label_names": self.names,
            "policies": policies(self),
            "notes": self.notes,
            "split_warning": self.split.warning,
            "control": None,
        }


def policies(data: EmotionData) -> list[str]:
    """Describe in sentences how the data were treated, for cards and reports."""
    clip_defects = [
        f"{text} ({plural(data.notes[name], 'row')})." for name, text in CLIP_DEFECTS.items() if name in data.notes
    ]
    cut = ", ".join(f"{count:,} of {side}" for side, count in data.texts_cut.items() if count and side != "all")
    order = "; ".join(f"{head} {', '.join(names)}" for head, names in data.names.items())
    return [
        f"The splits are those of the data set. The model is trained on {SIDES['train']} only. {SIDES['validation']} "
        "selects the checkpoint and is not added to the training data.",
        "Each utterance is classified by itself, without its context or speaker.",
        "A modality that a row lacks, or that cannot be decoded, is masked. No row is dropped.",
        *clip_defects,
        *([f"Texts are truncated after {data.encoders.max_text_tokens} tokens: {cut}."] if cut else []),
        f"Labels, in the order of their codes from 0: {order}.",
    ]


def count_defects(rows: datasets.Dataset) -> dict[str, int]:
    """Return the number of rows with each defect, most frequent first."""
    lists = rows.select_columns("defects").with_format("arrow")[:]["defects"].to_pylist()
    return dict(Counter(name for defects in lists for name in {defect["what"] for defect in defects}).most_common())


def modalities_of(run: Run[EmotionTaskSettings]) -> list[str]:
    if run.base_config is not None:
        return list(cast(FusionConfig, run.base_config).modalities)
    return list(run.arguments.model_config.get("modalities", MODALITIES))


def prepare(
    rows: datasets.Dataset,
    processor: FusionProcessor,
    run: Run[EmotionTaskSettings],
    saved: dict[str, Any] | None = None,
) -> EmotionData:
    """Split the utterances as the data set does, and count truncated texts.

    Args:
        saved: metrics.json of the run that trained the model, if the model is only scored. A split may then be empty.
    """
    encoders, settings = run.settings.encoders, run.settings.emotion
    modalities, limit = modalities_of(run), encoders.max_text_tokens
    if run.arguments.streaming:
        check_streaming(rows, encoders)
    split = UtteranceSplit.of(rows, SIDES)
    missing = [side for side in SIDES if not split.sides[side].utterances]
    if missing and saved is None:
        raise ValueError(
            f"{run.arguments.dataset}: no utterance in the split {' and '.join(missing)}. Prepare the data with all "
            "tables."
        )
    indices = split.indices | {"all": np.arange(len(rows))}
    sides = {
        side: UtteranceDataset(rows.select(members), processor, modalities, limit) for side, members in indices.items()
    }
    # Without text, equal lengths give random batches.
    tokens = token_counts(rows, processor) if "text" in modalities else np.ones(len(rows), np.int64)
    lengths = np.minimum(tokens, limit)[indices["train"]]
    cut = {}
    if "text" in modalities:
        cut = {side: int((tokens[members] > limit).sum()) for side, members in indices.items()}
    names = {head: rows.features[head].names for head in HEADS}
    for side, count in cut.items():
        # "all" would repeat the counts of the splits.
        if count and side != "all":
            logger.warning("%s: truncated %s to max_text_tokens=%d", side, plural(count, "text"), limit)
    logger.info("Utterances per split: %s", {side: split.sides[side].utterances for side in SIDES})
    return EmotionData(sides, split, names, lengths, cut, count_defects(rows), encoders, settings)


def check_streaming(rows: datasets.Dataset, encoders: EncoderSettings) -> None:
    """Raise ValueError if streaming makes no sense: clips in separate files, or a cache that reads all of them."""
    if encoders.cache_features:
        raise ValueError(
            "cache_features=true: every clip is read once before training, so streaming has no use. Remove streaming."
        )
    # Looking at one clip is enough: `prepare` embeds either all clips or none.
    has = np.logical_or(*(np.array(rows[f"has_{name}"][:], bool) for name in ("video", "audio")))
    if has.any() and StreamedRows(rows, ["clip"]).peek(int(has.argmax()), "clip")["bytes"] is None:
        raise ValueError(
            "streaming=true: the rows refer to clip files, which are prefetched in any case. Remove streaming, or "
            "prepare the data with --embed_clips."
        )


def token_counts(rows: datasets.Dataset, processor: FusionProcessor) -> np.ndarray:
    """Return the number of tokens of each text (N,), before truncation."""
    texts = [text or "" for text in rows["text"]]
    return np.array([len(ids) for ids in processor.tokenizer(texts)["input_ids"]] if texts else [], np.int64)

"""Divide the utterances of a data set, and make items of them."""

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

SCORES = ("weighted_f1", "macro_f1")  # of each head, in validation
SIDES = {"train": "train", "validation": "dev", "test": "test"}  # part of the split -> its name in the data
TWINS = {  # defect -> what was done with clips that exist twice, or under the other of two names
    "twin_clip": "Where a clip is there twice, the one called final_videos_test... is used, for the other is wrong",
    "prefixed_clip": "A clip that is there as final_videos_test... alone is used",
}

COLUMNS = (
    "utterance_id", "split", "dialogue", "text", "speaker", "emotion", "sentiment", "clip", "clip_seconds", "has_text",
    "has_audio", "has_video", "defects", "synthetic",
)  # fmt: skip


@dataclass(frozen=True)
class EmotionData:
    """The utterances of a data set, divided as the data set says."""

    sides: dict[str, UtteranceDataset]  # those of the split, and "all"
    split: UtteranceSplit
    names: dict[str, list[str]]  # head -> its classes
    lengths: np.ndarray  # of the training items, for batches of similar length
    texts_cut: dict[str, int]  # side -> texts longer than max_text_tokens
    notes: dict[str, int]  # kind of defect -> rows
    encoders: EncoderSettings
    settings: EmotionSettings

    @property
    def train(self) -> UtteranceDataset:
        return self.sides["train"]

    @property
    def validation(self) -> UtteranceDataset:
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return the weighted and the macro F1 of both heads."""
        scores, labels = {}, cast(np.ndarray, output.label_ids)  # (N, heads)
        for place, head in enumerate(HEADS):
            predicted = output.predictions[place].argmax(-1)
            of_head = validation_scores(SCORES, predictions=predicted, references=labels[:, place])
            scores |= {f"{head}_{name}": value for name, value in of_head.items()}
        return scores

    def record(self) -> dict[str, Any]:
        """Return the fields of `EmotionDataRecord` beyond those of the source."""
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
    """Say in sentences how the data were treated, for the reader of the scores."""
    twins = [f"{text} ({plural(data.notes[note], 'row')})." for note, text in TWINS.items() if note in data.notes]
    cut = ", ".join(f"{count:,} of {side}" for side, count in data.texts_cut.items() if count and side != "all")
    order = "; ".join(f"{head} {', '.join(names)}" for head, names in data.names.items())
    return [
        f"The sides are the data's own. Weights are fitted on {SIDES['train']} alone: {SIDES['validation']} chooses "
        "the checkpoint and is not merged into it.",
        "An utterance is judged by itself: no context window, no speaker.",
        "Whatever a row lacks, or has and cannot be decoded, is masked; no row is dropped.",
        *twins,
        *([f"Texts are cut after {data.encoders.max_text_tokens} tokens: {cut}."] if cut else []),
        f"Labels in the order of their codes, from 0: {order}.",
    ]


def notes_on(rows: datasets.Dataset) -> dict[str, int]:
    """Count the rows with each kind of defect, the most frequent first."""
    lists = rows.select_columns("defects").with_format("arrow")[:]["defects"].to_pylist()
    return dict(Counter(kind for defects in lists for kind in {defect["what"] for defect in defects}).most_common())


def modalities_of(run: Run[EmotionTaskSettings]) -> list[str]:
    """Return the modalities that the run's model reads."""
    if run.base_config is not None:
        return list(cast(FusionConfig, run.base_config).modalities)
    return list(run.arguments.model_config.get("modalities", MODALITIES))


def prepare(
    rows: datasets.Dataset,
    processor: FusionProcessor,
    run: Run[EmotionTaskSettings],
    saved: dict[str, Any] | None = None,
) -> EmotionData:
    """Divide the utterances as the data set does.

    Args:
        saved: metrics.json of a run whose model is scored, not trained: a side may then be empty.
    """
    encoders, settings = run.settings.encoders, run.settings.emotion
    modalities, limit = modalities_of(run), encoders.max_text_tokens
    if run.arguments.streaming:
        check_streaming(rows, encoders)
    split = UtteranceSplit.of(rows, SIDES)
    missing = [side for side in SIDES if not split.sides[side].utterances]
    if missing and saved is None:
        raise ValueError(
            f"the data set has no utterance on the side {' and '.join(missing)}; prepare it with all tables"
        )
    places = split.places | {"all": np.arange(len(rows))}
    sides = {
        side: UtteranceDataset(rows.select(where), processor, modalities, limit) for side, where in places.items()
    }
    tokens = token_counts(rows, processor) if "text" in modalities else np.ones(len(rows), np.int64)
    lengths = np.minimum(tokens, limit)[places["train"]]
    cut = {side: int((tokens[where] > limit).sum()) for side, where in places.items()} if "text" in modalities else {}
    names = {head: rows.features[head].names for head in HEADS}
    for side, count in cut.items():
        if count and side != "all":
            logger.warning("%s: cut, for more than %d tokens: %s", side, limit, plural(count, "text"))
    logger.info("utterances: %s", {side: split.sides[side].utterances for side in SIDES})
    return EmotionData(sides, split, names, lengths, cut, notes_on(rows), encoders, settings)


def check_streaming(rows: datasets.Dataset, encoders: EncoderSettings) -> None:
    """Refuse to stream clips that are files of their own, or that all have to be read before training."""
    if encoders.cache_features:
        raise ValueError("cache_features reads every clip once and keeps what is needed; leave streaming out")
    has = np.logical_or(*(np.array(rows[f"has_{name}"][:], bool) for name in ("video", "audio")))
    if has.any() and StreamedRows(rows, ["clip"]).peek(int(has.argmax()), "clip")["bytes"] is None:
        raise ValueError(
            "streaming: the rows do not hold their clips, which are files, each fetched ahead of its use already; "
            "leave streaming out, or prepare the data with --embed_clips"
        )


def token_counts(rows: datasets.Dataset, processor: FusionProcessor) -> np.ndarray:
    """Count the tokens of each text (rows,), before it is cut."""
    texts = [text or "" for text in rows["text"]]
    return np.array([len(ids) for ids in processor.tokenizer(texts)["input_ids"]] if texts else [], np.int64)

"""Prepare stored embeddings for training: modalities, sizes and splits."""

import logging
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from transformers import AutoConfig, EvalPrediction

from evaluation.regression import point_scores
from evaluation.splits import SIDES
from tasks.attention.items import CreativeDataset, column_of, embedding_sizes
from tasks.attention.settings import AttentionSettings, AttentionTaskSettings
from tasks.attention.split import CreativeSplit
from training.fusion_trainer import ONE_LEFT
from training.task import Run

logger = logging.getLogger(__name__)

MODALITIES = ("text", "video", "audio", "back_audio")


@dataclass(frozen=True)
class AttentionData:
    """A data set's creatives, divided."""

    sides: dict[str, CreativeDataset]
    split: CreativeSplit
    settings: AttentionSettings
    left_out: dict[str, int]  # reason -> creatives

    @property
    def train(self) -> CreativeDataset:
        """What weights are fitted on."""
        return self.sides["train"]

    @property
    def validation(self) -> CreativeDataset:
        """What checkpoints are chosen on."""
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Correlations, R2 and MAE: to choose a checkpoint by; one that is not defined is left out."""
        found = point_scores(output.label_ids, output.predictions[0])
        return {name: value for name, value in found.items() if value is not None}

    def record(self) -> dict[str, Any]:
        """What each side holds and lacks."""
        sides = {
            name: {
                "creatives": len(side),
                "without": {modality: int((~side.present(modality)).sum()) for modality in side.modalities},
            }
            for name, side in self.sides.items()
            if name in SIDES
        }
        return {"sides": sides, "left_out": self.left_out, "split_warning": None, "control": None}


def prepare(
    rows: datasets.Dataset, extractor: None, run: Run[AttentionTaskSettings], saved: dict[str, Any] | None = None
) -> AttentionData:
    """The sides, by a hash of the ids."""
    name, taken = run.arguments.model_name_or_path, None
    if name:
        config = AutoConfig.from_pretrained(name)
        modalities, taken = list(config.modalities), config.embedding_sizes
    else:
        modalities = list(run.arguments.model_config.get("modalities", MODALITIES))
    known = np.flatnonzero(np.isfinite(column_of(rows, "target").to_numpy()))
    left_out = {"no target": len(rows) - len(known)} if len(known) < len(rows) else {}
    rows = rows.select(known)
    sizes = embedding_sizes(rows, modalities, taken)
    split = CreativeSplit.of(rows["creative_id"][:], run.settings.split)
    places = split.places | {"all": np.arange(len(rows))}
    sides = {side: CreativeDataset(rows.select(where), modalities, sizes) for side, where in places.items()}
    empty = [side for side in SIDES if len(sides[side]) < ONE_LEFT]
    if empty and saved is None:
        raise ValueError(
            f"the split leaves {' and '.join(empty)} with fewer than {ONE_LEFT} of {len(rows)} creatives; change the "
            "fractions, or split_seed"
        )
    logger.info("creatives: %s", {side: len(sides[side]) for side in SIDES})
    return AttentionData(sides, split, run.settings.attention, left_out)

"""Divide the creatives of a data set, and make items of them."""

import logging
from dataclasses import dataclass
from typing import Any, cast

import datasets
import numpy as np
from transformers import EvalPrediction

from evaluation.regression import MORE_IS_BETTER
from evaluation.splits import SIDES
from evaluation.validation import validation_scores
from modeling import FusionConfig
from tasks.attention.items import CreativeDataset, column_of, embedding_sizes
from tasks.attention.settings import MODALITIES, AttentionSettings, AttentionTaskSettings
from tasks.attention.split import CreativeSplit
from training.fusion_trainer import SMALLEST_BATCH
from training.task import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttentionData:
    """The creatives of a data set, divided."""

    sides: dict[str, CreativeDataset]  # those of the split, and "all"
    split: CreativeSplit
    settings: AttentionSettings
    left_out: dict[str, int]  # reason -> creatives

    @property
    def train(self) -> CreativeDataset:
        return self.sides["train"]

    @property
    def validation(self) -> CreativeDataset:
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return correlations, R2 and errors of all creatives as one trial; one that is not defined is left out."""
        targets, predictions = cast(np.ndarray, output.label_ids)[None], output.predictions[0][None]  # (1, N)
        everyone = np.ones(targets.shape, bool)
        return validation_scores(MORE_IS_BETTER, predictions=predictions, references=targets, mask=everyone)

    def record(self) -> dict[str, Any]:
        """Return the fields of `AttentionDataRecord` beyond those of the source."""
        return {
            "sides": {name: describe_side(self.sides[name]) for name in SIDES},
            "left_out": self.left_out,
            "split_warning": None,
            "control": None,
        }


def describe_side(side: CreativeDataset) -> dict[str, Any]:
    """Count creatives, and those without each modality."""
    without = {name: int((~side.present(name)).sum()) for name in side.modalities}
    return {"creatives": len(side), "without": without}


def prepare(
    rows: datasets.Dataset, run: Run[AttentionTaskSettings], saved: dict[str, Any] | None = None
) -> AttentionData:
    """Divide the creatives with a target by a hash of their ids.

    Args:
        saved: metrics.json of a run whose model is scored, not trained: a side may then be empty.
    """
    has_target = np.isfinite(column_of(rows, "target").to_numpy())
    without_target = int((~has_target).sum())
    left_out = {"no target": without_target} if without_target else {}
    rows = rows.select(np.flatnonzero(has_target))

    sizes = sizes_for(rows, run)
    split = CreativeSplit.of(rows["creative_id"][:], run.settings.split)
    places = split.places | {"all": np.arange(len(rows))}
    sides = {side: CreativeDataset(rows.select(where), sizes) for side, where in places.items()}
    too_small = [side for side in SIDES if len(sides[side]) < SMALLEST_BATCH]
    if too_small and saved is None:
        raise ValueError(
            f"the split leaves {' and '.join(too_small)} with fewer than {SMALLEST_BATCH} of {len(rows)} creatives; "
            "change the fractions, or split_seed"
        )
    logger.info("creatives: %s", {side: len(sides[side]) for side in SIDES})
    return AttentionData(sides, split, run.settings.attention, left_out)


def sizes_for(rows: datasets.Dataset, run: Run[AttentionTaskSettings]) -> dict[str, int]:
    """Return the numbers of an embedding of each modality that the run's model reads."""
    if run.base_config is not None:
        base = cast(FusionConfig, run.base_config)
        return embedding_sizes(rows, base.modalities, base.embedding_sizes)
    return embedding_sizes(rows, run.arguments.model_config.get("modalities", MODALITIES))

"""Split the creatives of a data set, and turn them into training items."""

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
    """The items of each split."""

    sides: dict[str, CreativeDataset]  # by split; "all" holds every creative
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
        """Return correlations, R2 and errors over all creatives, without those that are undefined."""
        # The metric modules average over trials. All creatives form one trial, as one score is wanted.
        targets, predictions = cast(np.ndarray, output.label_ids)[None], output.predictions[0][None]  # (1, N)
        mask = np.ones(targets.shape, bool)
        return validation_scores(MORE_IS_BETTER, predictions=predictions, references=targets, mask=mask)

    def record(self) -> dict[str, Any]:
        """Return the fields that `AttentionDataRecord` adds to `DataRecord`."""
        return {
            "sides": {name: describe_side(self.sides[name]) for name in SIDES},
            "left_out": self.left_out,
            "split_warning": None,
            "control": None,
        }


def describe_side(side: CreativeDataset) -> dict[str, Any]:
    """Return the number of creatives, and how many lack each modality."""
    without = {name: int((~side.present(name)).sum()) for name in side.modalities}
    return {"creatives": len(side), "without": without}


def prepare(
    rows: datasets.Dataset, run: Run[AttentionTaskSettings], saved: dict[str, Any] | None = None
) -> AttentionData:
    """Drop creatives without a target, and split the others by a hash of their ids.

    Args:
        saved: metrics.json of the run that trained the model, if the model is only scored. A split may then be empty.
    """
    # isfinite also drops NaN, which a table may hold instead of null.
    has_target = np.isfinite(column_of(rows, "target").to_numpy())
    without_target = int((~has_target).sum())
    left_out = {"no target": without_target} if without_target else {}
    rows = rows.select(np.flatnonzero(has_target))

    sizes = run_embedding_sizes(rows, run)
    split = CreativeSplit.of(rows["creative_id"][:], run.settings.split)
    indices = split.indices | {"all": np.arange(len(rows))}
    sides = {side: CreativeDataset(rows.select(members), sizes) for side, members in indices.items()}
    # BatchNorm needs two items, and a correlation needs two creatives.
    too_small = [side for side in SIDES if len(sides[side]) < SMALLEST_BATCH]
    if too_small and saved is None:
        raise ValueError(
            f"split_seed={run.settings.split.split_seed}: fewer than {SMALLEST_BATCH} of {len(rows)} creatives in "
            f"{' and '.join(too_small)}. Change the seed or the fractions, or add data."
        )
    logger.info("Creatives per split: %s", {side: len(sides[side]) for side in SIDES})
    return AttentionData(sides, split, run.settings.attention, left_out)


def run_embedding_sizes(rows: datasets.Dataset, run: Run[AttentionTaskSettings]) -> dict[str, int]:
    """Return the embedding size of each modality that the run's model reads."""
    if run.base_config is not None:
        base = cast(FusionConfig, run.base_config)
        return embedding_sizes(rows, base.modalities, base.embedding_sizes)
    return embedding_sizes(rows, run.arguments.model_config.get("modalities", MODALITIES))

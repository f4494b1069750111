"""The record of a made-up run of the attention task."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.embedding_baselines import mean_baseline, ridge
from evaluation.regression import assess
from tasks.attention.records import AttentionResults
from tests.helpers.facts import run_facts, training_log

MODALITIES = ("text", "video", "audio", "back_audio")
SIZES = {"text": 384, "video": 512, "audio": 96, "back_audio": 64}


def make_run(rows: int = 300, ablated: bool = True, constant: bool = False) -> tuple[dict[str, Any], pa.Table]:
    """Return an assessment and its predictions; the target is text times video, plus a part of text."""
    random = np.random.default_rng(0)
    text, video, noise = random.normal(size=(3, rows + 400))
    targets = 5 + text * video + 0.3 * text + 0.3 * noise
    train, validation, test = slice(0, 200), slice(200, 400), slice(400, None)
    x = np.column_stack([text, video])
    predicted = np.full(rows, 5.0) if constant else (targets - 0.3 * noise)[test]
    baselines = {
        "mean": mean_baseline(targets[train], rows),
        "ridge on all": ridge(x[train], targets[train], x[validation], targets[validation], x[test]),
    }
    ablations = {
        "text alone": 5 + 0.3 * text[test],
        "without text": np.full(rows, 5.0),
        "without video": 5 + 0.3 * text[test] + 4,
        "without audio": predicted + 1e-3 * noise[:rows],
    }
    present = {name: random.random(rows) < share for name, share in zip(MODALITIES, (1, 1, 0.9, 0.8), strict=True)}
    ids = [f"creative{row}" for row in range(rows)]
    scores = assess(ids, targets[test], predicted, baselines, ablations if ablated else {}, present, "s", samples=200)
    results = AttentionResults(**vars(scores), note=None)
    return asdict(results), pa.table({"id": ids, "target": targets[test], "prediction": predicted})


def make_facts(test: dict[str, Any] | None = None) -> dict[str, Any]:
    without = dict.fromkeys(MODALITIES, 0) | {"back_audio": 61}
    return run_facts(
        task="attention",
        name="tunein_attention",
        data={
            "dataset": "hf_datasets/tunein",
            "rows": 700,
            "sides": {
                side: {"creatives": count, "without": without}
                for side, count in (("train", 200), ("validation", 200), ("test", 300))
            },
            "left_out": {"no label": 7},
            "notes": {"empty list of audio": 3},
        },
        model={
            "model_type": "fusion",
            "modalities": list(MODALITIES),
            "embedding_sizes": SIZES,
            "fusion": "gated",
        },
        training={
            "steps": 190,
            "epochs": 4.0,
            "best_checkpoint_step": 150,
            "best_validation": 0.56,
            "chosen_by": "spearman",
            "log": training_log("spearman"),
        },
        test=make_run()[0] if test is None else test,
    )

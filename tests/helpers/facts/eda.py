"""The record of a made-up run of the eda task."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.ndimage import gaussian_filter1d

from evaluation.signal_baselines import BASELINES_WITHOUT_SOUND
from evaluation.signals import ChannelResults, assess, longest_of_song
from evaluation.trials import Trials
from tasks.eda.results import score_table
from tests.helpers.facts import SCRIPT, run_facts

FRAMES = 120
SIDE = {"trials": 60, "songs": 10, "listeners": 6}
LOG = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5, "eval_rmse": 0.9}, {"step": 3, "loss": 1.0}]


def slow(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Return slow random curves."""
    return gaussian_filter1d(generator.normal(size=shape), 5, axis=-1)


def make_assessment(songs: int = 10, listeners: int = 6, coupling: float = 1.0, **changes: Any) -> ChannelResults:
    """Assess a model that predicts the effect of each song exactly.

    Args:
        coupling: how much of this effect the targets contain.
        changes: `constant`, a value to predict instead; `masked`, trials to mask; `noise`, its size in the targets.
    """
    generator = np.random.default_rng(0)
    song, listener = np.repeat(np.arange(songs), listeners), np.tile(np.arange(listeners), songs)
    effect = slow(generator, songs, FRAMES)
    predicted = effect if changes.get("constant") is None else np.full_like(effect, changes["constant"])
    mask = np.ones((len(song), FRAMES), bool)
    mask[list(changes.get("masked", []))] = False
    targets = coupling * effect[song] + changes.get("noise", 1.0) * slow(generator, len(song), FRAMES)
    names = np.array([f"song {n}" for n in song])
    model = Trials(predicted[song], targets, mask, names, np.array([f"{n}" for n in listener]), 4.0, "uS")
    curve = np.linspace(0, 1, FRAMES)
    baselines = {name: np.broadcast_to(curve, targets.shape) for name in (*BASELINES_WITHOUT_SOUND, "ridge")}
    by_song = longest_of_song(list(predicted[song]), names)
    results = assess(model, baselines, np.zeros(len(song)), by_song, targets)
    record = asdict(results)
    json.dumps(record, allow_nan=False)  # raises if a NaN reaches the record
    table = score_table({"unit": "uS", "trials": len(song), "channels": {"raw": record}}, "raw").markdown()
    assert "nan" not in table.lower()
    assert "None" not in table
    return results


def make_facts(**changes: Any) -> dict[str, Any]:
    """Return the record of a run; `changes` are those of its assessment."""
    return run_facts(
        task="eda",
        name="eda",
        data={
            "dataset": "hf_datasets/pmemo",
            "songs": 20,
            "trials": 120,
            "sides": dict.fromkeys(("train", "validation", "test"), SIDE),
            "songs_left_out": {"unreadable_audio": 3},
            "trials_rejected": {"flat": 7},
            "rejected_trials": {"flat": [f"song {n}/3/0" for n in range(7)]},
            "trials_between_sides": 11,
            "notes": {"kept below 0 uS": 2},
            "listeners_scaled_by_everyone": [],
            "split_warning": "random_pairs puts songs on two sides",
        },
        split={"sha256": "ab" * 32, "split_by": "random_pairs", "split_seed": 0},
        model={"model_type": "tcn", "frame_rate": 4.0},
        training={
            "steps": 3,
            "epochs": 1.0,
            "best_checkpoint_step": 2,
            "chosen_by": "rmse",
            "log": LOG,
        },
        parameters=10,
        receptive_field_seconds=2.0,
        test={"unit": "uS", **SIDE, "note": None, "channels": {"raw": asdict(make_assessment(**changes))}},
    )


def make_predictions(scores: list[float | None]) -> pa.Table:
    """Return one row per trial, with masked frames and a song name that would break an HTML page."""
    return pa.Table.from_pylist(
        [
            {
                "song_id": SCRIPT,
                "listener": f"{number}",
                "channel": "raw",
                "unit": "uS",
                "frame_rate": 4.0,
                "target": [0.0, 1.0, None, None, 2.0],
                "prediction": [0.0, 0.5, 0.5, 0.5, 1.0],
                "detrended_pearson": score,
            }
            for number, score in enumerate(scores)
        ]
    )

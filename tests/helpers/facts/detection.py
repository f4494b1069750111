"""The record of a made-up run of the detection task."""

from typing import Any

import numpy as np

from tests.helpers.facts import run_facts

CONFUSERS = (
    "Crying, sobbing", "Whimper", "Baby laughter", "Child speech, kid speaking", "Cat", "Meow", "Screaming", "Goat",
    "Bleat", "Speech", "Music", "Domestic sounds, home sounds and everything else that is heard there", "Squeak",
    "Violin, fiddle", "Siren", "Inside, small room", "Toot",
)  # fmt: skip


def score(mean: float | None, spread: float | None = 0.05, reason: str | None = None) -> dict[str, Any]:
    """Return a score as an assessment records it."""
    has_bounds = mean is not None and spread is not None
    bounds = {"low": mean - spread, "high": mean + spread} if has_bounds else {"low": None, "high": None}
    return {"mean": mean, **bounds, "undefined": 0, "reason": reason}


def make_scores(level: float) -> dict[str, Any]:
    """Return all scores of a detector of this level, between 0 and 1."""
    names = ("event_f1", "recall_at_1_per_hour", "f1", "precision", "average_precision", "recall",
             "recall_at_10_per_hour", "recall_at_60_per_hour", "roc_auc")  # fmt: skip
    scores = {name: score(level * (0.7 + 0.05 * number)) for number, name in enumerate(names)}
    return scores | {"d_prime": score(3 * level, 0.2), "false_alarms_per_hour": score(30 * (1 - level), 3.0)}


def make_curve(random: np.random.Generator, steepness: float) -> dict[str, list[float]]:
    """Return precision and recall of 60 positives in 1,200 clips; their scores are `steepness` deviations higher."""
    targets = np.arange(1200) < 60
    order = np.argsort(-(random.normal(size=1200) + steepness * targets))
    hits = np.cumsum(targets[order])
    return {"recall": (hits / 60).tolist(), "precision": (hits / np.arange(1, 1201)).tolist()}


def make_timeline(random: np.random.Generator, title: str, events: list[list[float]]) -> dict[str, Any]:
    """Return a clip of 10 s, scored every half second; scores from 0.5 are detected."""
    seconds = np.arange(0.0, 9.5, 0.5)
    inside = np.array([any(start - 0.7 < time < end for start, end in events) for time in seconds])
    scores = np.clip(random.beta(2, 6, size=len(seconds)) + 0.6 * inside, 0, 1)
    if not events:
        scores[6:9] = (0.6, 0.8, 0.55)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], scores >= 0.5, [False]]).astype(int))).reshape(-1, 2)
    detected = [[float(seconds[a]), float(seconds[b - 1]) + 1.0, float(scores[a:b].max())] for a, b in runs]
    return {
        "clip_id": "-a_b",
        "title": title,
        "seconds": seconds.tolist(),
        "scores": scores.tolist(),
        "events": events,
        "detected": detected,
    }


def make_test(random: np.random.Generator) -> dict[str, Any]:
    """Return the record of an assessment, with realistic numbers."""
    positives, negatives = random.beta(5, 2, size=60), random.beta(1.2, 9, size=1140)
    edges = np.linspace(0, 1, 41)
    alarms = sorted((int(count) for count in random.geometric(0.12, size=len(CONFUSERS))), reverse=True)
    return {
        "target": [{"mid": "/t/dd00002", "name": "Baby cry, infant cry"}],
        "clips": 1200,
        "positives": 60,
        "negatives": 1140,
        "ambiguous": 31,
        "hours_of_negatives": 3.17,
        "threshold": {"value": 0.5, "rule": "f1", "chosen_on": "validation"},
        "scores": make_scores(0.8) | {"recall": score(0.85), "precision": score(0.72)},
        "baselines": {
            "chance": {"average_precision": score(0.05, None), "roc_auc": score(0.5, None)},
            "loudness": make_scores(0.2),
            "mfcc_regression": make_scores(0.6),
        },
        "gains": {"loudness": score(0.54, 0.06), "mfcc_regression": score(0.2, 0.07)},
        "baselines_left_out": {},
        "permutation_p": {},
        "false_alarms_at_recall": {"recall": 0.9, "per_hour": 14.2},
        "curve": make_curve(random, 3.2),
        "baseline_curves": {"loudness": make_curve(random, 0.8), "mfcc_regression": make_curve(random, 2.0)},
        "histogram": {
            "edges": edges.tolist(),
            "positives": np.histogram(positives, edges)[0].tolist(),
            "negatives": np.histogram(negatives, edges)[0].tolist(),
        },
        "confusers": [
            {"mid": f"/m/{number}", "name": name, "clips": 12 * count + 9, "clips_with_false_alarm": count // 2 + 1,
             "false_alarms": count}
            for number, (name, count) in enumerate(zip(CONFUSERS, alarms, strict=True))
        ],
        "timelines": [
            make_timeline(random, "best positive: dQw4w9WgXcQ, highest score 0.98", [[1.2, 2.1], [5.0, 8.3]]),
            make_timeline(random, "median positive: -x_y $z$, highest score 0.87", [[3.0, 3.4]]),
            make_timeline(random, "worst positive: ab_cd, highest score 0.80", []) | {"events": None},
            make_timeline(random, "worst false alarm: $_a-, highest score 0.80", []),
        ],
        "unreadable": 2,
        "note": None,
    }  # fmt: skip


def make_training(random: np.random.Generator) -> dict[str, Any]:
    """Return the record of a training run of eight epochs."""
    epochs = range(8)
    log = [{"step": 10 * step, "loss": 0.7 * 0.93**step + 0.02 * float(random.random())} for step in range(1, 41)]
    log += [
        {
            "step": 50 * (epoch + 1),
            "eval_loss": 0.5 * 0.8**epoch + 0.1,
            "eval_average_precision": 0.8 - 0.5 * 0.6**epoch,
        }
        for epoch in epochs
    ]
    return {
        "steps": 400,
        "epochs": 8.0,
        "best_checkpoint_step": 350,
        "best_validation": 0.78,
        "chosen_by": "average_precision",
        "log": log,
        "length": {"steps": 400, "steps_per_epoch": 50, "positives": 410, "positives_per_step": 8, "passes": 7.8},
        "composition": {
            "planned": {"positive": 3200, "tier_a": 1920, "tier_b": 1280, "weak": 6400},
            "served": {"positive": 3161, "tier_a": 1919, "tier_b": 1280, "weak": 6398},
            "explicit": 96,
            "hard": 871,
            "substituted": 17,
            "mixed": 42,
        },
        "coverage": {"labels": 447, "seen": 445, "rounds": 2, "never": ["Toothbrush", "Yodeling"]},
        "mining": [
            {"epoch": epoch, "scored": 1195 - epoch, "hard": int(420 * 0.7**epoch), "quarantined": max(0, epoch - 3),
             "mean_score": 0.3 * 0.8**epoch, "tier_b_from_mining": 160 if epoch else 0}
            for epoch in epochs
        ],
        "substitutions": [{"clip_id": "abc_-defghi", "times": 17, "reason": "0 bytes"},
                          {"clip_id": "zyx_-wvutsr", "times": 1, "reason": None}],
    }  # fmt: skip


def make_facts() -> dict[str, Any]:
    random = np.random.default_rng(0)
    training = make_training(random)
    counts = {"clips": 1200, "with_target": 60, "ambiguous": 31}
    trim = [
        {
            "name": name,
            "before": 40_000 // (number + 1) ** 2,
            "after": (8_000 if number < 2 else 39_000) // (number + 1) ** 2,
        }
        for number, name in enumerate(("Speech", "Music", *CONFUSERS[:9], "Yodeling"))
    ]
    return run_facts(
        task="detection",
        name="baby_cry",
        data={
            "dataset": "hf_datasets/audioset",
            "files": {f"{side}-0a1b2c-00000-of-00001.parquet": "5e" * 32 for side in ("train", "eval")},
            "rows": 64_320,
            "clips": {
                "clips": 64_320, "with_audio": 59_193, "unusable": {"missing": 5112, "empty": 12, "corrupt": 3},
                "positives": 1767, "weak_negatives": 48_112,
            },
            "rules": [
                {"rule": "no usable audio", "clips": 5127},
                {"rule": "weak negatives with the target or a related label in any table", "clips": 246},
                {"rule": "validation clips out of training", "clips": 4410},
            ],
            "trim": trim,
            "sides": {
                "train": {"clips": 51_204, "with_target": 492, "items": 71_090}, "validation": counts, "test": counts,
            },
        },
        split={"sha256": "ab" * 32, "validation_fraction": 0.1, "validation_seed": 0},
        model={
            "model_type": "tcn",
            "num_channels": 32,
            "detection": {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": 0.5},
        },
        parameters=61_313,
        receptive_field_seconds=1.9,
        training=training,
        test=make_test(random),
    )  # fmt: skip

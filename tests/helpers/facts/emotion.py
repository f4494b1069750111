"""The record of a made-up run of the emotion task."""

from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.classification import Utterances, assess
from tasks.emotion.records import EmotionResults
from tests.helpers.facts import run_facts, training_log

HEADS = {
    "emotion": ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"],
    "sentiment": ["negative", "neutral", "positive"],
}
OF_EMOTION = np.array([0, 0, 0, 2, 1, 0, 2])  # the sentiment of each
SHARES = [0.13, 0.03, 0.02, 0.16, 0.48, 0.08, 0.1]


def make_side(random: np.random.Generator, rows: int, texts: bool = True) -> Utterances:
    """Return utterances in dialogues of ten; a word tells the emotion in half of them."""
    emotion = random.choice(7, rows, p=SHARES)
    word = np.where(random.random(rows) < 0.5, emotion, random.integers(0, 7, rows))
    ids = [f"dia{row // 10}_utt{row % 10}" for row in range(rows)]
    sentences = [f"word{word[row]} and number{row % 97}" if texts else "" for row in range(rows)]
    present = {"text": np.full(rows, texts), "video": random.random(rows) < 0.95}
    labels = {"emotion": emotion, "sentiment": OF_EMOTION[emotion]}
    return Utterances(ids, [name.partition("_")[0] for name in ids], sentences, labels, present)


def probabilities(
    random: np.random.Generator, side: Utterances, strength: float, never: tuple[int, ...] = ()
) -> dict[str, np.ndarray]:
    """Return the softmax of noise plus `strength` for the truth; the emotions `never` are not predicted."""
    by_head = {}
    for head, names in HEADS.items():
        logits = random.normal(size=(len(side.ids), len(names)))
        logits[np.arange(len(side.ids)), side.labels[head]] += strength
        if head == "emotion":
            logits[:, list(never)] = -9.0
        by_head[head] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return by_head


def constant(side: Utterances) -> dict[str, np.ndarray]:
    """Return probabilities of a model that always predicts neutral."""
    neutral = {"emotion": 4, "sentiment": 1}
    return {head: np.tile(np.eye(len(HEADS[head]))[code], (len(side.ids), 1)) for head, code in neutral.items()}


def make_test(strength: float = 3.0, texts: bool = True, ablated: bool = True) -> dict[str, Any]:
    """Return the results of a test, as in metrics.json."""
    random = np.random.default_rng(0)
    train, test = make_side(random, 900, texts), make_side(random, 400, texts)
    names = ("text alone", "without text") if ablated else ()
    ablations = {who: probabilities(random, test, strength - 1) for who in names}
    scores = assess(HEADS, train, test, probabilities(random, test, strength, never=(2,)), ablations)
    return asdict(EmotionResults(**vars(scores), undecodable=0, note=None))


def make_facts(test: dict[str, Any] | None = None) -> dict[str, Any]:
    return run_facts(
        task="emotion",
        name="meld_fusion",
        data={
            "dataset": "hf_datasets/meld",
            "rows": 1500,
            "sides": {"train": {"utterances": 900, "dialogues": 90}, "test": {"utterances": 400, "dialogues": 40}},
            "policies": ["Of twin clips of the test, the prefixed one is used."],
            "notes": {"video missing": 20},
        },
        model={"model_type": "fusion", "modalities": ["text", "video"], "fusion": "concat"},
        training={
            "steps": 190,
            "epochs": 4.0,
            "best_checkpoint_step": 150,
            "best_validation": 0.56,
            "chosen_by": "weighted_f1",
            "log": training_log("weighted_f1"),
            "substitutions": [{"clip_id": "dia1_utt2", "times": 3, "reason": "0 bytes"}],
        },
        test=make_test() if test is None else test,
    )

"""Scores of a detector as tables and sentences, and the verdict on it."""

from pathlib import Path
from typing import Any

from evaluation.verdict import SURE
from reporting.cells import cell, difference_cell, listed
from reporting.sections import Notice, Part, Table, joined
from reporting.texts import Texts
from system.text import plural

TEXTS = Texts(Path(__file__).parent / "texts.md.jinja")
# Rows of the table: heading, score, decimals.
SCORES = (
    ("average precision", "average_precision", 3),
    ("ROC-AUC", "roc_auc", 3),
    ("d'", "d_prime", 2),
    ("recall at 1 false alarm per hour", "recall_at_1_per_hour", 3),
    ("recall at 10 false alarms per hour", "recall_at_10_per_hour", 3),
    ("recall at 60 false alarms per hour", "recall_at_60_per_hour", 3),
    ("false alarms per hour at 90 % recall", "false_alarms_at_recall", 2),
    ("at the threshold: recall", "recall", 3),
    ("at the threshold: precision", "precision", 3),
    ("at the threshold: F1", "f1", 3),
    ("at the threshold: false alarms per hour", "false_alarms_per_hour", 2),
    ("at the threshold: F1 of events", "event_f1", 3),
)
NAMES = {  # of baselines whose key in the record is no readable name
    "mfcc_regression": "MFCC + logistic regression",
    "logmel_head": "same head on log-mel",
    "encoder_regression": "frozen encoder + logistic regression",
}


def results_table(test: dict[str, Any]) -> str:
    """Return the verdict, the operating point and the scores in Markdown, for the terminal."""
    note = [test["note"]] if test["note"] else []
    return joined([verdict(test), *scores(test), *note])


def conclusion(test: dict[str, Any]) -> str:
    """Return average precision and the verdict in one line."""
    return TEXTS.line("conclusion", test=test, verdict=verdict_of(test))


def verdict(test: dict[str, Any]) -> Notice:
    """Return which baselines the model beats, the evidence, and the operating point."""
    gains, p = test.get("gains") or {}, test.get("permutation_p") or {}
    rivals = [
        {"name": name_of(who), "score": score, "gain": gains.get(who), "p": p.get(who)}
        for who, score in rivals_of(test).items()
    ]
    left_out = (test.get("baselines_left_out") or {}).items()
    paragraphs = [
        TEXTS("verdict", test=test, verdict=verdict_of(test), rivals=rivals),
        *(TEXTS("not_compared", name=name_of(who), reason=reason) for who, reason in left_out),
        TEXTS("operating_point", test=test),
    ]
    return Notice("\n\n".join(paragraphs), "verdict")


def scores(test: dict[str, Any]) -> list[Part]:
    """Return the scores of the model and its baselines, and what is needed to read them."""
    return [score_table(test), *remarks(test), *encoder_share(test)]


def score_table(test: dict[str, Any]) -> Table:
    """Return one row per score, with one column for the model and each baseline."""
    columns = {"model": test["scores"], **test["baselines"]}
    rows = [
        [heading, *(cell(found.get(score), decimals) for found in columns.values())]
        for heading, score, decimals in SCORES
        if any(score in found for found in columns.values())
    ]
    first = f"{plural(test['clips'], 'clip')}, {test['positives']:,} with the target"
    return Table([first, *map(name_of, columns)], rows)


def name_of(baseline: str) -> str:
    """Return the readable name of a baseline."""
    return NAMES.get(baseline, baseline.replace("_", " "))


def is_beaten(test: dict[str, Any], baseline: str) -> bool:
    """Return whether the model is better than a baseline, by the rule that the report states."""
    p = (test.get("permutation_p") or {}).get(baseline)  # records of older versions have neither
    gain = (test.get("gains") or {}).get(baseline)
    if p is not None:
        return p < SURE
    if gain is not None:
        return gain["low"] is not None and gain["low"] > 0
    score, rival = test["scores"]["average_precision"], test["baselines"][baseline]["average_precision"]
    bound = rival["mean"] if rival["high"] is None else rival["high"]
    return score["low"] is not None and score["low"] > bound


def verdict_of(test: dict[str, Any]) -> str:
    """Return which baselines the model beats, and which it is not shown to beat."""
    if test["scores"]["average_precision"]["mean"] is None:
        return "not measured"
    rivals = rivals_of(test)
    beaten = [name_of(who) for who in rivals if is_beaten(test, who)]
    unbeaten = [name_of(who) for who in rivals if not is_beaten(test, who)]
    parts = [f"better than {listed(beaten)}"] if beaten else []
    parts += [f"not shown to be better than {listed(unbeaten)}"] if unbeaten else []
    return ", ".join(parts) or "compared with nothing"


def rivals_of(test: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the average precision of each baseline that has one."""
    return {
        who: found["average_precision"]
        for who, found in test["baselines"].items()
        if "average_precision" in found and found["average_precision"]["mean"] is not None
    }


def remarks(test: dict[str, Any]) -> list[str]:
    """Return what a reader needs to know about rates per hour on few hours."""
    texts = []
    at_recall, hours = test["false_alarms_at_recall"], test["hours_of_negatives"]
    if at_recall and at_recall["per_hour"] is not None and "false_alarms_at_recall" not in test["scores"]:
        texts.append(TEXTS("false_alarms_at_recall", at_recall=at_recall))
    if 0 < hours < 1:
        texts.append(TEXTS("short_negatives", hours=hours))
    return texts


def encoder_share(test: dict[str, Any]) -> list[Part]:
    """Return the gain from a pretrained encoder, if the model has one."""
    if test.get("encoder_gain") is None:
        return []
    rows = []
    for who in ("logmel_head", "mfcc_regression", "encoder_regression"):
        if who in test["baselines"]:  # records of older versions lack the head
            score, gain = test["baselines"][who]["average_precision"], test["gains"][who]
            rows.append([name_of(who), cell(score), difference_cell(gain)])
    rows.append(["model", cell(test["scores"]["average_precision"]), ""])
    table = Table(["with and without the encoder", "average precision", "gain of the model"], rows)
    return [table, TEXTS("encoder_share", gain=test["encoder_gain"])]

"""Scores of a classifier of utterances as tables and sentences."""

from pathlib import Path
from typing import Any

from reporting.cells import listed
from reporting.common import compared_table
from reporting.sections import Heading, Notice, Part, Table, joined
from reporting.texts import SHARED, Texts
from system.text import plural

TEXTS = Texts(Path(__file__).parent / "texts.md.jinja")
SCORES = (("accuracy", "accuracy"), ("weighted F1", "weighted_f1"), ("macro F1", "macro_f1"))  # heading, score
GAIN = ("model's gain", "weighted_f1")
NAMES = {"majority": "the majority class", "tfidf": "TF-IDF", "dealt": "its shuffled predictions"}


def results_table(test: dict[str, Any]) -> str:
    """Return verdict, scores and classes of each head in Markdown, then the remarks on both, for the terminal."""
    parts: list[Part] = []
    for head in test["heads"]:
        parts += [verdict(test, head), score_table(test, head), class_table(test, head), *unseen_texts(test, head)]
    return joined([*parts, *remarks(test)])


def conclusion(test: dict[str, Any]) -> str:
    """Return the main score and the verdict, one line per head."""
    lines = []
    for head, found in test["heads"].items():
        score = found["verdict"]["score"]
        lines.append(
            TEXTS.line(
                "conclusion",
                head=head,
                name=name_of_score(score),
                score=found["scores"][score],
                rows=test["rows"],
                verdict=verdict_of(found["verdict"]),
            )
        )
    return "\n".join(lines)


def verdict_of(verdict: dict[str, Any]) -> str:
    """Return the baselines that are not beaten, or else those that are: all of them."""
    if verdict["unbeaten"]:
        return f"not shown to be better than {listed([NAMES[who] for who in verdict['unbeaten']])}"
    return f"better than {listed([NAMES[who] for who in verdict['beaten']])}"


def verdict(test: dict[str, Any], head: str) -> Notice:
    """Return whether the model beats each baseline, by the interval of the difference, and the classes it never
    predicts.
    """
    found = test["heads"][head]
    score = found["verdict"]["score"]
    text = TEXTS(
        "verdict",
        head=head,
        verdict=verdict_of(found["verdict"]),
        score={"name": name_of_score(score), "score": found["scores"][score]},
        rivals=[{"name": NAMES[who], "gain": rival["difference"][score]} for who, rival in found["baselines"].items()],
        left_out=[(NAMES[who], reason) for who, reason in found["baselines_left_out"].items()],
        never=found["dead_classes"],
    )
    return Notice(text, "verdict")


def name_of_score(score: str) -> str:
    """Return the readable name of a score."""
    return next(heading for heading, name in SCORES if name == score)


def score_table(test: dict[str, Any], head: str) -> Table:
    """Return one row for the model, each baseline and each ablation."""
    found = test["heads"][head]
    names = NAMES | {"majority": f"majority: always {found['majority']}"}
    scored: dict[str, Any] = found["baselines"] | found["ablations"]
    rivals = {names.get(who, who): rival for who, rival in scored.items()}
    title = f"{head}, {plural(test['rows'], 'row')} of {plural(test['dialogues'], 'dialogue')}"
    return compared_table(title, SCORES, found["scores"], rivals, GAIN)


def class_table(test: dict[str, Any], head: str) -> Table:
    """Return one row per class: precision, recall, F1 and support, and the F1 of the baselines."""
    found = test["heads"][head]
    rivals = list(found["baselines"])
    rows = []
    for name, scores in found["per_class"].items():
        rows.append(
            [
                name,
                f"{scores['precision']:.3f}" if scores["predicted"] else "0 (never predicted)",
                f"{scores['recall']:.3f}" if scores["support"] else "0 (no row)",
                f"{scores['f1']:.3f}" if scores["predicted"] + scores["support"] else "0 (neither)",
                f"{scores['support']:,}",
                f"{scores['predicted']:,}",
                *(f"{found['baselines'][who]['per_class'][name]:.3f}" for who in rivals),
            ]
        )
    headings = ["precision", "recall", "F1", "rows", "predicted", *(f"F1 of {NAMES[who]}" for who in rivals)]
    return Table([head, *headings], rows)


def unseen_texts(test: dict[str, Any], head: str) -> list[Table]:
    """Return the scores on rows whose text does not occur in training, if any does."""
    found = test["heads"][head]["unseen_texts"]
    if found is None:
        return []
    rivals = {NAMES[who]: rival for who, rival in found["baselines"].items()}
    title = f"{head}, {plural(found['rows'], 'row')} with new text"
    return [compared_table(title, SCORES, found["scores"], rivals, GAIN)]


def repeated_texts(test: dict[str, Any]) -> list[Part]:
    """Return how many test texts a model may have memorised, and the scores without them."""
    if test["repeated_texts"] is None:
        return []
    tables = [table for head in test["heads"] for table in unseen_texts(test, head)]
    return [
        Heading("Texts that also occur in training"),
        TEXTS("repeated", repeated=test["repeated_texts"]),
        TEXTS("without_repeated"),
        *tables,
    ]


def remarks(test: dict[str, Any]) -> list[str]:
    """Return what a reader needs to know about the tables of all heads."""
    return [
        *([test["note"]] if test.get("note") else []),
        SHARED("rows_scored", test=test),
        *([TEXTS("repeated", repeated=test["repeated_texts"])] if test["repeated_texts"] else []),
        *([TEXTS("consistency", consistency=test["consistency"])] if test["consistency"] else []),
        TEXTS("calibration", heads=test["heads"]),
    ]


def contradictions(test: dict[str, Any]) -> list[Part]:
    """Return how often the predictions of the two heads contradict each other."""
    consistency = test["consistency"]
    if consistency is None:
        return []
    rows = [[pair["emotion"], pair["sentiment"], f"{pair['rows']:,}"] for pair in consistency["pairs"]]
    text = TEXTS("consistency", consistency=consistency)
    return [Heading("Emotion and sentiment"), text, Table(["emotion", "contradicting sentiment", "rows"], rows)]


def first_rule(test: dict[str, Any]) -> str:
    """Return the rule of the verdict, which is the same for all heads."""
    return next(iter(test["heads"].values()))["verdict"]["rule"]

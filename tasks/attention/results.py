"""Scores of a model of attention as tables and sentences."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from reporting.common import compared_table
from reporting.sections import Notice, Table, joined
from reporting.texts import SHARED, Texts
from system.text import plural

TEXTS = Texts(Path(__file__).parent / "texts.md.jinja")
NAMES = {"spearman": "Spearman", "pearson": "Pearson", "r2": "R2", "mae": "MAE", "rmse": "RMSE"}
IN_UNIT = ("mae", "rmse")


def results_table(test: dict[str, Any]) -> str:
    """Return the verdict, the scores and the remarks on them in Markdown, for the terminal."""
    rows = SHARED("rows_scored", test=test)
    return joined([verdict(test), score_table(test), modalities(test), rows, TEXTS("levels", test=test)])


def conclusion(test: dict[str, Any]) -> str:
    """Return the main score and the verdict in one line."""
    score = test["verdict"]["score"]
    return TEXTS.line("conclusion", test=test, name=NAMES[score], score=test["scores"][score])


def verdict(test: dict[str, Any]) -> Notice:
    """Return whether the model beats each baseline, by the interval of the difference."""
    score = test["verdict"]["score"]
    rivals = [{"name": who, "gain": rival["difference"][score]} for who, rival in test["baselines"].items()]
    values = {"verdict": test["verdict"], "name": NAMES[score], "score": test["scores"][score], "rivals": rivals}
    return Notice(TEXTS("verdict", **values), "verdict")


def score_table(test: dict[str, Any]) -> Table:
    """Return one row for the model, each baseline and each ablation."""
    columns = [(heading_of(name, test["unit"]), name) for name in NAMES]
    rivals = test["baselines"] | test["ablations"]
    gain = f"model's gain in {NAMES[test['verdict']['score']]}", test["verdict"]["score"]
    return compared_table(plural(test["rows"], "creative"), columns, test["scores"], rivals, gain)


def heading_of(score: str, unit: str) -> str:
    """Return the readable name of a score, with its unit if it has one."""
    return f"{NAMES[score]} ({unit})" if score in IN_UNIT else NAMES[score]


def modalities(test: dict[str, Any]) -> str:
    """Return which modalities the model needs, and how much it loses without each."""
    found = test["modalities"]

    def loss(name: str) -> Markup:
        differences = test["ablations"][found["removals"][name]]["difference"]
        scores = (found["score"], "spearman")
        losses = [{"name": NAMES[score], "gain": differences[score]} for score in scores]
        return Markup(TEXTS("loss_of_modality", name=name, losses=losses))

    return TEXTS(
        "modalities",
        any=bool(found["by"]),
        matter=[loss(name) for name in found["matter"]] if found["by"] else [],
        not_shown=[loss(name) for name in found["not_shown"]] if found["by"] else [],
        not_judged=found["not_judged"],
    )

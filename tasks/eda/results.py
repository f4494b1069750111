"""Scores of the eda task as tables and sentences."""

from pathlib import Path
from typing import Any

from reporting.cells import score_cell
from reporting.sections import Notice, Part, Table, joined
from reporting.texts import Texts
from system.text import plural

TEXTS = Texts(Path(__file__).parent / "texts.md.jinja")
# Columns of the table: heading (with the unit, if the score has one) and score.
SCORES = (("RMSE ({unit})", "rmse"), ("r", "pearson"), ("CCC", "ccc"), ("r, detrended", "detrended_pearson"))
ORACLES = ("others",)  # baselines that use data no model can have


def results_table(results: dict[str, Any]) -> str:
    """Return the verdict and the table of each channel in Markdown, for the terminal."""
    parts = [
        part for channel in results["channels"] for part in [verdict(results, channel), *scores(results, channel)]
    ]
    return joined([*parts, *([results["note"]] if results["note"] else [])])


def conclusion(results: dict[str, Any]) -> str:
    """Return the main score and the verdict, one line per channel."""
    lines = (TEXTS.line("conclusion", name=name, channel=channel, trials=results["trials"])
             for name, channel in results["channels"].items())  # fmt: skip
    return "\n".join(lines)


def verdict(results: dict[str, Any], name: str) -> Notice:
    """Return whether a channel shows an effect, and which conditions are not met."""
    return Notice(TEXTS("verdict", name=name, channel=results["channels"][name]), "verdict")


def scores(results: dict[str, Any], name: str) -> list[Part]:
    """Return the scores of one channel and of its baselines, its permutation test and its ceiling."""
    channel = results["channels"][name]
    return [
        score_table(results, name),
        TEXTS("gain", gain=channel["gain"]),
        TEXTS("null", null=channel["null"]),
        TEXTS("ceiling", ceiling=channel["ceiling"]),
    ]


def score_table(results: dict[str, Any], name: str) -> Table:
    """Return one row for the model and each baseline."""
    channel = results["channels"][name]
    headings = [heading.format(unit=results["unit"]) for heading, _ in SCORES]
    rows = [
        [
            f"{who.replace('_', ' ')}{' (oracle)' if who in ORACLES else ''}",
            *(score_cell(found[score]) for _, score in SCORES),
        ]
        for who, found in {"model": channel["model"], **channel["baselines"]}.items()
    ]
    return Table([f"{name}, {plural(results['trials'], 'trial')}", *headings], rows)


def all_scores(results: dict[str, Any], name: str) -> Table:
    """Return every score of the model, including those that the first table leaves out."""
    in_unit, unit = {"rmse", "mae", "detrended_rmse"}, results["unit"]
    rows = []
    for score, found in results["channels"][name]["model"].items():
        label = f"{score.replace('_', ' ')}{f' ({unit})' if score in in_unit else ''}"
        mean = "undefined" if found["mean"] is None else f"{found['mean']:z.3f}"
        interval = found["reason"] or "" if found["low"] is None else f"[{found['low']:z.3f}, {found['high']:z.3f}]"
        rows.append([label, mean, interval, f"{found['trials']}", f"{found['undefined']}"])
    return Table([name, "mean", "95 % interval", "trials", "undefined"], rows)

"""report.html: everything that a run found, in one file that opens anywhere; the same figures as PNG beside it."""

import base64
import html
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from reporting.card import (
    LIMITS,
    SCORED_ONCE,
    SCORES_EXPLAINED,
    counted,
    flat,
    number,
    results_table,
    size,
    verdict_line,
    versions,
    warnings,
)
from reporting.plots import (
    plot_absence,
    plot_bands,
    plot_learning,
    plot_null,
    plot_over_time,
    plot_response,
    plot_scores,
    plot_trials,
    png,
)

SUBSTITUTIONS_SHOWN = 20
STYLE = """
body { font: 15px/1.5 Georgia, 'Times New Roman', serif; color: #1b1b1b; max-width: 50rem; margin: 2rem auto;
       padding: 0 1rem; }
h1, h2, h3 { font-family: Helvetica, Arial, sans-serif; line-height: 1.2; }
h1 { margin-bottom: 0.2rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #d9dce1; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.8rem 0; }
th, td { text-align: left; padding: 0.2rem 0.7rem 0.2rem 0; vertical-align: top; }
thead th { border-bottom: 1.5px solid #1b1b1b; border-top: 1.5px solid #1b1b1b; }
tbody tr:last-child td { border-bottom: 1.5px solid #1b1b1b; }
td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { font-size: 0.85rem; color: #555b66; }
.warning { border-left: 4px solid #b3261e; background: #fdf0ef; padding: 0.5rem 0.8rem; }
.verdict { border: 1.5px solid #1b1b1b; padding: 0.6rem 0.9rem; font-family: Helvetica, Arial, sans-serif; }
pre { font-size: 0.75rem; overflow-x: auto; background: #f5f6f8; padding: 0.6rem; }
code { font-size: 0.85em; overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; } details { display: none; } h2 { break-after: avoid; }
               figure, table { break-inside: avoid; } }
"""


def report_files(facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table) -> dict[str, str | bytes]:
    """`report.html` and its figures by file name, from a run's record, its settings and its predictions."""
    figures = images(draw_figures(facts, predictions))
    return with_images(report(facts, config, figures), figures)


def images(drawn: dict[str, tuple[Figure | None, str]]) -> dict[str, tuple[bytes, str]]:
    """PNG and caption of each figure, by name, of those that there was something to draw for."""
    return {name: (png(figure), caption) for name, (figure, caption) in drawn.items() if figure is not None}


def with_images(report: str, figures: dict[str, tuple[bytes, str]]) -> dict[str, str | bytes]:
    """The page and the figures that stand in it, by file name."""
    return {"report.html": report} | {f"figure_{name}.png": image for name, (image, _) in figures.items()}


def draw_figures(facts: dict[str, Any], predictions: pa.Table) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption by name; a channel's are named after it."""
    drawn: dict[str, tuple[Figure | None, str]] = {}
    test = facts["test"]
    for name, channel in test["channels"].items():
        caption = "The model beside what it has to beat and what bounds it."
        drawn[f"scores_{name}"] = plot_scores(channel, name), caption
        rows = [row for row in predictions.to_pylist() if row["channel"] == name]
        shown = best_median_worst(rows)
        if shown:
            caption = "The best, the median and the worst trial by r after detrending. A mean hides all three."
            drawn[f"trials_{name}"] = plot_trials(shown), caption
        if channel["null"] is not None:
            caption = (
                "Sounds permuted among songs of about the same length: how well the model scores then (some songs "
                "keep their own sound), beside its score with the right sounds and its mean with wrong ones alone."
            )
            drawn[f"null_{name}"] = plot_null(channel["null"], channel["ceiling"]), caption
        caption = "Error against the time since onset, over frames of all trials: late frames stand on few trials."
        drawn[f"over_time_{name}"] = plot_over_time(channel["over_time"], test["unit"]), caption
        for kind, explanation in draw_explanations(channel.get("explanations")).items():
            drawn[f"{kind}_{name}"] = explanation
    if "training" in facts:
        drawn["learning"] = plot_learning(facts["training"]), "Learning curves; losses are in scaled units."
    return drawn


def draw_explanations(found: dict[str, Any] | None) -> dict[str, tuple[Figure | None, str]]:
    """Figure and caption of each explanation, in the order of the page."""
    if found is None:
        return {}
    drawn = {
        "response": (
            plot_response(found["response"]),
            "Temporal response of ridge regression: what a descriptor of the sound does to the signal, and when; "
            f"shaded: 95 % intervals over {found['response']['songs']} training songs.",
        ),
        "bands": (
            plot_bands(found["bands"]),
            "What the model loses when a band of its input is replaced by the training's mean.",
        ),
    }
    if found["absence"] is not None:
        said = "How much the prediction changes when a moment of the sound is replaced by the training's mean."
        drawn["absence"] = plot_absence(found["absence"]), said
    return drawn


def best_median_worst(rows: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Titles and rows of three trials (fewer, if there are fewer), ordered by their r after detrending."""
    scored = sorted(
        (row for row in rows if row["detrended_pearson"] is not None), key=lambda row: -row["detrended_pearson"]
    )
    places = {"best": 0, "median": len(scored) // 2, "worst": len(scored) - 1}
    if len(scored) < len(places):
        places = {f"trial {place + 1}": place for place in range(len(scored))}
    return [
        (
            f"{name}: song {scored[place]['song_id']}, listener {scored[place]['listener']}, "
            f"r = {scored[place]['detrended_pearson']:.2f}",
            scored[place],
        )
        for name, place in places.items()
    ]


def report(facts: dict[str, Any], config: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> str:
    """The page; whatever comes from data is escaped."""
    test = facts["test"]
    about = f"{test['trials']} trials of {test['songs']} songs and {test['listeners']} listeners, in {test['unit']}"
    parts = [
        *opening(facts, about, [*warnings(facts), *([test["note"]] if test["note"] else [])]),
        *(
            f'<p class="verdict">{inline(verdict_line(channel["verdict"]))} <small>({html.escape(name)})</small></p>'
            for name, channel in test["channels"].items()
        ),
        "<h2>Scores</h2>",
        f"<p>{html.escape(SCORES_EXPLAINED)}</p>",
        markdown_tables(results_table(test)),
        f"<p>The rule: {html.escape(next(iter(test['channels'].values()))['verdict']['rule'])}.</p>",
        *(shown(f"scores_{name}", figures) for name in test["channels"]),
        "<h3>All scores of the model</h3>",
        *(all_scores(name, channel, test["unit"]) for name, channel in test["channels"].items()),
        "<h2>Predicted and recorded</h2>",
        *(shown(f"trials_{name}", figures) for name in test["channels"]),
        "<h2>The wrong song</h2>",
        *(shown(f"null_{name}", figures) for name in test["channels"]),
        "<h2>Error over time</h2>",
        *(shown(f"over_time_{name}", figures) for name in test["channels"]),
        *explained(test, figures),
        *(["<h2>Training</h2>", training_facts(facts), shown("learning", figures)] if "training" in facts else []),
        "<h2>Data</h2>",
        data_facts(facts),
        "<h2>Limits</h2>",
        f"<p>{html.escape(LIMITS)}</p>",
        *settings(facts, config),
    ]
    return page(facts["name"], parts)


def opening(facts: dict[str, Any], about: str, notices: Sequence[str]) -> list[str]:
    """Which run, what it was scored on, and what a reader has to know before any score."""
    data = facts["data"]
    return [
        f"<h1>{html.escape(facts['name'])}</h1>",
        f"<p>The {html.escape(facts.get('side', 'test'))} side of <code>{html.escape(data['dataset'])}</code> "
        f"({html.escape(data['config'])}): {html.escape(about)}.</p>",
        *(f'<p class="warning">{inline(notice)}</p>' for notice in notices),
    ]


def settings(facts: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """The end of the page: every setting, and versions."""
    return [
        "<h2>Settings</h2>",
        f"<details><summary>every key of the run</summary><pre>{html.escape(json.dumps(config, indent=2))}</pre>"
        "</details>",
        f"<p>{html.escape(versions(facts))}</p>",
    ]


def page(title: str, parts: Sequence[str]) -> str:
    """One HTML file that fetches nothing."""
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def inline(text: str) -> str:
    """Escaped text, with **bold** as such."""
    parts = html.escape(text).split("**")
    return "".join(f"<b>{part}</b>" if place % 2 else part for place, part in enumerate(parts))


def markdown_tables(text: str) -> str:
    """The tables and paragraphs of the printed results as HTML."""
    blocks = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            cells = [[inline(cell.strip()) for cell in line.strip("|").split("|")] for line in lines]
            blocks.append(table(cells[0], cells[2:]))
        else:
            blocks += [f"<p>{inline(line)}</p>" for line in lines]
    return "\n".join(blocks)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def text_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are plain text."""
    return table([html.escape(cell) for cell in heading], [[html.escape(cell) for cell in row] for row in rows])


def all_scores(name: str, channel: dict[str, Any], unit: str) -> str:
    """Every score of the model, also those that the first table leaves out."""
    in_unit = {"rmse", "mae", "detrended_rmse"}
    rows = []
    for score, found in channel["model"].items():
        label = f"{score.replace('_', ' ')}{f' ({unit})' if score in in_unit else ''}"
        mean = "undefined" if found["mean"] is None else f"{found['mean']:z.3f}"
        interval = found["reason"] or "" if found["low"] is None else f"[{found['low']:z.3f}, {found['high']:z.3f}]"
        rows.append([label, mean, interval, f"{found['trials']}", f"{found['undefined']}"])
    return text_table([name, "mean", "95 % interval", "trials", "undefined"], rows)


def explained(test: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> list[str]:
    """The section on what the model listens to, if it was asked for."""
    names = [f"{kind}_{name}" for name in test["channels"] for kind in ("response", "bands", "absence")]
    drawn = [shown(name, figures) for name in names if name in figures]
    return ["<h2>What it listens to</h2>", *drawn] if drawn else []


def shown(name: str, figures: dict[str, tuple[bytes, str]], otherwise: str = "no trial has a score") -> str:
    """A figure inside the page; nothing, with a word on why, where there is none."""
    if name not in figures:
        return f"<p>Nothing to draw: {html.escape(otherwise)}.</p>"
    image, caption = figures[name]
    encoded = base64.b64encode(image).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def training_facts(facts: dict[str, Any]) -> str:
    """What was trained, in a line."""
    training = facts["training"]
    step = training["best_checkpoint_step"]
    kept = f"the checkpoint of step {step}, the best on validation by {training['chosen_by']}" if step else "the last"
    waiting = f"{100 * training['data_wait_share']:.1f} %"
    return (
        f"<p>{size(facts)}. "
        f"{training['steps']} steps, {training['epochs']:g} epochs, {training['processes']} process(es), precision "
        f"{html.escape(training['precision'])}; kept: {html.escape(kept)}. {waiting} of the time went on waiting for "
        "data.</p>"
    )


def training_section(facts: dict[str, Any], figures: dict[str, tuple[bytes, str]]) -> list[str]:
    """How a model of clips or of creatives came to be, if it was trained in this run."""
    if "training" not in facts:
        return []
    return [
        "<h2>Training</h2>",
        training_facts(facts),
        unread(facts["training"]),
        f"<p>{html.escape(SCORED_ONCE)}</p>",
        shown("learning", figures, "nothing was logged"),
        substitutions(facts["training"].get("substitutions")),
    ]


def unread(training: dict[str, Any]) -> str:
    """How often a clip could not be decoded, all sides and passes of the run together; nothing where all could."""
    times = training.get("undecodable")
    return f"<p>{times:,} times in this run a clip could not be decoded and was taken as missing.</p>" if times else ""


def policies_and_notes(data: dict[str, Any]) -> list[str]:
    """What was done about rows that are not whole, and how many of them there are, by reason."""
    parts = [f"<p>{html.escape(policy)}</p>" for policy in data.get("policies", [])]
    for key, heading in (("left_out", "left out"), ("notes", "note on rows")):
        rows = [[reason, number(count)] for reason, count in sorted(data.get(key, {}).items())]
        parts += [text_table([heading, "rows"], rows)] if rows else []
    return parts


def data_facts(facts: dict[str, Any]) -> str:
    """Sides and hash of the split, and what was left out of the data, by reason."""
    data = facts["data"]
    sides = [
        [name, *(f"{side[kind]}" for kind in ("trials", "songs", "listeners"))]
        for name, side in data["sides"].items()
        if name != "all"
    ]
    lost = [
        ["songs left out", counted(data["songs_left_out"])],
        ["trials rejected", counted(data["trials_rejected"])],
        ["trials between sides", f"{data['trials_between_sides']}"],
        ["notes on trials that are kept", counted(data["notes"])],
        ["listeners scaled by everyone's statistics", ", ".join(data["listeners_scaled_by_everyone"]) or "none"],
    ]
    return "\n".join(
        [
            f"<p>{data['songs']} songs and {data['trials']} trials as recorded. {split_facts(facts['split'])}</p>",
            text_table(["side", "trials", "songs", "listeners"], sides),
            text_table(["left out, or worth a note", ""], lost),
            files(data),
        ]
    )


def substitutions(found: Sequence[dict[str, Any]] | None) -> str:
    """Clips whose file failed in training, most often asked for first; nothing where all could be read."""
    if not found:
        return ""
    most = sorted(found, key=lambda clip: -clip["times"])
    rows = [
        [clip["clip_id"], number(clip["times"]), clip["reason"] or "it could be read later"]
        for clip in most[:SUBSTITUTIONS_SHOWN]
    ]
    more = len(most) - len(rows)
    return text_table(["clip that could not be read", "times", "why"], rows) + (
        f"<p>And {more:,} more.</p>" if more else ""
    )


def sides(data: dict[str, Any]) -> str:
    """What each side holds, a row a side, with a column for whatever any of them counts."""
    found = {name: flat(side) for name, side in data["sides"].items()}
    kinds = list(dict.fromkeys(kind for side in found.values() for kind in side))
    rows = [[name, *(number(side.get(kind, "")) for kind in kinds)] for name, side in found.items()]
    return text_table(["side", *(kind.replace("_", " ") for kind in kinds)], rows)


def split_facts(split: dict[str, Any]) -> str:
    """What a split follows from, and its hash."""
    settings = ", ".join(f"{key} {value}" for key, value in split.items() if key != "sha256" and value is not None)
    return f"Split: {html.escape(settings)}. SHA-256 of the split: <code>{html.escape(split['sha256'])}</code>."


def files(data: dict[str, Any]) -> str:
    """The names of the data's files, which hold a digest."""
    return f"<p>Files: {', '.join(f'<code>{html.escape(file)}</code>' for file in data['files'])}.</p>"

"""report.html: everything that a run found, in one file that opens anywhere; the same figures as PNG beside it."""

import base64
import html
import json
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from reporting.card import SCORED_ONCE, flat, number, size, versions
from reporting.plots import png
from system.text import plural

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


def images(drawn: dict[str, tuple[Figure | None, str]]) -> dict[str, tuple[bytes, str]]:
    """PNG and caption of each figure, by name, of those that there was something to draw for."""
    return {name: (png(figure), caption) for name, (figure, caption) in drawn.items() if figure is not None}


def with_images(report: str, figures: dict[str, tuple[bytes, str]]) -> dict[str, str | bytes]:
    """The page and the figures that stand in it, by file name."""
    return {"report.html": report} | {f"figure_{name}.png": image for name, (image, _) in figures.items()}


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
    threads = f" with {plural(facts['threads'], 'thread')} each" if "threads" in facts else ""  # older records lack it
    return (
        f"<p>{size(facts)}. "
        f"{plural(training['steps'], 'step')}, {training['epochs']:g} epoch{'s' * (training['epochs'] != 1)}, "
        f"{plural(training['processes'], 'process', 'processes')}{threads}, "
        f"precision {html.escape(training['precision'])}; kept: {html.escape(kept)}. waiting for data took "
        f"{waiting} of the time.</p>"
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
    said = "In this run a clip could not be decoded, and was taken as missing"
    return f"<p>{said}: {plural(times, 'time')}.</p>" if times else ""


def policies_and_notes(data: dict[str, Any]) -> list[str]:
    """What was done about rows that are not whole, and how many of them there are, by reason."""
    parts = [f"<p>{html.escape(policy)}</p>" for policy in data.get("policies", [])]
    for key, heading in (("left_out", "left out"), ("notes", "note on rows")):
        rows = [[reason, number(count)] for reason, count in sorted(data.get(key, {}).items())]
        parts += [text_table([heading, "rows"], rows)] if rows else []
    return parts


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

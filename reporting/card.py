"""The card of a trained model and the table of its scores, made from what a run recorded about itself.

python -m reporting.card outputs/eda_tcn    makes card, report and figures of a finished run anew, of any task
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from system.text import plural

SYNTHETIC_NOTICE = (
    "**SYNTHETIC DATA.** This model was trained and scored on signals that a program made. "
    "Its scores show that the software works; they say nothing about people, music or recorded sound."
)


FOR_PROGRAMS = ("target_scaling", "auto_map", "custom_pipelines")  # settings of a model that nobody reads


LICENCE = (
    "The weights follow from data that have their own terms (see Limits), hence `license: other`: read those of the "
    "data and of the encoders named in the configuration before you use the model commercially."
)
SCORED_ONCE = (
    "The test side was scored once, by the model that was kept. This is one run with one seed; how far others would "
    "be from it is not told."
)


def plain(text: str) -> str:
    """A name as it is, in Markdown: no markup, no link, one line, one cell of a table."""
    return re.sub(r"([\\`*<>|~]|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """A name or a command as inline code of Markdown, also with backticks in it."""
    text = " ".join(text.split())
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    blank = " " if "`" in text else ""
    return f"{ticks}{blank}{text}{blank}{ticks}"


def string(text: str) -> str:
    """A name as a string of Python."""
    return json.dumps(text, ensure_ascii=False)


def score_cell(score: dict[str, Any], decimals: int = 3) -> str:
    """A mean with its interval, and of how many trials (or resamples) it could not be taken."""
    if score["mean"] is None:
        return "undefined"
    shape = f"z.{decimals}f"
    interval = "" if score["low"] is None else f" [{score['low']:{shape}}, {score['high']:{shape}}]"
    undefined = f" ({score['undefined']} undefined)" if score["undefined"] else ""
    return f"{score['mean']:{shape}}{interval}{undefined}"


def cell(score: dict[str, Any] | None, decimals: int) -> str:
    """A score with its interval; why there is none; nothing where it makes no sense."""
    if score is None:
        return ""
    reason = f" ({score['reason']})" if score["mean"] is None and score["reason"] else ""
    return score_cell(score, decimals) + reason


def no_interval(score: dict[str, Any]) -> str:
    """A difference with its interval, or why it has none."""
    missing = score["mean"] is not None and score["low"] is None and score["reason"]
    return cell(score, 3) + (f" (no interval: {score['reason']})" if missing else "")


def compared_table(
    title: str,
    columns: Sequence[tuple[str, str]],
    scores: dict[str, Any],
    others: dict[str, dict[str, Any]],
    gain: tuple[str, str],
) -> str:
    """A row the model and each of the others; a column a score, and what the model has more.

    Args:
        columns: heading and score.
        scores: the model's.
        others: scores and differences, by label.
        gain: the last heading, and the score of the differences.
    """
    headings = [*(heading for heading, _ in columns), gain[0]]
    lines = [f"| {title} | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for label, found in {"model": {"scores": scores}, **others}.items():
        cells = [cell(found["scores"][name], 3) for _, name in columns]
        cells.append(cell(found["difference"][gain[1]], 3) if "difference" in found else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_line(test: dict[str, Any]) -> str:
    """How many rows were scored, and how many of these had to be judged without something."""
    lacking = [f"{count:,} without {modality}" for modality, count in test["lacking"].items() if count]
    if test["lacking_all"]:
        lacking.append(f"{test['lacking_all']:,} without any of these")
    rest = f"of them {', '.join(lacking)}, judged by what they have" if lacking else "none lacks a modality"
    line = f"Scored: {plural(test['rows'], 'row')}, all of this side: {rest}."
    if test.get("undecodable"):
        line += f" Something of {plural(test['undecodable'], 'row')} could not be decoded, and is taken as missing."
    return line


def data_lines(facts: dict[str, Any]) -> list[str]:
    """Data set, sides and split; what was done about rows that are not whole; and whose terms hold."""
    data = facts["data"]
    return [
        f"{code(data['dataset'])} ({plain(data['config'])}). "
        + " ".join(f"{name.capitalize()}: {in_words(flat(side))}." for name, side in data["sides"].items())
        + f" SHA-256 of the split `{facts['split']['sha256'][:16]}`.",
        *data.get("policies", []),
        *([f"Left out: {counted(data['left_out'])}."] if data.get("left_out") else []),
        *([f"Notes on rows: {counted(data['notes'])}."] if data.get("notes") else []),
        LICENCE,
    ]


def eval_result(
    facts: dict[str, Any],
    task: tuple[str, str],
    metric: tuple[str, str],
    score: dict[str, Any],
    details: dict[str, str],
) -> EvalResult:
    """A score of the test as the Hub reads it, with its interval.

    Args:
        task, metric: the Hub's type, and a name for people.
        details: what else identifies the score.
    """
    data = facts["data"]
    bounds = {key: round(score[key], 4) for key in ("low", "high")} if score["low"] is not None else {}
    return EvalResult(
        task_type=task[0],
        task_name=task[1],
        dataset_type=data["dataset"],
        dataset_name=f"{data['dataset']}{' (SYNTHETIC)' if data['synthetic'] else ''}",
        dataset_config=data["config"],
        dataset_split="test",
        metric_type=metric[0],
        metric_name=metric[1],
        metric_value=round(score["mean"], 4),
        metric_args=details | {"level": 0.95} | bounds,
    )


def counted(reasons: dict[str, int]) -> str:
    """What was left out, with its count: "flat 3, too_short 1"."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "none"


def in_words(counts: dict[str, Any]) -> str:
    """Counts: "1,200 clips, 60 with target"."""
    named = {kind: kind.removesuffix("s") if count == 1 else kind for kind, count in counts.items()}
    return ", ".join(f"{number(count)} {named[kind].replace('_', ' ')}" for kind, count in counts.items())


def flat(counts: dict[str, Any]) -> dict[str, Any]:
    """Counts of which some are divided further, as one level: "unusable (missing)"."""
    found = {}
    for kind, count in counts.items():
        parts = count if isinstance(count, dict) else {None: count}
        found |= {kind if part is None else f"{kind} ({part})": value for part, value in parts.items()}
    return found


def number(value: Any) -> str:
    """A count with commas at the thousands; hours, where they are few, to two digits."""
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def chosen(training: dict[str, Any]) -> str:
    """How the checkpoint was chosen."""
    step = training["best_checkpoint_step"]
    return f"checkpoint of step {step} chosen by validation {training['chosen_by']}" if step else "the last one kept"


def base(facts: dict[str, Any]) -> str:
    """What a fine-tuned model went on from."""
    return f" Fine-tuned from {code(facts['base']['model'])}." if facts["base"] else ""


def size(facts: dict[str, Any]) -> str:
    """Parameters, and the receptive field of a model that has one."""
    field = facts["receptive_field_seconds"]
    return f"{facts['parameters']:,} parameters" + ("" if field is None else f", receptive field {field:.1f} s")


def configuration(facts: dict[str, Any]) -> str:
    """The model's settings, without those that are for programs."""
    model = {key: value for key, value in facts["model"].items() if key not in FOR_PROGRAMS}
    return f"```json\n{json.dumps(model, indent=2)}\n```"


def versions(facts: dict[str, Any]) -> str:
    """What the result depends on next to settings and data: versions, and threads, which change its last digits."""
    known = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    threads = f" Threads of torch: {facts['threads']}." if "threads" in facts else ""  # older records lack it
    return f"Versions: {known}.{threads}"


def warnings(facts: dict[str, Any], items: str = "trials") -> list[str]:
    """What a reader has to know before any score: data made by a program, a split that leaks, a control, a base that
    knew the test, or may have known it.
    """
    data, base = facts["data"], facts.get("base")
    found = [data["split_warning"], data["control"]]
    known = base["test_trials_it_was_trained_on"] if base else 0
    if known is None:
        found.append(f"what {plain(base['model'])} was trained on is not known here: it may have met the test {items}")
    elif known:
        found.append(f"{known} of the test {items} were in its training data, by way of {plain(base['model'])}")
    synthetic = [SYNTHETIC_NOTICE] if data["synthetic"] else []
    return [*synthetic, *(f"**WARNING.** {text[0].upper()}{text[1:]}." for text in found if text)]


def front_matter(
    facts: dict[str, Any], tags: Sequence[str], pipeline: str | None = None, results: Sequence[EvalResult] = ()
) -> str:
    """The card's metadata; `pipeline` is what the Hub calls the task, where it has a name for it.

    The `results` become the `model-index`, from which the Hub shows scores.
    """
    tags = [*tags, facts["model"]["model_type"], *(["synthetic-data"] if facts["data"]["synthetic"] else [])]
    listed = "\n".join(f"- {tag}" for tag in tags)
    fields = [
        "library_name: transformers",
        *([f"pipeline_tag: {pipeline}"] if pipeline else []),
        "license: other",
        "license_name: data-of-the-training-set",
        "tags:",
        listed,
    ]
    if results:
        fields.append(ModelCardData(model_name=facts["name"], eval_results=list(results)).to_yaml())
    return "\n".join(["---", *fields, "---"])

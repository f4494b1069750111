"""Numbers, scores and counts as short texts, for tables and sentences."""

from typing import Any


def score_cell(score: dict[str, Any], decimals: int = 3) -> str:
    """Return a mean with its interval, and the number of trials or resamples in which it is undefined."""
    if score["mean"] is None:
        return "undefined"
    shape = f"z.{decimals}f"
    interval = "" if score["low"] is None else f" [{score['low']:{shape}}, {score['high']:{shape}}]"
    undefined = f" ({score['undefined']} undefined)" if score["undefined"] else ""
    return f"{score['mean']:{shape}}{interval}{undefined}"


def cell(score: dict[str, Any] | None, decimals: int = 3) -> str:
    """Return a score with its interval, the reason if it is undefined, or nothing if it does not apply."""
    if score is None:
        return ""
    reason = f" ({score['reason']})" if score["mean"] is None and score["reason"] else ""
    return score_cell(score, decimals) + reason


def difference_cell(score: dict[str, Any]) -> str:
    """Return a difference with its interval, or the reason why it has none."""
    missing = score["mean"] is not None and score["low"] is None and score["reason"]
    return cell(score) + (f" (no interval: {score['reason']})" if missing else "")


def number(value: Any) -> str:
    """Return a count with thousands separators, or a quantity with two or more digits."""
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def counted(reasons: dict[str, int]) -> str:
    """Return counts by reason: "flat 3, too_short 1"."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "none"


def in_words(counts: dict[str, Any]) -> str:
    """Return counts by kind: "1,200 clips, 60 with target"."""
    # "ambiguous" is no plural.
    singular = {
        kind: kind.removesuffix("s") if count == 1 and not kind.endswith("ous") else kind
        for kind, count in counts.items()
    }
    return ", ".join(f"{number(count)} {singular[kind].replace('_', ' ')}" for kind, count in counts.items())


def flat(counts: dict[str, Any]) -> dict[str, Any]:
    """Return nested counts as one level: "unusable (missing)"."""
    flattened = {}
    for kind, count in counts.items():
        parts = count if isinstance(count, dict) else {None: count}
        flattened |= {kind if part is None else f"{kind} ({part})": value for part, value in parts.items()}
    return flattened


def listed(names: list[str]) -> str:
    """Return names as "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last

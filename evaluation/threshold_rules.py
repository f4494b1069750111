"""How a threshold is asked for: `f1`, `recall:0.9`, `false_alarms:10`."""

import math

RULES = ("f1", "recall:0.9", "false_alarms:10")


def check_rule(rule: str) -> tuple[str, float]:
    """What a rule for thresholds asks for: its kind and number, NaN without one; refuses rules that are none."""
    kind, _, number = rule.partition(":")
    try:
        value = float(number) if number else math.nan
    except ValueError:
        value = math.nan
    known = kind == "f1" and not number or kind == "recall" and 0 < value <= 1
    if not known and not (kind == "false_alarms" and 0 <= value < math.inf):
        raise ValueError(
            f"threshold rule {rule!r} is not known; it takes one such as {', '.join(RULES)}: recall above 0 and up "
            "to 1, false alarms per hour"
        )
    return kind, value

"""Rules for choosing a threshold: `f1`, `recall:0.9`, `false_alarms:10`."""

import math

RULES = ("f1", "recall:0.9", "false_alarms:10")


def check_rule(rule: str) -> tuple[str, float]:
    """Return the name and the number of a rule, NaN if it has no number; raise ValueError for an unknown rule."""
    kind, _, number = rule.partition(":")
    try:
        value = float(number) if number else math.nan
    except ValueError:
        value = math.nan
    is_valid = kind == "f1" and not number or kind == "recall" and 0 < value <= 1
    if not is_valid and not (kind == "false_alarms" and 0 <= value < math.inf):
        raise ValueError(
            f"rule={rule!r}: not a threshold rule. Give f1, recall:R with R above 0 and up to 1, or false_alarms:N "
            f"per hour, for example {', '.join(RULES)}."
        )
    return kind, value

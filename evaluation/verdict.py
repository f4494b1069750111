"""When a run may say "effect": one rule, here and nowhere else."""

from dataclasses import dataclass
from typing import Literal

SIGNIFICANCE = 0.05  # of the permutation test, one-sided
FEWEST_PERMUTATIONS = 199
FEWEST_SONGS = 6  # fewer lie on one side of the truth by chance too often for any interval over them
RULE = (
    "effect: the lower 95 % bound of (model - best baseline that hears no music), correlation within trials after "
    f"detrending, is above 0, and the one-sided permutation p against mismatched audio is below {SIGNIFICANCE} with "
    f"{FEWEST_PERMUTATIONS} permutations or more, on {FEWEST_SONGS} songs or more; else: no effect"
)


@dataclass(frozen=True)
class Verdict:
    """Whether there is an effect, and what was missing for one."""

    verdict: Literal["effect", "no effect"]
    missing: list[str]
    rule: str = RULE


def decide(gain_low: float | None, p: float | None, permutations: int, songs: int) -> Verdict:
    """Apply the rule to the lower bound of the gain over the best baseline without sound, and the permutation test.

    None stands for a figure that could not be computed, which is never an effect.
    """
    missing = []
    if gain_low is None:
        missing.append("the gain over what hears no music has no interval (too few songs)")
    elif not gain_low > 0:
        missing.append(f"the gain over what hears no music may be nothing: its lower bound is {gain_low:.3f}")
    if p is None:
        missing.append("there is no other song to mismatch the sound with")
    elif not p < SIGNIFICANCE:
        missing.append(f"mismatched sound scores as well too often: p = {p:.3f}")
    if permutations < FEWEST_PERMUTATIONS:
        missing.append(f"{permutations} permutations are fewer than {FEWEST_PERMUTATIONS}")
    if songs < FEWEST_SONGS:
        missing.append(f"{songs} songs are fewer than {FEWEST_SONGS}")
    return Verdict("no effect" if missing else "effect", missing)

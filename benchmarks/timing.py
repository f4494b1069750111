"""Measuring side by side: rivals take turns in one process, so that a busy machine slows all of them alike.

A ratio is the median over rounds of that round's ratio: what changes from one round to the next cancels.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One rival's wall times in seconds, one a round, in the order measured."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile, in seconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def compare(
    rivals: dict[str, Callable[[], object]],
    rounds: int = 15,
    warmup: int = 3,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time every rival once a round, `rounds` (>= 2) times, after `warmup` unmeasured rounds.

    Args:
        synchronize: called before each reading of the clock; `torch.cuda.synchronize` for work on a GPU.
    """
    wait = synchronize or (lambda: None)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(warmup + rounds):
        for name, run in rivals.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(peer: Timing, ours: Timing) -> float:
    """How many times faster we are than the peer: the median of the rounds' ratios."""
    return statistics.median(theirs / mine for theirs, mine in zip(peer.seconds, ours.seconds, strict=True))


def print_table(timings: dict[str, Timing]) -> None:
    """One row a rival: median and quartiles in milliseconds."""
    width = max(map(len, timings))
    print(f"{'':{width}}  median ms  quartiles ms")
    for name, timing in timings.items():
        low, high = timing.quartiles
        print(f"{name:{width}}  {1e3 * timing.median:9.2f}  {1e3 * low:.2f} - {1e3 * high:.2f}")


def print_ratio(name: str, value: float) -> None:
    """A line for scripts; bigger is better for us."""
    print(f"RATIO {name} {value:.3g}")


def print_value(name: str, value: float, unit: str) -> None:
    """A line for scripts with its unit."""
    print(f"VALUE {name} {value:.4g} {unit}")

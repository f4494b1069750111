"""Compare rivals that take turns in one process, so that a busy machine slows all of them equally.

A ratio is the median of the ratios per round, so that changes from round to round cancel out.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The wall times of one rival in seconds, one per round, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile, in seconds."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high


def compare(
    rivals: dict[str, Callable[[], object]],
    rounds: int = 15,
    warmup: int = 3,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time every rival once per round, for `rounds` (>= 2) rounds after `warmup` unmeasured rounds.

    Args:
        synchronize: called before the clock is read; `torch.cuda.synchronize` for work on a GPU.
    """
    wait = synchronize or (lambda: None)  # without it, GPU work would be timed only until it is queued
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
    """Return how many times faster we are than the peer: the median of the ratios per round."""
    return statistics.median(a / b for a, b in zip(peer.seconds, ours.seconds, strict=True))


def print_table(timings: dict[str, Timing]) -> None:
    """Print median and quartiles in milliseconds, one row per rival."""
    width = max(map(len, timings))
    print(f"{'':{width}}  median ms  quartiles ms")
    for name, timing in timings.items():
        low, high = timing.quartiles
        print(f"{name:{width}}  {1e3 * timing.median:9.2f}  {1e3 * low:.2f} - {1e3 * high:.2f}")


def print_ratio(name: str, value: float) -> None:
    """Print a line for scripts; higher is better for us."""
    print(f"RATIO {name} {value:.3g}")


def print_value(name: str, value: float, unit: str) -> None:
    """Print a line for scripts, with a unit."""
    print(f"VALUE {name} {value:.4g} {unit}")

"""Turn scores of windows into events, and compare detected events with annotated ones.

Times are in seconds. The windows of a recording are sorted by time and have one length. A window fires at a threshold
when its score is equal to or above it.
"""

# W windows, T frames per window, F frames per recording, E detected events, G annotated events, N clips

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

# Tolerances within which a detected and an annotated event match. The offset may be off by OFFSET_COLLAR, or by
# OFFSET_SHARE of the length of the annotated event if that is more.
ONSET_COLLAR = 0.2  # s
OFFSET_COLLAR = 0.2  # s
OFFSET_SHARE = 0.2
ROUNDING = 1e-6  # s; times are sums of floats


def check_windows(times: np.ndarray, scores: np.ndarray, window_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows of one recording as two arrays (W,) of floats; raise ValueError if they are not valid."""
    times, scores = np.asarray(times, np.float64), np.asarray(scores, np.float64)
    if times.ndim != 1 or times.shape != scores.shape:
        raise ValueError(
            f"times.shape={times.shape}, scores.shape={scores.shape}: both must be (W,). Give a start and a score per "
            "window."
        )
    if not window_seconds > 0:
        raise ValueError(f"window_seconds={window_seconds}: must be above 0. Give a positive length.")
    broken = ~np.isfinite(times) | np.isnan(scores)
    if broken.any():
        window = int(broken.argmax())
        raise ValueError(
            f"window {window} of {len(times)}: time={times[window]}, score={scores[window]}. Both must be numbers."
        )
    unsorted = np.flatnonzero(np.diff(times) < 0)
    if len(unsorted):
        raise ValueError(
            f"times[{unsorted[0] + 1}]={times[unsorted[0] + 1]}: before times[{unsorted[0]}]. Sort windows by time."
        )
    return times, scores


def merge_windows(times: np.ndarray, scores: np.ndarray, threshold: float, window_seconds: float) -> np.ndarray:
    """Merge windows that fire and touch or overlap into events (E, 3): start, end and highest score.

    Args:
        times: (W,), the start of each window, ascending.
        scores: (W,).
    """
    times, scores = check_windows(times, scores, window_seconds)
    fires = scores >= threshold
    times, scores = times[fires], scores[fires]
    if not len(times):
        return np.zeros((0, 3))
    first = np.flatnonzero(np.append(True, np.diff(times) > window_seconds + ROUNDING))
    last = np.append(first[1:], len(times)) - 1
    return np.stack([times[first], times[last] + window_seconds, np.maximum.reduceat(scores, first)], axis=1)


def average_frames(
    times: np.ndarray, frame_scores: np.ndarray, window_seconds: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Average the frame scores of overlapping windows.

    The frames of all windows are put on one grid, which moves a window by half a frame at most.

    Args:
        times: (W,), the start of each window, ascending.
        frame_scores: (W, T), in [0, 1].

    Returns:
        The start (F,) and mean score (F,) of each frame, and the length of a frame in seconds.
    """
    frame_scores = np.asarray(frame_scores, np.float64)
    times, _ = check_windows(times, frame_scores.mean(axis=1), window_seconds)
    frame_seconds = window_seconds / frame_scores.shape[1]
    origin = times[0] if len(times) else 0.0
    frame = np.rint((times - origin) / frame_seconds).astype(int)[:, None] + np.arange(frame_scores.shape[1])  # (W, T)
    count = np.bincount(frame.ravel())
    covered = np.flatnonzero(count)  # windows can leave gaps
    total = np.bincount(frame.ravel(), frame_scores.ravel())
    return origin + covered * frame_seconds, total[covered] / count[covered], frame_seconds


def refine(
    events: np.ndarray, times: np.ndarray, scores: np.ndarray, threshold: float, frame_seconds: float
) -> np.ndarray:
    """Trim events (E, 3) to their first and last frame that reaches the threshold; events without one stay unchanged.

    Args:
        times, scores: (F,), start (ascending) and score of each frame, from `average_frames`.
    """
    events = np.array(events, np.float64)
    reach = np.asarray(times)[np.asarray(scores) >= threshold]
    for event in events:
        start, end = event[:2]
        middle = reach + frame_seconds / 2
        inside = reach[(middle >= start) & (middle <= end)]
        if len(inside):
            event[:2] = max(inside[0], start), min(inside[-1] + frame_seconds, end)
    return events


def detect_events(
    times: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    window_seconds: float,
    frame_scores: np.ndarray | None = None,
) -> np.ndarray:
    """Detect the events (E, 3) of one recording: merged windows, trimmed if the model also scores frames (W, T)."""
    events = merge_windows(times, scores, threshold, window_seconds)
    if frame_scores is None or not len(events):
        return events
    frame_times, averages, frame_seconds = average_frames(times, frame_scores, window_seconds)
    return refine(events, frame_times, averages, threshold, frame_seconds)


def alarm_peaks(times: np.ndarray, scores: np.ndarray, window_seconds: float) -> np.ndarray:
    """Return the scores of the windows that no touching neighbour exceeds; equal neighbours are one peak.

    At any threshold, at least as many peaks as events reach it. In a recording without the target, the peaks are
    therefore everything that can raise a false alarm.
    """
    times, scores = check_windows(times, scores, window_seconds)
    if not len(times):
        return scores
    touches = np.diff(times) <= window_seconds + ROUNDING  # (W - 1,): window i + 1 and i
    plateau = np.flatnonzero(np.append(True, ~touches | (np.diff(scores) != 0)))
    heights = scores[plateau]
    separated = ~touches[plateau[1:] - 1]
    rises = np.append(True, separated | (heights[1:] > heights[:-1]))
    falls = np.append(separated | (heights[:-1] > heights[1:]), True)
    return heights[rises & falls]


def event_counts(
    detected: np.ndarray,
    annotated: np.ndarray,
    onset_collar: float = ONSET_COLLAR,
    offset_collar: float = OFFSET_COLLAR,
    offset_share: float = OFFSET_SHARE,
) -> tuple[int, int, int]:
    """Count hits, false alarms and misses of the events detected in one file.

    Events are paired one to one, with as many pairs as possible. Two events can be a pair if their onsets differ by at
    most the onset collar, and their offsets by at most the offset collar, or `offset_share` of the length of the
    annotated event if that is more.

    Args:
        detected: (E, 2 or more), detected events, onset and offset first.
        annotated: (G, 2), annotated events.
    """
    if not (onset_collar >= 0 and offset_collar >= 0 and offset_share >= 0):
        raise ValueError(
            f"onset_collar={onset_collar}, offset_collar={offset_collar}, offset_share={offset_share}: must not be "
            "negative. Give 0 or more."
        )
    detected, annotated = _checked(detected, "detected"), _checked(annotated, "annotated")
    if not len(detected) or not len(annotated):
        return 0, len(detected), len(annotated)
    collar = np.maximum(offset_collar, offset_share * (annotated[:, 1] - annotated[:, 0]))  # (G,)
    distance = np.abs(detected[:, None] - annotated[None])  # (E, G, 2)
    pairs = (distance[..., 0] <= onset_collar + ROUNDING) & (distance[..., 1] <= collar + ROUNDING)
    # A greedy choice can block a better one if events overlap; the matching finds the most pairs.
    hits = int((maximum_bipartite_matching(csr_matrix(pairs)) >= 0).sum())
    return hits, len(detected) - hits, len(annotated) - hits


def _checked(events: np.ndarray, name: str) -> np.ndarray:
    """Return onsets and offsets (E, 2); raise ValueError if they are not valid."""
    events = np.asarray(events, np.float64)
    if not events.size:
        return np.zeros((0, 2))
    if events.ndim != 2 or events.shape[1] < 2:
        raise ValueError(f"{name}.shape={events.shape}: must be (E, 2). Give onset and offset in seconds.")
    events = events[:, :2]
    broken = ~np.isfinite(events).all(axis=1) | (events[:, 1] < events[:, 0])
    if broken.any():
        event = int(broken.argmax())
        raise ValueError(
            f"{name}[{event}]={events[event].tolist()}: the offset is before the onset, or not finite. Fix this event."
        )
    return events


@dataclass(frozen=True)
class LabelAlarms:
    """False alarms in the clips that have this label but not the target."""

    label: int
    clips: int
    clips_with_false_alarm: int
    false_alarms: int


def confusers(
    codes: np.ndarray | Sequence[int], clips: np.ndarray | Sequence[int], targets: np.ndarray, alarms: np.ndarray
) -> list[LabelAlarms]:
    """Count the false alarms per label, to find the sounds that the model confuses with the target.

    Args:
        codes, clips: (pairs,), labels and the indices of the clips that have them.
        targets: (N,) bool, whether a clip has the target.
        alarms: (N,), events detected in each clip.

    Returns:
        One record per label, most false alarms first. A clip with several labels counts for each of its labels.
    """
    targets, alarms = np.asarray(targets, bool), np.asarray(alarms)
    pairs = np.unique(np.stack([np.asarray(codes, int), np.asarray(clips, int)]), axis=1)
    codes, clips = pairs[:, ~targets[pairs[1]]]
    count, fired, total = (np.bincount(codes, part) for part in (None, alarms[clips] > 0, alarms[clips]))
    order = np.lexsort((count, -fired, -total))  # ties: the label with more clips that fire, then with fewer clips
    return [
        LabelAlarms(int(label), int(count[label]), int(fired[label]), int(total[label]))
        for label in order
        if count[label]
    ]

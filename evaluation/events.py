"""From scores of windows to events in time, and events against those that people heard.

Times are in seconds. Windows of one recording come in order of time and all have one length; a window fires at a
threshold when its score reaches it.
"""

# W windows, T frames of a window, F frames of a recording, E events found, G events that happened, N clips

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

ONSET_COLLAR = 0.2  # s, between the onsets of two events that are the same
OFFSET_COLLAR = 0.2  # s, between their offsets, or OFFSET_SHARE of the length of the one that happened if that is more
OFFSET_SHARE = 0.2
ROUNDING = 1e-6  # s: times are sums of floats


def check_windows(times: np.ndarray, scores: np.ndarray, window_seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """The windows of one recording as two arrays (W,) of floats; refuses what cannot be merged."""
    times, scores = np.asarray(times, np.float64), np.asarray(scores, np.float64)
    if times.ndim != 1 or times.shape != scores.shape:
        raise ValueError(f"{times.shape = } and {scores.shape = } must be (W,): when a window begins and its score")
    if not window_seconds > 0:
        raise ValueError(f"{window_seconds = } must be above 0")
    broken = ~np.isfinite(times) | np.isnan(scores)
    if broken.any():
        raise ValueError(f"window {int(broken.argmax())} of {len(times)}: its time or score is not a number")
    back = np.flatnonzero(np.diff(times) < 0)
    if len(back):
        raise ValueError(f"window {back[0] + 1} begins at {times[back[0] + 1]} s, before window {back[0]}; sort them")
    return times, scores


def merge_windows(times: np.ndarray, scores: np.ndarray, threshold: float, window_seconds: float) -> np.ndarray:
    """Events (E, 3), start, end and score: windows that fire and touch or overlap are one, with their highest score.

    Args:
        times: (W,), when each window begins; ascending.
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
    """One score a frame where windows overlap: when frames begin (F,), their mean scores (F,), and a frame's length.

    Frames of all windows are put on one grid, so that a window moves by half a frame at most.

    Args:
        times: (W,), when each window begins; ascending.
        frame_scores: (W, T), in [0, 1].
    """
    frame_scores = np.asarray(frame_scores, np.float64)
    times, _ = check_windows(times, frame_scores.mean(axis=1), window_seconds)
    frame_seconds = window_seconds / frame_scores.shape[1]
    origin = times[0] if len(times) else 0.0
    place = np.rint((times - origin) / frame_seconds).astype(int)[:, None] + np.arange(frame_scores.shape[1])
    count = np.bincount(place.ravel())
    covered = np.flatnonzero(count)
    total = np.bincount(place.ravel(), frame_scores.ravel())
    return origin + covered * frame_seconds, total[covered] / count[covered], frame_seconds


def refine(
    events: np.ndarray, times: np.ndarray, scores: np.ndarray, threshold: float, frame_seconds: float
) -> np.ndarray:
    """Events (E, 3) from their first to their last frame that reaches the threshold; without any, as they were.

    Args:
        times, scores: (F,), when frames begin, ascending, and their scores: what `average_frames` gives.
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
    """Events (E, 3) of one recording: merged windows, refined where the model scores frames (W, T) too."""
    events = merge_windows(times, scores, threshold, window_seconds)
    if frame_scores is None or not len(events):
        return events
    frame_times, averages, frame_seconds = average_frames(times, frame_scores, window_seconds)
    return refine(events, frame_times, averages, threshold, frame_seconds)


def alarm_peaks(times: np.ndarray, scores: np.ndarray, window_seconds: float) -> np.ndarray:
    """Scores of the windows (W,) that no touching neighbour exceeds; equal neighbours are one peak.

    Each can become an event of its own, so whatever the threshold, there are at least as many peaks that reach it as
    events. Of a recording without the target, they are what can raise a false alarm.
    """
    times, scores = check_windows(times, scores, window_seconds)
    if not len(times):
        return scores
    touches = np.diff(times) <= window_seconds + ROUNDING  # (W - 1,): window i + 1 and i
    plateau = np.flatnonzero(np.append(True, ~touches | (np.diff(scores) != 0)))
    heights = scores[plateau]
    apart = ~touches[plateau[1:] - 1]
    rises = np.append(True, apart | (heights[1:] > heights[:-1]))
    falls = np.append(apart | (heights[:-1] > heights[1:]), True)
    return heights[rises & falls]


def event_counts(
    found: np.ndarray,
    happened: np.ndarray,
    onset_collar: float = ONSET_COLLAR,
    offset_collar: float = OFFSET_COLLAR,
    offset_share: float = OFFSET_SHARE,
) -> tuple[int, int, int]:
    """Hits, false alarms and misses of the events found in one file, with as many hits as one to one pairs allow.

    Two events can be a pair when their onsets are no further apart than the onset collar and their offsets no further
    than the offset collar, or than `offset_share` of the length of the one that happened if that is more.

    Args:
        found: (E, 2 or more), onset and offset first.
        happened: (G, 2).
    """
    if not (onset_collar >= 0 and offset_collar >= 0 and offset_share >= 0):
        raise ValueError(f"{onset_collar = }, {offset_collar = } and {offset_share = } must not be negative")
    found, happened = _checked(found, "found"), _checked(happened, "happened")
    if not len(found) or not len(happened):
        return 0, len(found), len(happened)
    collar = np.maximum(offset_collar, offset_share * (happened[:, 1] - happened[:, 0]))  # (G,)
    apart = np.abs(found[:, None] - happened[None])  # (E, G, 2)
    pairs = (apart[..., 0] <= onset_collar + ROUNDING) & (apart[..., 1] <= collar + ROUNDING)
    hits = int((maximum_bipartite_matching(csr_matrix(pairs)) >= 0).sum())
    return hits, len(found) - hits, len(happened) - hits


def _checked(events: np.ndarray, name: str) -> np.ndarray:
    """Onsets and offsets (E, 2); refuses what is no event."""
    events = np.asarray(events, np.float64)
    if not events.size:
        return np.zeros((0, 2))
    if events.ndim != 2 or events.shape[1] < 2:
        raise ValueError(f"events {name}: shape {events.shape} must be (E, 2): onset and offset in seconds")
    events = events[:, :2]
    broken = ~np.isfinite(events).all(axis=1) | (events[:, 1] < events[:, 0])
    if broken.any():
        place = int(broken.argmax())
        raise ValueError(f"events {name}: event {place} has onset and offset {events[place].tolist()}")
    return events


@dataclass(frozen=True)
class LabelAlarms:
    """False alarms in the clips that have a label and do not hold the target."""

    label: int
    clips: int
    clips_with_false_alarm: int
    false_alarms: int


def confusers(
    codes: np.ndarray | Sequence[int], clips: np.ndarray | Sequence[int], targets: np.ndarray, alarms: np.ndarray
) -> list[LabelAlarms]:
    """Count the false alarms of each label: what sounds like the target to the model.

    Args:
        codes, clips: (pairs,) labels and the positions of the clips that have them.
        targets: (N,) bool, whether a clip holds the target.
        alarms: (N,) events found in each clip.

    Returns:
        One record per label, most false alarms first. A clip with several labels counts for each.
    """
    targets, alarms = np.asarray(targets, bool), np.asarray(alarms)
    pairs = np.unique(np.stack([np.asarray(codes, int), np.asarray(clips, int)]), axis=1)
    codes, clips = pairs[:, ~targets[pairs[1]]]
    count, fired, total = (np.bincount(codes, part) for part in (None, alarms[clips] > 0, alarms[clips]))
    order = np.lexsort((count, -fired, -total))  # of as many false alarms, the label with fewer clips first
    return [
        LabelAlarms(int(label), int(count[label]), int(fired[label]), int(total[label]))
        for label in order
        if count[label]
    ]

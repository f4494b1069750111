"""Measures, thresholds and intervals for scores that separate clips with a target sound from other clips.

A clip fires at a threshold when its score is equal to or above it. Clips of equal score share one threshold, so the
order of ties cannot improve a measure. A measure that would divide by 0 is NaN here, and None with a reason in an
`Interval`.
"""

# N clips, K distinct scores from high to low, M peaks, S resamples

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import expit, logit, ndtri

from evaluation.intervals import LEVEL, TOLERANCE, Interval, interval_of
from evaluation.threshold_rules import check_rule

PER_HOUR = (1, 10, 60)  # false alarms per hour at which recall is reported
RECALL = 0.9  # at which false alarms are reported
ALMOST_0 = 2.0**-53  # as close to 0 as the largest float below 1 is to 1
SAMPLES = 1000  # bootstrap resamples
AT_ONCE = 1_000_000  # weights of resamples in memory at once: 8 MB


def check_scores(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (N,) as floats and targets (N,) as bools.

    Raises:
        ValueError: if the clips cannot be ranked; the message names the first bad clip.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.ndim != 1 or scores.shape != targets.shape or not len(scores):
        raise ValueError(
            f"scores.shape={scores.shape}, targets.shape={targets.shape}: both must be (N,), with N > 0. Give one "
            "score and one target per clip."
        )
    broken = np.isnan(scores)
    if broken.any():
        raise ValueError(
            f"scores[{int(broken.argmax())}]=nan: {int(broken.sum())} of {len(scores)} scores are NaN. Leave these "
            "clips out and count them, or find out why the model predicts NaN."
        )
    invalid = (targets != 0) & (targets != 1)
    if invalid.any():
        clip = int(invalid.argmax())
        raise ValueError(
            f"targets[{clip}]={targets[clip]}: must be 1 or 0. Give 1 for a clip with the target sound, otherwise 0."
        )
    return scores, targets.astype(bool)


@dataclass(frozen=True)
class Ranking:
    """Clips from the highest score to the lowest, and where each group of equal scores ends."""

    order: np.ndarray  # (N,) indices of clips
    positive: np.ndarray  # (N,) bool, in that order
    ends: np.ndarray  # (K,) last position of each distinct score in that order
    thresholds: np.ndarray  # (K,) the distinct scores

    @classmethod
    def of(cls, scores: np.ndarray, targets: np.ndarray) -> "Ranking":
        scores, targets = check_scores(scores, targets)
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))
        return cls(order, targets[order], ends, scores[order][ends])

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the hits and false alarms (K,) at each threshold."""
        hits = np.cumsum(self.positive)[self.ends].astype(np.float64)
        return hits, self.ends + 1 - hits

    def weighted(self, clips: np.ndarray, size: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Return a function from weights of clips (S, size) to hits and false alarms (S, levels).

        Args:
            clips: (N,), the clip of each ranked score.
            size: number of clips.
        """
        # No measure changes between two thresholds that gain no hit, so all negatives between two positives share one
        # level. This keeps the matrices small: 20,000 clips with 100 positives have at most 201 levels.
        gains = np.add.reduceat(self.positive, np.append(0, self.ends[:-1] + 1)) > 0  # (K,)
        level_of_score = np.cumsum(gains | np.append(True, gains[:-1])) - 1  # (K,)
        level = np.repeat(level_of_score, np.diff(self.ends, prepend=-1))  # (N,), in order
        shape, clips = (level_of_score[-1] + 1, size), clips[self.order]
        groups = (self.positive, ~self.positive)
        parts = [csr_matrix((np.ones(rows.sum()), (level[rows], clips[rows])), shape) for rows in groups]

        def count(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            by_clip = np.ascontiguousarray(weights.T)
            hits, false_alarms = (np.cumsum(part @ by_clip, axis=0).T for part in parts)
            return hits, false_alarms

        return count


# Measures (...,) of hits and false alarms (..., K); NaN where they would divide by 0


def area_under_precision(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Average precision: the precision at each threshold, weighted by the recall that the threshold gains."""
    gained = np.diff(hits, axis=-1, prepend=0)
    with np.errstate(invalid="ignore"):
        area = np.where(gained > 0, gained * hits / (hits + false_alarms), 0.0).sum(axis=-1)
        return area / hits[..., -1]


def area_under_roc(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """ROC-AUC: the share of (positive, negative) pairs in which the positive scores higher; ties count half."""
    below = (hits - np.diff(hits, axis=-1, prepend=0) / 2) * np.diff(false_alarms, axis=-1, prepend=0)
    with np.errstate(invalid="ignore"):
        return below.sum(axis=-1) / (hits[..., -1] * false_alarms[..., -1])


def distance_of(auc: np.ndarray | float, pairs: float) -> np.ndarray:
    """d': the distance in standard deviations of two normal distributions with this ROC-AUC."""
    # d' is infinite for an area of 0 or 1, so the area is kept half a pair away from both.
    least = 0.5 / max(pairs, 1)
    return np.sqrt(2) * ndtri(np.clip(auc, least, 1 - least))


def recall_within(hits: np.ndarray, false_alarms: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Recall at the lowest threshold with at most `allowed` (...,) false alarms; 0 if every threshold has more."""
    kept = (false_alarms <= np.asarray(allowed)[..., None] + TOLERANCE).sum(axis=-1)
    hits_kept = np.take_along_axis(hits, np.maximum(kept - 1, 0)[..., None], axis=-1)[..., 0]
    with np.errstate(invalid="ignore"):
        return np.where(kept > 0, hits_kept, 0.0) / hits[..., -1]


def false_alarms_within(hits: np.ndarray, false_alarms: np.ndarray, recall: float) -> np.ndarray:
    """False alarms at the highest threshold that reaches this recall; NaN without positives."""
    total = hits[..., -1:]
    threshold = (hits < recall * total - TOLERANCE).sum(axis=-1, keepdims=True)
    alarms = np.take_along_axis(false_alarms, np.minimum(threshold, hits.shape[-1] - 1), axis=-1)[..., 0]
    return np.where(total[..., 0] > 0, alarms, np.nan)


# The same measures from scores and targets (N,)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Step-wise average precision; NaN without positives. Chance level: the share of positives."""
    return float(area_under_precision(*Ranking.of(scores, targets).counts()))


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve; NaN without positives or without negatives. Chance level: 1/2."""
    return float(area_under_roc(*Ranking.of(scores, targets).counts()))


def precision_recall_curve(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return recall, precision and threshold (K,), highest threshold first; empty without positives."""
    ranking = Ranking.of(scores, targets)
    hits, false_alarms = ranking.counts()
    if not hits[-1]:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    return hits / hits[-1], hits / (hits + false_alarms), ranking.thresholds


def threshold_for(scores: np.ndarray, targets: np.ndarray, rule: str, hours: float | None = None) -> float:
    """Choose the threshold at which to fire, on scores and targets (N,) that are not the ones to report.

    Args:
        rule: "f1" for the largest F1 (of equals, the highest threshold), moved to the middle of the gap below the
            lowest score that fires, because other clips may score a little less; "recall:0.9" for the highest
            threshold that reaches this recall; "false_alarms:10" for the lowest threshold with at most 10 false alarms
            per hour, where each negative clip that fires is one.
        hours: of audio of negative clips, for "false_alarms".
    """
    kind, value = check_rule(rule)
    ranking = Ranking.of(scores, targets)
    hits, false_alarms = ranking.counts()
    if kind == "false_alarms":
        if hours is None or not hours > 0 or not false_alarms[-1]:
            raise ValueError(
                f"rule={rule!r}: needs negative clips and their length, but hours={hours} and there are "
                f"{int(false_alarms[-1])} negative clips. Give clips without the target, or another rule."
            )
        kept = int((false_alarms <= value * hours + TOLERANCE).sum())
        return float(ranking.thresholds[kept - 1] if kept else np.nextafter(ranking.thresholds[0], np.inf))
    if not hits[-1]:
        raise ValueError(
            f"rule={rule!r}: needs a clip with the target, but none of {len(ranking.order)} has it. Give more clips, "
            "or the rule false_alarms."
        )
    if kind == "recall":
        return float(ranking.thresholds[(hits < value * hits[-1] - TOLERANCE).sum()])
    best = int(np.argmax(2 * hits / (hits + false_alarms + hits[-1])))
    if best + 1 == len(ranking.thresholds):
        return float(ranking.thresholds[best])
    return middle_of(float(ranking.thresholds[best + 1]), float(ranking.thresholds[best]))


def middle_of(low: float, high: float) -> float:
    """Return the score half-way between two scores; of probabilities, half-way between their logits."""
    middle = low + (high - low) / 2
    if low >= 0 and high <= 1:  # probabilities; clipped, because the logits of 0 and 1 are infinite
        middle = float(expit(logit(np.clip([low, high], ALMOST_0, 1 - ALMOST_0)).mean()))
    # Rounding can put the middle of two adjacent floats at `low`, at which one more clip would fire.
    return middle if low < middle <= high else high


# Intervals: the bootstrap draws whole recordings with replacement


def bootstrap_clips(
    scores: np.ndarray,
    targets: np.ndarray,
    seconds: np.ndarray,
    recordings: Sequence[str],
    threshold: float,
    alarms: np.ndarray,
    peaks: tuple[np.ndarray, np.ndarray] | None = None,
    events: np.ndarray | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Compute every measure of a detector on clips, with its interval over recordings.

    Recordings are drawn regardless of their content, so the share of positives varies as it would in other clips like
    these. A resample in which a measure would divide by 0 (no positive, no clip that fires) is left out: `samples`
    counts the others. The smaller of the numbers of recordings with positives and with negatives decides how much
    wider than the plain percentiles the bounds are. If all resamples agree there are no bounds: missing none of ten
    clips says little about the next ten.

    With normally distributed scores, 95 % intervals of average precision covered the truth in 93 to 97 % of 200 sets
    with 8 to 100 positives, those of ROC-AUC in 90 to 95 %, but in 82 % near the ceiling (20 positives, area 0.98).

    Args:
        scores, targets: (N,).
        seconds: (N,), length of each clip's audio.
        recordings: (N,), the recording of each clip; a name per clip for an interval over clips.
        threshold: at which recall, precision and F1 of clips are reported.
        alarms: (N,), events detected in each clip at the threshold; in clips without the target, false alarms.
        peaks: scores (M,) of everything that can raise a false alarm, and the index (M,) of the clip of each, all
            without the target (`alarm_peaks`). None uses the scores of the clips.
        events: (N, 3), hits, false alarms and misses of events, NaN for a clip with unknown events; or None.

    Returns:
        `Interval`s by name: average_precision, roc_auc, d_prime, recall_at_1_per_hour, ..10.., ..60..,
        false_alarms_at_recall (per hour, at a recall of 0.9), recall, precision, f1, false_alarms_per_hour and, if
        events are given, event_f1. Their `mean` is the measure of all clips.
    """
    scores, targets = check_scores(scores, targets)
    seconds, alarms = np.asarray(seconds, np.float64), np.asarray(alarms, np.float64)
    check_request(scores, (seconds, alarms, recordings), samples, level)
    measure = _measures(scores, targets, seconds, threshold, alarms, peaks, events)
    code = np.unique(np.asarray(recordings, dtype=str), return_inverse=True)[1]
    on_all_clips = measure(np.ones((1, len(scores))))
    parts = [measure(weights) for weights in resamples(code, samples, seed)]
    sides = {"positives": len(np.unique(code[targets])), "negatives": len(np.unique(code[~targets]))}
    # These two measures depend on one kind of recording only, so only its number limits the interval.
    depends_on = {"recall": ("positives",), "false_alarms_per_hour": ("negatives",)}
    unknown = 0 if events is None else int(np.isnan(events).any(axis=1).sum())
    intervals = {}
    for name, value in on_all_clips.items():
        clusters = {side: sides[side] for side in depends_on.get(name, sides)}
        drawn = np.concatenate([part[name] for part in parts])
        left_out = unknown if name == "event_f1" else 0
        intervals[name] = interval_of(float(value[0]), drawn, clusters, len(scores) - left_out, left_out, level)
    return intervals


def check_request(scores: np.ndarray, columns: Sequence[Sized], samples: int, level: float) -> None:
    if any(len(column) != len(scores) for column in columns):
        raise ValueError(
            f"scores={len(scores)} rows, other columns={[len(column) for column in columns]}: lengths differ. Give "
            "one value per clip in each column."
        )
    if samples < 1 or not 0 < level < 1:
        raise ValueError(
            f"samples={samples}, level={level}: samples must be at least 1, level between 0 and 1. Fix the one "
            "that is out of range."
        )


def resamples(code: np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each clip counts in each resample, (S, N), in blocks of at most AT_ONCE numbers.

    Args:
        code: (N,), the recording of each clip.
    """
    generator, size = np.random.default_rng(seed), int(code.max()) + 1
    one_clip_each = np.array_equal(code, np.arange(size))  # then there is nothing to look up
    rows = max(AT_ONCE // len(code), 1)
    for start in range(0, samples, rows):
        drawn = generator.integers(0, size, (min(rows, samples - start), size))
        drawn += np.arange(len(drawn))[:, None] * size  # a range per resample, so that one bincount counts them all
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        yield counts if one_clip_each else counts[:, code]


def _measures(
    scores: np.ndarray,
    targets: np.ndarray,
    seconds: np.ndarray,
    threshold: float,
    alarms: np.ndarray,
    peaks: tuple[np.ndarray, np.ndarray] | None,
    events: np.ndarray | None,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Return a function from weights of clips (S, N) to measures (S,) by name."""
    ranked = Ranking.of(scores, targets).weighted(np.arange(len(scores)), len(scores))
    pairs = float(targets.sum() * (~targets).sum())
    if peaks is not None:
        peak_scores, peak_clips = np.asarray(peaks[0], np.float64), np.asarray(peaks[1], int)
        if targets[peak_clips].any():
            count = int(targets[peak_clips].sum())
            raise ValueError(
                f"peaks={len(peak_clips)}: {count} are in clips with the target, so they are not false alarms. Give "
                "only peaks of negative clips."
            )
        clips = np.concatenate([np.flatnonzero(targets), peak_clips])
        both = np.concatenate([scores[targets], peak_scores])
        alarming = Ranking.of(both, np.arange(len(clips)) < targets.sum()).weighted(clips, len(scores))
    fired = scores >= threshold
    hours = np.where(targets, 0.0, seconds / 3600)
    columns = [targets, targets & fired, fired, np.where(targets, 0.0, alarms), hours]
    if events is not None:
        columns += list(np.nan_to_num(events).T)
    columns = np.stack(columns, axis=1).astype(np.float64)  # (N, C)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, misfires = ranked(weights)
        values = {"average_precision": area_under_precision(hits, misfires), "roc_auc": area_under_roc(hits, misfires)}
        values["d_prime"] = distance_of(values["roc_auc"], pairs)
        if peaks is not None:
            hits, misfires = alarming(weights)
        sums = (weights @ columns).T
        positives, caught, firing, raised, negative_hours = sums[:5]
        has_negatives = negative_hours > 0
        for rate in PER_HOUR:
            recall = recall_within(hits, misfires, negative_hours * rate)
            values[f"recall_at_{rate}_per_hour"] = np.where(has_negatives, recall, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            values["false_alarms_at_recall"] = np.where(
                has_negatives, false_alarms_within(hits, misfires, RECALL) / negative_hours, np.nan
            )
            values["recall"], values["precision"] = caught / positives, caught / firing
            values["f1"] = 2 * caught / (positives + firing)
            values["false_alarms_per_hour"] = np.where(has_negatives, raised / negative_hours, np.nan)
            if events is not None:
                right, wrong, missed = sums[5:]
                values["event_f1"] = 2 * right / (2 * right + wrong + missed)
        return values

    return measure


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    targets: np.ndarray,
    recordings: Sequence[str],
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the interval of the first model's measure minus the second's, on the same clips and resamples.

    Args:
        first, second: (N,), scores of the two models.
        recordings: (N,), the recording of each clip; recordings are drawn whole.
        measure: a function of hits and false alarms (..., K), for example `area_under_precision`.
    """
    first, targets = check_scores(first, targets)
    second, _ = check_scores(second, targets)
    check_request(first, (second, recordings), samples, level)
    code = np.unique(np.asarray(recordings, dtype=str), return_inverse=True)[1]
    ranked = [Ranking.of(each, targets).weighted(np.arange(len(first)), len(first)) for each in (first, second)]

    def difference(weights: np.ndarray) -> np.ndarray:
        """Return the difference (S,) in resamples (S, N); NaN without positives or negatives."""
        of_first, of_second = (measure(*counts(weights)) for counts in ranked)
        positives = weights @ targets
        has_both = (positives > 0) & (positives < weights.sum(axis=1))
        return np.where(has_both, of_first - of_second, np.nan)

    drawn = [difference(weights) for weights in resamples(code, samples, seed)]
    sides = {"positives": len(np.unique(code[targets])), "negatives": len(np.unique(code[~targets]))}
    on_all_clips = float(difference(np.ones((1, len(first))))[0])
    return interval_of(on_all_clips, np.concatenate(drawn), sides, len(first), 0, level)

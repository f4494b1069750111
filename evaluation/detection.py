"""How well scores tell clips with a target sound from others: measures, thresholds and intervals.

A clip fires at a threshold when its score reaches it. Equal scores are one threshold: what cannot be told apart is
never put in an order that flatters. Measures that divide by nothing are NaN here and None, with a reason, in an
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
ALMOST_0 = 2.0**-53  # as near to 0 as the largest float below 1 is to 1
SAMPLES = 1000  # of the bootstrap
AT_ONCE = 1_000_000  # numbers of resampled weights that are held at once


def check_scores(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) as floats and targets (N,) as bools; refuses what cannot be ranked and says where."""
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    if scores.ndim != 1 or scores.shape != targets.shape or not len(scores):
        raise ValueError(f"{scores.shape = } and {targets.shape = } must be (N,), a score and a target a clip")
    broken = np.isnan(scores)
    if broken.any():
        raise ValueError(
            f"scores: {int(broken.sum())} of {len(scores)} are NaN, the first is that of clip {int(broken.argmax())}; "
            "leave such clips out and count them, or find out why a model predicts them"
        )
    other = (targets != 0) & (targets != 1)
    if other.any():
        place = int(other.argmax())
        raise ValueError(f"targets: that of clip {place} is {targets[place]}; it takes 1 (holds the sound) or 0")
    return scores, targets.astype(bool)


@dataclass(frozen=True)
class Ranking:
    """Clips from the highest score to the lowest, and where each distinct score ends."""

    order: np.ndarray  # (N,)
    positive: np.ndarray  # (N,) bool, in that order
    ends: np.ndarray  # (K,) positions in that order
    thresholds: np.ndarray  # (K,)

    @classmethod
    def of(cls, scores: np.ndarray, targets: np.ndarray) -> "Ranking":
        """Rank scores (N,) of targets (N,)."""
        scores, targets = check_scores(scores, targets)
        order = np.argsort(-scores, kind="stable")
        ends = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))
        return cls(order, targets[order], ends, scores[order][ends])

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Hits and false alarms (K,) at each threshold."""
        hits = np.cumsum(self.positive)[self.ends].astype(np.float64)
        return hits, self.ends + 1 - hits

    def weighted(self, clips: np.ndarray, size: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Hits and false alarms (S, levels) as a function of how often each of `size` clips counts, (S, size).

        No measure below changes between two thresholds that gain no hit, so the scores between two of positives are
        one level: of 20,000 clips with 100 positives, 201 levels at most.

        Args:
            clips: (N,), the clip that each of the ranked scores is of.
        """
        gains = np.add.reduceat(self.positive, np.append(0, self.ends[:-1] + 1)) > 0  # (K,)
        level_of_score = np.cumsum(gains | np.append(True, gains[:-1])) - 1  # (K,)
        level = np.repeat(level_of_score, np.diff(self.ends, prepend=-1))  # (N,), in order
        shape, clips = (level_of_score[-1] + 1, size), clips[self.order]
        kinds = (self.positive, ~self.positive)
        parts = [csr_matrix((np.ones(kind.sum()), (level[kind], clips[kind])), shape) for kind in kinds]

        def count(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            by_clip = np.ascontiguousarray(weights.T)
            hits, false_alarms = (np.cumsum(part @ by_clip, axis=0).T for part in parts)
            return hits, false_alarms

        return count


# Measures of hits and false alarms (..., K): (...,), NaN where they divide by nothing


def area_under_precision(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Average precision: the precision at each threshold, weighted with the recall that the threshold gains."""
    gained = np.diff(hits, axis=-1, prepend=0)
    with np.errstate(invalid="ignore"):
        area = np.where(gained > 0, gained * hits / (hits + false_alarms), 0.0).sum(axis=-1)
        return area / hits[..., -1]


def area_under_roc(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """The share of pairs of a positive and a negative in which the positive scores higher; ties count half."""
    below = (hits - np.diff(hits, axis=-1, prepend=0) / 2) * np.diff(false_alarms, axis=-1, prepend=0)
    with np.errstate(invalid="ignore"):
        return below.sum(axis=-1) / (hits[..., -1] * false_alarms[..., -1])


def distance_of(auc: np.ndarray | float, pairs: float) -> np.ndarray:
    """d': how many standard deviations two normal distributions with this ROC-AUC lie apart.

    It is infinite for an area of 0 or 1, so areas are kept half of one of the `pairs` away from both.
    """
    least = 0.5 / max(pairs, 1)
    return np.sqrt(2) * ndtri(np.clip(auc, least, 1 - least))


def recall_within(hits: np.ndarray, false_alarms: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The recall at the lowest threshold with at most `allowed` (...,) false alarms; 0 if each has more."""
    kept = (false_alarms <= np.asarray(allowed)[..., None] + TOLERANCE).sum(axis=-1)
    hits_kept = np.take_along_axis(hits, np.maximum(kept - 1, 0)[..., None], axis=-1)[..., 0]
    with np.errstate(invalid="ignore"):
        return np.where(kept > 0, hits_kept, 0.0) / hits[..., -1]


def false_alarms_within(hits: np.ndarray, false_alarms: np.ndarray, recall: float) -> np.ndarray:
    """The false alarms at the highest threshold that keeps this recall; NaN without a positive."""
    total = hits[..., -1:]
    place = (hits < recall * total - TOLERANCE).sum(axis=-1, keepdims=True)
    found = np.take_along_axis(false_alarms, np.minimum(place, hits.shape[-1] - 1), axis=-1)[..., 0]
    return np.where(total[..., 0] > 0, found, np.nan)


# The same of scores and targets (N,)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Step-wise average precision; NaN where no clip holds the target. By chance it is the share of those that do."""
    return float(area_under_precision(*Ranking.of(scores, targets).counts()))


def roc_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """The area under the ROC curve; NaN where all clips hold the target, or none does. By chance it is 1/2."""
    return float(area_under_roc(*Ranking.of(scores, targets).counts()))


def precision_recall_curve(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and threshold (K,) from the highest threshold to the lowest; empty without a positive."""
    ranking = Ranking.of(scores, targets)
    hits, false_alarms = ranking.counts()
    if not hits[-1]:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    return hits / hits[-1], hits / (hits + false_alarms), ranking.thresholds


def threshold_for(scores: np.ndarray, targets: np.ndarray, rule: str, hours: float | None = None) -> float:
    """The threshold at which to fire, chosen on scores and targets (N,), which must not be those that are reported.

    Args:
        rule: "f1" for the largest F1 (the highest of equals), in the middle of the gap below the lowest score that
            fires, as other clips may score a little less; "recall:0.9" for the highest threshold that
            keeps this recall; "false_alarms:10" for the lowest with at most 10 false alarms per hour, where each
            negative that fires is one.
        hours: of negative audio, for the last.
    """
    kind, value = check_rule(rule)
    ranking = Ranking.of(scores, targets)
    hits, false_alarms = ranking.counts()
    if kind == "false_alarms":
        if hours is None or not hours > 0 or not false_alarms[-1]:
            raise ValueError(
                f"threshold rule {rule!r} needs clips without the target and their length: {hours = }, "
                f"{int(false_alarms[-1])} such clips"
            )
        kept = int((false_alarms <= value * hours + TOLERANCE).sum())
        return float(ranking.thresholds[kept - 1] if kept else np.nextafter(ranking.thresholds[0], np.inf))
    if not hits[-1]:
        raise ValueError(
            f"threshold rule {rule!r} needs a clip that holds the target: none of {len(ranking.order)} does; choose "
            "on more clips, or by false alarms"
        )
    if kind == "recall":
        return float(ranking.thresholds[(hits < value * hits[-1] - TOLERANCE).sum()])
    best = int(np.argmax(2 * hits / (hits + false_alarms + hits[-1])))
    if best + 1 == len(ranking.thresholds):
        return float(ranking.thresholds[best])
    return middle_of(float(ranking.thresholds[best + 1]), float(ranking.thresholds[best]))


def middle_of(low: float, high: float) -> float:
    """A score above `low` and at most `high`, half-way; of probabilities, half-way between their logits."""
    middle = low + (high - low) / 2
    if low >= 0 and high <= 1:  # at 0 and 1, where sigmoids saturate, logits are infinite
        middle = float(expit(logit(np.clip([low, high], ALMOST_0, 1 - ALMOST_0)).mean()))
    return middle if low < middle <= high else high


# Intervals: whole recordings are drawn with replacement


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
    """Every measure of a detector on clips, with its interval over recordings (or over clips, each its own recording).

    Recordings are drawn whatever they hold, so the share of positives varies as it would in other clips like these. A
    resample in which a measure divides by nothing (no positive, none that fires) is left out: `samples` are those
    that count. The fewer of the recordings with positives and with negatives decide how much wider than the plain
    percentiles the bounds are. Where all resamples agree there are no bounds: that no clip was missed among ten says
    little of the next ten. (Of normal scores, 95 % intervals of average precision held in 93 to 97 % of 200 sets with
    8 to 100 positives, those of ROC-AUC in 90 to 95 %, but in 82 % near their ceiling: 20 positives, an area of 0.98.)

    Args:
        scores, targets: (N,).
        seconds: (N,), of each clip's audio.
        recordings: (N,), what clips are alike by.
        threshold: at which recall, precision and F1 of clips are reported.
        alarms: (N,), events found in each clip at the threshold; they are false alarms in clips without the target.
        peaks: scores (M,) of what can raise a false alarm and the position (M,) of the clip of each, all without the
            target (`alarm_peaks`); None for the scores of clips.
        events: (N, 3) hits, false alarms and misses of events, NaN in a clip whose events are not known; or None.

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
    whole = measure(np.ones((1, len(scores))))
    parts = [measure(weights) for weights in resamples(code, samples, seed)]
    sides = {"positives": len(np.unique(code[targets])), "negatives": len(np.unique(code[~targets]))}
    concerned = {"recall": ("positives",), "false_alarms_per_hour": ("negatives",)}
    unknown = 0 if events is None else int(np.isnan(events).any(axis=1).sum())
    intervals = {}
    for name, value in whole.items():
        clusters = {side: sides[side] for side in concerned.get(name, sides)}
        drawn = np.concatenate([part[name] for part in parts])
        left_out = unknown if name == "event_f1" else 0
        intervals[name] = interval_of(float(value[0]), drawn, clusters, len(scores) - left_out, left_out, level)
    return intervals


def check_request(scores: np.ndarray, columns: Sequence[Sized], samples: int, level: float) -> None:
    """Refuse what cannot be resampled."""
    if any(len(column) != len(scores) for column in columns):
        raise ValueError(
            f"{len(scores)} scores and {', '.join(str(len(column)) for column in columns)} other values of clips: "
            "give one of each a clip"
        )
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"samples = {samples} must be 1 or more and level = {level} between 0 and 1")


def resamples(code: np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each clip (S, N) counts in resamples, some at a time; code: (N,), the recording of each clip."""
    generator, size = np.random.default_rng(seed), int(code.max()) + 1
    alone = np.array_equal(code, np.arange(size))
    rows = max(AT_ONCE // len(code), 1)
    for start in range(0, samples, rows):
        drawn = generator.integers(0, size, (min(rows, samples - start), size))
        drawn += np.arange(len(drawn))[:, None] * size
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        yield counts if alone else counts[:, code]


def _measures(
    scores: np.ndarray,
    targets: np.ndarray,
    seconds: np.ndarray,
    threshold: float,
    alarms: np.ndarray,
    peaks: tuple[np.ndarray, np.ndarray] | None,
    events: np.ndarray | None,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from weights of clips (S, N) to measures (S,) by name."""
    ranked = Ranking.of(scores, targets).weighted(np.arange(len(scores)), len(scores))
    pairs = float(targets.sum() * (~targets).sum())
    if peaks is not None:
        peak_scores, peak_clips = np.asarray(peaks[0], np.float64), np.asarray(peaks[1], int)
        if targets[peak_clips].any():
            raise ValueError("peaks: some are of clips that hold the target, where they are no false alarms")
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
        known = negative_hours > 0
        for rate in PER_HOUR:
            recall = recall_within(hits, misfires, negative_hours * rate)
            values[f"recall_at_{rate}_per_hour"] = np.where(known, recall, np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            values["false_alarms_at_recall"] = np.where(
                known, false_alarms_within(hits, misfires, RECALL) / negative_hours, np.nan
            )
            values["recall"], values["precision"] = caught / positives, caught / firing
            values["f1"] = 2 * caught / (positives + firing)
            values["false_alarms_per_hour"] = np.where(known, raised / negative_hours, np.nan)
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
    """The first model's measure less the second's on the same clips, both of them taken on the same resamples.

    Args:
        first, second: (N,) scores of both.
        recordings: (N,), what clips are alike by; they are drawn whole.
        measure: of hits and false alarms (..., K), such as `area_under_precision`.
    """
    first, targets = check_scores(first, targets)
    second, _ = check_scores(second, targets)
    check_request(first, (second, recordings), samples, level)
    code = np.unique(np.asarray(recordings, dtype=str), return_inverse=True)[1]
    ranked = [Ranking.of(each, targets).weighted(np.arange(len(first)), len(first)) for each in (first, second)]

    def difference(weights: np.ndarray) -> np.ndarray:
        """Of resamples (S, N): (S,), NaN without positives or negatives, where measures are not defined."""
        of_first, of_second = (measure(*counts(weights)) for counts in ranked)
        positives = weights @ targets
        both = (positives > 0) & (positives < weights.sum(axis=1))
        return np.where(both, of_first - of_second, np.nan)

    drawn = [difference(weights) for weights in resamples(code, samples, seed)]
    sides = {"positives": len(np.unique(code[targets])), "negatives": len(np.unique(code[~targets]))}
    whole = float(difference(np.ones((1, len(first))))[0])
    return interval_of(whole, np.concatenate(drawn), sides, len(first), 0, level)

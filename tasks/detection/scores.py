"""Scores of a detector on the clips of one split: events, measures with intervals, and baselines."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from scipy.special import expit

from evaluation.detection import (
    RECALL,
    area_under_precision,
    bootstrap_clips,
    paired_bootstrap,
    precision_recall_curve,
    threshold_for,
)
from evaluation.events import alarm_peaks, confusers, detect_events, event_counts
from evaluation.intervals import Interval
from evaluation.verdict import p_against, p_against_chance
from media.audioset import Labels
from tasks.detection.columns import recordings_of
from tasks.detection.eval_windows import ClipWindows

# M clips of the split, N windows, T frames per window, E events


HISTOGRAM_EDGES = np.linspace(0, 1, 41)
CURVE_POINTS = 400  # maximum points of a precision-recall curve in metrics.json
CHANCE_AUC = 0.5


@dataclass(frozen=True)
class ClipScores:
    """Scores of all windows of a split: in [0, 1] for a model, in dB for loudness."""

    side: ClipWindows
    scores: np.ndarray  # (N,)
    frames: np.ndarray | None  # (N, T)
    readable: np.ndarray  # (M,) bool; other clips are excluded from all scores

    @classmethod
    def of(
        cls, side: ClipWindows, logits: np.ndarray, frames: np.ndarray | None, readable: np.ndarray
    ) -> "ClipScores":
        """Turn logits (N, 1) and frame logits (N, T, 1) into scores; `readable` (N,) bool is per window."""
        # One unreadable window excludes its whole clip: the window served in its place is from another clip.
        readable_clips = np.ones(len(side.clips), bool)
        readable_clips[side.clip[~readable]] = False
        frames = None if frames is None else expit(frames[..., 0].astype(np.float64))
        return cls(side, expit(logits[:, 0].astype(np.float64)), frames, readable_clips)

    @functools.cached_property
    def first(self) -> np.ndarray:
        """Index of each clip's first window (M + 1,)."""
        return np.searchsorted(self.side.clip, np.arange(len(self.readable) + 1))

    @functools.cached_property
    def clip_scores(self) -> np.ndarray:
        """The highest window score of each readable clip."""
        # Windows are ordered by clip, and every clip has at least one.
        return np.maximum.reduceat(self.scores, self.first[:-1])[self.readable]

    @property
    def targets(self) -> np.ndarray:  # (readable,) bool
        return self.side.clips.targets[self.readable]

    @property
    def seconds(self) -> np.ndarray:
        """Length of each readable clip."""
        return self.side.seconds[self.readable]

    @property
    def hours_of_negatives(self) -> float:
        """Total length of the clips without the target."""
        return float(self.seconds[~self.targets].sum() / 3600)

    def windows(self, clip: int) -> slice:
        """Return the windows of a clip, given its index among all clips."""
        return slice(self.first[clip], self.first[clip + 1])

    def events(self, threshold: float) -> list[np.ndarray]:
        """Return the events (E, 3) detected in each readable clip."""
        detected = []
        for clip in np.flatnonzero(self.readable).tolist():
            windows = self.windows(clip)
            # Most negatives stay below the threshold and need no search for events.
            if self.scores[windows].max() < threshold:
                detected.append(np.zeros((0, 3)))
                continue
            frames = None if self.frames is None else self.frames[windows]
            times = self.side.start[windows]
            events = detect_events(times, self.scores[windows], threshold, self.side.clip_seconds, frames)
            # The last window of a clip shorter than a window reaches beyond its end.
            events[:, 1] = np.minimum(events[:, 1], max(self.side.seconds[clip], events[:, 0].min()))
            detected.append(events)
        return detected

    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores that can raise a false alarm, and the index of their clip among the readable ones."""
        scores, clips = [np.zeros(0)], [np.zeros(0, int)]
        for index, clip in enumerate(np.flatnonzero(self.readable).tolist()):
            if not self.side.clips.targets[clip]:
                windows = self.windows(clip)
                scores.append(alarm_peaks(self.side.start[windows], self.scores[windows], self.side.clip_seconds))
                clips.append(np.full(len(scores[-1]), index))
        return np.concatenate(scores), np.concatenate(clips)

    def threshold(self, rule: str) -> float:
        """Choose a threshold on these clips."""
        return threshold_for(self.clip_scores, self.targets, rule, self.hours_of_negatives)

    def gain_over(self, other: "ClipScores", groups: Sequence[str]) -> Interval:
        """Return the gain in average precision over other scores of the same clips, with its interval over groups."""
        return paired_bootstrap(self.clip_scores, other.clip_scores, self.targets, groups, area_under_precision)

    def measures(self, threshold: float, groups: Sequence[str]) -> tuple[dict[str, Interval], list[np.ndarray]]:
        """Return all measures with intervals over groups, and the events (E, 3) detected in each readable clip."""
        detected = self.events(threshold)
        clips = self.side.clips
        counts = np.full((len(detected), 3), np.nan)  # hits, false alarms, misses
        for index, clip in enumerate(np.flatnonzero(self.readable).tolist()):
            # Other clips stay NaN: where their target events are is not known.
            if clips.strong[clip] or not clips.targets[clip]:
                counts[index] = event_counts(detected[index], clips.events_of(clip))
        events_known = np.isfinite(counts).all(axis=1) & self.targets
        measures = bootstrap_clips(
            self.clip_scores,
            self.targets,
            self.seconds,
            groups,
            threshold,
            np.array([len(events) for events in detected]),
            self.peaks(),
            counts if events_known.any() else None,
        )
        return measures, detected


@dataclass(frozen=True)
class Threshold:
    """The score from which the detector reports the target, and how it was chosen."""

    value: float
    rule: str
    chosen_on: str


@dataclass(frozen=True)
class Expectation:
    """A score known in expectation, so that it has no interval."""

    mean: float
    low: None = None
    high: None = None
    undefined: int = 0
    reason: str = "an expectation"


@dataclass(frozen=True)
class FalseAlarms:
    """False alarms per hour at a recall."""

    recall: float
    per_hour: float | None


@dataclass(frozen=True)
class Curve:
    """Precision over recall."""

    recall: list[float]
    precision: list[float]


@dataclass(frozen=True)
class Histogram:
    """Number of clips with and without the target per score bin."""

    edges: list[float]
    positives: list[int]
    negatives: list[int]

    @classmethod
    def of(cls, scores: ClipScores) -> "Histogram":
        positives, negatives = (
            np.histogram(scores.clip_scores[chosen], HISTOGRAM_EDGES)[0].tolist()
            for chosen in (scores.targets, ~scores.targets)
        )
        return cls(HISTOGRAM_EDGES.tolist(), positives, negatives)


@dataclass(frozen=True)
class Confuser:
    """False alarms in clips with a label and without the target."""

    mid: str
    name: str
    label: int
    clips: int
    clips_with_false_alarm: int
    false_alarms: int


@dataclass(frozen=True)
class Timeline:
    """The scores of one clip over time, and its events."""

    clip_id: str
    title: str
    seconds: list[float]  # centre of each window
    scores: list[float]
    events: list[list[float]] | None  # start and end; None: unknown
    detected: list[list[float]]  # start, end and score


@dataclass(frozen=True)
class ClipResults:
    """The scores on the clips of one split."""

    clips: int
    positives: int
    negatives: int
    ambiguous: int  # excluded clips, with only a related label
    unreadable: int
    hours_of_negatives: float
    threshold: Threshold
    scores: dict[str, Interval]
    baselines: dict[str, dict[str, Interval] | dict[str, Expectation]]
    gains: dict[str, Interval]  # gain in average precision over a baseline, on the same resamples
    permutation_p: dict[str, float]  # by baseline, if all resamples agree
    false_alarms_at_recall: FalseAlarms
    curve: Curve
    baseline_curves: dict[str, Curve]
    histogram: Histogram
    confusers: list[Confuser]
    timelines: list[Timeline]


def assess(
    test: ClipScores,
    validation: ClipScores,
    rivals: dict[str, tuple[ClipScores, ClipScores]],
    rule: str,
    rows: pa.Table,
    labels: Labels,
    chosen_on: str,
) -> tuple[ClipResults, list[np.ndarray]]:
    """Compare the model with chance and the baselines on one split, at thresholds chosen on validation.

    Args:
        rivals: scores of each baseline on test and validation.
        rows: clip_id, labels and, if given, group of each readable test clip.

    Returns:
        the results, and the events (E, 3) detected in each of those clips.
    """
    ids, groups = rows["clip_id"].to_pylist(), recordings_of(rows)
    threshold = validation.threshold(rule)
    scores, detected = test.measures(threshold, groups)
    at_recall = scores.pop("false_alarms_at_recall")
    baselines: dict[str, dict[str, Interval] | dict[str, Expectation]] = {"chance": chance(float(test.targets.mean()))}
    for name, (of_test, of_validation) in rivals.items():
        measured, _ = of_test.measures(of_validation.threshold(rule), groups)
        baselines[name] = {
            score: interval for score, interval in measured.items() if score != "false_alarms_at_recall"
        }
    gains = {name: test.gain_over(of_test, groups) for name, (of_test, _) in rivals.items()}
    positives = int(test.targets.sum())
    results = ClipResults(
        clips=len(ids),
        positives=positives,
        negatives=len(ids) - positives,
        ambiguous=test.side.clips.ambiguous,
        unreadable=int((~test.readable).sum()),
        hours_of_negatives=test.hours_of_negatives,
        threshold=Threshold(threshold, rule, chosen_on),
        scores=scores,
        baselines=baselines,
        gains=gains,
        permutation_p=permutation_p(scores["average_precision"], gains, test, rivals, groups),
        false_alarms_at_recall=FalseAlarms(RECALL, at_recall.mean),
        curve=curve(test),
        baseline_curves={name: curve(of_test) for name, (of_test, _) in rivals.items()},
        histogram=Histogram.of(test),
        confusers=named_confusers(test, detected, rows["labels"], labels),
        timelines=timelines(test, detected, ids),
    )
    return results, detected


def permutation_p(
    score: Interval,
    gains: dict[str, Interval],
    test: ClipScores,
    rivals: dict[str, tuple[ClipScores, ClipScores]],
    groups: Sequence[str],
) -> dict[str, float]:
    """Return permutation p-values against chance and baselines, if all resamples of the score or of the gain agree."""
    # Resampling shows no spread then (no interval), so only a permutation test can say how sure the result is.
    agree = score.low is None and score.samples > 0
    p = {"chance": p_against_chance(test.clip_scores, test.targets, groups)} if agree else {}
    for name, gain in gains.items():
        if agree or (gain.low is None and gain.samples):
            p[name] = p_against(test.clip_scores, rivals[name][0].clip_scores, test.targets, groups)
    return p


def chance(share: float) -> dict[str, Expectation]:
    """Return the expected scores of random predictions, given the share of clips with the target."""
    return {
        "average_precision": Expectation(share), "roc_auc": Expectation(CHANCE_AUC), "d_prime": Expectation(0.0)
    }  # fmt: skip


def curve(scores: ClipScores) -> Curve:
    """Return precision over recall with at most CURVE_POINTS points."""
    recall, precision, _ = precision_recall_curve(scores.clip_scores, scores.targets)
    points = np.unique(np.linspace(0, len(recall) - 1, min(CURVE_POINTS, len(recall))).astype(int))
    return Curve(recall[points].tolist(), precision[points].tolist())


def named_confusers(
    scores: ClipScores, detected: list[np.ndarray], label_lists: pa.ChunkedArray, labels: Labels
) -> list[Confuser]:
    """Count false alarms by clip label, given the detected events and the labels of each readable clip."""
    lists = label_lists.combine_chunks()
    of_clip = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    alarms = np.array([len(events) for events in detected])
    return [
        Confuser(labels.mids[counted.label], labels.names[counted.label], **asdict(counted))
        for counted in confusers(lists.flatten().to_numpy(), of_clip, scores.targets, alarms)
    ]


def timelines(scores: ClipScores, detected: list[np.ndarray], ids: Sequence[str]) -> list[Timeline]:
    """Return the best, the median and the worst clip with the target, and the highest-scoring one without it."""
    readable = np.flatnonzero(scores.readable)
    order = np.argsort(-scores.clip_scores, kind="stable")
    positive, negative = order[scores.targets[order]], order[~scores.targets[order]]
    chosen: dict[str, int] = {}
    if len(positive):
        places = {"best": 0, "median": len(positive) // 2, "worst": len(positive) - 1}
        chosen = {f"with the target, {name}": int(positive[place]) for name, place in places.items()}
    if len(negative):
        chosen["without the target, highest score"] = int(negative[0])
    clips = scores.side.clips
    lines = []
    for name, place in chosen.items():
        clip = int(readable[place])
        windows = scores.windows(clip)
        events_known = bool(clips.strong[clip]) or not clips.targets[clip]
        lines.append(
            Timeline(
                clip_id=ids[place],
                title=f"{name}: {ids[place]}, score {scores.clip_scores[place]:.3f}",
                seconds=(scores.side.start[windows] + scores.side.clip_seconds / 2).tolist(),
                scores=scores.scores[windows].tolist(),
                events=clips.events_of(clip).astype(float).tolist() if events_known else None,
                detected=detected[place].tolist(),
            )
        )
    return lines


def prediction_table(
    scores: ClipScores, rivals: dict[str, ClipScores], ids: Sequence[str], detected: Sequence[np.ndarray]
) -> pa.Table:
    """Make a table with one row per readable clip: id, target, scores, detected events (E, 3) and all windows."""
    records = []
    for place, (clip, events) in enumerate(zip(np.flatnonzero(scores.readable).tolist(), detected, strict=True)):
        windows = scores.windows(clip)
        records.append(
            {
                "clip_id": ids[place],
                "target": bool(scores.targets[place]),
                "score": float(scores.clip_scores[place]),
                **{name: float(rival.clip_scores[place]) for name, rival in rivals.items()},
                "events": [dict(zip(("start", "end", "score"), event, strict=True)) for event in events.tolist()],
                "window_start": scores.side.start[windows].tolist(),
                "window_score": scores.scores[windows].tolist(),
            }
        )
    event = pa.struct([(name, pa.float64()) for name in ("start", "end", "score")])
    schema = pa.schema(
        [
            ("clip_id", pa.string()), ("target", pa.bool_()), ("score", pa.float64()),
            *((name, pa.float64()) for name in rivals),
            ("events", pa.list_(event)), ("window_start", pa.list_(pa.float64())),
            ("window_score", pa.list_(pa.float64())),
        ]
    )  # fmt: skip
    return pa.Table.from_pylist(records, schema)

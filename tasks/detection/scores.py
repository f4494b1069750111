"""Scores of a detector on the clips of one side: events, measures with their intervals, and baselines."""

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

# M clips of the side, N windows, T frames of a window, E events


HISTOGRAM_EDGES = np.linspace(0, 1, 41)
CURVE_POINTS = 400  # of a precision-recall curve in the record, at most
CHANCE_AUC = 0.5


@dataclass(frozen=True)
class ClipScores:
    """Scores of all windows of a side, in [0, 1] for a model, in dB for loudness."""

    side: ClipWindows
    scores: np.ndarray  # (N,)
    frames: np.ndarray | None  # (N, T)
    readable: np.ndarray  # (M,) bool; the others are in no score

    @classmethod
    def of(
        cls, side: ClipWindows, logits: np.ndarray, frames: np.ndarray | None, readable: np.ndarray
    ) -> "ClipScores":
        """Make scores of logits (N, 1) and frame logits (N, T, 1), and whether each window was readable (N,) bool."""
        readable_clips = np.ones(len(side.clips), bool)
        readable_clips[side.clip[~readable]] = False
        frames = None if frames is None else expit(frames[..., 0].astype(np.float64))
        return cls(side, expit(logits[:, 0].astype(np.float64)), frames, readable_clips)

    @functools.cached_property
    def first(self) -> np.ndarray:
        """Where each clip's windows begin (M + 1,)."""
        return np.searchsorted(self.side.clip, np.arange(len(self.readable) + 1))

    @functools.cached_property
    def clip_scores(self) -> np.ndarray:
        """The highest window of each readable clip."""
        return np.maximum.reduceat(self.scores, self.first[:-1])[self.readable]

    @property
    def targets(self) -> np.ndarray:
        """Whether each readable clip holds the target."""
        return self.side.clips.targets[self.readable]

    @property
    def seconds(self) -> np.ndarray:
        """Of each readable clip."""
        return self.side.seconds[self.readable]

    @property
    def hours_of_negatives(self) -> float:
        """Sound without the target."""
        return float(self.seconds[~self.targets].sum() / 3600)

    def windows(self, clip: int) -> slice:
        """The windows of a clip, by its place among all."""
        return slice(self.first[clip], self.first[clip + 1])

    def events(self, threshold: float) -> list[np.ndarray]:
        """Events (E, 3) found in each readable clip."""
        found = []
        for clip in np.flatnonzero(self.readable).tolist():
            windows = self.windows(clip)
            if self.scores[windows].max() < threshold:
                found.append(np.zeros((0, 3)))
                continue
            frames = None if self.frames is None else self.frames[windows]
            times = self.side.start[windows]
            events = detect_events(times, self.scores[windows], threshold, self.side.clip_seconds, frames)
            events[:, 1] = np.minimum(events[:, 1], max(self.side.seconds[clip], events[:, 0].min()))
            found.append(events)
        return found

    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """What can raise a false alarm: scores, and the place of their clip among the readable ones."""
        scores, clips = [np.zeros(0)], [np.zeros(0, int)]
        for place, clip in enumerate(np.flatnonzero(self.readable).tolist()):
            if not self.side.clips.targets[clip]:
                windows = self.windows(clip)
                scores.append(alarm_peaks(self.side.start[windows], self.scores[windows], self.side.clip_seconds))
                clips.append(np.full(len(scores[-1]), place))
        return np.concatenate(scores), np.concatenate(clips)

    def threshold(self, rule: str) -> float:
        """The threshold that a rule chooses on these clips."""
        return threshold_for(self.clip_scores, self.targets, rule, self.hours_of_negatives)

    def gain_over(self, other: "ClipScores", groups: Sequence[str]) -> Interval:
        """Average precision minus that of another on the same clips, with its interval over groups."""
        return paired_bootstrap(self.clip_scores, other.clip_scores, self.targets, groups, area_under_precision)

    def measures(self, threshold: float, ids: Sequence[str]) -> tuple[dict[str, Interval], list[np.ndarray]]:
        """Return every measure with its interval over clips, and the events (E, 3) found in each clip."""
        found = self.events(threshold)
        clips = self.side.clips
        counts = np.full((len(found), 3), np.nan)  # hits, false alarms, misses
        for place, clip in enumerate(np.flatnonzero(self.readable).tolist()):
            if clips.strong[clip] or not clips.targets[clip]:
                counts[place] = event_counts(found[place], clips.events_of(clip))
        known = np.isfinite(counts).all(axis=1) & self.targets
        measures = bootstrap_clips(
            self.clip_scores,
            self.targets,
            self.seconds,
            ids,
            threshold,
            np.array([len(events) for events in found]),
            self.peaks(),
            counts if known.any() else None,
        )
        return measures, found


@dataclass(frozen=True)
class Threshold:
    """The score at which the detector fires, and how it was chosen."""

    value: float
    rule: str
    chosen_on: str


@dataclass(frozen=True)
class Expectation:
    """A score that is known in expectation, so that it has no interval."""

    mean: float
    low: None = None
    high: None = None
    undefined: int = 0
    reason: str = "an expectation"


@dataclass(frozen=True)
class FalseAlarms:
    """The false alarms per hour at a recall."""

    recall: float
    per_hour: float | None


@dataclass(frozen=True)
class Curve:
    """Precision over recall."""

    recall: list[float]
    precision: list[float]


@dataclass(frozen=True)
class Histogram:
    """How many clips with and without the target have a score in each bin."""

    edges: list[float]
    positives: list[int]
    negatives: list[int]

    @classmethod
    def of(cls, scores: ClipScores) -> "Histogram":
        """Count the clips."""
        positives, negatives = (
            np.histogram(scores.clip_scores[chosen], HISTOGRAM_EDGES)[0].tolist()
            for chosen in (scores.targets, ~scores.targets)
        )
        return cls(HISTOGRAM_EDGES.tolist(), positives, negatives)


@dataclass(frozen=True)
class Confuser:
    """False alarms in the clips that have a label and do not hold the target."""

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
    seconds: list[float]  # the middle of each window
    scores: list[float]
    events: list[list[float]] | None  # start and end of each; None: not known
    detected: list[list[float]]  # start, end and score of each


@dataclass(frozen=True)
class ClipResults:
    """The scores on the clips of one side."""

    clips: int
    positives: int
    negatives: int
    ambiguous: int  # clips left out, with a label under which the target may be heard
    unreadable: int
    hours_of_negatives: float
    threshold: Threshold
    scores: dict[str, Interval]
    baselines: dict[str, dict[str, Interval] | dict[str, Expectation]]
    gains: dict[str, Interval]  # average precision minus that of a baseline, on the same resamples
    permutation_p: dict[str, float]  # by baseline, where all resamples agree
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
    """Compare the model with chance and its rivals on one side, at thresholds chosen on validation.

    Args:
        rivals: baselines by name, of test and validation each.
        rows: clip_id, labels and, where it is given, group of each readable clip of the test.

    Returns:
        the results, and the events (E, 3) found in each of those clips.
    """
    ids, groups = rows["clip_id"].to_pylist(), recordings_of(rows)
    threshold = validation.threshold(rule)
    scores, found = test.measures(threshold, groups)
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
        confusers=named_confusers(test, found, rows["labels"], labels),
        timelines=timelines(test, found, ids),
    )
    return results, found


def permutation_p(
    found: Interval,
    gains: dict[str, Interval],
    test: ClipScores,
    rivals: dict[str, tuple[ClipScores, ClipScores]],
    groups: Sequence[str],
) -> dict[str, float]:
    """How often chance would do as well as the model, where all resamples of its score, or of a gain, agree."""
    agree = found.low is None and found.samples > 0
    p = {"chance": p_against_chance(test.clip_scores, test.targets, groups)} if agree else {}
    for name, gain in gains.items():
        if agree or (gain.low is None and gain.samples):
            p[name] = p_against(test.clip_scores, rivals[name][0].clip_scores, test.targets, groups)
    return p


def chance(share: float) -> dict[str, Expectation]:
    """Return the expected scores of random answers, given the share of clips with the target."""
    return {
        "average_precision": Expectation(share), "roc_auc": Expectation(CHANCE_AUC), "d_prime": Expectation(0.0)
    }  # fmt: skip


def curve(scores: ClipScores) -> Curve:
    """Return precision over recall, thinned out where it has very many points."""
    recall, precision, _ = precision_recall_curve(scores.clip_scores, scores.targets)
    kept = np.unique(np.linspace(0, len(recall) - 1, min(CURVE_POINTS, len(recall))).astype(int))
    return Curve(recall[kept].tolist(), precision[kept].tolist())


def named_confusers(
    scores: ClipScores, found: list[np.ndarray], label_lists: pa.ChunkedArray, labels: Labels
) -> list[Confuser]:
    """Count the false alarms by label of the clips, given the events found and the labels of each readable clip."""
    lists = label_lists.combine_chunks()
    of_clip = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
    alarms = np.array([len(events) for events in found])
    return [
        Confuser(labels.mids[counted.label], labels.names[counted.label], **asdict(counted))
        for counted in confusers(lists.flatten().to_numpy(), of_clip, scores.targets, alarms)
    ]


def timelines(scores: ClipScores, found: list[np.ndarray], ids: Sequence[str]) -> list[Timeline]:
    """Return the best, the median and the worst clip with the target, and the worst without it."""
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
        known = bool(clips.strong[clip]) or not clips.targets[clip]
        lines.append(
            Timeline(
                clip_id=ids[place],
                title=f"{name}: {ids[place]}, score {scores.clip_scores[place]:.3f}",
                seconds=(scores.side.start[windows] + scores.side.clip_seconds / 2).tolist(),
                scores=scores.scores[windows].tolist(),
                events=clips.events_of(clip).astype(float).tolist() if known else None,
                detected=found[place].tolist(),
            )
        )
    return lines


def prediction_table(
    scores: ClipScores, rivals: dict[str, ClipScores], ids: Sequence[str], found: Sequence[np.ndarray]
) -> pa.Table:
    """One row per readable clip: id, target, score, baselines, the events (E, 3) found in it, and all windows."""
    records = []
    for place, (clip, events) in enumerate(zip(np.flatnonzero(scores.readable).tolist(), found, strict=True)):
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

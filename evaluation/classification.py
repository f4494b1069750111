"""Assess a classifier with several heads: scores with intervals over dialogues, compared with baselines and ablations.

The model, its baselines and its ablations share one set of resamples, so their differences are paired.

The majority class is a weak baseline for weighted F1: guessing at random with the class frequencies usually scores
higher. The model is therefore also compared with its own predictions shuffled over the rows.
"""

# N rows, K classes, S resamples

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.confusion import (
    SAMPLES,
    DialogueResamples,
    confusion,
    per_class,
    resampled_scores,
    shuffled,
)
from evaluation.intervals import Interval
from evaluation.text_baselines import seen_in_training, tfidf_predictions
from evaluation.verdict import is_above_zero

BINS = 15  # confidence bins of the expected calibration error
DECIDING = "weighted_f1"  # the score that the verdict is based on; MELD papers report this one
SUM_TOLERANCE = 1e-3  # half-precision probabilities may miss a sum of 1 by this much
PAIRS_SHOWN = 10  # most frequent contradictions of emotion and sentiment in the results
RULE = (
    "the model beats a baseline if the interval of the difference of their weighted F1 is above 0, both scored on the "
    "same resamples of dialogues; if all resamples give the same difference, an exact test over dialogues decides"
)
# The sentiments that each emotion can go with. Surprise is the only emotion that MELD labels with either one.
MELD_RULE = {
    "anger": {"negative"},
    "disgust": {"negative"},
    "fear": {"negative"},
    "joy": {"positive"},
    "neutral": {"neutral"},
    "sadness": {"negative"},
    "surprise": {"negative", "positive"},
}


@dataclass(frozen=True)
class Utterances:
    """One part of a data set, in the order of its rows."""

    ids: list[str]
    dialogues: list[str]
    texts: list[str]
    labels: dict[str, np.ndarray]  # head -> (N,) codes
    present: dict[str, np.ndarray]  # modality -> (N,) bool: whether the model got this input

    def __post_init__(self) -> None:
        columns = {"dialogues": self.dialogues, "texts": self.texts, **self.labels, **self.present}
        lengths = {name: len(column) for name, column in columns.items() if len(column) != len(self.ids)}
        if lengths or not self.ids:
            raise ValueError(
                f"ids={len(self.ids)} rows, columns of another length: {lengths}. Give at least one row, and "
                "one value per row in each column."
            )


@dataclass(frozen=True)
class ClassScores:
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True)
class ClassCounts:
    """Rows of each class, in the order of the classes."""

    train: list[int]
    test: list[int]


@dataclass(frozen=True)
class DeadClass:
    """A class that the model never predicts."""

    name: str
    support: int
    in_train: int


@dataclass(frozen=True)
class Comparison:
    """The scores of a baseline or an ablation, and those of the model minus these."""

    scores: dict[str, Interval]
    difference: dict[str, Interval]


@dataclass(frozen=True)
class Baseline(Comparison):
    """A comparison with a baseline on all rows."""

    per_class: dict[str, float]  # class -> F1


@dataclass(frozen=True)
class NewTexts:
    """The scores on rows whose text does not occur in the training data."""

    rows: int
    scores: dict[str, Interval]
    baselines: dict[str, Comparison]


@dataclass(frozen=True)
class BaselineVerdict:
    beaten: list[str]
    unbeaten: list[str]
    score: str
    rule: str


@dataclass(frozen=True)
class Calibration:
    """Confidence (the highest probability) against the share of correct predictions, per bin of confidence."""

    expected_error: float  # |confidence - share correct| of a row's bin, averaged over rows
    rows: list[int]
    confidence: list[float | None]  # None: the bin is empty
    right: list[float | None]


@dataclass(frozen=True)
class HeadResults:
    classes: list[str]
    counts: ClassCounts
    majority: str
    confusion: list[list[int]]
    scores: dict[str, Interval]
    per_class: dict[str, ClassScores]
    dead_classes: list[DeadClass]
    baselines: dict[str, Baseline]
    ablations: dict[str, Comparison]
    unseen_texts: NewTexts | None
    verdict: BaselineVerdict
    baselines_left_out: dict[str, str]  # baseline -> reason
    calibration: Calibration


@dataclass(frozen=True)
class Contradiction:
    """An emotion and a sentiment that were predicted together but contradict each other."""

    emotion: str
    sentiment: str
    rows: int


@dataclass(frozen=True)
class Consistency:
    """How often emotion and sentiment contradict each other."""

    predictions: Interval
    truth: Interval
    rule: dict[str, list[str]]  # emotion -> the sentiments that it allows
    pairs: list[Contradiction]  # most frequent first


@dataclass(frozen=True)
class RepeatedTexts:
    """Test rows whose text also occurs in the training data."""

    rows: int
    share: float


@dataclass(frozen=True)
class ClassificationResults:
    """The scores of all heads on the test split."""

    rows: int
    dialogues: int
    train_rows: int
    lacking: dict[str, int]  # modality -> rows without it
    lacking_all: int
    samples: int
    heads: dict[str, HeadResults]
    consistency: Consistency | None
    repeated_texts: RepeatedTexts | None


def assess(
    heads: dict[str, list[str]],
    train: Utterances,
    test: Utterances,
    probabilities: dict[str, np.ndarray],
    ablations: dict[str, dict[str, np.ndarray]],
    sentiment_of: dict[str, set[str]] | None = None,
) -> ClassificationResults:
    """Score a model on every row of the test split.

    Args:
        heads: head -> class names, in the order of their codes.
        probabilities: head -> (N, K), of the full model.
        ablations: name ("text alone", "without text") -> the probabilities of the same model with fewer modalities.
        sentiment_of: emotion -> the sentiments that it allows, for the heads `emotion` and `sentiment`. None uses
            MELD's rule if the classes have MELD's names.
    """
    for who, by_head in {"the model": probabilities, **ablations}.items():
        check_probabilities(heads, len(test.ids), who, by_head)
    predictions = {head: probabilities[head].argmax(axis=1) for head in heads}
    ablated = {who: {head: by_head[head].argmax(axis=1) for head in heads} for who, by_head in ablations.items()}
    resamples, repeated = DialogueResamples.draw(test.dialogues), seen_in_training(train.texts, test.texts)
    results = {
        head: assess_head(
            head,
            names,
            train,
            test,
            probabilities[head],
            {who: predicted[head] for who, predicted in ablated.items()},
            resamples,
            repeated,
        )
        for head, names in heads.items()
    }
    present = np.array(list(test.present.values())).reshape(-1, len(test.ids))
    has_texts = any(text.strip() for text in test.texts)
    return ClassificationResults(
        rows=len(test.ids),
        dialogues=resamples.dialogues,
        train_rows=len(train.ids),
        lacking={modality: int((~flags).sum()) for modality, flags in test.present.items()},
        lacking_all=int((~present.any(axis=0)).sum()) if len(present) else 0,
        samples=SAMPLES,
        heads=results,
        consistency=consistency(heads, predictions, test, sentiment_of, resamples),
        repeated_texts=RepeatedTexts(int(repeated.sum()), float(repeated.mean())) if has_texts else None,
    )


def check_probabilities(
    heads: dict[str, list[str]], rows: int, who: str, probabilities: dict[str, np.ndarray]
) -> None:
    """Raise ValueError unless each head has one probability per row and class."""
    for head, names in heads.items():
        if head not in probabilities or np.shape(probabilities[head]) != (rows, len(names)):
            shape = np.shape(probabilities[head]) if head in probabilities else None
            raise ValueError(
                f"{head}, {who}: shape={shape}: must be ({rows}, {len(names)}). Give a probability per row and class."
            )
        sums = probabilities[head].sum(axis=1)
        # Negated, so that NaN counts as invalid too.
        invalid = ~(np.abs(sums - 1) < SUM_TOLERANCE) | (probabilities[head] < 0).any(axis=1)
        if invalid.any():
            row = int(invalid.argmax())
            raise ValueError(
                f"{head}, {who}: row {row} is {probabilities[head][row]}: the sum is {sums[row]:.4g}, not 1. Apply a "
                "softmax to logits, or find out why the model predicts NaN."
            )


def baseline_predictions(
    head: str, names: list[str], train: Utterances, test: Utterances
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the codes (N,) that each baseline predicts, and why a baseline is missing: name -> reason."""
    counts = np.bincount(train.labels[head], minlength=len(names))
    majority = int(counts.argmax())
    codes, left_out = {"majority": np.full(len(test.ids), majority)}, {}
    tfidf = tfidf_predictions(train.texts, train.labels[head], test.texts, majority)
    if tfidf is None:
        left_out["tfidf"] = "training has no texts with words, or all of its texts are of one class"
    elif not any(text.strip() for text in test.texts):
        left_out["tfidf"] = "no row of the test split has a text"
    else:
        codes["tfidf"] = tfidf
    return codes, left_out


def assess_head(
    head: str,
    names: list[str],
    train: Utterances,
    test: Utterances,
    probabilities: np.ndarray,
    ablated: dict[str, np.ndarray],
    resamples: DialogueResamples,
    repeated: np.ndarray,
) -> HeadResults:
    """Score one head.

    Args:
        probabilities: (N, K).
        ablated: name -> codes (N,) that the model predicts with fewer modalities.
        repeated: (N,) bool, whether a text also occurs in the training data.
    """
    targets, every = test.labels[head], np.ones(len(test.ids), bool)
    predicted = probabilities.argmax(axis=1)
    table = confusion(targets, predicted, len(names))
    in_train = np.bincount(train.labels[head], minlength=len(names))
    rivals, left_out = baseline_predictions(head, names, train, test)
    comparisons = compare(targets, predicted, rivals | ablated, len(names), resamples, every)
    tables = {who: confusion(targets, codes, len(names)) for who, codes in rivals.items()} | {"dealt": shuffled(table)}
    baselines = {
        who: Baseline(comparisons[who].scores, comparisons[who].difference, f1_of(names, each))
        for who, each in tables.items()
    }
    new_texts = None
    if repeated.any() and not repeated.all():
        new = ~repeated
        new_texts = NewTexts(
            rows=int(new.sum()),
            scores=resamples.intervals(resamples.scores(targets, predicted, len(names), new), new),
            baselines=compare(targets, predicted, rivals, len(names), resamples, new),
        )
    columns = {name: values.tolist() for name, values in per_class(table).items()}
    classes = [ClassScores(*row) for row in zip(*columns.values(), strict=True)]
    return HeadResults(
        classes=names,
        counts=ClassCounts(in_train.tolist(), columns["support"]),
        majority=names[int(in_train.argmax())],
        confusion=table.tolist(),
        scores=resamples.intervals(resamples.scores(targets, predicted, len(names), every), every),
        per_class=dict(zip(names, classes, strict=True)),
        dead_classes=[
            DeadClass(name, each.support, int(count))
            for name, each, count in zip(names, classes, in_train, strict=True)
            if not each.predicted
        ],
        baselines=baselines,
        ablations={who: comparisons[who] for who in ablated},
        unseen_texts=new_texts,
        verdict=decide(baselines),
        baselines_left_out=left_out,
        calibration=calibration(probabilities, targets),
    )


def compare(
    targets: np.ndarray,
    predicted: np.ndarray,
    others: dict[str, np.ndarray],
    classes: int,
    resamples: DialogueResamples,
    kept: np.ndarray,
) -> dict[str, Comparison]:
    """Compare the model with other predictions (N,), and with its own shuffled over rows, on the same resamples."""
    own = resamples.tables(targets, predicted, classes, kept)
    tables = {who: resamples.tables(targets, codes, classes, kept) for who, codes in others.items()}
    model, compared = resampled_scores(own), {}
    for who, table in (tables | {"dealt": shuffled(own)}).items():
        scores = resampled_scores(table)
        difference = {name: model[name] - scores[name] for name in model}
        compared[who] = Comparison(resamples.intervals(scores, kept), resamples.intervals(difference, kept))
    return compared


def f1_of(names: list[str], confusion: np.ndarray) -> dict[str, float]:
    return dict(zip(names, per_class(confusion)["f1"].tolist(), strict=True))


def decide(baselines: Mapping[str, Comparison]) -> BaselineVerdict:
    """Find the baselines that the model beats, by the intervals of the differences."""
    beaten = [who for who, baseline in baselines.items() if is_above_zero(baseline.difference[DECIDING])]
    return BaselineVerdict(beaten, [who for who in baselines if who not in beaten], DECIDING, RULE)


def calibration(probabilities: np.ndarray, targets: np.ndarray) -> Calibration:
    """Compare confidence with correctness over BINS of equal width; probabilities: (N, K), targets: (N,)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    bin_of_row = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # bins are open on the left
    rows = np.bincount(bin_of_row, minlength=BINS)
    confidences, rights = np.bincount(bin_of_row, confidence, BINS), np.bincount(bin_of_row, right, BINS)

    def means(sums: np.ndarray) -> list[float | None]:
        return [float(s / n) if n else None for s, n in zip(sums, rows, strict=True)]

    error = np.abs(confidences - rights).sum() / len(targets)
    return Calibration(float(error), rows.tolist(), means(confidences), means(rights))


def consistency(
    heads: dict[str, list[str]],
    predictions: dict[str, np.ndarray],
    test: Utterances,
    sentiment_of: dict[str, set[str]] | None,
    resamples: DialogueResamples,
) -> Consistency | None:
    """Count how often emotion and sentiment contradict each other, in the predictions and in the labels.

    Returns None if one of the two heads is missing, or if no rule is given and the classes are not MELD's.
    """
    if not {"emotion", "sentiment"} <= set(heads):
        return None
    emotions, sentiments = heads["emotion"], heads["sentiment"]
    if sentiment_of is None:
        if set(emotions) - set(MELD_RULE) or set(sentiments) - set().union(*MELD_RULE.values()):
            return None
        sentiment_of = MELD_RULE
    elif mismatched := set(emotions) ^ set(sentiment_of):
        raise ValueError(
            f"sentiment_of={sorted(sentiment_of)}: differs from the emotions of the head by {sorted(mismatched)}. "
            f"Give exactly these: {emotions}."
        )
    forbidden = np.array(
        [[sentiment not in sentiment_of[emotion] for sentiment in sentiments] for emotion in emotions]
    )

    def contradicting(codes: dict[str, np.ndarray]) -> Interval:
        flags = forbidden[codes["emotion"], codes["sentiment"]]
        return resamples.interval(resamples.share(flags), np.ones(len(test.ids), bool))

    counts = np.zeros(forbidden.shape, int)
    np.add.at(counts, (predictions["emotion"], predictions["sentiment"]), 1)
    pairs = [
        Contradiction(emotion, sentiment, int(counts[e, s]))
        for e, emotion in enumerate(emotions)
        for s, sentiment in enumerate(sentiments)
        if forbidden[e, s] and counts[e, s]
    ]
    return Consistency(
        predictions=contradicting(predictions),
        truth=contradicting(test.labels),
        rule={emotion: [name for name in sentiments if name in sentiment_of[emotion]] for emotion in emotions},
        pairs=sorted(pairs, key=lambda pair: -pair.rows)[:PAIRS_SHOWN],
    )

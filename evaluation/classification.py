"""How well a model tells classes apart, for each of its heads: scores, intervals over dialogues, and what to beat.

Utterances of one dialogue resemble each other, so whole dialogues are drawn with replacement. Every score follows from
a confusion matrix, and that of a resample is a sum over the dialogues in it; one set of resamples serves the model,
its baselines and its ablations, so that their differences are paired.

Always saying one class has a low weighted F1: blind guesses by the classes' frequencies have a higher one, the surer
the more rows there are. So a model has to beat its own answers, dealt to random rows, too.
"""

# N rows, K classes, D dialogues, S resamples

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.intervals import interval_of
from evaluation.text_baselines import seen_in_training, tfidf_predictions

SAMPLES = 1000  # of the bootstrap
BINS = 15  # of confidence, for the calibration error
DECIDING = "weighted_f1"  # the score of the verdict
SUM_TOLERANCE = 1e-3  # probabilities in half precision add up to 1 within so much
PAIRS_SHOWN = 10  # of an emotion and a sentiment that do not go together
RULE = (
    "better than a baseline is a model whose weighted F1 less the baseline's has an interval above 0, both on the "
    "same resamples of dialogues"
)
MELD_RULE = {
    "anger": {"negative"},
    "disgust": {"negative"},
    "fear": {"negative"},
    "joy": {"positive"},
    "neutral": {"neutral"},
    "sadness": {"negative"},
    "surprise": {"negative", "positive"},
}

Predictions = dict[str, np.ndarray]  # head -> (N,) codes
Scores = dict[str, np.ndarray]  # score -> (1 + S,): of the data as they are, and of each resample


@dataclass(frozen=True)
class Utterances:
    """One side, in the order of its rows."""

    ids: list[str]
    dialogues: list[str]
    texts: list[str]
    labels: dict[str, np.ndarray]  # head -> (N,) codes
    present: dict[str, np.ndarray]  # modality -> (N,) bool: what the model was given

    def __post_init__(self) -> None:
        columns = {"dialogues": self.dialogues, "texts": self.texts, **self.labels, **self.present}
        wrong = {name: len(column) for name, column in columns.items() if len(column) != len(self.ids)}
        if wrong or not self.ids:
            raise ValueError(
                f"{len(self.ids)} utterances, but {wrong}: give at least one, and one value of each a row"
            )


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (rows, K) was taken for each (columns, K), from codes (N,)."""
    return confusions(targets, predictions, classes, np.zeros(len(targets), int), 1)[0]


def confusions(
    targets: np.ndarray, predictions: np.ndarray, classes: int, group: np.ndarray, groups: int
) -> np.ndarray:
    """A confusion matrix (K, K) for each group of rows, (groups, K, K); group: (N,)."""
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    if targets.ndim != 1 or targets.shape != predictions.shape:
        raise ValueError(f"{targets.shape = } and {predictions.shape = } must be (N,), a class each a row")
    for name, codes in (("targets", targets), ("predictions", predictions)):
        if codes.dtype.kind not in "iu":
            raise ValueError(f"{name} are {codes.dtype}; give the whole numbers of the classes")
        wrong = (codes < 0) | (codes >= classes)
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(
                f"{name}: that of row {place} is {codes[place]}; {classes} classes are 0 to {classes - 1}"
            )
    cells = (group * classes + targets.astype(int)) * classes + predictions
    return np.bincount(cells, minlength=groups * classes**2).reshape(groups, classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1, support and how often it was predicted, of each class (..., K) of (..., K, K).

    0 / 0 is 0: the precision of a class that is never predicted, the recall of one that no row is of. `support` and
    `predicted` tell which 0 is of that kind.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)

    def share(of: np.ndarray) -> np.ndarray:
        return np.divide(hits, of, out=np.zeros_like(hits), where=of > 0)

    f1 = share((support + predicted) / 2)
    return {"precision": share(predicted), "recall": share(support), "f1": f1, "support": support,
            "predicted": predicted}  # fmt: skip


def scores_of(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, weighted F1 and macro F1 (...,) of confusion matrices (..., K, K); NaN where there is no row.

    Weighted F1 weighs a class by its rows. Macro F1 is the mean over the classes that occur, in the truth or in the
    predictions: one that no row is of and that is never predicted has no F1.
    """
    each = per_class(confusion)
    occurs = each["support"] + each["predicted"] > 0
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return {
            "accuracy": hits / confusion.sum(axis=(-2, -1)),
            "weighted_f1": (each["f1"] * each["support"]).sum(axis=-1) / each["support"].sum(axis=-1),
            "macro_f1": each["f1"].sum(axis=-1) / occurs.sum(axis=-1),
        }


def one_score(name: str, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float | int | None]:
    """One of the scores above of codes (N,), None without a row, with the rows and the classes that occur."""
    predictions, references = np.asarray(predictions, int), np.asarray(references, int)
    highest = max(predictions.max(initial=0), references.max(initial=0))
    table = confusion(references, predictions, int(highest) + 1)
    occurs = int((table.sum(axis=0) + table.sum(axis=1) > 0).sum())
    return {name: float(scores_of(table)[name]) if len(references) else None, "rows": len(references),
            "classes": occurs}  # fmt: skip


def dealt(confusion: np.ndarray) -> np.ndarray:
    """What confusion matrices (..., K, K) would be on average were the answers dealt to random rows of the same.

    Truths and answers stay as often as they are, and with that F1 is linear in the hits: its scores are the averages.
    """
    support, predicted = confusion.sum(axis=-1)[..., :, None], confusion.sum(axis=-2)[..., None, :]
    rows = confusion.sum(axis=(-2, -1))[..., None, None]
    return support * predicted / np.maximum(rows, 1)  # without a row all is 0


@dataclass(frozen=True)
class Dialogues:
    """The dialogue of each row, and how often each dialogue counts in resamples."""

    code: np.ndarray  # (N,)
    weights: np.ndarray  # (1 + S, D); the first row is 1: the data as they are

    @classmethod
    def of(cls, names: Sequence[str], samples: int = SAMPLES, seed: int = 0) -> "Dialogues":
        """Draw resamples of whole dialogues; names: (N,)."""
        code = np.unique(np.asarray(names, dtype=str), return_inverse=True)[1]
        size = int(code.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=samples)
        return cls(code, np.vstack([np.ones(size), drawn]))

    def tables(self, targets: np.ndarray, predictions: np.ndarray, classes: int, kept: np.ndarray) -> np.ndarray:
        """The confusion matrices (1 + S, K, K) of the rows `kept` (N,)."""
        size = self.weights.shape[1]
        tables = confusions(targets[kept], predictions[kept], classes, self.code[kept], size)
        return (self.weights @ tables.reshape(size, -1)).reshape(-1, classes, classes)

    def scores(self, targets: np.ndarray, predictions: np.ndarray, classes: int, kept: np.ndarray) -> Scores:
        """Scores of the rows `kept` (N,)."""
        return resampled_scores(self.tables(targets, predictions, classes, kept))

    def share(self, flags: np.ndarray) -> np.ndarray:
        """The share (1 + S,) of rows whose flag (N,) is set."""
        size = self.weights.shape[1]
        return (self.weights @ np.bincount(self.code, flags, size)) / (
            self.weights @ np.bincount(self.code, None, size)
        )

    def interval(self, values: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
        """A score (1 + S,) of the rows `kept` (N,), with its bounds; its `mean` is that of the data as they are."""
        clusters = {"dialogues": len(np.unique(self.code[kept]))}
        return asdict(interval_of(float(values[0]), values[1:], clusters, int(kept.sum()), kind="dialogue"))

    def intervals(self, scores: Scores, kept: np.ndarray) -> dict[str, dict[str, Any]]:
        """Each score with its bounds."""
        return {name: self.interval(values, kept) for name, values in scores.items()}


def resampled_scores(tables: np.ndarray) -> Scores:
    """Scores of confusion matrices (1 + S, K, K), the first of the data as they are.

    A rare class may be absent from a resample, which then tells nothing of it: its F1 stays that of all rows.
    Were it left out of macro F1, one that is never predicted would raise the upper bound by its absence.
    """
    each = per_class(tables)
    occurs = each["support"] + each["predicted"] > 0
    f1 = np.where(occurs, each["f1"], each["f1"][0])[:, occurs[0]]
    return scores_of(tables) | {"macro_f1": np.where(occurs.any(axis=1), f1.mean(axis=1), np.nan)}


def assess(
    heads: dict[str, list[str]],
    train: Utterances,
    test: Utterances,
    probabilities: dict[str, np.ndarray],
    ablations: dict[str, dict[str, np.ndarray]],
    sentiment_of: dict[str, set[str]] | None = None,
) -> dict[str, Any]:
    """Everything about the test rows for `metrics.json`, with intervals and counts; every row is scored.

    Args:
        heads: the names of each head's classes, in the order of their codes.
        probabilities: of the full model, (N, K) a head.
        ablations: of the same model with less to go by ("text alone", "without text"): (N, K) a head, by name.
        sentiment_of: the sentiments that go with an emotion, by name; of the heads `emotion` and `sentiment`. MELD's
            rule where these have MELD's names.
    """
    for who, given in {"the model": probabilities, **ablations}.items():
        check_probabilities(heads, len(test.ids), who, given)
    predictions = {head: probabilities[head].argmax(axis=1) for head in heads}
    ablated = {who: {head: given[head].argmax(axis=1) for head in heads} for who, given in ablations.items()}
    drawn, repeated = Dialogues.of(test.dialogues), seen_in_training(train.texts, test.texts)
    found = {}
    for head, names in heads.items():
        rivals, left_out = baselines(head, names, train, test)
        others = {who: predicted[head] for who, predicted in ablated.items()}
        found[head] = assess_head(head, names, train, test, predictions[head], rivals, others, drawn, repeated)
        found[head] |= {
            "baselines_left_out": left_out,
            "calibration": calibration(probabilities[head], test.labels[head]),
        }
    lacking = {modality: int((~given).sum()) for modality, given in test.present.items()}
    given = np.array(list(test.present.values())).reshape(-1, len(test.ids))
    return {
        "rows": len(test.ids),
        "dialogues": drawn.weights.shape[1],
        "train_rows": len(train.ids),
        "lacking": lacking,  # rows of the test that the model had to judge without it
        "lacking_all": int((~given.any(axis=0)).sum()) if len(given) else 0,
        "samples": SAMPLES,
        "heads": found,
        "consistency": consistency(heads, predictions, test, sentiment_of, drawn),
        "repeated_texts": {"rows": int(repeated.sum()), "share": float(repeated.mean())}
        if any(text.strip() for text in test.texts)
        else None,
    }


def check_probabilities(heads: dict[str, list[str]], rows: int, who: str, given: dict[str, np.ndarray]) -> None:
    """Refuse what are no probabilities of each class for each row."""
    for head, names in heads.items():
        if head not in given or np.shape(given[head]) != (rows, len(names)):
            shape = np.shape(given[head]) if head in given else "nothing"
            raise ValueError(f"{head}, {who}: {shape} was given; it takes probabilities ({rows}, {len(names)})")
        sums = given[head].sum(axis=1)
        wrong = ~(np.abs(sums - 1) < SUM_TOLERANCE) | (given[head] < 0).any(axis=1)  # NaN is wrong too
        if wrong.any():
            place = int(wrong.argmax())
            raise ValueError(
                f"{head}, {who}: row {place} is {given[head][place]}, which adds up to {sums[place]:.4g}; give "
                "probabilities, which a softmax makes of logits, or find out why the model predicts NaN"
            )


def baselines(
    head: str, names: list[str], train: Utterances, test: Utterances
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What knows only how often a class occurs, and what knows only words: codes (N,) by name; and why one is not."""
    counts = np.bincount(train.labels[head], minlength=len(names))
    majority = int(counts.argmax())
    rivals, left_out = {"majority": np.full(len(test.ids), majority)}, {}
    by_words = tfidf_predictions(train.texts, train.labels[head], test.texts, majority)
    if by_words is None:
        left_out["tfidf"] = "training has no texts with words, or they are all of one class"
    elif not any(text.strip() for text in test.texts):
        left_out["tfidf"] = "no row of the test has a text"
    else:
        rivals["tfidf"] = by_words
    return rivals, left_out


def assess_head(
    head: str,
    names: list[str],
    train: Utterances,
    test: Utterances,
    predicted: np.ndarray,
    rivals: dict[str, np.ndarray],
    ablated: dict[str, np.ndarray],
    drawn: Dialogues,
    repeated: np.ndarray,
) -> dict[str, Any]:
    """One head: the model, and beside it baselines and ablations (N,), each with what the model has more."""
    targets, every = test.labels[head], np.ones(len(test.ids), bool)
    table = confusion(targets, predicted, len(names))
    in_train = np.bincount(train.labels[head], minlength=len(names))
    beside = compared(targets, predicted, rivals | ablated, len(names), drawn, every)
    tables = {who: confusion(targets, codes, len(names)) for who, codes in rivals.items()} | {"dealt": dealt(table)}
    others = {who: beside[who] | {"per_class": f1_of(names, each)} for who, each in tables.items()}
    rest = ~repeated
    alone = None
    if repeated.any() and rest.any():
        scores = drawn.scores(targets, predicted, len(names), rest)
        alone = {
            "rows": int(rest.sum()),
            "scores": drawn.intervals(scores, rest),
            "baselines": compared(targets, predicted, rivals, len(names), drawn, rest),
        }
    each = {name: values.tolist() for name, values in per_class(table).items()}
    return {
        "classes": names,
        "counts": {"train": in_train.tolist(), "test": each["support"]},
        "majority": names[int(in_train.argmax())],
        "confusion": table.tolist(),
        "scores": drawn.intervals(drawn.scores(targets, predicted, len(names), every), every),
        "per_class": {name: {key: values[k] for key, values in each.items()} for k, name in enumerate(names)},
        "dead_classes": [
            {"name": name, "support": each["support"][k], "in_train": int(in_train[k])}
            for k, name in enumerate(names)
            if not each["predicted"][k]
        ],
        "baselines": others,
        "ablations": {who: beside[who] for who in ablated},
        "unseen_texts": alone,  # the rows whose text does not stand in training
        "verdict": decide({who: found["difference"][DECIDING] for who, found in others.items()}),
    }


def compared(
    targets: np.ndarray,
    predicted: np.ndarray,
    others: dict[str, np.ndarray],
    classes: int,
    drawn: Dialogues,
    kept: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Scores of others (N,) and of the model's own answers dealt at random, and the model's less theirs, paired."""
    own = drawn.tables(targets, predicted, classes, kept)
    tables = {who: drawn.tables(targets, codes, classes, kept) for who, codes in others.items()}
    model, found = resampled_scores(own), {}
    for who, table in (tables | {"dealt": dealt(own)}).items():
        scores = resampled_scores(table)
        difference = {name: model[name] - scores[name] for name in model}
        found[who] = {"scores": drawn.intervals(scores, kept), "difference": drawn.intervals(difference, kept)}
    return found


def f1_of(names: list[str], confusion: np.ndarray) -> dict[str, float]:
    """F1 of each class."""
    return dict(zip(names, per_class(confusion)["f1"].tolist(), strict=True))


def decide(differences: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Which baselines the model beats, from its deciding score less theirs, with intervals."""
    beaten = [who for who, found in differences.items() if found["low"] is not None and found["low"] > 0]
    return {"beaten": beaten, "unbeaten": [who for who in differences if who not in beaten], "score": DECIDING,
            "rule": RULE}  # fmt: skip


def calibration(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """How far confidence (the highest probability) is from how often it is right, over BINS of equal width.

    The error is the mean distance over rows. `confidence` and `right` of a bin without a row are None.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    sums = {"confidence": np.bincount(place, confidence, BINS), "right": np.bincount(place, right, BINS)}
    error = np.abs(sums["confidence"] - sums["right"]).sum() / len(targets)
    means = {
        key: [float(s / n) if n else None for s, n in zip(total, rows, strict=True)] for key, total in sums.items()
    }
    return {"expected_error": float(error), "rows": rows.tolist(), **means}


def consistency(
    heads: dict[str, list[str]],
    predictions: Predictions,
    test: Utterances,
    sentiment_of: dict[str, set[str]] | None,
    drawn: Dialogues,
) -> dict[str, Any] | None:
    """How often the two heads contradict each other, beside how often the labels do; None without heads or a rule."""
    if not {"emotion", "sentiment"} <= set(heads):
        return None
    emotions, sentiments = heads["emotion"], heads["sentiment"]
    if sentiment_of is None:
        if set(emotions) - set(MELD_RULE) or set(sentiments) - set().union(*MELD_RULE.values()):
            return None
        sentiment_of = MELD_RULE
    elif wrong := set(emotions) ^ set(sentiment_of):
        raise ValueError(f"sentiment_of: {sorted(wrong)} are not in both; it takes the emotions {emotions}")
    forbidden = np.array(
        [[sentiment not in sentiment_of[emotion] for sentiment in sentiments] for emotion in emotions]
    )
    every = np.ones(len(test.ids), bool)
    against = {"predictions": predictions, "truth": test.labels}
    flags = {who: forbidden[codes["emotion"], codes["sentiment"]] for who, codes in against.items()}
    found = {who: drawn.interval(drawn.share(flag), every) for who, flag in flags.items()}
    pairs = np.zeros(forbidden.shape, int)
    np.add.at(pairs, (predictions["emotion"], predictions["sentiment"]), 1)
    pairs = [
        {"emotion": emotion, "sentiment": sentiment, "rows": int(pairs[e, s])}
        for e, emotion in enumerate(emotions)
        for s, sentiment in enumerate(sentiments)
        if forbidden[e, s] and pairs[e, s]
    ]
    rule = {emotion: [name for name in sentiments if name in sentiment_of[emotion]] for emotion in emotions}
    return found | {"rule": rule, "pairs": sorted(pairs, key=lambda pair: -pair["rows"])[:PAIRS_SHOWN]}

"""Classification scores: computed by hand, compared with scikit-learn, and the coverage of intervals."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from sklearn import metrics as peer

from evaluation.classification import (
    BaselineVerdict,
    ClassCounts,
    ClassScores,
    DeadClass,
    RepeatedTexts,
    Utterances,
    assess,
    calibration,
    compare,
    decide,
)
from evaluation.confusion import DialogueResamples, confusion, confusions, per_class, scores_of, shuffled
from evaluation.intervals import Interval
from evaluation.text_baselines import seen_in_training, tfidf_predictions
from tests.helpers.metric_modules import OF_CLASSES, load, result_of_card

# Class 0 has three rows, all right. Class 1 has three: one right, one taken for 0, one for 2. Class 2 has none.
TRUTH, PREDICTED = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 0, 2])
TABLE = [[3, 0, 0], [1, 1, 1], [0, 0, 0]]
MELD = {
    "emotion": ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"],
    "sentiment": ["negative", "neutral", "positive"],
}


def certain(codes: list[int] | np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities of 1 for these classes."""
    return np.eye(classes)[np.asarray(codes)]


def side(
    labels: dict[str, list[int]], dialogues: list[str] | None = None, texts: list[str] | None = None
) -> Utterances:
    """Make one split; by default, each row is a separate dialogue without text."""
    rows = len(next(iter(labels.values())))
    names = [f"row{row}" for row in range(rows)]
    codes = {head: np.array(values) for head, values in labels.items()}
    return Utterances(names, dialogues or names, texts or [""] * rows, codes, {"text": np.array([True] * rows)})


def test_scores_by_hand() -> None:
    # F1 of class 0: 2 x 3 / (3 + 4); of class 1: 2 x 1 / (3 + 1); of class 2: 0, predicted once and wrong.
    table = confusion(TRUTH, PREDICTED, 3)
    assert table.tolist() == TABLE
    each = per_class(table)
    assert each["precision"].tolist() == pytest.approx([3 / 4, 1, 0])
    assert each["recall"].tolist() == pytest.approx([1, 1 / 3, 0])
    assert each["f1"].tolist() == pytest.approx([6 / 7, 1 / 2, 0])
    assert (each["support"].tolist(), each["predicted"].tolist()) == ([3, 3, 0], [4, 1, 1])
    scores = scores_of(table)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["weighted_f1"] == pytest.approx((3 * 6 / 7 + 3 / 2) / 6)
    assert scores["macro_f1"] == pytest.approx((6 / 7 + 1 / 2 + 0) / 3)


def test_always_neutral_on_the_counts_of_meld() -> None:
    # 1,256 of 2,610 rows are neutral: the F1 of neutral is 2 x 1256 / (1256 + 2610), of the six others 0.
    table = np.zeros((7, 7), int)
    table[:, 4] = [345, 68, 50, 402, 1256, 208, 281]
    scores, neutral = scores_of(table), 2 * 1256 / (1256 + 2610)
    assert scores["accuracy"] == pytest.approx(1256 / 2610)
    assert scores["weighted_f1"] == pytest.approx(neutral * 1256 / 2610)
    assert scores["macro_f1"] == pytest.approx(neutral / 7)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes, rows = random.integers(2, 9), random.integers(1, 60)
    targets, predictions = random.integers(0, classes, (2, rows))
    table = confusion(targets, predictions, classes)
    assert np.array_equal(table, peer.confusion_matrix(targets, predictions, labels=range(classes)))
    scores = scores_of(table)
    assert scores["accuracy"] == pytest.approx(peer.accuracy_score(targets, predictions))
    for average in ("weighted", "macro"):
        expected = peer.f1_score(targets, predictions, average=average, zero_division=0)
        assert scores[f"{average}_f1"] == pytest.approx(expected)
    each = peer.precision_recall_fscore_support(targets, predictions, labels=range(classes), zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert per_class(table)[name] == pytest.approx(expected)


def test_a_stack_of_matrices_scores_like_each_matrix_alone() -> None:
    tables = np.random.default_rng(0).integers(0, 4, (5, 6, 4, 4))
    for name, values in scores_of(tables).items():
        assert values.shape == (5, 6)
        alone = [[float(scores_of(table)[name]) for table in row] for row in tables]
        assert values == pytest.approx(np.array(alone))


@pytest.mark.parametrize(("targets", "predictions", "message"), [
    ([0, 1], [0], r"targets.shape=\(2,\), predictions.shape=\(1,\)"),
    ([0, 1], [0, 2], r"predictions\[1\]=2: .* 0 to 1"),
    ([0, -1], [0, 1], r"targets\[1\]=-1"),
    ([0, 1], [0.0, 1.0], "predictions.dtype=float64"),
])  # fmt: skip
def test_invalid_class_codes_are_rejected(targets: list, predictions: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(np.array(targets), np.array(predictions), 2)


# Intervals


def test_a_resample_counts_a_dialogue_as_often_as_it_was_drawn() -> None:
    random = np.random.default_rng(0)
    targets, predictions = random.integers(0, 3, (2, 40))
    names = [f"d{number}" for number in random.integers(0, 8, 40)]
    drawn = DialogueResamples.draw(names, samples=5)
    assert drawn.weights[0].tolist() == [1] * 8
    assert (drawn.weights.sum(axis=1) == 8).all()
    scores = drawn.scores(targets, predictions, 3, np.ones(40, bool))
    for sample, weights in enumerate(drawn.weights.astype(int)):
        rows = np.repeat(np.arange(40), weights[drawn.code])
        expected = scores_of(confusion(targets[rows], predictions[rows], 3))
        assert {name: values[sample] for name, values in scores.items()} == pytest.approx(expected)


def test_a_dead_class_that_is_not_drawn_does_not_raise_macro_f1() -> None:
    # Class 2 occurs in one dialogue of ten and is never predicted; 0 and 1 are always right. Macro F1 is at most 2/3.
    targets = np.array([0, 1] * 10)
    targets[-1] = 2
    predictions = np.where(targets == 2, 1, targets)
    drawn, every = DialogueResamples.draw([f"d{row // 2}" for row in range(20)], samples=200), np.ones(20, bool)
    missing = drawn.weights[:, drawn.code[-1]] == 0
    macro = drawn.scores(targets, predictions, 3, every)["macro_f1"]
    assert missing.any()
    assert macro[missing] == pytest.approx(2 / 3)
    assert macro.max() <= 2 / 3 + 1e-9


def test_intervals_over_dialogues_cover_the_truth_and_intervals_over_rows_do_not() -> None:
    # 120 sets of 60 dialogues of 10 rows. Dialogues differ in difficulty; the true accuracy is 0.6.
    random, covered, trials = np.random.default_rng(0), {"dialogues": 0, "rows": 0}, 120
    for _ in range(trials):
        right = random.random((60, 10)) < random.beta(1.2, 0.8, (60, 1))
        targets = random.integers(0, 2, 600)
        predictions = np.where(right.ravel(), targets, 1 - targets)
        names = {"dialogues": np.repeat(np.arange(60), 10), "rows": np.arange(600)}
        for clusters, each in names.items():
            drawn, every = DialogueResamples.draw(each, samples=200), np.ones(600, bool)
            accuracy = drawn.intervals(drawn.scores(targets, predictions, 2, every), every)["accuracy"]
            covered[clusters] += accuracy.low <= 0.6 <= accuracy.high
    assert 0.90 <= covered["dialogues"] / trials <= 0.99
    assert covered["rows"] / trials < 0.8


def test_the_interval_of_a_paired_difference_is_narrower_than_those_of_the_scores() -> None:
    # Two models that are wrong on the same rows, except for five that only the first has right.
    targets = np.tile([0, 1], 200)
    wrong = np.random.default_rng(0).random(400) < 0.4
    first = np.where(wrong, 1 - targets, targets)
    second = first.copy()
    second[np.flatnonzero(~wrong)[::40]] ^= 1
    train = side({"emotion": [0, 1]})
    test = side({"emotion": targets.tolist()}, dialogues=[f"d{row // 4}" for row in range(400)])
    ablations = {"other": {"emotion": certain(second, 2)}}
    head = assess({"emotion": ["a", "b"]}, train, test, {"emotion": certain(first, 2)}, ablations).heads["emotion"]
    own, other = head.scores["accuracy"], head.ablations["other"].scores["accuracy"]
    gain = head.ablations["other"].difference["accuracy"]
    assert own.low < other.high
    assert gain.low > 0
    assert gain.mean == pytest.approx(own.mean - other.mean)


# Shuffled predictions


def test_shuffled_predictions_by_hand() -> None:
    # 6 of 10 rows are a, and 5 of 10 predictions: 6 x 5 / 10 = 3 of a are right, and 4 x 5 / 10 = 2 of b. The F1 of a
    # is 2 x 3 / (6 + 5), of b 2 x 2 / (4 + 5). The model itself has 5 and 4 right.
    test, train = side({"mood": [0] * 6 + [1] * 4}), side({"mood": [0, 1]})
    head = assess({"mood": ["a", "b"]}, train, test, {"mood": certain([0] * 5 + [1] * 5, 2)}, {}).heads["mood"]
    assert shuffled(np.array([[5, 1], [0, 4]])).tolist() == [[3, 3], [2, 2]]
    baseline = head.baselines["dealt"]
    assert baseline.per_class == pytest.approx({"a": 6 / 11, "b": 4 / 9})
    means = {name: score.mean for name, score in baseline.scores.items()}
    weighted, macro = (6 * 6 / 11 + 4 * 4 / 9) / 10, (6 / 11 + 4 / 9) / 2
    assert means == pytest.approx({"accuracy": 0.5, "weighted_f1": weighted, "macro_f1": macro})
    assert baseline.difference["accuracy"].mean == pytest.approx(0.9 - 0.5)
    assert "dealt" in head.verdict.beaten


def test_shuffled_predictions_score_like_the_mean_of_many_real_shuffles() -> None:
    """Compare in the original data and in resamples, one of which lacks a class."""
    random, shuffles = np.random.default_rng(0), 4000
    targets, names = np.repeat([0, 0, 1, 1, 0, 2], 5), np.repeat(np.arange(6), 5)
    predictions = np.where(random.random(30) < 0.5, targets, random.integers(0, 3, 30))
    drawn = DialogueResamples.draw(names.tolist(), samples=4)
    tables = drawn.tables(targets, predictions, 3, np.ones(30, bool))
    assert (tables.sum(axis=-1)[:, 2] == 0).any()
    for weights, table in zip(drawn.weights.astype(int), tables, strict=True):
        rows = np.repeat(np.arange(30), weights[drawn.code])
        permuted = random.permuted(np.tile(predictions[rows], (shuffles, 1)), axis=1)
        truth, shuffle = np.tile(targets[rows], shuffles), np.repeat(np.arange(shuffles), 30)
        scores = scores_of(confusions(truth, permuted.ravel(), 3, shuffle, shuffles))
        for name, value in scores_of(shuffled(table)).items():
            assert abs(scores[name].mean() - value) < 5 * scores[name].std() / np.sqrt(shuffles), name


def verdict_of(
    random: np.random.Generator, predicted: np.ndarray | None = None
) -> tuple[BaselineVerdict, dict[str, Interval]]:
    """Return verdict and differences on 100 dialogues of 9 rows, for random guesses or the given codes (900,)."""
    share = [0.48, 0.30, 0.22]  # about that of the sentiments in MELD
    mood, own = random.choice(3, (100, 1), p=share), random.choice(3, (100, 9), p=share)
    targets = np.where(random.random((100, 9)) < 0.3, mood, own).ravel()
    predicted = random.choice(3, 900, p=share) if predicted is None else predicted
    drawn = DialogueResamples.draw(np.repeat(np.arange(100), 9).tolist(), samples=400)
    compared = compare(targets, predicted, {"majority": np.zeros(900, int)}, 3, drawn, np.ones(900, bool))
    return decide(compared), {who: rival.difference["weighted_f1"] for who, rival in compared.items()}


def test_random_guesses_often_beat_the_majority_but_rarely_their_own_shuffle() -> None:
    # The lower bound of a 95 % interval is above the truth in one case of 40.
    random, sets = np.random.default_rng(0), 60
    beaten = [verdict_of(random)[0].beaten for _ in range(sets)]
    low, high = binom.interval(0.99, sets, 0.025)
    assert low <= sum("dealt" in who for who in beaten) <= high
    assert sum("majority" in who for who in beaten) > sets / 2  # so the majority alone is too weak a baseline


@pytest.mark.parametrize("code", [0, 2])
def test_a_constant_model_does_not_beat_its_own_shuffle(code: int) -> None:
    verdict, gains = verdict_of(np.random.default_rng(0), np.full(900, code))
    assert verdict.beaten == []
    assert verdict.unbeaten == ["majority", "dealt"]
    assert (gains["dealt"].mean, gains["dealt"].low, gains["dealt"].high) == (0, None, None)


# Words


def test_tfidf_predicts_from_words_and_uses_the_default_for_empty_texts() -> None:
    texts = ["good day", "so good", "bad day", "so bad", "very bad", " "]
    codes = tfidf_predictions(texts, np.array([1, 1, 0, 0, 0, 1]), ["good", "BAD", "", "  \n"], otherwise=7)
    assert codes.tolist() == [1, 0, 7, 7]


@pytest.mark.parametrize("texts", [["", " "], ["only one", ""], ["!", "?"]])
def test_tfidf_is_none_without_words_or_with_one_class(texts: list[str]) -> None:
    assert tfidf_predictions(texts, np.array([0, 1]), ["good"], otherwise=0) is None


def test_repeated_texts_are_detected_in_any_case() -> None:
    assert seen_in_training(["Oh my God!", "", "Straße"], ["oh my god! ", "oh my", "", "STRASSE"]).tolist() == [
        True, False, False, True,
    ]  # fmt: skip


# Results


def test_consistency_counts_contradictions_by_the_rule_of_meld() -> None:
    # Joy with negative and neutral with positive are contradictions. Surprise goes with both, but not with neutral.
    labels = {"emotion": [3, 4, 6, 6, 0], "sentiment": [2, 1, 0, 2, 0]}
    predicted = {"emotion": [3, 4, 6, 6, 0], "sentiment": [0, 2, 0, 2, 0]}
    probabilities = {head: certain(codes, len(MELD[head])) for head, codes in predicted.items()}
    consistency = assess(MELD, side(labels), side(labels), probabilities, {}).consistency
    assert (consistency.predictions.mean, consistency.truth.mean) == (pytest.approx(2 / 5), 0)
    pairs = [(pair.emotion, pair.sentiment, pair.rows) for pair in consistency.pairs]
    assert pairs == [("joy", "negative", 1), ("neutral", "positive", 1)]
    assert consistency.rule["surprise"] == ["negative", "positive"]


def test_other_class_names_need_an_explicit_rule() -> None:
    heads = {"emotion": ["calm", "angry"], "sentiment": ["good", "bad"]}
    labels = {"emotion": [0, 1], "sentiment": [0, 1]}
    probabilities = {"emotion": certain([0, 1], 2), "sentiment": certain([0, 0], 2)}
    assert assess(heads, side(labels), side(labels), probabilities, {}).consistency is None
    rule = {"calm": {"good"}, "angry": {"bad"}}
    assert assess(heads, side(labels), side(labels), probabilities, {}, rule).consistency.predictions.mean == 0.5
    with pytest.raises(ValueError, match=r"sentiment_of=\['calm'\].*\['angry'\]"):
        assess(heads, side(labels), side(labels), probabilities, {}, {"calm": {"good"}})


def test_one_dialogue_has_scores_without_intervals_and_a_reason() -> None:
    labels = {"emotion": [0, 1, 1]}
    test = side(labels, dialogues=["one"] * 3)
    results = assess({"emotion": ["a", "b"]}, side(labels), test, {"emotion": certain([0, 1, 0], 2)}, {})
    score = results.heads["emotion"].scores["accuracy"]
    assert (score.mean, score.low, score.high) == (pytest.approx(2 / 3), None, None)
    assert "one dialogue" in score.reason
    assert results.heads["emotion"].verdict.unbeaten == ["majority", "dealt"]


def test_classes_without_rows_and_classes_that_are_never_predicted_are_reported() -> None:
    labels = {"mood": [0, 0, 1, 1]}
    results = assess({"mood": ["a", "b", "c"]}, side(labels), side(labels), {"mood": certain([0, 0, 0, 2], 3)}, {})
    head = results.heads["mood"]
    assert head.dead_classes == [DeadClass("b", support=2, in_train=2)]
    assert head.counts == ClassCounts(train=[2, 2, 0], test=[2, 2, 0])
    assert head.per_class["c"] == ClassScores(precision=0, recall=0, f1=0, support=0, predicted=1)
    assert list(head.baselines_left_out) == ["tfidf"]
    assert results.repeated_texts is None
    json.dumps(asdict(results), allow_nan=False)


def test_scores_on_new_texts_leave_out_those_of_training() -> None:
    # The model has the two repeated rows wrong and the two new ones right.
    train = side({"emotion": [0, 1, 0]}, texts=["yes", "no", "yes no"])
    test = side({"emotion": [0, 1, 0, 1]}, texts=["Yes", "NO", "maybe", ""])
    results = assess({"emotion": ["a", "b"]}, train, test, {"emotion": certain([1, 0, 0, 1], 2)}, {})
    assert results.repeated_texts == RepeatedTexts(rows=2, share=0.5)
    head = results.heads["emotion"]
    new = head.unseen_texts
    assert new.rows == 2
    assert new.scores["accuracy"].mean == 1.0
    assert head.scores["accuracy"].mean == 0.5
    assert list(new.baselines) == ["majority", "tfidf", "dealt"]
    gains = [baselines["dealt"].difference["accuracy"].mean for baselines in (head.baselines, new.baselines)]
    assert gains == [0.0, 0.5]  # half of both are right by chance


def test_rows_without_a_modality_are_scored_and_counted() -> None:
    labels = {"emotion": [0, 1, 1]}
    test = side(labels)
    test.present.update(text=np.array([True, False, False]), video=np.array([True, True, False]))
    results = assess({"emotion": ["a", "b"]}, side(labels), test, {"emotion": certain([0, 1, 1], 2)}, {})
    assert (results.rows, results.lacking, results.lacking_all) == (3, {"text": 2, "video": 1}, 1)


def test_calibration_by_hand() -> None:
    # One of two rows at 0.9 is right, and the only row at 0.6: (2 x |0.9 - 0.5| + |0.6 - 1|) / 3.
    result = calibration(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), np.array([0, 1, 1]))
    assert result.expected_error == pytest.approx((2 * 0.4 + 0.4) / 3)
    assert sum(result.rows) == 3
    assert result.right[13] == 0.5
    assert result.confidence[0] is None
    assert calibration(np.eye(2), np.array([0, 1])).expected_error == 0.0


@pytest.mark.parametrize(("probabilities", "message"), [
    ({"emotion": np.array([[2.0, -1.0], [0.0, 1.0]])}, "emotion, the model: row 0"),
    ({"emotion": np.array([[0.5, 0.5], [np.nan, 1.0]])}, "emotion, the model: row 1 .* nan"),
    ({"emotion": np.array([[1.0, 0.0]])}, r"emotion, the model: shape=\(1, 2\): .*\(2, 2\)"),
    ({}, "emotion, the model: shape=None"),
])  # fmt: skip
def test_invalid_probabilities_are_rejected(probabilities: dict, message: str) -> None:
    labels = {"emotion": [0, 1]}
    with pytest.raises(ValueError, match=message):
        assess({"emotion": ["a", "b"]}, side(labels), side(labels), probabilities, {})


def test_columns_of_different_length_and_empty_splits_are_rejected() -> None:
    with pytest.raises(ValueError, match="ids=2 rows.*{'texts': 1}"):
        side({"emotion": [0, 1]}, texts=["one"])
    with pytest.raises(ValueError, match="ids=0 rows"):
        side({"emotion": []})


# As modules of `evaluate`


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_loaded_module_scores_and_counts_rows_and_classes(name: str, tmp_path: Path) -> None:
    result = load(name, tmp_path).compute(predictions=PREDICTED.tolist(), references=TRUTH.tolist())
    assert result == {name: pytest.approx(float(scores_of(np.array(TABLE))[name])), "rows": 6, "classes": 3}
    with pytest.raises(ValueError, match=r"predictions\[1\]=-1"):
        load(name, tmp_path).compute(predictions=[0, -1], references=[0, 1])


@pytest.mark.parametrize("name", OF_CLASSES)
def test_the_examples_of_the_card_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of_card(name, monkeypatch)
    assert next(iter(result)) == name
    assert result["rows"] == 4


@pytest.mark.parametrize(
    ("dialogues", "answers", "unbeaten"),
    [
        (6, [0, 1], []),  # perfect, and all dialogues are alike, so all resamples agree
        (5, [0, 1], ["majority", "dealt"]),  # by chance, all five agree in one case of 32
        (40, [0, 1], []),
        (1, [0, 1], ["majority", "dealt"]),
        (40, [1, 0], ["majority", "dealt"]),  # always wrong
        (40, [0, 0], ["majority", "dealt"]),  # constant
    ],
)
def test_verdicts_at_both_extremes(dialogues: int, answers: list[int], unbeaten: list[str]) -> None:
    test = side({"mood": [0, 1] * dialogues}, dialogues=[f"d{row // 2}" for row in range(2 * dialogues)])
    probabilities = {"mood": certain(answers * dialogues, 2)}
    head = assess({"mood": ["a", "b"]}, side({"mood": [0, 0, 1]}), test, probabilities, {}).heads["mood"]
    assert head.verdict.unbeaten == unbeaten

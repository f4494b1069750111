"""Scores of classes: numbers to check by hand, scikit-learn's, and intervals that hold what they promise."""

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

# Three rows of class 0, all found; of two of class 1 one is taken for 0; class 2 has no row and is predicted once.
TRUTH, PREDICTED = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 0, 2])
TABLE = [[3, 0, 0], [1, 1, 1], [0, 0, 0]]
MELD = {
    "emotion": ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"],
    "sentiment": ["negative", "neutral", "positive"],
}


def certain(codes: list[int] | np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of what is sure of itself."""
    return np.eye(classes)[np.asarray(codes)]


def side(
    labels: dict[str, list[int]], dialogues: list[str] | None = None, texts: list[str] | None = None
) -> Utterances:
    """One side, with a dialogue a row and no text where nothing else is given."""
    rows = len(next(iter(labels.values())))
    names = [f"row{row}" for row in range(rows)]
    codes = {head: np.array(values) for head, values in labels.items()}
    return Utterances(names, dialogues or names, texts or [""] * rows, codes, {"text": np.array([True] * rows)})


def test_scores_by_hand() -> None:
    """F1 of class 0: 2 x 3 / (3 + 4); of class 1: 2 x 1 / (3 + 1); of class 2: 0 of the one time it was predicted."""
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
    """1,256 of 2,610 are neutral: F1 of neutral is 2 x 1256 / (1256 + 2610), of the six others 0."""
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
    found = scores_of(table)
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(targets, predictions))
    for average in ("weighted", "macro"):
        expected = peer.f1_score(targets, predictions, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    each = peer.precision_recall_fscore_support(targets, predictions, labels=range(classes), zero_division=0)
    for name, expected in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert per_class(table)[name] == pytest.approx(expected)


def test_many_tables_at_once_score_as_each_alone() -> None:
    tables = np.random.default_rng(0).integers(0, 4, (5, 6, 4, 4))
    for name, values in scores_of(tables).items():
        assert values.shape == (5, 6)
        alone = [[float(scores_of(table)[name]) for table in row] for row in tables]
        assert values == pytest.approx(np.array(alone))


@pytest.mark.parametrize(("targets", "predictions", "message"), [
    ([0, 1], [0], r"must be \(N,\), a class each a row"),
    ([0, 1], [0, 2], "predictions: that of row 1 is 2; 2 classes are 0 to 1"),
    ([0, -1], [0, 1], "targets: that of row 1 is -1"),
    ([0, 1], [0.0, 1.0], "predictions are float64; give the whole numbers"),
])  # fmt: skip
def test_what_are_no_classes_is_refused(targets: list, predictions: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(np.array(targets), np.array(predictions), 2)


# Intervals


def test_a_resample_scores_its_dialogues_as_often_as_they_were_drawn() -> None:
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
    """Class 2 is in one dialogue of ten, and never predicted; 0 and 1 are always right: macro F1 is at most 2/3."""
    targets = np.array([0, 1] * 10)
    targets[-1] = 2
    predictions = np.where(targets == 2, 1, targets)
    drawn, every = DialogueResamples.draw([f"d{row // 2}" for row in range(20)], samples=200), np.ones(20, bool)
    missing = drawn.weights[:, drawn.code[-1]] == 0
    macro = drawn.scores(targets, predictions, 3, every)["macro_f1"]
    assert missing.any()
    assert macro[missing] == pytest.approx(2 / 3)
    assert macro.max() <= 2 / 3 + 1e-9


def test_intervals_over_dialogues_hold_the_truth_and_those_over_rows_do_not() -> None:
    """Of 120 sets of 60 dialogues of 10 rows, each dialogue with its own difficulty: the accuracy of all is 0.6."""
    random, held, trials = np.random.default_rng(0), {"dialogues": 0, "rows": 0}, 120
    for _ in range(trials):
        right = random.random((60, 10)) < random.beta(1.2, 0.8, (60, 1))
        targets = random.integers(0, 2, 600)
        predictions = np.where(right.ravel(), targets, 1 - targets)
        names = {"dialogues": np.repeat(np.arange(60), 10), "rows": np.arange(600)}
        for kind, each in names.items():
            drawn, every = DialogueResamples.draw(each, samples=200), np.ones(600, bool)
            found = drawn.intervals(drawn.scores(targets, predictions, 2, every), every)["accuracy"]
            held[kind] += found.low <= 0.6 <= found.high
    assert 0.90 <= held["dialogues"] / trials <= 0.99
    assert held["rows"] / trials < 0.8


def test_a_paired_difference_is_surer_than_two_scores() -> None:
    """Two models that err on the same rows but for five, all of which the first has right."""
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


# Answers dealt at random


def test_answers_dealt_at_random_by_hand() -> None:
    """Of 10 rows 6 are a, of 10 answers 5: 6 x 5 / 10 = 3 of a are found, and 4 x 5 / 10 = 2 of b.

    F1 of a is 2 x 3 / (6 + 5), of b 2 x 2 / (4 + 5); the model itself has 5 and 4 right.
    """
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


def test_answers_dealt_at_random_score_as_many_real_deals_do_on_average() -> None:
    """In the data as they are and in resamples, of which one lacks a class."""
    random, deals = np.random.default_rng(0), 4000
    targets, names = np.repeat([0, 0, 1, 1, 0, 2], 5), np.repeat(np.arange(6), 5)
    predictions = np.where(random.random(30) < 0.5, targets, random.integers(0, 3, 30))
    drawn = DialogueResamples.draw(names.tolist(), samples=4)
    tables = drawn.tables(targets, predictions, 3, np.ones(30, bool))
    assert (tables.sum(axis=-1)[:, 2] == 0).any()
    for weights, table in zip(drawn.weights.astype(int), tables, strict=True):
        rows = np.repeat(np.arange(30), weights[drawn.code])
        given = random.permuted(np.tile(predictions[rows], (deals, 1)), axis=1)
        truth, deal = np.tile(targets[rows], deals), np.repeat(np.arange(deals), 30)
        scores = scores_of(confusions(truth, given.ravel(), 3, deal, deals))
        for name, value in scores_of(shuffled(table)).items():
            assert abs(scores[name].mean() - value) < 5 * scores[name].std() / np.sqrt(deals), name


def verdict_of(
    random: np.random.Generator, predicted: np.ndarray | None = None
) -> tuple[BaselineVerdict, dict[str, Interval]]:
    """Verdict and differences on 100 dialogues of 9 rows with moods of their own, of blind guesses or (900,) codes."""
    share = [0.48, 0.30, 0.22]  # of sentiments in MELD, nearly
    mood, own = random.choice(3, (100, 1), p=share), random.choice(3, (100, 9), p=share)
    targets = np.where(random.random((100, 9)) < 0.3, mood, own).ravel()
    predicted = random.choice(3, 900, p=share) if predicted is None else predicted
    drawn = DialogueResamples.draw(np.repeat(np.arange(100), 9).tolist(), samples=400)
    compared = compare(targets, predicted, {"majority": np.zeros(900, int)}, 3, drawn, np.ones(900, bool))
    return decide(compared), {who: rival.difference["weighted_f1"] for who, rival in compared.items()}


def test_blind_guesses_beat_the_majority_and_their_own_answers_dealt_at_random_as_rarely_as_promised() -> None:
    """A bound of a 95 % interval lies above what is true in one case of 40."""
    random, sets = np.random.default_rng(0), 60
    beaten = [verdict_of(random)[0].beaten for _ in range(sets)]
    low, high = binom.interval(0.99, sets, 0.025)
    assert low <= sum("dealt" in who for who in beaten) <= high
    assert sum("majority" in who for who in beaten) > sets / 2  # which is why it does not suffice


@pytest.mark.parametrize("code", [0, 2])
def test_a_constant_model_is_not_better_than_its_own_answers_dealt_at_random(code: int) -> None:
    verdict, gains = verdict_of(np.random.default_rng(0), np.full(900, code))
    assert verdict.beaten == []
    assert verdict.unbeaten == ["majority", "dealt"]
    assert (gains["dealt"].mean, gains["dealt"].low, gains["dealt"].high) == (0, None, None)


# The words alone


def test_words_tell_the_class_and_what_has_none_gets_the_majority() -> None:
    texts = ["good day", "so good", "bad day", "so bad", "very bad", " "]
    found = tfidf_predictions(texts, np.array([1, 1, 0, 0, 0, 1]), ["good", "BAD", "", "  \n"], otherwise=7)
    assert found.tolist() == [1, 0, 7, 7]


@pytest.mark.parametrize("texts", [["", " "], ["only one", ""], ["!", "?"]])
def test_without_words_or_with_one_class_nothing_is_learnt(texts: list[str]) -> None:
    assert tfidf_predictions(texts, np.array([0, 1]), ["good"], otherwise=0) is None


def test_repeated_texts_are_found_whatever_their_case() -> None:
    assert seen_in_training(["Oh my God!", "", "Straße"], ["oh my god! ", "oh my", "", "STRASSE"]).tolist() == [
        True, False, False, True,
    ]  # fmt: skip


# The record


def test_consistency_counts_pairs_that_melds_rule_forbids() -> None:
    """Joy with negative and neutral with positive are forbidden; surprise goes with both, not with neutral."""
    labels = {"emotion": [3, 4, 6, 6, 0], "sentiment": [2, 1, 0, 2, 0]}
    predicted = {"emotion": [3, 4, 6, 6, 0], "sentiment": [0, 2, 0, 2, 0]}
    given = {head: certain(codes, len(MELD[head])) for head, codes in predicted.items()}
    found = assess(MELD, side(labels), side(labels), given, {}).consistency
    assert (found.predictions.mean, found.truth.mean) == (pytest.approx(2 / 5), 0)
    pairs = [(pair.emotion, pair.sentiment, pair.rows) for pair in found.pairs]
    assert pairs == [("joy", "negative", 1), ("neutral", "positive", 1)]
    assert found.rule["surprise"] == ["negative", "positive"]


def test_heads_of_other_names_have_a_rule_only_if_one_is_given() -> None:
    heads = {"emotion": ["calm", "angry"], "sentiment": ["good", "bad"]}
    labels = {"emotion": [0, 1], "sentiment": [0, 1]}
    given = {"emotion": certain([0, 1], 2), "sentiment": certain([0, 0], 2)}
    assert assess(heads, side(labels), side(labels), given, {}).consistency is None
    rule = {"calm": {"good"}, "angry": {"bad"}}
    assert assess(heads, side(labels), side(labels), given, {}, rule).consistency.predictions.mean == 0.5
    with pytest.raises(ValueError, match=r"sentiment_of: \['angry'\] are not in both"):
        assess(heads, side(labels), side(labels), given, {}, {"calm": {"good"}})


def test_one_dialogue_has_scores_without_intervals_and_a_reason() -> None:
    labels = {"emotion": [0, 1, 1]}
    test = side(labels, dialogues=["one"] * 3)
    results = assess({"emotion": ["a", "b"]}, side(labels), test, {"emotion": certain([0, 1, 0], 2)}, {})
    score = results.heads["emotion"].scores["accuracy"]
    assert (score.mean, score.low, score.high) == (pytest.approx(2 / 3), None, None)
    assert score.reason == "there is one dialogue: an interval over dialogues needs at least 2"
    assert results.heads["emotion"].verdict.unbeaten == ["majority", "dealt"]


def test_a_class_without_rows_and_one_that_is_never_predicted_are_told() -> None:
    labels = {"mood": [0, 0, 1, 1]}
    results = assess({"mood": ["a", "b", "c"]}, side(labels), side(labels), {"mood": certain([0, 0, 0, 2], 3)}, {})
    head = results.heads["mood"]
    assert head.dead_classes == [DeadClass("b", support=2, in_train=2)]
    assert head.counts == ClassCounts(train=[2, 2, 0], test=[2, 2, 0])
    assert head.per_class["c"] == ClassScores(precision=0, recall=0, f1=0, support=0, predicted=1)
    assert head.baselines_left_out == {"tfidf": "training has no texts with words, or they are all of one class"}
    assert results.repeated_texts is None
    json.dumps(asdict(results), allow_nan=False)


def test_scores_on_new_texts_leave_out_those_of_training() -> None:
    """The model has the two repeated rows wrong and the two new ones right."""
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
    assert gains == [0.0, 0.5]  # half of either is right by chance


def test_rows_that_lack_a_modality_are_scored_and_counted() -> None:
    labels = {"emotion": [0, 1, 1]}
    test = side(labels)
    test.present.update(text=np.array([True, False, False]), video=np.array([True, True, False]))
    results = assess({"emotion": ["a", "b"]}, side(labels), test, {"emotion": certain([0, 1, 1], 2)}, {})
    assert (results.rows, results.lacking, results.lacking_all) == (3, {"text": 2, "video": 1}, 1)


def test_calibration_by_hand() -> None:
    """Of two rows at 0.9 one is right, of one at 0.6 that one: (2 x |0.9 - 0.5| + |0.6 - 1|) / 3."""
    found = calibration(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), np.array([0, 1, 1]))
    assert found.expected_error == pytest.approx((2 * 0.4 + 0.4) / 3)
    assert sum(found.rows) == 3
    assert found.right[13] == 0.5
    assert found.confidence[0] is None
    assert calibration(np.eye(2), np.array([0, 1])).expected_error == 0.0


@pytest.mark.parametrize(("given", "message"), [
    ({"emotion": np.array([[2.0, -1.0], [0.0, 1.0]])}, "row 0 is .* give probabilities"),
    ({"emotion": np.array([[0.5, 0.5], [np.nan, 1.0]])}, "emotion, the model: row 1 is .* adds up to nan"),
    ({"emotion": np.array([[1.0, 0.0]])}, r"\(1, 2\) was given; it takes probabilities \(2, 2\)"),
    ({}, "nothing was given"),
])  # fmt: skip
def test_what_are_no_probabilities_is_refused(given: dict, message: str) -> None:
    labels = {"emotion": [0, 1]}
    with pytest.raises(ValueError, match=message):
        assess({"emotion": ["a", "b"]}, side(labels), side(labels), given, {})


def test_columns_of_different_length_and_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 utterances, but {'texts': 1}"):
        side({"emotion": [0, 1]}, texts=["one"])
    with pytest.raises(ValueError, match="0 utterances, but {}: give at least one"):
        side({"emotion": []})


# As modules of `evaluate`


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_loaded_module_scores_and_counts(name: str, tmp_path: Path) -> None:
    result = load(name, tmp_path).compute(predictions=PREDICTED.tolist(), references=TRUTH.tolist())
    assert result == {name: pytest.approx(float(scores_of(np.array(TABLE))[name])), "rows": 6, "classes": 3}
    with pytest.raises(ValueError, match="predictions: that of row 1 is -1"):
        load(name, tmp_path).compute(predictions=[0, -1], references=[0, 1])


@pytest.mark.parametrize("name", OF_CLASSES)
def test_the_examples_of_the_card_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of_card(name, monkeypatch)
    assert next(iter(result)) == name
    assert result["rows"] == 4


@pytest.mark.parametrize(
    ("dialogues", "answers", "unbeaten"),
    [
        (6, [0, 1], []),  # perfect, and all dialogues alike: no resample differs
        (5, [0, 1], ["majority", "dealt"]),  # by chance alone all five agree in one case of 32
        (40, [0, 1], []),
        (1, [0, 1], ["majority", "dealt"]),
        (40, [1, 0], ["majority", "dealt"]),  # the worst
        (40, [0, 0], ["majority", "dealt"]),  # constant
    ],
)
def test_verdicts_at_both_extremes(dialogues: int, answers: list[int], unbeaten: list[str]) -> None:
    test = side({"mood": [0, 1] * dialogues}, dialogues=[f"d{row // 2}" for row in range(2 * dialogues)])
    given = {"mood": certain(answers * dialogues, 2)}
    head = assess({"mood": ["a", "b"]}, side({"mood": [0, 0, 1]}), test, given, {}).heads["mood"]
    assert head.verdict.unbeaten == unbeaten

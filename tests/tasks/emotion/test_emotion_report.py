"""The page, the card and the table of a classifier of utterances: whole, escaped, and honest whatever the data are."""

import ast
import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from evaluation.classification import assess
from reporting.card import SYNTHETIC_NOTICE
from tasks.emotion.card import model_card, results_table, verdict_line
from tasks.emotion.plots import plot_ablations, plot_calibration, plot_classes, plot_confusion
from tasks.emotion.report import report_files
from tests.helpers.facts import SCRIPT
from tests.helpers.facts.emotion import HEADS, constant, make_facts, make_side, make_test
from tests.helpers.pages import assert_no_missing_value, without_images


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Those of a run on a test in which fear is never predicted, as they come back from metrics.json."""
    return json.loads(json.dumps(make_facts(), allow_nan=False))


def test_the_page_has_all_that_an_honest_report_holds(facts: dict[str, Any]) -> None:
    test = facts["test"]
    text = without_images(report_files(facts, {"seed": 0}, pa.table({}))["report.html"])
    fear = test["heads"]["emotion"]["per_class"]["fear"]["support"]
    for said in (
        "Verdict, emotion: better than the majority class, TF-IDF and its own answers, dealt at random",
        "<td>its own answers, dealt at random</td>",
        f"Never predicted: fear ({fear} rows).",
        "<td>majority: always neutral</td>",
        "<td>text alone</td>",
        "<td>without text</td>",
        "0 (never predicted)",
        f"Scored: 400 rows, all of this side: of them {test['lacking']['video']} without video",
        "is in training word for word",
        "rows whose text is new",
        "do not go together in 0.",
        "Expected calibration error",
        "the best on validation by weighted_f1",
        "The test side was scored once",
        "one run with one seed",
        "intervals over dialogues",
        "Of twin clips of the test, the prefixed one is used.",
        "<td>video missing</td><td>20</td>",
        "<td>4</td><td>neutral</td>",  # the order of the labels
        "<td>dia1_utt2</td><td>3</td><td>0 bytes</td>",
        "ab" * 32,
    ):
        assert said in text, said


def test_a_constant_model_is_not_better_than_the_majority_or_than_chance() -> None:
    random = np.random.default_rng(0)
    train, test = make_side(random, 900), make_side(random, 400)
    record = asdict(assess(HEADS, train, test, constant(test), {}))
    for head, found in record["heads"].items():
        line = verdict_line(head, found)
        assert line.startswith(f"**Verdict, {head}: not shown to be better than the majority class")
        assert "0.000 (no interval: all resamples give 0" in line
        assert "Never predicted: " in line
        assert "dealt" in found["verdict"]["unbeaten"]
        assert "less that of its own answers, dealt at random 0.000 (no interval: all resamples give 0," in line
    assert "not shown to be better" in results_table(record | {"undecodable": 0, "note": None})


def test_a_model_is_better_than_one_baseline_and_not_than_the_other() -> None:
    """0.1 [0.05, 0.15] lies above 0 and 0.1 [-0.02, 0.22] does not."""
    score = {"mean": 0.5, "low": 0.4, "high": 0.6, "undefined": 0, "reason": None}
    above, around = (score | {"mean": 0.1, "low": low, "high": high} for low, high in ((0.05, 0.15), (-0.02, 0.22)))
    found = {
        "scores": {"weighted_f1": score},
        "baselines": {
            who: {"difference": {"weighted_f1": gain}} for who, gain in (("majority", above), ("tfidf", around))
        },
        "baselines_left_out": {},
        "dead_classes": [],
        "verdict": {"beaten": ["majority"], "unbeaten": ["tfidf"], "score": "weighted_f1"},
    }  # fmt: skip
    assert verdict_line("emotion", found) == (
        "**Verdict, emotion: not shown to be better than TF-IDF** (weighted F1 0.500 [0.400, 0.600]; less that of the "
        "majority class 0.100 [0.050, 0.150]; less that of TF-IDF 0.100 [-0.020, 0.220])."
    )


def test_the_card_has_metadata_that_the_hub_reads_and_code_that_can_be_run(facts: dict[str, Any]) -> None:
    card = model_card(facts)
    front = yaml.safe_load(card.split("---\n")[1])
    name, results = model_index_to_eval_results(front["model-index"])
    assert name == "meld_fusion"
    assert len(results) == 6
    first = next(result for result in results if result.metric_name == "emotion weighted F1")
    score = facts["test"]["heads"]["emotion"]["scores"]["weighted_f1"]
    assert first.metric_value == round(score["mean"], 4)
    assert first.metric_args["low"] == round(score["low"], 4)
    assert first.dataset_name == "hf_datasets/meld (SYNTHETIC)"
    assert first.dataset_split == "test"
    metadata = ModelCardData(**front, ignore_metadata_errors=False)
    assert metadata.license == "other"
    assert {"multimodal", "synthetic-data"} <= set(metadata.tags)
    assert SYNTHETIC_NOTICE in card
    assert card.index("SYNTHETIC") < card.index("Verdict, emotion")
    assert 'python run_predict.py meld_fusion clip.mp4 --text "' in card
    assert "trust_remote_code=True" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    ast.parse(code)
    assert "dia1_utt2" not in card
    assert_no_missing_value(card)


@pytest.mark.parametrize(
    ("modality", "pipeline"), [("text", "text-classification"), ("video", "video-classification")]
)
def test_a_model_of_one_modality_has_the_name_that_the_hub_has_for_it(
    facts: dict[str, Any], modality: str, pipeline: str
) -> None:
    card = model_card(facts | {"model": {"model_type": "fusion", "modalities": [modality]}})
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == f"{modality}-classification"
    assert "multimodal" not in front["tags"]
    assert ("--text" in card) == (modality == "text")
    assert "fusion:" not in card


def test_without_texts_and_ablations_the_pages_say_what_is_not_there() -> None:
    facts = make_facts(make_test(texts=False, ablated=False))
    page, card = report_files(facts, {}, pa.table({}))["report.html"], model_card(facts)
    for text in (without_images(page), card):
        assert "Not compared with TF-IDF: training has no texts with words" in text
        assert "400 without text" in text
        assert "word for word" not in text.split("Limits")[0]
        assert_no_missing_value(text)


def test_what_could_not_be_decoded_is_told_and_what_was_fitted_on_is_too() -> None:
    facts = make_facts()
    facts["test"] |= {"undecodable": 3, "note": "The checkpoint was chosen on utterances that are scored here."}
    facts["training"]["undecodable"] = 1200
    page = without_images(report_files(facts, {}, pa.table({}))["report.html"])
    for text in (page, model_card(facts)):
        assert "Something of 3 rows could not be decoded" in text
        assert "The checkpoint was chosen on" in text
    assert "a clip could not be decoded, and was taken as missing: 1,200 times" in page


@pytest.mark.parametrize(
    ("dataset", "synthetic", "of_meld"), [("s3://b/MELD", False, True), ("meld", True, False), ("own", False, False)]
)
def test_the_limits_speak_of_meld_only_where_the_data_are_meld(dataset: str, synthetic: bool, of_meld: bool) -> None:
    facts = make_facts()
    facts["data"] |= {"dataset": dataset, "synthetic": synthetic}
    for text in (report_files(facts, {}, pa.table({}))["report.html"], model_card(facts)):
        limits = text.split("Limits")[-1]
        assert ("TV comedy" in limits) == of_meld
        assert "how people feel is another matter" in limits


def test_names_are_text_wherever_they_come_from() -> None:
    facts = make_facts()
    facts["name"] = facts["data"]["dataset"] = facts["data"]["policies"][0] = SCRIPT
    facts["data"]["notes"] = {SCRIPT: 1}
    text = json.dumps(facts["test"]).replace('"fear"', json.dumps(f"$ {SCRIPT}")).replace("text alone", SCRIPT)
    page = report_files(facts | {"test": json.loads(text)}, {"key": SCRIPT}, pa.table({}))["report.html"]
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_figures_show_the_numbers_of_the_record(facts: dict[str, Any]) -> None:
    heads = facts["test"]["heads"]
    cells = [int(text.get_text().split("\n")[0]) for text in plot_confusion("s", heads["sentiment"]).axes[0].texts]
    assert cells == np.ravel(heads["sentiment"]["confusion"]).tolist()
    bars = [bar.get_width() for bar in plot_classes(heads).axes[1].patches]
    f1 = {name: each["f1"] for name, each in heads["sentiment"]["per_class"].items()}
    assert sorted(bars[:3]) == sorted(f1.values())
    assert sorted(bars[9:]) == sorted(heads["sentiment"]["baselines"]["dealt"]["per_class"].values())
    labels = [label.get_text() for label in plot_ablations(heads).axes[0].get_yticklabels()]
    assert labels == ["without text", "text alone", "dealt at random", "tfidf", "majority", "model"]
    for panel, head in zip(plot_calibration(heads).axes, heads, strict=True):
        bins = heads[head]["calibration"]
        expected = [pair for *pair, rows in zip(bins["confidence"], bins["right"], bins["rows"], strict=True) if rows]
        assert panel.collections[0].get_offsets().tolist() == expected

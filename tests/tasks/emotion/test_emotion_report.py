"""Report, card, tables and figures of a classifier of utterances on ordinary and on odd data."""

import ast
import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from evaluation.classification import assess
from reporting.sections import SYNTHETIC
from tasks.emotion.plots import plot_ablations, plot_calibration, plot_classes, plot_confusion
from tasks.emotion.results import (
    NAMES,
    class_table,
    results_table,
    score_table,
    unseen_texts,
    verdict,
    verdict_of,
)
from tests.helpers.facts import SCRIPT
from tests.helpers.facts.emotion import HEADS, constant, make_facts, make_side, make_test
from tests.helpers.pages import assert_no_missing_value, model_card, report_files


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Those of a run on a test in which fear is never predicted, as they come back from metrics.json."""
    return json.loads(json.dumps(make_facts(), allow_nan=False))


def test_a_constant_model_is_not_better_than_the_majority_or_than_its_shuffled_predictions() -> None:
    random = np.random.default_rng(0)
    train, test = make_side(random, 900), make_side(random, 400)
    record = asdict(assess(HEADS, train, test, constant(test), {})) | {"undecodable": 0, "note": None}
    for head, found in record["heads"].items():
        assert {"majority", "dealt"} <= set(found["verdict"]["unbeaten"])
        assert found["baselines"]["majority"]["difference"]["weighted_f1"]["mean"] == 0
        assert len(found["dead_classes"]) == len(found["classes"]) - 1
        text = verdict(record, head).text
        assert all(one["name"] in text for one in found["dead_classes"])
    assert_no_missing_value(results_table(record))


def test_a_verdict_names_the_baselines_that_are_not_beaten() -> None:
    names = {"beaten": ["majority"], "unbeaten": ["tfidf", "dealt"], "score": "weighted_f1"}
    assert [name in verdict_of(names) for name in NAMES.values()] == [False, True, True]
    assert [name in verdict_of(names | {"beaten": list(NAMES), "unbeaten": []}) for name in NAMES.values()] == [
        True
    ] * 3
    assert verdict_of(names) != verdict_of({"beaten": ["tfidf", "dealt"], "unbeaten": [], "score": "weighted_f1"})


def test_the_tables_show_a_class_that_is_never_predicted(facts: dict[str, Any]) -> None:
    test = facts["test"]
    rows = {row[0]: row for row in class_table(test, "emotion").rows}
    support = test["heads"]["emotion"]["per_class"]["fear"]["support"]
    assert rows["fear"][1].startswith("0 (")
    assert rows["fear"][2:6] == ["0.000", "0.000", f"{support}", "0"]
    labels = [row[0] for row in score_table(test, "emotion").rows]
    assert labels[-2:] == ["text alone", "without text"]
    assert labels[1].endswith("neutral")


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
    assert card.index(SYNTHETIC) < card.index("Verdict")
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


def test_without_texts_there_is_no_tfidf_and_the_reason_is_shown() -> None:
    facts = make_facts(make_test(texts=False, ablated=False))
    for head, found in facts["test"]["heads"].items():
        (reason,) = found["baselines_left_out"].values()
        assert reason in verdict(facts["test"], head).text
        assert unseen_texts(facts["test"], head) == []
    assert facts["test"]["lacking"]["text"] == 400
    for text in (report_files(facts)["report.html"], model_card(facts)):
        assert "400 without text" in text
        assert_no_missing_value(text)


def test_undecodable_rows_and_a_note_are_shown_in_page_and_card() -> None:
    facts = make_facts()
    facts["test"] |= {"undecodable": 3, "note": "note=1"}
    facts["training"]["undecodable"] = 1200
    page, card = report_files(facts)["report.html"], model_card(facts)
    for text in (page, card):
        assert "3 rows" in text
        assert "note=1" in text
    assert "1,200 times" in page


@pytest.mark.parametrize(
    ("dataset", "synthetic", "of_meld"), [("s3://b/MELD", False, True), ("meld", True, False), ("own", False, False)]
)
def test_the_limits_of_meld_are_those_of_real_meld_alone(dataset: str, synthetic: bool, of_meld: bool) -> None:
    facts = make_facts()
    facts["data"] |= {"dataset": dataset, "synthetic": synthetic}
    for text in (report_files(facts)["report.html"], model_card(facts)):
        assert ("MELD consists" in text) == of_meld


def test_names_are_text_wherever_they_come_from() -> None:
    facts = make_facts()
    facts["name"] = facts["data"]["dataset"] = facts["data"]["policies"][0] = SCRIPT
    facts["data"]["notes"] = {SCRIPT: 1}
    text = json.dumps(facts["test"]).replace('"fear"', json.dumps(f"$ {SCRIPT}")).replace("text alone", SCRIPT)
    page = report_files(facts | {"test": json.loads(text)}, {"key": SCRIPT})["report.html"]
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
    assert labels == ["without text", "text alone", "shuffled predictions", "TF-IDF", "majority", "model"]
    for panel, head in zip(plot_calibration(heads).axes, heads, strict=True):
        bins = heads[head]["calibration"]
        expected = [pair for *pair, rows in zip(bins["confidence"], bins["right"], bins["rows"], strict=True) if rows]
        assert panel.collections[0].get_offsets().tolist() == expected

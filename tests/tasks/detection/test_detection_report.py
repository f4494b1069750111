"""Report, card, tables and figures of a detector on ordinary and on odd data."""

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.colors import to_rgba

from reporting.plots import FALSE, MODEL, TRUTH, png
from reporting.sections import SYNTHETIC
from tasks.detection.plots import (
    plot_composition,
    plot_detections,
    plot_mining,
    plot_precision_recall,
    plot_timelines,
)
from tasks.detection.results import (
    encoder_share,
    is_beaten,
    name_of,
    remarks,
    results_table,
    score_table,
    verdict_of,
)
from tests.helpers.facts import SCRIPT
from tests.helpers.facts.detection import make_facts, make_test, score
from tests.helpers.pages import assert_no_missing_value, model_card, notices, report_files

NAMED = {name: to_rgba(colour) for name, colour in (("model", MODEL), ("truth", TRUTH), ("false", FALSE))}


def test_names_are_text_wherever_they_come_from() -> None:
    facts = make_facts()
    test, data, training = facts["test"], facts["data"], facts["training"]
    facts["name"] = test["target"][0]["name"] = test["note"] = test["threshold"]["rule"] = SCRIPT
    test["confusers"][0]["name"] = test["timelines"][0]["title"] = f"$ {SCRIPT}"  # a formula that has no end
    data["dataset"] = data["rules"][0]["rule"] = data["trim"][0]["name"] = SCRIPT
    data["files"], data["clips"] = {SCRIPT: "5e"}, {SCRIPT: {SCRIPT: 1}}
    training["coverage"]["never"] = [SCRIPT]
    training["substitutions"][0] |= {"clip_id": SCRIPT, "reason": SCRIPT}
    page = report_files(facts, {"target": [SCRIPT]})["report.html"]
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 12


def emptied() -> dict[str, Any]:
    """The facts of a test side without the target, a training without mining, and data that lost nothing."""
    facts = make_facts()
    none = score(None, reason="no clip has the target")
    facts["test"] |= {
        "positives": 0,
        "hours_of_negatives": 0.0,
        "threshold": {"value": None, "rule": "f1", "chosen_on": "validation"},
        "scores": dict.fromkeys(facts["test"]["scores"], none),
        "baselines": {},
        "false_alarms_at_recall": {"recall": 0.9, "per_hour": None},
        "curve": {"recall": [], "precision": []},
        "baseline_curves": {},
        "histogram": {"edges": [0.0, 1.0], "positives": [0], "negatives": [0]},
        "confusers": [],
        "timelines": [],
    }
    nothing = dict.fromkeys(("positive", "tier_a", "tier_b", "weak"), 0)
    counts = dict.fromkeys(("explicit", "hard", "substituted", "mixed"), 0)
    facts["training"] |= {
        "composition": {"planned": nothing, "served": nothing, **counts},
        "coverage": {"labels": 0, "seen": 0, "rounds": 1, "never": []},
        "mining": [],
        "substitutions": [],
        "log": [],
        "best_checkpoint_step": None,
    }
    facts["data"] |= {"clips": {}, "rules": [], "trim": []}
    facts["receptive_field_seconds"] = None  # of a model that is not ours
    return facts


def test_without_positives_the_page_has_no_figure_and_no_verdict() -> None:
    facts = emptied()
    files = report_files(facts)
    assert list(files) == ["report.html"]
    assert verdict_of(facts["test"]) == "not measured"
    for text in (files["report.html"], model_card(facts), results_table(facts["test"])):
        assert_no_missing_value(text)
    assert "figure_precision_recall.png" not in model_card(facts)


def test_what_was_not_recorded_is_left_out() -> None:
    facts = make_facts()
    facts["test"] |= dict.fromkeys(("curve", "histogram", "confusers", "timelines", "false_alarms_at_recall"))
    facts["training"] |= dict.fromkeys(("composition", "coverage", "mining", "substitutions"))
    files = report_files(facts)
    assert set(files) == {"report.html", "figure_learning.png"}
    for text in (files["report.html"], model_card(facts)):
        assert_no_missing_value(text)


CHANCE, LOUD = score(0.05, None), score(0.2, 0.1)


@pytest.mark.parametrize(("model", "baselines", "verdict"), [
    (score(0.5, 0.1), {"chance": CHANCE, "loudness": LOUD}, "better than chance and loudness"),
    (score(0.5, 0.2), {"chance": CHANCE, "loudness": LOUD},
     "better than chance, not shown to be better than loudness"),
    (score(0.5, 0.2), {"chance": score(0.3, None)}, "not shown to be better than chance"),
    (score(1.0, None, "there is one positive"), {"chance": CHANCE}, "not shown to be better than chance"),
    (score(0.5, 0.1), {"chance": {}}, "compared with nothing"),
    (score(None, reason="no positives"), {"chance": score(0.0, None)}, "not measured"),
])  # fmt: skip
def test_a_verdict_asks_for_an_interval_above_every_baseline(model: dict, baselines: dict, verdict: str) -> None:
    """0.5 - 0.2 is no more than 0.2 + 0.1 or 0.3."""
    baselines = {who: {"average_precision": found} if found else {} for who, found in baselines.items()}
    assert verdict_of({"scores": {"average_precision": model}, "baselines": baselines}) == verdict


@pytest.mark.parametrize(
    ("gain", "p", "beaten"),
    [(score(0.1, 0.05), {}, True), (score(0.1, 0.2), {}, False), (score(0.1, None), {"other": 0.001}, True),
     (score(0.1, None), {"other": 0.2}, False), (score(0.1, None), {}, False),
     (score(None, reason="none"), {}, False)],
)  # fmt: skip
def test_a_rival_is_beaten_by_the_paired_difference(gain: dict, p: dict, beaten: bool) -> None:
    """The intervals of both overlap, which says nothing of their difference on the same clips."""
    scores = {"average_precision": score(0.6, 0.3)}
    baselines = {"other": {"average_precision": score(0.5, 0.3)}}
    test = {"scores": scores, "baselines": baselines, "gains": {"other": gain}, "permutation_p": p}
    assert is_beaten(test, "other") == beaten


def test_the_table_has_model_and_baselines_side_by_side() -> None:
    test = make_facts()["test"]
    test["scores"]["event_f1"] = score(None, reason="no strong events")
    table = score_table(test)
    assert table.heading[1:] == ["model", "chance", "loudness", "MFCC + logistic regression"]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["average precision"] == [
        "0.720 [0.670, 0.770]", "0.050", "0.180 [0.130, 0.230]", "0.540 [0.490, 0.590]"
    ]  # fmt: skip
    assert rows["at the threshold: F1 of events"][:2] == ["undefined (no strong events)", ""]


def test_a_quarter_of_an_hour_can_show_four_false_alarms_per_hour_at_least() -> None:
    test = make_facts()["test"] | {"false_alarms_at_recall": None}
    assert remarks(test | {"hours_of_negatives": 1.5}) == []
    (remark,) = remarks(test | {"hours_of_negatives": 0.25})
    assert re.findall(r"\d+\.\d+", remark) == ["0.25", "4.0"]


def test_the_card_has_metadata_scores_and_code_that_can_be_run() -> None:
    card = model_card(make_facts())
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "audio-classification"
    assert {"audio-classification", "tcn", "synthetic-data"} <= set(front["tags"])
    assert card.index(SYNTHETIC) < card.index("/t/dd00002") < card.index("Verdict")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    called = {node.func.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)
              and isinstance(node.func, ast.Attribute)}  # fmt: skip
    assert {"from_pretrained", "load", "sigmoid"} <= called
    assert "AutoModelForAudioClassification" in code
    assert "auto_map" not in card
    assert "abc_-defghi" not in card  # an id of a clip
    assert "dQw4w9WgXcQ" not in card


@pytest.mark.parametrize(("known", "warned"), [(None, True), (3, True), (0, False)])
def test_a_base_that_may_have_seen_the_test_is_warned_of(known: int | None, warned: bool) -> None:
    facts = make_facts() | {"base": {"model": "MIT/ast", "test_trials_it_was_trained_on": known}}
    texts = [text for text in notices(facts) if "MIT/ast" in text]
    assert len(texts) == warned
    assert known is None or all(re.search(rf"\b{known}\b", text) for text in texts)
    assert "`MIT/ast`" in model_card(facts)


def test_curves_rise_over_recall_however_their_points_are_ordered() -> None:
    """The area under the steps is the average precision: 0.5 x 1 + 0.5 x 2/3 for a hit, a miss and a hit."""
    test = make_test(np.random.default_rng(0)) | {"baseline_curves": {}}
    curve = {"recall": [0.5, 0.5, 1.0], "precision": [1.0, 0.5, 2 / 3]}
    for ordered in (curve, {key: values[::-1] for key, values in curve.items()}):
        line = plot_precision_recall(test | {"curve": ordered}).axes[0].lines[0]
        recall, precision = line.get_xdata(), line.get_ydata()
        assert line.get_drawstyle() == "steps-pre"
        assert recall[0] == 0
        assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(0.5 + 1 / 3)


def test_a_detection_that_meets_no_event_has_the_colour_of_false_alarms() -> None:
    clip = {"clip_id": "a", "title": "a", "seconds": [0.0, 0.5], "scores": [0.1, None]}
    clip |= {"events": [[1.0, 2.0]], "detected": [[1.9, 3.0, 0.9], [2.0, 2.5, 0.8]]}

    def colours(clip: dict[str, Any]) -> list[str]:
        bars = plot_timelines([clip], 0.5).axes[0].collections
        return [name for bar in bars for name, colour in NAMED.items() if np.allclose(bar.get_facecolor()[0], colour)]

    assert colours(clip) == ["truth", "model", "false"]
    assert colours(clip | {"events": None}) == ["model", "model"]  # somewhere in the clip, says a weak label
    assert colours(clip | {"events": []}) == ["false", "false"]


def test_detections_in_recordings_of_any_length_are_drawn() -> None:
    found = SimpleNamespace(
        file=Path("night_$1.wav"),
        events=np.array([[10.0, 12.5, 0.9], [7000.0, 7001.0, 0.6]]),
        envelope=SimpleNamespace(peaks=[0.1, 0.9, 0.3, 0.6], stretch=2000.0),
        target="Baby cry",
        threshold=0.5,
        seconds=7200.0,
    )
    silent = SimpleNamespace(**vars(found) | {"events": np.zeros((0, 3)), "seconds": 0.4, "file": Path("b.wav")})
    figure = plot_detections([found, silent])
    for panel, recording in zip(figure.axes, (found, silent), strict=True):
        assert panel.get_xlim() == (0, max(recording.seconds, found.envelope.stretch))
        curve, *_ = panel.patches
        assert curve.get_data().values.tolist() == found.envelope.peaks
        bars = [bar.get_paths()[0].get_extents() for bar in panel.collections]
        assert [[bar.x0, bar.x1] for bar in bars] == recording.events[:, :2].tolist()


def test_a_part_that_no_batch_has_is_drawn_as_none() -> None:
    """As in a plan with a strong share of 0."""
    counts = {"positive": 10, "weak": 30}
    (panel,) = plot_composition({"planned": counts, "served": counts}).axes
    assert [bar.get_width() for bar in panel.patches] == [30, 0, 0, 10] * 2


def test_one_epoch_of_mining_is_drawn_with_what_was_recorded_of_it() -> None:
    """Nothing was scored, and how much was served again is not known."""
    figure = plot_mining([{"epoch": 0, "scored": 0, "mean_score": None, "hard": 0, "quarantined": 0}])
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert len(labels) == 3
    assert not any("served again" in label for label in labels)
    assert png(figure)


def test_the_gain_of_an_encoder_is_shown_for_models_that_have_one() -> None:
    test = make_test(np.random.default_rng(0))
    assert encoder_share(test) == []
    rows = {"logmel_head": (0.456, 0.234), "mfcc_regression": (0.345, 0.345), "encoder_regression": (0.567, 0.123)}
    test |= {
        "encoder_gain": score(0.321, 0.05),
        "baselines": test["baselines"]
        | {who: {"average_precision": score(of, 0.02)} for who, (of, _) in rows.items()},
        "gains": test["gains"] | {who: score(gain, 0.05) for who, (_, gain) in rows.items()},
    }
    table, text = encoder_share(test)
    assert table.rows == [
        [name_of("logmel_head"), "0.456 [0.436, 0.476]", "0.234 [0.184, 0.284]"],
        [name_of("mfcc_regression"), "0.345 [0.325, 0.365]", "0.345 [0.295, 0.395]"],
        [name_of("encoder_regression"), "0.567 [0.547, 0.587]", "0.123 [0.073, 0.173]"],
        ["model", "0.720 [0.670, 0.770]", ""],
    ]
    assert "0.321 [0.271, 0.371]" in text
    page = report_files(make_facts() | {"test": test})["report.html"]
    assert page.count("0.234&nbsp;[0.184,&nbsp;0.284]") == 2  # in the verdict and in the table

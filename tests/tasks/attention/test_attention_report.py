"""The page, the card and the table of a model of attention: whole, escaped, and honest whatever the data are."""

import ast
import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

from tasks.attention.card import modalities_line, model_card, results_table, verdict_line
from tasks.attention.plots import WORST, plot_compared, plot_predicted, plot_removals, plot_residuals
from tasks.attention.report import report_files
from tests.helpers.facts import SCRIPT
from tests.helpers.facts.attention import MODALITIES, SIZES, make_facts, make_run
from tests.helpers.pages import assert_no_missing_value, without_images


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Those of a run, as they come back from metrics.json."""
    return json.loads(json.dumps(make_facts(), allow_nan=False))


@pytest.fixture(scope="module")
def predictions() -> pa.Table:
    """Those behind the facts."""
    return make_run()[1]


def test_the_page_has_all_that_an_honest_report_holds(facts: dict[str, Any], predictions: pa.Table) -> None:
    test = facts["test"]
    text = without_images(report_files(facts, {"seed": 0}, predictions)["report.html"])
    for said in (
        "<b>Verdict: better than mean and ridge on all</b>",
        "<td>mean</td><td>undefined (all predictions are equal)</td>",
        "<td>ridge on all</td>",
        "<td>text alone</td>",
        "<td>without video</td>",
        "<th>MAE (s)</th>",
        "<th>model&#x27;s gain in R2</th>",
        "<b>Modalities that matter: video (R2",
        "; text (R2",
        "Not shown to matter: audio (R2",
        "Not asked: back_audio.",
        f"Scored: 300 rows, all of this side: of them {test['lacking']['audio']} without audio",
        "Measured, in s: mean ",
        "the best on validation by spearman",
        "The test side was scored once",
        "intervals over creatives",
        "<th>without (back audio)</th>",
        "<td>61</td>",
        "<td>no label</td><td>7</td>",
        "<td>empty list of audio</td><td>3</td>",
        "ab" * 32,
    ):
        assert said in text, said


def test_a_constant_model_is_not_better_and_the_pages_say_why_scores_are_missing() -> None:
    record, predicted = make_run(constant=True)
    facts = make_facts(record)
    line = verdict_line(record)
    assert line.startswith("**Verdict: not shown to be better than mean and ridge on all** (R2 ")
    page, card = report_files(facts, {}, predicted)["report.html"], model_card(facts)
    for text in (without_images(page), card, results_table(record)):
        assert "undefined (all predictions are equal)" in text
        assert_no_missing_value(text)
    names = [result.metric_name for result in model_index_to_eval_results(
        yaml.safe_load(card.split("---\n")[1])["model-index"])[1]]  # fmt: skip
    assert names == ["R2", "MAE (s)", "RMSE (s)"]  # what is not defined has no number to give


def test_the_card_has_all_scores_and_no_creative(facts: dict[str, Any]) -> None:
    card = model_card(facts)
    front = yaml.safe_load(card.split("---\n")[1])
    results = model_index_to_eval_results(front["model-index"])[1]
    assert [result.metric_type for result in results] == ["spearmanr", "pearsonr", "r_squared", "mae", "rmse"]
    score = facts["test"]["scores"]["spearman"]
    assert results[0].metric_value == round(score["mean"], 4)
    assert results[0].metric_args == {"score": "spearman", "over": "creatives", "level": 0.95,
                                      "low": round(score["low"], 4), "high": round(score["high"], 4)}  # fmt: skip
    assert "multimodal" in front["tags"]
    assert "creative7" not in card
    assert "Left out: no label 7." in card
    assert "Train: 200 creatives, 0 without (text)" in card
    for baseline in facts["test"]["baselines"]:
        assert f"| {baseline} |" in card


def test_the_code_of_the_card_runs_and_gives_a_mask_for_every_embedding(
    facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given: dict[str, torch.Tensor] = {}

    class Model:
        def eval(self) -> "Model":
            return self

        def __call__(self, **batch: torch.Tensor) -> SimpleNamespace:
            given.update(batch)
            return SimpleNamespace(predictions=torch.zeros(1))

    def load(folder: str, trust_remote_code: bool) -> Model:
        assert folder == "tunein_attention"
        assert trust_remote_code
        return Model()

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", load)
    (code,) = re.findall(r"```python\n(.*?)```", model_card(facts), re.DOTALL)
    ast.parse(code)
    exec(code, {})
    assert {name: tuple(tensor.shape) for name, tensor in given.items() if name.endswith("embeddings")} == {
        f"{name}_embeddings": (1, 5, size) for name, size in SIZES.items()
    }
    assert all(given[f"{name}_mask"].dtype == torch.bool for name in MODALITIES)
    assert len(given) == 8
    assert capsys.readouterr().out == "[0.0]\n"


def test_without_ablations_the_pages_say_what_was_not_asked() -> None:
    record, predicted = make_run(ablated=False)
    files = report_files(make_facts(record), {}, predicted)
    assert "Which modalities matter was not asked" in files["report.html"]
    assert "figure_removals.png" not in files
    assert plot_removals(record) is None


def test_a_model_of_one_modality_and_a_side_that_it_knows_are_named_as_such(facts: dict[str, Any]) -> None:
    model = facts["model"] | {"modalities": ["text"], "embedding_sizes": {"text": 384}}
    test = facts["test"] | {"note": "The model was fitted on creatives that are scored here."}
    card = model_card(facts | {"model": model, "test": test})
    assert "multimodal" not in yaml.safe_load(card.split("---\n")[1])["tags"]
    assert "fusion:" not in card
    assert card.index("was fitted on creatives") < card.index("Verdict: ")


def test_one_creative_has_a_page_without_intervals() -> None:
    record, predicted = make_run(rows=1)
    page = without_images(report_files(make_facts(record), {}, predicted)["report.html"])
    assert "not shown to be better than mean and ridge on all (creatives: 1, fewer than 6)" in page
    assert "undefined (all targets are equal)" in page
    assert_no_missing_value(page)


def test_names_are_text_wherever_they_come_from(predictions: pa.Table) -> None:
    facts = make_facts()
    facts["name"] = facts["data"]["dataset"] = SCRIPT
    facts["data"]["notes"] = facts["data"]["left_out"] = {SCRIPT: 1}
    text = json.dumps(facts["test"]).replace("back_audio", f"$ {SCRIPT}").replace("text alone", SCRIPT)
    test = json.loads(text.replace('"unit": "s"', f'"unit": "$ {SCRIPT}"'))
    page = report_files(facts | {"test": test}, {"key": SCRIPT}, predictions)["report.html"]
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_what_matters_by_hand() -> None:
    """0.1 [0.05, 0.15] lies above 0, -0.01 [-0.02, 0.01] does not, and what has no interval says why."""
    lost = {"mean": 0.1, "low": 0.05, "high": 0.15, "undefined": 0, "reason": None}
    kept = lost | {"mean": -0.01, "low": -0.02, "high": 0.01}
    same = lost | {"mean": 0.0, "low": None, "high": None, "reason": "all resamples give 0"}
    differences = {"without a": {"r2": lost, "spearman": lost}, "without b": {"r2": kept, "spearman": same}}
    test = {
        "ablations": {who: {"difference": found} for who, found in differences.items()},
        "modalities": {"matter": ["a"], "not_shown": ["b"], "not_judged": ["c"], "by": {"a": ["r2"], "b": []},
                       "removals": {"a": "without a", "b": "without b", "c": None}, "score": "r2"},
    }  # fmt: skip
    assert modalities_line(test) == (
        "**Modalities that matter: a (R2 0.100 [0.050, 0.150] and Spearman 0.100 [0.050, 0.150] lost without it).** "
        "Not shown to matter: b (R2 -0.010 [-0.020, 0.010] and Spearman 0.000 (no interval: all resamples give 0) "
        "lost without it). Not asked: c."
    )


def test_figures_show_the_numbers_of_the_record(facts: dict[str, Any], predictions: pa.Table) -> None:
    test = facts["test"]
    targets, said = (predictions[column].to_numpy() for column in ("target", "prediction"))
    panel = plot_predicted(targets, said, "s").axes[0]
    assert np.array_equal(panel.collections[0].get_offsets(), np.column_stack([targets, said]))
    (line,) = panel.lines
    assert np.array_equal(line.get_xdata(), line.get_ydata())
    bars = [bar.get_width() for bar in plot_removals(test).axes[0].patches]
    assert bars == [found["difference"]["r2"]["mean"] for found in reversed(test["ablations"].values())]
    dots = [line.get_ydata()[0] for line in plot_residuals(test["residuals"], "s").axes[0].lines
            if line.get_marker() == "o"]  # fmt: skip
    assert dots == [part["residual"]["mean"] for part in test["residuals"]]
    panel = plot_compared(test).axes[0]
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == [*reversed(test["ablations"]), "ridge on all", "mean", "model"]
    worst = test["ablations"]["without video"]["scores"]["r2"]["mean"]
    assert worst < WORST == panel.get_xlim()[0]
    assert f" ← {worst:.2f}" in [text.get_text() for text in panel.texts]

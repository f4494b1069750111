"""Report, card, tables and figures of a model of attention on ordinary and on odd data."""

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

from tasks.attention.plots import WORST, plot_compared, plot_predicted, plot_removals, plot_residuals
from tasks.attention.results import modalities, results_table, score_table
from tests.helpers.facts import SCRIPT
from tests.helpers.facts.attention import MODALITIES, SIZES, make_facts, make_run
from tests.helpers.pages import assert_no_missing_value, model_card, report_files


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Those of a run, as they come back from metrics.json."""
    return json.loads(json.dumps(make_facts(), allow_nan=False))


@pytest.fixture(scope="module")
def predictions() -> pa.Table:
    """Those behind the facts."""
    return make_run()[1]


def test_a_constant_model_is_not_better_and_its_undefined_scores_have_a_reason() -> None:
    record, predicted = make_run(constant=True)
    facts = make_facts(record)
    assert [who for who in record["baselines"] if who in record["verdict"]["verdict"]] == ["mean", "ridge on all"]
    model = score_table(record).rows[0]
    assert model[1] == model[2] == f"undefined ({record['scores']['spearman']['reason']})"
    card = model_card(facts)
    for text in (report_files(facts, {}, predicted)["report.html"], card, results_table(record)):
        assert_no_missing_value(text)
    names = [result.metric_name for result in model_index_to_eval_results(
        yaml.safe_load(card.split("---\n")[1])["model-index"])[1]]  # fmt: skip
    assert names == ["R2", "MAE (s)", "RMSE (s)"]  # an undefined score has no number to give


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
    assert [row[0] for row in score_table(facts["test"]).rows[1:3]] == list(facts["test"]["baselines"])


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


def test_without_ablations_there_is_no_statement_on_modalities() -> None:
    record, predicted = make_run(ablated=False)
    files = report_files(make_facts(record), {}, predicted)
    assert record["modalities"]["by"] == {}
    assert not any(name in modalities(record) for name in MODALITIES)
    assert "figure_removals.png" not in files
    assert plot_removals(record) is None


def test_a_model_of_one_modality_has_no_fusion_and_a_note_comes_before_the_verdict(facts: dict[str, Any]) -> None:
    model = facts["model"] | {"modalities": ["text"], "embedding_sizes": {"text": 384}}
    test = facts["test"] | {"note": "note=1"}
    card = model_card(facts | {"model": model, "test": test})
    assert "multimodal" not in yaml.safe_load(card.split("---\n")[1])["tags"]
    assert "fusion:" not in card
    assert card.index("note=1") < card.index("Verdict")


def test_one_creative_has_a_page_without_intervals() -> None:
    record, predicted = make_run(rows=1)
    page = report_files(make_facts(record), {}, predicted)["report.html"]
    assert [cell for row in score_table(record).rows for cell in row if "[" in cell] == []
    assert record["scores"]["r2"]["mean"] is None
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
    """0.1 [0.05, 0.15] is above 0, -0.01 [-0.02, 0.01] does not, and a difference without an interval has a reason."""
    lost = {"mean": 0.1, "low": 0.05, "high": 0.15, "undefined": 0, "reason": None}
    kept = lost | {"mean": -0.01, "low": -0.02, "high": 0.01}
    same = lost | {"mean": 0.0, "low": None, "high": None, "reason": "all resamples give 0"}
    differences = {"without a": {"r2": lost, "spearman": lost}, "without b": {"r2": kept, "spearman": same}}
    test = {
        "ablations": {who: {"difference": found} for who, found in differences.items()},
        "modalities": {"matter": ["a"], "not_shown": ["b"], "not_judged": ["c"], "by": {"a": ["r2"], "b": []},
                       "removals": {"a": "without a", "b": "without b", "c": None}, "score": "r2"},
    }  # fmt: skip
    matters, *rest = modalities(test).split("**")[1:]
    assert re.findall(r"-?\d\.\d{3}", matters) == ["0.100", "0.050", "0.150"] * 2
    assert re.findall(r"-?\d\.\d{3}", rest[0]) == ["-0.010", "-0.020", "0.010", "0.000"]
    assert "all resamples give 0" in rest[0]
    assert [name for name in "abc" if re.search(rf"\b{name}\b", rest[0])] == ["b", "c"]


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

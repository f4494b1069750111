"""The table of a model of the attention that creatives get, and its card, from what a run recorded about itself."""

from typing import Any

from huggingface_hub import EvalResult

from reporting.card import (
    SCORED_ONCE,
    base,
    cell,
    chosen,
    compared_table,
    configuration,
    data_lines,
    eval_result,
    front_matter,
    no_interval,
    plain,
    rows_line,
    size,
    string,
    versions,
    warnings,
)
from system.text import plural

NAMES = {"spearman": "Spearman", "pearson": "Pearson", "r2": "R2", "mae": "MAE", "rmse": "RMSE"}
IN_UNIT = ("mae", "rmse")
HUB_NAMES = {"spearman": "spearmanr", "pearson": "pearsonr", "r2": "r_squared", "mae": "mae", "rmse": "rmse"}
SCORES_EXPLAINED = (
    "Spearman and Pearson tell whether creatives come in the right order and on a line; R2 tells the share of the "
    "measured variance that is explained, and is 0 for one who knew the mean of these very creatives; MAE and RMSE "
    "are errors in the target's unit. Brackets hold 95 % intervals over creatives; they tell what other creatives "
    "would change, not what another seed would. The last column is the model's R2 less that of the row, on the same "
    "creatives: above 0 the model is better. A constant has no correlation. The mean is that of training; ridge is a "
    "linear regression on embeddings averaged over time, its penalty chosen on validation. Rows below these are the "
    "same model with less to go by, as it was trained: one that was trained without a modality may do better."
)
LIMITS = (
    "The target is what was measured of these creatives, their audiences and their time; of others nothing was shown. "
    "The model reads embeddings, not creatives: only those of the very encoders that made the training data mean "
    "anything to it, and what these encoders leave out or judge by, it does too. Creatives of one brand or campaign "
    "may resemble each other and stand on both sides of the split, which makes scores and intervals look better than "
    "they are. That a modality matters to the model does not tell that changing it would change the attention: "
    "nothing here was an experiment. Of several modalities that do not matter, each has a small chance to be named."
)


def results_table(test: dict[str, Any]) -> str:
    """Scores as Markdown: what they come to, the table, and what has to be known to read it."""
    return "\n\n".join(
        [verdict_line(test), score_table(test), modalities_line(test), rows_line(test), level_line(test)]
    )


def conclusion(test: dict[str, Any]) -> str:
    """The score that the verdict is on, and the verdict."""
    score = test["verdict"]["score"]
    scored = f"{NAMES[score]} {cell(test['scores'][score], 3)} over {plural(test['rows'], 'creative')}"
    return f"{scored}; verdict: {test['verdict']['verdict']}"


def verdict_line(test: dict[str, Any]) -> str:
    """Whether the model beats each baseline, by the rule of the record: the interval of the difference."""
    verdict = test["verdict"]
    score = verdict["score"]
    said = [f"{NAMES[score]} {cell(test['scores'][score], 3)}"]
    for who, rival in test["baselines"].items():
        said.append(f"less that of {who} {no_interval(rival['difference'][score])}")
    return f"**Verdict: {verdict['verdict']}** ({'; '.join(said)})."


def score_table(test: dict[str, Any]) -> str:
    """A row the model, each baseline and each ablation; a column a score, and what the model has more."""
    columns = [
        (f"{heading} ({test['unit']})" if name in IN_UNIT else heading, name) for name, heading in NAMES.items()
    ]
    others = test["baselines"] | test["ablations"]
    gain = f"model's gain in {NAMES[test['verdict']['score']]}", test["verdict"]["score"]
    return compared_table(plural(test["rows"], "creative"), columns, test["scores"], others, gain)


def modalities_line(test: dict[str, Any]) -> str:
    """Which modalities the model loses by, and how much."""
    found = test["modalities"]
    if not found["by"]:
        return "Which modalities matter was not asked: the model was not scored without them."
    costs = {name: test["ablations"][found["removals"][name]]["difference"] for name in found["by"]}

    def lost(name: str) -> str:
        falls = [f"{NAMES[score]} {no_interval(costs[name][score])}" for score in (found["score"], "spearman")]
        return f"{name} ({' and '.join(falls)} lost without it)"

    matter = "; ".join(lost(name) for name in found["matter"])
    line = f"**Modalities that matter: {matter}.**" if matter else "**No modality was shown to matter.**"
    if found["not_shown"]:
        line += f" Not shown to matter: {'; '.join(lost(name) for name in found['not_shown'])}."
    if found["not_judged"]:
        line += f" Not asked: {', '.join(found['not_judged'])}."
    return line


def level_line(test: dict[str, Any]) -> str:
    """Where targets and predictions lie: a model that is unsure stays near the mean."""
    measured, said = (
        f"{part['mean']:.3g}, standard deviation {part['std']:.3g}, from {part['lowest']:.3g} to {part['highest']:.3g}"
        for part in (test["targets"], test["predictions"])
    )
    return f"Measured, in {test['unit']}: mean {measured}. Predicted: mean {said}."


def about(test: dict[str, Any]) -> str:
    """What was scored, in a line."""
    return f"{plural(test['rows'], 'creative')}, their attention in {test['unit']}"


def notices(facts: dict[str, Any]) -> list[str]:
    """What a reader has to know before any score."""
    note = facts["test"].get("note")
    return [*warnings(facts, "creatives"), *([note] if note else [])]


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of a saved model: metadata for the Hub, scores beside baselines, limits, and how to use it."""
    test, training = facts["test"], facts["training"]
    modalities = [name.replace("_", " ") for name in facts["model"]["modalities"]]
    fusion = f" (fusion: {facts['model']['fusion']})" if len(modalities) > 1 else ""
    tags = ["regression", "attention-prediction", "embeddings", *(["multimodal"] if len(modalities) > 1 else [])]
    sections = [
        front_matter(facts, tags, results=eval_results(facts)),
        f"# {plain(facts['name'])}",
        *notices(facts),
        f"Predicts the attention that a creative gets, in {test['unit']}, from stored embeddings of its "
        f"{', '.join(modalities)}{fusion}. Any of these may be missing.",
        "## Scores",
        f"On the test side: {about(test)}. {SCORES_EXPLAINED}",
        results_table(test),
        f"The rules: {test['verdict']['rule']}; {test['modalities']['rule']}.",
        "![R2 of the model, of its baselines, and with less to go by](figure_compared.png)",
        "`report.html`, which stays with the run, has more figures, the learning curves and every setting.",
        "## Data",
        *data_lines(facts),
        "## Use",
        usage(facts),
        "## Training",
        f"{plural(training['steps'], 'step')}; {chosen(training)}. {SCORED_ONCE} {size(facts)}.{base(facts)}",
        configuration(facts),
        "## Limits",
        LIMITS,
        versions(facts),
    ]
    return "\n\n".join(sections) + "\n"


def eval_results(facts: dict[str, Any]) -> list[EvalResult]:
    """The scores as the Hub reads them, each with its interval; one that is not defined has no place there."""
    test = facts["test"]
    task = "multimodal-regression", "attention of creatives"
    return [
        eval_result(
            facts, task, (HUB_NAMES[name], f"{heading} ({test['unit']})" if name in IN_UNIT else heading),
            test["scores"][name], {"score": name, "over": "creatives"},
        )
        for name, heading in NAMES.items()
        if test["scores"][name]["mean"] is not None
    ]  # fmt: skip


def usage(facts: dict[str, Any]) -> str:
    """How to load the model where nothing of this project is installed."""
    sizes = {name: facts["model"]["embedding_sizes"][name] for name in facts["model"]["modalities"]}
    return f"""```python
import torch
from transformers import AutoModel

folder = {string(facts["name"])}  # this folder, or its name on the Hub
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
sizes = {sizes}  # numbers a frame
batch, frames = {{}}, 5
for name, size in sizes.items():
    batch[f"{{name}}_embeddings"] = torch.randn(1, frames, size)  # (creatives, frames, size): put yours here
    batch[f"{{name}}_mask"] = torch.ones(1, frames, dtype=torch.bool)  # false: no frame; all false: nothing is there
with torch.no_grad():
    predictions = model(**batch).predictions  # (creatives,), in {facts["test"]["unit"]}
print(predictions.tolist())
```"""

"""The card of a trained model and the table of its scores, made from what a run recorded about itself."""

import json
from typing import Any

SYNTHETIC_NOTICE = (
    "**SYNTHETIC DATA.** This model was trained and scored on signals that a program made. "
    "Its scores show that the software works; they say nothing about people or music."
)
SCORES = ("rmse", "mae", "pearson", "ccc")  # columns of the table, in its order


def results_table(results: dict[str, Any]) -> str:
    """Scores as a Markdown table: the model and its baselines, a row for each channel of the target."""
    lines = [
        f"| {results['trials']} trials | target | RMSE ({results['unit']}) | MAE ({results['unit']}) | r | CCC |",
        "|---|---|---|---|---|---|",
    ]
    for who, channels in {"model": results["model"], **results["baselines"]}.items():
        for channel, scores in channels.items():
            cells = " | ".join(score_cell(scores[name]) for name in SCORES)
            lines.append(f"| {who.replace('_', ' ')} | {channel} | {cells} |")
    return "\n".join(lines)


def score_cell(score: dict[str, float | int | None]) -> str:
    """A mean, and of how many trials it could not be taken."""
    if score["mean"] is None:
        return "undefined"
    undefined = f" ({score['undefined']} undefined)" if score["undefined"] else ""
    return f"{score['mean']:z.3f}{undefined}"


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of a saved model: metadata for the Hub, scores beside baselines, limits, and how to use it."""
    data, test, training = facts["data"], facts["test"], facts["training"]
    notices = [notice for notice in (SYNTHETIC_NOTICE if data["synthetic"] else None, warning(data)) if notice]
    counts = {name: f"{side['trials']} trials of {side['songs']} songs" for name, side in data["sides"].items()}
    model = {key: value for key, value in facts["model"].items() if key not in ("target_scaling", "auto_map")}
    sections = [
        front_matter(facts),
        f"# {facts['name']}",
        *notices,
        f"Predicts {', '.join(test['model'])} skin conductance in {test['unit']} from sound, "
        f"{facts['model']['frame_rate']:g} values a second.",
        "## Scores",
        f"On the test side of the split ({test['trials']} trials, {test['songs']} songs, {test['listeners']} "
        "listeners), per trial and then averaged. The baseline is the mean of the training data: it hears nothing.",
        results_table(test),
        "## Data",
        f"`{data['dataset']}` ({data['config']}): training {counts['train']}, validation {counts['validation']}, "
        f"test {counts['test']}. Split by {facts['split']['split_by']}, seed {facts['split']['split_seed']}, "
        f"SHA-256 `{facts['split']['sha256'][:16]}`.",
        f"Left out: songs: {counted(data['songs_left_out'])}; trials: {counted(data['trials_rejected'])}; "
        f"trials between sides: {data['trials_between_sides']}.",
        "## Use",
        usage(facts),
        "## Training",
        f"{training['steps']} steps; {chosen(training)}. {facts['parameters']:,} parameters, "
        f"receptive field {facts['receptive_field_seconds']:.1f} s.{base(facts)}",
        f"```json\n{json.dumps(model, indent=2)}\n```",
        "## Limits",
        "Skin conductance has many causes beside sound, and slow drifts correlate with each other by themselves. "
        "A score near that of a model that hears nothing is no evidence of an effect. "
        "Values are those of the listeners, devices and rooms of the training data.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + ".",
    ]
    return "\n\n".join(sections) + "\n"


def counted(reasons: dict[str, int]) -> str:
    """What was left out, with its count: "flat 3, too_short 1"."""
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "none"


def chosen(training: dict[str, Any]) -> str:
    """How the checkpoint was chosen."""
    step = training["best_checkpoint_step"]
    return f"checkpoint of step {step} chosen by validation {training['chosen_by']}" if step else "the last one kept"


def base(facts: dict[str, Any]) -> str:
    """What a fine-tuned model went on from, with a warning where it knew the test."""
    if not facts["base"]:
        return ""
    known = facts["base"]["test_trials_it_was_trained_on"]
    leak = f" **WARNING.** {known} of the test trials were in its training data." if known else ""
    return f" Fine-tuned from `{facts['base']['model']}`.{leak}"


def warning(data: dict[str, Any]) -> str | None:
    """The warning of a split that leaks."""
    return f"**WARNING.** {data['split_warning']}." if data["split_warning"] else None


def front_matter(facts: dict[str, Any]) -> str:
    """The card's metadata."""
    tags = ["audio", "skin-conductance", "electrodermal-activity", facts["model"]["model_type"]]
    tags += ["synthetic-data"] if facts["data"]["synthetic"] else []
    listed = "\n".join(f"- {tag}" for tag in tags)
    fields = [
        "library_name: transformers",
        "license: other",
        "license_name: data-of-the-training-set",
        "tags:",
        listed,
    ]
    return "\n".join(["---", *fields, "---"])


def usage(facts: dict[str, Any]) -> str:
    """How to load the model where nothing of this project is installed."""
    return f'''```python
import librosa
from transformers import AutoFeatureExtractor, AutoModel

folder = "{facts["name"]}"  # this folder, or its name on the Hub
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
sound, _ = librosa.load("song.mp3", sr=extractor.sampling_rate)
batch = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")
predictions = model(**batch).predictions[0]  # (frames, channels), scaled as the training was
scaling = model.config.target_scaling  # of everyone; scaling["listeners"] holds each listener's own, if there are any
values = predictions.detach().numpy() * scaling["scale"] + scaling["offset"]  # in {facts["test"]["unit"]}
```'''

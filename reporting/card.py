"""The card of a trained model and the table of its scores, made from what a run recorded about itself."""

import json
from collections.abc import Sequence
from typing import Any

SYNTHETIC_NOTICE = (
    "**SYNTHETIC DATA.** This model was trained and scored on signals that a program made. "
    "Its scores show that the software works; they say nothing about people, music or recorded sound."
)
SCORES_EXPLAINED = (
    "Scores are taken within each trial and averaged over trials; brackets hold 95 % intervals over songs and "
    "listeners. Training mean, straight line and time curve hear nothing; loudness and ridge are linear in what "
    "anyone can name; others, the mean of who else heard the song, is an oracle."
)
LIMITS = (
    "Skin conductance has many causes beside sound, and slow drifts correlate with each other by themselves. "
    "A score near that of a model that hears nothing is no evidence of an effect. "
    "Values are those of the listeners, devices and rooms of the training data."
)
# Columns of the table: their heading (with the unit where there is one), the score, its decimals.
SCORES = (("RMSE ({unit})", "rmse"), ("r", "pearson"), ("CCC", "ccc"), ("r, detrended", "detrended_pearson"))
ORACLES = ("others",)  # baselines that know what no model can


def results_table(results: dict[str, Any]) -> str:
    """Scores as Markdown: for each channel the model, its baselines, its null, its ceiling, and the verdict."""
    tables = [channel_table(results, name, channel) for name, channel in results["channels"].items()]
    return "\n\n".join([*tables, results["note"]] if results["note"] else tables)


def channel_table(results: dict[str, Any], name: str, channel: dict[str, Any]) -> str:
    """The table of one channel; brackets hold 95 % intervals."""
    headings = [heading.format(unit=results["unit"]) for heading, _ in SCORES]
    lines = [f"| {name}, {results['trials']} trials | {' | '.join(headings)} |", "|---" * (len(SCORES) + 1) + "|"]
    for who, scores in {"model": channel["model"], **channel["baselines"]}.items():
        label = f"{who.replace('_', ' ')}{' (oracle)' if who in ORACLES else ''}"
        lines.append(f"| {label} | {' | '.join(score_cell(scores[score]) for _, score in SCORES)} |")
    null, gain, found = channel["null"], channel["gain"], channel["ceiling"]
    half = "undefined" if found["split_half"] is None else f"{found['split_half']:z.2f}"
    facts = [
        f"Gain over the best that hears no music ({gain['over'].replace('_', ' ')}), r after detrending: "
        f"{score_cell(gain)}.",
        null_line(null),
        f"Ceiling: a listener against the song's others {score_cell(found['leave_one_out'])}; "
        f"split-half reliability {half} ({found['split_half_songs']} songs).",
        verdict_line(channel["verdict"]),
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(facts)


def null_line(null: dict[str, Any] | None) -> str:
    """The score with the wrong sound beside that with the right one."""
    if null is None:
        return "With the wrong song: no trial has a frame to score."
    if null["score_of_wrong"] is None:
        return "With the wrong song: there is no other song to take."
    return (
        f"With the wrong song of about the same length: {null['score_of_wrong']:z.3f} against {null['score']:z.3f}, "
        f"p = {null['p']:.3f} of {null['permutations']} permutations."
    )


def verdict_line(verdict: dict[str, Any]) -> str:
    """The verdict, and what was missing for an effect."""
    missing = f" ({'; '.join(verdict['missing'])})" if verdict["missing"] else ""
    return f"**Verdict: {verdict['verdict']}**{missing}."


def score_cell(score: dict[str, Any], decimals: int = 3) -> str:
    """A mean with its interval, and of how many trials (or resamples) it could not be taken."""
    if score["mean"] is None:
        return "undefined"
    shape = f"z.{decimals}f"
    interval = "" if score["low"] is None else f" [{score['low']:{shape}}, {score['high']:{shape}}]"
    undefined = f" ({score['undefined']} undefined)" if score["undefined"] else ""
    return f"{score['mean']:{shape}}{interval}{undefined}"


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of a saved model: metadata for the Hub, scores beside baselines, limits, and how to use it."""
    data, test, training = facts["data"], facts["test"], facts["training"]
    counts = {name: f"{side['trials']} trials of {side['songs']} songs" for name, side in data["sides"].items()}
    first = list(test["channels"])[:1]  # one picture; the report has the others
    sections = [
        front_matter(facts, ["audio", "skin-conductance", "electrodermal-activity"]),
        f"# {facts['name']}",
        *warnings(facts),
        f"Predicts {', '.join(test['channels'])} skin conductance in {test['unit']} from sound, "
        f"{facts['model']['frame_rate']:g} values a second.",
        "## Scores",
        f"On the test side of the split: {test['trials']} trials, {test['songs']} songs, {test['listeners']} "
        f"listeners. {SCORES_EXPLAINED}",
        results_table(test),
        f"The rule: {next(iter(test['channels'].values()))['verdict']['rule']}.",
        *(f"![{name}: r after detrending, beside baselines and ceiling](figure_scores_{name}.png)" for name in first),
        "`report.html`, which stays with the run, has the learning curves, examples and every setting.",
        "## Data",
        f"`{data['dataset']}` ({data['config']}): training {counts['train']}, validation {counts['validation']}, "
        f"test {counts['test']}. Split by {facts['split']['split_by']}, seed {facts['split']['split_seed']}, "
        f"SHA-256 `{facts['split']['sha256'][:16]}`.",
        f"Left out: songs: {counted(data['songs_left_out'])}; trials: {counted(data['trials_rejected'])}; "
        f"trials between sides: {data['trials_between_sides']}.",
        "## Use",
        usage(facts),
        "## Training",
        f"{training['steps']} steps; {chosen(training)}. {size(facts)}.{base(facts)}",
        configuration(facts),
        "## Limits",
        LIMITS,
        versions(facts),
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
    """What a fine-tuned model went on from."""
    return f" Fine-tuned from `{facts['base']['model']}`." if facts["base"] else ""


def size(facts: dict[str, Any]) -> str:
    """Parameters, and the receptive field of a model that has one."""
    field = facts["receptive_field_seconds"]
    return f"{facts['parameters']:,} parameters" + ("" if field is None else f", receptive field {field:.1f} s")


def configuration(facts: dict[str, Any]) -> str:
    """The model's settings, without those that are for programs."""
    model = {key: value for key, value in facts["model"].items() if key not in ("target_scaling", "auto_map")}
    return f"```json\n{json.dumps(model, indent=2)}\n```"


def versions(facts: dict[str, Any]) -> str:
    """What the result depends on beside settings and data."""
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + "."


def warnings(facts: dict[str, Any], items: str = "trials") -> list[str]:
    """What a reader has to know before any score: data made by a program, a split that leaks, a control, a base that
    knew the test, or may have known it.
    """
    data, base = facts["data"], facts.get("base")
    found = [data["split_warning"], data["control"]]
    known = base["test_trials_it_was_trained_on"] if base else 0
    if known is None:
        found.append(f"what {base['model']} was trained on is not known here: it may have met the test {items}")
    elif known:
        found.append(f"{known} of the test {items} were in its training data, by way of {base['model']}")
    synthetic = [SYNTHETIC_NOTICE] if data["synthetic"] else []
    return [*synthetic, *(f"**WARNING.** {text[0].upper()}{text[1:]}." for text in found if text)]


def front_matter(facts: dict[str, Any], tags: Sequence[str], pipeline: str | None = None) -> str:
    """The card's metadata; `pipeline` is what the Hub calls the task, where it has a name for it."""
    tags = [*tags, facts["model"]["model_type"], *(["synthetic-data"] if facts["data"]["synthetic"] else [])]
    listed = "\n".join(f"- {tag}" for tag in tags)
    fields = [
        "library_name: transformers",
        *([f"pipeline_tag: {pipeline}"] if pipeline else []),
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

"""Model card and results table of the eda task."""

from typing import Any

from huggingface_hub import EvalResult

from reporting.card import (
    LICENCE,
    base,
    chosen,
    code,
    configuration,
    counted,
    eval_result,
    front_matter,
    plain,
    score_cell,
    size,
    string,
    versions,
    warnings,
)
from system.text import plural

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
HUB_NAMES = {"rmse": "rmse", "pearson": "pearsonr", "ccc": "ccc", "detrended_pearson": "pearsonr"}


ORACLES = ("others",)  # baselines that know what no model can


def results_table(results: dict[str, Any]) -> str:
    """Scores as Markdown: for each channel the model, its baselines, its null, its ceiling, and the verdict."""
    tables = [channel_table(results, name, channel) for name, channel in results["channels"].items()]
    return "\n\n".join([*tables, results["note"]] if results["note"] else tables)


def conclusion(results: dict[str, Any]) -> str:
    """The score that the verdict is on, and the verdict, of each channel."""
    trials = plural(results["trials"], "trial")
    return "\n".join(
        f"{name}: r after detrending {score_cell(channel['model']['detrended_pearson'])} over {trials}, "
        f"{score_cell(channel['gain'])} above {channel['gain']['over'].replace('_', ' ')}; "
        f"verdict: {channel['verdict']['verdict']}"
        for name, channel in results["channels"].items()
    )


def channel_table(results: dict[str, Any], name: str, channel: dict[str, Any]) -> str:
    """The table of one channel; brackets hold 95 % intervals."""
    headings = [heading.format(unit=results["unit"]) for heading, _ in SCORES]
    first = f"{name}, {plural(results['trials'], 'trial')}"
    lines = [f"| {first} | {' | '.join(headings)} |", "|---" * (len(SCORES) + 1) + "|"]
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
        f"split-half reliability {half} ({plural(found['split_half_songs'], 'song')}).",
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


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of a saved model: metadata for the Hub, scores beside baselines, limits, and how to use it."""
    data, test, training = facts["data"], facts["test"], facts["training"]
    counts = {
        name: f"{plural(side['trials'], 'trial')} of {plural(side['songs'], 'song')}"
        for name, side in data["sides"].items()
    }
    first = list(test["channels"])[:1]  # one picture; the report has the others
    sections = [
        front_matter(facts, ["audio", "skin-conductance", "electrodermal-activity"], results=eval_results(facts)),
        f"# {plain(facts['name'])}",
        *warnings(facts),
        f"Predicts {', '.join(test['channels'])} skin conductance in {test['unit']} from sound, "
        f"{facts['model']['frame_rate']:g} values a second.",
        "## Scores",
        f"On the test side of the split: {plural(test['trials'], 'trial')}, {plural(test['songs'], 'song')}, "
        f"{plural(test['listeners'], 'listener')}. {SCORES_EXPLAINED}",
        results_table(test),
        f"The rule: {next(iter(test['channels'].values()))['verdict']['rule']}.",
        *(f"![{name}: r after detrending, beside baselines and ceiling](figure_scores_{name}.png)" for name in first),
        "`report.html`, which stays with the run, has the learning curves, examples and every setting.",
        "## Data",
        f"{code(data['dataset'])} ({plain(data['config'])}): training {counts['train']}, "
        f"validation {counts['validation']}, test {counts['test']}. Split by {facts['split']['split_by']}, "
        f"seed {facts['split']['split_seed']}, SHA-256 `{facts['split']['sha256'][:16]}`.",
        f"Left out: songs: {counted(data['songs_left_out'])}; trials: {counted(data['trials_rejected'])}; "
        f"trials between sides: {data['trials_between_sides']}.",
        LICENCE,
        "## Use",
        usage(facts),
        "## Training",
        f"{plural(training['steps'], 'step')}; {chosen(training)}. {size(facts)}.{base(facts)}",
        configuration(facts),
        "## Limits",
        LIMITS,
        versions(facts),
    ]
    return "\n\n".join(sections) + "\n"


def eval_results(facts: dict[str, Any]) -> list[EvalResult]:
    """The scores as the Hub reads them, each with its interval; one that is not defined has no place there."""
    task, test, found = ("time-series-forecasting", "skin conductance from sound"), facts["test"], []
    for channel, results in test["channels"].items():
        told = {"channel": channel, "over": results["interval_over"], "verdict": results["verdict"]["verdict"]}
        for heading, name in SCORES:
            metric, score = (HUB_NAMES[name], f"{channel} {heading.format(unit=test['unit'])}"), results["model"][name]
            if score["mean"] is not None:
                found.append(eval_result(facts, task, metric, score, told | {"score": name}))
    return found


def usage(facts: dict[str, Any]) -> str:
    """How to load the model where nothing of this project is installed."""
    call = f'pipeline("audio-to-signal", model={string(facts["name"])}, trust_remote_code=True)("song.mp3")'
    return f"""```python
import librosa
from transformers import AutoFeatureExtractor, AutoModel

folder = {string(facts["name"])}  # this folder, or its name on the Hub
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
sound, _ = librosa.load("song.mp3", sr=extractor.sampling_rate)
batch = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")
predictions = model(**batch).predictions[0]  # (frames, channels), scaled as the training was
scaling = model.config.target_scaling  # of everyone; scaling["listeners"] holds each listener's own, if there are any
values = predictions.detach().numpy() * scaling["scale"] + scaling["offset"]  # in {facts["test"]["unit"]}
```

In one call: {code(call)}."""

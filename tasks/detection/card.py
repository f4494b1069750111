"""The table of a detector's scores and its card, made from what a run recorded about itself."""

import shlex
from typing import Any

from huggingface_hub import EvalResult

from evaluation.verdict import SURE
from reporting.card import (
    LICENCE,
    base,
    cell,
    chosen,
    code,
    configuration,
    eval_result,
    flat,
    front_matter,
    in_words,
    no_interval,
    number,
    plain,
    size,
    string,
    versions,
    warnings,
)
from system.text import plural

# Rows of the table: heading, score, decimals.
SCORES = (
    ("average precision", "average_precision", 3),
    ("ROC-AUC", "roc_auc", 3),
    ("d'", "d_prime", 2),
    ("recall at 1 false alarm an hour", "recall_at_1_per_hour", 3),
    ("recall at 10 false alarms an hour", "recall_at_10_per_hour", 3),
    ("recall at 60 false alarms an hour", "recall_at_60_per_hour", 3),
    ("false alarms an hour at 90 % recall", "false_alarms_at_recall", 2),
    ("at the threshold: recall", "recall", 3),
    ("at the threshold: precision", "precision", 3),
    ("at the threshold: F1", "f1", 3),
    ("at the threshold: false alarms an hour", "false_alarms_per_hour", 2),
    ("at the threshold: F1 of events", "event_f1", 3),
)
SCORES_EXPLAINED = (
    "A clip's score is the highest of its windows. Average precision, ROC-AUC and d' (the distance of two normal "
    "distributions with this ROC-AUC) rank clips. Recall at so many false alarms an hour is that of the lowest "
    "threshold that keeps to them on these very clips; the rows at the threshold use the one that validation chose. "
    "A false alarm is an event that is detected in a clip without the target. F1 of events pairs detected and true "
    "ones by onset and offset, in clips whose events are all known; others are undefined. Brackets hold 95 % "
    "intervals over recordings (over clips where no groups are given). Chance says yes blindly, so its average "
    "precision is the share of positives; loudness takes the level of the sound for a score; MFCC + logistic "
    "regression is fitted on means and deviations of MFCCs of training windows, and scores the same windows."
)
NAMES = {  # of baselines, where the record's name is none
    "mfcc_regression": "MFCC + logistic regression",
    "logmel_head": "same head on log-mel",
    "encoder_regression": "frozen encoder + logistic regression",
}
RULE = (
    "better than a baseline is a model whose average precision minus that of the baseline, on the same resamples of "
    "recordings, has an interval above 0; better than chance is one whose interval is above the share of positives. "
    f"Where all resamples agree, the one-sided p of permuting whole recordings has to be below {SURE:.3g}"
)
LIMITS = (
    "AudioSet's labels are weak: they say that a sound is somewhere in a clip, and many sounds that are there have no "
    "label. Some false alarms are therefore right, and some negatives of training hold the target; clips with a label "
    "under which the target may be heard are left out of training and scores, so mistakes there are not counted. "
    "Sounds that resemble the target (its siblings in the ontology) stay among the negatives: the table of false "
    "alarms tells which of them fire. Clips are excerpts that people found worth a label: an hour of them has more, "
    "and more varied, sounds than an hour of a room, and positives are more frequent, so precision and false alarms "
    "an hour will differ where the model listens all day. Choose the threshold again on recordings of that place. "
    "AudioSet's labels are CC BY 4.0 and its ontology CC BY-SA 4.0 (Google); the audio belongs to those who made the "
    "videos and may not be redistributed."
)


def results_table(test: dict[str, Any]) -> str:
    """Scores as Markdown: what they come to, then model and baselines side by side."""
    blocks = [verdict_line(test), operating_line(test), score_table(test), *remarks(test), *encoder_share(test)]
    return "\n\n".join(blocks)


def score_table(test: dict[str, Any]) -> str:
    """A row a score, a column the model and each baseline; brackets hold 95 % intervals."""
    columns = {"model": test["scores"], **test["baselines"]}
    lines = [
        f"| {plural(test['clips'], 'clip')}, {test['positives']:,} with the target | "
        f"{' | '.join(map(name_of, columns))} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for heading, score, decimals in SCORES:
        if any(score in scores for scores in columns.values()):
            cells = (cell(scores.get(score), decimals) for scores in columns.values())
            lines.append(f"| {heading} | {' | '.join(cells)} |")
    return "\n".join(lines)


def name_of(baseline: str) -> str:
    """A baseline in words."""
    return NAMES.get(baseline, baseline.replace("_", " "))


def is_beaten(test: dict[str, Any], baseline: str) -> bool:
    """Whether the model is better than a baseline, by RULE."""
    p = (test.get("permutation_p") or {}).get(baseline)  # records of older versions have neither
    gain = (test.get("gains") or {}).get(baseline)
    if p is not None:
        return p < SURE
    if gain is not None:
        return gain["low"] is not None and gain["low"] > 0
    found, rival = test["scores"]["average_precision"], test["baselines"][baseline]["average_precision"]
    bound = rival["mean"] if rival["high"] is None else rival["high"]
    return found["low"] is not None and found["low"] > bound


def conclusion(test: dict[str, Any]) -> str:
    """Average precision and the verdict."""
    scored = f"average precision {cell(test['scores']['average_precision'], 3)} over {plural(test['clips'], 'clip')}"
    return f"{scored}; verdict: {verdict_of(test)}"


def verdict_of(test: dict[str, Any]) -> str:
    """The baselines that are beaten, and those that are not."""
    if test["scores"]["average_precision"]["mean"] is None:
        return "not measured"
    rivals = rivals_of(test)
    beaten = [name_of(who) for who in rivals if is_beaten(test, who)]
    unbeaten = [name_of(who) for who in rivals if not is_beaten(test, who)]
    said = [f"better than {' and '.join(beaten)}"] if beaten else []
    said += [f"not shown to be better than {' and '.join(unbeaten)}"] if unbeaten else []
    return ", ".join(said) or "compared with nothing"


def rivals_of(test: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The average precision of each baseline that has one."""
    return {
        who: scores["average_precision"]
        for who, scores in test["baselines"].items()
        if "average_precision" in scores and scores["average_precision"]["mean"] is not None
    }


def verdict_line(test: dict[str, Any]) -> str:
    """Whether average precision is above what hears nothing and what hears only loudness, and by how much."""
    found = test["scores"]["average_precision"]
    if found["mean"] is None:
        return f"**Verdict: not measured** (average precision is undefined: {found['reason']})."
    rivals = rivals_of(test)
    said = f"average precision {cell(found, 3)}"
    gains, p = test.get("gains") or {}, test.get("permutation_p") or {}
    for who, score in rivals.items():
        said += f"; {name_of(who)} {cell(score, 3)}"
        said += f", gain {cell(gains[who], 3)}" if who in gains else ""
        said += f", permutation p {p[who]:.2g}" if who in p else ""
    said += "" if found["low"] is not None or not rivals else f"; no interval: {found['reason']}"
    left_out = "".join(
        f" Not compared with {name_of(who)}: {why}." for who, why in (test.get("baselines_left_out") or {}).items()
    )
    return f"**Verdict: {verdict_of(test)}** ({said}).{left_out}"


def operating_line(test: dict[str, Any]) -> str:
    """What happens at the threshold that validation chose, in the units of a person who is to live with it."""
    threshold, scores = test["threshold"], test["scores"]
    if threshold["value"] is None:
        return f"No threshold could be chosen on {threshold['chosen_on']} (rule: {threshold['rule']})."
    return (
        f"At the threshold {threshold['value']:.3g}, chosen on {threshold['chosen_on']} (rule: {threshold['rule']}): "
        f"recall {cell(scores.get('recall'), 3) or 'undefined'}, "
        f"{cell(scores.get('false_alarms_per_hour'), 2) or 'undefined'} false alarms an hour in "
        f"{number(test['hours_of_negatives'])} hours without the target."
    )


def remarks(test: dict[str, Any]) -> list[str]:
    """What has to be known to read the table."""
    found = []
    at_recall, hours = test["false_alarms_at_recall"], test["hours_of_negatives"]
    if at_recall and at_recall["per_hour"] is not None and "false_alarms_at_recall" not in test["scores"]:
        found.append(
            f"For {100 * at_recall['recall']:g} % recall on these clips: {at_recall['per_hour']:.1f} false alarms an "
            "hour."
        )
    if 0 < hours < 1:
        found.append(
            f"One false alarm in {number(hours)} hours is {1 / hours:,.1f} an hour: recall at fewer is recall at none."
        )
    return [*found, *([test["note"]] if test["note"] else [])]


def encoder_share(test: dict[str, Any]) -> list[str]:
    """What a pretrained encoder bought: the model next to what is trained without it, and next to it alone."""
    gain = test.get("encoder_gain")
    if gain is None:
        return []
    lines = ["| what the encoder bought | average precision | model minus this |", "|---|---|---|"]
    for who in ("logmel_head", "mfcc_regression", "encoder_regression"):
        if who in test["baselines"]:  # records of older versions lack the head
            score, difference = test["baselines"][who]["average_precision"], test["gains"][who]
            lines.append(f"| {name_of(who)} | {cell(score, 3)} | {no_interval(difference)} |")
    lines.append(f"| model | {cell(test['scores']['average_precision'], 3)} | |")
    return [
        "\n".join(lines),
        "Differences are on the same resamples of recordings. Same head on log-mel is a new head as the model has, "
        "trained on the mean log-mel spectra of the same windows and of their parts; it uses no encoder. Under "
        f"logistic regression alone, the encoder's embeddings have {no_interval(gain)} more average precision than "
        "MFCCs. That recordings of the test were among those that the encoder was trained on was not ruled out.",
    ]


def target_names(test: dict[str, Any]) -> str:
    """What is detected: names, with MIDs."""
    return " or ".join(f"{label['name']} ({label['mid']})" for label in test["target"])


def about(test: dict[str, Any]) -> str:
    """What was scored, in a line."""
    lost = [
        f"{test[kind]:,} {what}"
        for kind, what in (
            ("ambiguous", "with a label under which it may be heard are left out"),
            ("unreadable", "could not be read"),
        )
        if test[kind]
    ]
    return (
        f"{plural(test['clips'], 'clip')}, {test['positives']:,} with {target_names(test)}, "
        f"{test['negatives']:,} without it ({number(test['hours_of_negatives'])} hours)"
        + "".join(f"; {text}" for text in lost)
    )


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of a saved detector: metadata for the Hub, scores beside baselines, limits, and how to use it."""
    data, test, training = facts["data"], facts["test"], facts["training"]
    picture = "![Precision against recall of the model, its baselines and chance](figure_precision_recall.png)"
    sections = [
        front_matter(
            facts,
            ["audio-classification", "sound-event-detection", "audioset"],
            "audio-classification",
            eval_results(facts),
        ),
        f"# {plain(facts['name'])}",
        *warnings(facts, "clips"),
        f"Detects {target_names(test)} in sound: a score from 0 to 1 for each "
        f"{facts['model']['detection']['clip_seconds']:g} s.",
        "## Scores",
        f"On the test side: {about(test)}. {SCORES_EXPLAINED}",
        results_table(test),
        f"The rule: {RULE}.",
        *([picture] if test["curve"] and test["curve"]["recall"] else []),
        "`report.html`, which stays with the run, has more: false alarms by label, timelines of some clips, what was "
        "served in training, and every setting.",
        "## Data",
        f"{code(data['dataset'])} ({plain(data['config'])}). "
        + " ".join(f"{name.capitalize()}: {in_words(side)}." for name, side in data["sides"].items())
        + f" SHA-256 of the split `{facts['split']['sha256'][:16]}`.",
        f"Clips, and windows that can be drawn: {in_words(flat(data['clips']))}. Clips left out by each rule in turn: "
        f"{'; '.join(ruled(rule) for rule in data['rules']) or 'none'}.",
        LICENCE,
        "## Use",
        usage(facts),
        "## Training",
        f"{plural(training['steps'], 'step')}; {chosen(training)}. {size(facts)}.{base(facts)} {mined(training)}",
        configuration(facts),
        "## Limits",
        LIMITS,
        versions(facts),
    ]
    return "\n\n".join(sections) + "\n"


def eval_results(facts: dict[str, Any]) -> list[EvalResult]:
    """The scores as the Hub reads them, each with its interval; one that is not defined has no place there."""
    test, task = facts["test"], ("audio-classification", "sound detection")
    return [
        eval_result(facts, task, (score, heading), test["scores"][score], {"score": score, "over": "clips"})
        for heading, score, _ in SCORES
        if score in test["scores"] and test["scores"][score]["mean"] is not None
    ]


def ruled(rule: dict[str, Any]) -> str:
    """What a rule removed."""
    return f"{rule['rule']}: {number(rule['clips'])}"


def mined(training: dict[str, Any]) -> str:
    """How hard negatives were found, and what became of those that are probably no negatives."""
    if not training["mining"]:
        return "Hard negatives were not mined."
    last = training["mining"][-1]
    said = "Hard negatives, on which the model gave an alarm in training, were served again in the next epoch"
    if not last["quarantined"]:
        return f"{said}; none was suspected to be a missing label."
    return (
        f"{said}, except {last['quarantined']:,} whose score stayed so high that their label is probably missing: "
        "these are listed for review in review.csv beside the run."
    )


def usage(facts: dict[str, Any]) -> str:
    """How to load the model where nothing of this project is installed."""
    sound = '{"array": sound, "sampling_rate": rate}'
    call = f'pipeline("audio-classification", model={string(facts["name"])}, trust_remote_code=True)({sound})'
    command = f"python run_predict.py {shlex.quote(facts['name'])} recording.wav"
    return f"""```python
import librosa
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

folder = {string(facts["name"])}  # this folder, or its name on the Hub
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
settings = model.config.detection  # the length of the windows of training, and the threshold of validation
rate = extractor.sampling_rate  # Hz; librosa makes the sound mono
sound, _ = librosa.load("recording.wav", sr=rate, duration=settings["clip_seconds"])
batch = extractor(sound, sampling_rate=rate, return_tensors="pt")
with torch.no_grad():
    score = model(**batch).logits.sigmoid()[0, 0].item()
heard = score >= settings["threshold"]
```

In one call, of as long a sound: {code(call)}.

Recordings of any length, in a checkout of the project: {code(command)}."""

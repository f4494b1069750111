"""The table of a classifier of utterances and its card, made from what a run recorded about itself."""

import shlex
from typing import Any

from huggingface_hub import EvalResult

from reporting.card import (
    SCORED_ONCE,
    base,
    cell,
    chosen,
    code,
    compared_table,
    configuration,
    data_lines,
    eval_result,
    front_matter,
    no_interval,
    plain,
    rows_line,
    score_cell,
    size,
    string,
    versions,
    warnings,
)
from system.text import plural

SCORES = (("accuracy", "accuracy"), ("weighted F1", "weighted_f1"), ("macro F1", "macro_f1"))  # heading, score
GAIN = ("model's gain", "weighted_f1")
WHO = {"majority": "the majority class", "tfidf": "TF-IDF", "dealt": "its own answers, dealt at random"}
# What the Hub calls a model of one modality; it has no name for those of several.
PIPELINES = {"text": "text-classification", "audio": "audio-classification", "video": "video-classification"}
SCORES_EXPLAINED = (
    "Weighted F1 weighs the F1 of a class by its rows, macro F1 takes every class alike. Brackets hold 95 % intervals "
    "over dialogues, which are drawn whole; they tell what other dialogues would change, not what another seed would. "
    "The last column is the model's weighted F1 less that of the row, on the same dialogues. The majority class is "
    "that of training; TF-IDF is a logistic regression on words and pairs of words, and says the majority class where "
    "there is no text. Guesses that follow nothing but how often a class occurs have a higher weighted F1 than the "
    "majority class; that is why the model's own answers, dealt to random rows, are there too: what it would score if "
    "it answered as it does without regard to the row, the average over all ways to deal. Rows below these are the "
    "same model with less to go by."
)
LIMITS = (
    "The labels tell what annotators saw and heard: how people feel is another matter, and so are other languages, "
    "rooms and cameras. Rare classes have few rows, so their F1 is uncertain even where the weighted F1 is not. "
    "Where one label follows from the other, the heads are not independent findings."
)
MELD_LIMITS = (
    "MELD is acted scenes of one TV comedy, in English. Its speakers and episodes stand on more than one side, and "
    "sentiment follows from emotion for all but surprise. Its text is a transcript of a series whose owners hold the "
    "rights, whatever licence its copies carry; none of it is part of this model's files."
)


def results_table(test: dict[str, Any]) -> str:
    """Scores as Markdown: for each head what they come to, the table, the classes; then what concerns both."""
    blocks = [block for head in test["heads"] for block in head_blocks(test, head)]
    return "\n\n".join([*blocks, *remarks(test)])


def conclusion(test: dict[str, Any]) -> str:
    """The score that the verdict is on, and the verdict, of each head."""
    lines = []
    for head, found in test["heads"].items():
        score = found["verdict"]["score"]
        scored = f"{score_name(score)} {cell(found['scores'][score], 3)} over {plural(test['rows'], 'row')}"
        lines.append(f"{head}: {scored}; verdict: {verdict_of(found['verdict'])}")
    return "\n".join(lines)


def verdict_of(verdict: dict[str, Any]) -> str:
    """The baselines that are not beaten, or, where all are, that they are."""
    if verdict["unbeaten"]:
        return f"not shown to be better than {named(verdict['unbeaten'])}"
    return f"better than {named(verdict['beaten'])}"


def head_blocks(test: dict[str, Any], head: str) -> list[str]:
    """Verdict, scores and classes of one head."""
    found = test["heads"][head]
    return [verdict_line(head, found), score_table(test, head), class_table(head, found), *repeated_lines(test, head)]


def verdict_line(head: str, found: dict[str, Any]) -> str:
    """Whether the model beats what knows only frequencies, what knows only words, and chance; and what it never says.

    By the rule of the record: from the interval of the difference in weighted F1.
    """
    verdict = found["verdict"]
    score = verdict["score"]
    said = [f"{score_name(score)} {cell(found['scores'][score], 3)}"]
    for who, rival in found["baselines"].items():
        said.append(f"less that of {WHO[who]} {no_interval(rival['difference'][score])}")
    line = f"**Verdict, {head}: {verdict_of(verdict)}** ({'; '.join(said)})."
    for who, reason in found["baselines_left_out"].items():
        line += f" Not compared with {WHO[who]}: {reason}."
    dead = [f"{one['name']} ({plural(one['support'], 'row')})" for one in found["dead_classes"]]
    return line + (f" **Never predicted: {', '.join(dead)}.**" if dead else "")


def named(who: list[str]) -> str:
    """Baselines in words."""
    *first, last = (WHO[each] for each in who)
    return f"{', '.join(first)} and {last}" if first else last


def score_name(score: str) -> str:
    """A score as people write it."""
    return next(heading for heading, name in SCORES if name == score)


def score_table(test: dict[str, Any], head: str) -> str:
    """A row the model, each baseline and each ablation; a column a score, and what the model has more."""
    found = test["heads"][head]
    names = WHO | {"majority": f"majority: always {found['majority']}"}
    rivals: dict[str, dict[str, Any]] = found["baselines"] | found["ablations"]
    others = {names.get(who, who): rival for who, rival in rivals.items()}
    title = f"{head}, {plural(test['rows'], 'row')} of {plural(test['dialogues'], 'dialogue')}"
    return compared_table(title, SCORES, found["scores"], others, GAIN)


def class_table(head: str, found: dict[str, Any]) -> str:
    """A row a class: precision, recall, F1 and support, and the F1 of the baselines."""
    rivals = list(found["baselines"])
    headings = ["precision", "recall", "F1", "rows", "predicted", *(f"F1 of {WHO[who]}" for who in rivals)]
    lines = [f"| {head} | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for name, each in found["per_class"].items():
        cells = [
            f"{each['precision']:.3f}" if each["predicted"] else "0 (never predicted)",
            f"{each['recall']:.3f}" if each["support"] else "0 (no row)",
            f"{each['f1']:.3f}" if each["predicted"] + each["support"] else "0 (neither)",
            f"{each['support']:,}",
            f"{each['predicted']:,}",
            *(f"{found['baselines'][who]['per_class'][name]:.3f}" for who in rivals),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def repeated_lines(test: dict[str, Any], head: str) -> list[str]:
    """The scores on rows whose text does not stand in training."""
    alone = test["heads"][head]["unseen_texts"]
    if alone is None:
        return []
    others = {WHO[who]: rival for who, rival in alone["baselines"].items()}
    title = f"{head}, {plural(alone['rows'], 'row')} whose text is new"
    return [compared_table(title, SCORES, alone["scores"], others, GAIN)]


def remarks(test: dict[str, Any]) -> list[str]:
    """What has to be known to read the tables, of all heads."""
    return [
        line
        for line in (
            test.get("note"),
            rows_line(test),
            repeated_line(test),
            consistency_line(test),
            calibration_line(test),
        )
        if line
    ]


def repeated_line(test: dict[str, Any]) -> str:
    """How many texts of the test a model may have learnt by heart."""
    found = test["repeated_texts"]
    if found is None:
        return ""
    share = f"{100 * found['share']:.1f} %"
    return f"The text of {plural(found['rows'], 'row')} ({share}) is in training word for word, except for case."


def consistency_line(test: dict[str, Any]) -> str:
    """How often the heads contradict each other, beside the labels."""
    found = test["consistency"]
    if found is None:
        return ""
    shares = [f"{score_cell(found[who])} of {what}" for who, what in (("predictions", "the predictions"),
              ("truth", "the labels"))]  # fmt: skip
    pairs = [f"{pair['emotion']} with {pair['sentiment']} ({pair['rows']:,})" for pair in found["pairs"][:3]]
    rule = ", ".join(f"{emotion}: {' or '.join(sentiments)}" for emotion, sentiments in found["rule"].items())
    often = f"; most often {', '.join(pairs)}" if pairs else ""
    return f"Emotion and sentiment do not go together in {' and '.join(shares)}{often}. The rule: {rule}."


def calibration_line(test: dict[str, Any]) -> str:
    """How far confidence is from being right."""
    errors = [f"{head} {found['calibration']['expected_error']:.3f}" for head, found in test["heads"].items()]
    return f"Expected calibration error, over 15 bins of confidence: {', '.join(errors)}."


def about(test: dict[str, Any]) -> str:
    """What was scored, in a line."""
    heads = [f"{head} ({', '.join(found['classes'])})" for head, found in test["heads"].items()]
    return f"{plural(test['rows'], 'utterance')} of {plural(test['dialogues'], 'dialogue')}, for {' and '.join(heads)}"


def model_card(facts: dict[str, Any]) -> str:
    """The README.md of a saved model: metadata for the Hub, scores beside baselines, limits, and how to use it."""
    test, training = facts["test"], facts["training"]
    modalities, heads = facts["model"]["modalities"], list(test["heads"])
    fusion = f" (fusion: {facts['model']['fusion']})" if len(modalities) > 1 else ""
    pipeline = PIPELINES.get(modalities[0]) if len(modalities) == 1 else None
    tags = ["emotion-recognition", "sentiment-analysis", *(["multimodal"] if len(modalities) > 1 else [])]
    pictures = [f"![Confusion matrix of {head}](figure_confusion_{head}.png)" for head in heads]
    sections = [
        front_matter(facts, tags, pipeline, eval_results(facts, pipeline)),
        f"# {plain(facts['name'])}",
        *warnings(facts, "utterances"),
        f"Tells {' and '.join(heads)} of an utterance from {', '.join(modalities)}{fusion}. Any of these may be "
        "missing.",
        "## Scores",
        f"On the test side: {about(test)}. {SCORES_EXPLAINED}",
        results_table(test),
        f"The rule: {rule(test)}.",
        *pictures,
        "`report.html`, which stays with the run, has more figures, the learning curves and every setting.",
        "## Data",
        *data_lines(facts),
        "## Use",
        usage(facts),
        "## Training",
        f"{plural(training['steps'], 'step')}; {chosen(training)}. {SCORED_ONCE} {size(facts)}.{base(facts)}",
        configuration(facts),
        "## Limits",
        limits(facts["data"]),
        versions(facts),
    ]
    return "\n\n".join(sections) + "\n"


def rule(test: dict[str, Any]) -> str:
    """The rule of the verdicts, which is one for all heads."""
    return next(iter(test["heads"].values()))["verdict"]["rule"]


def limits(data: dict[str, Any]) -> str:
    """What the scores cannot tell, and where the data are MELD by their name, what is so with MELD."""
    of_meld = "meld" in data["dataset"].lower() and not data["synthetic"]
    return f"{LIMITS} {MELD_LIMITS}" if of_meld else LIMITS


def eval_results(facts: dict[str, Any], pipeline: str | None) -> list[EvalResult]:
    """The scores as the Hub reads them, each with its interval."""
    heads = facts["test"]["heads"]
    task = pipeline or "multimodal-classification", f"{' and '.join(heads)} of utterances"
    return [
        eval_result(
            facts, task, ("accuracy" if name == "accuracy" else "f1", f"{head} {heading}"), found["scores"][name],
            {"head": head, "score": name, "over": "dialogues"},
        )
        for head, found in heads.items()
        for heading, name in SCORES
    ]  # fmt: skip


def usage(facts: dict[str, Any]) -> str:
    """How to load the model where nothing of this project is installed, and how to judge a clip where it is."""
    modalities = facts["model"]["modalities"]
    text = '--text "What are you doing here?"' if "text" in modalities else ""
    clip = "" if modalities == ["text"] else "clip.mp4 "
    call = f"python run_predict.py {shlex.quote(facts['name'])} {clip}{text}".rstrip()
    pipeline = f'pipeline("clip-to-emotion", model={string(facts["name"])}, trust_remote_code=True)("clip.mp4")'
    more = ', and `text="..."` next to it' if text else ""
    made, given = [], []
    if "text" in modalities:
        given.append('text=["What are you doing here?"]')
    if "video" in modalities:
        made.append("frames = np.zeros((features.clip_frames, *features.frame_size, 3), np.uint8)  # RGB, of one clip")
        given.append("videos=[frames]")
    if "audio" in modalities:
        made.append("sound = np.zeros(2 * features.sampling_rate, np.float32)  # mono, of the same clip")
        given.append("audio=[sound], sampling_rate=features.sampling_rate")
    lines = [
        *(["import numpy as np"] if made else []),
        "import torch",
        "from transformers import AutoModelForVideoClassification, AutoProcessor",
        "",
        f"folder = {string(facts['name'])}  # this folder, or its name on the Hub",
        "model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True).eval()",
        "processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)",
        *(["features = processor.feature_extractor"] if made else []),
        *made,
        "# Several clips make longer lists. What a clip lacks is left out.",
        f"batch = processor({', '.join(given)})",
        "with torch.no_grad():",
        "    outputs = model(**batch)",
    ]
    for head in facts["test"]["heads"]:
        scores = f"outputs.{head}_logits[0].softmax(-1).tolist()"
        lines.append(f'print("{head}", dict(zip(model.config.{head}_names, {scores})))')
    return "\n".join(
        [
            f"In a checkout of the project: {code(call)} prints what an utterance is taken for.",
            "",
            "Anywhere else:",
            "",
            "```python",
            *lines,
            "```",
            "",
            f"In one call, with the path of a clip: {code(pipeline)}{more}.",
        ]
    )

"""The page, the card and the table of a detector: whole, escaped, and honest whatever the data are."""

import ast
import base64
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from matplotlib.colors import to_rgba

from launch.pages import model_card, plot_predictions, report_files, results_table
from reporting.card import SYNTHETIC_NOTICE
from reporting.plots import FALSE, MODEL, TRUTH, png
from tasks.detection.card import verdict_line
from tasks.detection.plots import plot_composition, plot_mining, plot_precision_recall, plot_timelines
from tests.tasks.eda.test_report import make_facts as make_signal_facts

NAMED = {name: to_rgba(colour) for name, colour in (("model", MODEL), ("truth", TRUTH), ("false", FALSE))}
SCRIPT = "<script>alert('label')</script>"
CONFUSERS = (
    "Crying, sobbing", "Whimper", "Baby laughter", "Child speech, kid speaking", "Cat", "Meow", "Screaming", "Goat",
    "Bleat", "Speech", "Music", "Domestic sounds, home sounds and everything else that is heard there", "Squeak",
    "Violin, fiddle", "Siren", "Inside, small room", "Toot",
)  # fmt: skip


def score(mean: float | None, spread: float | None = 0.05, reason: str | None = None) -> dict[str, Any]:
    """A score as an assessment records it."""
    known = mean is not None and spread is not None
    bounds = {"low": mean - spread, "high": mean + spread} if known else {"low": None, "high": None}
    return {"mean": mean, **bounds, "undefined": 0, "reason": reason}


def make_scores(level: float) -> dict[str, Any]:
    """All scores of something that detects at a level between 0 and 1."""
    names = ("event_f1", "recall_at_1_per_hour", "f1", "precision", "average_precision", "recall",
             "recall_at_10_per_hour", "recall_at_60_per_hour", "roc_auc")  # fmt: skip
    scores = {name: score(level * (0.7 + 0.05 * place)) for place, name in enumerate(names)}
    return scores | {"d_prime": score(3 * level, 0.2), "false_alarms_per_hour": score(30 * (1 - level), 3.0)}


def make_curve(random: np.random.Generator, steepness: float) -> dict[str, list[float]]:
    """Precision and recall of 60 positives among 1,200 clips, whose scores lie so many deviations higher."""
    targets = np.arange(1200) < 60
    order = np.argsort(-(random.normal(size=1200) + steepness * targets))
    found = np.cumsum(targets[order])
    return {"recall": (found / 60).tolist(), "precision": (found / np.arange(1, 1201)).tolist()}


def make_timeline(random: np.random.Generator, title: str, events: list[list[float]]) -> dict[str, Any]:
    """A clip of 10 s, scored every half second; what is above 0.5 is detected."""
    seconds = np.arange(0.0, 9.5, 0.5)
    inside = np.array([any(start - 0.7 < time < end for start, end in events) for time in seconds])
    scores = np.clip(random.beta(2, 6, size=len(seconds)) + 0.6 * inside, 0, 1)
    if not events:
        scores[6:9] = (0.6, 0.8, 0.55)
    runs = np.flatnonzero(np.diff(np.concatenate([[False], scores >= 0.5, [False]]).astype(int))).reshape(-1, 2)
    detected = [[float(seconds[a]), float(seconds[b - 1]) + 1.0, float(scores[a:b].max())] for a, b in runs]
    return {
        "clip_id": "-a_b",
        "title": title,
        "seconds": seconds.tolist(),
        "scores": scores.tolist(),
        "events": events,
        "detected": detected,
    }


def make_test(random: np.random.Generator) -> dict[str, Any]:
    """The record of an assessment, with numbers that a real one could have."""
    positives, negatives = random.beta(5, 2, size=60), random.beta(1.2, 9, size=1140)
    edges = np.linspace(0, 1, 41)
    alarms = sorted((int(count) for count in random.geometric(0.12, size=len(CONFUSERS))), reverse=True)
    return {
        "target": [{"mid": "/t/dd00002", "name": "Baby cry, infant cry"}],
        "clips": 1200,
        "positives": 60,
        "negatives": 1140,
        "ambiguous": 31,
        "hours_of_negatives": 3.17,
        "threshold": {"value": 0.5, "rule": "f1", "chosen_on": "validation"},
        "scores": make_scores(0.8) | {"recall": score(0.85), "precision": score(0.72)},
        "baselines": {
            "chance": {"average_precision": score(0.05, None), "roc_auc": score(0.5, None)},
            "loudness": make_scores(0.2),
        },
        "false_alarms_at_recall": {"recall": 0.9, "per_hour": 14.2},
        "curve": make_curve(random, 3.2),
        "baseline_curves": {"loudness": make_curve(random, 0.8)},
        "histogram": {
            "edges": edges.tolist(),
            "positives": np.histogram(positives, edges)[0].tolist(),
            "negatives": np.histogram(negatives, edges)[0].tolist(),
        },
        "confusers": [
            {"mid": f"/m/{place}", "name": name, "clips": 12 * count + 9, "clips_with_false_alarm": count // 2 + 1,
             "false_alarms": count}
            for place, (name, count) in enumerate(zip(CONFUSERS, alarms, strict=True))
        ],
        "timelines": [
            make_timeline(random, "best positive: dQw4w9WgXcQ, highest score 0.98", [[1.2, 2.1], [5.0, 8.3]]),
            make_timeline(random, "median positive: -x_y $z$, highest score 0.87", [[3.0, 3.4]]),
            make_timeline(random, "worst positive: ab_cd, highest score 0.80", []) | {"events": None},
            make_timeline(random, "worst false alarm: $_a-, highest score 0.80", []),
        ],
        "unreadable": 2,
        "note": None,
    }  # fmt: skip


def make_training(random: np.random.Generator) -> dict[str, Any]:
    """The record of a training of eight epochs."""
    epochs = range(8)
    log = [{"step": 10 * step, "loss": 0.7 * 0.93**step + 0.02 * float(random.random())} for step in range(1, 41)]
    log += [
        {
            "step": 50 * (epoch + 1),
            "eval_loss": 0.5 * 0.8**epoch + 0.1,
            "eval_average_precision": 0.8 - 0.5 * 0.6**epoch,
        }
        for epoch in epochs
    ]
    return {
        "steps": 400,
        "epochs": 8.0,
        "best_checkpoint_step": 350,
        "best_validation": 0.78,
        "chosen_by": "average_precision",
        "processes": 1,
        "precision": "no",
        "data_wait_share": 0.031,
        "log": log,
        "composition": {
            "planned": {"positive": 3200, "tier_a": 1920, "tier_b": 1280, "weak": 6400},
            "served": {"positive": 3161, "tier_a": 1919, "tier_b": 1280, "weak": 6398},
            "explicit": 96,
            "hard": 871,
            "substituted": 17,
            "mixed": 42,
        },
        "coverage": {"labels": 447, "seen": 445, "rounds": 2, "never": ["Toothbrush", "Yodeling"]},
        "mining": [
            {"epoch": epoch, "scored": 1195 - epoch, "hard": int(420 * 0.7**epoch), "quarantined": max(0, epoch - 3),
             "mean_score": 0.3 * 0.8**epoch, "tier_b_from_mining": 160 if epoch else 0}
            for epoch in epochs
        ],
        "substitutions": [{"clip_id": "abc_-defghi", "times": 17, "reason": "0 bytes"},
                          {"clip_id": "zyx_-wvutsr", "times": 1, "reason": None}],
    }  # fmt: skip


def make_facts(seed: int = 0) -> dict[str, Any]:
    """The record of a run that trained and tested a detector."""
    random = np.random.default_rng(seed)
    counts = {"clips": 1200, "with_target": 60, "ambiguous": 31}
    trim = [
        {
            "name": name,
            "before": 40_000 // (place + 1) ** 2,
            "after": (8_000 if place < 2 else 39_000) // (place + 1) ** 2,
        }
        for place, name in enumerate(("Speech", "Music", *CONFUSERS[:9], "Yodeling"))
    ]
    return {
        "name": "baby_cry",
        "task": "detection",
        "data": {
            "dataset": "hf_datasets/audioset",
            "config": "sample",
            "files": ["train-0a1b2c-00000-of-00001.parquet", "eval-0a1b2c-00000-of-00001.parquet"],
            "rows": 64_320,
            "synthetic": True,
            "clips": {
                "clips": 64_320, "with_audio": 59_193, "unusable": {"missing": 5112, "empty": 12, "corrupt": 3},
                "positives": 1767, "weak_negatives": 48_112,
            },
            "rules": [
                {"rule": "no usable audio", "clips": 5127},
                {"rule": "weak negatives with the target or a related label in any table", "clips": 246},
                {"rule": "validation clips out of training", "clips": 4410},
            ],
            "trim": trim,
            "sides": {
                "train": {"clips": 51_204, "with_target": 492, "items": 71_090}, "validation": counts, "test": counts,
            },
            "split_warning": None,
            "control": None,
        },
        "split": {"sha256": "ab" * 32, "validation_fraction": 0.1, "validation_seed": 0},
        "base": None,
        "model": {
            "model_type": "tcn", "num_channels": 32, "auto_map": {},
            "detection": {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": 0.5},
        },
        "parameters": 61_313,
        "receptive_field_seconds": 1.9,
        "training": make_training(random),
        "test": make_test(random),
        "versions": {"torch": "2.12", "transformers": "5.17"},
    }  # fmt: skip


def without_images(page: str) -> str:
    """What of a page is text."""
    return re.sub(r"data:[^\"]+", "", page)


def test_the_page_is_whole_in_one_file_and_shows_the_figures_that_lie_beside_it() -> None:
    facts = make_facts()
    facts["data"]["split_warning"] = "eval clips stand in a list for training"
    files = report_files(facts, {"learning_rate": 1e-3}, pa.table({}))
    page = files.pop("report.html")
    names = ("precision_recall", "scores", "timelines", "confusers", "learning", "composition", "coverage", "mining")
    assert set(files) == {f"figure_{name}.png" for name in names}
    embedded = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}
    assert embedded == set(files.values())
    assert all(image.startswith(b"\x89PNG") for image in embedded)
    text = without_images(page)
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "http" not in text
    assert not re.search(r"\b(nan|None|inf)\b", text)
    places = [
        text.index(said) for said in ("SYNTHETIC DATA", "Eval clips stand in a list", "Verdict: ", "Scores</h2>")
    ]
    assert places == sorted(places)  # what a reader has to know comes first
    for said in (
        "1,200 clips, 60 with Baby cry, infant cry (/t/dd00002), 1,140 without it (3.2 hours); 31 with",
        "<td>d&#x27;</td><td>2.40 [2.20, 2.60]</td><td></td><td>0.60 [0.40, 0.80]</td>",
        "<td>unusable (missing)</td><td>5,112</td>",
        "<td>weak negatives with the target or a related label in any table</td><td>246</td>",
        "<td>Speech</td><td>40,000</td><td>8,000</td><td>20.0 %</td>",
        "<td>abc_-defghi</td><td>17</td><td>0 bytes</td>",
        "<td>zyx_-wvutsr</td><td>1</td><td>it could be read later</td>",
        "445 of 447 labels of the negatives were served; the plan brings each at least once in 2 epochs. Never: Tooth",
        "ab" * 32,
        "validation_seed 0",
    ):
        assert said in text


def test_names_are_text_wherever_they_come_from() -> None:
    facts = make_facts()
    test, data, training = facts["test"], facts["data"], facts["training"]
    facts["name"] = test["target"][0]["name"] = test["note"] = test["threshold"]["rule"] = SCRIPT
    test["confusers"][0]["name"] = test["timelines"][0]["title"] = f"$ {SCRIPT}"  # a formula that has no end
    data["dataset"] = data["files"][0] = data["rules"][0]["rule"] = data["trim"][0]["name"] = SCRIPT
    data["clips"] = {SCRIPT: {SCRIPT: 1}}
    training["coverage"]["never"] = [SCRIPT]
    training["substitutions"][0] |= {"clip_id": SCRIPT, "reason": SCRIPT}
    page = report_files(facts, {"target": [SCRIPT]}, pa.table({}))["report.html"]
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


def test_where_there_is_nothing_the_page_and_the_card_say_so() -> None:
    facts = emptied()
    files = report_files(facts, {}, pa.table({}))
    text, card = without_images(files["report.html"]), model_card(facts)
    assert list(files) == ["report.html"]
    for said in (
        "<b>Verdict: not measured</b> (average precision is undefined: no clip has the target).",
        "No threshold could be chosen on validation",
        "Nothing to draw: recall is undefined without a clip that holds the target.",
        "Nothing to draw: there is no false alarm at the threshold.",
        "Hard negatives were not mined.",
        "The commonest sounds were not thinned.",
    ):
        assert said in text
    for page in (text, card, results_table(facts)):
        assert not re.search(r"\b(nan|None|inf)\b", page)
    assert "figure_precision_recall.png" not in card  # a picture that there is not


def test_what_was_not_recorded_is_left_out() -> None:
    facts = make_facts()
    facts["test"] |= dict.fromkeys(("curve", "histogram", "confusers", "timelines", "false_alarms_at_recall"))
    facts["training"] |= dict.fromkeys(("composition", "coverage", "mining", "substitutions"))
    files = report_files(facts, {}, pa.table({}))
    assert set(files) == {"report.html", "figure_learning.png"}
    for page in (without_images(files["report.html"]), model_card(facts)):
        assert not re.search(r"\b(nan|None|inf)\b", page)


def test_scores_without_a_training_have_a_page_too() -> None:
    """As run_eval.py has them."""
    facts = make_facts() | {"model": "outputs/baby_cry", "side": "validation"}
    for key in ("training", "base", "parameters", "receptive_field_seconds"):
        del facts[key]
    facts["test"] |= dict.fromkeys(("histogram", "confusers", "timelines"))
    files = report_files(facts, {}, pa.table({}))
    assert "The validation side of" in files["report.html"]
    assert "<h2>Training</h2>" not in files["report.html"]
    assert set(files) == {"report.html", "figure_precision_recall.png"}


CHANCE, LOUD = score(0.05, None), score(0.2, 0.1)


@pytest.mark.parametrize(("model", "baselines", "verdict"), [
    (score(0.5, 0.1), {"chance": CHANCE, "loudness": LOUD}, "better than chance and loudness"),
    (score(0.5, 0.2), {"chance": CHANCE, "loudness": LOUD}, "not shown to be better than loudness"),
    (score(0.5, 0.2), {"chance": score(0.3, None)}, "not shown to be better than chance"),
    (score(1.0, None, "all resamples give 1"), {"chance": CHANCE}, "not shown to be better than chance"),
    (score(0.5, 0.1), {"chance": {}}, "compared with nothing"),
    (score(None, reason="no positives"), {"chance": score(0.0, None)}, "not measured"),
])  # fmt: skip
def test_a_verdict_asks_for_an_interval_above_every_baseline(model: dict, baselines: dict, verdict: str) -> None:
    """0.5 - 0.2 is no more than 0.2 + 0.1 or 0.3."""
    baselines = {who: {"average_precision": found} if found else {} for who, found in baselines.items()}
    line = verdict_line({"scores": {"average_precision": model}, "baselines": baselines})
    assert line.startswith(f"**Verdict: {verdict}** (average precision ")


def test_the_table_has_model_and_baselines_side_by_side_and_says_what_an_hour_can_show() -> None:
    facts = make_facts()
    facts["test"] |= {"hours_of_negatives": 0.25, "note": "Two clips are short."}
    facts["test"]["scores"]["event_f1"] = score(None, reason="no strong events")
    table = results_table(facts)
    assert "| 1,200 clips, 60 with the target | model | chance | loudness |\n|---|---|---|---|\n" in table
    assert "| average precision | 0.720 [0.670, 0.770] | 0.050 | 0.180 [0.130, 0.230] |" in table
    assert "| at the threshold: F1 of events | undefined (no strong events) |  |" in table
    assert "At the threshold 0.5, chosen on validation (rule: f1): recall 0.850 [0.800, 0.900], 6.00 [3.00" in table
    assert "One false alarm in 0.25 hours is 4.0 an hour: recall at fewer is recall at none." in table
    assert table.endswith("\n\nTwo clips are short.")


def test_the_card_has_metadata_scores_and_code_that_can_be_run() -> None:
    card = model_card(make_facts())
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "audio-classification"
    assert {"audio-classification", "tcn"} <= set(front["tags"])
    assert SYNTHETIC_NOTICE in card
    assert "synthetic-data" in front["tags"]
    assert card.index("SYNTHETIC") < card.index("Detects Baby cry, infant cry (/t/dd00002)") < card.index("Verdict")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    called = {node.func.attr for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)
              and isinstance(node.func, ast.Attribute)}  # fmt: skip
    assert {"from_pretrained", "load", "sigmoid"} <= called
    assert "AutoModelForAudioClassification" in code
    for said in ("CC BY 4.0", "4 whose score stayed so high", "torch 2.12", "5,112 unusable (missing)"):
        assert said in card
    assert "auto_map" not in card
    assert "abc_-defghi" not in card
    assert "dQw4w9WgXcQ" not in card


@pytest.mark.parametrize(("known", "said"), [
    (None, "what MIT/ast was trained on is not known here: it may have met the test clips"),
    (3, "3 of the test clips were in its training data, by way of MIT/ast"),
    (0, None),
])  # fmt: skip
def test_a_base_that_may_have_known_the_test_is_told_of(known: int | None, said: str | None) -> None:
    facts = make_facts() | {"base": {"model": "MIT/ast", "test_trials_it_was_trained_on": known}}
    card = model_card(facts)
    assert ("**WARNING.**" in card) == (said is not None)
    assert "Fine-tuned from `MIT/ast`." in card
    assert said is None or said.lower() in card.lower()


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


def test_detections_in_recordings_of_any_length_are_drawn(tmp_path: Path) -> None:
    found = SimpleNamespace(
        file=Path("night_$1.wav"),
        events=np.array([[10.0, 12.5, 0.9], [7000.0, 7001.0, 0.6]]),
        envelope=SimpleNamespace(peaks=[0.1, 0.9, 0.3, 0.6], stretch=2000.0),
        target="Baby cry",
        threshold=0.5,
        seconds=7200.0,
    )
    silent = SimpleNamespace(**vars(found) | {"events": np.zeros((0, 3)), "seconds": 0.4, "file": Path("b.wav")})
    plot_predictions("detection", [found, silent], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_pages_of_signals_are_as_they_were() -> None:
    facts = make_signal_facts() | {"task": "eda"}
    assert results_table(facts).startswith("| raw, 60 trials |")
    page = report_files(facts, {}, pa.table({"channel": pa.array([], pa.string())}))["report.html"]
    assert "Skin conductance has many causes" in page
    assert "false alarms" not in page


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
    assert png(figure).startswith(b"\x89PNG")

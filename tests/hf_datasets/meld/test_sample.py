"""The committed samples of MELD have the properties in the card."""

import csv
import io
import re
from collections import Counter

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_datasets.meld.synthesize import synthesize
from hf_datasets.meld.utterances import EMOTIONS, IMPLIED, SENTIMENTS
from tests.conftest import REPOSITORY
from tests.helpers.prepared_data import kinds

SAMPLE = REPOSITORY / "hf_datasets" / "meld" / "sample"


def sample(split: str) -> list[dict]:
    (path,) = SAMPLE.glob(f"sample-{split}-*.parquet")
    return pq.read_table(path).to_pylist()


def decoded(row: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (frames, height, width, 3) and the mean of the sound's channels (samples,)."""
    with av.open(io.BytesIO(row["clip"]["bytes"])) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])
    return pictures.astype(float), sound


def features(row: dict, vocabulary: list[str]) -> list[np.ndarray]:
    """Return simple features of text (words), video (colour of the disc) and audio (spectrum)."""
    pictures, sound = decoded(row)
    colour = (pictures - pictures[:, :4, :4].mean((1, 2), keepdims=True)).mean((0, 1, 2))  # minus the ground
    spectra = np.abs(np.fft.rfft(sound[: len(sound) // 1024 * 1024].reshape(-1, 1024)))[:, :512] ** 2
    bands = spectra.mean(0).reshape(32, 16).sum(1)
    words = re.findall(r"\w+|[?!]", row["text"].lower())
    return [
        np.array([word in words for word in vocabulary], float),
        colour / np.abs(colour).max(),
        np.log(bands / bands.sum() + 1e-4),
    ]


def test_text_video_and_audio_each_reveal_some_emotions_and_together_more():
    train, test = (
        [row for row in sample(split) if row["has_text"] and row["has_audio"] and row["has_video"]]
        for split in ("train", "test")
    )
    vocabulary = sorted({word for row in train for word in re.findall(r"\w+|[?!]", row["text"].lower())})
    of_train, of_test = ([features(row, vocabulary) for row in rows] for rows in (train, test))
    labels = np.eye(7)[[row["emotion"] for row in train]]
    scores = []  # of a ridge regression on each modality, (rows, 7)
    for train_features, test_features in zip(zip(*of_train, strict=True), zip(*of_test, strict=True), strict=True):
        x, y = np.stack(train_features), np.stack(test_features)  # (rows, features)
        mean, std = x.mean(0), x.std(0) + 1e-6
        x, y = ((part - mean) / std for part in (x, y))
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (labels - labels.mean(0)))
        scores.append(y @ weights + labels.mean(0))
    truth = np.array([row["emotion"] for row in test])
    alone = [np.mean(score.argmax(1) == truth) for score in scores]
    together = np.mean(sum(scores).argmax(1) == truth)
    most_common = np.bincount(truth).max() / len(truth)
    assert all(most_common + 0.2 < share < 0.92 for share in alone), alone
    assert together > max(alone), (together, alone)


def test_sentiment_follows_emotion_and_dialogues_have_four_to_eight_turns():
    rows = [row for split in ("train", "validation", "test") for row in sample(split)]
    wrong = [row for row in rows if SENTIMENTS[row["sentiment"]] not in IMPLIED[EMOTIONS[row["emotion"]]]]
    assert [kinds(row) for row in wrong] == [{"sentiment_mismatch"}]
    surprised = {SENTIMENTS[row["sentiment"]] for row in rows if EMOTIONS[row["emotion"]] == "surprise"}
    assert surprised == {"positive", "negative"}
    turns = Counter(row["dialogue"] for row in rows)
    assert set(turns.values()) <= set(range(4, 9))
    assert len(turns) > 50
    assert {row["emotion"] for row in sample("test")} == set(range(7))


def test_the_seed_determines_the_tree(tmp_path):
    def content(folder: str, seed: int) -> dict[str, bytes]:
        synthesize(tmp_path / folder, num_train=4, num_dev=4, num_test=4, seed=seed, defects="none")
        paths = [path for path in (tmp_path / folder).rglob("*") if path.suffix in (".csv", ".mp4")]
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in paths}

    first = content("a", 1)
    assert len(first) == 15
    assert first == content("b", 1) != content("c", 2)
    with pytest.raises(ValueError, match="num_train=10: .*48"):
        synthesize(tmp_path, num_train=10)


def test_without_coupling_labels_stay_the_same_but_the_text_does_not_match_them(tmp_path):
    def table(coupling: float) -> list[dict[str, str]]:
        synthesize(tmp_path / f"{coupling}", num_train=120, num_dev=4, num_test=4, defects="none", coupling=coupling)
        path = tmp_path / f"{coupling}" / "MELD.Raw" / "train" / "train_sent_emo.csv"
        return list(csv.DictReader(path.read_text().splitlines()))

    coupled, null = table(1.0), table(0.0)
    assert [row["Emotion"] for row in coupled] == [row["Emotion"] for row in null]
    for rows, low, high in ((coupled, 0.7, 1.0), (null, 0.0, 0.35)):  # share of fear among rows with words of fear
        scared = [row for row in rows if any(word in row["Utterance"] for word in ("scared", "terrified", "afraid"))]
        assert scared
        assert low <= np.mean([row["Emotion"] == "fear" for row in scared]) <= high
    with pytest.raises(ValueError, match="coupling=2: "):
        synthesize(tmp_path, coupling=2)

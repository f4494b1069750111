"""The model's head trained on log-mel: what it can learn, what it cannot, and where it is reported."""

import random
from pathlib import Path
from types import SimpleNamespace

import datasets.config
import numpy as np
import pytest
import torch
from accelerate import Accelerator

from evaluation.detection import average_precision, roc_auc
from modeling import EfficientAtFeatureExtractor, EncoderConfig, TcnConfig, TcnForAudioClassification
from modeling.configuration_encoder import HEADS
from modeling.modeling_encoder import EncoderForAudioClassification
from tasks.detection import baselines
from tasks.detection.data import DetectionData
from tasks.detection.evaluate import baseline_scores
from tasks.detection.items import Kind
from tasks.detection.log_mel_head import fit_head, log_mel_frames
from tasks.detection.scores import ClipScores
from tasks.detection.windows import AudioSetWindows
from tests.helpers.tiny_encoder import tiny_encoder
from tests.helpers.toy_clips import POSITIVES, RATE, toy_clips, toy_side
from training.trainer_arguments import RunTrainingArguments

SECONDS = 0.4
EXTRACTOR = EfficientAtFeatureExtractor(sampling_rate=RATE, hop_length=40, max_frequency=1900.0)
WINDOWS, PARTS, BANDS, TARGET_BAND = 1024, 3, 16, 5
FITTED = {"mfcc_regression", "encoder_regression", "logmel_head"}


def synthetic_frames(seed: int, louder: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise frames (N, 1 + K, F) and targets; one band is louder by this in a quarter of the windows."""
    frames = torch.from_numpy(np.random.default_rng(seed).normal(-1, 0.2, (WINDOWS, PARTS, BANDS))).float()
    targets = torch.arange(WINDOWS) % 4 == 0
    frames[targets, :, TARGET_BAND] += louder
    return torch.cat([frames.mean(1, keepdim=True), frames], 1), targets


def head(name: str) -> EncoderConfig:
    return EncoderConfig(head=name, head_size=8, num_labels=1, positive_weight=3.0)


def random_states() -> list:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("seconds", [0.25, 0.5, 0.75, 1.0])
def test_frames_have_the_layout_of_embeddings(seconds: float) -> None:
    audio = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (2, round(seconds * RATE)))).float()
    features = EXTRACTOR(audio, sampling_rate=RATE)["input_features"]
    frames = log_mel_frames(audio, EXTRACTOR)
    model = EncoderForAudioClassification(EncoderConfig(encoder_config=tiny_encoder().config.to_diff_dict()))
    with torch.inference_mode():
        assert model.eval().embed(features).shape[:2] == frames.shape[:2]
    parts = [features[:, first : first + 32].mean(1) for first in range(0, features.shape[1], 32)]
    torch.testing.assert_close(frames, torch.stack([features.mean(1), *parts], 1))


@pytest.mark.parametrize("name", HEADS)
def test_head_learns_a_target_that_log_mel_shows_and_no_other(name: str) -> None:
    for louder, lowest, highest in ((1.5, 0.995, 1.0), (0.0, 0.4, 0.6)):
        predict = fit_head(*synthetic_frames(0, louder), head(name), seed=0)
        frames, targets = synthetic_frames(1, louder)
        with torch.inference_mode():
            logits = predict(frames).numpy()
        assert logits.shape == (WINDOWS, 1 + PARTS)
        assert lowest <= roc_auc(logits[:, 0], targets.numpy()) <= highest
        first_part = roc_auc(logits[:, 1], targets.numpy())
        assert first_part >= 0.95 if louder else 0.4 <= first_part <= 0.6


@pytest.mark.parametrize("name", HEADS)
def test_head_depends_only_on_its_seed_and_keeps_global_random_state(name: str) -> None:
    frames, targets = synthetic_frames(0, 0.2)
    logits = []
    for run_seed, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(run_seed)
        before = random_states()
        predict = fit_head(frames, targets, head(name), seed)
        assert random_states() == before
        with torch.inference_mode():
            logits.append(predict(frames))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DetectionData:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(baselines, "TRAINING_WINDOWS", 512)
    rows, pools = toy_clips()
    windows = AudioSetWindows(rows, pools.items, SECONDS, RATE)
    return DetectionData(rows, None, pools, None, windows, {"test": toy_side()}, EXTRACTOR, 0.2, "f1")


def baselines_of(model: torch.nn.Module, data: DetectionData) -> tuple[dict[str, ClipScores], dict[str, str]]:
    args = RunTrainingArguments(output_dir="nowhere", use_cpu=True, report_to="none", metric_for_best_model="loss")
    trainer = SimpleNamespace(
        args=args, accelerator=Accelerator(cpu=True), model=model, is_world_process_zero=lambda: True
    )
    side = data.sides["test"]
    model_scores = ClipScores.of(side, np.zeros((len(side), 1)), None, np.ones(len(side), bool))
    scores, left_out = baseline_scores(trainer, data, {"test": model_scores})
    return {name: of["test"] for name, of in scores.items()}, left_out


@pytest.mark.parametrize("name", HEADS)
def test_encoder_is_compared_with_its_head_on_log_mel(name: str, data: DetectionData) -> None:
    config = EncoderConfig(encoder_config=tiny_encoder().config.to_diff_dict(), head=name, num_labels=1)
    model = EncoderForAudioClassification(config).eval()
    before = random_states()[1:]
    scores, left_out = baselines_of(model, data)
    assert random_states()[1:] == before  # of NumPy and torch
    assert scores.keys() == {"loudness"} | FITTED
    assert left_out == {}
    log_mel = scores["logmel_head"]
    assert average_precision(log_mel.clip_scores, log_mel.targets) == 1.0  # positives have their own pitch
    assert log_mel.frames.shape == (len(data.sides["test"]), 2)
    assert 0 <= log_mel.frames.min() <= log_mel.frames.max() <= 1
    data.pools.items.kind[:POSITIVES] = Kind.STRONG
    assert baselines_of(model, data)[1].keys() == FITTED  # no positives to fit on


def test_model_without_encoder_has_no_log_mel_baseline(data: DetectionData) -> None:
    model = TcnForAudioClassification(TcnConfig(input_size=8, num_blocks=1, num_channels=4, id2label={0: "cry"}))
    assert baselines_of(model, data)[0].keys() == {"loudness", "mfcc_regression"}

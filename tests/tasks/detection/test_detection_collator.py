"""The collator turns windows into a batch of any extractor's tensors, with labels, numbers, mixup and masks."""

import doctest

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from modeling.feature_extraction_audio import AudioFeatureExtractor
from tasks.detection.augmentation import Augmentation
from tasks.detection.collator import DetectionCollator
from tests.helpers.detection_rows import RATE, noise

LOG_MEL = {"sampling_rate": RATE, "n_fft": 512, "hop_length": 320, "num_mel_bins": 64, "frame_rate": None}


def extractors() -> dict:
    return {
        "ours": AudioFeatureExtractor(**LOG_MEL),
        "ast": ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=64, max_length=128),
    }


def items(labels: list[float], first_seed: int = 0) -> list[dict]:
    """Make windows of quiet noise in the format of `AudioSetWindows`."""
    return [
        {
            "audio": noise(1, seed=index)[:, 0], "sampling_rate": RATE, "label": label, "item": 10 + index,
            "requested": 20 + index, "seed": first_seed + index, "clip_id": "-a_b", "start_seconds": 1.5,
        }
        for index, label in enumerate(labels)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, features", [("ours", {"input_features": (3, 51, 64), "attention_mask": (3, 51)}), ("ast", None)]
)
def test_batch_holds_extractor_outputs_labels_and_numbers(name, features):
    extractor = extractors()[name]
    windows = items([1.0, 0.0, 0.0])
    batch = DetectionCollator(extractor)(windows)
    direct = extractor([window["audio"] for window in windows], sampling_rate=RATE, return_tensors="pt")
    expected = features or {"input_values": (3, 128, 64)}
    assert {key: tuple(batch[key].shape) for key in direct} == expected
    assert all(torch.equal(batch[key], direct[key]) for key in direct)
    assert set(batch) == {*expected, "labels", "item", "requested", "seed", "mixed"}
    torch.testing.assert_close(batch["labels"], torch.tensor([[1.0], [0.0], [0.0]]))
    assert (batch["item"].tolist(), batch["requested"].tolist()) == ([10, 11, 12], [20, 21, 22])
    assert (batch["seed"].tolist(), batch["seed"].dtype) == ([0, 1, 2], torch.int64)


@pytest.mark.parametrize("name", ["ours", "ast"])
def test_batch_depends_only_on_its_windows(name):
    augmentation = Augmentation(mixup_probability=0.5, spec_time_mask_frames=10, spec_frequency_mask_bins=5)
    collate, plain = DetectionCollator(extractors()[name], augmentation), DetectionCollator(extractors()[name])
    first = collate(items([1.0, 0.0] * 4))
    torch.manual_seed(99)
    second = collate(items([1.0, 0.0] * 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    features = collate.extractor.model_input_names[0]
    assert not torch.equal(first[features], plain(items([1.0, 0.0] * 4))[features])


@pytest.mark.parametrize("rule", ["max", "linear"])
def test_windows_mixed_with_a_positive_are_marked(rule):
    windows = items([1.0] + [0.0] * 7)
    augmentation = Augmentation(mixup_probability=0.5, mixup_rule=rule)
    collate = DetectionCollator(extractors()["ours"], augmentation)
    marked = 0
    for first_seed in range(0, 200, 10):
        for index, window in enumerate(windows):
            window["seed"] = first_seed + index
        batch = collate(windows)
        partners = augmentation.mixup_partners(batch["seed"].tolist())
        np.testing.assert_array_equal(batch["mixed"], partners == 0)
        np.testing.assert_array_equal(batch["labels"][1:, 0] > 0, partners[1:] == 0)
        assert batch["item"].tolist() == list(range(10, 18))
        assert batch["requested"].tolist() == list(range(20, 28))
        marked += int(batch["mixed"].sum())
    assert marked > 0


def test_evaluation_windows_are_not_augmented():
    everything = Augmentation(mixup_probability=1.0, spec_time_mask_frames=10, spec_frequency_mask_bins=5)
    windows = [
        {"audio": window["audio"], "label": window["label"], "readable": window["label"] > 0, "seed": -1}
        for window in items([1.0, 0.0])
    ]
    plain = DetectionCollator(extractors()["ours"])(windows)
    augmented = DetectionCollator(extractors()["ours"], everything)(windows)
    assert all(torch.equal(plain[key], augmented[key]) for key in plain)
    assert plain["readable"].tolist() == [True, False]
    assert plain["mixed"].tolist() == [False, False]


def test_masks_need_three_dimensional_features():
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE)
    batch = DetectionCollator(extractor, Augmentation(mixup_probability=1.0))(items([1.0, 0.0]))
    assert batch["input_values"].shape == (2, RATE)
    with pytest.raises(ValueError, match=r"spec_time_mask_frames=4, .*\(2, 16000\)"):
        DetectionCollator(extractor, Augmentation(spec_time_mask_frames=4))(items([1.0, 0.0]))


def test_rate_other_than_the_extractors_is_rejected():
    windows = [window | {"sampling_rate": 32000} for window in items([1.0])]
    with pytest.raises(ValueError, match="sampling_rate=32000: .*16000 Hz"):
        DetectionCollator(extractors()["ours"])(windows)


def test_docstring_example_runs():
    names = {"np": np, "AudioFeatureExtractor": AudioFeatureExtractor, "DetectionCollator": DetectionCollator}
    example = doctest.DocTestParser().get_doctest(DetectionCollator.__doc__, names, "DetectionCollator", None, 0)
    assert len(example.examples) == 7
    assert doctest.DocTestRunner().run(example).failed == 0

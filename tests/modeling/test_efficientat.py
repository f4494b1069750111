"""EfficientAT: the published weights give the same logits in plain torch, and frozen layers do not change."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from media.audio import read_audio
from modeling import (
    EfficientAtConfig,
    EfficientAtFeatureExtractor,
    EfficientAtForAudioClassification,
    EfficientAtModel,
)
from modeling.modeling_efficientat import in_equal_parts
from tests.helpers.efficientat import LABELS, WEIGHTS, small_encoder
from training.official_efficientat import build_official, read_labels, save_encoder

RATE = 32000
STRIDES = {0: 2, 2: 2, 4: 2, 7: 2, 13: 2}
EXPECTED_LABELS = {
    "car-horn": "Vehicle horn, car horn, honking",
    "dog": "Domestic animals, pets",  # "Dog" is third
    "gunshots": "Gunshot, gunfire",
    "snoring": "Snoring",
    "typing": "Typing",
}


def plain_log_mel(sound: torch.Tensor) -> torch.Tensor:
    """Log-mel features (F, T) in float64 by definition, frame by frame."""
    emphasised = sound.double()[1:] - 0.97 * sound.double()[:-1]
    padded = F.pad(emphasised[None, None], (512, 512), mode="reflect")[0, 0]
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * torch.arange(800).double() / 799)
    frames = padded.unfold(0, 1024, 320)[:, 112:912] * window
    power = torch.fft.rfft(frames, 1024).abs().square()  # (T, 513); the start of a frame only affects phases
    mel = lambda hertz: 1127 * np.log1p(np.asarray(hertz) / 700)  # noqa: E731
    edges = np.linspace(mel(0), mel(15000), 130)
    bin_mel = mel(np.arange(513) * RATE / 1024)[None]
    left, center, right = (edges[i : i + 128, None] for i in range(3))
    filters = np.maximum(0, np.minimum((bin_mel - left) / (center - left), (right - bin_mel) / (right - center)))
    filters[:, -1] = 0
    return ((torch.from_numpy(filters) @ power.T + 1e-5).log() + 4.5) / 5


def plain_logits(tensors: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Logits (L,) of log-mel features (F, T), computed from the published tensors only."""

    def convolved(x: torch.Tensor, prefix: str, stride: int = 1, act: str = "") -> torch.Tensor:
        weight = tensors[f"{prefix}.0.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        norm = [tensors[f"{prefix}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *norm, eps=1e-3)
        return {"": lambda x: x, "relu": F.relu, "hardswish": F.hardswish}[act](x)

    x = convolved(features[None, None], "features.0", 2, "hardswish")
    for block in range(1, 16):
        parts = sorted(
            {int(match[1]) for name in tensors if (match := re.match(rf"features\.{block}\.block\.(\d)", name))}
        )
        act, before, stride = "relu" if block < 7 else "hardswish", x, STRIDES.get(block, 1)
        for part in parts:
            prefix = f"features.{block}.block.{part}"
            squeeze = f"{prefix}.conc_se_layers.0"
            if f"{squeeze}.fc1.weight" in tensors:
                mean = x.mean((2, 3))
                inner = F.relu(F.linear(mean, tensors[f"{squeeze}.fc1.weight"], tensors[f"{squeeze}.fc1.bias"]))
                outer = F.linear(inner, tensors[f"{squeeze}.fc2.weight"], tensors[f"{squeeze}.fc2.bias"])
                x = x * outer.sigmoid()[..., None, None]
                continue
            depthwise = tensors[f"{prefix}.0.weight"].shape[-1] > 1
            x = convolved(x, prefix, stride if depthwise else 1, "" if part == parts[-1] else act)
        x = x + before if stride == 1 and x.shape == before.shape else x
    x = convolved(x, "features.16", act="hardswish").mean((2, 3))
    x = F.hardswish(F.linear(x, tensors["classifier.2.weight"], tensors["classifier.2.bias"]))
    return F.linear(x, tensors["classifier.5.weight"], tensors["classifier.5.bias"])[0]


@pytest.fixture(scope="module")
def tensors(real_data: Path) -> dict[str, torch.Tensor]:
    return load_file(real_data / WEIGHTS)


@pytest.fixture(scope="module")
def mn04(real_data: Path, tensors: dict[str, torch.Tensor]) -> EfficientAtForAudioClassification:
    return build_official(tensors, read_labels(real_data / LABELS), "mn04")


@pytest.mark.parametrize("name", EXPECTED_LABELS)
def test_published_weights_match_plain_torch_and_detect_the_right_label(
    name: str, real_data: Path, tensors: dict[str, torch.Tensor], mn04: EfficientAtForAudioClassification
) -> None:
    sound, _ = read_audio(real_data / "sounds" / f"{name}.flac", RATE)
    features = EfficientAtFeatureExtractor()(sound, sampling_rate=RATE)["input_features"]
    expected = plain_log_mel(torch.from_numpy(sound))
    torch.testing.assert_close(features[0].T.double(), expected, rtol=0, atol=1e-3)  # float32
    with torch.inference_mode():
        logits = mn04(features).logits[0]
        torch.testing.assert_close(logits, plain_logits(tensors, expected.float()), rtol=0, atol=1e-4)
    assert mn04.num_parameters() == 983_599
    highest = logits.argsort(descending=True)[:2]
    assert EXPECTED_LABELS[name] in [mn04.config.id2label[int(index)] for index in highest]


def test_a_clip_is_the_same_alone_and_in_a_batch_and_has_an_embedding_per_32_frames() -> None:
    model, extractor = small_encoder(), EfficientAtFeatureExtractor()
    sounds = 0.1 * torch.randn(3, RATE)
    with torch.inference_mode():
        together = model(**extractor(sounds, sampling_rate=RATE))
        alone = [model(**extractor(sound, sampling_rate=RATE)) for sound in sounds]
        states = model.base_model(**extractor(sounds, sampling_rate=RATE))
    for name in ("logits", "frame_logits"):
        torch.testing.assert_close(torch.cat([output[name] for output in alone]), together[name], rtol=0, atol=1e-5)
    assert together.logits.std() > 1e-3
    assert states.last_hidden_state.shape == (3, 4, model.config.hidden_size)  # 1 s has 100 frames
    torch.testing.assert_close(states.last_hidden_state.mean(1), states.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 4), (2.0, 7), (0.3, 1)])
def test_frames_divide_a_window_evenly(seconds: float, count: int) -> None:
    # Embeddings are 0.32 s apart from the start of the window. As scores, use the times themselves.
    times = 0.32 * torch.arange(count)
    middles = (torch.arange(count) + 0.5) / count * seconds
    interpolated = in_equal_parts(times[None, :, None], seconds)[0, :, 0]
    torch.testing.assert_close(interpolated, middles.clamp(max=float(times[-1])))


@pytest.mark.parametrize(
    ("sounds", "rate", "message"),
    [
        (np.zeros(RATE), 16000, "sampling_rate=16000"),
        ([np.zeros(RATE), np.zeros(2 * RATE)], RATE, "audio: .* 32000 to 64000 samples"),
        (np.zeros(9), RATE, "audio: .* 9 to 9 samples"),
    ],
)
def test_another_rate_or_unequal_or_short_clips_are_refused(sounds, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientAtFeatureExtractor()(sounds, sampling_rate=rate)


def test_a_maximum_frequency_above_half_the_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="max_frequency=15000: .*sampling_rate=16000"):
        EfficientAtFeatureExtractor(sampling_rate=16000)


@pytest.mark.parametrize(("last_n", "trained"), [(0, 0), (2, 2), (17, 17), (None, 17)])
def test_frozen_layers_keep_weights_and_statistics_in_training(last_n: int | None, trained: int) -> None:
    model = small_encoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.freeze(last_n)
    model.train()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    model(torch.randn(4, 101, 128), labels=torch.rand(4, 5)).loss.backward()
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    layers = {int(name.split(".")[2]) for name in changed if name.startswith("efficientat.")}
    assert layers == set(range(17 - trained, 17))
    assert "classifier.0.weight" in changed
    assert ("efficientat.features.16.1.running_mean" in changed) == bool(trained)
    model.freeze(None)
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(module.training for module in model.modules())


def test_loaded_weights_have_the_fast_layout_and_give_the_same_bits(tmp_path: Path) -> None:
    model = small_encoder()
    model.save_pretrained(tmp_path)
    loaded = EfficientAtForAudioClassification.from_pretrained(tmp_path)
    features = torch.randn(3, 101, 128)
    with torch.inference_mode():
        assert torch.equal(loaded(features).logits, model(features).logits)
    kernels = [layer.weight for layer in loaded.efficientat.features.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(kernel.stride(1) == 1 for kernel in kernels)  # strides, because depthwise kernels are always contiguous


def test_training_more_layers_than_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="last_n=18"):
        small_encoder().freeze(18)


@pytest.mark.parametrize("settings", [{"width": 0}, {"width": 11}, {"hop_seconds": 2.5}, {"classifier_dropout": 1}])
def test_invalid_sizes_are_refused_by_name(settings: dict) -> None:
    ((key, value),) = settings.items()
    with pytest.raises(ValueError, match=f"EfficientAtConfig: {key}={value}"):
        EfficientAtConfig(**settings)


LOAD = """
import sys, numpy, torch, transformers
load = dict(trust_remote_code=True)
model = getattr(transformers, sys.argv[2]).from_pretrained(sys.argv[1], **load).eval()
extractor = transformers.AutoFeatureExtractor.from_pretrained(sys.argv[1], **load)
assert not any(name == "modeling" or name.startswith("modeling.") for name in sys.modules)
sound = numpy.load("sound.npy")
with torch.inference_mode():
    numpy.save("out.npy", model(**extractor(sound, sampling_rate=32000))[sys.argv[3]].numpy())
assert model.config.window_seconds == 1.5
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("auto", "output"), [("AutoModel", "pooler_output"), ("AutoModelForAudioClassification", "logits")]
)
def test_a_process_without_the_repository_predicts_the_same_bits(auto: str, output: str, tmp_path: Path) -> None:
    model: torch.nn.Module = small_encoder(window_seconds=1.5)
    save_encoder(model, tmp_path / "model")
    if auto == "AutoModel":
        model = model.base_model
        assert isinstance(model, EfficientAtModel)
        model.save_pretrained(tmp_path / "model")
    sound = (0.1 * torch.randn(2, RATE)).numpy()
    np.save(tmp_path / "sound.npy", sound)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model"), auto, output]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        expected = model(**EfficientAtFeatureExtractor()(sound, sampling_rate=RATE))[output].numpy()
    assert np.array_equal(np.load(tmp_path / "out.npy"), expected)

"""EfficientAT: the published weights say what they say in plain torch, and what is frozen stays as it was."""

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
HEARD = {
    "car-horn": "Vehicle horn, car horn, honking",
    "dog": "Domestic animals, pets",  # "Dog" is third
    "gunshots": "Gunshot, gunfire",
    "snoring": "Snoring",
    "typing": "Typing",
}


def plain_log_mel(sound: torch.Tensor) -> torch.Tensor:
    """The front end (F, T) in float64 by its definition, frame by frame."""
    emphasised = sound.double()[1:] - 0.97 * sound.double()[:-1]
    padded = F.pad(emphasised[None, None], (512, 512), mode="reflect")[0, 0]
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * torch.arange(800).double() / 799)
    frames = padded.unfold(0, 1024, 320)[:, 112:912] * window
    power = torch.fft.rfft(frames, 1024).abs().square()  # (T, 513); where a frame starts changes phases alone
    mel = lambda hertz: 1127 * np.log1p(np.asarray(hertz) / 700)  # noqa: E731
    edges = np.linspace(mel(0), mel(15000), 130)
    place = mel(np.arange(513) * RATE / 1024)[None]
    left, centre, right = (edges[i : i + 128, None] for i in range(3))
    filters = np.maximum(0, np.minimum((place - left) / (centre - left), (right - place) / (right - centre)))
    filters[:, -1] = 0
    return ((torch.from_numpy(filters) @ power.T + 1e-5).log() + 4.5) / 5


def plain_logits(tensors: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Logits (L,) of log-mel features (F, T) by the published tensors alone."""

    def convolved(x: torch.Tensor, place: str, stride: int = 1, act: str = "") -> torch.Tensor:
        weight = tensors[f"{place}.0.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        norm = [tensors[f"{place}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *norm, eps=1e-3)
        return {"": lambda x: x, "relu": F.relu, "hardswish": F.hardswish}[act](x)

    x = convolved(features[None, None], "features.0", 2, "hardswish")
    for block in range(1, 16):
        parts = sorted(
            {int(found[1]) for name in tensors if (found := re.match(rf"features\.{block}\.block\.(\d)", name))}
        )
        act, before, stride = "relu" if block < 7 else "hardswish", x, STRIDES.get(block, 1)
        for part in parts:
            place = f"features.{block}.block.{part}"
            squeeze = f"{place}.conc_se_layers.0"
            if f"{squeeze}.fc1.weight" in tensors:
                mean = x.mean((2, 3))
                inner = F.relu(F.linear(mean, tensors[f"{squeeze}.fc1.weight"], tensors[f"{squeeze}.fc1.bias"]))
                outer = F.linear(inner, tensors[f"{squeeze}.fc2.weight"], tensors[f"{squeeze}.fc2.bias"])
                x = x * outer.sigmoid()[..., None, None]
                continue
            depthwise = tensors[f"{place}.0.weight"].shape[-1] > 1
            x = convolved(x, place, stride if depthwise else 1, "" if part == parts[-1] else act)
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


@pytest.mark.parametrize("name", HEARD)
def test_published_weights_say_what_they_say_in_plain_torch_and_hear_right(
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
    assert HEARD[name] in [mn04.config.id2label[int(place)] for place in logits.argsort(descending=True)[:2]]


def test_alone_is_as_in_a_batch_and_embeddings_have_a_clock() -> None:
    model, extractor = small_encoder(), EfficientAtFeatureExtractor()
    sounds = 0.1 * torch.randn(3, RATE)
    with torch.inference_mode():
        together = model(**extractor(sounds, sampling_rate=RATE))
        alone = [model(**extractor(sound, sampling_rate=RATE)) for sound in sounds]
        states = model.base_model(**extractor(sounds, sampling_rate=RATE))
    for name in ("logits", "frame_logits"):
        torch.testing.assert_close(torch.cat([output[name] for output in alone]), together[name], rtol=0, atol=1e-5)
    assert together.logits.std() > 1e-3
    assert states.last_hidden_state.shape == (3, 4, model.config.hidden_size)  # a second is 100 frames
    torch.testing.assert_close(states.last_hidden_state.mean(1), states.pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("seconds", "count"), [(1.0, 4), (2.0, 7), (0.3, 1)])
def test_frames_divide_a_window_evenly(seconds: float, count: int) -> None:
    """The embeddings are 0.32 s apart, from the start of the window on: here they say when they are."""
    clock = 0.32 * torch.arange(count)
    middles = (torch.arange(count) + 0.5) / count * seconds
    found = in_equal_parts(clock[None, :, None], seconds)[0, :, 0]
    torch.testing.assert_close(found, middles.clamp(max=float(clock[-1])))


def test_a_sound_of_another_rate_and_sounds_of_two_lengths_are_refused() -> None:
    extractor = EfficientAtFeatureExtractor()
    for sounds, rate in ((np.zeros(RATE), 16000), ([np.zeros(RATE), np.zeros(2 * RATE)], RATE), (np.zeros(9), RATE)):
        with pytest.raises(ValueError, match="sampling_rate=16000|audio: sounds of"):
            extractor(sounds, sampling_rate=rate)


def test_a_rate_that_has_no_such_frequencies_is_refused() -> None:
    with pytest.raises(ValueError, match="max_frequency=15000 with sampling_rate=16000"):
        EfficientAtFeatureExtractor(sampling_rate=16000)


@pytest.mark.parametrize(("last_n", "trained"), [(0, 0), (2, 2), (17, 17), (None, 17)])
def test_what_is_frozen_keeps_weights_and_statistics_in_training(last_n: int | None, trained: int) -> None:
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


def test_loaded_weights_keep_the_layout_that_is_fast_and_say_the_same_bits(tmp_path: Path) -> None:
    model = small_encoder()
    model.save_pretrained(tmp_path)
    loaded = EfficientAtForAudioClassification.from_pretrained(tmp_path)
    features = torch.randn(3, 101, 128)
    with torch.inference_mode():
        assert torch.equal(loaded(features).logits, model(features).logits)
    kernels = [layer.weight for layer in loaded.efficientat.features.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert all(kernel.stride(1) == 1 for kernel in kernels)  # by strides: depthwise kernels are contiguous either way


def test_more_layers_than_there_are_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="last_n=18"):
        small_encoder().freeze(18)


@pytest.mark.parametrize("settings", [{"width": 0}, {"width": 11}, {"hop_seconds": 2.5}, {"classifier_dropout": 1}])
def test_a_size_that_makes_no_model_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"EfficientAtConfig: {next(iter(settings))}"):
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
def test_a_process_elsewhere_hears_the_same_bits(auto: str, output: str, tmp_path: Path) -> None:
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

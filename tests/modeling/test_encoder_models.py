"""A head on a pretrained encoder: outputs of a new model, trained parameters, saving."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForAudioClassification

from modeling import EfficientAtFeatureExtractor, EncoderConfig
from modeling.configuration_encoder import FINETUNE, HEADS
from modeling.modeling_encoder import EncoderForAudioClassification
from tests.helpers.tiny_encoder import LABELS, tiny_encoder

TARGET = LABELS.index("Baby cry, infant cry")
LAYERS = 17
LOAD = """
import sys
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

assert not any(name.split(".")[0] == "modeling" for name in sys.modules)
torch.set_num_threads(1)
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = extractor(np.load("sound.npy"), sampling_rate=32000)
with torch.no_grad():
    np.save("logits.npy", model(**batch).logits.numpy())
"""


def make_model(**settings: object) -> EncoderForAudioClassification:
    encoder = tiny_encoder()
    encoder_settings = encoder.config.to_diff_dict() | {"window_seconds": 1.0}  # the length of `features`
    config = EncoderConfig(encoder_config=encoder_settings, num_labels=1, **settings)
    model = AutoModelForAudioClassification.from_config(config)
    model.encoder.load_state_dict(encoder.state_dict())
    return model.eval()


def make_head_random(model: EncoderForAudioClassification) -> EncoderForAudioClassification:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.normal_(std=0.3)
    size = model.config.encoder_config.hidden_size
    model.set_embedding_scaling(torch.randn(size), torch.rand(size) + 0.5)
    return model


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(3, 100, 128, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("head", HEADS)
def test_a_new_model_scores_like_its_encoder_or_outputs_zero(head: str, features: torch.Tensor) -> None:
    with torch.no_grad():
        output = make_model(head=head, encoder_labels=[TARGET], finetune="full")(features)
        expected = tiny_encoder()(features)
        silent = make_model(head=head)(features)
    torch.testing.assert_close(output.logits[:, 0], expected.logits[:, TARGET])
    torch.testing.assert_close(output.frame_logits[..., 0], expected.frame_logits[..., TARGET])
    assert expected.logits[:, TARGET].std() > 1e-3
    assert not silent.logits.any()
    assert not silent.frame_logits.any()


def test_the_highest_of_several_encoder_labels_counts(features: torch.Tensor) -> None:
    with torch.no_grad():
        logits = make_model(encoder_labels=[0, TARGET], finetune="full")(features).logits[:, 0]
        torch.testing.assert_close(logits, tiny_encoder()(features).logits[:, [0, TARGET]].amax(1))


@pytest.mark.parametrize("finetune", FINETUNE)
@pytest.mark.parametrize("head", HEADS)
def test_the_head_on_embeddings_equals_the_model_on_features(head: str, finetune: str, features: torch.Tensor) -> None:
    # With a frozen encoder, embeddings are rounded to half precision, like stored ones.
    model = make_head_random(make_model(head=head, finetune=finetune, encoder_labels=[TARGET]))
    with torch.no_grad():
        expected, embeddings = model(features), model.embed(features)
        exact, rounded = model(embeddings=embeddings), model(embeddings=embeddings.half())
    assert embeddings.shape == (3, 5, model.config.encoder_config.hidden_size)
    same, other = (rounded, exact) if finetune == "none" else (exact, rounded)
    assert torch.equal(expected.logits, same.logits)
    assert torch.equal(expected.frame_logits, same.frame_logits)
    assert not torch.equal(expected.logits, other.logits)
    torch.testing.assert_close(other.logits, expected.logits, rtol=0, atol=2e-2)
    assert len(expected.logits.unique()) == 3


def test_features_or_embeddings_must_be_given_not_both(features: torch.Tensor) -> None:
    model = make_model()
    for inputs in ({}, {"input_features": features, "embeddings": model.embed(features)}):
        with pytest.raises(ValueError, match="input_features, embeddings"):
            model(**inputs)


@pytest.mark.parametrize("finetune", FINETUNE)
def test_only_trained_parts_change(finetune: str, features: torch.Tensor) -> None:
    # Frozen layers also keep the running statistics of their norms.
    model = make_head_random(make_model(finetune=finetune, finetune_layers=2, encoder_labels=[TARGET]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    parts = model.parts()
    optimizer = torch.optim.SGD([p for part in parts.values() for p in part], lr=0.1)
    model(features, labels=torch.tensor([[1.0], [0.0], [1.0]])).loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {"none": 0, "last_n": 2, "full": LAYERS}[finetune]
    layers = {int(name.split(".")[3]) for name in changed if name.startswith("encoder.efficientat.features.")}
    assert layers == set(range(LAYERS - trained, LAYERS))
    assert {name.split(".")[0] for name in changed} == ({"head", "encoder"} if trained else {"head"})
    assert not any("classifier" in name for name in changed if name.startswith("encoder."))
    assert any(parameter.requires_grad for parameter in parts["encoder"]) == (trained > 0)
    assert all(parameter.requires_grad for parameter in parts["head"])
    assert any("running_mean" in name for name in changed) == (trained > 0)


def test_positive_weight_scales_the_loss_of_positives(features: torch.Tensor) -> None:
    labels = torch.tensor([[1.0], [0.0], [0.0]])
    with torch.no_grad():
        logits = make_model(encoder_labels=[TARGET])(features).logits
        loss = make_model(encoder_labels=[TARGET], positive_weight=3.0)(features, labels=labels).loss
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    torch.testing.assert_close(loss, (3 * losses[0] + losses[1] + losses[2]).squeeze() / 3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("head", "rnn"), ("finetune", "some"), ("head_size", 0), ("head_dropout", 1.0), ("positive_weight", 0.0),
     ("encoder_labels", [4]), ("finetune_layers", 0), ("heads", "mlp")],
)  # fmt: skip
def test_invalid_settings_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=re.escape(f"EncoderConfig: {key}={value!r}")):
        EncoderConfig(encoder_config=tiny_encoder().config.to_diff_dict(), num_labels=1, **{key: value})


def test_more_finetuned_layers_than_the_encoder_has_are_refused() -> None:
    with pytest.raises(ValueError, match=f"finetune_layers={LAYERS + 1}"):
        make_model(finetune="last_n", finetune_layers=LAYERS + 1)


@pytest.mark.parametrize("head", HEADS)
def test_a_loaded_model_has_the_same_bits(head: str, features: torch.Tensor, tmp_path: Path) -> None:
    model = make_head_random(make_model(head=head, finetune="last_n", encoder_labels=[TARGET]))
    model.save_pretrained(tmp_path)
    other = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name, parameter in other.named_parameters() if parameter.requires_grad] == trained
    assert torch.equal(model(features).logits, other.eval()(features).logits)


@pytest.mark.slow
def test_a_process_without_the_repository_loads_the_folder(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    model = make_head_random(make_model(head="tcn", encoder_labels=[TARGET]))
    extractor = EfficientAtFeatureExtractor()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    sound = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    np.save(elsewhere / "sound.npy", sound)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(folder)]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(**extractor(sound, sampling_rate=32000)).logits.numpy()
    np.testing.assert_allclose(np.load(elsewhere / "logits.npy"), expected, rtol=0, atol=1e-5)

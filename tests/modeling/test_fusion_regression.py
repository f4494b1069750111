"""Regression on stored embeddings: variable length, masks, scaling, loss, saving."""

import itertools

import pytest
import torch
from transformers import AutoModel

from modeling import FusionConfig, FusionForEmotion, FusionForRegression
from modeling.configuration_fusion import EMBEDDING_POOLINGS

SIZES = {"text": 6, "video": 5, "audio": 4, "back_audio": 3}
SUBSETS = [list(names) for count in (1, 2, 3, 4) for names in itertools.combinations(SIZES, count)]


def model_of(**settings: object) -> FusionForRegression:
    """A small model in evaluation mode."""
    settings = {"modalities": list(SIZES), "embedding_sizes": SIZES, "hidden_size": 16, "fusion_size": 12} | settings
    torch.manual_seed(0)
    return FusionForRegression(FusionConfig(**settings)).eval()


def inputs_of(modalities: list[str], items: int = 4, frames: int = 3) -> dict[str, torch.Tensor]:
    """A batch without missing modalities."""
    inputs = {f"{name}_embeddings": torch.randn(items, frames, SIZES[name]) for name in modalities}
    return inputs | {f"{name}_mask": torch.ones(items, frames).long() for name in modalities}


@pytest.mark.parametrize("pooling", EMBEDDING_POOLINGS)
@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
def test_any_subset_trains_and_predicts_with_any_modality_missing(modalities, pooling):
    model = model_of(modalities=modalities, embedding_pooling=pooling, learned_absent=True, modality_dropout=0.3)
    for present in [[], *SUBSETS]:
        if not set(present) <= set(modalities):
            continue
        inputs = inputs_of(modalities)
        for name in set(modalities) - set(present):
            inputs[f"{name}_mask"].zero_()
            inputs[f"{name}_embeddings"].fill_(float("nan"))
        output = model.eval()(**inputs, labels=torch.randn(4))
        assert output.predictions.shape == (4,)
        assert output.predictions.isfinite().all()
        assert output.loss.isfinite()
        assert output.present.tolist() == [[name in present for name in modalities]] * 4
        model.train().zero_grad()
        model(**inputs, labels=torch.randn(4)).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pooling", EMBEDDING_POOLINGS)
def test_padding_and_order_in_time_have_no_influence(pooling):
    model = model_of(embedding_pooling=pooling)
    short = inputs_of(list(SIZES))
    longer = {
        name: torch.nn.functional.pad(x, (0, 2)) if x.ndim == 2 else torch.cat([x, x[:, :2] * torch.nan], 1)
        for name, x in short.items()
    }
    torch.testing.assert_close(model(**short).predictions, model(**longer).predictions)
    reversed_time = {name: x.flip(1) for name, x in short.items()}
    torch.testing.assert_close(model(**short).predictions, model(**reversed_time).predictions)


@pytest.mark.parametrize("pooling", EMBEDDING_POOLINGS)
def test_under_bfloat16_autocast_it_trains_and_padding_has_no_influence(pooling):
    model = model_of(embedding_pooling=pooling)
    inputs = inputs_of(list(SIZES)) | {"labels": torch.randn(4)}
    for name in SIZES:
        inputs[f"{name}_mask"][0, 1:] = 0
    single = model(**inputs)
    for name in SIZES:
        inputs[f"{name}_embeddings"][0, 1:] = 1e4
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**inputs)
    torch.testing.assert_close(half.predictions.float(), single.predictions, atol=0.02, rtol=0.02)
    half.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_embeddings_over_time_are_averaged_after_scaling():
    # By hand: (1 - 1) / 2 = 0 and (5 - 1) / 2 = 2, mean 1. The third is masked.
    model = model_of(modalities=["back_audio"], embedding_sizes={"back_audio": 1})
    model.set_input_scaling("back_audio", torch.tensor([1.0]), torch.tensor([2.0]))
    embeddings, mask = torch.tensor([[[1.0], [5.0], [99.0]]]), torch.tensor([[1, 1, 0]])
    assert model.fusion.branches["back_audio"].encode(embeddings, mask).tolist() == [[1.0]]


@pytest.mark.parametrize(("loss", "expected"), [("mse", (0.25 + 4) / 2), ("huber", (0.125 + 1.5) / 2)])
def test_the_loss_is_in_deviations_and_predictions_in_the_unit(loss, expected):
    # By hand: targets have mean 10 and deviation 2. The network outputs 0, which is 10. Labels 11 and 14 are 0.5 and 2
    # deviations away.
    model = model_of(regression_loss=loss, target_mean=10.0, target_std=2.0)
    last = model.regression[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    inputs = inputs_of(list(SIZES), items=2)
    output = model(**inputs, labels=torch.tensor([11.0, 14.0]))
    assert output.predictions.tolist() == [10.0, 10.0]
    assert output.loss.item() == pytest.approx(expected)
    split = model(**inputs, labels=torch.tensor([11.0, 14.0]), num_items_in_batch=4)
    assert split.loss.item() == pytest.approx(expected / 2)


def test_the_projection_is_trained_and_saved(tmp_path):
    # No layer is created in `forward`: its input size comes from the config.
    model = model_of(embedding_pooling="attention", learned_absent=True)
    for name, size in SIZES.items():
        model.set_input_scaling(name, torch.randn(size), torch.rand(size) + 0.5)
        assert model.fusion.branches[name].projection.weight.shape == (16, size)
    before = model.fusion.branches["audio"].projection.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = inputs_of(list(SIZES))
    model.train()(**inputs, labels=torch.randn(4)).loss.backward()
    optimizer.step()
    assert not torch.equal(before, model.fusion.branches["audio"].projection.weight)
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, FusionForRegression)
    assert torch.equal(loaded(**inputs).predictions, model(**inputs).predictions)


def test_it_learns_a_product_of_two_modalities():
    # No linear map of the embeddings can learn a product.
    torch.manual_seed(1)
    model = model_of(modalities=["text", "audio"], branch_dropout=0.0, fusion_dropout=0.0, head_dropout=0.0).train()
    inputs = inputs_of(["text", "audio"], items=256, frames=1)
    target = inputs["text_embeddings"][:, 0, 0] * inputs["audio_embeddings"][:, 0, 0]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(**inputs, labels=target).loss.backward()
        optimizer.step()
    predictions = model.eval()(**inputs).predictions
    assert torch.corrcoef(torch.stack([predictions, target]))[0, 1] > 0.9


def test_emotions_can_be_predicted_from_embeddings():
    sizes = {"text": 6, "voice": 4}
    model = FusionForEmotion(FusionConfig(modalities=["text", "voice"], embedding_sizes=sizes)).eval()
    inputs = {"text_embeddings": torch.randn(3, 2, 6), "voice_embeddings": torch.randn(3, 5, 4)}
    assert model(**inputs).emotion_logits.shape == (3, 7)
    assert model.config.text_config is None


@pytest.mark.parametrize(
    ("settings", "key_and_value"),
    [
        ({"modalities": ["smell"]}, r"modalities=\['smell'\].*text, video, audio, back_audio"),
        ({"modalities": ["text"], "embedding_sizes": {"text": 0}}, "embedding_sizes.text=0"),
        ({"embedding_pooling": "max"}, "embedding_pooling='max'"),
        ({"regression_loss": "l1"}, "regression_loss='l1'"),
        ({"target_std": 0.0}, "target_std=0.0"),
    ],
)
def test_invalid_settings_are_refused_by_name(settings, key_and_value):
    with pytest.raises(ValueError, match=f"^FusionConfig: {key_and_value}"):
        model_of(**settings)


def test_invalid_inputs_are_refused():
    model = model_of()
    with pytest.raises(ValueError, match=r"embeddings.shape=\(2, 6\).*\(B, T, 6\)"):
        model(text_embeddings=torch.randn(2, 6))
    with pytest.raises(ValueError, match=r"labels.shape=\(4, 1\).*\(B,\) = \(4,\)"):
        model(**inputs_of(list(SIZES)), labels=torch.randn(4, 1))
    with pytest.raises(ValueError, match=r"^text: .*shape \(3,\).* 6 numbers"):
        model.set_input_scaling("text", torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="^text: std"):
        model.set_input_scaling("text", torch.zeros(6), torch.zeros(6))

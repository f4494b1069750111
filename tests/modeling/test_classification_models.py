"""Models that predict labels of a clip: masks, pooling, loss, localization and saving, for all models."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForAudioClassification, PreTrainedConfig

from modeling import CLASSIFICATION_MODELS, SIGNAL_MODELS, TcnConfig, TcnForAudioClassification
from modeling.layers import IGNORE_LABEL, POOLINGS
from modeling.modeling_classification import MULTI, SINGLE, PooledHead, classification_loss

FEATURES, LABELS = 5, 3
over_models = pytest.mark.parametrize(
    ("config_class", "model_class"),
    [pytest.param(*classes, id=classes[0].model_type) for classes in CLASSIFICATION_MODELS],
)
all_poolings = pytest.mark.parametrize("pooling", POOLINGS)
SMALL = {"num_blocks": 3, "num_channels": 8, "num_layers_per_stack": 3, "residual_channels": 8, "skip_channels": 8}


def small(config_class: type[PreTrainedConfig], **changes: object) -> PreTrainedConfig:
    """A config for fast tests, with three labels of a multi-label problem and no dropout."""
    sizes = {name: size for name, size in SMALL.items() if name in config_class.__dataclass_fields__}
    defaults = {"input_size": FEATURES, "dropout": 0.0, "num_labels": LABELS, "problem_type": MULTI}
    return config_class(**{**defaults, **sizes, **changes})


def attentive(model: torch.nn.Module) -> torch.nn.Module:
    """Give the model random attention weights, because those of a new model are 0."""
    if model.head.attention is not None:
        with torch.no_grad():
            model.head.attention.weight.normal_()
    return model


# Masks


@over_models
@all_poolings
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_clip_alone_and_in_a_padded_batch_agree(config_class, model_class, pooling, dtype, tolerance) -> None:
    config = config_class(input_size=FEATURES, pooling=pooling, num_labels=LABELS, problem_type=MULTI)
    model = attentive(model_class(config)).to(dtype).eval()
    lengths = (128, 41, 1)
    x = torch.randn(3, 128, FEATURES, dtype=dtype)
    batch = model(x, attention_mask=torch.arange(128) < torch.tensor(lengths)[:, None])
    for clip, length in enumerate(lengths):
        alone = model(x[clip : clip + 1, :length])
        assert (batch.logits[clip] - alone.logits[0]).abs().max() <= tolerance
        assert (batch.frame_logits[clip, :length] - alone.frame_logits[0]).abs().max() <= tolerance
        assert not batch.frame_logits[clip, length:].any()


@over_models
@all_poolings
@pytest.mark.parametrize("garbage", [1e30, math.nan, math.inf])
def test_values_in_padding_change_no_bit(config_class, model_class, pooling, garbage) -> None:
    model = attentive(model_class(small(config_class, dropout=0.1, pooling=pooling))).train()
    mask = torch.arange(50) < torch.tensor([50, 20])[:, None]
    clean = torch.randn(2, 50, FEATURES) * mask[..., None]
    outputs, gradients = [], []
    for x in (clean, clean.masked_fill(~mask[..., None], garbage)):
        torch.manual_seed(1)
        model.zero_grad()
        outputs.append(model(x, attention_mask=mask.long(), labels=torch.rand(2, LABELS).round()))
        outputs[-1].loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for name in ("loss", "logits", "frame_logits"):
        assert torch.equal(outputs[0][name], outputs[1][name])
    assert all(map(torch.equal, *gradients))


@over_models
@all_poolings
def test_every_parameter_gets_a_finite_gradient(config_class, model_class, pooling) -> None:
    # DistributedDataParallel would have to search for parameters without one.
    model = attentive(model_class(small(config_class, pooling=pooling))).train()
    mask = torch.arange(40) < torch.tensor([40, 12, 0])[:, None]
    output = model(torch.randn(3, 40, FEATURES), attention_mask=mask, labels=torch.rand(3, LABELS))
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@all_poolings
def test_a_clip_of_nothing_but_padding_has_logits_of_0(pooling) -> None:
    model = TcnForAudioClassification(small(TcnConfig, pooling=pooling))
    output = model(torch.randn(2, 9, FEATURES), attention_mask=torch.tensor([[1] * 9, [0] * 9]))
    assert output.logits[0].all()
    assert not output.logits[1].any()
    assert not output.frame_logits[1].any()


# Pooling


def test_mean_and_max_pooling_by_hand() -> None:
    # Each frame is one number, which is also its logit.
    states = torch.tensor([[[1.0], [2.0], [5.0]]])
    valid = torch.tensor([[[True], [True], [False]]])
    for pooling, whole, first_two in (("mean", 8 / 3, 1.5), ("max", 5.0, 2.0)):
        head = PooledHead(1, 1, pooling)
        with torch.no_grad():
            head.classifier.weight.fill_(1.0), head.classifier.bias.zero_()
        assert head(states, None)[0].item() == pytest.approx(whole)
        logits, frame_logits = head(states, valid)
        assert logits.item() == pytest.approx(first_two)
        assert frame_logits.flatten().tolist() == [1.0, 2.0, 0.0]


def test_attention_pooling_by_hand() -> None:
    # Frames (logit, score) with scores log 1, log 3, log 4: weights 1/8, 3/8, 4/8, or 1/4, 3/4 for the first two.
    states = torch.tensor([[[8.0, math.log(1)], [16.0, math.log(3)], [-2.0, math.log(4)]]])
    head = PooledHead(2, 1, "attention")
    with torch.no_grad():
        head.classifier.weight.copy_(torch.tensor([[1.0, 0.0]])), head.classifier.bias.zero_()
        head.attention.weight.copy_(torch.tensor([[0.0, 1.0]]))
    assert head(states, None)[0].item() == pytest.approx(8 / 8 + 16 * 3 / 8 - 2 * 4 / 8)
    valid = torch.tensor([[[True], [True], [False]]])
    assert head(states, valid)[0].item() == pytest.approx(8 / 4 + 16 * 3 / 4)


@over_models
def test_a_new_model_weights_all_frames_equally(config_class, model_class) -> None:
    output = model_class(small(config_class))(torch.randn(2, 30, FEATURES))
    torch.testing.assert_close(output.logits, output.frame_logits.mean(1))


@over_models
@all_poolings
def test_clip_logits_are_within_the_range_of_frame_logits(config_class, model_class, pooling) -> None:
    output = attentive(model_class(small(config_class, pooling=pooling)))(torch.randn(2, 30, FEATURES))
    assert output.logits.shape == (2, LABELS)
    assert output.frame_logits.shape == (2, 30, LABELS)
    low, high = output.frame_logits.amin(1), output.frame_logits.amax(1)
    assert (low <= output.logits).all()
    assert (output.logits <= high).all()


@over_models
@all_poolings
def test_half_precision_pools_in_float32(config_class, model_class, pooling) -> None:
    # The mean of 20,000 equal frames is that frame. A sum in bfloat16 would stick at 256 times the frame.
    model = model_class(small(config_class, pooling=pooling)).eval()
    x = torch.zeros(1, 20_000, FEATURES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x, labels=torch.ones(1, LABELS))
    assert output.logits.dtype == output.frame_logits.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits[0], output.frame_logits[0, 10_000], rtol=1e-2, atol=1e-4)


# Loss


def test_the_multi_label_loss_is_binary_cross_entropy_with_soft_labels() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    loss = classification_loss(logits, torch.tensor([[1.0, 0.5]]), MULTI)
    assert loss.item() == pytest.approx((math.log(2) - 0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)) / 2)
    logits, labels = torch.randn(4, LABELS), torch.rand(4, LABELS)
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels, MULTI), expected)
    torch.testing.assert_close(classification_loss(logits, labels, MULTI, num_items=24), expected / 2)


def test_the_single_label_loss_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, LABELS), torch.tensor([0, 2, 2, 1])
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels, SINGLE), expected)
    torch.testing.assert_close(classification_loss(logits, labels.int(), SINGLE, num_items=8), expected / 2)


@pytest.mark.parametrize("problem_type", [MULTI, SINGLE])
def test_ignored_labels_are_not_scored(problem_type: str) -> None:
    logits = torch.randn(4, LABELS, requires_grad=True)
    labels = torch.rand(4, LABELS) if problem_type == MULTI else torch.tensor([0, 2, 2, 1])
    unknown = labels.clone()
    unknown[2:] = int(IGNORE_LABEL)
    torch.testing.assert_close(
        classification_loss(logits, unknown, problem_type), classification_loss(logits[:2], labels[:2], problem_type)
    )
    loss = classification_loss(logits, torch.full_like(labels, int(IGNORE_LABEL)), problem_type)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@over_models
@pytest.mark.parametrize("problem_type", [MULTI, SINGLE])
@settings(max_examples=10)
@given(cuts=st.lists(st.integers(1, 5), max_size=3, unique=True))
def test_a_split_batch_has_the_gradient_of_the_whole(config_class, model_class, problem_type, cuts) -> None:
    model = attentive(model_class(small(config_class, problem_type=problem_type))).double().train()
    x = torch.randn(6, 24, FEATURES, dtype=torch.float64)
    labels = torch.rand(6, LABELS).double() if problem_type == MULTI else torch.arange(6) % LABELS
    gradients = []
    for edges in ([0, 6], [0, *sorted(cuts), 6]):
        model.zero_grad()
        for start, stop in zip(edges, edges[1:], strict=False):
            part = slice(start, stop)
            model(x[part], labels=labels[part], num_items_in_batch=torch.tensor(labels.numel())).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


@over_models
@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        (MULTI, torch.zeros(2), r"labels.shape=\(2,\): .*\(B, L\) = \(2, 3\)"),
        (MULTI, torch.zeros(2, 1), r"labels.shape=\(2, 1\): "),
        (SINGLE, torch.zeros(2, 3), r"labels.shape=\(2, 3\), dtype torch.float32: .*\(B,\) = \(2,\)"),
        (SINGLE, torch.zeros(2), r"labels.shape=\(2,\), dtype torch.float32: "),
        (SINGLE, torch.zeros(3, dtype=torch.long), r"labels.shape=\(3,\), "),
    ],
)
def test_labels_of_wrong_shape_are_refused(config_class, model_class, problem_type, labels, message) -> None:
    model = model_class(small(config_class, problem_type=problem_type))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 10, FEATURES), labels=labels)


@over_models
def test_by_default_one_label_is_multi_label_and_several_are_single_label(config_class, model_class) -> None:
    one, several = (model_class(small(config_class, num_labels=n, problem_type=None)) for n in (1, 4))
    assert (one.problem_type, several.problem_type) == (MULTI, SINGLE)
    x = torch.randn(2, 10, FEATURES)
    output = one(x, labels=torch.tensor([[0.0], [0.7]]))
    torch.testing.assert_close(
        output.loss, F.binary_cross_entropy_with_logits(output.logits, torch.tensor([[0.0], [0.7]]))
    )
    output = several(x, labels=torch.tensor([3, 0]))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, torch.tensor([3, 0])))


@over_models
def test_regression_is_no_problem_type_for_labels(config_class, model_class) -> None:
    with pytest.raises(ValueError, match=f"problem_type='regression': .*'{MULTI}'.*'{SINGLE}'"):
        model_class(small(config_class, problem_type="regression"))


def test_an_unknown_pooling_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="TcnConfig: pooling='avg': .*attention, max, mean"):
        TcnConfig(pooling="avg")


@over_models
def test_labels_and_signal_channels_are_independent(config_class, model_class) -> None:
    # One config serves both heads: the number of labels is not the number of predicted channels.
    config = small(config_class, id2label={0: "cry", 1: "laugh"}, num_labels=2, target_channels=["tonic"])
    assert (config.output_size, config.num_labels) == (1, 2)
    assert model_class(config)(torch.zeros(1, 4, FEATURES)).logits.shape == (1, 2)


# Learning


def tones(clips: int, frames: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return noise (clips, frames, F), with a tone of 6 frames in every second clip, labels, and the tone's middle."""
    x = torch.randn(clips, frames, FEATURES)
    starts = torch.randint(0, frames - 6, (clips,))
    labels = (torch.arange(clips) % 2).float()[:, None]
    inside = (torch.arange(frames) >= starts[:, None]) & (torch.arange(frames) < starts[:, None] + 6)
    x[..., 2] += 3.0 * inside * labels
    return x, labels, starts + 2.5


@over_models
@pytest.mark.parametrize("pooling", ["attention", "max"])
def test_clip_labels_teach_the_position_of_a_sound(config_class, model_class, pooling) -> None:
    model = model_class(small(config_class, num_labels=1, pooling=pooling)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        x, labels, _ = tones(16)
        optimizer.zero_grad()
        model(x, labels=labels).loss.backward()
        optimizer.step()
    x, labels, middle = tones(64)
    output = model.eval()(x)
    assert ((output.logits > 0) == labels.bool()).float().mean() > 0.9
    distance = (output.frame_logits[1::2, :, 0].argmax(1) - middle[1::2]).abs()
    assert (distance <= 5).float().mean() > 0.9


# Saving


@over_models
@all_poolings
def test_a_loaded_model_gives_the_same_bits(config_class, model_class, pooling, tmp_path: Path) -> None:
    config = small(config_class, pooling=pooling, id2label={0: "cry", 1: "dog", 2: "rain"})
    model = attentive(model_class(config)).eval()
    model.set_input_scaling(torch.randn(FEATURES), torch.rand(FEATURES) + 0.5)
    model.save_pretrained(tmp_path)
    x = torch.randn(2, 30, FEATURES)
    for load in (model_class.from_pretrained, AutoModelForAudioClassification.from_pretrained):
        loaded = load(tmp_path).eval()
        assert type(loaded) is model_class
        assert loaded.config.id2label == config.id2label
        assert (loaded.config.pooling, loaded.config.problem_type) == (pooling, MULTI)
        for name in ("logits", "frame_logits"):
            assert torch.equal(model(x)[name], loaded(x)[name])


@pytest.mark.parametrize(
    ("signal", "labels"), list(zip(SIGNAL_MODELS, CLASSIFICATION_MODELS, strict=True)), ids=lambda c: c[0].model_type
)
def test_a_classifier_can_load_the_backbone_of_a_signal_model(signal, labels, tmp_path: Path) -> None:
    model = signal[1](small(signal[0]))
    model.save_pretrained(tmp_path)
    loaded = labels[1].from_pretrained(tmp_path, num_labels=2, problem_type=SINGLE)
    x = torch.randn(1, 20, FEATURES)
    states: list[torch.Tensor] = [m.eval().base_model(x).last_hidden_state for m in (model, loaded)]
    assert torch.equal(*states)
    assert loaded(x).logits.shape == (1, 2)
    assert loaded.head.classifier.weight.any()
    assert not loaded.head.attention.weight.any()


@over_models
def test_hidden_states_are_returned_on_request(config_class, model_class) -> None:
    model = model_class(small(config_class)).eval()
    x = torch.randn(2, 30, FEATURES)
    assert model(x).hidden_states is None
    assert torch.equal(model(x, output_hidden_states=True).hidden_states[0], x)

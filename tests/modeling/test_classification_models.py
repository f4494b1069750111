"""Models that name the sounds of a clip: masks, pooling, loss, localisation and storage, over all of them."""

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
    """A configuration for fast tests, with three labels that do not exclude each other and no dropout."""
    sizes = {name: size for name, size in SMALL.items() if name in config_class.__dataclass_fields__}
    given = {"input_size": FEATURES, "dropout": 0.0, "num_labels": LABELS, "problem_type": MULTI}
    return config_class(**{**given, **sizes, **changes})


def attentive(model: torch.nn.Module) -> torch.nn.Module:
    """The model with an attention that differs from frame to frame, as training makes it."""
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
def test_what_stands_in_padding_changes_no_bit(config_class, model_class, pooling, garbage) -> None:
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
    """Else DDP would need to look for those that do not."""
    model = attentive(model_class(small(config_class, pooling=pooling))).train()
    mask = torch.arange(40) < torch.tensor([40, 12, 0])[:, None]
    output = model(torch.randn(3, 40, FEATURES), attention_mask=mask, labels=torch.rand(3, LABELS))
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@all_poolings
def test_a_clip_that_is_nothing_but_padding_has_logits_of_0(pooling) -> None:
    model = TcnForAudioClassification(small(TcnConfig, pooling=pooling))
    output = model(torch.randn(2, 9, FEATURES), attention_mask=torch.tensor([[1] * 9, [0] * 9]))
    assert output.logits[0].all()
    assert not output.logits[1].any()
    assert not output.frame_logits[1].any()


# Pooling


def test_pooling_by_hand() -> None:
    """Frames of one number; the logit of a frame is that number, and its attention's score the logarithm of it."""
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


def test_attention_by_hand() -> None:
    """Frames (logit, score) of scores log 1, log 3, log 4: weights 1/8, 3/8, 4/8, or 1/4, 3/4 for the first two."""
    states = torch.tensor([[[8.0, math.log(1)], [16.0, math.log(3)], [-2.0, math.log(4)]]])
    head = PooledHead(2, 1, "attention")
    with torch.no_grad():
        head.classifier.weight.copy_(torch.tensor([[1.0, 0.0]])), head.classifier.bias.zero_()
        head.attention.weight.copy_(torch.tensor([[0.0, 1.0]]))
    assert head(states, None)[0].item() == pytest.approx(8 / 8 + 16 * 3 / 8 - 2 * 4 / 8)
    valid = torch.tensor([[[True], [True], [False]]])
    assert head(states, valid)[0].item() == pytest.approx(8 / 4 + 16 * 3 / 4)


@over_models
def test_a_new_model_looks_at_all_frames_alike(config_class, model_class) -> None:
    output = model_class(small(config_class))(torch.randn(2, 30, FEATURES))
    torch.testing.assert_close(output.logits, output.frame_logits.mean(1))


@over_models
@all_poolings
def test_the_order_of_labels_is_that_of_the_logits(config_class, model_class, pooling) -> None:
    output = attentive(model_class(small(config_class, pooling=pooling)))(torch.randn(2, 30, FEATURES))
    assert output.logits.shape == (2, LABELS)
    assert output.frame_logits.shape == (2, 30, LABELS)
    low, high = output.frame_logits.amin(1), output.frame_logits.amax(1)
    assert (low <= output.logits).all()
    assert (output.logits <= high).all()


@over_models
@all_poolings
def test_half_precision_pools_in_float32(config_class, model_class, pooling) -> None:
    """A mean of 20,000 equal frames is that frame; added up in bfloat16 it would stick at 256 times it."""
    model = model_class(small(config_class, pooling=pooling)).eval()
    x = torch.zeros(1, 20_000, FEATURES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x, labels=torch.ones(1, LABELS))
    assert output.logits.dtype == output.frame_logits.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits[0], output.frame_logits[0, 10_000], rtol=1e-2, atol=1e-4)


# Loss


def test_the_loss_is_binary_cross_entropy_of_soft_labels() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    loss = classification_loss(logits, torch.tensor([[1.0, 0.5]]), MULTI)
    assert loss.item() == pytest.approx((math.log(2) - 0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)) / 2)
    logits, labels = torch.randn(4, LABELS), torch.rand(4, LABELS)
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels, MULTI), expected)
    torch.testing.assert_close(classification_loss(logits, labels, MULTI, num_items=24), expected / 2)


def test_the_loss_of_one_label_a_clip_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, LABELS), torch.tensor([0, 2, 2, 1])
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(classification_loss(logits, labels, SINGLE), expected)
    torch.testing.assert_close(classification_loss(logits, labels.int(), SINGLE, num_items=8), expected / 2)


@pytest.mark.parametrize("kind", [MULTI, SINGLE])
def test_labels_that_are_unknown_are_not_scored(kind: str) -> None:
    logits = torch.randn(4, LABELS, requires_grad=True)
    labels = torch.rand(4, LABELS) if kind == MULTI else torch.tensor([0, 2, 2, 1])
    unknown = labels.clone()
    unknown[2:] = int(IGNORE_LABEL)
    torch.testing.assert_close(
        classification_loss(logits, unknown, kind), classification_loss(logits[:2], labels[:2], kind)
    )
    nothing = classification_loss(logits, torch.full_like(labels, int(IGNORE_LABEL)), kind)
    nothing.backward()
    assert nothing.item() == 0
    assert not logits.grad.any()


@over_models
@pytest.mark.parametrize("kind", [MULTI, SINGLE])
@settings(max_examples=10)
@given(cuts=st.lists(st.integers(1, 5), max_size=3, unique=True))
def test_a_batch_in_parts_has_the_gradient_of_the_whole(config_class, model_class, kind, cuts) -> None:
    model = attentive(model_class(small(config_class, problem_type=kind))).double().train()
    x = torch.randn(6, 24, FEATURES, dtype=torch.float64)
    labels = torch.rand(6, LABELS).double() if kind == MULTI else torch.arange(6) % LABELS
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
    ("kind", "labels", "message"),
    [
        (MULTI, torch.zeros(2), r"labels.shape = \(2,\) must be \(B, L\) = \(2, 3\)"),
        (MULTI, torch.zeros(2, 1), r"labels.shape = \(2, 1\) must be"),
        (SINGLE, torch.zeros(2, 3), r"shape \(2, 3\) and torch.float32 must be \(B,\) = \(2,\).*set problem_type"),
        (SINGLE, torch.zeros(2), r"shape \(2,\) and torch.float32 must be"),
        (SINGLE, torch.zeros(3, dtype=torch.long), r"shape \(3,\)"),
    ],
)
def test_labels_of_wrong_shape_are_refused(config_class, model_class, kind, labels, message) -> None:
    model = model_class(small(config_class, problem_type=kind))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(2, 10, FEATURES), labels=labels)


@over_models
def test_without_a_problem_type_one_label_is_there_or_not_and_several_exclude_each_other(
    config_class, model_class
) -> None:
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
def test_regression_is_no_problem_type_of_labels(config_class, model_class) -> None:
    with pytest.raises(ValueError, match="problem_type='regression' is not for labels; take 'multi_label"):
        model_class(small(config_class, problem_type="regression"))


def test_an_unknown_pooling_says_which_there_are() -> None:
    with pytest.raises(
        ValueError, match="TcnConfig: pooling='avg' is unknown; take one of .'attention', 'max', 'mean'"
    ):
        TcnConfig(pooling="avg")


@over_models
def test_labels_and_channels_of_a_signal_do_not_meet(config_class, model_class) -> None:
    """One config serves both heads: the number of labels is not the number of predicted channels."""
    config = small(config_class, id2label={0: "cry", 1: "laugh"}, num_labels=2, target_channels=["tonic"])
    assert (config.output_size, config.num_labels) == (1, 2)
    assert model_class(config)(torch.zeros(1, 4, FEATURES)).logits.shape == (1, 2)


# Learning


def tones(clips: int, frames: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise (clips, frames, F), in every second clip with a tone of 6 frames in one feature; labels and its middle."""
    x = torch.randn(clips, frames, FEATURES)
    starts = torch.randint(0, frames - 6, (clips,))
    labels = (torch.arange(clips) % 2).float()[:, None]
    inside = (torch.arange(frames) >= starts[:, None]) & (torch.arange(frames) < starts[:, None] + 6)
    x[..., 2] += 3.0 * inside * labels
    return x, labels, starts + 2.5


@over_models
@pytest.mark.parametrize("pooling", ["attention", "max"])
def test_labels_of_clips_teach_where_the_sound_is(config_class, model_class, pooling) -> None:
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
    away = (output.frame_logits[1::2, :, 0].argmax(1) - middle[1::2]).abs()
    assert (away <= 5).float().mean() > 0.9


# Storage


@over_models
@all_poolings
def test_saving_and_loading_gives_the_same_bits(config_class, model_class, pooling, tmp_path: Path) -> None:
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
def test_a_model_for_signals_gives_its_backbone_to_one_for_labels(signal, labels, tmp_path: Path) -> None:
    model = signal[1](small(signal[0]))
    model.save_pretrained(tmp_path)
    loaded = labels[1].from_pretrained(tmp_path, num_labels=2, problem_type=SINGLE)
    x = torch.randn(1, 20, FEATURES)
    states: list[torch.Tensor] = [each.eval().base_model(x).last_hidden_state for each in (model, loaded)]
    assert torch.equal(*states)
    assert loaded(x).logits.shape == (1, 2)
    assert loaded.head.classifier.weight.any()
    assert not loaded.head.attention.weight.any()


@over_models
def test_hidden_states_come_when_asked_for(config_class, model_class) -> None:
    model = model_class(small(config_class)).eval()
    x = torch.randn(2, 30, FEATURES)
    assert model(x).hidden_states is None
    assert torch.equal(model(x, output_hidden_states=True).hidden_states[0], x)

"""Models that predict a signal: masks, context, dropout, losses and saving; most tests run for all models."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedConfig

from modeling import (
    SIGNAL_MODELS,
    TcnConfig,
    TcnForSignalRegression,
    TcnModel,
    WavenetConfig,
    WavenetForSignalRegression,
    WavenetModel,
)
from modeling.layers import (
    IGNORE_LABEL,
    LOSSES,
    NORMS,
    DilatedConv1d,
    concordance,
    signal_loss,
    warn_if_receptive_field_exceeds,
)
from modeling.layers_dropout import Dropout

FEATURES = 5
MODELS = [pytest.param(*classes, id=classes[0].model_type) for classes in SIGNAL_MODELS]
over_models = pytest.mark.parametrize(("config_class", "model_class"), MODELS)
both_sides = pytest.mark.parametrize("causal", [False, True])
all_norms = pytest.mark.parametrize("norm", NORMS)


SMALL = {"num_blocks": 3, "num_channels": 8, "num_layers_per_stack": 3, "residual_channels": 8, "skip_channels": 8}


def small(config_class: type[PreTrainedConfig], **changes: object) -> PreTrainedConfig:
    """A config for fast tests, with the sizes in SMALL that this model has, and no dropout."""
    sizes = {name: size for name, size in SMALL.items() if name in config_class.__dataclass_fields__}
    return config_class(**{"input_size": FEATURES, "dropout": 0.0, **sizes, **changes})


# Masks


@over_models
@both_sides
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_clip_alone_and_in_a_padded_batch_agree(config_class, model_class, causal, dtype, tolerance) -> None:
    model = model_class(config_class(input_size=FEATURES, causal=causal, gaussian_head=True)).to(dtype).eval()
    lengths = (128, 41, 1)
    x = torch.randn(3, 128, FEATURES, dtype=dtype)
    mask = torch.arange(128) < torch.tensor(lengths)[:, None]
    batch = model(x, attention_mask=mask)
    for clip, length in enumerate(lengths):
        alone = model(x[clip : clip + 1, :length])
        for name in ("predictions", "log_variance"):
            assert (batch[name][clip, :length] - alone[name][0]).abs().max() <= tolerance
            assert not batch[name][clip, length:].any()


@over_models
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("garbage", [1e30, math.nan, math.inf])
def test_values_in_padding_change_no_bit(config_class, model_class, training, garbage) -> None:
    model = model_class(small(config_class, dropout=0.1)).train(training)
    mask = torch.arange(50) < torch.tensor([50, 20])[:, None]
    clean = torch.randn(2, 50, FEATURES) * mask[..., None]
    labels = torch.randn(2, 50).masked_fill(~mask, IGNORE_LABEL)
    outputs, gradients = [], []
    for x in (clean, clean.masked_fill(~mask[..., None], garbage)):
        torch.manual_seed(1)
        model.zero_grad()
        outputs.append(model(x, attention_mask=mask.long(), labels=labels))
        outputs[-1].loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert torch.equal(outputs[0].predictions, outputs[1].predictions)
    assert all(map(torch.equal, *gradients))


@over_models
def test_a_mask_of_ones_equals_no_mask_and_bools_equal_ints(config_class, model_class) -> None:
    model = model_class(small(config_class)).eval()
    x, mask = torch.randn(2, 30, FEATURES), torch.ones(2, 30)
    assert torch.equal(model(x).predictions, model(x, attention_mask=mask.long()).predictions)
    mask[1, 20:] = 0
    outputs = [model(x, attention_mask=mask.to(dtype)).predictions for dtype in (torch.bool, torch.int32, torch.int64)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


@over_models
def test_inputs_of_wrong_shape_are_refused(config_class, model_class) -> None:
    model = model_class(config_class(input_size=FEATURES))
    with pytest.raises(ValueError, match="input_features.shape"):
        model(torch.zeros(2, 10, FEATURES + 1))
    with pytest.raises(ValueError, match="attention_mask.shape"):
        model(torch.zeros(2, 10, FEATURES), attention_mask=torch.ones(2, 9))
    with pytest.raises(ValueError, match="labels.shape"):
        model(torch.zeros(2, 10, FEATURES), labels=torch.zeros(2, 10, 3))


# Context


def visible_frames(model: torch.nn.Module, frames: int, at: int) -> list[int]:
    """Return the input frames on which the prediction of frame `at` depends: those with a gradient.

    All weights and inputs are positive, so that no ReLU is off and no two paths cancel. Weights are small, so that no
    tanh is saturated. (A layer norm still turns some channels off, but never all channels of a frame.)
    """
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().mul_(0.1)
    x = torch.rand(1, frames, FEATURES, dtype=torch.float64, requires_grad=True)
    model(x).predictions[0, at].sum().backward()
    return x.grad[0].abs().sum(-1).nonzero().flatten().tolist()


@over_models
@both_sides
def test_the_receptive_field_matches_the_gradient(config_class, model_class, causal) -> None:
    config = small(config_class, causal=causal)
    field, at = config.receptive_field, config.receptive_field + 10
    first = at - field + 1 if causal else at - field // 2
    assert visible_frames(model_class(config), 2 * field + 21, at) == list(range(first, first + field))


@all_norms
@both_sides
@pytest.mark.parametrize(("blocks", "kernel"), [(1, 3), (4, 3), (2, 5), (3, 7), (3, 1)])
def test_the_receptive_field_of_any_tcn_matches_the_gradient(norm, causal, blocks, kernel) -> None:
    config = small(TcnConfig, norm=norm, causal=causal, num_blocks=blocks, kernel_size=kernel)
    field = config.receptive_field
    assert field == 1 + 2 * (kernel - 1) * sum(2**i for i in range(blocks))
    first = 5 if causal else 5 + field - 1 - field // 2
    visible = visible_frames(TcnForSignalRegression(config), 2 * field + 10, 5 + field - 1)
    assert visible == list(range(first, first + field))


def test_the_receptive_field_of_the_defaults_is_63_seconds() -> None:
    assert (TcnConfig().receptive_field, TcnConfig().receptive_field_seconds) == (253, 63.25)


@over_models
def test_a_causal_model_does_not_use_later_frames(config_class, model_class) -> None:
    model = model_class(small(config_class, causal=True)).eval()
    x = torch.randn(2, 80, FEATURES)
    changed = x.clone()
    changed[:, 50:] = 1e3
    past, other = model(x).predictions, model(changed).predictions
    assert torch.equal(past[:, :50], other[:, :50])
    assert not torch.equal(past[:, 50:], other[:, 50:])


@over_models
def test_a_receptive_field_longer_than_all_clips_warns_once(config_class, model_class, caplog, monkeypatch) -> None:
    # A frame rate of its own: `warning_once` is silent if another model has logged the same text.
    config = config_class(frame_rate=3.7 + len(config_class.model_type) / 100)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("modeling"), "propagate", True)
    warn_if_receptive_field_exceeds(config, config.receptive_field)
    assert not warnings_of(caplog)
    for _ in range(2):
        warn_if_receptive_field_exceeds(config, config.receptive_field - 1)
    assert [f"{config.receptive_field} frames" in message for message in warnings_of(caplog)] == [True]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings of this package. Other libraries may log too."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("modeling")]


# The fast paths against plain ones


@both_sides
@pytest.mark.parametrize(
    ("kernel", "dilation", "frames"), [(3, 1, 20), (3, 32, 96), (3, 32, 100), (5, 16, 64), (3, 64, 7)]
)
def test_the_convolution_equals_conv1d(causal, kernel, dilation, frames) -> None:
    conv = DilatedConv1d(4, 6, kernel, dilation, causal).double()
    x = torch.randn(2, frames, 4, dtype=torch.float64, requires_grad=True)
    reach = (kernel - 1) * dilation
    padded = F.pad(x.transpose(1, 2), (reach, 0) if causal else (reach // 2, reach // 2))
    plain = F.conv1d(padded, conv.weight, conv.bias, dilation=dilation).transpose(1, 2)
    inputs, upstream = (x, conv.weight, conv.bias), torch.randn_like(plain)
    torch.testing.assert_close(conv(x), plain, rtol=0, atol=1e-12)
    torch.testing.assert_close(conv(x, gain=1.5), 1.5 * plain, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(conv(x), inputs, upstream), torch.autograd.grad(plain, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def plain_block(block: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The block as in papers: (B, T, C_in) -> (B, T, C), with every ReLU and without dropout."""
    branch = x
    for layer in (block.conv1, block.conv2):
        conv, reach = layer.conv, layer.conv.reach
        padded = F.pad(branch.transpose(1, 2), (reach, 0) if conv.causal else (reach // 2, reach // 2))
        branch = F.conv1d(padded, conv.weight, conv.bias, dilation=conv.dilation).transpose(1, 2)
        branch = F.relu(branch if layer.norm is None else layer.norm(branch))
    return F.relu((x if block.projection is None else block.projection(x)) + branch)


@all_norms
@both_sides
@pytest.mark.parametrize("channels", [8, FEATURES])
def test_a_tcn_equals_the_plain_stack_of_blocks(norm, causal, channels) -> None:
    model = TcnModel(small(TcnConfig, norm=norm, causal=causal, num_channels=channels, num_blocks=6)).double().train()
    x = torch.randn(2, 96, FEATURES, dtype=torch.float64)
    plain = x
    for block in model.blocks:
        plain = plain_block(block, plain)
    ours = model(x).last_hidden_state
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    parameters = list(model.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(ours, parameters, upstream), torch.autograd.grad(plain, parameters, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@over_models
def test_a_training_step_compiles_into_one_graph(config_class, model_class) -> None:
    model = model_class(small(config_class, dropout=0.1)).train()
    x, labels = torch.randn(2, 40, FEATURES), torch.randn(2, 40)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(x, attention_mask=torch.ones(2, 40), labels=labels).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def plain_layer(layer: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A WaveNet's layer as in papers: (B, T, C) -> (B, T, C) and (B, T, S)."""
    conv, reach = layer.gates.conv, layer.gates.conv.reach
    padded = F.pad(x.transpose(1, 2), (reach, 0) if conv.causal else (reach // 2, reach // 2))
    gates = F.conv1d(padded, conv.weight, conv.bias, dilation=conv.dilation).transpose(1, 2)
    filtered, gate = (gates if layer.gates.norm is None else layer.gates.norm(gates)).chunk(2, -1)
    out = torch.tanh(filtered) * torch.sigmoid(gate)
    return x if layer.residual is None else (x + layer.residual(out)) / math.sqrt(2), layer.skip(out)


@all_norms
@both_sides
@pytest.mark.parametrize("bias", [False, True])
def test_a_wavenet_equals_the_plain_stack_of_gated_layers(norm, causal, bias) -> None:
    model = (
        WavenetModel(small(WavenetConfig, norm=norm, causal=causal, use_bias=bias, skip_channels=6)).double().train()
    )
    x = torch.randn(2, 96, FEATURES, dtype=torch.float64)
    state, skips = model.input(x), []
    for layer in model.layers:
        state, skip = plain_layer(layer, state)
        skips.append(skip)
    plain = F.relu(model.output(F.relu(torch.stack(skips).sum(0) / math.sqrt(len(skips)))))
    ours = model(x).last_hidden_state
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    parameters = list(model.parameters())
    assert bias == any(
        name.endswith("bias") and "gates" in name and "norm" not in name for name, _ in model.named_parameters()
    )
    for mine, theirs in zip(
        torch.autograd.grad(ours, parameters, upstream), torch.autograd.grad(plain, parameters, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_filter_and_gate_of_a_wavenet_have_separate_weights() -> None:
    layer = WavenetForSignalRegression(small(WavenetConfig)).wavenet.layers[0]
    filtered, gate = layer.gates.conv.weight.chunk(2)
    assert filtered.shape == gate.shape
    assert not torch.equal(filtered, gate)


@pytest.mark.parametrize(
    ("base", "layers", "stacks", "kernel", "field"),
    [(2, 6, 2, 3, 253), (3, 3, 1, 3, 27), (1, 4, 2, 5, 33), (2, 4, 3, 1, 1)],
)
def test_the_receptive_field_of_any_wavenet_matches_the_gradient(base, layers, stacks, kernel, field) -> None:
    config = small(
        WavenetConfig, dilation_base=base, num_layers_per_stack=layers, num_stacks=stacks, kernel_size=kernel
    )
    assert config.receptive_field == field
    middle = field + 3
    visible = visible_frames(WavenetForSignalRegression(config), 2 * middle, middle)
    assert visible == list(range(middle - field // 2, middle + field // 2 + 1))


@pytest.mark.parametrize(
    ("changes", "key_and_value"),
    [
        ({"num_stacks": 0}, "num_stacks=0"),
        ({"residual_channels": 1.5}, "residual_channels=1.5"),
        ({"input_size": -1}, "input_channels=-1"),
        ({"kernel_size": 4}, "kernel_size=4: .*3 or 5"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0"),
        ({"dilation_base": True}, "dilation_base=True"),
        ({"use_bias": "no"}, "use_bias='no'"),
        ({"norm": "batch"}, "norm='batch'"),
    ],
)
def test_invalid_settings_of_a_wavenet_are_refused_by_name(changes, key_and_value) -> None:
    with pytest.raises(ValueError, match=f"WavenetConfig: {key_and_value}"):
        WavenetConfig(**changes)


def test_a_wavenet_accepts_the_setting_names_of_all_models(tmp_path) -> None:
    config = WavenetConfig(input_size=7, output_size=2, dropout=0.3)
    assert (config.input_channels, config.output_channels, config.dropout_rate) == (7, 2, 0.3)
    config.save_pretrained(tmp_path)
    loaded = WavenetConfig.from_pretrained(tmp_path)
    assert (loaded.input_size, loaded.output_channels, loaded.dropout) == (7, 2, 0.3)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_of_the_gated_unit_are_right(dropout: float) -> None:
    unit = Dropout(dropout).train()

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return unit.gated_(x * 1)

    assert torch.autograd.gradcheck(seeded, (torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True),))


# Long and running recordings


@over_models
@both_sides
@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_prediction_in_chunks_equals_one_pass(config_class, model_class, causal, chunk) -> None:
    model = model_class(small(config_class, causal=causal, gaussian_head=True)).eval()
    x = torch.randn(2, 500, FEATURES)
    mask = torch.arange(500) < torch.tensor([500, 321])[:, None]
    whole, chunked = model(x, attention_mask=mask), model.predict(x, mask, chunk_frames=chunk)
    for name in ("predictions", "log_variance"):
        torch.testing.assert_close(chunked[name], whole[name], rtol=0, atol=1e-5)


@over_models
@both_sides
@given(cuts=st.lists(st.integers(0, 120), max_size=8), chunk=st.integers(1, 90))
@settings(max_examples=15)
def test_prediction_of_blocks_equals_one_pass(config_class, model_class, causal, cuts, chunk) -> None:
    model = model_class(small(config_class, causal=causal)).double().eval()
    x = torch.randn(1, 120, FEATURES, dtype=torch.float64)
    edges = [0, *sorted(cuts), 120]
    blocks = (x[:, start:stop] for start, stop in zip(edges, edges[1:], strict=False))
    parts = [part.predictions for part in model.predict_blocks(blocks, chunk)]
    torch.testing.assert_close(torch.cat(parts, 1), model(x).predictions, rtol=0, atol=1e-12)
    assert all(part.shape[1] == chunk for part in parts[:-1])


@over_models
@given(cuts=st.lists(st.integers(1, 119), max_size=10, unique=True))
@settings(max_examples=15)
def test_steps_equal_one_pass(config_class, model_class, cuts) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        model = model_class(small(config_class, causal=True)).to(dtype).eval()
        x = torch.randn(3, 120, FEATURES, dtype=dtype)
        edges, state, parts = [0, *sorted(cuts), 120], None, []
        for start, stop in zip(edges, edges[1:], strict=False):
            output, state = model.step(x[:, start:stop], state)
            parts.append(output.predictions)
        torch.testing.assert_close(torch.cat(parts, 1), model(x).predictions, rtol=0, atol=tolerance)
        # No state is left in the model.
        torch.testing.assert_close(model(x).predictions, model(x).predictions, rtol=0, atol=0)


@over_models
def test_step_needs_a_causal_model(config_class, model_class) -> None:
    model = model_class(small(config_class))
    with pytest.raises(ValueError, match=f"causal=False: .*{model_class.__name__} .*{model.config.context[1]} frames"):
        model.step(torch.zeros(1, 1, FEATURES))


# Dropout

DROPOUTS = [
    pytest.param(lambda dropout, x: dropout(x), id="plain"),
    pytest.param(lambda dropout, x: dropout.relu_(x * dropout.gain(x), None), id="relu"),
]
over_dropouts = pytest.mark.parametrize("apply", DROPOUTS)


@over_dropouts
@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_dropout_drops_the_given_share_and_keeps_the_mean(apply: Callable, probability: float) -> None:
    dropout, count = Dropout(probability).train(), 8 * 50_000
    out = apply(dropout, torch.ones(count))
    rounded = dropout.dropped / 256
    assert abs(rounded - probability) <= 1 / 256
    for share in (out, *out.view(-1, 8).unbind(1)):  # also each of the eight bytes of a random number alone
        dropped = (share == 0).float().mean().item()
        assert abs(dropped - rounded) < 5 * math.sqrt(rounded * (1 - rounded) / share.numel())
    torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - rounded)]))


@over_dropouts
def test_dropout_depends_only_on_the_seed(apply: Callable) -> None:
    dropout, x = Dropout(0.3).train(), torch.rand(3, 7, 5) + 0.1
    torch.manual_seed(2)
    first, second = apply(dropout, x), apply(dropout, x)
    torch.manual_seed(2)
    assert not torch.equal(first, second)
    assert torch.equal(first, apply(dropout, x))
    assert torch.equal(second, apply(dropout, x))


@over_dropouts
@pytest.mark.parametrize(("probability", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_in_evaluation_or_with_probability_0(apply: Callable, probability: float, training) -> None:
    x = torch.rand(3, 7, 5)
    assert torch.equal(apply(Dropout(probability).train(training), x), x)


@over_dropouts
def test_gradients_of_dropout_are_right(apply: Callable) -> None:
    dropout = Dropout(0.4).train()

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return apply(dropout, x)

    x = torch.randn(2, 9, 5, dtype=torch.float64)
    x = torch.where(x.abs() < 0.1, 1.0, x).requires_grad_()  # away from the kink of the ReLU
    assert torch.autograd.gradcheck(seeded, (x,))


@over_models
def test_training_passes_repeat_with_a_seed_and_differ_without(config_class, model_class) -> None:
    model = model_class(small(config_class, dropout=0.2)).train()
    x = torch.randn(1, 40, FEATURES)
    torch.manual_seed(3)
    first, second = model(x).predictions, model(x).predictions
    torch.manual_seed(3)
    assert torch.equal(first, model(x).predictions)
    assert not torch.equal(first, second)


# Losses


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", lambda p, y: F.mse_loss(p, y)),
        ("l1", lambda p, y: F.l1_loss(p, y)),
        ("huber", lambda p, y: F.huber_loss(p, y, delta=0.7)),
        ({"mse": 2.0, "l1": 0.5}, lambda p, y: 2 * F.mse_loss(p, y) + 0.5 * F.l1_loss(p, y)),
    ],
)
def test_a_masked_loss_is_the_loss_of_the_scored_values(loss, expected: Callable) -> None:
    predictions, labels = torch.randn(3, 20, 2), torch.randn(3, 20, 2)
    labels[0, 5:] = IGNORE_LABEL
    labels[1, :, 1] = IGNORE_LABEL
    valid = torch.ones(3, 20, 1, dtype=torch.bool)
    valid[2, 10:] = False
    scored = (labels != IGNORE_LABEL) & valid
    actual = signal_loss(predictions, labels, loss, valid, huber_delta=0.7)
    torch.testing.assert_close(actual, expected(predictions[scored], labels[scored]))


def test_the_gaussian_loss_is_the_negative_log_likelihood_up_to_a_constant() -> None:
    mean, log_variance, labels = torch.randn(3, 2, 20, 1).unbind()
    actual = signal_loss(mean, labels, "gaussian", log_variance=log_variance)
    torch.testing.assert_close(actual, F.gaussian_nll_loss(mean, labels, log_variance.exp()))


def test_concordance_is_lins_coefficient_per_trial() -> None:
    p, y = torch.randn(2, 30, 1, dtype=torch.float64), torch.randn(2, 30, 1, dtype=torch.float64)
    scored = torch.ones(2, 30, 1, dtype=torch.bool)
    scored[1, 12:] = False
    for trial, length in enumerate((30, 12)):
        a, b = p[trial, :length, 0], y[trial, :length, 0]
        covariance = ((a - a.mean()) * (b - b.mean())).mean()
        expected = 2 * covariance / (a.var(correction=0) + b.var(correction=0) + (a.mean() - b.mean()) ** 2)
        torch.testing.assert_close(concordance(p, y, scored)[trial, 0], expected)
    loss = signal_loss(p, y.masked_fill(~scored, IGNORE_LABEL), "ccc")
    weighted = (1 - concordance(p, y, scored))[:, 0] * torch.tensor([30.0, 12.0])
    torch.testing.assert_close(loss, weighted.sum() / 42)
    assert signal_loss(y, y, "ccc").item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_flat_and_empty_trials_have_finite_losses_and_gradients(loss: str) -> None:
    predictions = torch.zeros(3, 10, 1, requires_grad=True)
    labels = torch.zeros(3, 10, 1)
    labels[1], labels[2, 1:] = IGNORE_LABEL, IGNORE_LABEL
    value = signal_loss(predictions, labels, loss, log_variance=torch.zeros(3, 10, 1))
    value.backward()
    assert value.isfinite()
    assert predictions.grad.isfinite().all()


@over_models
@pytest.mark.parametrize("loss", [*LOSSES, {"mse": 1.0, "ccc": 0.5, "gaussian": 0.1}], ids=str)
@settings(max_examples=5)
@given(lengths=st.lists(st.integers(1, 24), min_size=4, max_size=4))
def test_a_split_batch_has_the_gradient_of_the_whole(config_class, model_class, loss, lengths) -> None:
    model = model_class(small(config_class, loss=loss, gaussian_head=True)).double().train()
    mask = torch.arange(24) < torch.tensor(lengths)[:, None]
    x = torch.randn(4, 24, FEATURES, dtype=torch.float64)
    labels = torch.randn(4, 24, dtype=torch.float64).masked_fill(~mask, IGNORE_LABEL)
    gradients = []
    for size in (4, 1):
        model.zero_grad()
        for start in range(0, 4, size):
            part = slice(start, start + size)
            model(
                x[part], attention_mask=mask[part], labels=labels[part], num_items_in_batch=mask.sum()
            ).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


@over_models
def test_training_lowers_the_loss(config_class, model_class) -> None:
    model = model_class(small(config_class)).train()
    x = torch.randn(4, 40, FEATURES)
    labels = x.cumsum(1).mean(-1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(model(x, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4


@over_models
def test_outputs_of_a_new_model_have_a_moderate_spread(config_class, model_class) -> None:
    spread = model_class(config_class()).eval()(torch.randn(4, 256, 80)).predictions.std()
    assert 0.2 < spread < 5


@all_norms
def test_outputs_of_a_new_tcn_do_not_grow_with_depth(norm: str) -> None:
    x = torch.randn(4, 256, FEATURES)
    for blocks in (1, 2, 4, 8):
        states = TcnModel(small(TcnConfig, norm=norm, num_blocks=blocks, num_channels=64)).eval()(x).last_hidden_state
        assert 0.5 < states.square().mean().sqrt() < 8


# Configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 4}, "kernel_size=4: .*3 or 5"),
        ({"num_blocks": 0}, "num_blocks=0"),
        ({"num_channels": 2.5}, "num_channels=2.5"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": "0.1"}, "dropout='0.1'"),
        ({"huber_delta": None}, "huber_delta=None"),
        ({"frame_rate": math.inf}, "frame_rate=inf"),
        ({"num_blocks": True}, "num_blocks=True"),
        ({"causal": "False"}, "causal='False'"),
        ({"norm": "batch"}, "norm='batch': .*weight, layer, none"),
        ({"frame_rate": 0.0}, "frame_rate=0.0"),
        ({"loss": "rmse"}, "loss='rmse': .*mse, l1, huber, ccc, gaussian"),
        ({"loss": {}}, "loss={}"),
        ({"loss": {"mse": 1.0, "pearson": 1.0}}, "loss=.*pearson"),
        ({"loss": {"mse": -1.0}}, "loss={'mse': -1.0}"),
        ({"loss": {"mse": math.inf}}, "loss={'mse': inf}"),
        ({"loss": "gaussian"}, "loss='gaussian': .*gaussian_head"),
        ({"target_channels": ["tonic", "phasic"]}, r"target_channels=\['tonic', 'phasic'\]: .*output_size=1"),
    ],
)
def test_invalid_settings_of_a_tcn_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        TcnConfig(**changes)
    assert "\n" not in str(error.value)


# Saving


@all_norms
def test_a_loaded_model_gives_the_same_bits(norm: str, tmp_path: Path) -> None:
    config = small(
        TcnConfig, norm=norm, gaussian_head=True, loss={"ccc": 1.0, "gaussian": 0.5}, target_scaling={"mean": 2.0}
    )
    model = TcnForSignalRegression(config).eval()
    model.set_input_scaling(torch.randn(FEATURES), torch.rand(FEATURES) + 0.5)
    model.save_pretrained(tmp_path)
    loaded = TcnForSignalRegression.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 30, FEATURES)
    assert torch.equal(model(x).predictions, loaded(x).predictions)
    assert loaded.config.loss == config.loss
    assert loaded.config.target_scaling == {"mean": 2.0}
    backbone = TcnModel.from_pretrained(tmp_path).eval()
    assert torch.equal(backbone(x).last_hidden_state, model.tcn(x).last_hidden_state)


@over_models
def test_inputs_are_standardized_before_the_first_layer(config_class, model_class) -> None:
    model = model_class(small(config_class)).double().eval()
    x = torch.randn(2, 30, FEATURES, dtype=torch.float64)
    mean, std = torch.randn(FEATURES, dtype=torch.float64), torch.rand(FEATURES, dtype=torch.float64) + 0.5
    plain = model(x).predictions
    model.set_input_scaling(mean, std)
    torch.testing.assert_close(model(x * std + mean).predictions, plain, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"input scaling: std .*features \[1\]"):
        model.set_input_scaling(mean, torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"input scaling: mean .*shape \(2,\).* 5 numbers"):
        model.set_input_scaling(mean[:2], std)


@over_models
def test_hidden_states_are_returned_on_request(config_class, model_class) -> None:
    model = model_class(small(config_class)).eval()
    x = torch.randn(2, 30, FEATURES)
    assert model(x).hidden_states is None
    states = model(x, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], x)
    assert all(state.shape[:2] == (2, 30) for state in states)

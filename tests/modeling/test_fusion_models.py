"""FusionForEmotion: sizes, subsets of modalities, padding, frozen encoders, saving, training."""

import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForVideoClassification, AutoProcessor

from modeling import FusionConfig, FusionFeatureExtractor, FusionForEmotion, FusionProcessor
from modeling.configuration_fusion import FUSIONS, INPUTS, MODALITIES
from modeling.modeling_fusion import hide_modalities
from tests.conftest import REPOSITORY

TINY_TEXT = {
    "model_type": "bert", "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 40,
}  # fmt: skip
TINY = {"text_config": TINY_TEXT, "video_encoder": "small", "num_mel_bins": 8, "hidden_size": 16, "fusion_size": 24,
        "head_size": 8}  # fmt: skip
SUBSETS = [list(names) for count in (1, 2, 3) for names in itertools.combinations(MODALITIES, count)]
NAMES = ["-".join(names) for names in SUBSETS]


def model_of(**settings: object) -> FusionForEmotion:
    """A tiny model in evaluation mode, with random BatchNorm statistics."""
    model = FusionForEmotion(FusionConfig(**TINY | settings))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def inputs_of(modalities: list[str], items: int = 4) -> dict[str, torch.Tensor]:
    """A batch without missing modalities."""
    inputs = {}
    if "text" in modalities:
        inputs |= {"input_ids": torch.randint(5, 50, (items, 6)), "attention_mask": torch.ones(items, 6).long()}
    if "video" in modalities:
        inputs |= {"pixel_values": torch.randn(items, 3, 4, 16, 16), "frame_mask": torch.ones(items, 4).long()}
    if "audio" in modalities:
        inputs |= {"input_features": torch.randn(items, 9, 8), "features_mask": torch.ones(items, 9).long()}
    return inputs


def logits_of(model: FusionForEmotion, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    output = model(**inputs)
    return torch.cat([output.emotion_logits, output.sentiment_logits], 1)


@pytest.fixture(scope="module")
def full_size() -> FusionForEmotion:
    return FusionForEmotion(FusionConfig(freeze_audio_conv=True))


def test_the_full_size_trains_313_226_weights(full_size):
    counts = full_size.part_sizes()
    assert counts == {
        "text": 98_432, "video": 65_664, "audio": 16_512, "fusion": 99_072, "emotion": 16_903, "sentiment": 16_643,
    }  # fmt: skip
    assert sum(counts.values()) == 313_226 == sum(p.numel() for p in full_size.parameters() if p.requires_grad)
    assert sum(p.numel() for p in full_size.parameters()) == 142_999_178


def test_training_the_audio_convolutions_adds_37_440_weights():
    small_text = {"text_config": TINY_TEXT}
    model = FusionForEmotion(FusionConfig(**small_text))
    counts = model.part_sizes()
    assert counts["audio"] == 53_952
    assert sum(counts.values()) == 350_666 - 98_432 + 16 * 128 + 128


def test_random_3d_convolutions_keep_the_variance_of_torchvision(full_size):
    weight = full_size.fusion.branches["video"].encoder.layer1[0].conv1[0].weight
    assert weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modalities", SUBSETS, ids=NAMES)
def test_any_subset_trains_and_predicts_with_any_modality_missing(modalities, fusion):
    model = model_of(modalities=modalities, fusion=fusion, learned_absent=True, modality_dropout=0.3)
    labels = torch.tensor([[0, 1], [6, 2], [3, 0], [2, 0]])
    for present in [[], *SUBSETS]:
        if not set(present) <= set(modalities):
            continue
        inputs = inputs_of(modalities)
        for name in set(modalities) - set(present):
            inputs[INPUTS[name][1]].zero_()
            if name == "text":  # token ids cannot be NaN
                continue
            inputs[INPUTS[name][0]].fill_(float("nan"))
        model.eval()
        output = model(**inputs, labels=labels)
        assert output.loss.isfinite()
        assert logits_of(model, inputs).isfinite().all()
        assert output.present.tolist() == [[name in present for name in modalities]] * 4
        model.train().zero_grad()
        model(**inputs, labels=labels).loss.backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        # DistributedDataParallel waits for each gradient.
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("modalities", SUBSETS, ids=NAMES)
def test_an_omitted_input_equals_a_mask_of_zeros(modalities):
    model = model_of(modalities=list(MODALITIES), learned_absent=True)
    model.fusion.absent.data.normal_()
    omitted = inputs_of(modalities)
    masked = inputs_of(list(MODALITIES)) | omitted
    for name in set(MODALITIES) - set(modalities):
        masked[INPUTS[name][1]].zero_()
    torch.testing.assert_close(logits_of(model, omitted), logits_of(model, masked))


def test_each_modality_affects_the_output_only_while_it_is_present():
    model = model_of()
    inputs = inputs_of(list(MODALITIES))
    for name, (value, mask) in INPUTS.items():
        other = inputs | {value: inputs_of([name])[value]}
        assert (logits_of(model, inputs) - logits_of(model, other)).abs().max() > 1e-3
        gone = {mask: torch.zeros_like(inputs[mask])}
        torch.testing.assert_close(logits_of(model, inputs | gone), logits_of(model, other | gone))


def test_padding_changes_nothing():
    model = model_of()
    short = inputs_of(list(MODALITIES), items=1)
    padded = {
        "input_ids": torch.nn.functional.pad(short["input_ids"], (0, 5), value=7),
        "attention_mask": torch.nn.functional.pad(short["attention_mask"], (0, 5)),
        "input_features": torch.nn.functional.pad(short["input_features"], (0, 0, 0, 4), value=float("nan")),
        "features_mask": torch.nn.functional.pad(short["features_mask"], (0, 4)),
    }
    torch.testing.assert_close(logits_of(model, short), logits_of(model, short | padded), atol=1e-5, rtol=1e-5)


def test_padding_and_missing_audio_do_not_change_the_batch_statistics():
    alone, padded = model_of(modalities=["audio"]).train(), model_of(modalities=["audio"]).train()
    padded.load_state_dict(alone.state_dict())
    inputs = inputs_of(["audio"])
    longer = {name: torch.nn.functional.pad(x, (0, 0, 0, 6) if x.ndim == 3 else (0, 6)) for name, x in inputs.items()}
    one_more = {name: torch.cat([x, torch.zeros_like(x[:1])]) for name, x in longer.items()}
    alone(**inputs)
    padded(**one_more)
    for name in ("norm1", "norm2"):
        one, other = (model.fusion.branches["audio"].encoder[name] for model in (alone, padded))
        torch.testing.assert_close(one.running_mean, other.running_mean)
        torch.testing.assert_close(one.running_var, other.running_var)


def test_frozen_encoders_do_not_change_in_training():
    model = model_of(freeze_text=True, freeze_video=True, freeze_audio_conv=True).train()
    before = {
        f"{name}.{key}": value.clone()
        for name, branch in model.fusion.branches.items()
        for key, value in branch.encoder.state_dict().items()
    }
    optimizer = torch.optim.SGD([p for part in model.parts().values() for p in part], lr=1.0)
    model(**inputs_of(list(MODALITIES)), labels=torch.zeros(4, 2, dtype=torch.long)).loss.backward()
    optimizer.step()
    for name, branch in model.fusion.branches.items():
        assert not branch.encoder.training
        for key, value in branch.encoder.state_dict().items():
            assert torch.equal(value, before[f"{name}.{key}"]), f"{name}.{key}"
    assert not model.eval().training
    assert model.train().fusion.layer.training


def test_trained_encoders_get_gradients():
    model = model_of(freeze_text=False, freeze_video=False).train()
    model(**inputs_of(list(MODALITIES)), labels=torch.zeros(4, 2, dtype=torch.long)).loss.backward()
    for branch in model.fusion.branches.values():
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in branch.encoder.parameters())


def test_a_batch_of_one_can_be_predicted_but_not_trained_on():
    model = model_of()
    inputs = inputs_of(list(MODALITIES), items=1)
    assert logits_of(model, inputs).isfinite().all()
    with pytest.raises(ValueError, match="batch_size=1"):
        model.train()(**inputs)


def test_the_loss_combines_both_cross_entropies_with_weights_shares_and_smoothing():
    # By hand: two items, two emotions, two sentiments, fixed logits.
    model = model_of(
        emotion_names=["a", "b"], sentiment_names=["c", "d"], emotion_weights=[1.0, 3.0], sentiment_share=0.5
    )
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    labels = torch.tensor([[1, 1], [0, -100]])
    # emotion: 3 * log 2 + 1 * log(1 + e^-2); sentiment: log(1 + e^-1), halved; over 3 labels of 2 heads
    expected = (3 * np.log(2) + np.log1p(np.exp(-2)) + 0.5 * np.log1p(np.exp(-1))) * 2 / 3
    assert model.loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    assert model.loss(logits, labels, num_items=6).item() == pytest.approx(expected / 2, rel=1e-5)
    model.config.label_smoothing = 0.1
    smooth = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]), reduction="sum", label_smoothing=0.1)
    sentiment = torch.nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1)
    expected = smooth(logits[0], labels[:, 0]) + 0.5 * sentiment(logits[1][:1], labels[:1, 1])
    torch.testing.assert_close(model.loss(logits, labels), expected * 2 / 3)
    assert model.loss(logits, torch.full((2, 2), -100)) == 0


def test_losses_of_a_split_batch_add_up_to_the_whole():
    model = model_of()
    inputs, labels = inputs_of(list(MODALITIES)), torch.tensor([[0, 1], [6, 2], [3, 0], [2, 0]])
    whole = model(**inputs, labels=labels).loss
    halves = [
        model(**{k: x[part] for k, x in inputs.items()}, labels=labels[part], num_items_in_batch=8).loss
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(whole, sum(halves))


def test_modalities_are_hidden_with_the_given_probability_and_one_is_kept():
    present = torch.tensor([[True, True, True], [True, False, False], [False, False, False]]).repeat(4000, 1)
    kept = hide_modalities(present, 0.4)
    assert not (kept & ~present).any()
    assert kept[1::3].sum(1).eq(1).all()
    assert kept[2::3].sum() == 0
    assert kept[0::3].any(1).all()
    # Each of three is hidden with probability 0.4. If all three would be (0.4^3), one is kept.
    assert kept[0::3].float().mean().item() == pytest.approx(0.6 + 0.4**3 / 3, abs=0.015)


@pytest.mark.parametrize("modalities", SUBSETS, ids=NAMES)
def test_a_loaded_model_predicts_the_same(modalities, tmp_path):
    model = model_of(modalities=modalities, fusion="gated", learned_absent=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForVideoClassification.from_pretrained(tmp_path).eval()
    inputs = inputs_of(modalities)
    assert isinstance(loaded, FusionForEmotion)
    assert torch.equal(logits_of(model, inputs), logits_of(loaded, inputs))
    assert (loaded.config.modalities, loaded.config.fusion) == (modalities, "gated")
    assert {name: len(part) for name, part in loaded.parts().items()} == {
        name: len(part) for name, part in model.parts().items()
    }
    assert not any(branch.encoder.training for branch in loaded.train().fusion.branches.values() if branch.frozen)


@pytest.mark.parametrize(
    ("settings", "key_and_value"),
    [
        ({"modalities": ["smell"]}, r"modalities=\['smell'\]"),
        ({"modalities": []}, r"modalities=\[\]"),
        ({"modalities": ["text", "text"]}, r"modalities=\['text', 'text'\]"),
        ({"fusion": "sum"}, "fusion='sum'"),
        ({"text_pooling": "max"}, "text_pooling='max'"),
        ({"video_encoder": "vivit"}, "video_encoder='vivit'"),
        ({"hidden_size": 0}, "hidden_size=0"),
        ({"modality_dropout": 1.0}, "modality_dropout=1.0"),
        ({"emotion_weights": [1.0]}, r"emotion_weights=\[1.0\]: .* 7 numbers"),
        ({"sentiment_names": ["good"]}, r"sentiment_names=\['good'\]"),
        ({"emotion_share": 0.0, "sentiment_share": 0.0}, "emotion_share=0 and sentiment_share=0"),
        ({"text_config": {"model_type": "nobert"}}, "text_config.model_type='nobert'"),
    ],
)
def test_invalid_settings_are_refused_by_name(settings, key_and_value):
    with pytest.raises(ValueError, match=f"^FusionConfig: {key_and_value}"):
        FusionConfig(**settings)


def test_video_weights_are_loaded_from_a_torchvision_state_dict(full_size):
    from torchvision.models.video import r3d_18

    source = r3d_18(weights=None)
    full_size.load_video_weights(source.state_dict())
    loaded = full_size.fusion.branches["video"].encoder.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in source.state_dict().items() if key[:3] != "fc.")
    with pytest.raises(ValueError, match="^video weights: .*r3d_18"):
        full_size.load_video_weights({"stem.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="^video_encoder='small'"):
        model_of().load_video_weights(source.state_dict())


@pytest.fixture(scope="module")
def processor() -> FusionProcessor:
    from transformers import AutoTokenizer

    extractor = FusionFeatureExtractor(clip_frames=4, frame_size=(20, 24), crop_size=16)
    return FusionProcessor(extractor, AutoTokenizer.from_pretrained(REPOSITORY / "configs" / "tiny_bert"))


def test_the_processor_is_saved_with_all_settings(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, FusionProcessor)
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8)
    sound = np.random.default_rng(1).standard_normal(8000).astype(np.float32)
    given = {"text": ["what a day"], "videos": [frames], "audio": [sound], "sampling_rate": 16000}
    before, after = processor(**given), loaded(**given)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    saved = json.loads((tmp_path / "processor_config.json").read_text())["feature_extractor"]
    assert saved["clip_frames"] == 4
    assert saved["crop_size"] == 16


def test_frames_are_center_cropped_scaled_and_in_rgb(processor):
    frames = np.zeros((4, 20, 24, 3), np.uint8)
    frames[:, 2:18, 4:20, 0] = 255  # red in the center crop
    pixels = processor(videos=[frames])["pixel_values"][0]  # (3, N, crop, crop)
    assert pixels.shape == (3, 4, 16, 16)
    for color, level in enumerate((1.0, 0.0, 0.0)):
        extractor = processor.feature_extractor
        expected = (level - extractor.image_mean[color]) / extractor.image_std[color]
        torch.testing.assert_close(pixels[color], torch.full((4, 16, 16), expected))


def test_the_defaults_for_frames_are_those_of_torchvision():
    from torchvision.models.video import R3D_18_Weights

    theirs, ours = R3D_18_Weights.KINETICS400_V1.transforms(), FusionFeatureExtractor()
    assert (ours.clip_frames, ours.video_frame_rate) == (16, 15.0)
    assert (ours.crop_size, tuple(ours.frame_size)) == (theirs.crop_size[0], tuple(theirs.resize_size))
    assert ours.image_mean == theirs.mean
    assert ours.image_std == theirs.std
    frames = np.random.default_rng(0).integers(0, 256, (16, 128, 171, 3), dtype=np.uint8)
    expected = theirs(torch.from_numpy(frames).permute(0, 3, 1, 2))  # (3, N, crop, crop); the size is right already
    torch.testing.assert_close(ours(videos=[frames])["pixel_values"][0], expected, atol=1e-5, rtol=1e-5)


def test_spectrograms_have_mean_0_and_deviation_1_and_silence_is_zeros(processor):
    sound = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.01
    batch = processor(audio=[sound, np.zeros(5000, np.float32), None], sampling_rate=16000)
    features, mask = batch["input_features"], batch["features_mask"].bool()
    assert features[0].mean().abs() < 1e-5
    assert features[0].std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert (features[1:] == 0).all()
    assert mask.sum(1).tolist() == [32, 10, 0]


def test_a_missing_or_blank_text_has_a_mask_of_zeros(processor):
    batch = processor(text=["so what", None, "", "  \n"])
    assert batch["attention_mask"].any(1).tolist() == [True, False, False, False]


def test_long_texts_are_truncated_to_the_encoders_limit(processor):
    assert processor(text=["what " * 5000])["input_ids"].shape == (1, 64)
    assert processor(text=["what " * 5000], max_length=10)["input_ids"].shape == (1, 10)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "text=None, videos=None, audio=None"),
        ({"videos": [np.zeros((3, 20, 24, 3), np.uint8)]}, r"clip 0: .*uint8.*\(3, 20, 24, 3\)"),
        ({"videos": [np.zeros((4, 20, 24, 3), np.float32)]}, r"clip 0: .*float32.*\(4, 20, 24, 3\)"),
        ({"videos": [np.zeros((4, 12, 24, 3), np.uint8)]}, "clip 0: .*12 x 24.*crop_size=16"),
        ({"audio": [np.zeros(100, np.float32)], "sampling_rate": 8000}, "sampling_rate=8000: .*16000"),
        ({"audio": [np.full(100, np.nan, np.float32)], "sampling_rate": 16000}, "clip 0: 100 of 100 samples"),
    ],
)
def test_invalid_inputs_are_refused(processor, inputs, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        processor(**inputs)


@pytest.mark.parametrize(
    "settings",
    [{"clip_frames": 0}, {"crop_size": 200}, {"image_std": [1.0]}, {"video_frame_rate": 0}, {"clip_frame": 3}],
)
def test_invalid_feature_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings)) if "crop_size" not in settings else "crop_size=200"):
        FusionFeatureExtractor(**settings)

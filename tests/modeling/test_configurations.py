"""Configurations accept known settings, refuse unknown ones, and refuse sizes that no machine can hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoModelForVideoClassification

from modeling import (
    SIGNAL_CONFIGS,
    SIGNAL_MODELS,
    EfficientAtConfig,
    EfficientAtForAudioClassification,
    FusionConfig,
    FusionForEmotion,
)
from modeling.configuration_strict import (
    MAX_LAYERS,
    MAX_SIZE,
    MAX_WEIGHTS,
    OF_OLDER_VERSIONS,
    OF_TRAINING,
    OF_TRANSFORMERS,
)
from modeling.feature_extraction_audio import AudioFeatureExtractor
from tasks.emotion.task import TASK
from tests.helpers.tiny_fusion import tiny_model
from training.prediction import load_model

CONFIGS = (*SIGNAL_CONFIGS, FusionConfig, EfficientAtConfig)
MODELS = dict(SIGNAL_MODELS) | {
    FusionConfig: FusionForEmotion,
    EfficientAtConfig: EfficientAtForAudioClassification,
}
FUSION_WIDTHS = ("num_mel_bins", "hidden_size", "fusion_size", "head_size")
WIDTHS = {config_class: getattr(config_class, "sizes", FUSION_WIDTHS) for config_class in CONFIGS}
DEPTHS = {config_class: getattr(config_class, "depths", ()) for config_class in CONFIGS}
DETECTION = {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": -2}
SMALL = {FusionConfig: {"modalities": ["video", "audio"], "video_encoder": "small"}}  # without a large text encoder


def field_name(config_class: type, name: str) -> str:
    return config_class.attribute_map.get(name, name)


CASES = [(config_class, name) for config_class in CONFIGS for name in (*WIDTHS[config_class], *DEPTHS[config_class])]


@pytest.mark.parametrize("config_class", CONFIGS)
@settings(max_examples=50)
@given(key=st.from_regex(r"[a-z_]{1,30}", fullmatch=True), value=st.one_of(st.integers(), st.text(), st.none()))
def test_an_unknown_key_is_refused_by_name(config_class: type, key: str, value: Any) -> None:
    known = (
        set(config_class().to_dict())
        | set(config_class.attribute_map)
        | OF_TRANSFORMERS
        | OF_TRAINING
        | OF_OLDER_VERSIONS
    )
    if key in known or key in config_class.__dataclass_fields__:
        return
    with pytest.raises(ValueError, match=rf"^{config_class.__name__}: {key}=.*unknown setting"):
        config_class(**{key: value})


@pytest.mark.parametrize(("config_class", "name"), CASES)
def test_a_typo_is_refused_with_the_correct_name(config_class: type, name: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{name}'|Did you mean '{field_name(config_class, name)}'"):
        config_class(**{f"{name}s": 3})


@pytest.mark.parametrize("config_class", CONFIGS)
def test_keys_of_transformers_and_training_are_accepted_and_saved(config_class: type, tmp_path: Path) -> None:
    config = config_class(
        id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification", dtype="float32"
    )
    config.update({"detection": DETECTION})
    config.custom_pipelines = {"one": {"impl": "a.B"}}
    config.use_cache = False  # like Trainer
    config.save_pretrained(tmp_path)
    for again in (
        config_class.from_pretrained(tmp_path),
        AutoConfig.from_pretrained(tmp_path),
        config_class(**config.to_dict()),
    ):
        assert again.to_dict() | {"_name_or_path": "", "use_cache": False} == config.to_dict()
        assert again.detection == DETECTION
    assert config_class.from_pretrained(tmp_path, num_labels=5, attn_implementation="eager").num_labels == 5
    given = config_class.from_pretrained(tmp_path, output_attentions=False, name_or_path="x")
    assert given.problem_type == "multi_label_classification"


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize("key", ["class_names", "class_weights", "per_layer_config"])
@pytest.mark.parametrize("value", [[1, 2], ["a"], {}, [], 0, False, ""])
def test_a_key_that_was_always_null_must_stay_null(config_class: type, key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_class().to_dict() | {key: value}))
    for load in (lambda: config_class(**{key: value}), lambda: AutoConfig.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=rf"^{config_class.__name__}: {key}=[^\n]*$"):
            load()
    (tmp_path / "config.json").write_text(json.dumps(config_class().to_dict() | {key: None}))
    assert AutoConfig.from_pretrained(tmp_path).to_dict().keys() == config_class(**{key: None}).to_dict().keys()


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize(
    "value",
    [{}, [], 0.5, "yes", {"threshold": 0.5}, DETECTION | {"more": 1}]
    + [DETECTION | {name: value} for name in DETECTION for value in ("1", None, True, float("nan"), float("inf"))]
    + [DETECTION | {name: 0} for name in ("clip_seconds", "hop_seconds")],
)
def test_an_invalid_detection_entry_is_refused(config_class: type, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{config_class.__name__}: detection[^\n]*$"):
        config_class(detection=value)
    assert config_class(detection=None).detection is None


@pytest.mark.parametrize(("config_class", "name"), CASES)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, 100_000, 10**9, 10**30])
def test_an_absurd_size_is_refused_by_name(config_class: type, name: str, value: Any, tmp_path: Path) -> None:
    config = config_class(**SMALL.get(config_class, {})).to_dict() | {field_name(config_class, name): value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loads = [
        lambda: config_class(**{name: value}),
        lambda: config_class(**config),
        lambda: AutoConfig.from_pretrained(tmp_path),
    ]
    for auto in (AutoModel, AutoModelForAudioClassification, AutoModelForVideoClassification):
        if config_class in auto._model_mapping:
            loads.append(lambda auto=auto: auto.from_pretrained(tmp_path))
    for load in loads:
        with pytest.raises(ValueError, match=rf"^{config_class.__name__}: .*{field_name(config_class, name)}=[^\n]*$"):
            load()


@pytest.mark.parametrize("config_class", CONFIGS)
@settings(max_examples=30)
@given(data=st.data())
def test_weights_estimates_the_size_of_an_accepted_model(config_class: type, data: st.DataObject) -> None:
    widths = st.one_of(st.integers(1, 64), st.integers(1, 10**6))
    sizes = {name: data.draw(widths, name) for name in WIDTHS[config_class] if name != "kernel_size"}
    sizes |= {
        name: data.draw(st.one_of(st.integers(1, 4), st.integers(1, 10**6)), name) for name in DEPTHS[config_class]
    }
    try:
        config = config_class(**sizes, **SMALL.get(config_class, {}))
    except ValueError as error:
        assert max(sizes.values()) > min(MAX_SIZE, MAX_LAYERS) or "weights" in str(error)
        return
    assert config.weights <= MAX_WEIGHTS
    if max([sizes[name] for name in DEPTHS[config_class]], default=0) <= 16:
        with torch.device("meta"):
            model = MODELS[config_class](config)
        assert sum(parameter.numel() for parameter in model.parameters()) < 2 * config.weights + 40 * MAX_SIZE


def test_sizes_that_are_too_large_together_are_refused() -> None:
    for config_class, sizes in (
        (SIGNAL_CONFIGS[0], {"num_channels": 30_000, "num_blocks": 12}),
        (FusionConfig, {"num_mel_bins": 60_000, "text_config": {"model_type": "bert"}}),
        (FusionConfig, {"text_config": {"model_type": "bert", "hidden_size": 10**9}}),
        (FusionConfig, {"text_config": {"model_type": "bert", "num_hidden_layers": 100_000}}),
        (FusionConfig, {"embedding_sizes": {"text": 10**9}}),
    ):
        with pytest.raises(ValueError, match=config_class.__name__):
            config_class(**sizes)
    for config_class in CONFIGS:
        with pytest.raises(ValueError, match="num_labels=1000000000"):
            config_class(num_labels=10**9)


@pytest.mark.parametrize(
    "changes", [{"num_mel_bins": 10**8}, {"n_fft": 10**10}, {"n_fft": 10**10, "num_mel_bins": 10**9}]
)
def test_absurd_sizes_of_features_are_refused(changes: dict[str, int], tmp_path: Path) -> None:
    AudioFeatureExtractor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=f"{next(iter(changes))}={next(iter(changes.values()))}"):
        AudioFeatureExtractor.from_pretrained(tmp_path)


def test_predicting_with_an_absurd_config_names_the_folder_and_the_key(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 10**9}))

    with pytest.raises(ValueError, match=rf"^{tmp_path} .*hidden_size=1000000000[^\n]*$"):
        load_model(str(tmp_path), "cpu", TASK)

"""Every configuration takes what it knows, refuses what it does not, and never asks for memory that no machine has."""

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
    MOST,
    MOST_LAYERS,
    MOST_WEIGHTS,
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
FUSED = ("num_mel_bins", "hidden_size", "fusion_size", "head_size")
WIDTHS = {kind: getattr(kind, "sizes", FUSED) for kind in CONFIGS}
DEPTHS = {kind: getattr(kind, "depths", ()) for kind in CONFIGS}
DETECTION = {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": -2}
SOUND = {FusionConfig: {"modalities": ["video", "audio"], "video_encoder": "small"}}  # without a large text encoder


def own(kind: type, name: str) -> str:
    return kind.attribute_map.get(name, name)


CASES = [(kind, name) for kind in CONFIGS for name in (*WIDTHS[kind], *DEPTHS[kind])]


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=50)
@given(key=st.from_regex(r"[a-z_]{1,30}", fullmatch=True), value=st.one_of(st.integers(), st.text(), st.none()))
def test_a_key_is_known_or_refused_by_name(kind: type, key: str, value: Any) -> None:
    known = set(kind().to_dict()) | set(kind.attribute_map) | OF_TRANSFORMERS | OF_TRAINING | OF_OLDER_VERSIONS
    if key in known or key in kind.__dataclass_fields__:
        return
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: {key}=.*unknown setting"):
        kind(**{key: value})


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_slip_in_a_name_is_refused_with_the_right_one(kind: type, name: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{name}'|Did you mean '{own(kind, name)}'"):
        kind(**{f"{name}s": 3})


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_transformers_and_training_write_is_taken_and_comes_back(kind: type, tmp_path: Path) -> None:
    config = kind(id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification", dtype="float32")
    config.update({"detection": DETECTION})
    config.custom_pipelines = {"one": {"impl": "a.B"}}
    config.use_cache = False  # as Trainer does
    config.save_pretrained(tmp_path)
    for again in (kind.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path), kind(**config.to_dict())):
        assert again.to_dict() | {"_name_or_path": "", "use_cache": False} == config.to_dict()
        assert again.detection == DETECTION
    assert kind.from_pretrained(tmp_path, num_labels=5, attn_implementation="eager").num_labels == 5
    given = kind.from_pretrained(tmp_path, output_attentions=False, name_or_path="x")
    assert given.problem_type == "multi_label_classification"


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("key", ["class_names", "class_weights", "per_layer_config"])
@pytest.mark.parametrize("value", [[1, 2], ["a"], {}, [], 0, False, ""])
def test_a_key_that_was_always_null_takes_nothing_else(kind: type, key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(kind().to_dict() | {key: value}))
    for way in (lambda: kind(**{key: value}), lambda: AutoConfig.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=rf"^{kind.__name__}: {key}=[^\n]*Leave it out\.$"):
            way()
    (tmp_path / "config.json").write_text(json.dumps(kind().to_dict() | {key: None}))
    assert AutoConfig.from_pretrained(tmp_path).to_dict().keys() == kind(**{key: None}).to_dict().keys()


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "value",
    [{}, [], 0.5, "yes", {"threshold": 0.5}, DETECTION | {"more": 1}]
    + [DETECTION | {name: value} for name in DETECTION for value in ("1", None, True, float("nan"), float("inf"))]
    + [DETECTION | {name: 0} for name in ("clip_seconds", "hop_seconds")],
)
def test_what_no_run_of_detection_leaves_is_refused(kind: type, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: detection[^\n]*$"):
        kind(detection=value)
    assert kind(detection=None).detection is None


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, 100_000, 10**9, 10**30])
def test_an_absurd_size_is_refused_by_name_however_it_comes(kind: type, name: str, value: Any, tmp_path: Path) -> None:
    config = kind(**SOUND.get(kind, {})).to_dict() | {own(kind, name): value}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ways = [lambda: kind(**{name: value}), lambda: kind(**config), lambda: AutoConfig.from_pretrained(tmp_path)]
    for auto in (AutoModel, AutoModelForAudioClassification, AutoModelForVideoClassification):
        if kind in auto._model_mapping:
            ways.append(lambda auto=auto: auto.from_pretrained(tmp_path))
    for way in ways:
        with pytest.raises(ValueError, match=rf"^{kind.__name__}: .*{own(kind, name)}=[^\n]*$"):
            way()


@pytest.mark.parametrize("kind", CONFIGS)
@settings(max_examples=30)
@given(data=st.data())
def test_a_model_that_is_accepted_has_about_the_weights_that_its_sizes_say(kind: type, data: st.DataObject) -> None:
    widths = st.one_of(st.integers(1, 64), st.integers(1, 10**6))
    sizes = {name: data.draw(widths, name) for name in WIDTHS[kind] if name != "kernel_size"}
    sizes |= {name: data.draw(st.one_of(st.integers(1, 4), st.integers(1, 10**6)), name) for name in DEPTHS[kind]}
    try:
        config = kind(**sizes, **SOUND.get(kind, {}))
    except ValueError as error:
        assert max(sizes.values()) > min(MOST, MOST_LAYERS) or "weights" in str(error)
        return
    assert config.weights <= MOST_WEIGHTS
    if max([sizes[name] for name in DEPTHS[kind]], default=0) <= 16:
        with torch.device("meta"):
            model = MODELS[kind](config)
        assert sum(parameter.numel() for parameter in model.parameters()) < 2 * config.weights + 40 * MOST


def test_sizes_that_are_too_large_together_are_refused() -> None:
    for kind, sizes in (
        (SIGNAL_CONFIGS[0], {"num_channels": 30_000, "num_blocks": 12}),
        (FusionConfig, {"num_mel_bins": 60_000, "text_config": {"model_type": "bert"}}),
        (FusionConfig, {"text_config": {"model_type": "bert", "hidden_size": 10**9}}),
        (FusionConfig, {"text_config": {"model_type": "bert", "num_hidden_layers": 100_000}}),
        (FusionConfig, {"embedding_sizes": {"text": 10**9}}),
    ):
        with pytest.raises(ValueError, match=kind.__name__):
            kind(**sizes)
    for kind in CONFIGS:
        with pytest.raises(ValueError, match="num_labels=1000000000"):
            kind(num_labels=10**9)


@pytest.mark.parametrize(
    "changes", [{"num_mel_bins": 10**8}, {"n_fft": 10**10}, {"n_fft": 10**10, "num_mel_bins": 10**9}]
)
def test_absurd_sizes_of_features_are_refused(changes: dict[str, int], tmp_path: Path) -> None:
    AudioFeatureExtractor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=f"{next(iter(changes))} = {next(iter(changes.values()))}"):
        AudioFeatureExtractor.from_pretrained(tmp_path)


def test_predicting_with_an_absurd_config_names_the_folder_and_the_key(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 10**9}))

    with pytest.raises(ValueError, match=rf"^{tmp_path} .*hidden_size=1000000000[^\n]*$"):
        load_model(str(tmp_path), "cpu", TASK)

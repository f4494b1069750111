"""Printing the sizes of an emotion model without data or weights."""

import json

import pytest

from launch.count_parameters import main
from launch.run import parse_run
from tests.conftest import REPOSITORY
from training.build import build_model

GUIDE = {"Text": 98_432, "Video": 65_664, "Audio": 16_512, "Fusion": 99_072, "Emotion": 16_903, "Sentiment": 16_643}


def sizes(output: str) -> dict[str, tuple[int, int]]:
    """Return the trainable and frozen parameters of each part."""
    lines = [line.replace(",", "").split() for line in output.splitlines() if line.startswith("- ")]
    return {line[1]: (int(line[-2]), int(line[-1])) for line in lines}


def test_the_model_of_the_guide_has_the_published_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs/meld_guide.json"])
    printed = sizes(capsys.readouterr().out)
    assert {name: trainable for name, (trainable, _) in printed.items()} == GUIDE
    assert sum(frozen for _, frozen in printed.values()) == 142_999_178 - 313_226


def test_printed_sizes_equal_those_of_the_built_model(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["configs/meld_sample.json", "--model_config.freeze_text", "true"]
    main(command)
    printed = sizes(capsys.readouterr().out)
    encoder = json.loads((REPOSITORY / "configs/tiny_bert/config.json").read_text(encoding="utf-8"))
    model = build_model(parse_run(command), {"text_config": encoder})
    assert {name.lower(): trainable for name, (trainable, _) in printed.items()} == model.part_sizes()
    assert printed["Text"][1] == sum(p.numel() for p in model.fusion.branches["text"].encoder.parameters())


def test_the_config_of_the_guide_has_the_published_training_settings() -> None:
    run = parse_run(["configs/meld_guide.json"])
    training, config = run.training, run.arguments.model_config
    assert (training.optim, training.learning_rate, training.weight_decay) == ("adam", 1e-4, 0)
    assert (training.lr_scheduler_type, training.metric_for_best_model) == ("reduce_lr_on_plateau", "loss")
    assert training.greater_is_better is False
    assert training.max_grad_norm > 0
    assert (config.keys(), run.settings.emotion.learning_rates) == ({"freeze_audio_conv"}, {})
    assert run.settings.emotion.class_weights == "none"

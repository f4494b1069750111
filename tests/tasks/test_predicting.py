"""Test that run_predict.py rejects a wrong command line before it loads the weights of the model."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedConfig

import run_predict
from media.scaling import Scaling
from modeling import FusionConfig, TcnConfig
from system.process import one_line
from tests.helpers.tiny_fusion import tiny_model

STATISTICS = {"offset": (0.0,), "scale": (1.0,)}
LISTENER = Scaling("zscore", "listener", "uS", ("raw",), **STATISTICS, listeners={"17": STATISTICS})


def config_of(task: str, **settings: Any) -> PreTrainedConfig:
    """Return the config of a model that the task trained."""
    if task == "emotion":
        return tiny_model(**settings).config
    if task == "attention":
        return FusionConfig(modalities=["text"], embedding_sizes={"text": 4})
    labels = {"id2label": {0: "Baby cry"}, "label2id": {"Baby cry": 0}}
    return TcnConfig(**({"target_scaling": LISTENER.to_dict()} if task == "eda" else labels) | settings)


def model_folder(folder: Path, task: str, **settings: Any) -> Path:
    """Create a run folder without weights."""
    config_of(task, **settings).save_pretrained(folder)
    (folder / "run_config.json").write_text(json.dumps({"task": task}))
    return folder


DETECTION = {"detection": {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": 0.5}}
# Task, settings of the model, command line, pattern of the message.
REJECTED = [
    ("attention", {}, ["a.wav"], "task=attention: "),
    ("eda", {}, ["nowhere.wav"], "nowhere.wav: "),
    ("eda", {}, ["a.wav", "--listener", "3"], "--listener=3: .* 17"),
    ("eda", {}, ["a.wav", "--text", "x"], "--text: .*'eda'"),
    ("detection", DETECTION, ["a.wav", "--threshold", "2"], "--threshold=2.0: "),
    ("detection", DETECTION, ["a.wav", "--target", "rain"], "--target=rain: .*'Baby cry'"),
    ("detection", {}, ["a.wav"], "`detection`"),
    ("emotion", {"modalities": ["text"]}, ["a.mp4"], "^a.mp4: .* reads text. .*--text"),
    ("emotion", {"modalities": ["video"]}, ["a.wav"], "^a.wav: .* reads video. .*clip"),
    ("emotion", {"modalities": ["video"]}, ["a.mp4", "--text", "x"], "--text=x: .* reads video"),
    ("emotion", {}, ["a.mp4", "--text", "x", "--utterances", "b.srt"], "--text=x: --utterances"),
    ("emotion", {}, ["a.mp4", "a.wav", "--text", "x"], "^clips=2: "),
    ("emotion", {}, ["a.mp4", "--utterances", "bad.csv"], "bad.csv: .*: text"),
    ("emotion", {}, ["a.mp4", "--utterances", "lines.csv"], "--utterances=lines.csv: .* start and end"),
    ("emotion", {}, ["--utterances", "lines.csv"], "--utterances=lines.csv: line 2 "),
    ("emotion", {}, ["--text", " "], "^no recording: "),
    ("emotion", {"modalities": ["audio"]}, ["--utterances", "lines.csv"], "reads audio. .*recording"),
]


@pytest.mark.parametrize(("task", "settings", "command", "message"), REJECTED, ids=lambda value: str(value)[:40])
def test_a_wrong_command_line_is_rejected_before_the_weights_are_read(
    task: str,
    settings: dict[str, Any],
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_folder(tmp_path / "model", task, **settings)
    for name in ("a.wav", "a.mp4", "b.srt"):
        Path(name).touch()
    Path("bad.csv").write_text("words\nx\n")
    Path("lines.csv").write_text("text\nx\n \n")
    # The folder has no weights: loading the model would fail with another message.
    with pytest.raises(ValueError, match=message) as error:
        run_predict.main([str(model), *command])
    assert str(error.value) == one_line(error.value)
    assert not list(tmp_path.glob("predictions*"))

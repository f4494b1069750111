"""run_predict.py refuses before it loads a model what the model's config and the command line show."""

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
    """A configuration of a model that a task trained."""
    if task == "emotion":
        return tiny_model(**settings).config
    if task == "attention":
        return FusionConfig(modalities=["text"], embedding_sizes={"text": 4})
    labels = {"id2label": {0: "Baby cry"}, "label2id": {"Baby cry": 0}}
    return TcnConfig(**({"target_scaling": LISTENER.to_dict()} if task == "eda" else labels) | settings)


def model_folder(folder: Path, task: str, **settings: Any) -> Path:
    """A folder of a run that has no weights."""
    config_of(task, **settings).save_pretrained(folder)
    (folder / "run_config.json").write_text(json.dumps({"task": task}))
    return folder


CRY = {"detection": {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": 0.5}}
REFUSED = [
    ("attention", {}, ["a.wav"], "task=attention: a model of stored embeddings reads no recordings"),
    ("eda", {}, ["nowhere.wav"], "nowhere.wav: no such file"),
    ("eda", {}, ["a.wav", "--listener", "3"], "--listener=3: not in the training. Known: 17."),
    ("eda", {}, ["a.wav", "--text", "x"], "--text: a model of task 'eda' takes none"),
    ("detection", CRY, ["a.wav", "--threshold", "2"], "--threshold=2.0: "),
    ("detection", CRY, ["a.wav", "--target", "rain"], "--target=rain: the model detects 'Baby cry' alone"),
    ("detection", {}, ["a.wav"], "no `detection`"),
    ("emotion", {"modalities": ["text"]}, ["a.mp4"], "a.mp4: nothing to go by, .* reads text. Give --text or"),
    ("emotion", {"modalities": ["video"]}, ["a.wav"], "a.wav: .* reads video. Give a clip with pictures."),
    ("emotion", {"modalities": ["video"]}, ["a.mp4", "--text", "x"], "--text=x: the model reads video. Leave it out."),
    ("emotion", {}, ["a.mp4", "--text", "x", "--utterances", "b.srt"], "Give one of them."),
    ("emotion", {}, ["a.mp4", "a.wav", "--text", "x"], "are of one clip, and 2 came"),
    ("emotion", {}, ["a.mp4", "--utterances", "bad.csv"], "bad.csv: lacks the columns text"),
    ("emotion", {}, ["a.mp4", "--utterances", "lines.csv"], "no columns start and end, which a recording needs"),
    ("emotion", {}, ["--utterances", "lines.csv"], "line 2 has no text"),
    ("emotion", {}, ["--text", " "], "no recording: nothing to go by"),
    ("emotion", {"modalities": ["audio"]}, ["--utterances", "lines.csv"], "reads audio. Give a recording with sound."),
]


@pytest.mark.parametrize(("task", "settings", "command", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_predicted_is_refused_before_the_weights_are_read(
    task: str, settings: dict[str, Any], command: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_folder(tmp_path / "model", task, **settings)
    for name in ("a.wav", "a.mp4", "b.srt"):
        Path(name).touch()
    Path("bad.csv").write_text("words\nx\n")
    Path("lines.csv").write_text("text\nx\n \n")
    with pytest.raises(ValueError, match=said) as caught:  # the folder has no weights
        run_predict.main([str(model), *command])
    assert str(caught.value) == one_line(caught.value)
    assert not list(tmp_path.glob("predictions*"))

"""Models that are pushed to a Hub work on other machines: weights, code, features and card, without secrets."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soxr
import torch
import transformers

from launch import pages
from media.audio import read_audio
from tasks.emotion.predict import predict_utterance
from tasks.emotion.subtitles import Utterance
from tests.conftest import REPOSITORY
from tests.helpers.hub_server import TOKEN, Hub, serve_hub

pytestmark = pytest.mark.slow

CONFIGS = {"eda": "eda_tcn", "detection": "baby_cry", "emotion": "meld_sample", "attention": "tunein_attention"}
AUTO = {
    "eda": "AutoModel",
    "detection": "AutoModelForAudioClassification",
    "emotion": "AutoModelForVideoClassification",
    "attention": "AutoModel",
}
OUTPUTS = {
    "eda": ["predictions"],
    "detection": ["logits", "frame_logits"],
    "emotion": ["emotion_logits", "sentiment_logits"],
    "attention": ["predictions"],
}
TEXT = "You came!"
# The code of another user: without this project, without a token, with names instead of folders.
ELSEWHERE = """
import json, sys
import numpy as np
import torch
import transformers

auto, song, clip, text = json.loads(sys.argv[1]), *sys.argv[2:5]
torch.set_num_threads(int(sys.argv[5]))
results = {}
for task, auto_class in auto.items():
    name = f"tester/{task}"
    model = getattr(transformers, auto_class).from_pretrained(name, trust_remote_code=True).eval()
    inputs = {key: torch.from_numpy(value) for key, value in np.load(f"{task}.npz").items()}
    with torch.no_grad():
        output = model(**inputs)
    np.savez(f"{task}_there.npz", **{key: value.numpy() for key, value in output.items() if torch.is_tensor(value)})
predict = transformers.pipeline(model="tester/eda", trust_remote_code=True)
predicted = predict(song)
results["signal"] = [predicted["channels"], predicted["unit"]]
sounds = dict(np.load("sounds.npz"))
array = predict({"array": sounds["b"], "sampling_rate": 16000})
np.savez("signal.npz", times=predicted["times"], values=predicted["values"], array=array["values"])
detect = transformers.pipeline("audio-classification", model="tester/detection", trust_remote_code=True)
inputs = [{"array": sounds[key], "sampling_rate": detect.feature_extractor.sampling_rate} for key in sorted(sounds)]
results["alone"], results["batch"] = [detect(dict(each)) for each in inputs], detect(inputs, batch_size=2)
classify = transformers.pipeline(model="tester/emotion", trust_remote_code=True)
results["emotion"] = classify(clip, text=text)
ours = ("modeling", "training", "media", "evaluation", "reporting", "hf_datasets")
assert not [name for name in sys.modules if name.split(".")[0] in ours]
with open("results.json", "w") as file:
    json.dump(results, file)
"""


def run(*command: str | Path, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, timeout=900)


def train(task: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """Train for two steps on a sample and share the model as `tester/<task>`."""
    config = ["run_train.py", f"configs/{CONFIGS[task]}.json", "--dataset_config", "sample", "--max_steps", "2"]
    shared = ["--push_to_hub", "--hub_model_id", f"tester/{task}", "--output_dir", str(folder)]
    return run(sys.executable, *config, *shared, *options, **environment)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path, str]]:
    """Yield a Hub with a model of each task, the folder of the runs, and their output."""
    folder, output = tmp_path_factory.mktemp("pushed"), ""
    with serve_hub() as hub:
        for task in CONFIGS:
            done = train(task, folder / task, **hub.environment(folder / "home"))
            assert done.returncode == 0, done.stderr[-3000:]
            assert f"shared: {hub.url}/tester/{task}" in done.stdout
            output += done.stdout + done.stderr
        yield hub, folder, output


def first_bytes(file: str, column: str) -> bytes:
    """Return the bytes of the first recording in a sample."""
    (path,) = (REPOSITORY / "hf_datasets").glob(file)
    cells = pq.read_table(path, columns=[column]).to_pylist()
    return next(cell[column]["bytes"] for cell in cells if cell[column])


def inputs_of(task: str, model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Return inputs for the model of a task."""
    generator = np.random.default_rng(0)
    sound = generator.normal(0, 0.1, 40_000).astype(np.float32)
    if task == "attention":
        return {
            f"{name}_{part}": torch.randn(2, 5, size) if part == "embeddings" else torch.ones(2, 5, dtype=torch.bool)
            for name, size in model.config.embedding_sizes.items()
            for part in ("embeddings", "mask")
        }
    if task == "emotion":
        processor = transformers.AutoProcessor.from_pretrained(folder)
        extractor = processor.feature_extractor
        shape = (extractor.clip_frames, *extractor.frame_size, 3)
        frames = generator.integers(0, 256, shape, np.uint8)
        return dict(processor([TEXT, None], [frames, None], [sound, sound], extractor.sampling_rate))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return dict(extractor([sound, sound[:30_000]], sampling_rate=extractor.sampling_rate))


def test_models_and_pipelines_loaded_by_name_predict_the_same_elsewhere(pushed, tmp_path: Path) -> None:
    hub, folder, _ = pushed
    models = {task: getattr(transformers, name).from_pretrained(folder / task).eval() for task, name in AUTO.items()}
    expected = {}
    for task, model in models.items():
        inputs = inputs_of(task, model, folder / task)
        np.savez(tmp_path / f"{task}.npz", **{name: value.numpy() for name, value in inputs.items()})
        with torch.no_grad():
            expected[task] = model(**inputs)
    song, clip = tmp_path / "song.mp3", tmp_path / "clip.mp4"
    song.write_bytes(first_bytes("pmemo/sample/sample-train-*", "audio"))
    clip.write_bytes(first_bytes("meld/sample/sample-test-*", "clip"))
    sounds = {name: np.sin(np.arange(n) / 30).astype(np.float32) for name, n in (("a", 9000), ("b", 16000))}
    np.savez(tmp_path / "sounds.npz", **sounds)

    start = len(hub.requests)
    home = hub.environment(tmp_path / "home", token=None)
    arguments = [json.dumps(AUTO), song, clip, TEXT, str(torch.get_num_threads())]
    done = run(sys.executable, "-I", "-c", ELSEWHERE, *arguments, cwd=tmp_path, **home)

    assert done.returncode == 0, done.stderr[-3000:]
    assert not any(with_token for _, _, with_token in hub.requests[start:])
    for task, names in OUTPUTS.items():
        there = np.load(tmp_path / f"{task}_there.npz")
        for name in names:
            assert np.array_equal(there[name], expected[task][name].numpy()), (task, name)
    results = json.loads((tmp_path / "results.json").read_text())
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "eda")
    config, rate = models["eda"].config, extractor.sampling_rate
    signal, scaling = np.load(tmp_path / "signal.npz"), config.target_scaling
    assert results["signal"] == [config.target_channels, "uS"]
    assert np.array_equal(signal["times"], np.arange(len(signal["values"])) / config.frame_rate)
    # Two mp3 decoders differ by 1e-6 of full scale, which the logarithm amplifies near silence.
    inputs = {"values": (read_audio(song, rate)[0], 2e-3), "array": (soxr.resample(sounds["b"], 16000, rate), 1e-6)}
    for name, (sound, tolerance) in inputs.items():
        predicted = models["eda"].predict(**extractor(sound, sampling_rate=rate)).predictions[0].double().numpy()
        expected = predicted * scaling["scale"] + scaling["offset"]
        np.testing.assert_allclose(signal[name], expected, rtol=0, atol=tolerance)

    names = models["detection"].config.id2label
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "detection")
    for number, sound in enumerate(sounds.values()):
        with torch.no_grad():
            score = models["detection"](**extractor(sound, sampling_rate=extractor.sampling_rate)).logits.sigmoid()
        for labels in (results["alone"][number], results["batch"][number]):
            assert [each["label"] for each in labels] == [names[0]]
            assert labels[0]["score"] == pytest.approx(score.item(), abs=1e-6)

    processor = transformers.AutoProcessor.from_pretrained(folder / "emotion")
    expected = predict_utterance(models["emotion"], processor, clip, Utterance(0.0, None, TEXT))
    assert expected.missing == results["emotion"]["missing"] == []
    for head, ours in (("emotion", expected.emotions), ("sentiment", expected.sentiments)):
        scores = {each["label"]: each["score"] for each in results["emotion"][head]}
        assert sum(scores.values()) == pytest.approx(1)
        # The pipeline has its own reader of clips: a frame between two times, or the start of the sound, can differ.
        assert [scores[one.label] for one in ours] == pytest.approx([one.confidence for one in ours], abs=0.02)


def test_the_model_is_shared_without_recordings(pushed) -> None:
    hub, folder, _ = pushed
    for task in CONFIGS:
        files = set(hub.files("models", f"tester/{task}"))
        assert {"README.md", "config.json", "model.safetensors", "metrics.json", "splits.json"} <= files
        private = {"predictions.parquet", "report.html"}
        assert private <= {path.name for path in (folder / task).iterdir()}
        assert not private & files
        assert not [name for name in files if name.startswith(("checkpoint", "runs", "figure_t", "review"))]
    assert {"preprocessor_config.json", "pipeline_signal.py", "recordings.py"} <= set(
        hub.files("models", "tester/eda")
    )
    assert {"processor_config.json", "tokenizer.json", "pipeline_emotion.py", "recordings.py"} <= set(
        hub.files("models", "tester/emotion")
    )


def test_the_token_is_not_printed_stored_or_sent_to_another_host(pushed) -> None:
    hub, folder, output = pushed
    assert TOKEN not in output
    assert not [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    for task in CONFIGS:
        contents = hub.files("models", f"tester/{task}")
        assert not [path for path, content in contents.items() if TOKEN.encode() in content]
    stored = [with_token for _, path, with_token in hub.requests if path.startswith(("/uploads/", "/lfs/"))]
    assert stored
    assert not any(stored)


@pytest.mark.parametrize("task", CONFIGS)
def test_the_pictures_of_the_card_are_shared(task: str, pushed) -> None:
    files = pushed[0].files("models", f"tester/{task}")
    pictures = re.findall(r"!\[[^]]*\]\((.*?)\)", files["README.md"].decode())
    assert pictures
    assert set(pictures) <= set(files)


def test_only_the_folder_of_a_run_has_a_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: .*metrics.json"):
        pages.main([str(tmp_path)])
    (tmp_path / "metrics.json").write_text('{"task": "eda", "test": {}}')
    with pytest.raises(ValueError, match="run_eval.py"):
        pages.main([str(tmp_path)])


PUSH = """
import sys, time
from pathlib import Path
from launch.sharing import push_run

time.sleep = lambda seconds: None  # the client waits between retries
for name in sys.argv[2:]:
    try:
        push_run(Path(sys.argv[1]), name)
        print("shared")
    except ValueError as error:
        print(repr(str(error)))
"""


def fail_by_name(method: str, path: str, body: bytes) -> int | None:
    """Return the error status in a repository's name: `create-500` when it is created, `commit-403` at the end."""
    if path == "/api/repos/create":
        stage, _, status = json.loads(body)["name"].partition("-")
        return int(status) if stage == "create" else None
    match = re.search(r"/(preupload|commit)-(\d+)/(preupload|commit)/main$", path)
    return int(match[2]) if match and match[1] == match[3] else None


def test_the_error_of_a_failed_upload_is_one_line_with_the_next_command(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "metrics.json").write_text("{}")
    (run_folder / "model.safetensors").write_bytes(bytes(1000))
    failing = ["create-401", "create-403", "create-500", "preupload-500", "commit-403", "commit-500"]
    names = [*(f"tester/{name}" for name in failing), "somebody/else"]
    with serve_hub(fail_by_name) as hub:
        command = [sys.executable, "-c", PUSH, run_folder, *names, "tester/complete"]
        done = run(*command, **hub.environment(tmp_path / "home"))
        assert set(hub.files("models", "tester/complete")) >= {"metrics.json", "model.safetensors"}
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert last == "shared"
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        message = ast.literal_eval(line)
        assert "\n" not in message
        assert f"`python -m launch.sharing {run_folder} {name}`" in message
        status = name.rpartition("-")[2] if "-" in name else "403"
        advice = {"401": "hf auth login", "403": "token", "500": "later"}[status]
        assert status in message
        assert advice in message


def test_an_unreachable_hub_or_a_wrong_token_stops_a_run_before_training(tmp_path: Path) -> None:
    with serve_hub() as hub:
        unknown = train("eda", tmp_path / "run", **hub.environment(tmp_path / "home", token=f"{TOKEN}x"))
    away = hub.environment(tmp_path / "home")  # the port is closed now
    down = train("eda", tmp_path / "run", **away)
    predict = run(sys.executable, "run_predict.py", "tester/eda", REPOSITORY / "README.md", **away)
    for done, message in (
        (unknown, "hf auth login"),
        (down, "--push_to_hub to tester/eda: "),
        (predict, "run_predict.py: "),
    ):
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert message in done.stderr.splitlines()[-1]
        assert "SYNTHETIC" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".training.lock"]


def test_the_documented_commands_for_sharing_work(pushed, tmp_path: Path) -> None:
    # With the names of this Hub, and a run of two steps. The first command is the one that made the runs here.
    hub, folder, _ = pushed
    page = (REPOSITORY / "docs/share.md").read_text(encoding="utf-8")
    commands, code = (page.split(f"```{language}\n")[1].split("```")[0] for language in ("bash", "python"))
    first, *others = commands.strip().splitlines()
    assert first.endswith("run_train.py configs/eda_tcn.json --push_to_hub --hub_model_id you/eda-tcn")
    home = hub.environment(folder / "home")
    for command in others:
        command = command.replace("outputs/eda_tcn", str(folder / "eda")).replace(" you/", " tester/")
        done = run(sys.executable, *command.split()[1:], **home)
        assert done.returncode == 0, done.stderr[-3000:]
    assert ("datasets", "tester/pmemo-sample") in hub.repositories

    (tmp_path / "song.mp3").write_bytes(first_bytes("pmemo/sample/sample-train-*", "audio"))
    (tmp_path / "clip.mp4").write_bytes(first_bytes("meld/sample/sample-test-*", "clip"))
    for printed, name in (("you/meld", "tester/emotion"), ("you/baby-cry", "tester/detection")):
        code = code.replace(printed, name)
    inputs = "import numpy\nsound, rate = numpy.zeros(16000, numpy.float32), 16000\n"
    script = inputs + code.replace("you/eda-tcn", "tester/eda-tcn")
    home = hub.environment(tmp_path / "home", token=None)
    done = run(sys.executable, "-I", "-c", script, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr[-3000:]
    shape, label, score = done.stdout.splitlines()
    assert " uS " in shape
    assert "'label'" in label
    assert "'score'" in score

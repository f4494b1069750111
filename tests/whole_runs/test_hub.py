"""A model that was pushed to a Hub is what another machine gets: weights, code, features, card, and no secret."""

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
# What a stranger does: nothing of ours on the path, no token, names instead of folders.
ELSEWHERE = """
import json, sys
import numpy as np
import torch
import transformers

auto, song, clip, text = json.loads(sys.argv[1]), *sys.argv[2:5]
torch.set_num_threads(int(sys.argv[5]))
said = {}
for task, kind in auto.items():
    name = f"tester/{task}"
    model = getattr(transformers, kind).from_pretrained(name, trust_remote_code=True).eval()
    inputs = {key: torch.from_numpy(value) for key, value in np.load(f"{task}.npz").items()}
    with torch.no_grad():
        output = model(**inputs)
    np.savez(f"{task}_there.npz", **{key: value.numpy() for key, value in output.items() if torch.is_tensor(value)})
predict = transformers.pipeline(model="tester/eda", trust_remote_code=True)
found = predict(song)
said["signal"] = [found["channels"], found["unit"]]
sounds = dict(np.load("sounds.npz"))
array = predict({"array": sounds["b"], "sampling_rate": 16000})
np.savez("signal.npz", times=found["times"], values=found["values"], array=array["values"])
listen = transformers.pipeline("audio-classification", model="tester/detection", trust_remote_code=True)
given = [{"array": sounds[key], "sampling_rate": listen.feature_extractor.sampling_rate} for key in sorted(sounds)]
said["alone"], said["batch"] = [listen(dict(each)) for each in given], listen(given, batch_size=2)
judge = transformers.pipeline(model="tester/emotion", trust_remote_code=True)
said["emotion"] = judge(clip, text=text)
ours = ("modeling", "training", "media", "evaluation", "reporting", "hf_datasets")
assert not [name for name in sys.modules if name.split(".")[0] in ours]
with open("said.json", "w") as file:
    json.dump(said, file)
"""


def run(*command: str | Path, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    """Run a program to its end."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, timeout=900)


def train(task: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """A run of two steps on a sample that is to be shared as `tester/<task>`."""
    config = ["run_train.py", f"configs/{CONFIGS[task]}.json", "--dataset_config", "sample", "--max_steps", "2"]
    shared = ["--push_to_hub", "--hub_model_id", f"tester/{task}", "--output_dir", str(folder)]
    return run(sys.executable, *config, *shared, *options, **environment)


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path, str]]:
    """A Hub with a model of each task, the folder of the runs, and all that these said."""
    folder, said = tmp_path_factory.mktemp("pushed"), ""
    with serve_hub() as hub:
        for task in CONFIGS:
            done = train(task, folder / task, **hub.environment(folder / "home"))
            assert done.returncode == 0, done.stderr[-3000:]
            assert f"shared: {hub.url}/tester/{task}" in done.stdout
            said += done.stdout + done.stderr
        yield hub, folder, said


def first_bytes(file: str, column: str) -> bytes:
    """The bytes of the first recording in a sample."""
    (path,) = (REPOSITORY / "hf_datasets").glob(file)
    cells = pq.read_table(path, columns=[column]).to_pylist()
    return next(cell[column]["bytes"] for cell in cells if cell[column])


def inputs_of(task: str, model: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Some inputs of a model."""
    generator = np.random.default_rng(0)
    sound = generator.normal(0, 0.1, 40_000).astype(np.float32)
    if task == "attention":
        return {
            f"{name}_{kind}": torch.randn(2, 5, size) if kind == "embeddings" else torch.ones(2, 5, dtype=torch.bool)
            for name, size in model.config.embedding_sizes.items()
            for kind in ("embeddings", "mask")
        }
    if task == "emotion":
        processor = transformers.AutoProcessor.from_pretrained(folder)
        extractor = processor.feature_extractor
        shape = (extractor.clip_frames, *extractor.frame_size, 3)
        frames = generator.integers(0, 256, shape, np.uint8)
        return dict(processor([TEXT, None], [frames, None], [sound, sound], extractor.sampling_rate))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    return dict(extractor([sound, sound[:30_000]], sampling_rate=extractor.sampling_rate))


def test_elsewhere_names_give_the_same_bits_and_pipelines_the_same_answers(pushed, tmp_path: Path) -> None:
    hub, folder, _ = pushed
    models = {task: getattr(transformers, kind).from_pretrained(folder / task).eval() for task, kind in AUTO.items()}
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
    given = [json.dumps(AUTO), song, clip, TEXT, str(torch.get_num_threads())]
    done = run(sys.executable, "-I", "-c", ELSEWHERE, *given, cwd=tmp_path, **home)

    assert done.returncode == 0, done.stderr[-3000:]
    assert not any(with_token for _, _, with_token in hub.requests[start:])
    for task, names in OUTPUTS.items():
        there = np.load(tmp_path / f"{task}_there.npz")
        for name in names:
            assert np.array_equal(there[name], expected[task][name].numpy()), (task, name)
    said = json.loads((tmp_path / "said.json").read_text())
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder / "eda")
    config, rate = models["eda"].config, extractor.sampling_rate
    signal, scaling = np.load(tmp_path / "signal.npz"), config.target_scaling
    assert said["signal"] == [config.target_channels, "uS"]
    assert np.array_equal(signal["times"], np.arange(len(signal["values"])) / config.frame_rate)
    # Two decoders of mp3 differ by 1e-6 of full scale, which the logarithm of near silence makes much of.
    heard = {"values": (read_audio(song, rate)[0], 2e-3), "array": (soxr.resample(sounds["b"], 16000, rate), 1e-6)}
    for name, (sound, tolerance) in heard.items():
        predicted = models["eda"].predict(**extractor(sound, sampling_rate=rate)).predictions[0].double().numpy()
        expected = predicted * scaling["scale"] + scaling["offset"]
        np.testing.assert_allclose(signal[name], expected, rtol=0, atol=tolerance)

    names = models["detection"].config.id2label
    listener = transformers.AutoFeatureExtractor.from_pretrained(folder / "detection")
    for place, sound in enumerate(sounds.values()):
        with torch.no_grad():
            score = models["detection"](**listener(sound, sampling_rate=listener.sampling_rate)).logits.sigmoid()
        for found in (said["alone"][place], said["batch"][place]):
            assert [each["label"] for each in found] == [names[0]]
            assert found[0]["score"] == pytest.approx(score.item(), abs=1e-6)

    processor = transformers.AutoProcessor.from_pretrained(folder / "emotion")
    judged = predict_utterance(models["emotion"], processor, clip, Utterance(0.0, None, TEXT))
    assert judged.missing == said["emotion"]["missing"] == []
    for head, ours in (("emotion", judged.emotions), ("sentiment", judged.sentiments)):
        found = said["emotion"][head]
        assert sum(each["score"] for each in found) == pytest.approx(1)
        scores = {each["label"]: each["score"] for each in found}
        # The pipeline reads clips by itself: a frame on the border between two, or where sound begins, may differ.
        assert [scores[one.label] for one in ours] == pytest.approx([one.confidence for one in ours], abs=0.02)


def test_what_is_shared_is_the_model_and_no_recording(pushed) -> None:
    hub, folder, _ = pushed
    for task in CONFIGS:
        files = set(hub.files("models", f"tester/{task}"))
        assert {"README.md", "config.json", "model.safetensors", "metrics.json", "splits.json"} <= files
        left = {"predictions.parquet", "report.html"}
        assert left <= {path.name for path in (folder / task).iterdir()}
        assert not left & files
        assert not [name for name in files if name.startswith(("checkpoint", "runs", "figure_t", "review"))]
    assert {"preprocessor_config.json", "pipeline_signal.py", "recordings.py"} <= set(
        hub.files("models", "tester/eda")
    )
    assert {"processor_config.json", "tokenizer.json", "pipeline_emotion.py", "recordings.py"} <= set(
        hub.files("models", "tester/emotion")
    )


def test_the_token_stands_nowhere_and_goes_to_no_other_host(pushed) -> None:
    hub, folder, said = pushed
    assert TOKEN not in said
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


def test_what_is_no_run_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metrics.json; give the folder of a run"):
        pages.main([str(tmp_path)])
    (tmp_path / "metrics.json").write_text('{"task": "eda", "test": {}}')
    with pytest.raises(ValueError, match="scores by run_eval.py"):
        pages.main([str(tmp_path)])


# Ways to fail, by the name of the repository.
PUSH = """
import sys, time
from pathlib import Path
from launch.sharing import push_run

time.sleep = lambda seconds: None  # the client waits before it tries again
for name in sys.argv[2:]:
    try:
        push_run(Path(sys.argv[1]), name)
        print("shared")
    except ValueError as error:
        print(repr(str(error)))
"""


def refuse(method: str, path: str, body: bytes) -> int | None:
    """Answer with an error where the name says so: `create-500` when it is made, `commit-403` at the end."""
    if path == "/api/repos/create":
        stage, _, status = json.loads(body)["name"].partition("-")
        return int(status) if stage == "create" else None
    found = re.search(r"/(preupload|commit)-(\d+)/(preupload|commit)/main$", path)
    return int(found[2]) if found and found[1] == found[3] else None


def test_an_upload_that_fails_says_so_in_a_line_and_how_to_go_on(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "metrics.json").write_text("{}")
    (run_folder / "model.safetensors").write_bytes(bytes(1000))
    failing = ["create-401", "create-403", "create-500", "preupload-500", "commit-403", "commit-500"]
    names = [*(f"tester/{name}" for name in failing), "somebody/else"]
    with serve_hub(refuse) as hub:
        command = [sys.executable, "-c", PUSH, run_folder, *names, "tester/whole"]
        done = run(*command, **hub.environment(tmp_path / "home"))
        assert set(hub.files("models", "tester/whole")) >= {"metrics.json", "model.safetensors"}
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    *lines, whole = done.stdout.splitlines()
    assert whole == "shared"
    assert len(lines) == len(names)
    for name, line in zip(names, lines, strict=True):
        message = ast.literal_eval(line)
        assert "\n" not in message
        assert f"try again with `python -m launch.sharing {run_folder} {name}`" in message
        status = name.rpartition("-")[2] if "-" in name else "403"
        advice = {"401": "hf auth login", "403": "a write token of the owner", "500": "try again later"}[status]
        assert status in message
        assert advice in message


def test_a_hub_that_is_away_or_does_not_know_us_stops_a_run_before_it_trains(tmp_path: Path) -> None:
    with serve_hub() as hub:
        unknown = train("eda", tmp_path / "run", **hub.environment(tmp_path / "home", token=f"{TOKEN}x"))
    away = hub.environment(tmp_path / "home")  # the port is closed now
    down = train("eda", tmp_path / "run", **away)
    predict = run(sys.executable, "run_predict.py", "tester/eda", REPOSITORY / "README.md", **away)
    for done, said in (
        (unknown, "hf auth login"),
        (down, "--push_to_hub to tester/eda: "),
        (predict, "run_predict.py: "),
    ):
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert said in done.stderr.splitlines()[-1]
        assert "SYNTHETIC" not in done.stderr
        assert TOKEN not in done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".training.lock"]


def test_the_commands_of_the_readme_work_as_printed(pushed, tmp_path: Path) -> None:
    """Under this Hub's names, and with a run of two steps; the first command is how all runs here were made."""
    hub, folder, _ = pushed
    section = (REPOSITORY / "README.md").read_text().split("## Share\n")[1].split("\n## ")[0]
    commands, code = (section.split(f"```{kind}\n")[1].split("```")[0] for kind in ("bash", "python"))
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
    for ours, theirs in (("you/meld", "tester/emotion"), ("you/baby-cry", "tester/detection")):
        code = code.replace(ours, theirs)
    given = "import numpy\nsound, rate = numpy.zeros(16000, numpy.float32), 16000\n"
    script = given + code.replace("you/eda-tcn", "tester/eda-tcn")
    home = hub.environment(tmp_path / "home", token=None)
    done = run(sys.executable, "-I", "-c", script, cwd=tmp_path, **home)
    assert done.returncode == 0, done.stderr[-3000:]
    shape, label, score = done.stdout.splitlines()
    assert " uS " in shape
    assert "'label'" in label
    assert "'score'" in score

"""Add a data set, a model and a task to a copy of this project, each with new files and at most one changed line.

The folders next to this file contain them, in the layout of the project.
"""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.extending.toy_data_set.hf_datasets.toytones.synthesize import synthesize
from tests.helpers.hub_server import Hub, serve_hub
from tests.helpers.run_folders import OF_EVERY_RUN, record

HERE = Path(__file__).parent
MOST_LINES = {"toy_data_set": 120, "toy_model": 100, "toy_task": 220}  # total of all files
# File -> (start of a line, the line to insert before it). Data sets are found by their folder and need no line.
REGISTRATIONS = {
    "modeling/__init__.py": (
        "from .modeling_wavenet import",
        "from .modeling_toy import ToyForAudioClassification, ToyForSignalRegression\n",
    ),
    "tasks/__init__.py": ("}", '    "toyloudness": "tasks.toyloudness.task",\n'),
}
TONES = 60

# Tests of every task that a toy task cannot pass: it has fewer files, and a card without verdict and further scores.
RULES = "toyloudness and not common_file_names and not a_card and not the_card and not damaged_recordings"
# Commands of a user, and tests that include additions automatically; `{raw}` is the folder of the tones.
COMMANDS = [
    "-m hf_datasets.prepare toytones --raw_dir {raw}",
    "run_train.py configs/toy.json --max_steps 4",
    "run_train.py configs/toyloudness.json",
    "run_eval.py outputs/toyloudness hf_datasets/toytones --output_dir outputs/again",
    "run_predict.py outputs/toyloudness {raw} --output outputs/predictions.csv",
    "run_study.py configs/toyloudness.json --set model_type=toy --max_steps 60 --output_dir outputs/study",
    "-m launch.sharing outputs/toyloudness tester/toyloudness",
    "-m launch.sharing outputs/study/setting0-seed0 tester/toy",
    "-m launch.pages outputs/toyloudness",
    "-m hf_datasets.prepare toytones --rebuild_samples",
    f"-m pytest -q -m 'slow or not slow' tests/tasks/test_every_task.py -k '{RULES}'",
    "-m pytest -q tests/test_architecture.py tests/modeling -k 'toy and not compiles'",
]
RUN = """
import json, sys
from tests.helpers.programs import run
for command in json.loads(sys.argv[1]):
    print(run(sys.executable, *command).stdout)
"""
# A program that runs without this project, and loads models from the Hub.
ELSEWHERE = """
import json, sys
from pathlib import Path
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModel

predictions = {}
for name in ("tester/toyloudness", "tester/toy"):
    model = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
    extractor = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=True)
    for path in sys.argv[1:]:
        sound, rate = soundfile.read(path, dtype="float32")
        features = extractor(sound, sampling_rate=rate)["input_features"]
        with torch.inference_mode():
            prediction = model(features.mean(1, keepdim=True)).predictions.item()
            predictions.setdefault(name, {})[Path(path).stem] = prediction
print(json.dumps(predictions))
"""


def tracked_files() -> list[str]:
    return subprocess.check_output(["git", "ls-files"], cwd=REPOSITORY, text=True).splitlines()


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy all tracked files and add the three toys."""
    copy = tmp_path_factory.mktemp("extended")
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, copy / name)
    for toy in MOST_LINES:
        shutil.copytree(HERE / toy, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, line) in REGISTRATIONS.items():
        head, match, tail = (copy / name).read_text(encoding="utf-8").partition(f"\n{before}")
        (copy / name).write_text(f"{head}\n{line}{match[1:]}{tail}", encoding="utf-8")
    return copy


@pytest.mark.parametrize("toy", MOST_LINES)
def test_a_toy_is_short(toy: str) -> None:
    files = [path for path in (HERE / toy).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    assert 0 < lines <= MOST_LINES[toy]


def test_one_line_registers_an_addition(extended: Path) -> None:
    changed = {}
    for name in tracked_files():
        before, after = (REPOSITORY / name).read_bytes(), (extended / name).read_bytes()
        if before != after:
            changed[name] = sorted(set(after.splitlines(True)) - set(before.splitlines(True)))
            assert len(after) - len(before) == len(changed[name][0])
    assert changed == {name: [line.encode()] for name, (_, line) in REGISTRATIONS.items()}


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    synthesize(folder, TONES)
    return folder


@pytest.fixture(scope="module")
def hub(extended: Path, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Run the commands in the copy, with a Hub to share models on."""
    commands = [shlex.split(command.format(raw=tones)) for command in COMMANDS]
    with serve_hub() as hub:
        run_python(RUN, json.dumps(commands), cwd=extended, **hub.environment(tmp_path_factory.mktemp("home")))
        yield hub


@pytest.fixture(scope="module")
def outputs(extended: Path, hub: Hub) -> Path:
    """Return the output folder of the commands."""
    return extended / "outputs"


def run_python(program: str, *arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program that can import only from `cwd`, and return its output."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("outputs")
def test_the_data_set_is_prepared(
    extended: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tones / "tones.csv", newline="", encoding="utf-8") as file:
        ratings = {row["tone_id"]: float(row["loudness"]) for row in csv.DictReader(file)}
    assert len(ratings) == TONES
    monkeypatch.chdir(extended)
    rows = datasets.load_dataset("hf_datasets/toytones", split="train", cache_dir=str(tmp_path))
    assert dict(zip(rows["tone_id"], rows["loudness"], strict=True)) == ratings
    assert [sound["bytes"] for sound in rows["audio"]] == [(tones / f"{name}.wav").read_bytes() for name in ratings]
    assert all(rows["synthetic"])


@pytest.mark.slow
def test_the_model_is_trained_by_an_existing_task(outputs: Path) -> None:
    folder = outputs / "toy"
    assert {path.name for path in folder.iterdir()} >= OF_EVERY_RUN | {"modeling_toy.py", "configuration_toy.py"}
    facts = record(folder)
    assert (facts["task"], facts["model"]["model_type"], facts["training"]["steps"]) == ("eda", "toy", 4)
    assert facts["receptive_field_seconds"] == 5 / 4  # five frames, four per second


@pytest.mark.slow
def test_the_task_is_learned_and_scored_again_with_equal_results(outputs: Path) -> None:
    folder = outputs / "toyloudness"
    assert {path.name for path in folder.iterdir()} >= OF_EVERY_RUN
    facts = record(folder)
    assert facts["data"]["rows"] == TONES
    assert facts["test"]["tones"] >= 6
    assert facts["test"]["rmse"] < facts["test"]["baselines"]["chance"] / 2
    again = outputs / "again"
    assert record(again)["test"] == facts["test"]
    assert pq.read_table(again / "predictions.parquet") == pq.read_table(folder / "predictions.parquet")


@pytest.mark.slow
def test_sounds_are_predicted_as_in_the_test(outputs: Path) -> None:
    with open(outputs / "predictions.csv", newline="", encoding="utf-8") as file:
        predicted = {Path(row["file"]).stem: float(row["loudness"]) for row in csv.DictReader(file)}
    assert len(predicted) == TONES
    expected = predictions_of(outputs / "toyloudness")
    assert {name: predicted[name] for name in expected} == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_study_supports_the_task(outputs: Path) -> None:
    with open(outputs / "study/table.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    run = pq.read_table(outputs / "study/setting0-seed0/predictions.parquet")
    errors = np.abs(np.subtract(run["prediction"], run["target"]))
    assert (row["setting"], int(row["trials"])) == ("model_type=toy", len(errors))
    assert float(row["mean"]) == pytest.approx(errors.mean())
    assert float(row["low"]) < float(row["mean"]) < float(row["high"])


@pytest.mark.slow
def test_pages_are_rebuilt_and_the_card_is_shared(outputs: Path, hub: Hub) -> None:
    folder, shared = outputs / "toyloudness", hub.files("models", "tester/toyloudness")
    ended = (folder / "metrics.json").stat().st_mtime_ns
    for page in ("README.md", "report.html"):
        assert (folder / page).stat().st_mtime_ns > ended
    assert shared["README.md"] == (folder / "README.md").read_bytes()
    assert "report.html" not in shared


@pytest.mark.slow
def test_shared_models_predict_the_same_elsewhere(outputs: Path, hub: Hub, tones: Path, tmp_path: Path) -> None:
    expected = {
        "tester/toyloudness": predictions_of(outputs / "toyloudness"),
        "tester/toy": predictions_of(outputs / "study/setting0-seed0"),
    }
    sounds = [tones / f"{name}.wav" for name in expected["tester/toy"]]
    environment = hub.environment(tmp_path / "home", token=None)
    predicted = json.loads(run_python(ELSEWHERE, *sounds, cwd=tmp_path, **environment))
    for name, values in expected.items():
        assert predicted[name] == pytest.approx(values, abs=1e-5)


def predictions_of(folder: Path) -> dict[str, float]:
    """Return the predictions of a run for the tones of its test split."""
    table = pq.read_table(folder / "predictions.parquet")
    return dict(zip(table["tone_id"].to_pylist(), table["prediction"].to_pylist(), strict=True))

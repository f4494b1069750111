"""Whole runs of the detection task, as a user starts them: train, kill, resume, score, detect, load elsewhere."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import load_dataset
from matplotlib.image import imread

from media.audio import read_audio
from reporting.plots import DPI, WIDTH
from system.text import plural
from tests.conftest import REPOSITORY
from tests.helpers.programs import CPU, LAUNCH, kill_after_checkpoint, last_line, run
from tests.helpers.run_folders import assert_complete, assert_same_weights, numbers, record

pytestmark = pytest.mark.slow

CONFIG = "configs/baby_cry.json"
TARGET = "Baby cry, infant cry"
# One thread: launchers set different numbers of threads, and sums by several threads differ in the last bit.
SHORT = ("--num_train_epochs", "2", "--disable_tqdm", "true", "--report_to", "none", "--num_threads", "1")
STEPS = ("--save_strategy", "steps", "--save_steps", "5", "--load_best_model_at_end", "false")
RATE = 16000  # Hz


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a short, uninterrupted run on the sample."""
    folder = tmp_path_factory.mktemp("runs") / "baby_cry"
    done = run(*LAUNCH, *CPU, "run_train.py", CONFIG, "--output_dir", folder, *SHORT, *STEPS)
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recording that joins the first readable clips of the sample's test split."""
    rows = load_dataset(str(REPOSITORY / "hf_datasets/audioset"), "sample", split="eval")
    sounds = [row["audio"]["bytes"] for row in rows.select(range(12)) if row["audio"] and not row["defects"]]
    path = tmp_path_factory.mktemp("recording") / "recording.wav"
    soundfile.write(path, np.concatenate([read_audio(sound, RATE)[0] for sound in sounds]), RATE)
    return path


def test_a_finished_run_is_complete(finished: tuple[Path, str]) -> None:
    folder, output = finished
    files = {"preprocessor_config.json", "modeling_classification.py", "review.csv"}
    files |= {"figure_precision_recall.png", "figure_timelines.png"}
    assert_complete(folder, output, files, ["| chance | loudness |", "**Verdict: "])
    metrics = record(folder)
    scores = metrics["test"]["scores"]
    assert scores["average_precision"]["mean"] > metrics["test"]["baselines"]["chance"]["average_precision"]["mean"]
    composition = metrics["training"]["composition"]
    assert composition["served"] == composition["planned"]
    assert composition["mixed"] == 0
    assert metrics["training"]["coverage"]["never"] == []
    assert [record["epoch"] for record in metrics["training"]["mining"]] == [0, 1]
    assert metrics["model"]["detection"]["threshold"] == metrics["test"]["threshold"]["value"]


def test_a_run_that_reads_windows_by_seeking_is_quiet(tmp_path: Path) -> None:
    # Unless it is silenced, the decoder writes thousands of lines to stderr.
    short = ("--max_steps", "4", "--memory_gb", "0", "--num_threads", "1", "--report_to", "none")
    done = run(sys.executable, "run_train.py", CONFIG, "--output_dir", tmp_path / "run", *short)
    lines = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip()]
    bars = ("Generating ", "training:", "scoring:", "baselines:")
    shown = [line for line in lines if not line.startswith(bars)]
    assert all(re.match("(INFO|WARNING) (training|tasks)[.]", line) for line in shown), shown
    assert len(shown) < 20
    assert done.stdout.splitlines()[-1] == f"next: python run_predict.py {tmp_path / 'run'} recording.wav"


def test_no_clip_is_in_two_splits(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    members = json.loads((folder / "splits.json").read_text())["trials"]
    sides = [set(members[side]) for side in ("train", "validation", "test")]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    predictions = pq.read_table(folder / "predictions.parquet")
    assert set(predictions["clip_id"].to_pylist()) <= sides[2]


def test_eval_repeats_the_scores_of_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    run(sys.executable, "run_eval.py", folder, "hf_datasets/audioset", "--output_dir", tmp_path)
    scores = record(tmp_path)["test"]
    expected = record(folder)["test"]
    assert numbers(scores) == pytest.approx(numbers(expected), rel=1e-6, abs=1e-6)
    assert (tmp_path / "report.html").is_file()


def test_prediction_writes_events_and_a_picture(finished: tuple[Path, str], recording: Path, tmp_path: Path) -> None:
    folder, _ = finished
    output, plot = tmp_path / "events.csv", tmp_path / "events.png"
    done = run(sys.executable, "run_predict.py", folder, recording, "--output", output, "--plot", plot)
    with open(output, newline="") as file:
        events = list(csv.DictReader(file))
    seconds = soundfile.info(recording).duration
    times = np.array([[float(event["start_seconds"]), float(event["end_seconds"])] for event in events])
    assert len(events)
    assert (times[:, 0] < times[:, 1]).all()
    assert times.max() <= seconds + 1e-3
    assert (times[1:, 0] >= times[:-1, 1] - 1e-3).all()
    threshold = json.loads((folder / "config.json").read_text())["detection"]["threshold"]
    assert all(float(event["score"]) >= threshold - 1e-4 for event in events)
    assert imread(plot).shape[1] == WIDTH * DPI
    assert f"{plural(len(events), 'event')} of {TARGET}" in done.stdout
    run(sys.executable, "run_predict.py", folder, recording, "--output", output, "--threshold", "1.0")
    assert output.read_text().splitlines() == ["file,start_seconds,end_seconds,score,label,model_of_synthetic_data"]


def test_a_model_loads_without_this_project_and_predicts_the_same(
    finished: tuple[Path, str], recording: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import sys, numpy\n"
        "from transformers import AutoFeatureExtractor, AutoModelForAudioClassification\n"
        "load = dict(trust_remote_code=True)\n"
        "model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], **load).eval()\n"
        "extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], **load)\n"
        "assert 'modeling' not in sys.modules and 'media' not in sys.modules\n"
        "sound = numpy.load(sys.argv[2])\n"
        "batch = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors='pt')\n"
        "numpy.save(sys.argv[3], model(**batch).logits.detach().numpy())\n"
    )
    sound = soundfile.read(recording, dtype="float32")[0][: int(RATE * 1.0)]
    np.save(tmp_path / "sound.npy", sound)
    run(sys.executable, "-I", script, folder, tmp_path / "sound.npy", tmp_path / "there.npy", cwd=tmp_path)

    from modeling import TcnForAudioClassification
    from modeling.feature_extraction_audio import AudioFeatureExtractor

    model = TcnForAudioClassification.from_pretrained(folder).eval()
    extractor = AudioFeatureExtractor.from_pretrained(folder)
    here = model(**extractor(sound, sampling_rate=RATE, return_tensors="pt")).logits.detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "there.npy"), here, atol=1e-6)


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_run(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    uninterrupted, _ = finished
    folder = tmp_path / "killed"
    command = [sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *SHORT, *STEPS]
    kill_after_checkpoint(folder / "checkpoint-10", *command[1:])
    run(*command, "--resume_from_checkpoint", "true")
    assert_same_weights(folder, uninterrupted)
    resumed, expected = (record(path)["training"] for path in (folder, uninterrupted))
    assert resumed["mining"] == expected["mining"]
    assert resumed["composition"] == expected["composition"]


def test_the_spectrogram_transformer_trains_by_its_name(tmp_path: Path) -> None:
    model = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_length": 64
    }  # fmt: skip
    config = json.loads((REPOSITORY / CONFIG).read_text()) | {
        "model_type": "audio-spectrogram-transformer",
        "model_config": model,
        "feature_config": {"max_length": 64},
    }
    (tmp_path / "ast.json").write_text(json.dumps(config))
    folder = tmp_path / "run"
    # The extractor of transformers computes features one window at a time, so few clips are scored, and only once.
    few = ("--hop_seconds", "1", "--max_eval_clips", "30", "--eval_strategy", "no", *STEPS)
    run(
        sys.executable, "run_train.py", tmp_path / "ast.json", "--output_dir", folder, *SHORT, *few, "--max_steps", "6"
    )
    metrics = record(folder)
    assert metrics["model"]["model_type"] == "audio-spectrogram-transformer"
    assert metrics["test"]["scores"]["average_precision"]["mean"] > 0
    composition = metrics["training"]["composition"]  # of a run that ended in the middle of an epoch
    assert composition["served"] == composition["planned"]
    assert sum(composition["planned"].values()) == 6 * 32
    fine_tuning = ("--model_name_or_path", folder, "--output_dir", tmp_path / "tuned", "--max_steps", "2")
    run(sys.executable, "run_train.py", tmp_path / "ast.json", *SHORT, *few, *fine_tuning)
    assert record(tmp_path / "tuned")["base"]["model"] == str(folder)


BAD_SETTINGS = {
    ("--target", "Baby crying"): "label='Baby crying'",
    ("--positive_share", "0.001"): "share=0.001: ",
    ("--strong_share", "-1"): "shares=[0.25, -1.0, 0.5]: ",
    ("--hop_seconds", "2"): "hop_seconds=2.0: ",
    ("--threshold_rule", "best"): "rule='best': ",
    ("--model_type", "resnet"): "model_type='resnet': ",
    ("--dataset", "hf_datasets/pmemo"): "missing column clip_id",
    ("--validation_fraction", "0"): "validation_fraction=0: ",
}


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS.items(), ids=[key for key, _ in BAD_SETTINGS])
def test_the_error_for_a_bad_setting_is_one_line(settings: tuple[str, str], message: str, tmp_path: Path) -> None:
    done = run(sys.executable, "run_train.py", CONFIG, "--output_dir", tmp_path / "x", *settings, fails=True)
    assert message in last_line(done)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.json"))  # the run has not started


def test_explain_plan_prints_the_items_of_a_batch() -> None:
    done = run(sys.executable, "-m", "launch.explain_plan", CONFIG, "--epoch", "3", "--batch", "9")
    title, *lines = done.stdout.splitlines()
    assert title.startswith("epoch 3, batch 9 of ")
    assert len(lines) == 2 * 32
    assert sum(f"positive: {TARGET}" in line for line in lines) == 8
    assert "by label" in lines[-1]
    assert "seed" in lines[-1]
    fails = run(sys.executable, "-m", "launch.explain_plan", "configs/eda_tcn.json", fails=True)
    assert "configs/eda_tcn.json: task='eda': " in last_line(fails)


def test_unreadable_recordings_are_named_and_the_others_are_predicted(
    finished: tuple[Path, str], recording: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    (sounds / "empty.wav").touch()
    (sounds / "text.mp3").write_text("no sound")
    soundfile.write(sounds / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(sounds / "short.wav", np.zeros(100, np.float32), RATE)
    shutil.copyfile(recording, sounds / "good.wav")
    done = run(sys.executable, "run_predict.py", folder, sounds, "--output", tmp_path / "out.csv", fails=True)
    assert "3 of 5 recordings" in last_line(done)
    with open(tmp_path / "out.csv", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} <= {str(sounds / "good.wav"), str(sounds / "short.wav")}

"""Runs on a pretrained encoder: the folder of a run is enough for evaluation, prediction and other machines."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import run_predict
from tasks.detection.predict import predict_windows, prediction_settings
from tests.conftest import REPOSITORY
from tests.helpers.configs import SAMPLE
from tests.helpers.programs import run
from tests.helpers.run_folders import numbers, record
from tests.helpers.tiny_encoder import tiny_encoder_folder

pytestmark = pytest.mark.slow

# Batch and memory alignment change the last digits, which can change the rounding of an embedding to half precision.
ROUNDED = 1e-3
SHORT = ("--max_steps", "6", "--learning_rate", "0.03", "--warmup_steps", "0", "--encoder_views", "1")
LITTLE = ("--max_eval_clips", "30", "--eval_strategy", "no", "--save_strategy", "no")
ONCE = ("--load_best_model_at_end", "false")
QUIET = ("--report_to", "none", "--disable_tqdm", "true", "--num_threads", "1")
CLIPS = 4
LOAD = """
import sys
import numpy as np
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

torch.set_num_threads(1)
model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert not {"modeling", "media", "training", "tasks"} & sys.modules.keys()
with torch.no_grad():
    output = model(**extractor(np.load("sound.npy"), sampling_rate=extractor.sampling_rate))
np.savez("logits.npz", windows=output.logits.numpy(), frames=output.frame_logits.numpy())
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the moved folder of a short run whose encoder was deleted."""
    folder = tmp_path_factory.mktemp("pretrained")
    encoder = shutil.copytree(tiny_encoder_folder(), folder / "encoder")
    paths = ("--encoder.name", encoder, "--output_dir", folder / "run")
    settings = (*SAMPLE, *paths, *SHORT, *LITTLE, *ONCE, *QUIET)
    run(sys.executable, "run_train.py", "configs/baby_cry_pretrained.json", *settings)
    shutil.rmtree(encoder)
    return (folder / "run").rename(folder / "shared")


@pytest.fixture(scope="module")
def clips(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, dict]:
    """Write some clips of the test as files; return their rows in the predictions of the run."""
    folder = tmp_path_factory.mktemp("clips")
    scored = {row["clip_id"]: row for row in pq.read_table(finished / "predictions.parquet").to_pylist()}
    rows = datasets.load_dataset(str(REPOSITORY / "hf_datasets/audioset"), "sample", split="eval")
    predictions = {}
    for row in rows.cast_column("audio", datasets.Audio(decode=False)):
        if row["clip_id"] in scored and len(predictions) < CLIPS:
            path = folder / Path(row["audio"]["path"]).name
            path.write_bytes(row["audio"]["bytes"])
            predictions[path] = scored[row["clip_id"]]
    assert len(predictions) == CLIPS
    return predictions


def test_prediction_gives_the_scores_of_the_evaluation(finished: Path, clips: dict[Path, dict]) -> None:
    model, extractor = run_predict.load_model(str(finished), "cpu", run_predict.load_task("detection"))
    use = prediction_settings(model.config, None, None)
    assert (use.window, use.hop, use.threshold) == (1.0, 0.5, record(finished)["test"]["threshold"]["value"])
    spread = []
    for path, expected in clips.items():
        parts = list(predict_windows(model, extractor, path, use))
        starts = np.concatenate([times for times, _ in parts])
        scores = torch.cat([output.logits[:, use.label] for _, output in parts]).double().sigmoid().numpy()
        np.testing.assert_allclose(starts, expected["window_start"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores, expected["window_score"], rtol=0, atol=ROUNDED)
        spread += scores.tolist()
    assert np.std(spread) > 1e-2


def test_evaluation_repeats_the_scores_without_the_encoder(finished: Path, tmp_path: Path) -> None:
    run(sys.executable, "run_eval.py", finished, "hf_datasets/audioset", *SAMPLE, "--output_dir", tmp_path)
    scored, expected = (pq.read_table(folder / "predictions.parquet").to_pylist() for folder in (tmp_path, finished))
    for one, other in zip(scored, expected, strict=True):
        np.testing.assert_allclose(one["window_score"], other["window_score"], rtol=0, atol=ROUNDED)
    scores = [numbers(record(folder)["test"]) for folder in (tmp_path, finished)]
    assert scores[0] == pytest.approx(scores[1], rel=ROUNDED, abs=ROUNDED)


def test_a_trained_encoder_is_scored_without_its_original(tmp_path: Path) -> None:
    encoder = shutil.copytree(tiny_encoder_folder(), tmp_path / "encoder")
    paths = ("--encoder.name", encoder, "--output_dir", tmp_path / "run")
    settings = (*SAMPLE, *paths, "--max_steps", "2", "--warmup_steps", "0", *LITTLE, *ONCE, *QUIET)
    run(sys.executable, "run_train.py", "configs/baby_cry_finetuned.json", *settings)
    assert "encoder_regression" not in record(tmp_path / "run")["test"]["baselines_left_out"]
    shutil.rmtree(encoder)
    shared, scored = (tmp_path / "run").rename(tmp_path / "shared"), tmp_path / "scored"
    run(sys.executable, "run_eval.py", shared, "hf_datasets/audioset", *SAMPLE, "--output_dir", scored)
    rows, expected = (pq.read_table(folder / "predictions.parquet").to_pylist() for folder in (scored, shared))
    for one, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(one["window_score"], other["window_score"], rtol=0, atol=ROUNDED)
    assert str(encoder) in record(scored)["test"]["baselines_left_out"]["encoder_regression"]


def test_events_are_detected_without_the_encoder(finished: Path, clips: dict[Path, dict], tmp_path: Path) -> None:
    output = tmp_path / "events.csv"
    options = ("--output", output, "--threshold", "0")
    run(sys.executable, "run_predict.py", finished, min(clips).parent, *options)
    highest = {}
    for line in output.read_text().splitlines()[1:]:
        name, _, _, score, _ = line.split(",", 4)
        highest[Path(name)] = max(float(score), highest.get(Path(name), 0.0))
    for path, expected in clips.items():
        assert highest[path] == pytest.approx(expected["score"], abs=6e-5 + ROUNDED)  # the file has four digits


def test_a_process_without_this_project_predicts_the_same_bits(finished: Path, tmp_path: Path) -> None:
    model, extractor = run_predict.load_model(str(finished), "cpu", run_predict.load_task("detection"))
    sound = np.random.default_rng(0).normal(0, 0.1, (3, 32000)).astype(np.float32)
    np.save(tmp_path / "sound.npy", sound)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, shutil.copytree(finished, tmp_path / "received")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = model(**extractor(sound, sampling_rate=32000))
    torch.set_num_threads(threads)
    logits = np.load(tmp_path / "logits.npz")
    assert np.array_equal(logits["windows"], expected.logits.numpy())
    assert np.array_equal(logits["frames"], expected.frame_logits.numpy())
    assert len(np.unique(logits["windows"])) == 3

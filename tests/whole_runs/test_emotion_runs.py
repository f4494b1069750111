"""Whole runs of the emotion task, as a user starts them: train, resume, score, predict, load elsewhere."""

import io
import json
import re
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from huggingface_hub.utils import filter_repo_objects
from matplotlib.image import imread
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification, AutoProcessor

from hf_datasets.meld.synthetic_clips import FRAME_RATE, SAMPLING_RATE, write_clip
from launch.run import parse_run
from launch.sharing import NOT_SHARED
from media.video import read_clip
from reporting.plots import DPI, WIDTH
from tests.conftest import REPOSITORY
from tests.helpers.programs import last_line, run
from tests.helpers.run_folders import assert_complete, assert_same_weights, copy_as_interrupted, numbers, record
from training.build import build_model
from training.rows import load_rows

pytestmark = pytest.mark.slow

CONFIG = "configs/meld_sample.json"
QUIET = ("--disable_tqdm", "true", "--report_to", "none")
# Two epochs of 8 steps, with a checkpoint in the middle of each.
STEPS = (
    "--num_train_epochs", "2", "--per_device_train_batch_size", "32", "--save_strategy", "steps", "--save_steps", "4",
    "--eval_strategy", "steps", "--eval_steps", "8", "--load_best_model_at_end", "false", "--save_total_limit", "9",
    "--learning_rates.text", "0.004",
)  # fmt: skip
ROWS = 90  # of the sample's test split


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a short run on the sample."""
    folder = tmp_path_factory.mktemp("runs") / "meld_sample"
    done = run(sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *STEPS, *QUIET)
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a film that joins the first clips of the sample's test split, and its subtitles."""
    rows = load_dataset(str(REPOSITORY / "hf_datasets/meld"), "sample", split="test").select(range(5))
    pictures, sounds, cues, start = [], [], [], 0.0
    for number, row in enumerate(rows, 1):
        pictures.append(decoded(row["clip"]["bytes"]))
        seconds = len(pictures[-1]) / FRAME_RATE
        sound = read_clip(row["clip"]["bytes"], num_frames=0, audio_rate=SAMPLING_RATE).audio
        sounds.append(np.resize(sound, round(seconds * SAMPLING_RATE)))
        times = " --> ".join(f"00:00:{time:06.3f}".replace(".", ",") for time in (start, start + seconds))
        cues.append(f"{number}\n{times}\n{row['text']}\n")
        start += seconds
    folder = tmp_path_factory.mktemp("film")
    write_clip(folder / "film.mp4", np.concatenate(pictures), np.concatenate(sounds))
    (folder / "film.srt").write_text("\n".join(cues), encoding="utf-8")
    return folder / "film.mp4", folder / "film.srt"


def decoded(clip: bytes) -> np.ndarray:
    """Return all pictures (frames, height, width, 3) of a clip."""
    with av.open(io.BytesIO(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_finished_run_is_complete(finished: tuple[Path, str]) -> None:
    folder, output = finished
    files = {"modeling_fusion.py", "layers_fusion.py", "processing_fusion.py"}
    files |= {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    files |= {f"figure_{name}.png" for name in ("confusion_emotion", "ablations", "learning")}
    rows = ["| majority: always neutral |", "| TF-IDF |", "| text alone |", "| without audio |"]
    assert_complete(folder, output, files, ["**Verdict for emotion: ", *rows])
    metrics = record(folder)
    assert metrics["training"]["steps"] == 16
    assert metrics["training"]["trainable"].keys() == {"text", "video", "audio", "fusion", "emotion", "sentiment"}
    sides = metrics["data"]["sides"]
    assert {side: sides[side]["utterances"] for side in sides} == {"train": 240, "validation": 60, "test": ROWS}
    assert metrics["data"]["split_warning"] is None


def test_every_row_of_the_test_split_is_scored(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    test, predictions = record(folder)["test"], pq.read_table(folder / "predictions.parquet")
    assert test["rows"] == predictions.num_rows == ROWS
    for head, names in record(folder)["data"]["label_names"].items():
        shares = np.stack([predictions[f"p_{head}_{name}"].to_numpy() for name in names], 1)
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)
        predicted, truth = np.array(predictions[f"predicted_{head}"]), np.array(predictions[head])
        assert predicted.tolist() == [names[code] for code in shares.argmax(1)]
        assert test["heads"][head]["scores"]["accuracy"]["mean"] == pytest.approx((predicted == truth).mean())
        assert sum(one["support"] for one in test["heads"][head]["per_class"].values()) == ROWS
        assert len(test["heads"][head]["ablations"]) == 6
    assert test["undecodable"] == 0
    rows = load_dataset(str(REPOSITORY / "hf_datasets/meld"), "sample", split="test")
    assert predictions["utterance_id"].to_pylist() == rows["utterance_id"]


def test_shared_files_contain_no_text_of_the_data(finished: tuple[Path, str]) -> None:
    # The texts of the real MELD may not be published; here those of the sample replace them.
    folder, _ = finished
    rows = load_dataset(str(REPOSITORY / "hf_datasets/meld"), "sample", split="test")
    sentences = [text.encode() for text in rows["text"] if len(text) > 12]
    files = [path.name for path in folder.iterdir() if path.is_file()]
    shared = list(filter_repo_objects(files, ignore_patterns=NOT_SHARED))
    assert "README.md" in shared
    assert "report.html" not in shared
    for name in shared:
        content = (folder / name).read_bytes()
        assert not any(sentence in content for sentence in sentences), name


def test_eval_repeats_the_scores_of_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    run(sys.executable, "run_eval.py", folder, "hf_datasets/meld", "--output_dir", tmp_path)
    assert numbers(record(tmp_path)["test"]) == pytest.approx(numbers(record(folder)["test"]), rel=1e-6, abs=1e-6)
    assert (tmp_path / "report.html").is_file()
    assert record(tmp_path)["split"]["sha256"] == record(folder)["split"]["sha256"]


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    uninterrupted, _ = finished
    folder = tmp_path / "meld_sample"
    copy_as_interrupted(uninterrupted, folder, "checkpoint-12")  # in the middle of the second epoch
    command = [sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *STEPS, *QUIET]
    run(*command, "--resume_from_checkpoint", "true", "--dataloader_num_workers", "1")
    assert json.loads((folder / "run_config.json").read_text())["learning_rates"] == {"text": 0.004}
    assert_same_weights(folder, uninterrupted)
    assert pq.read_table(folder / "predictions.parquet").equals(pq.read_table(uninterrupted / "predictions.parquet"))


def test_a_model_loads_without_this_project_and_predicts_the_same(
    finished: tuple[Path, str], film: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = finished
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import sys, numpy, torch\n"
        "from transformers import AutoModelForVideoClassification, AutoProcessor\n"
        "torch.set_num_threads(int(sys.argv[4]))\n"
        "model = AutoModelForVideoClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert 'modeling' not in sys.modules and 'media' not in sys.modules\n"
        "inputs = numpy.load(sys.argv[2])\n"
        "batch = processor(text=['You came!', None], videos=[inputs['frames'], None],\n"
        "                  audio=[None, inputs['sound']], sampling_rate=16000)\n"
        "output = model(**batch)\n"
        "numpy.savez(sys.argv[3], output.emotion_logits.detach(), output.sentiment_logits.detach())\n"
    )
    model = AutoModelForVideoClassification.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    extractor = processor.feature_extractor
    clip = read_clip(film[0], num_frames=extractor.clip_frames, size=tuple(extractor.frame_size), audio_rate=16000)
    np.savez(tmp_path / "inputs.npz", frames=clip.frames, sound=clip.audio)
    arguments = [folder, tmp_path / "inputs.npz", tmp_path / "there.npz", str(torch.get_num_threads())]
    run(sys.executable, "-I", script, *arguments, cwd=tmp_path)
    batch = processor(
        text=["You came!", None], videos=[clip.frames, None], audio=[None, clip.audio], sampling_rate=16000
    )
    output, there = model(**batch), np.load(tmp_path / "there.npz")
    assert output.present.tolist() == [[True, True, False], [False, False, True]]
    for number, logits in enumerate((output.emotion_logits, output.sentiment_logits)):
        assert np.array_equal(there[f"arr_{number}"], logits.detach().numpy())


def test_the_code_of_the_card_runs_unchanged(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (tmp_path / "card.py").write_text(code)
    done = run(sys.executable, "-I", tmp_path / "card.py", cwd=folder.parent)  # the card names the folder without path
    emotion, sentiment = done.stdout.splitlines()[-2:]
    assert emotion.startswith("emotion {'anger': 0.")
    assert sentiment.startswith("sentiment {'negative': 0.")


def test_prediction_writes_json_and_a_picture_and_names_unreadable_clips(
    finished: tuple[Path, str], film: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, _ = finished
    clip, cues = film
    output, plot = tmp_path / "film.json", tmp_path / "film.png"
    predict = [sys.executable, "run_predict.py", folder, clip, "--output", output]
    done = run(*predict, "--utterances", cues, "--plot", plot)
    (prediction,) = json.loads(output.read_text())
    assert len(prediction["utterances"]) == 5
    assert "5 utterances" in done.stdout
    assert "text, video, audio" in done.stdout
    assert imread(plot).shape[1] == WIDTH * DPI
    # The utterances are those that the model was scored on, except for the compression of the pictures.
    names = [one["emotions"][0]["label"] for one in prediction["utterances"]]
    scored = pq.read_table(folder / "predictions.parquet").slice(0, 5)
    assert sum(a == b for a, b in zip(names, scored["predicted_emotion"].to_pylist(), strict=True)) >= 4
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])  # without the index at the end
    done = run(sys.executable, "run_predict.py", folder, tmp_path / "bad.mp4", clip, "--output", output, fails=True)
    assert "1 of 2 recordings" in last_line(done)
    assert "moov atom" in last_line(done)
    (prediction,) = json.loads(output.read_text())
    assert prediction["file"] == str(clip)
    assert len(prediction["utterances"]) == 1


def test_fine_tuning_starts_from_a_saved_model(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    still = ["--learning_rate", "0", "--weight_decay", "0", "--max_steps", "1", "--ablations", "false", *QUIET]
    train = [sys.executable, "run_train.py", CONFIG, "--model_name_or_path", folder, *still, "--output_dir"]
    tuned = tmp_path / "tuned"
    run(*train, tuned, "--class_weights", "root")
    weights, expected = (load_file(path / "model.safetensors") for path in (tuned, folder))
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():  # a learning rate of 0 changes only running statistics
        assert "running" in name or "tracked" in name or torch.equal(weight, expected[name]), name
    metrics = record(tuned)
    assert metrics["base"] == {"model": str(folder), "test_trials_it_was_trained_on": 0}
    assert len(metrics["model"]["emotion_weights"]) == 7  # of this run's labels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model_config.hidden_size", "16"], "hidden_size=16: .*hidden_size=32"),
        (
            ["--model_config.modalities", '["text"]'],
            r"modalities=\['text'\]: .*modalities=\['text', 'video', 'audio'\]",
        ),
        (["--feature_config.clip_frames", "4"], "clip_frames=4: .*clip_frames=8"),
        (["--max_text_tokens", "100"], "max_text_tokens=100: .*64"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_saved_model_of_another_shape_is_rejected(
    finished: tuple[Path, str], settings: list[str], message: str
) -> None:
    parsed = parse_run([CONFIG, "--model_name_or_path", str(finished[0]), *settings])
    rows, _ = load_rows(parsed.arguments, parsed.task.columns)
    with pytest.raises(ValueError, match=message):
        processor = parsed.task.features(parsed)
        data = parsed.task.prepare(rows, processor, parsed)
        build_model(parsed, parsed.task.model_settings(data, processor, parsed))


def test_a_model_that_is_not_available_offline_is_named_in_one_line(tmp_path: Path) -> None:
    offline = ["env", "HF_HUB_OFFLINE=1", f"HF_HOME={tmp_path / 'home'}"]
    command = [sys.executable, "run_train.py", "configs/meld_fusion.json", "--output_dir", tmp_path / "x"]
    done = run(*offline, *command, fails=True)
    assert "Traceback" not in done.stderr
    message = last_line(done)
    assert "text_model='google-bert/bert-base-uncased': " in message
    assert "local path" in message

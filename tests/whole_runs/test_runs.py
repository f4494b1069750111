"""Whole runs of the eda task, as a user starts them: train, kill, resume, predict, score, tune, load elsewhere."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from matplotlib.image import imread

from reporting.plots import DPI, WIDTH
from tests.conftest import REPOSITORY
from tests.helpers.configs import WITHOUT_THE_HUB
from tests.helpers.pages import embedded_images
from tests.helpers.programs import CPU, LAUNCH, kill_after_checkpoint, last_line, run
from tests.helpers.run_folders import assert_complete, assert_same_weights, numbers, record

pytestmark = pytest.mark.slow

CONFIG = "configs/eda_tcn.json"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a short run on the sample, launched without an accelerate config."""
    folder = tmp_path_factory.mktemp("runs") / "eda_tcn"
    done = run(*LAUNCH, "run_train.py", CONFIG, "--output_dir", folder, "--num_train_epochs", "4")
    return folder, done.stdout + done.stderr


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two songs of the sample as files."""
    folder = tmp_path_factory.mktemp("songs")
    rows = load_dataset(str(REPOSITORY / "hf_datasets/pmemo"), "sample", split="train")
    for row in rows.select(range(2)):
        (folder / row["audio"]["path"]).write_bytes(row["audio"]["bytes"])
    return folder


def test_a_finished_run_is_complete(finished: tuple[Path, str]) -> None:
    folder, output = finished
    files = {"preprocessor_config.json", "modeling_tcn.py", "layers.py", "runs"}
    files |= {f"figure_{name}.png" for name in ("scores_phasic", "trials_phasic", "learning")}
    assert_complete(folder, output, files, ["| training mean |", "| ridge |", "**Verdict"])
    assert f"card: {folder / 'README.md'}" in output
    assert [path.name for path in folder.glob(".*")] == [".training.lock"]
    metrics = record(folder)
    splits = json.loads((folder / "splits.json").read_text())
    assert metrics["split"]["sha256"] == splits["sha256"]
    assert metrics["versions"]["torch"].startswith("2.")
    assert metrics["threads"] == 1  # set by the config, so it is the same on every machine
    assert metrics["data"]["files"]
    channel = metrics["test"]["channels"]["phasic"]
    assert {"model", "baselines", "gain", "null", "ceiling", "verdict"} <= channel.keys()
    assert channel["model"]["rmse"]["low"] < channel["model"]["rmse"]["mean"] < channel["model"]["rmse"]["high"]


def test_the_sample_has_an_effect_and_its_control_has_none(tmp_path: Path) -> None:
    # The sound drives the skin conductance in `sample`, but not in `sample_null`.
    for config, verdict in (("sample", "effect"), ("sample_null", "no effect")):
        folder = tmp_path / config
        run(sys.executable, "run_train.py", CONFIG, "--dataset_config", config, "--output_dir", folder)
        channel = record(folder)["test"]["channels"]["phasic"]
        assert channel["verdict"]["verdict"] == verdict, channel["verdict"]


def test_a_run_with_the_cpu_config_gives_the_same_weights_and_scores(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = finished
    run(*LAUNCH, *CPU, "run_train.py", CONFIG, "--output_dir", tmp_path / "again", "--num_train_epochs", "4")
    assert_same_weights(tmp_path / "again", folder)
    first, second = (record(path)["test"] for path in (folder, tmp_path / "again"))
    assert numbers(first) == pytest.approx(numbers(second), rel=1e-9, abs=1e-9)


def test_a_model_loads_without_this_project_and_predicts_the_same(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    script = tmp_path / "elsewhere.py"
    script.write_text(
        "import sys, numpy, transformers\n"
        "from transformers import AutoFeatureExtractor, AutoModel\n"
        "model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()\n"
        "extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "assert 'modeling' not in sys.modules and 'media' not in sys.modules\n"
        "sound = numpy.sin(numpy.arange(200_000) / 30).astype('float32')\n"
        "batch = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors='pt')\n"
        "numpy.save(sys.argv[2], model(**batch).predictions.detach().numpy())\n"
    )
    # -I removes this folder and PYTHONPATH from the import path.
    run(sys.executable, "-I", script, folder, tmp_path / "there.npy", cwd=tmp_path)

    from modeling import TcnForSignalRegression
    from modeling.feature_extraction_audio import AudioFeatureExtractor

    model = TcnForSignalRegression.from_pretrained(folder).eval()
    extractor = AudioFeatureExtractor.from_pretrained(folder)
    sound = np.sin(np.arange(200_000) / 30).astype(np.float32)
    batch = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    here = model(**batch).predictions.detach().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "there.npy"), here, atol=1e-6)


def test_prediction_writes_one_value_per_frame_and_a_picture(
    finished: tuple[Path, str], songs: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    output, plot = tmp_path / "out.csv", tmp_path / "out.png"
    run(sys.executable, "run_predict.py", folder, songs, "--output", output, "--plot", plot)
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {str(path) for path in songs.iterdir()}
    for song in songs.iterdir():
        times = [float(row["time_seconds"]) for row in rows if row["file"] == str(song)]
        np.testing.assert_allclose(times, np.arange(len(times)) / 4, atol=1e-3)
    values = np.array([float(row["phasic (uS)"]) for row in rows])
    assert np.isfinite(values).all()
    assert values.std() > 0
    assert imread(plot).shape[1] == WIDTH * DPI


# test_readme.py trains the other configs, by the commands of the README.
@pytest.mark.parametrize("name", ["eda_wavenet", "hku956_tcn", *WITHOUT_THE_HUB])
def test_every_config_trains_and_predicts(name: str, songs: Path, tmp_path: Path) -> None:
    path = Path(f"configs/{name}.json")
    short = ["--num_train_epochs", "1", "--report_to", "none", "--output_dir", tmp_path / "run"]
    run(sys.executable, "run_train.py", path, *short, *WITHOUT_THE_HUB.get(name, []))
    assert "verdict" in (tmp_path / "run" / "README.md").read_text().lower()
    if json.loads(path.read_text())["task"] == "eda":
        run(sys.executable, "run_predict.py", tmp_path / "run", songs, "--output", tmp_path / "out.csv")
        assert len((tmp_path / "out.csv").read_text().splitlines()) > 50
    elif json.loads(path.read_text())["task"] == "detection":
        run(sys.executable, "run_predict.py", tmp_path / "run", songs, "--output", tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_text().startswith("file,start_seconds,end_seconds,score,label")
        test = record(tmp_path / "run")["test"]
        assert {"mfcc_regression", "logmel_head", "encoder_regression"} <= test["gains"].keys()
        gained = test["baselines"]["encoder_regression"]["average_precision"]["mean"]
        gained -= test["baselines"]["mfcc_regression"]["average_precision"]["mean"]
        assert test["encoder_gain"]["mean"] == pytest.approx(gained)
    elif json.loads(path.read_text())["task"] == "emotion":  # a song is a clip without video
        options = ["--text", "Sing it again!", "--output", tmp_path / "out.json"]
        run(sys.executable, "run_predict.py", tmp_path / "run", min(songs.iterdir()), *options)
        assert len(json.loads((tmp_path / "out.json").read_text())[0]["utterances"][0]["emotions"]) == 3


def test_eval_repeats_the_scores_of_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    # Launched like the run, because the number of numpy threads changes the last bits of the baselines' descriptors.
    run(*LAUNCH, "run_eval.py", folder, "hf_datasets/pmemo", "--output_dir", tmp_path)
    scores = record(tmp_path)["test"]
    expected = record(folder)["test"]
    assert numbers(scores) == pytest.approx(numbers(expected), rel=1e-9, abs=1e-9)
    assert "<h2>Scores</h2>" in (tmp_path / "report.html").read_text()
    assert pq.read_table(tmp_path / "predictions.parquet").equals(pq.read_table(folder / "predictions.parquet"))


def test_a_report_explains_the_model_on_request(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    run(sys.executable, "run_eval.py", folder, "hf_datasets/pmemo", "--explain", "--output_dir", tmp_path)
    names = [f"figure_{name}_phasic.png" for name in ("response", "bands", "absence")]
    assert {(tmp_path / name).read_bytes() for name in names} <= embedded_images(
        (tmp_path / "report.html").read_text()
    )
    assert not any((folder / name).exists() for name in names)
    explanations = record(tmp_path)["test"]["channels"]["phasic"]["explanations"]
    assert len(explanations["bands"]) == 8
    assert explanations["bands"][0]["name"].endswith(" Hz")


def test_fine_tuning_starts_from_a_saved_model(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    still = ["--learning_rate", "0", "--weight_decay", "0", "--num_train_epochs", "1", "--report_to", "none"]
    tuned = tmp_path / "tuned"
    train = [sys.executable, "run_train.py", CONFIG, "--model_name_or_path", folder, *still, "--output_dir"]
    run(*train, tuned)
    assert_same_weights(tuned, folder)  # a learning rate of 0 changes nothing
    assert record(tuned)["base"]["test_trials_it_was_trained_on"] == 0
    other = tmp_path / "other"
    line = last_line(run(*train, other, "--eda_target", "both", fails=True))
    assert "output_size=2: " in line
    assert "output_size=1" in line
    assert "pooling='centered'" in last_line(run(*train, other, "--causal", "true", fails=True))
    run(*train, other, "--split_seed", "5")
    leaked = record(other)["base"]["test_trials_it_was_trained_on"]
    assert leaked > 0
    assert f"{leaked} of the test" in (other / "README.md").read_text()


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    # Killed in the middle of an epoch, with dropout and random windows, without and with data loader workers.
    steps = ["--max_steps", "100", "--save_steps", "7", "--eval_steps", "7"]
    steps += ["--save_strategy", "steps", "--eval_strategy", "steps", "--report_to", "none"]
    command = [sys.executable, "run_train.py", CONFIG, *steps, "--output_dir"]
    run(*command, tmp_path / "uninterrupted")
    for workers in ("0", "2"):
        folder = tmp_path / f"killed-{workers}"
        with_workers = [*map(str, command), str(folder), "--dataloader_num_workers", workers]
        kill_after_checkpoint(folder / "checkpoint-14", *with_workers[1:])
        assert not (folder / "metrics.json").exists()
        done = run(*with_workers, fails=True)
        assert f"output_dir={folder}: " in last_line(done)
        assert "--resume_from_checkpoint true" in last_line(done)
        resume = [*with_workers, "--resume_from_checkpoint", "true"]
        if workers == "0":
            done = run(*resume, "--split_seed", "5", fails=True)
            assert "split_seed=5: " in last_line(done)
            assert "split_seed=0" in last_line(done)
        run(*resume)
        assert_same_weights(folder, tmp_path / "uninterrupted")
        assert f"output_dir={folder}: " in last_line(run(*resume, fails=True))


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["run_train.py", "configs/eda_tcm.json"], ["configs/eda_tcm.json", "configs/eda_tcn.json"]),
        (["run_train.py", CONFIG, "--dataset", "hf_datasets/pmeno"], ["hf_datasets/pmeno", "hf_datasets/pmemo"]),
        (["run_train.py", CONFIG, "--dataset", "README.md"], ["README.md", "is a file"]),
        (["run_train.py", CONFIG, "--dataset_config", "sampel"], ["sampel", "sample"]),
        (["run_train.py", CONFIG, "--model_config.num_chanels", "8"], ["num_chanels", "num_channels"]),
        (["run_train.py", CONFIG, "--model_config.kernel_size", "4"], ["kernel_size", "even"]),
        (["run_train.py", CONFIG, "--min_seconds", "1000"], ["no usable trial", "too_short"]),
        (["run_train.py", CONFIG, "--test_fraction", "0"], ["split_by=song: ", "no trial in test"]),
        (["run_train.py", CONFIG, "--metric_for_best_model", "ccc"], ["'ccc'", "rmse, pearson, loss"]),
        (["run_train.py", CONFIG, "--train_sampling_strategy", "group_by_length"], ["train_sampling_strategy"]),
        (["run_predict.py", "nowhere", "song.mp3"], ["nowhere: ", "user/model"]),
        (["run_predict.py", "nowhere", "README.md", "--output", "no/such/x.csv"], ["no/such/x.csv", "folder"]),
        (["run_eval.py", "nowhere", "hf_datasets/pmemo"], ["nowhere: ", "user/model"]),
    ],
    ids=lambda value: " ".join(value[1:4]) if "run_" in value[0] else None,
)
def test_the_error_for_a_mistake_is_one_line_with_the_value(
    command: list[str], parts: list[str], tmp_path: Path
) -> None:
    output = ["--output_dir", str(tmp_path)] if command[0] == "run_train.py" else []
    done = run(sys.executable, *command, *output, fails=True)
    assert "Traceback" not in done.stderr
    assert all(part in last_line(done) for part in parts), done.stderr[-1000:]


def test_the_launcher_adds_nothing_to_a_mistake() -> None:
    done = run(*LAUNCH, "--quiet", *CPU, "run_train.py", "configs/nowhere.json", fails=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("configs/nowhere.json: ")


def test_an_unreadable_sound_is_named(finished: tuple[Path, str], songs: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.mp3").write_bytes(b"this is no sound" * 100)
    done = run(sys.executable, "run_predict.py", finished[0], tmp_path, "--output", tmp_path / "o.csv", fails=True)
    assert "noise.mp3" in last_line(done)
    assert "1 of 1 recording" in last_line(done)
    assert not list(tmp_path.glob("o.csv*"))
    (song, _) = sorted(songs.iterdir())
    done = run(
        sys.executable, "run_predict.py", finished[0], song, tmp_path, "--output", tmp_path / "o.csv", fails=True
    )
    assert "noise.mp3" in last_line(done)
    assert "1 of 2 recordings" in last_line(done)
    assert song.name in (tmp_path / "o.csv").read_text()  # predictions of readable songs are kept

"""Whole runs of the attention task, as a user starts them: train, resume, score, load elsewhere, reject."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import run_eval
import run_predict
import run_train
from tasks.attention.items import CreativeDataset
from tests.conftest import REPOSITORY
from tests.helpers.programs import run
from tests.helpers.run_folders import assert_complete, assert_same_weights, copy_as_interrupted, numbers, record
from training.collators import PaddingCollator

pytestmark = pytest.mark.slow

CONFIG = "configs/tunein_attention.json"
MODALITIES = ("text", "video", "audio", "back_audio")
QUIET = ("--disable_tqdm", "true", "--report_to", "none")
# The epochs of the config, with a checkpoint in the middle of one. The last weights are kept, not the best.
STEPS = (
    "--save_strategy", "steps", "--save_steps", "250", "--eval_strategy", "steps", "--eval_steps", "250",
    "--load_best_model_at_end", "false", "--save_total_limit", "9",
)  # fmt: skip
SHORT = ("--max_steps", "4", "--ablations", "false", *QUIET)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder and the output of a run on the sample."""
    folder = tmp_path_factory.mktemp("runs") / "tunein_attention"
    done = run(sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *STEPS, *QUIET)
    return folder, done.stdout + done.stderr


def test_a_finished_run_is_complete(finished: tuple[Path, str]) -> None:
    folder, output = finished
    files = {"modeling_fusion.py", "layers_fusion.py"}
    files |= {f"figure_{name}.png" for name in ("compared", "removals", "residuals")}
    assert_complete(folder, output, files, ["| mean |", "| ridge on all |", "| without audio |"])
    metrics = record(folder)
    assert metrics["training"]["trainable"].keys() == {*MODALITIES, "fusion", "regression"}
    assert metrics["data"]["left_out"] == {"no target": 2}
    assert metrics["model"]["embedding_sizes"] == {"text": 384, "video": 512, "audio": 64, "back_audio": 64}


def test_the_modalities_that_matter_are_named_and_ridge_is_beaten(finished: tuple[Path, str]) -> None:
    # The target of the sample is 0.5 t + 0.5 s + 0.8 t s and noise, with t from the text and s from the sound.
    folder, output = finished
    test = record(folder)["test"]
    assert set(test["modalities"]["matter"]) == {"text", "audio"}
    assert set(test["modalities"]["not_shown"]) == {"video", "back_audio"}
    assert test["verdict"]["unbeaten"] == []
    assert "**Verdict: " in output
    assert test["baselines"]["ridge on all"]["difference"]["r2"]["low"] > 0
    assert abs(test["baselines"]["ridge on video"]["scores"]["r2"]["mean"]) < 0.1


def test_every_row_of_the_test_split_is_scored(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    test, predictions = record(folder)["test"], pq.read_table(folder / "predictions.parquet")
    members = json.loads((folder / "splits.json").read_text())["trials"]["test"]
    assert predictions.column_names == ["creative_id", "target", "prediction"]
    assert sorted(predictions["creative_id"].to_pylist()) == members
    assert test["rows"] == len(members) > 100
    rows = load_dataset(str(REPOSITORY / "hf_datasets/tunein"), "sample", split="train")
    targets = dict(zip(rows["creative_id"][:], rows["target"][:], strict=True))
    assert predictions["target"].to_pylist() == [targets[name] for name in predictions["creative_id"].to_pylist()]
    target, predicted = (predictions[name].to_numpy() for name in ("target", "prediction"))
    assert test["scores"]["mae"]["mean"] == pytest.approx(np.abs(predicted - target).mean())
    assert test["scores"]["r2"]["mean"] == pytest.approx(1 - ((predicted - target) ** 2).mean() / target.var())
    assert sum(test["lacking"].values()) > 0  # also rows without a modality
    assert len(test["ablations"]) == 8


def test_eval_repeats_the_scores_of_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    run_eval.main([str(folder), "hf_datasets/tunein", "--output_dir", str(tmp_path)])
    assert numbers(record(tmp_path)["test"]) == pytest.approx(numbers(record(folder)["test"]), rel=1e-5, abs=1e-5)
    assert (tmp_path / "report.html").is_file()
    assert record(tmp_path)["split"]["sha256"] == record(folder)["split"]["sha256"]


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    uninterrupted, _ = finished
    folder = tmp_path / "tunein_attention"
    middle = f"checkpoint-{STEPS[3]}"
    epoch = json.loads((uninterrupted / middle / "trainer_state.json").read_text())["epoch"]
    assert epoch != int(epoch)
    copy_as_interrupted(uninterrupted, folder, middle)
    command = [sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *STEPS, *QUIET]
    run(*command, "--resume_from_checkpoint", "true", "--dataloader_num_workers", "1")
    assert_same_weights(folder, uninterrupted)
    assert pq.read_table(folder / "predictions.parquet").equals(pq.read_table(uninterrupted / "predictions.parquet"))


def test_the_code_of_the_card_runs_without_this_project_and_predicts_the_same(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = finished
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "card.py"
    script.write_text(
        f"{code}\n"
        "import sys\n"
        "from safetensors.torch import load_file, save_file\n"
        "assert 'modeling' not in sys.modules and 'training' not in sys.modules\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "with torch.no_grad():\n"
        "    predictions = model(**load_file(sys.argv[1])).predictions\n"
        "save_file({'predictions': predictions}, sys.argv[2])\n"
    )
    rows = load_dataset(str(REPOSITORY / "hf_datasets/tunein"), "sample", split="train").select(range(12))
    sizes = record(folder)["model"]["embedding_sizes"]
    items = CreativeDataset(rows.map(lambda row: {"target": row["target"] or 0.0}), sizes)
    batch = PaddingCollator()([items[row] for row in range(12)])
    del batch["labels"]
    save_file(batch, tmp_path / "batch.safetensors")
    arguments = [tmp_path / "batch.safetensors", tmp_path / "there.safetensors", str(torch.get_num_threads())]
    done = run(sys.executable, "-I", script, *arguments, cwd=folder.parent)  # the card names the folder without path
    assert re.fullmatch(r"\[-?\d+\.\d+(e-\d+)?\]", done.stdout.splitlines()[-1])
    with torch.no_grad():
        here = AutoModel.from_pretrained(folder).eval()(**batch).predictions
    assert torch.equal(load_file(tmp_path / "there.safetensors")["predictions"], here)


def test_a_single_modality_is_trained_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--model_config.modalities", '["back_audio"]', *SHORT[:2], *QUIET]
    run_train.main([CONFIG, "--output_dir", str(tmp_path), *settings])
    metrics = record(tmp_path)
    assert metrics["model"]["modalities"] == ["back_audio"]
    assert not metrics["test"]["ablations"]
    assert metrics["training"]["trainable"].keys() == {"back_audio", "fusion", "regression"}
    assert list(metrics["test"]["baselines"]) == ["mean", "ridge on all"]
    assert "mean" in metrics["test"]["verdict"]["unbeaten"]  # this modality is noise in the sample
    assert "| mean |" in capsys.readouterr().out


def test_unsupported_requests_are_rejected_in_one_line(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    train = [CONFIG, "--output_dir", tmp_path / "x"]
    wider = ["--model_name_or_path", folder, "--model_config.hidden_size", "7"]
    refused = {
        "task=attention: ": (
            run_predict.main,
            [folder, tmp_path, "--output", tmp_path / "x.csv"],
        ),
        "modalities.*'smell'": (
            run_train.main,
            [*train, "--model_config.modalities", '["smell"]'],
        ),
        "hidden_size=7: .*hidden_size=256": (run_train.main, [*train, *wider]),
    }
    for message, (main, arguments) in refused.items():
        with pytest.raises((ValueError, SystemExit), match=message) as error:
            main([*map(str, arguments)])
        assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "x").iterdir()] == [".training.lock"]
    assert not (tmp_path / "x.csv").exists()

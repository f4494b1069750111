"""Whole runs of a model of attention, as a user starts them: train, resume, score, load elsewhere, refuse."""

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
# The config's own epochs, with a checkpoint in the middle of one; the last weights are kept, not the best.
STEPS = (
    "--save_strategy", "steps", "--save_steps", "250", "--eval_strategy", "steps", "--eval_steps", "250",
    "--load_best_model_at_end", "false", "--save_total_limit", "9",
)  # fmt: skip
SHORT = ("--max_steps", "4", "--ablations", "false", *QUIET)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on the sample, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "tunein_attention"
    done = run(sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *STEPS, *QUIET)
    return folder, done.stdout + done.stderr


def test_a_run_leaves_all_that_its_reader_needs(finished: tuple[Path, str]) -> None:
    folder, said = finished
    files = {"modeling_fusion.py", "layers_fusion.py"}
    files |= {f"figure_{name}.png" for name in ("compared", "removals", "residuals")}
    assert_complete(folder, said, files, ["| mean |", "| ridge on all |", "| without audio |"])
    metrics = record(folder)
    assert metrics["training"]["trainable"].keys() == {*MODALITIES, "fusion", "regression"}
    assert metrics["data"]["left_out"] == {"no target": 2}
    assert metrics["model"]["embedding_sizes"] == {"text": 384, "video": 512, "audio": 64, "back_audio": 64}


def test_the_modalities_that_matter_are_named_and_ridge_is_beaten(finished: tuple[Path, str]) -> None:
    """The sample's target is 0.5 t + 0.5 s + 0.8 t s and noise, of a text's t and a sound's s."""
    folder, said = finished
    test = record(folder)["test"]
    assert set(test["modalities"]["matter"]) == {"text", "audio"}
    assert set(test["modalities"]["not_shown"]) == {"video", "back_audio"}
    assert test["verdict"]["unbeaten"] == []
    assert "**Verdict: better than mean, ridge on text" in said
    assert test["baselines"]["ridge on all"]["difference"]["r2"]["low"] > 0
    assert "**Modalities that matter: " in said
    assert "Not shown to matter: " in said
    assert abs(test["baselines"]["ridge on video"]["scores"]["r2"]["mean"]) < 0.1


def test_the_test_side_is_scored_with_every_row(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    test, predictions = record(folder)["test"], pq.read_table(folder / "predictions.parquet")
    members = json.loads((folder / "splits.json").read_text())["trials"]["test"]
    assert predictions.column_names == ["creative_id", "target", "prediction"]
    assert sorted(predictions["creative_id"].to_pylist()) == members
    assert test["rows"] == len(members) > 100
    rows = load_dataset(str(REPOSITORY / "hf_datasets/tunein"), "sample", split="train")
    targets = dict(zip(rows["creative_id"][:], rows["target"][:], strict=True))
    assert predictions["target"].to_pylist() == [targets[name] for name in predictions["creative_id"].to_pylist()]
    target, said = (predictions[name].to_numpy() for name in ("target", "prediction"))
    assert test["scores"]["mae"]["mean"] == pytest.approx(np.abs(said - target).mean())
    assert test["scores"]["r2"]["mean"] == pytest.approx(1 - ((said - target) ** 2).mean() / target.var())
    assert sum(test["lacking"].values()) > 0  # rows without a modality are among them
    assert len(test["ablations"]) == 8


def test_eval_repeats_the_scores_of_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    run_eval.main([str(folder), "hf_datasets/tunein", "--output_dir", str(tmp_path)])
    assert numbers(record(tmp_path)["test"]) == pytest.approx(numbers(record(folder)["test"]), rel=1e-5, abs=1e-5)
    assert (tmp_path / "report.html").is_file()
    assert record(tmp_path)["split"]["sha256"] == record(folder)["split"]["sha256"]


def test_a_resumed_run_has_the_weights_that_it_would_have_had(finished: tuple[Path, str], tmp_path: Path) -> None:
    whole, _ = finished
    folder = tmp_path / "tunein_attention"
    middle = f"checkpoint-{STEPS[3]}"
    epoch = json.loads((whole / middle / "trainer_state.json").read_text())["epoch"]
    assert epoch != int(epoch)
    copy_as_interrupted(whole, folder, middle)
    command = [sys.executable, "run_train.py", CONFIG, "--output_dir", folder, *STEPS, *QUIET]
    run(*command, "--resume_from_checkpoint", "true", "--dataloader_num_workers", "1")
    assert_same_weights(folder, whole)
    assert pq.read_table(folder / "predictions.parquet").equals(pq.read_table(whole / "predictions.parquet"))


def test_the_code_of_the_card_runs_and_says_the_same_where_nothing_of_ours_is(
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
    batch = PaddingCollator()([items[place] for place in range(12)])
    del batch["labels"]
    save_file(batch, tmp_path / "batch.safetensors")
    places = [tmp_path / "batch.safetensors", tmp_path / "there.safetensors", str(torch.get_num_threads())]
    done = run(sys.executable, "-I", script, *places, cwd=folder.parent)  # beside the model's folder
    assert re.fullmatch(r"\[-?\d+\.\d+(e-\d+)?\]", done.stdout.splitlines()[-1])
    with torch.no_grad():
        here = AutoModel.from_pretrained(folder).eval()(**batch).predictions
    assert torch.equal(load_file(tmp_path / "there.safetensors")["predictions"], here)


def test_one_modality_alone_is_trained_scored_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--model_config.modalities", '["back_audio"]', *SHORT[:2], *QUIET]
    run_train.main([CONFIG, "--output_dir", str(tmp_path), *settings])
    found = record(tmp_path)
    assert found["model"]["modalities"] == ["back_audio"]
    assert not found["test"]["ablations"]
    assert found["training"]["trainable"].keys() == {"back_audio", "fusion", "regression"}
    assert list(found["test"]["baselines"]) == ["mean", "ridge on all"]
    assert "not shown to be better" in capsys.readouterr().out


def test_what_cannot_be_asked_of_it_is_refused_in_one_line(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    train = [CONFIG, "--output_dir", tmp_path / "x"]
    wider = ["--model_name_or_path", folder, "--model_config.hidden_size", "7"]
    refused = {
        "task=attention: a model of stored embeddings reads no recordings": (
            run_predict.main,
            [folder, tmp_path, "--output", tmp_path / "x.csv"],
        ),
        "the data set has no 'smell'; it has ": (
            run_train.main,
            [*train, "--model_config.modalities", '["smell"]'],
        ),
        "hidden_size = 256, but the run asks for 7": (run_train.main, [*train, *wider]),
    }
    for said, (main, arguments) in refused.items():
        with pytest.raises((ValueError, SystemExit), match=said) as caught:
            main([*map(str, arguments)])
        assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "x").iterdir()] == [".training.lock"]
    assert not (tmp_path / "x.csv").exists()

"""Data of every task in an S3 store, and a program that trains on them.

    python -m tests.helpers.remote_runs <start method> <folder>

It trains each task for STEPS steps with two workers that use this start method, and writes the weights to
`<folder>/<task>.safetensors`.
"""

import io
import multiprocessing
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save_file

from launch.run import parse_run
from tests.helpers.configs import OF_TASK
from tests.helpers.programs import PRELOADED
from tests.helpers.s3_server import FakeS3
from training.build import build_model, build_trainer
from training.rows import load_rows, use_storage
from training.task import Run

STEPS, WORKERS = 3, 2
SOUNDS = "s3://lab/sounds"
# Task -> data set, config, and settings for a small model.
RUNS = {
    "attention": ("s3://lab/tunein", "full", ("--streaming", "true", "--model_config.hidden_size", "8")),
    "detection": ("hf_datasets/audioset", "sample", ()),
    "eda": ("hf_datasets/pmemo", "sample", ()),  # its workers read nothing from the store
    "emotion": ("s3://lab/meld", "full", ("--streaming", "true")),
}
SHORT = (
    "--max_steps", str(STEPS), "--per_device_train_batch_size", "16", "--dataloader_num_workers", str(WORKERS),
    "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none",
    "--disable_tqdm", "true", "--use_cpu", "true",
)  # fmt: skip


def upload(s3: FakeS3, prefix: str, shards: dict[str, list[datasets.Dataset]], rows_a_group: int) -> None:
    """Store rows in the layout of `prepare`."""
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in shards]
    for split, parts in shards.items():
        for number, part in enumerate(parts):
            file = io.BytesIO()
            schema = part.features.arrow_schema
            pq.write_table(part.with_format("arrow")[:].cast(schema), file, row_group_size=rows_a_group)
            s3.put(f"{prefix}/data/{split}-{number:05d}-of-{len(parts):05d}.parquet", file.getvalue())
    configs = [{"config_name": "full", "default": True, "data_files": files}]
    s3.put(f"{prefix}/.huggingface.yaml", yaml.safe_dump({"configs": configs}).encode())


def run_of(task: str, *more: str) -> tuple[Run, datasets.Dataset]:
    """Return a short run and its rows; for detection, with the sounds as files in the store."""
    dataset, config, small = RUNS[task]
    run = parse_run([str(OF_TASK[task]), "--dataset", dataset, "--dataset_config", config, *SHORT, *small, *more])
    use_storage(run.arguments)
    rows, _ = load_rows(run.arguments, run.task.columns, run.task.streamed)
    if task == "detection":
        clips = zip(rows["clip_id"], rows["audio"], strict=True)
        paths = [sound and {"bytes": None, "path": sound_url(clip)} for clip, sound in clips]
        rows = rows.remove_columns("audio").add_column("audio", paths, feature=datasets.Audio(decode=False))
    return run, rows


def sound_url(clip: str) -> str:
    return f"{SOUNDS}/{clip}.mp3"


def train(task: str, method: str, folder: Path) -> None:
    """Train as run_train.py does."""
    context = ("--dataloader_multiprocessing_context", method, "--output_dir", str(folder / task))
    run, rows = run_of(task, *context)
    torch.manual_seed(0)
    extractor = run.task.features(run)
    data = run.task.prepare(rows, extractor, run)
    model = build_model(run, run.task.model_settings(data, extractor, run))
    run.task.initialise(model, data, new=True, resumed=False)
    trainer = build_trainer(run, model, extractor, data)
    trainer.train()
    save_file(trainer.model.state_dict(), folder / f"{task}.safetensors")


if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(PRELOADED)
    for name in RUNS:
        train(name, sys.argv[1], Path(sys.argv[2]))

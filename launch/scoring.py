"""Scoring a saved model: the settings of the run that made it, on its data set or another."""

import argparse
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from launch.run import build_run
from launch.settings import setting_groups, settings_of
from training.checkpoints import is_checkpoint
from training.environment import versions
from training.run_folder import describe_data, read_record, split_record, write_json, write_pages
from training.task import DataRecord, Run, ScoreFacts, TaskData

# Keys beyond the task's that a run and the scoring of its model share, so that both give the same scores.
SAME_SCORES = ("seed", "num_threads", "per_device_eval_batch_size", "s3")


def saved_run(arguments: argparse.Namespace) -> Run:
    """The run that made a model, with an output folder of its own, and nothing to train or track."""
    record = read_record(arguments.model, "run_config.json")
    groups = setting_groups(settings_of(record["task"]))
    keys = [key for kind in groups.values() for key in kind.__dataclass_fields__]
    task_keys = {
        key: record[key] for key in keys if key in record
    }  # what came later has a default that changes nothing
    if arguments.explain:
        if "explain" not in keys:
            raise ValueError(f"--explain: a model of task {record['task']!r} has no explanations; leave it out")
        task_keys["explain"] = True
    if arguments.side == "all" and "split_by" in keys:
        nothing_divided = {"split_by": "song", "folds": 0, "held_out_song": None, "held_out_listener": None}
        task_keys |= {key: value for key, value in nothing_divided.items() if key in keys}
    dataset, config = arguments.dataset, arguments.dataset_config
    if dataset is None:
        dataset, config = record["dataset"], config or record["dataset_config"]
    model = Path(arguments.model)
    names = [model.parent.name, model.name] if is_checkpoint(arguments.model) else [model.name]
    name = "-".join(["eval", *names, Path(dataset).name, config or "default", arguments.side])
    output_dir = Path(arguments.output_dir or Path("outputs") / name)
    if (output_dir / "config.json").exists():
        raise ValueError(f"output_dir={output_dir}: holds a model, whose own scores would be lost. Name another.")
    return build_run(
        task_keys
        | {key: record[key] for key in SAME_SCORES if key in record}
        | {
            "task": record["task"],
            "dataset": dataset,
            "dataset_config": config,
            "model_type": record["model_type"],
            "model_name_or_path": arguments.model,
            "output_dir": str(output_dir),
            "report_to": "none",
        }
        | ({} if arguments.batch_size is None else {"per_device_eval_batch_size": arguments.batch_size}),
        place=f"{arguments.model}/run_config.json",
        rest=[],
    )


def describe_scores(
    arguments: argparse.Namespace, run: Run, source: DataRecord, data: TaskData, results: Any
) -> ScoreFacts:
    """Gather what `metrics.json` says and the report is made from."""
    return ScoreFacts(
        name=run.name,
        task=run.task.name,
        data=describe_data(run, source, data),
        split=split_record(data.split),
        test=results,
        versions=versions(),
        threads=torch.get_num_threads(),
        model=arguments.model,
        side=arguments.side,
    )


def save_scores(run: Run, facts: dict[str, Any], pages: dict[str, str | bytes], predictions: pa.Table) -> Path:
    """Write report, figures, predictions.parquet and, last, metrics.json."""
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    write_pages(folder, pages)
    pq.write_table(predictions, folder / ".predictions.parquet.part")
    os.replace(folder / ".predictions.parquet.part", folder / "predictions.parquet")
    write_json(folder / "metrics.json", facts)
    return folder

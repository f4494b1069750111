"""Score a saved model with the settings of the run that trained it, on the same data set or another."""

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

# Keys outside the task's settings that scoring copies from the run, so that both give the same scores.
SAME_SCORES = ("seed", "num_threads", "per_device_eval_batch_size", "s3")


def saved_run(arguments: argparse.Namespace) -> Run:
    """Rebuild the run that trained a model, with its own output folder and without trackers.

    Args:
        arguments: the options of run_eval.py.
    """
    record = read_record(arguments.model, "run_config.json")
    groups = setting_groups(settings_of(record["task"]))
    keys = [key for group in groups.values() for key in group.__dataclass_fields__]
    # Keys that were added after the run are missing in its record. Their defaults keep the behaviour unchanged.
    task_keys = {key: record[key] for key in keys if key in record}
    if arguments.explain:
        if "explain" not in keys:
            raise ValueError(f"--explain: not supported by models of task {record['task']!r}. Remove the option.")
        task_keys["explain"] = True
    if arguments.side == "all" and "split_by" in keys:
        # Scoring everything needs no held-out song or listener, which other data may not even have.
        no_split = {"split_by": "song", "folds": 0, "held_out_song": None, "held_out_listener": None}
        task_keys |= {key: value for key, value in no_split.items() if key in keys}
    dataset, config = arguments.dataset, arguments.dataset_config
    if dataset is None:
        dataset, config = record["dataset"], config or record["dataset_config"]
    # Different models, data sets and splits get different folders, so that scores do not overwrite each other.
    model = Path(arguments.model)
    names = [model.parent.name, model.name] if is_checkpoint(arguments.model) else [model.name]
    name = "-".join(["eval", *names, Path(dataset).name, config or "default", arguments.side])
    output_dir = Path(arguments.output_dir or Path("outputs") / name)
    if (output_dir / "config.json").exists():
        raise ValueError(
            f"output_dir={output_dir}: contains a model, whose scores would be overwritten. Give another folder."
        )
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
            "report_to": "none",  # a tracker would log a training run
        }
        | ({} if arguments.batch_size is None else {"per_device_eval_batch_size": arguments.batch_size}),
        source=f"{arguments.model}/run_config.json",
        rest=[],
    )


def describe_scores(
    arguments: argparse.Namespace, run: Run, source: DataRecord, data: TaskData, results: Any
) -> ScoreFacts:
    """Collect the facts about the scores, which are written to metrics.json."""
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
    """Write report, figures, predictions.parquet and metrics.json; return the folder."""
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    # metrics.json marks a complete folder, so it is removed first and written last.
    (folder / "metrics.json").unlink(missing_ok=True)
    write_pages(folder, pages)
    pq.write_table(predictions, folder / ".predictions.parquet.part")
    os.replace(folder / ".predictions.parquet.part", folder / "predictions.parquet")
    write_json(folder / "metrics.json", facts)
    return folder

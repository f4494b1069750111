"""Read and write the folder of a run: records before training, the checkpoint to resume, and the results."""

import json
import logging
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from huggingface_hub import hf_hub_download
from transformers import FeatureExtractionMixin, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

from modeling import PIPELINES
from modeling.configuration_signal import SignalConfig
from system.text import mask_secrets
from training.build import OUR_TYPES
from training.checkpoints import decide_on_main, find_damage, is_checkpoint, newest_intact_checkpoint
from training.environment import versions
from training.task import BaseRecord, DataRecord, Evaluation, Run, RunFacts, SplitRecord, TaskData
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)


def describe_run(
    run: Run, source: DataRecord, data: TaskData, trainer: SignalTrainer, evaluation: Evaluation
) -> RunFacts:
    """Collect the facts of a finished run, which are written to metrics.json."""
    state, model, task = trainer.state, trainer.model, run.task
    training = task.training_record(
        steps=state.global_step,
        epochs=state.epoch,
        best_checkpoint_step=trainer.loaded_step,
        best_validation=state.best_metric,
        chosen_by=run.training.metric_for_best_model,
        processes=run.training.world_size,
        precision=trainer.accelerator.mixed_precision,
        data_wait_share=round(trainer.data_wait_share, 4),
        log=state.log_history,
        **task.about_training(trainer, data),
    )
    return RunFacts(
        name=run.name,
        task=task.name,
        data=describe_data(run, source, data),
        split=split_record(data.split),
        test=evaluation.results,
        versions=versions(),
        threads=torch.get_num_threads(),
        base=base_record(run, data),
        model=model.config.to_diff_dict() | evaluation.model_config,
        parameters=model.num_parameters(),
        receptive_field_seconds=receptive_field_seconds(model),
        training=training,
    )


def describe_data(run: Run, source: DataRecord, data: TaskData) -> DataRecord:
    """Extend the record of the rows by the task's own fields."""
    return run.task.data_record(**asdict(source), **data.record())


def receptive_field_seconds(model: PreTrainedModel) -> float | None:
    """Return the receptive field of one output frame, or None for models that see the whole clip."""
    return model.config.receptive_field_seconds if isinstance(model.config, SignalConfig) else None


def base_record(run: Run, data: TaskData) -> BaseRecord | None:
    """Record the model that was fine-tuned, and how many trials of this run's test split it was trained on."""
    base = run.arguments.model_name_or_path
    if base is None or run.base_config is None:
        return None
    if run.base_config.model_type not in OUR_TYPES:  # a published model has no record of its training data
        return BaseRecord(mask_secrets(base), None)
    trained_on = set(read_record(base, "splits.json")["trials"]["train"])
    test = data.split.record()["trials"]["test"]
    return BaseRecord(mask_secrets(base), len(trained_on.intersection(test)))


def split_record(split: SplitRecord) -> dict[str, Any]:
    """Return the hash and the settings of a split, without the ids."""
    return {"sha256": split.sha256, **split.record()["settings"]}


def run_records(run: Run, source: DataRecord, data: TaskData) -> dict[str, dict[str, Any]]:
    """Return the contents of run_config.json, data.json and splits.json."""
    return {
        # The configuration that was loaded, in place of null for the default, which may change between versions.
        "run_config.json": run.resolved() | {"dataset_config": source.config},
        DATA_FILE: {"dataset": source.dataset, "config": source.config, "files": source.files},
        "splits.json": data.split.record(),
    }


def read_record(model: str, file: str) -> dict[str, Any]:
    """Read a JSON file of a saved model, from a folder or the Hub. For a checkpoint, read the file of its run."""
    path = Path(model) / file
    if not path.is_file() and is_checkpoint(model):
        model = str(Path(model).resolve().parent)
        path = Path(model) / file
    if not path.is_file():
        if Path(model).exists():
            raise ValueError(f"{model}: {file} is missing. Give the folder of a finished run of run_train.py.")
        # If the parent folder exists, the name is a misspelt folder rather than a Hub name.
        if model.count("/") != 1 or Path(model).parent.is_dir():
            raise ValueError(f"{model}: neither a folder nor a Hub name (user/model). Give one of the two.")
        path = Path(hf_hub_download(model, file))
    return json.loads(path.read_text(encoding="utf-8"))


def save_run(
    run: Run,
    model: PreTrainedModel,
    extractor: FeatureExtractionMixin | None,
    pages: dict[str, str | bytes],
    records: dict[str, dict[str, Any]],
    evaluation: Evaluation,
) -> Path:
    """Write the model, its feature extractor and code, pages, records and predictions to the folder of the run.

    Args:
        pages: card, report and figures by file name.
        records: contents of JSON files by file name.
    """
    # A metrics.json marks a finished run. So all files are first written to a temporary folder, and metrics.json is
    # removed before, and moved last.
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    # In the same folder, because os.replace cannot move files between file systems.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as name:
        draft = Path(name)
        model.config.update(evaluation.model_config)
        name_pipeline(model, draft)
        model.save_pretrained(draft)
        if extractor is not None:  # models of stored embeddings have none
            extractor.save_pretrained(draft)
        write_pages(draft, pages)
        for file, record in records.items():
            write_json(draft / file, record)
        pq.write_table(evaluation.predictions, draft / "predictions.parquet")
        for file in sorted(draft.iterdir(), key=lambda file: file.name == "metrics.json"):
            os.replace(file, folder / file.name)
    return folder


def name_pipeline(model: PreTrainedModel, folder: Path) -> None:
    """Name the custom pipeline in the model's config and copy its code to `folder`, for `pipeline(model=...)`."""
    # Pipeline.save_pretrained does the same, but does not save a processor.
    for model_class, task, pipeline, auto_class, modality in PIPELINES:
        if isinstance(model, model_class):
            implementation = f"{pipeline.__module__.rpartition('.')[2]}.{pipeline.__name__}"
            entry = {"impl": implementation, "pt": [auto_class.__name__], "type": modality}
            model.config.custom_pipelines = {task: entry}
            custom_object_save(pipeline, folder)


def write_pages(folder: Path, pages: dict[str, str | bytes]) -> None:
    """Write text and images to files of these names. Each file appears only when it is complete."""
    for file, content in pages.items():
        draft = folder / f".{file}.part"
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, folder / file)


DATA_FILE = "data.json"  # digests of the data set files of a run
# Prefixes of keys that may change when a run is resumed: they affect where and how fast it runs, not its result.
MAY_CHANGE_ON_RESUME = (
    "output_dir", "num_threads", "preprocessing_processes", "dataloader_", "logging_", "log_", "report_to", "run_name",
    "disable_tqdm", "save_total_limit", "hub_", "streaming_cache_gb",
)  # fmt: skip


def checkpoint_to_resume(run: Run) -> str | None:
    """Return the checkpoint that `resume_from_checkpoint` selects, the same on all processes; None starts a new run.

    Raises ValueError if the folder has an unfinished run that would be overwritten, or nothing to resume.
    """
    return decide_on_main(run.training, lambda: choose_checkpoint(run))


def choose_checkpoint(run: Run) -> str | None:
    """Do the work of `checkpoint_to_resume` on the main process."""
    folder, requested = run.folder, run.training.resume_from_checkpoint
    finished = (folder / "metrics.json").exists()
    if requested is None:
        # Refuse to start over, because that deletes the checkpoints of a run that may have taken days.
        if not finished and (last := newest_intact_checkpoint(folder)) is not None:
            raise ValueError(
                f"output_dir={folder}: contains an unfinished run ({last.name}). Add --resume_from_checkpoint true to "
                "continue it, or give another --output_dir."
            )
        return None
    if requested != "true":
        if not (Path(requested) / "trainer_state.json").is_file():
            raise ValueError(
                f"resume_from_checkpoint={requested!r}: not a checkpoint folder. Give one, or `true` for the newest."
            )
        if (problem := find_damage(Path(requested))) is not None:
            raise ValueError(
                f"resume_from_checkpoint={requested!r}: {problem}. Give `true` for the newest intact checkpoint."
            )
        return requested
    if finished:
        raise ValueError(
            f"output_dir={folder}: contains a finished run, so there is nothing to resume. Give another --output_dir."
        )
    last = newest_intact_checkpoint(folder)
    if last is None:
        logger.warning("%s has no intact checkpoint to resume from; starting from the beginning", folder)
    return str(last) if last else None


def begin_run(run: Run, records: dict[str, dict[str, Any]], checkpoint: str | None) -> None:
    """Write the records of a run before training. A resumed run must have the same settings, data and split.

    A new run deletes the checkpoints of an earlier, finished run in the same folder.

    Args:
        records: contents of JSON files by file name, from `run_records`.
    """
    decide_on_main(run.training, lambda: write_records(run.folder, records, checkpoint))


def write_records(folder: Path, records: dict[str, dict[str, Any]], checkpoint: str | None) -> None:
    """Do the work of `begin_run` on the main process."""
    if checkpoint is not None:
        check_same_run(Path(checkpoint).parent, records)
    else:
        # Old checkpoints would be mixed with the new ones: resuming takes the one with the highest step.
        for old in folder.glob("checkpoint-*"):
            logger.warning("%s: removing %s, left from an earlier run", folder, old.name)
            shutil.rmtree(old)
    (folder / "metrics.json").unlink(missing_ok=True)  # the run in this folder is unfinished from now on
    for name, record in records.items():
        write_json(folder / name, record)


def check_same_run(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Raise ValueError if the run in `folder` had other settings, other data or another split."""
    check_same_data(folder, records[DATA_FILE])
    try:
        saved = {
            name: json.loads((folder / name).read_text(encoding="utf-8")) for name in records if name != DATA_FILE
        }
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: {Path(error.filename).name} is missing, so the settings of its checkpoints are unknown. "
            "Give another --output_dir."
        ) from error
    # The JSON round trip makes the values comparable: it turns tuples into lists, for example.
    before, now = (json.loads(json.dumps(config)) for config in (saved["run_config.json"], records["run_config.json"]))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE_ON_RESUME):
            raise ValueError(
                f"{key}={now.get(key)!r}: the run in {folder} was started with {key}={before.get(key)!r}. "
                "Use the same value to resume it, or give another --output_dir."
            )
    if saved["splits.json"]["sha256"] != records["splits.json"]["sha256"]:
        raise ValueError(
            f"{folder}: the data or the split have changed since its checkpoint was saved. Give another --output_dir."
        )


def check_same_data(folder: Path, now: dict[str, Any]) -> None:
    """Raise ValueError if a data set file has changed since the run in `folder` was started."""
    if not (folder / DATA_FILE).exists():  # the run was started by an older version, which did not write this file
        logger.warning("%s has no %s, so it is unknown whether the data have changed", folder, DATA_FILE)
        return
    before = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))["files"]
    changed = sorted(
        name for name in before.keys() | now["files"].keys() if before.get(name) != now["files"].get(name)
    )
    if changed:
        names = changed[0] + (f" and {len(changed) - 1} more" if changed[1:] else "")
        raise ValueError(
            f"dataset={now['dataset']!r}: {names} changed since the run in {folder} was started. "
            "Restore the old data, or give another --output_dir."
        )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON. The file appears only when it is complete. Raises ValueError for NaN."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)

"""The folder of a run: what it records before training, where it resumes, and how results are written."""

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
from training.checkpoints import damage, decided_by_main, is_checkpoint, last_whole_checkpoint
from training.environment import versions
from training.task import BaseRecord, DataRecord, Evaluation, Run, RunFacts, SplitRecord, TaskData
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)


def describe_run(
    run: Run, source: DataRecord, data: TaskData, trainer: SignalTrainer, evaluation: Evaluation
) -> RunFacts:
    """Gather what `metrics.json` says and the card is made from."""
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
    """Add to the source of the rows what the task made of them."""
    return run.task.data_record(**asdict(source), **data.record())


def receptive_field_seconds(model: PreTrainedModel) -> float | None:
    """How much sound a frame's output sees; None for models of others, which see all of a clip."""
    return model.config.receptive_field_seconds if isinstance(model.config, SignalConfig) else None


def base_record(run: Run, data: TaskData) -> BaseRecord | None:
    """Return the model that was fine-tuned, and how many of its training trials are in this run's test."""
    base = run.arguments.model_name_or_path
    if base is None or run.base_config is None:
        return None
    if run.base_config.model_type not in OUR_TYPES:  # nobody here knows what a published model was trained on
        return BaseRecord(mask_secrets(base), None)
    known = set(read_record(base, "splits.json")["trials"]["train"])
    test = data.split.record()["trials"]["test"]
    return BaseRecord(mask_secrets(base), len(known.intersection(test)))


def split_record(split: SplitRecord) -> dict[str, Any]:
    """The hash of a split and the settings that it follows from."""
    return {"sha256": split.sha256, **split.record()["settings"]}


def run_records(run: Run, source: DataRecord, data: TaskData) -> dict[str, dict[str, Any]]:
    """The settings, with the configuration of the data that was meant, the files of the data, and the split."""
    return {
        "run_config.json": run.resolved() | {"dataset_config": source.config},
        DATA_FILE: {"dataset": source.dataset, "config": source.config, "files": source.files},
        "splits.json": data.split.record(),
    }


def read_record(model: str, file: str) -> dict[str, Any]:
    """A JSON next to a saved model, in a folder or on the Hub; a checkpoint's records are those of its run."""
    path = Path(model) / file
    if not path.is_file() and is_checkpoint(model):
        model = str(Path(model).resolve().parent)
        path = Path(model) / file
    if not path.is_file():
        if Path(model).exists():
            raise ValueError(f"{model}: no {file}; expected a folder that run_train.py wrote to its end")
        if model.count("/") != 1 or Path(model).parent.is_dir():  # a folder that is misspelt, or not made yet
            raise ValueError(f"{model}: no such folder, and not a name on the Hub (user/model)")
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
    """Write model, features, code, pages (card, report, figures), records and predictions; `metrics.json` comes last.

    Everything is written to a folder of its own first, and moved file by file only when it is whole: a run's folder
    with a `metrics.json` holds a finished run.
    """
    folder = run.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as name:
        draft = Path(name)
        model.config.update(evaluation.model_config)
        name_pipeline(model, draft)
        model.save_pretrained(draft)
        if extractor is not None:  # stored embeddings need none
            extractor.save_pretrained(draft)
        write_pages(draft, pages)
        for file, record in records.items():
            write_json(draft / file, record)
        pq.write_table(evaluation.predictions, draft / "predictions.parquet")
        for file in sorted(draft.iterdir(), key=lambda file: file.name == "metrics.json"):
            os.replace(file, folder / file.name)
    return folder


def name_pipeline(model: PreTrainedModel, folder: Path) -> None:
    """Name a model's pipeline in its config and put the code next to it, for `pipeline(model=...)` elsewhere.

    (A pipeline's own `save_pretrained` does the same, but without a processor.)
    """
    for kind, task, pipeline, auto_class, modality in PIPELINES:
        if isinstance(model, kind):
            place = f"{pipeline.__module__.rpartition('.')[2]}.{pipeline.__name__}"
            model.config.custom_pipelines = {task: {"impl": place, "pt": [auto_class.__name__], "type": modality}}
            custom_object_save(pipeline, folder)


def write_pages(folder: Path, pages: dict[str, str | bytes]) -> None:
    """Write text and pictures into a folder, by file name, each under its name only when it is whole."""
    for file, content in pages.items():
        draft = folder / f".{file}.part"
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, folder / file)


DATA_FILE = "data.json"  # the digests of the files that a run is trained on
# Keys that may differ when a run goes on, by how they begin: they change where and how fast it runs, not what it does.
FREE_TO_CHANGE = (
    "output_dir", "num_threads", "preprocessing_processes", "dataloader_", "logging_", "log_", "report_to", "run_name",
    "disable_tqdm", "save_total_limit", "hub_", "streaming_cache_gb",
)  # fmt: skip


def checkpoint_to_resume(run: Run) -> str | None:
    """The checkpoint that --resume_from_checkpoint names: a folder, or `true` for the newest whole one.

    A folder with an unfinished run in it is not started over by accident. All processes take the main one's choice.
    """
    return decided_by_main(run.training, lambda: choose_checkpoint(run))


def choose_checkpoint(run: Run) -> str | None:
    """The main process's part of `checkpoint_to_resume`."""
    folder, wanted = run.folder, run.training.resume_from_checkpoint
    finished = (folder / "metrics.json").exists()
    if wanted is None:
        if not finished and (last := last_whole_checkpoint(folder)) is not None:
            raise ValueError(
                f"{folder} holds an unfinished run ({last.name}): add --resume_from_checkpoint true to go on from it, "
                "or name another --output_dir"
            )
        return None
    if wanted != "true":
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise ValueError(f"resume_from_checkpoint = {wanted!r} is no checkpoint folder; `true` takes the newest")
        if (problem := damage(Path(wanted))) is not None:
            raise ValueError(
                f"resume_from_checkpoint={wanted}: {problem}. Give `true`, which takes the newest whole one."
            )
        return wanted
    if finished:
        raise ValueError(f"{folder} holds a finished run: there is nothing to resume; name another --output_dir")
    last = last_whole_checkpoint(folder)
    if last is None:
        logger.warning("nothing to resume: %s has no whole checkpoint; starting at the beginning", folder)
    return str(last) if last else None


def begin_run(run: Run, records: dict[str, dict[str, Any]], checkpoint: str | None) -> None:
    """Leave the settings, the data and the split in the folder before training; a run that resumes must have the same.

    `records` are what the files of these names shall hold. An older, finished run makes way.
    """
    decided_by_main(run.training, lambda: write_records(run.folder, records, checkpoint))


def write_records(folder: Path, records: dict[str, dict[str, Any]], checkpoint: str | None) -> None:
    """The main process's part of `begin_run`."""
    if checkpoint is not None:
        check_same_run(Path(checkpoint).parent, records)
    else:
        for old in folder.glob("checkpoint-*"):
            logger.warning("%s: removing %s of an earlier run", folder, old.name)
            shutil.rmtree(old)
    (folder / "metrics.json").unlink(missing_ok=True)
    for name, record in records.items():
        write_json(folder / name, record)


def check_same_run(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Refuse a checkpoint of other settings, other data or another split."""
    check_same_data(folder, records[DATA_FILE])
    try:
        saved = {
            name: json.loads((folder / name).read_text(encoding="utf-8")) for name in records if name != DATA_FILE
        }
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: no {Path(error.filename).name}; cannot tell what its checkpoint was made with"
        ) from error
    before, now = (json.loads(json.dumps(config)) for config in (saved["run_config.json"], records["run_config.json"]))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not key.startswith(FREE_TO_CHANGE):
            raise ValueError(
                f"{folder}: {key} was {before.get(key)!r} and is {now.get(key)!r} now; a run goes on with the "
                "settings that it began with: take them, or name another --output_dir"
            )
    if saved["splits.json"]["sha256"] != records["splits.json"]["sha256"]:
        raise ValueError(f"{folder}: the data or the split have changed since the checkpoint; start again")


def check_same_data(folder: Path, now: dict[str, Any]) -> None:
    """Refuse files of other content; for a run of an older version, which did not note them, only warn."""
    if not (folder / DATA_FILE).exists():
        logger.warning("%s: no %s, so nothing shows whether the data are those of its checkpoint", folder, DATA_FILE)
        return
    before = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))["files"]
    changed = sorted(
        name for name in before.keys() | now["files"].keys() if before.get(name) != now["files"].get(name)
    )
    if changed:
        named = changed[0] + (f" and {len(changed) - 1} more" if changed[1:] else "")
        raise ValueError(
            f"dataset={now['dataset']}: {named} changed since the checkpoint in {folder} was written. Go "
            "back to the old data, or name another --output_dir."
        )


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record under its name only when it is whole; NaN is refused."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)

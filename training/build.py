"""From settings to objects: rows, feature extractor, model, Trainer; and back from a saved run.

A task says what it needs: `COLUMNS` of the data, `STREAMED` (those that streaming leaves on S3; where there are none,
`NOT_STREAMED` says why), `AUTO_MODEL` (the Auto class of its models), `MODELS` (their configurations),
`AUTO_EXTRACTOR` (the Auto class of what makes their inputs), `TRAINER`, and `STUDY` (how scores of several runs are
put together).
"""

import fnmatch
import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import datasets
import torch
import yaml
from datasets import load_dataset, load_dataset_builder
from huggingface_hub import hf_hub_download
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    EarlyStoppingCallback,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)

from media.memory import keep_freed_memory
from media.storage import S3FileManager, S3Object, is_remote
from modeling import SIGNAL_MODELS, FusionConfig
from modeling.feature_extraction_audio import AudioFeatureExtractor
from training.arguments import Run, RunArguments, unknown_key
from training.environment import threads_for_this_process
from training.streaming import GIGABYTE, stream_rows
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)

# Settings of a saved model that training on other data replaces.
OF_THE_DATA = ("target_scaling", "target_unit", "emotion_weights", "sentiment_weights")
# Architectures of this project; others are transformers'.
OUR_TYPES = {kind.model_type for kind, _ in SIGNAL_MODELS} | {FusionConfig.model_type}


def set_up_process(run: Run) -> None:
    """Logging on the main process, torch's share of the machine, and the seed, before there are weights to draw."""
    main = run.training.process_index == 0
    logging.basicConfig(level=logging.INFO if main else logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    for library in ("httpx", "httpx2", "fsspec", "datasets", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    threads = run.arguments.num_threads or threads_for_this_process()
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    set_seed(run.training.seed)
    logger.info("%s: torch on %s, %d threads", run.name, run.training.device, torch.get_num_threads())


def load_rows(arguments: RunArguments, columns: Sequence[str], streamed: Sequence[str] = ()) -> datasets.Dataset:
    """The rows of all splits of a data set, one after the other; loud when they are synthetic.

    Sides are the task's business: data sets say in a column what they know of them. With `streaming` the columns
    `streamed` are not among the rows', see streaming.py.
    """
    name, config = arguments.dataset, arguments.dataset_config
    store: dict[str, Any] = {"storage_options": arguments.s3} if arguments.s3 else {}
    if arguments.streaming:
        store["max_bytes"] = int(arguments.streaming_cache_gb * GIGABYTE)
    if store:
        S3FileManager.shared(**store)
    folder = Path(name)
    if not is_remote(name) and not folder.exists() and folder.parent.name and folder.parent.is_dir():
        # A folder that is misspelt; as a name on the Hub it would be looked for there, slowly.
        found = ", ".join(sorted(str(card.parent) for card in folder.parent.glob("*/README.md")))
        raise SystemExit(f"dataset = {name!r}: no such folder; there is {found or 'no data set beside it'}")
    if folder.is_file():
        raise SystemExit(f"dataset = {name!r} is a file; it takes a folder such as hf_datasets/pmemo, or a Hub name")
    try:
        if arguments.streaming:
            rows = stream_rows(*shards_on_s3(arguments), streamed)
        else:
            rows = datasets.concatenate_datasets(list(load_dataset(**source_of(arguments)).values()))
    except (FileNotFoundError, datasets.exceptions.DatasetNotFoundError) as error:
        raise SystemExit(
            f"dataset = {name!r}: {error}. It takes a folder such as hf_datasets/pmemo or a name on the Hub; "
            "raw data becomes one with `python -m hf_datasets.prepare`"
        ) from error
    except ValueError as error:
        raise SystemExit(f"dataset = {name!r}, dataset_config = {config!r}: {error}") from error
    missing = [c for c in columns if c not in rows.column_names and not (arguments.streaming and c in streamed)]
    if missing:
        raise SystemExit(
            f"dataset = {name!r} has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}"
        )
    if any(rows.unique("synthetic")):
        logger.warning(
            "SYNTHETIC DATA: %s (%s) was made by a program, not recorded. Nothing learnt from it is about people.",
            name,
            rows.config_name,
        )
    return rows


def source_of(arguments: RunArguments) -> dict[str, Any]:
    """What `load_dataset` is called with: a folder, a Hub name, or copies of the files that an s3:// prefix has."""
    if not is_remote(arguments.dataset):
        return {"path": arguments.dataset, "name": arguments.dataset_config}
    config, shards = shards_on_s3(arguments)
    paths = {split: copies_of(arguments.dataset.rstrip("/"), files) for split, files in shards.items()}
    return {"path": "parquet", "name": config, "data_files": paths}


def shards_on_s3(arguments: RunArguments) -> tuple[str, dict[str, list[S3Object]]]:
    """The configuration that is meant, and by split the files that an s3:// prefix points to.

    A prefix that `prepare` has not finished does not point to any.
    """
    prefix, config = arguments.dataset.rstrip("/"), arguments.dataset_config
    pointer = f"{prefix}/.huggingface.yaml"
    configs = yaml.safe_load(S3FileManager.shared().download_file(pointer, revalidate=True).read_bytes())["configs"]
    chosen = [c for c in configs if (c["config_name"] == config if config else c.get("default"))]
    if not chosen:
        names = [c["config_name"] for c in configs]
        raise ValueError(f"{pointer} has the configs {names}; is it prepared to its end?")
    listed = S3FileManager.shared().list_objects(prefix)
    shards = {}
    for entry in chosen[0]["data_files"]:
        pattern = f"{prefix}/{entry['path']}"
        shards[entry["split"]] = [file for file in listed if fnmatch.fnmatchcase(file.url, pattern)]
        if not shards[entry["split"]]:
            raise ValueError(f"{pattern}: nothing is there; prepare the data again")
    return chosen[0]["config_name"], shards


def copies_of(prefix: str, found: Sequence[S3Object]) -> list[str]:
    """Objects below a prefix as files in the cache of `datasets`, by their own names.

    Names hold the data's digest, so a copy never grows old. (`datasets` itself would ask twice for each object, not
    notice one that changes meanwhile, and refuse to read S3 where HF_HUB_OFFLINE is set.)
    """
    files = S3FileManager.shared()
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "s3" / hashlib.sha256(prefix.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    targets = {file: folder / PurePath(file.url).name for file in found}
    missing = [f for f, path in targets.items() if not path.exists() or path.stat().st_size != f.size]
    files.prefetch_files(missing)
    for file in missing:
        draft = targets[file].with_suffix(f".{os.getpid()}.part")
        with files.lease(file) as path:
            shutil.copyfile(path, draft)
        os.replace(draft, targets[file])
    return [str(path) for path in targets.values()]


def data_record(arguments: RunArguments, rows: datasets.Dataset) -> dict[str, Any]:
    """What identifies the data of a run: its name, its configuration, and its files, whose names hold a digest."""
    if arguments.streaming:
        names = [file.url for files in shards_on_s3(arguments)[1].values() for file in files]
    else:
        source = load_dataset_builder(**source_of(arguments))
        names = [file for files in source.config.data_files.values() for file in files]
    return {
        "dataset": arguments.dataset,
        "config": rows.config_name,
        "files": sorted(PurePath(name).name for name in names),
        "rows": len(rows),
        "synthetic": bool(any(rows.unique("synthetic"))),
    }


def read_companion(arguments: RunArguments, config: str, file: str) -> dict[str, Any]:
    """A JSON that `prepare` wrote beside the Parquet files of a data set; that of its samples lies in `sample/`."""
    name = arguments.dataset
    file = file if config == "full" else f"sample/{file}"
    if is_remote(name):
        path = S3FileManager.shared().download_file(f"{name.rstrip('/')}/{file}")
    elif Path(name).is_dir():
        path = Path(name) / file
    else:
        path = Path(hf_hub_download(name, file, repo_type="dataset"))
    if not Path(path).is_file():
        raise ValueError(f"{name} ({config}) has no {file} beside its data; prepare the data again")
    return json.loads(Path(path).read_text(encoding="utf-8"))


def build_extractor(arguments: RunArguments, **settings: Any) -> FeatureExtractionMixin:
    """The audio features: those of the model that is fine-tuned, else new ones. `settings` come from the task."""
    clash = sorted(settings.keys() & arguments.feature_config.keys())
    if clash:
        raise ValueError(f"feature_config sets {clash}, which follow from the task's settings; leave them out")
    asked = settings | arguments.feature_config
    if arguments.model_name_or_path:
        extractor = AutoFeatureExtractor.from_pretrained(arguments.model_name_or_path)
        check_fit(extractor.to_dict(), asked, arguments.model_name_or_path)
        return extractor
    kind = AudioFeatureExtractor
    config = None if arguments.model_type in OUR_TYPES else dict(CONFIG_MAPPING.items()).get(arguments.model_type)
    if config in FEATURE_EXTRACTOR_MAPPING:  # other models are refused when they are built
        kind = FEATURE_EXTRACTOR_MAPPING[config]
        known = set(inspect.signature(kind).parameters)
        for key in arguments.feature_config:
            if key not in known:
                raise ValueError(unknown_key(f"feature_config.{key}", {f"feature_config.{name}" for name in known}))
    return kind(**asked)


def build_model(arguments: RunArguments, settings: dict[str, Any], task: ModuleType) -> PreTrainedModel:
    """A new model, or a saved one to go on from. `settings` follow from the data and may not be set in the config."""
    config = new_config(arguments, settings, task.MODELS)
    name = arguments.model_name_or_path
    if not name:
        return task.AUTO_MODEL.from_config(config)
    if arguments.model_type not in OUR_TYPES:  # a published model: its head is made anew where it had other labels
        saved = AutoConfig.from_pretrained(name)
        check_fit(saved.to_dict(), arguments.model_config | {"model_type": arguments.model_type}, name)
        return task.AUTO_MODEL.from_pretrained(name, **settings, ignore_mismatched_sizes=True)
    model = task.AUTO_MODEL.from_pretrained(name)
    new = {key: settings[key] for key in OF_THE_DATA if key in settings}
    asked = own_names(type(model.config), {key: value for key, value in settings.items() if key not in new})
    asked |= arguments.model_config
    check_fit(model.config.to_dict(), asked | {"model_type": arguments.model_type}, name)
    model.config.update(new)
    return model


def new_config(
    arguments: RunArguments, settings: dict[str, Any], models: Sequence[type[PreTrainedConfig]]
) -> PreTrainedConfig:
    """The config of a new model; a key that the model does not have is an error that names the nearest one.

    `models` are the configurations that a task can train.
    """
    kinds = {kind.model_type: kind for kind in models}
    if arguments.model_type not in kinds:
        listed = ", ".join(sorted(kinds, key=lambda name: name not in OUR_TYPES))  # ours first
        raise ValueError(f"model_type = {arguments.model_type!r} is not known; it takes one of {listed}")
    kind = kinds[arguments.model_type]
    settings = own_names(kind, settings)
    known = set(inspect.signature(kind).parameters)
    for key in arguments.model_config:
        if key in settings:
            raise ValueError(f"model_config.{key} follows from the data ({settings[key]!r}); leave it out")
        if key not in known:
            message = unknown_key(f"model_config.{key}", {f"model_config.{name}" for name in known})
            raise ValueError(f"{message} (model_type {arguments.model_type!r})")
    return kind(**settings, **arguments.model_config)


def own_names(kind: type[PreTrainedConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that a model itself gives them: `input_size` is a WaveNet's `input_channels`."""
    return {kind.attribute_map.get(name, name): value for name, value in settings.items()}


def check_fit(saved: dict[str, Any], asked: dict[str, Any], name: str) -> None:
    """Refuse to go on from a saved model with settings that are not its own."""
    for key, value in asked.items():
        if saved.get(key) != value:
            raise ValueError(
                f"{name}: {key} = {saved.get(key)!r}, but the run asks for {value!r}; "
                "choose the settings that the model was trained with, or train a new one"
            )


def build_trainer(run: Run, model: PreTrainedModel, extractor: FeatureExtractionMixin, data: Any) -> SignalTrainer:
    """Trainer over the task's items, order and metrics."""
    return run.task.TRAINER(
        model=model,
        args=run.training,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=run.task.collator(extractor, run),
        sampler=run.task.sampler(data, run),
        compute_metrics=data.validation_metrics,
        processing_class=extractor,
        callbacks=early_stopping(run),
        **run.task.trainer_settings(data, run),
    )


def early_stopping(run: Run) -> list[EarlyStoppingCallback]:
    """The callback that stops a run whose validation no longer improves, if it was asked for."""
    patience = run.training.early_stopping_patience
    return [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []

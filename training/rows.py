"""Load the rows of a data set from disk, the Hub or S3, and record which files they came from."""

import fnmatch
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import datasets
import yaml
from datasets import load_dataset, load_dataset_builder
from huggingface_hub import hf_hub_download

from system.storage import S3FileManager, S3Object, is_remote
from training.settings import RunArguments
from training.streaming import GIGABYTE, stream_rows

logger = logging.getLogger(__name__)


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

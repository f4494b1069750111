"""Load the rows of a data set from disk, the Hub or S3, and record which files they came from."""

import fnmatch
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

import datasets
import datasets.config
import yaml
from accelerate import PartialState
from datasets import load_dataset_builder
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfFileSystem, hf_hub_download

from system.storage import S3FileManager, S3Object, is_remote
from system.text import mask_secrets
from training.checkpoints import sha256_of
from training.settings import RunArguments, check_folder
from training.streaming import GIGABYTE, READERS, stream_rows
from training.task import DataRecord

logger = logging.getLogger(__name__)


def use_storage(arguments: RunArguments) -> None:
    """Configure the S3 client and cache of this process as a run asks for."""
    settings: dict[str, Any] = {"storage_options": arguments.s3} if arguments.s3 else {}
    if arguments.streaming:
        settings["max_bytes"] = int(arguments.streaming_cache_gb * GIGABYTE)
    if settings:
        S3FileManager.shared(**settings)


def load_rows(
    arguments: RunArguments, columns: Sequence[str], streamed: Sequence[str] = (), recorded: bool = True
) -> tuple[datasets.Dataset, DataRecord]:
    """Load the rows of all splits of a data set, one after the other, and record where they came from.

    Tasks divide the rows themselves: data sets say in a column what they know of a split. With `streaming` the columns
    `streamed` stay on S3, see streaming.py. Only the main process, which writes the record, reads files for their
    digests, and only where the rows are `recorded`.
    """
    name, config = arguments.dataset, arguments.dataset_config
    check_folder(name)
    try:
        if arguments.streaming:
            rows, files = streamed_rows(arguments, streamed)
        else:
            rows, files = local_rows(arguments, digests=recorded and PartialState().is_main_process)
    except (FileNotFoundError, DatasetNotFoundError) as error:
        raise ValueError(
            f"dataset = {name!r}: {error}. It takes a folder such as hf_datasets/pmemo or a name on the Hub; "
            "raw data becomes one with `python -m hf_datasets.prepare`"
        ) from error
    except ValueError as error:
        raise ValueError(f"dataset = {name!r}, dataset_config = {config!r}: {error}") from error
    missing = [c for c in columns if c not in rows.column_names and not (arguments.streaming and c in streamed)]
    if missing:
        raise ValueError(
            f"dataset = {name!r} has no column {', '.join(missing)}; it has {', '.join(rows.column_names)}"
        )
    synthetic = any(rows.unique("synthetic"))
    if synthetic:
        logger.warning(
            "SYNTHETIC DATA: %s (%s) was made by a program, not recorded. Nothing learnt from it is about people.",
            name,
            rows.config_name,
        )
    return rows, DataRecord(mask_secrets(name), str(rows.config_name), by_name(files), len(rows), synthetic)


def by_name(digests: dict[str, str]) -> dict[str, str]:
    """Digests by the files' names, which start below the folder that all of them are in."""
    if not digests:
        return {}
    shared = os.path.commonpath([PurePath(file).parent for file in digests])
    return {PurePath(file).relative_to(shared).as_posix(): digests[file] for file in sorted(digests)}


def streamed_rows(arguments: RunArguments, streamed: Sequence[str]) -> tuple[datasets.Dataset, dict[str, str]]:
    """Return rows whose `streamed` columns stay on S3, and the digests of their files, which S3 lists as ETags."""
    config, shards = shards_on_s3(arguments)
    return stream_rows(config, shards, streamed), {file.url: file.etag for files in shards.values() for file in files}


def local_rows(arguments: RunArguments, digests: bool = True) -> tuple[datasets.Dataset, dict[str, str]]:
    """Return the rows of a folder, a Hub name or an s3:// prefix, whose files are copied; and their files' digests.

    Without `digests` no file is read for its digest alone.
    """
    if is_remote(arguments.dataset):
        config, shards = shards_on_s3(arguments)
        builder = builder_of_copies(config, shards)
    else:
        builder, shards = load_dataset_builder(arguments.dataset, arguments.dataset_config), {}
    builder.download_and_prepare()
    splits: Any = builder.as_dataset()
    rows = datasets.concatenate_datasets(list(splits.values()))
    listed = {file.url: file.etag for files in shards.values() for file in files}
    return rows, listed or (digests_of(files_of(builder, rows)) if digests else {})


def files_of(builder: datasets.DatasetBuilder, rows: datasets.Dataset) -> list[str]:
    """The files that rows were made from; for a Hub data set that is used offline, what `datasets` keeps of it."""
    found: Any = builder.config.data_files
    if found is None:
        return [file["filename"] for file in rows.cache_files]
    return [file for files in found.values() for file in files]


def digests_of(files: Sequence[str]) -> dict[str, str]:
    """The digests of files of this machine or the Hub; the Hub knows those of its own."""

    def digest(file: str) -> str:
        return HfFileSystem().info(file)["blob_id"] if file.startswith("hf://") else sha256_of(Path(file))

    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(files, pool.map(digest, files), strict=True))


def file_states(files: Sequence[str]) -> tuple[list[tuple[str, int, int | str]], dict[str, S3Object]]:
    """Path, size, and time of change or ETag of files, which tell versions apart; and the remote ones that are there.

    The time is that of the inode, which no copying program sets back. A file that is not there has the size 0.
    """
    remote = [file for file in files if is_remote(file)]
    there = S3FileManager.shared().describe_files(remote) if remote else {}

    def state(file: str) -> tuple[str, int, int | str]:
        if file in there:
            return file, there[file].size, there[file].etag
        if is_remote(file) or not os.path.exists(file):
            return file, 0, 0
        found = os.stat(file)
        return file, found.st_size, found.st_ctime_ns

    return [state(file) for file in files], there


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
        below = {file.url.removeprefix(f"{prefix}/"): file for file in listed}  # a prefix may hold [ ] * ? itself
        shards[entry["split"]] = [file for name, file in below.items() if fnmatch.fnmatchcase(name, entry["path"])]
        if not shards[entry["split"]]:
            raise ValueError(f"{prefix}/{entry['path']}: nothing is there; prepare the data again")
    return chosen[0]["config_name"], shards


def builder_of_copies(config: str, shards: dict[str, list[S3Object]]) -> datasets.DatasetBuilder:
    """A builder of rows from copies of objects, which are compared with their digests before it reads them."""

    def build() -> datasets.DatasetBuilder:
        copies = {split: [str(path) for path in copies_of(files)] for split, files in shards.items()}
        return load_dataset_builder("parquet", config, data_files=copies)

    builder = build()
    if Path(builder.cache_dir).exists():  # the rows were made before, and no copy is read again
        return builder
    paths = [copy_of(file) for files in shards.values() for file in files]
    with ThreadPoolExecutor(READERS) as pool:
        damaged = [path for path, whole in zip(paths, pool.map(is_whole, paths), strict=True) if not whole]
    for path in damaged:
        logger.warning("%s: this copy of an object was changed since it came; it is fetched again", path)
        path.unlink(missing_ok=True)  # another process may have done so
    return build() if damaged else builder


def copies_of(found: Sequence[S3Object]) -> list[Path]:
    """Objects as files in the cache of `datasets`.

    (`datasets` itself would ask twice for each object, not notice one that changes meanwhile, and refuse to read S3
    where HF_HUB_OFFLINE is set.)
    """
    files, targets = S3FileManager.shared(), {file: copy_of(file) for file in found}
    missing = [f for f, path in targets.items() if not path.exists() or path.stat().st_size != f.size]
    files.prefetch_files(missing)
    for file in missing:
        target = targets[file]
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}.part")
        with files.lease(file) as path:
            shutil.copyfile(path, draft)
        digest_file(draft).write_text(sha256_of(draft), encoding="utf-8")
        os.replace(digest_file(draft), digest_file(target))
        os.replace(draft, target)
    return list(targets.values())


def copy_of(file: S3Object) -> Path:
    """The place of an object's copy, another one for each content: an object may be replaced under its name."""
    key = hashlib.sha256(f"{file.url} {file.etag}".encode()).hexdigest()[:16]
    return Path(datasets.config.HF_DATASETS_CACHE) / "s3" / key / PurePath(file.url).name


def digest_file(copy: Path) -> Path:
    """The file with the digest of a copy."""
    return copy.with_name(f"{copy.name}.sha256")


def is_whole(copy: Path) -> bool:
    """Whether a copy is as it came."""
    noted = digest_file(copy)
    return noted.exists() and noted.read_text(encoding="utf-8") == sha256_of(copy)


def read_companion(arguments: RunArguments, config: str, file: str) -> dict[str, Any]:
    """A JSON that `prepare` wrote next to the Parquet files of a data set; that of its samples is in `sample/`."""
    name = arguments.dataset
    file = file if config == "full" else f"sample/{file}"
    if is_remote(name):
        path = S3FileManager.shared().download_file(f"{name.rstrip('/')}/{file}")
    elif Path(name).is_dir():
        path = Path(name) / file
    else:
        path = Path(hf_hub_download(name, file, repo_type="dataset"))
    if not Path(path).is_file():
        raise ValueError(f"{name} ({config}) has no {file} next to its data; prepare the data again")
    return json.loads(Path(path).read_text(encoding="utf-8"))

"""Convert a raw corpus to Parquet; `load_dataset("hf_datasets/<name>")` then loads it.

    python -m hf_datasets.prepare pmemo --raw_dir /data/PMEmo2019 --num_proc 8
    python -m hf_datasets.prepare pmemo --raw_dir /data/PMEmo2019 --check_only

Files are written in this order, so that a partial data set can never be loaded:

1. `data/<split>-<digest>-00003-of-00040.parquet`, each complete or absent. The digest covers the builder and the
   content of every raw file; a shard has a fixed number of inputs. A repeated run keeps finished shards.
2. `defects.csv`, with one line per defect, and the lists of the builder, such as the missing sounds.
3. `.huggingface.yaml`, which makes these files the default config `full`. `datasets` prefers it to the card's YAML.

Files with an older digest are deleted last. With `--output_dir`, a copy of the card is written there.

To add a data set, create a folder with `builder.py`, which defines `<Name>Builder` (see base_builder.py), and
`synthesize.py`, which defines `synthesize(folder, **options)` and `SAMPLES`, the options of each committed config, and
optionally `BUILD`, the builder's arguments for these configs. Add builder arguments for users to BUILDER_OPTIONS.
"""

import argparse
import errno
import functools
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from system.process import one_line_errors, parse_before_imports, return_freed_memory
from system.storage import OPTIONS, S3FileManager, check_options
from system.text import plural

from .names import BUILDER_OPTIONS, HERE, check_arguments, data_set_names


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hf_datasets.prepare",
        description="Convert a raw corpus to Parquet files that load_dataset('hf_datasets/<name>') loads.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("name", help=f"data set: {', '.join(data_set_names())}")
    parser.add_argument(
        "--raw_dir", metavar="FOLDER", help="folder or s3:// URL with the unpacked corpus, at any depth"
    )
    parser.add_argument(
        "--audio_root", metavar="FOLDER", help="folder or s3:// URL of the sounds, if the corpus does not include them"
    )
    parser.add_argument("--target", metavar="LABEL", nargs="+", help="labels to detect, by name or MID")
    for option, content in (("pos_strong", "target events"), ("neg_strong", "other events"), ("weak", "clips")):
        parser.add_argument(
            f"--{option}_paths",
            metavar="FILE",
            nargs="+",
            help=f"your lists of {content}, tsv or csv; see the card",
        )
    parser.add_argument(
        "--group_paths", metavar="FILE", nargs="+", help="tables that assign clips to groups; see the card"
    )
    parser.add_argument(
        "--check_audio", metavar="HOW", help="how to check each sound: headers, decode or none; None is headers"
    )
    parser.add_argument(
        "--embed_audio", action="store_true", default=None, help="store the sounds in the rows, not their paths"
    )
    parser.add_argument(
        "--embed_clips", action="store_true", default=None, help="store the clips in the rows, not their paths"
    )
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        help="folder or s3:// URL for data/, defects.csv and the card; None is hf_datasets/<name>",
    )
    parser.add_argument(
        "--s3", metavar="KEY=VALUE", nargs="+", default=[], help=f"S3 options: {', '.join(OPTIONS)}; no secrets"
    )
    parser.add_argument("--cache_dir", metavar="FOLDER", help="cache for remote files; None keeps no copies")
    parser.add_argument(
        "--num_proc", metavar="N", type=int, default=1, help="number of processes; does not change the result"
    )
    parser.add_argument(
        "--check_only",
        action="store_true",
        help="read everything, write nothing, print the defects by kind and each unreadable input; exit code 1 if "
        "there is one",
    )
    parser.add_argument(
        "--keep_unreadable", action="store_true", help="publish rows of unreadable inputs too, with their defects"
    )
    parser.add_argument(
        "--rebuild_samples", action="store_true", help="write the committed synthetic samples again, then stop"
    )
    parsed = parser.parse_args(arguments)
    if not parsed.rebuild_samples and parsed.raw_dir is None:
        parser.error("--raw_dir is required: the folder that the corpus was unpacked to")
    check_arguments(parsed.name, parsed.num_proc)
    parsed.s3 = _parse_options(parsed.s3)
    return parsed


def _parse_options(pairs: list[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--s3={pair}: must be key=value. Write for example profile=lab or anon=true.")
        options[key] = {"true": True, "false": False}.get(value.lower(), value)
    return check_options(options, "--s3")


if __name__ == "__main__":
    # Wrong arguments and --help are answered before the imports below, which take seconds.
    parse_before_imports(parse, "prepare")
    return_freed_memory()  # has to run before Arrow is imported, which chooses its allocator then

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tqdm import tqdm

from system.worker_pool import map_in_processes

from .base_builder import Builder
from .builders import open_builder
from .cards import CARD, POINTER, sample_configs, split_card, with_configs
from .defects import KINDS, defects_csv, defects_table
from .output import Bucket, Location, WriteError, open_location, write_bytes, write_text
from .raw_files import FetchError
from .samples import rebuild_samples
from .shards import (
    collect_defects,
    cut_inputs,
    defects_of,
    map_ahead,
    write_shard,
)

SHARD_NAME = re.compile(r"\w+-(?P<digest>[0-9a-f]{16})-\d{5}-of-\d{5}\.parquet")
# A file that never exists. The configs of an unfinished run point to it, so that its name is in the error of
# `load_dataset`.
UNFINISHED = "unfinished-run-prepare-again.parquet"
NAMED_INPUTS = 3  # unreadable inputs that the error names; --check_only prints all of them
Shard = tuple[str, Any, dict]  # name, the builder's `_generate_tables`, its arguments


def prepare(
    name: str,
    raw_dir: str,
    output_dir: str | None = None,
    num_proc: int = 1,
    keep_unreadable: bool = False,
    **options: Any,
) -> tuple[list[tuple[str, dict]], str, Counter[str]]:
    """Build and publish a data set; ValueError for bad input.

    Args:
        name: of the data set.
        raw_dir: folder or s3:// URL of the corpus.
        output_dir: folder or s3:// URL; None is hf_datasets/<name>.
        num_proc: number of processes, which does not change the result.
        keep_unreadable: whether to publish rows with refused kinds of defects.
        options: arguments of the builder, see BUILDER_OPTIONS.

    Returns:
        Its defects as (row id, defect) pairs, the builder's summary of the rows, and the number of rows per split.
    """
    output = open_location(output_dir or HERE / name)
    check_arguments(name, num_proc)
    card = output.read_text(CARD)
    if card is not None and not split_card(card)[0]:
        # Probably the README of a project, which `_publish` would overwrite.
        raise ValueError(f"{output.where(CARD)}: not the card of a data set. Choose another --output_dir.")
    with open_builder(name, raw_dir, **options) as builder:
        # After the builder has read the raw tree, so that bad input leaves no folder behind.
        output.make("data")
        with output.exclusive("data"):
            output.remove_unfinished("")
            _hide_unfinished(output)
            shards = _plan_shards(builder)
            defects = [("", defect) for defect in builder.raw_defects]
            try:
                defects += _write_shards(output, shards, builder, num_proc)
            except WriteError as error:
                raise _write_failure(error, output, shards, builder.raw_bytes) from error
            if not keep_unreadable:
                _refuse_unreadable(defects)
            files, summary = builder.lists(functools.partial(_read_rows, output, shards))
            for file, content in (builder.companions | files).items():
                write_bytes(output, file, content.encode() if isinstance(content, str) else content)
            _publish(output, builder, shards, defects)
            # Without columns, this reads only the footers of the files.
            row_counts = Counter()
            for split, table in _read_rows(output, shards, []):
                row_counts[split] += len(table)
    return defects, summary, row_counts


def check(name: str, raw_dir: str, num_proc: int = 1, **options: Any) -> list[tuple[str, dict]]:
    """Read every raw file, write nothing, and return the defects as (row id, defect) pairs."""
    check_arguments(name, num_proc)
    with open_builder(name, raw_dir, **options) as builder:
        defects = [("", defect) for defect in builder.raw_defects]
        jobs = [(builder._generate_tables, cut) for _, cuts in _cut_splits(builder) for cut in cuts]
        done = map_in_processes(collect_defects, jobs, num_proc, return_freed_memory, [builder.__module__])
        parts = dict(tqdm(done, total=len(jobs), desc=f"checking {name}", unit="shard"))
    return defects + [pair for i in range(len(jobs)) for pair in parts[i]]


def _read_rows(output: Location, shards: list[Shard], columns: list[str]) -> Iterator[tuple[str, pa.Table]]:
    """Yield the split of each finished shard, and these columns of it."""

    def read(shard: Shard) -> tuple[str, pa.Table]:
        # Not with Arrow's thread pool, which has one thread per core: they would all wait for S3.
        with output.open(shard[0]) as file:
            return Path(shard[0]).name.split("-")[0], pq.ParquetFile(file).read(columns=columns, use_threads=False)

    return map_ahead(read, shards)


def _cut_splits(builder: Builder) -> Iterator[tuple[str, list[dict]]]:
    for split in builder._split_generators(None):
        yield split.name, cut_inputs(split.gen_kwargs, builder.SHARD_INPUTS)


def _plan_shards(builder: Builder) -> list[Shard]:
    return [
        (f"data/{split}-{builder.hash}-{i:05d}-of-{len(cuts):05d}.parquet", builder._generate_tables, cut)
        for split, cuts in _cut_splits(builder)
        for i, cut in enumerate(cuts)
    ]


def _write_shards(output: Location, shards: list[Shard], builder: Builder, num_proc: int) -> list[tuple[str, dict]]:
    """Write the missing shards, and return the (row id, defect) pairs of all shards."""
    sizes = output.sizes("data")
    finished = [shard for shard in shards if shard[0] in sizes]
    missing = [(output, *shard, builder.ROWS_PER_GROUP) for shard in shards if shard[0] not in sizes]
    defects: dict[str, list[tuple[str, dict]]] = {}  # by name of the shard
    title = f"preparing {builder.dataset_name}"
    with tqdm(total=len(shards), initial=len(finished), desc=title, unit="shard") as bar:
        if num_proc == 1 and isinstance(output, Bucket):
            # Two threads: one makes the next shard while the other uploads.
            written = enumerate(map_ahead(lambda job: write_shard(*job), missing, threads=2))
        else:
            written = map_in_processes(write_shard, missing, num_proc, return_freed_memory, [builder.__module__])
        for i, pairs in written:
            defects[missing[i][1]] = pairs
            bar.update()
    tables = _read_rows(output, finished, [next(iter(builder.info.features)), "defects"])
    defects |= {name: defects_of(table) for (name, *_), (_, table) in zip(finished, tables, strict=True)}
    return [pair for name, *_ in shards for pair in defects[name]]


def _refused_inputs(defects: list[tuple[str, dict]]) -> list[str]:
    return [f"{row_id} {d['what']} ({d['detail']})".strip() for row_id, d in defects if KINDS[d["what"]].refused]


def _refuse_unreadable(defects: list[tuple[str, dict]]) -> None:
    refused = _refused_inputs(defects)
    if refused:
        more = f"; and {len(refused) - NAMED_INPUTS} more" if len(refused) > NAMED_INPUTS else ""
        raise ValueError(
            f"{plural(len(refused), 'input')} cannot be read: {'; '.join(refused[:NAMED_INPUTS])}{more}. Nothing was "
            "published. Fix the data and run this again (finished work is kept), or add --keep_unreadable to publish "
            "these rows with their defects."
        )


def _publish(output: Location, builder: Builder, shards: list[Shard], defects: list[tuple[str, dict]]) -> None:
    name, digest = builder.dataset_name, builder.hash
    write_text(output, "defects.csv", defects_csv(defects, builder.ROW))
    splits = dict.fromkeys(Path(shard).name.split("-")[0] for shard, _, _ in shards)
    files = [{"split": split, "path": f"data/{split}-{digest}-*.parquet"} for split in splits]
    # `full` comes first: `datasets` infers the file type of all configs from the first one, whose files must exist.
    configs = [{"config_name": "full", "default": True, "data_files": files}, *sample_configs(output)]
    # The committed card is never changed: it lists the samples, and git would show a diff after each `prepare`.
    if not output.same_as(HERE / name):
        card = output.read_text(CARD) or (HERE / name / CARD).read_text()
        write_text(output, CARD, with_configs(card, configs))
    write_text(output, POINTER, yaml.safe_dump({"configs": configs}, sort_keys=False))
    # Only now: until the pointer names the new shards, `load_dataset` needs the old ones.
    output.remove(
        shard
        for shard in output.sizes("data")
        if (match := SHARD_NAME.fullmatch(Path(shard).name)) and match["digest"] != digest
    )


def _hide_unfinished(output: Location) -> None:
    """Keep `load_dataset` from loading the shards of a first, unfinished run."""
    # Without configs, `load_dataset` loads every Parquet file in the folder.
    if output.has(POINTER) or split_card(output.read_text(CARD) or "")[0].get("configs"):
        return
    unfinished = {"configs": [{"config_name": "full", "data_files": UNFINISHED}]}
    write_text(output, POINTER, yaml.safe_dump(unfinished))


def _write_failure(error: WriteError, output: Location, shards: list[Shard], raw_bytes: int) -> ValueError:
    sizes = output.sizes("data")
    finished = [sizes[name] for name, _, _ in shards if name in sizes]
    needed = max(raw_bytes - sum(finished), 0) / 1e6  # MB; prepared data are about as large as the raw data
    remedy = "Free some space, or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Choose"
    return ValueError(
        f"{error.filename}: cannot be written: {error.strerror}. {len(finished)} of {plural(len(shards), 'shard')} "
        f"are finished and kept; the rest needs up to {needed:.0f} MB. {remedy} another --output_dir, and run this "
        "again."
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input exits with one line on stderr and code 1."""
    with one_line_errors("prepare", "stopped. Finished work is kept: run this again to continue."):
        try:
            _run(parse(arguments))
        except FetchError as error:
            raise ValueError(str(error)) from error
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process was killed, possibly because memory ran out. Finished work is kept: run this again "
                "with a smaller --num_proc."
            ) from error


def _run(args: argparse.Namespace) -> None:
    if args.s3 or args.cache_dir:
        S3FileManager.shared(storage_options=args.s3, cache_dir=args.cache_dir)
    if args.rebuild_samples:
        return rebuild_samples(args.name)
    options = {option: getattr(args, option) for option in BUILDER_OPTIONS}
    if args.check_only:
        defects = check(args.name, args.raw_dir, args.num_proc, **options)
        refused = _refused_inputs(defects)
        print(defects_table(defects), *refused, sep="\n")
        sys.exit(int(bool(refused)))
    defects, summary, row_counts = prepare(
        args.name, args.raw_dir, args.output_dir, args.num_proc, args.keep_unreadable, **options
    )
    folder = args.output_dir or f"hf_datasets/{args.name}"
    splits = ", ".join(f"{split} {count:,}" for split, count in row_counts.items())
    written = f"written: {plural(row_counts.total(), 'row')} ({splits}) in {folder}"
    next_step = f"next: accelerate launch run_train.py CONFIG --dataset {shlex.quote(folder)}"
    print(*filter(None, (defects_table(defects), summary, written, next_step)), sep="\n")


if __name__ == "__main__":
    main()

"""Turn a raw corpus into Parquet that `load_dataset("hf_datasets/<name>")` serves from then on.

    python -m hf_datasets.prepare pmemo --raw_dir /data/PMEmo2019 --num_proc 8
    python -m hf_datasets.prepare pmemo --raw_dir /data/PMEmo2019 --check_only

What is written, in this order, so that nothing half is ever loadable:

1. `data/<split>-<digest>-00003-of-00040.parquet`: each complete or not there. The digest covers the builder and the
   content of every raw file; a shard is a fixed number of inputs. A finished shard is kept when the run is repeated.
2. `defects.csv`: every defect found, a line each; and the builder's own lists, such as sounds that are missing.
3. `.huggingface.yaml`: makes these files the default config `full`. `datasets` reads it over the card's YAML.

Only then are the files of older digests removed. Writing elsewhere (`--output_dir`) puts a copy of the card there.

A data set is a folder with `builder.py`, which holds a `<Name>Builder` (see base_builder.py), and `synthesize.py` with
`synthesize(folder, **options)` and `SAMPLES`, the options of each committed config; it may have `BUILD`, arguments of
the builder for these configs. Arguments of a builder that users may give are in BUILDER_OPTIONS.
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

from system.process import answer_at_once, give_back_freed_memory, one_line_errors
from system.storage import OPTIONS, S3FileManager, check_options
from system.text import plural

from .names import BUILDER_OPTIONS, HERE, check_arguments, data_set_names


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hf_datasets.prepare",
        description="Turn a raw corpus into Parquet files that load_dataset('hf_datasets/<name>') serves.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("name", help=f"the data set: one of {', '.join(data_set_names())}")
    parser.add_argument(
        "--raw_dir", metavar="FOLDER", help="the folder or s3:// URL that the corpus was unpacked to, at any depth"
    )
    parser.add_argument(
        "--audio_root", metavar="FOLDER", help="folder or s3:// URL of the sounds, where the corpus comes without"
    )
    parser.add_argument("--target", metavar="LABEL", nargs="+", help="labels, by name or MID, that are looked for")
    for kind, what in (("pos_strong", "the target's events"), ("neg_strong", "other events"), ("weak", "clips")):
        parser.add_argument(
            f"--{kind}_paths", metavar="FILE", nargs="+", help=f"your own lists of {what}, tsv or csv; see the card"
        )
    parser.add_argument(
        "--group_paths", metavar="FILE", nargs="+", help="tables of clips and what they are alike by; see the card"
    )
    parser.add_argument(
        "--check_audio", metavar="HOW", help="what is opened of each sound: headers, decode or none; None is headers"
    )
    parser.add_argument(
        "--embed_audio", action="store_true", default=None, help="put the sounds into the rows, not their paths"
    )
    parser.add_argument(
        "--embed_clips", action="store_true", default=None, help="put the clips into the rows, not their paths"
    )
    parser.add_argument(
        "--output_dir",
        metavar="FOLDER",
        help="folder or s3:// URL for data/, defects.csv and the card; None is hf_datasets/<name>",
    )
    parser.add_argument(
        "--s3", metavar="KEY=VALUE", nargs="+", default=[], help=f"how S3 is reached: {', '.join(OPTIONS)}; no secrets"
    )
    parser.add_argument("--cache_dir", metavar="FOLDER", help="where copies of remote files stay; None keeps none")
    parser.add_argument(
        "--num_proc", metavar="N", type=int, default=1, help="processes; the result is always the same"
    )
    parser.add_argument(
        "--check_only",
        action="store_true",
        help="read all, write nothing, print the defects by kind and each unreadable input; exit 1 if there is one",
    )
    parser.add_argument(
        "--keep_unreadable", action="store_true", help="publish rows of unreadable inputs too, flagged as such"
    )
    parser.add_argument(
        "--rebuild_samples", action="store_true", help="write the committed synthetic sample configs again, then stop"
    )
    parsed = parser.parse_args(arguments)
    if not parsed.rebuild_samples and parsed.raw_dir is None:
        parser.error("--raw_dir is needed: the folder that the corpus was unpacked to")
    check_arguments(parsed.name, parsed.num_proc)
    parsed.s3 = _parse_options(parsed.s3)
    return parsed


def _parse_options(pairs: list[str]) -> dict[str, Any]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--s3 {pair}: it takes key=value, such as profile=lab or anon=true")
        options[key] = {"true": True, "false": False}.get(value.lower(), value)
    return check_options(options, "--s3")


if __name__ == "__main__":
    answer_at_once(parse, "prepare")
    give_back_freed_memory()  # before Arrow is imported

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tqdm import tqdm

from system.worker_pool import map_in_processes

from .base_builder import Builder
from .builders import open_builder
from .cards import CARD, POINTER, sample_configs, split_card, with_configs
from .defects import KINDS, defects_csv, defects_table
from .output import Bucket, Place, WriteError, place, write_bytes, write_text
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
UNFINISHED = "unfinished-run-prepare-again.parquet"  # never exists: loading a folder that points to it says so
NAMED_INPUTS = 3  # unreadable inputs named in the error; --check_only names them all


def prepare(
    name: str,
    raw_dir: str,
    output_dir: str | None = None,
    num_proc: int = 1,
    keep_unreadable: bool = False,
    **options: Any,
) -> tuple[list[tuple[str, dict]], str, Counter[str]]:
    """Build and publish a data set.

    Returns its defects as (row, defect) pairs, what the builder says of its rows, and how many rows each split has.

    Bad input is a ValueError. `options` are the builder's, those of BUILDER_OPTIONS.
    """
    output = place(output_dir or HERE / name)
    check_arguments(name, num_proc)
    card = output.read_text(CARD)
    if card is not None and not split_card(card)[0]:
        where = output.where(CARD)
        raise ValueError(f"{where} is no data set's card and would be changed; give another --output_dir")
    with open_builder(name, raw_dir, **options) as builder:
        output.make("data")
        with output.only_one("data"):
            output.remove_unfinished("")
            _hide_unfinished(output)
            shards = _plan_shards(builder)
            found = [("", defect) for defect in builder.raw_defects]
            try:
                found += _write_shards(output, shards, builder, num_proc)
            except WriteError as error:
                raise _explained(error, output, shards, builder.raw_bytes) from error
            if not keep_unreadable:
                _refuse_unreadable(found)
            files, said = builder.lists(functools.partial(_read_rows, output, shards))
            for file, content in (builder.companions | files).items():
                write_bytes(output, file, content.encode() if isinstance(content, str) else content)
            _publish(output, builder, shards, found)
            rows = Counter()
            for split, table in _read_rows(output, shards, []):
                rows[split] += len(table)
    return found, said, rows


def check(name: str, raw_dir: str, num_proc: int = 1, **options: Any) -> list[tuple[str, dict]]:
    """Read every raw file and return the defects as (row, defect) pairs; nothing is written."""
    check_arguments(name, num_proc)
    with open_builder(name, raw_dir, **options) as builder:
        found = [("", defect) for defect in builder.raw_defects]
        jobs = [(builder._generate_tables, cut) for _, cuts in _cut_splits(builder) for cut in cuts]
        done = map_in_processes(collect_defects, jobs, num_proc, give_back_freed_memory, [builder.__module__])
        parts = dict(tqdm(done, total=len(jobs), desc=f"checking {name}", unit="shard"))
    return found + [pair for i in range(len(jobs)) for pair in parts[i]]


def _read_rows(
    output: Place, shards: list[tuple[str, Any, dict]], columns: list[str]
) -> Iterator[tuple[str, pa.Table]]:
    """Columns of each finished shard, and its split."""

    def read(shard: tuple[str, Any, dict]) -> tuple[str, pa.Table]:
        # Arrow's own threads are few, and would wait for S3
        with output.open(shard[0]) as file:
            return Path(shard[0]).name.split("-")[0], pq.ParquetFile(file).read(columns=columns, use_threads=False)

    return map_ahead(read, shards)


def _cut_splits(builder: Builder) -> Iterator[tuple[str, list[dict]]]:
    for split in builder._split_generators(None):
        yield split.name, cut_inputs(split.gen_kwargs, builder.SHARD_INPUTS)


def _plan_shards(builder: Builder) -> list[tuple[str, Any, dict]]:
    """(name, builder's `_generate_tables`, its inputs) of every shard."""
    return [
        (f"data/{split}-{builder.hash}-{i:05d}-of-{len(cuts):05d}.parquet", builder._generate_tables, cut)
        for split, cuts in _cut_splits(builder)
        for i, cut in enumerate(cuts)
    ]


def _write_shards(
    output: Place, shards: list[tuple[str, Any, dict]], builder: Builder, num_proc: int
) -> list[tuple[str, dict]]:
    """Write the shards that are not there yet; returns the (row id, defect) pairs of all."""
    sizes = output.sizes("data")
    finished = [shard for shard in shards if shard[0] in sizes]
    missing = [(output, *shard, builder.ROWS_PER_GROUP) for shard in shards if shard[0] not in sizes]
    found: dict[str, list[tuple[str, dict]]] = {}
    title = f"preparing {builder.dataset_name}"
    with tqdm(total=len(shards), initial=len(finished), desc=title, unit="shard") as bar:
        if num_proc == 1 and isinstance(output, Bucket):  # the next is made while one is uploaded
            written = enumerate(map_ahead(lambda job: write_shard(*job), missing, threads=2))
        else:
            written = map_in_processes(write_shard, missing, num_proc, give_back_freed_memory, [builder.__module__])
        for i, pairs in written:
            found[missing[i][1]] = pairs
            bar.update()
    kept = _read_rows(output, finished, [next(iter(builder.info.features)), "defects"])
    found |= {name: defects_of(table) for (name, *_), (_, table) in zip(finished, kept, strict=True)}
    return [pair for name, *_ in shards for pair in found[name]]


def _refused(found: list[tuple[str, dict]]) -> list[str]:
    return [f"{song} {d['what']} ({d['detail']})".strip() for song, d in found if KINDS[d["what"]].refused]


def _refuse_unreadable(found: list[tuple[str, dict]]) -> None:
    refused = _refused(found)
    if refused:
        more = f"; and {len(refused) - NAMED_INPUTS} more" if len(refused) > NAMED_INPUTS else ""
        raise ValueError(
            f"{plural(len(refused), 'input')} cannot be read: {'; '.join(refused[:NAMED_INPUTS])}{more}. Fix "
            "the data and run this again, or add --keep_unreadable to publish such rows flagged (nothing is published "
            "now, finished work is kept)"
        )


def _publish(output: Place, builder: Builder, shards: list[tuple[str, Any, dict]], found: list) -> None:
    name, digest = builder.dataset_name, builder.hash
    write_text(output, "defects.csv", defects_csv(found, builder.ROW))
    splits = dict.fromkeys(Path(shard).name.split("-")[0] for shard, _, _ in shards)
    files = [{"split": split, "path": f"data/{split}-{digest}-*.parquet"} for split in splits]
    # `full` comes first: `datasets` takes the file type of all configs from the first one, which must exist
    configs = [{"config_name": "full", "default": True, "data_files": files}, *sample_configs(output)]
    if not output.same_as(HERE / name):
        card = output.read_text(CARD) or (HERE / name / CARD).read_text()
        write_text(output, CARD, with_configs(card, configs))
    write_text(output, POINTER, yaml.safe_dump({"configs": configs}, sort_keys=False))
    output.remove(
        shard
        for shard in output.sizes("data")
        if (match := SHARD_NAME.fullmatch(Path(shard).name)) and match["digest"] != digest
    )


def _hide_unfinished(output: Place) -> None:
    """Keep `load_dataset` from taking the shards of a first, unfinished run for the data set.

    A folder without a card's configs would be loaded by what lies in it.
    """
    if output.has(POINTER) or split_card(output.read_text(CARD) or "")[0].get("configs"):
        return
    unfinished = {"configs": [{"config_name": "full", "data_files": UNFINISHED}]}
    write_text(output, POINTER, yaml.safe_dump(unfinished))


def _explained(error: WriteError, output: Place, shards: list[tuple[str, Any, dict]], raw_bytes: int) -> ValueError:
    sizes = output.sizes("data")
    finished = [sizes[name] for name, _, _ in shards if name in sizes]
    needed = max(raw_bytes - sum(finished), 0) / 1e6
    room = "free space or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return ValueError(
        f"cannot write {error.filename}: {error.strerror}; {len(finished)} of {plural(len(shards), 'shard')} finished "
        f"and kept, up to {needed:.0f} MB more are needed there; {room}give another --output_dir, then run this again"
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line; bad input ends in one line on stderr and exit code 1."""
    with one_line_errors("prepare", "stopped. Finished work is kept: run this again to continue."):
        try:
            _run(parse(arguments))
        except FetchError as error:
            raise ValueError(str(error)) from error
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process was killed (out of memory?); finished work is kept, run this again with a smaller "
                "--num_proc"
            ) from error


def _run(args: argparse.Namespace) -> None:
    if args.s3 or args.cache_dir:
        S3FileManager.shared(storage_options=args.s3, cache_dir=args.cache_dir)
    if args.rebuild_samples:
        return rebuild_samples(args.name)
    options = {option: getattr(args, option) for option in BUILDER_OPTIONS}
    if args.check_only:
        found = check(args.name, args.raw_dir, args.num_proc, **options)
        print(defects_table(found), *_refused(found), sep="\n")
        sys.exit(int(bool(_refused(found))))
    found, said, rows = prepare(
        args.name, args.raw_dir, args.output_dir, args.num_proc, args.keep_unreadable, **options
    )
    where = args.output_dir or f"hf_datasets/{args.name}"
    splits = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    written = f"written: {plural(rows.total(), 'row')} ({splits}) in {where}"
    following = f"next: accelerate launch run_train.py CONFIG --dataset {shlex.quote(where)}"
    print(*filter(None, (defects_table(found), said, written, following)), sep="\n")


if __name__ == "__main__":
    main()

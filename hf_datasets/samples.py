"""Build the synthetic samples that are committed with each data set."""

import functools
import importlib
import tempfile
from pathlib import Path

import yaml

from .builders import open_builder
from .cards import CARD, POINTER, with_configs
from .names import HERE
from .output import Folder, write_text
from .shards import write_parquet


def build_sample(name: str, config: str, folder: Path) -> list[Path]:
    """Synthesize one committed config into `folder`, one Parquet file per split, and return the files' paths."""
    synthesize = importlib.import_module(f"hf_datasets.{name}.synthesize")
    paths = []
    with tempfile.TemporaryDirectory() as raw_dir:
        origin = synthesize.synthesize(Path(raw_dir), **synthesize.SAMPLES[config])
        with open_builder(name, raw_dir, **getattr(synthesize, "BUILD", {})) as builder:
            schema = builder.info.features.arrow_schema
            schema = schema.with_metadata(schema.metadata | {"synthesized_by": origin})
            for split in builder._split_generators(None):
                tables = [table for _, table in builder._generate_tables(**split.gen_kwargs)]
                # The hash is in the name because `datasets` caches by path and would otherwise serve stale rows.
                paths.append(folder / f"{config}-{split.name}-{builder.hash}.parquet")
                write = functools.partial(
                    write_parquet, tables=tables, schema=schema, rows_per_group=builder.ROWS_PER_GROUP
                )
                Folder(folder).write(paths[-1].name, write)
            for file, text in builder.companions.items():
                write_text(Folder(folder), file, text)
    return paths


def rebuild_samples(name: str) -> None:
    """Rewrite the committed samples of a data set, list them in its card and delete the old files."""
    configs, sample_files = [], []
    folder = HERE / name / "sample"
    folder.mkdir(exist_ok=True)
    for config in importlib.import_module(f"hf_datasets.{name}.synthesize").SAMPLES:
        paths = build_sample(name, config, folder)
        files = [{"split": path.name.split("-")[1], "path": f"sample/{path.name}"} for path in paths]
        configs.append({"config_name": config, "data_files": files} | ({} if configs else {"default": True}))
        sample_files += paths
    here = Folder(HERE / name)
    write_text(here, CARD, with_configs(here.read_text(CARD), configs))
    pointer = here.read_text(POINTER)
    if pointer is not None:  # `prepare` was run here, and its pointer repeats the file names of the samples
        full = [config for config in yaml.safe_load(pointer)["configs"] if config["config_name"] == "full"]
        samples = [{key: value for key, value in config.items() if key != "default"} for config in configs]
        write_text(here, POINTER, yaml.safe_dump({"configs": full + samples}, sort_keys=False))
    here.remove(f"sample/{path.name}" for path in folder.glob("*.parquet") if path not in sample_files)

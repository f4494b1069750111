"""Run run_train.py without dropout and record what this rank did; test_cluster.py starts it in each rank.

    python -m tests.helpers.cluster_run <record.json> configs/eda_tcn.json --max_steps 3

The record has `served`, the (item, seed) pairs of training in the order in which they were read; `losses` of the
steps; and `mapped`, the number of rows that went through `Dataset.map` because they were not in the cache, which is
next to the record.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import datasets
from torch import nn

import run_train


def main(record: Path, argv: list[str]) -> None:
    """Train, score and save, then write the record."""
    datasets.config.HF_DATASETS_CACHE = record.parent / "cache"
    served: list[tuple[int, int]] = []
    mapped: list[int] = []
    trainers: list[Any] = []
    build, map_rows = run_train.build_trainer, datasets.Dataset._map_single

    def build_recording(run: Any, model: nn.Module, extractor: Any, data: Any) -> Any:
        for module in model.modules():
            if isinstance(module, nn.Dropout):  # also in encoders, whose configs have separate dropout settings
                module.p = 0.0
        data_class, read = type(data.train), type(data.train).__getitem__

        def read_recording(dataset: Any, item: Any) -> Any:
            if isinstance(item, tuple):  # only samplers, which are for training, ask for (item, seed)
                served.append(item)
            return read(dataset, item)

        data_class.__getitem__ = read_recording
        trainers.append(build(run, model, extractor, data))
        return trainers[0]

    @functools.wraps(map_rows)
    def map_recording(*args: Any, **kwargs: Any) -> Any:
        mapped.append(len(kwargs["shard"]))
        return map_rows(*args, **kwargs)

    run_train.build_trainer = build_recording
    datasets.Dataset._map_single = staticmethod(map_recording)
    run_train.main(argv)
    losses = [entry["loss"] for entry in trainers[0].state.log_history if "loss" in entry]
    record.write_text(json.dumps({"served": served, "losses": losses, "mapped": sum(mapped)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

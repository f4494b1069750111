"""Run by tests/test_cluster.py, by each rank: run_train.py without dropout, and a record of what the rank did.

    python -m tests.helpers.cluster_run <notes.json> configs/eda_tcn.json --max_steps 3

`served` are the (item, seed) pairs of training in the order in which they were read, `losses` those of the steps,
`made` the rows that went through `Dataset.map`, which were not found on the disk: in a cache beside the notes.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import datasets
from torch import nn

import run_train


def main(notes: Path, argv: list[str]) -> None:
    """Train, score and save; then the notes."""
    datasets.config.HF_DATASETS_CACHE = notes.parent / "cache"
    served: list[tuple[int, int]] = []
    made: list[int] = []
    trainers: list[Any] = []
    build, make = run_train.build_trainer, datasets.Dataset._map_single

    def build_noting(run: Any, model: nn.Module, extractor: Any, data: Any) -> Any:
        for module in model.modules():
            if isinstance(module, nn.Dropout):  # also those of encoders that come with a config of their own
                module.p = 0.0
        kind, read = type(data.train), type(data.train).__getitem__

        def read_noting(dataset: Any, item: Any) -> Any:
            if isinstance(item, tuple):  # named by a sampler: an item of training
                served.append(item)
            return read(dataset, item)

        kind.__getitem__ = read_noting
        trainers.append(build(run, model, extractor, data))
        return trainers[0]

    @functools.wraps(make)
    def make_noting(*args: Any, **kwargs: Any) -> Any:
        made.append(len(kwargs["shard"]))
        return make(*args, **kwargs)

    run_train.build_trainer = build_noting
    datasets.Dataset._map_single = staticmethod(make_noting)
    run_train.main(argv)
    losses = [entry["loss"] for entry in trainers[0].state.log_history if "loss" in entry]
    notes.write_text(json.dumps({"served": served, "losses": losses, "made": sum(made)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

"""Explain why the detection sampler drew each window of a batch.

    python -m launch.explain_plan configs/baby_cry.json --epoch 3 --batch 17

Any config key may follow. `--checkpoint outputs/baby_cry/checkpoint-120` uses the hard negatives of that run; without
it, tier B is filled as in the first epoch. In step k, rank r trains on batch k * ranks + r.
"""

import argparse
import sys
from pathlib import Path

from launch.settings import read_settings
from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this program, and the config keys."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.explain_plan", description="Explain why each window of a batch was drawn."
    )
    parser.add_argument("config", help="Config of a detection run.")
    parser.add_argument("--epoch", type=int, default=0, help="Epoch, from 0; by default 0.")
    parser.add_argument("--batch", type=int, default=0, help="Batch, from 0, over all ranks; by default 0.")
    parser.add_argument("--ranks", type=int, default=1, help="Number of processes of the run; by default 1.")
    parser.add_argument("--checkpoint", type=Path, help="Checkpoint folder with the hard negatives to draw from.")
    arguments, rest = parser.parse_known_args(argv)
    read_settings([arguments.config, *rest])  # raises for wrong keys
    return arguments, rest


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

import numpy as np
import pyarrow as pa

from launch.run import parse_run
from media.audioset import Labels
from tasks.detection.data import clip_pools
from tasks.detection.items import KIND_NAMES
from tasks.detection.pools import ClipPools
from tasks.detection.sampler import TwoTierBatchSampler
from tasks.detection.task import DetectionTask
from tasks.detection.trainer import STATE_FILE, read_state
from training.rows import load_rows, use_storage


def explanations(
    sampler: TwoTierBatchSampler, pools: ClipPools, table: pa.Table, labels: Labels, batch: int
) -> list[str]:
    """Return two lines per item of the batch: the tier, clip, window and labels, and the reason for the draw.

    Args:
        table: rows of the data set, with the columns clip_id and labels.
    """
    lines = []
    for position in range(sampler.batch_size):
        drawn = sampler.explain(batch, position)
        item = pools.items.take(np.array([drawn["item"]]))
        row = table.slice(int(item.clip[0]), 1).to_pylist()[0]
        label = labels.names[int(item.label[0]) if drawn["label"] is None else drawn["label"]]
        # Items without a start are windows that may begin anywhere in the clip.
        place = "anywhere" if np.isnan(item.start[0]) else f"{item.start[0]:.2f}-{item.end[0]:.2f} s"
        names = "; ".join(labels.names[code] for code in row["labels"] or [])
        description = f"{KIND_NAMES[item.kind[0]]}: {label}  [{names}]"
        lines.append(f"{position:3}  {drawn['tier']:8}  {row['clip_id']}  {place:14}  {description}")
        lines.append(f"     {drawn['why']}; item {drawn['item']}, seed {drawn['seed']}")
    return lines


def main(argv: list[str]) -> None:
    """Build the sampler as run_train.py does, and print one batch."""
    arguments, rest = parse(argv)
    run = parse_run([arguments.config, *rest])
    if not isinstance(run.task, DetectionTask):
        task = run.arguments.task
        raise ValueError(
            f"{arguments.config}: task={task!r}: does not use the two-tier sampler. Give a detection config."
        )
    use_storage(run.arguments)
    rows, _ = load_rows(run.arguments, run.task.columns, recorded=False)
    labels, pools = clip_pools(rows, run)
    # The seed and the batch size must be those of the run, because the plan depends on both.
    size, seed = run.training.per_device_train_batch_size, run.training.seed
    sampler = TwoTierBatchSampler.from_pools(pools, run.settings.sampler, size, seed, arguments.ranks)
    if arguments.checkpoint:
        sampler.load_state_dict(read_state(arguments.checkpoint / STATE_FILE)["plan"])
    sampler.set_epoch(arguments.epoch)
    table = rows.select_columns(["clip_id", "labels"]).data.table
    lines = explanations(sampler, pools, table, labels, arguments.batch)
    title = f"epoch {sampler.epoch}, batch {arguments.batch} of {len(sampler)}"
    print(title, *lines, sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

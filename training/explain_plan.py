"""Why each window of a batch was drawn, by the plan of a config.

    python -m training.explain_plan configs/baby_cry.json --epoch 3 --batch 17

Any key of the config may follow, and `--checkpoint outputs/baby_cry/checkpoint-120` takes that run's hard negatives:
without it tier B is filled as in a run's first epoch.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from training.arguments import one_line_errors, parse_run
from training.build import build_extractor, load_rows
from training.target_trainer import STATE_FILE, read_part
from training.two_tier import TwoTierBatchSampler


def explanations(sampler: TwoTierBatchSampler, data: object, batch: int) -> list[str]:
    """A line a slot of the batch: its tier, the clip, the window's label and place, and why."""
    ids = data.rows.select_columns(["clip_id"]).data.table["clip_id"]
    lines = []
    for position in range(sampler.batch_size):
        why = sampler.explain(batch, position)
        item = data.pools.items.take(np.array([why["item"]]))
        place = "anywhere" if np.isnan(item.start[0]) else f"{item.start[0]:.2f} to {item.end[0]:.2f} s"
        label = data.labels.names[int(item.label[0] if why["label"] is None else why["label"])]
        lines.append(f"{position:3} {why['tier']:8} {ids[int(item.clip[0])].as_py()} {place}, {label}: {why['why']}")
    return lines


def main(argv: list[str]) -> None:
    """Build the plan as a run does, and print one batch of it."""
    parser = argparse.ArgumentParser(prog="python -m training.explain_plan", description=__doc__)
    parser.add_argument("config", help="The config of a run, and any of its keys after it.")
    parser.add_argument("--epoch", type=int, default=0, help="Counted from 0.")
    parser.add_argument("--batch", type=int, default=0, help="Of all ranks, counted from 0.")
    parser.add_argument("--checkpoint", type=Path, default=None, help="A checkpoint, for its hard negatives.")
    options, rest = parser.parse_known_args(argv)
    run = parse_run([options.config, *rest])
    if run.arguments.task != "detection":
        raise ValueError(f"{options.config}: task {run.arguments.task!r} has no plan of tiers; give one of detection")
    rows = load_rows(run.arguments, run.task.COLUMNS)
    data = run.task.prepare(rows, build_extractor(run.arguments, **run.task.feature_settings(run)), run)
    sampler = run.task.sampler(data, run)(run.training.train_batch_size)
    if options.checkpoint is not None:
        sampler.load_state_dict(read_part(options.checkpoint / STATE_FILE, "plan"))
    sampler.set_epoch(options.epoch)
    print(*explanations(sampler, data, options.batch), sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

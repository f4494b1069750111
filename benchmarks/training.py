"""Overhead of the Trainer: steps per second of `configs/eda_tcn.json`, compared with a bare PyTorch loop.

    python -m benchmarks.training [--full]
    python -m benchmarks.training --settings [--full]

Both train the same new model on the same windows in the same order, with the same optimizer, schedule and clipping.
The bare loop gets finished batches, so it does no reading, windowing or padding. Evaluation, logging and checkpoints
are off. `data_wait_share` is the share of the Trainer's time that steps wait for their batches.

`--settings` (some minutes) instead trains configs with one setting changed, in turn with the unchanged config. The
first twenty steps are not timed. It also prints the time of the first step, in which torch.compile does most of its
work, and the time until data and model are ready, in which cache_features does its work; both from the first round,
when all caches are empty.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import datasets
import torch
from datasets.utils.logging import disable_progress_bar
from transformers import TrainerCallback, get_scheduler

from benchmarks.timing import Timing, print_ratio, print_table, print_value, ratio
from launch.run import parse_run
from training.build import build_model, build_trainer, set_up_process
from training.rows import load_rows
from training.task import Run

WARMUP_STEPS, STEPS = 20, 200  # STEPS are timed after the warm-up
OFF = (
    "--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none",
    "--logging_strategy", "no", "--disable_tqdm", "true",
)  # fmt: skip
# cache_features applies to frozen encoders only.
FROZEN = ("--model_config.freeze_text", "true", "--model_config.freeze_video", "true")
# Config -> number of timed steps, arguments for all its runs, and the settings to try.
SETTINGS = {
    "eda_tcn": (
        STEPS, (), ("torch_compile true", "bf16 true", "optim adamw_torch", "dataloader_num_workers 1"),
    ),
    "baby_cry": (40, (), ("dataloader_num_workers 1", "dataloader_num_workers 2")),
    "meld_sample": (40, FROZEN, ("cache_features true",)),
}  # fmt: skip


UNCHANGED = "unchanged"  # name of the config without a changed setting


class Clock(TrainerCallback):
    """Measure the first step, and the time from the end of the warm-up to the end of training."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:  # noqa: ANN001 (Trainer's signature)
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ANN001 (Trainer's signature)
        if state.global_step == 1:
            self.first = time.perf_counter() - self.start
        if state.global_step == WARMUP_STEPS:
            self.start = time.perf_counter()
        elif state.global_step == args.max_steps:
            self.seconds = time.perf_counter() - self.start


def new_model(run: Run, extractor, data) -> torch.nn.Module:  # noqa: ANN001
    """Return a new model of the config, with the same weights each time."""
    torch.manual_seed(0)
    model = build_model(run, run.task.model_settings(data, extractor, run))
    run.task.initialise(model, data, new=True, resumed=False)
    return model


def trainer_seconds(run: Run, extractor, data, model: torch.nn.Module) -> dict[str, float]:  # noqa: ANN001
    """Return the seconds of the timed steps and of the first step, and the share of time that waited for data."""
    trainer = build_trainer(run, model, extractor, data)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return {"seconds": clock.seconds, "first_step": clock.first, "data_wait_share": trainer.data_wait_share}


def prepared(*command: str) -> tuple[Run, object, object]:
    """Return a run with its extractor and data."""
    run = parse_run([*command, *OFF])
    set_up_process(run)
    extractor = run.task.features(run)
    rows, _ = load_rows(run.arguments, run.task.columns, run.task.streamed)
    return run, extractor, run.task.prepare(rows, extractor, run)


def bare_seconds(run: Run, extractor, data, batches: list[dict]) -> float:  # noqa: ANN001
    """Return the seconds of the timed steps in a bare loop."""
    model = new_model(run, extractor, data).train()
    settings = run.training
    # The same optimizer and schedule as the config, written out.
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True)
    schedule = get_scheduler("cosine", optimizer, 0, settings.max_steps)
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), settings.max_steps)):
        if step == WARMUP_STEPS:
            start = time.perf_counter()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def compare_settings(rounds: int) -> None:
    """Compare each config with each setting, in turn."""
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "datasets"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
        for config, (steps, added, settings) in SETTINGS.items():
            keys = [*added, "--max_steps", str(WARMUP_STEPS + steps), "--output_dir", f"{folder}/run"]
            if torch.cuda.is_available():
                settings = (*settings, "dataloader_pin_memory true", "tf32 true")
            else:
                keys += ["--use_cpu", "true"]  # TrainingArguments refuses bf16 without a GPU otherwise
            commands = {UNCHANGED: [f"configs/{config}.json", *keys]}
            commands |= {name: [*commands[UNCHANGED], *f"--{name}".split()] for name in settings}
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
            for _ in range(rounds):
                for name, command in commands.items():
                    runs[name].append(time_one_run(command))
            print(f"{config} {' '.join(added)}, {steps} steps, {torch.get_num_threads()} threads")
            print_settings(config, steps, runs)


def time_one_run(command: list[str]) -> dict[str, float]:
    """Return the seconds of one run until it is ready, of its first step and of the timed steps."""
    torch._dynamo.reset()
    # The Trainer passes torch_compile and bf16 to Accelerate in the environment, which would affect later runs.
    with mock.patch.dict(os.environ):
        start = time.perf_counter()
        run, extractor, data = prepared(*command)
        model = new_model(run, extractor, data)
        data = run.task.cache(data, model)
        ready = time.perf_counter() - start
        return {"ready": ready} | trainer_seconds(run, extractor, data, model)


def print_settings(config: str, steps: int, runs_of_setting: dict[str, list[dict[str, float]]]) -> None:
    """Print times and ratios."""
    timed = {name: Timing(tuple(run["seconds"] for run in runs)) for name, runs in runs_of_setting.items()}
    print_table(timed)
    for name, runs in runs_of_setting.items():
        prefix = f"{config}_{name.replace(' ', '_')}"
        print_value(f"{prefix}_steps_per_second", steps / timed[name].median, "steps/s")
        # Caches speed up later rounds, so these two are from the first round.
        print_value(f"{prefix}_ready", runs[0]["ready"], "s")
        print_value(f"{prefix}_first_step", runs[0]["first_step"], "s")
        wait = statistics.median(run["data_wait_share"] for run in runs)
        print_value(f"{prefix}_data_wait_share", wait, "of training time")
        if name != UNCHANGED:
            print_ratio(f"{prefix}_vs_{UNCHANGED}", ratio(timed[UNCHANGED], timed[name]))


def compare_with_bare_loop(rounds: int) -> None:
    """Compare the Trainer with a bare loop, in turn in this process."""
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        steps = ("--max_steps", str(WARMUP_STEPS + STEPS))
        run, extractor, data = prepared(
            "configs/eda_tcn.json", "--dataset_config", "sample", "--output_dir", folder, *steps
        )
        loader = build_trainer(run, new_model(run, extractor, data), extractor, data).get_train_dataloader()
        batches = list(loader)
        timings: dict[str, list[float]] = {"Trainer": [], "bare loop": []}
        waits = []
        for _ in range(rounds):
            measured = trainer_seconds(run, extractor, data, new_model(run, extractor, data))
            timings["Trainer"].append(measured["seconds"])
            waits.append(measured["data_wait_share"])
            timings["bare loop"].append(bare_seconds(run, extractor, data, batches))
    timed = {name: Timing(tuple(seconds)) for name, seconds in timings.items()}
    print(f"eda_tcn, {STEPS} steps, {torch.get_num_threads()} threads")
    print_table(timed)
    print_value("trainer_steps_per_second", STEPS / timed["Trainer"].median, "steps/s")
    print_ratio("trainer_vs_bare_loop", ratio(timed["bare loop"], timed["Trainer"]))
    print_value("data_wait_share", statistics.median(waits), "of training time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="four times as many rounds")
    parser.add_argument("--settings", action="store_true", help="compare settings instead")
    options = parser.parse_args()
    times = 4 if options.full else 1
    if options.settings:
        compare_settings(3 * times)
    else:
        compare_with_bare_loop(5 * times)


if __name__ == "__main__":
    main()

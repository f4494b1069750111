"""What the Trainer costs: steps a second of `configs/eda_tcn.json` against a bare PyTorch loop over prepared batches.

    python -m benchmarks.training [--full]

Both train the same new model on the same windows in the same order, with the same optimizer, schedule and clipping;
the bare loop gets its batches ready made, so it also does without reading, windowing and padding. Evaluation, logging
and checkpoints are off. The wait is what a training step spends for its batch, of the Trainer's own run.
"""

import argparse
import itertools
import tempfile
import time

import torch
from datasets.utils.logging import disable_progress_bar
from transformers import TrainerCallback, get_scheduler

from benchmarks.timing import Timing, print_ratio, print_table, print_value, ratio
from training.arguments import Run, parse_run
from training.build import build_extractor, build_model, build_trainer, load_rows, set_up_process
from training.tasks import eda

WARMUP_STEPS = 20


class Clock(TrainerCallback):
    """Measures from the end of the warm-up steps to the end of training."""

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ANN001 (Trainer's signature)
        if state.global_step == WARMUP_STEPS:
            self.start = time.perf_counter()
        elif state.global_step == args.max_steps:
            self.seconds = time.perf_counter() - self.start


def new_model(run: Run, extractor, data) -> torch.nn.Module:  # noqa: ANN001
    """The model of the config, with the same weights each time."""
    torch.manual_seed(0)
    model = build_model(run.arguments, eda.model_settings(data, extractor, run), eda)
    eda.initialise(model, data, new=True)
    return model


def trainer_seconds(run: Run, extractor, data) -> tuple[float, float]:  # noqa: ANN001
    """Seconds of the steps after the warm-up, and the share of them that waited for data."""
    trainer = build_trainer(run, new_model(run, extractor, data), extractor, data)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds, trainer.data_wait_share


def bare_seconds(run: Run, extractor, data, batches: list[dict]) -> float:  # noqa: ANN001
    """Seconds of the same steps in a loop of one's own."""
    model = new_model(run, extractor, data).train()
    settings = run.training
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


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="four times as many rounds")
    rounds = 20 if parser.parse_args().full else 5
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        off = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
        off += ["--report_to", "none", "--logging_strategy", "no", "--disable_tqdm", "true", "--max_steps", "220"]
        run = parse_run(["configs/eda_tcn.json", "--dataset_config", "sample", "--output_dir", folder, *off])
        set_up_process(run)
        extractor = build_extractor(run.arguments, **eda.feature_settings(run))
        data = eda.prepare(load_rows(run.arguments, eda.COLUMNS), extractor, run)
        loader = build_trainer(run, new_model(run, extractor, data), extractor, data).get_train_dataloader()
        batches = list(loader)
        timings: dict[str, list[float]] = {"Trainer": [], "bare loop": []}
        waits = []
        for _ in range(rounds):
            seconds, wait = trainer_seconds(run, extractor, data)
            timings["Trainer"].append(seconds)
            waits.append(wait)
            timings["bare loop"].append(bare_seconds(run, extractor, data, batches))
    timed = {name: Timing(tuple(seconds)) for name, seconds in timings.items()}
    print(f"eda_tcn, {run.training.max_steps - WARMUP_STEPS} steps, {torch.get_num_threads()} threads")
    print_table(timed)
    print_value(
        "trainer_steps_per_second", (run.training.max_steps - WARMUP_STEPS) / timed["Trainer"].median, "steps/s"
    )
    print_ratio("trainer_vs_bare_loop", ratio(timed["bare loop"], timed["Trainer"]))
    print_value("data_wait_share", sorted(waits)[len(waits) // 2], "of training time")


if __name__ == "__main__":
    main()

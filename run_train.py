"""Train a model as a config describes, score it once on the test split, and save model, scores and report.

accelerate launch --config_file accelerate_configs/cpu.yaml run_train.py configs/eda_tcn.json
accelerate launch run_train.py configs/eda_tcn.json --learning_rate 3e-4
"""

import sys
from dataclasses import asdict

from launch.settings import check_command_line
from launch.start import begin
from system.process import one_line_errors

# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(check_command_line)

from launch.ending import last_lines
from launch.pages import run_pages
from launch.run import parse_run
from launch.sharing import check_hub, destination, push_run
from training.build import build_model, build_trainer, set_up_process
from training.checkpoints import lock_run_folder
from training.rows import load_rows
from training.run_folder import begin_run, checkpoint_to_resume, describe_run, run_records, save_run
from training.task import Run


def main(argv: list[str]) -> None:
    """Read the command line, and train while holding the lock of the run's folder."""
    run = parse_run(argv)
    set_up_process(run)
    with lock_run_folder(run.training):
        train(run)


def train(run: Run) -> None:
    """Run all stages, one per line. Each is documented where it is defined."""
    task = run.task
    checkpoint = checkpoint_to_resume(run)
    check_hub(run)
    rows, source = load_rows(run.arguments, task.columns, task.streamed)
    extractor = task.features(run)
    data = task.prepare(rows, extractor, run)
    model = build_model(run, task.model_settings(data, extractor, run))
    task.initialise(model, data, new=run.base_config is None, resumed=checkpoint is not None)
    data = task.cache(data, model)
    records = run_records(run, source, data)

    trainer = build_trainer(run, model, extractor, data)
    begin_run(run, records, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    evaluation = task.evaluate(trainer, data, "test")

    if trainer.is_world_process_zero():
        facts = asdict(describe_run(run, source, data, trainer, evaluation))
        pages = run_pages(task, facts, records["run_config.json"], evaluation.predictions)
        pages |= task.extra_pages(trainer, data)
        folder = save_run(run, trainer.model, extractor, pages, records | {"metrics.json": facts}, evaluation)
        print(task.results_table(facts["test"]))
        print(last_lines(run, facts, folder))
        if run.push_to_hub:
            print(f"shared: {push_run(folder, *destination(run))}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

"""Train a model on what a config names, score it once on songs or people that it never met, and save all of it.

accelerate launch --config_file accelerate_configs/cpu.yaml run_train.py configs/eda_tcn.json
accelerate launch run_train.py configs/eda_tcn.json --learning_rate 3e-4
"""

import sys

from launch.pages import model_card, report_files, results_table
from launch.run import parse_run
from launch.sharing import check_hub, destination, push_run
from training.build import build_model, build_trainer, set_up_process
from training.command_line import one_line_errors
from training.rows import load_rows
from training.run_folder import begin_run, checkpoint_to_resume, describe_run, run_records, save_run


def main(argv: list[str]) -> None:
    """One stage a line; what each does stands, and is tested, elsewhere."""
    run = parse_run(argv)
    set_up_process(run)
    checkpoint = checkpoint_to_resume(run)
    check_hub(run)
    rows = load_rows(run.arguments, run.task.COLUMNS, run.task.STREAMED)
    extractor = run.task.features(run)
    data = run.task.prepare(rows, extractor, run)
    model = build_model(run.arguments, run.task.model_settings(data, extractor, run), run.task)
    run.task.initialise(model, data, new=run.arguments.model_name_or_path is None, resumed=checkpoint is not None)
    records = run_records(run, rows, data)

    trainer = build_trainer(run, model, extractor, data)
    begin_run(run, records, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    results, predictions = run.task.evaluate(trainer, data, "test")

    if trainer.is_world_process_zero():
        facts = describe_run(run, rows, data, trainer, results)
        pages = {"README.md": model_card(facts)} | report_files(facts, records["run_config.json"], predictions)
        pages |= run.task.extra_pages(trainer, data)
        folder = save_run(run, trainer.model, extractor, pages, records | {"metrics.json": facts}, predictions)
        print(results_table(facts))
        print(f"report: {folder / 'report.html'}\ncard: {folder / 'README.md'}\nmodel and scores: {folder}")
        if run.push_to_hub:
            print(f"shared: {push_run(folder, *destination(run))}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

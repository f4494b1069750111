"""Score a saved model on a data set: predictions.parquet, report.html and metrics.json in a folder.

python run_eval.py outputs/eda_tcn hf_datasets/pmemo
python run_eval.py outputs/eda_tcn hf_datasets/pmemo --dataset_config sample_null --side all
"""

import sys
from dataclasses import asdict

from system.process import end_imports_quietly, one_line_errors

if __name__ == "__main__":
    end_imports_quietly()

from launch.scoring import describe_scores, parse_eval, save_scores, saved_run
from training.build import build_trainer, set_up_process
from training.prediction import load_model
from training.rows import load_rows
from training.run_folder import read_record


def main(argv: list[str]) -> None:
    """The settings of the model's own run, another data set, no training."""
    arguments = parse_eval(argv)
    run = saved_run(arguments)
    set_up_process(run)
    rows, source = load_rows(run.arguments, run.task.columns)
    model, extractor = load_model(arguments.model, run.training.device, run.task)
    data = run.task.prepare(rows, extractor, run, saved=read_record(arguments.model, "metrics.json"))
    trainer = build_trainer(run, model, extractor, data)
    evaluation = run.task.evaluate(trainer, data, arguments.side)
    if trainer.is_world_process_zero():
        facts = asdict(describe_scores(arguments, run, source, data, evaluation.results))
        report = run.task.report_files(facts, run.resolved(), evaluation.predictions)
        folder = save_scores(run, facts, report, evaluation.predictions)
        print(run.task.results_table(facts["test"]))
        print(f"report: {folder / 'report.html'}\nscores and predictions: {folder}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

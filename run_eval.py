"""Score a saved model on a data set, and write predictions.parquet, report.html and metrics.json.

python run_eval.py outputs/eda_tcn
python run_eval.py outputs/eda_tcn/checkpoint-40 --side validation
python run_eval.py outputs/eda_tcn hf_datasets/pmemo --dataset_config sample_null --side all
"""

import argparse
import sys
from dataclasses import asdict

from launch.start import begin
from system.process import one_line_errors

SIDES = ("test", "validation", "train", "all")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_eval.py",
        description="Score a saved model on a data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model", help="Folder of a run of run_train.py, a checkpoint-N folder inside it, or a name on the Hub."
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help="Data set folder such as hf_datasets/pmemo, or a name on the Hub. None uses the data set and "
        "configuration that the model was trained on.",
    )
    parser.add_argument(
        "--dataset_config", default=None, help="Configuration of the data set. None uses its default configuration."
    )
    parser.add_argument(
        "--side",
        choices=SIDES,
        default="test",
        help="Split to score. It is derived from the ids and the seed of the run, so `test` of the training data "
        "contains only items that the model has not seen in training. Use `all` for other data.",
    )
    parser.add_argument(
        "--output_dir", default=None, help="Output folder. None uses outputs/eval-<model>-<data>-<split>."
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="Report how much the scores drop when a frequency band or a moment of the sound is removed.",
    )
    parser.add_argument(
        "--batch_size", type=int, default=None, help="Items per batch. None uses the batch size of the run."
    )
    return parser.parse_args(argv)


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

from launch.ending import last_lines
from launch.pages import score_pages
from launch.scoring import describe_scores, save_scores, saved_run
from training.build import build_trainer, set_up_process
from training.prediction import load_model
from training.rows import load_rows
from training.run_folder import read_record


def main(argv: list[str]) -> None:
    """Rebuild the model's run without training, and score it."""
    arguments = parse(argv)
    run = saved_run(arguments)
    set_up_process(run)
    rows, source = load_rows(run.arguments, run.task.columns)
    model, extractor = load_model(arguments.model, run.training.device, run.task)
    data = run.task.prepare(rows, extractor, run, saved=read_record(arguments.model, "metrics.json"))
    trainer = build_trainer(run, model, extractor, data)
    evaluation = run.task.evaluate(trainer, data, arguments.side)
    # All processes have the same results; only one writes them.
    if trainer.is_world_process_zero():
        facts = asdict(describe_scores(arguments, run, source, data, evaluation.results))
        report = score_pages(run.task, facts, run.resolved(), evaluation.predictions)
        folder = save_scores(run, facts, report, evaluation.predictions)
        print(run.task.results_table(facts["test"]))
        print(last_lines(run, facts, folder))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

"""Score a saved model on a data set: predictions.parquet, report.html and metrics.json in a folder.

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
    """The command line of run_eval.py."""
    parser = argparse.ArgumentParser(
        prog="run_eval.py",
        description="Score a saved model on a data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model", help="A folder that run_train.py wrote, a checkpoint-N folder inside one, or a name on the Hub."
    )
    parser.add_argument(
        "dataset",
        nargs="?",
        help="A data set folder such as hf_datasets/pmemo, or a name on the Hub; None is the data that the run "
        "trained on, of the same configuration.",
    )
    parser.add_argument("--dataset_config", default=None, help="Configuration of the data set; None is its default.")
    parser.add_argument(
        "--side",
        choices=SIDES,
        default="test",
        help="Which side of the run's split is scored. The sides follow from ids and the seed, so the test side of "
        "the data that was trained on is what training never saw; `all` is for other data.",
    )
    parser.add_argument(
        "--output_dir", default=None, help="Folder of the scores; None is outputs/eval-<model>-<data>."
    )
    parser.add_argument(
        "--explain", action="store_true", help="Report what the model loses without a band or a moment of sound."
    )
    parser.add_argument("--batch_size", type=int, default=None, help="Trials of a batch; None is as in the run.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    begin(parse)

from launch.ending import last_lines
from launch.scoring import describe_scores, save_scores, saved_run
from training.build import build_trainer, set_up_process
from training.prediction import load_model
from training.rows import load_rows
from training.run_folder import read_record


def main(argv: list[str]) -> None:
    """The settings of the model's own run, its data set or another, no training."""
    arguments = parse(argv)
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
        print(last_lines(run, facts, folder))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

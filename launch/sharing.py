"""A finished run on the Hub: what of it goes there, whether we may, and what to do when it fails.

run_train.py does it with --push_to_hub; a run that ended without it, or whose upload failed, is shared by
    python -m launch.sharing outputs/eda_tcn you/eda-tcn
"""

import argparse
import sys
from pathlib import Path

from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m launch.sharing", description="Share a finished run on the Hub.")
    parser.add_argument("folder", type=Path, help="The folder of the run.")
    parser.add_argument("name", help="The repository, you/eda-tcn.")
    parser.add_argument("--private", action="store_true", default=None, help="Make a new repository private.")
    return parser.parse_args(argv)


if __name__ == "__main__":
    begin(parse)

from huggingface_hub import HfApi

from system.hub import told_by_hub
from training.task import Run

# What is on the way to a model, or local to the machine, stays out of a repository on the Hub; so does what shows the
# recordings of people: predictions beside their targets, the report and figures of single recordings, and what people
# are asked to listen to again.
NOT_SHARED = [
    "checkpoint-*", "checkpoint-*/**", "runs/**", ".*", "predictions.parquet", "report.html", "figure_trials_*",
    "figure_timelines*", "figure_predicted*", "review.csv",
]  # fmt: skip


def check_hub(run: Run) -> None:
    """Make the repository on the Hub before training, rather than fail after it, when the run is to be shared."""
    if run.push_to_hub and run.training.process_index == 0:
        name, private, token = destination(run)
        with told_by_hub(f"--push_to_hub to {name}"):
            HfApi(token=token).create_repo(name, private=private, exist_ok=True)


def destination(run: Run) -> tuple[str, bool | None, str | None]:
    """Where a run goes: the name of the repository, whether it is to be private, and whose token says so."""
    return run.training.hub_model_id or run.name, run.training.hub_private_repo, run.hub_token


def push_run(folder: Path, name: str, private: bool | None = None, token: str | None = None) -> str:
    """Upload a finished run and return its address; the token comes from `hf auth login` or HF_TOKEN by default."""
    if not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder}: no metrics.json; give the folder of a run that run_train.py wrote to its end")
    api = HfApi(token=token)
    again = f"the run is whole in {folder}; try again with `python -m launch.sharing {folder} {name}`"
    with told_by_hub(again):
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository.repo_id,
            ignore_patterns=NOT_SHARED,
            commit_message="Add model, features, code, card and scores",
        )
    return str(repository)


def main(argv: list[str]) -> None:
    """Share, and print the address."""
    arguments = parse(argv)
    print(f"shared: {push_run(arguments.folder, arguments.name, arguments.private)}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

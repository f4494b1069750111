"""Share a finished run on the Hub.

run_train.py --push_to_hub does this after training. To share a run later, or to repeat a failed upload:
    python -m launch.sharing outputs/eda_tcn you/eda-tcn
"""

import argparse
import sys
from pathlib import Path

from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.sharing", description="Share a finished run on the Hub.")
    parser.add_argument("folder", type=Path, help="Folder of the run.")
    parser.add_argument("name", help="Name of the repository, for example you/eda-tcn.")
    parser.add_argument("--private", action="store_true", default=None, help="Make a new repository private.")
    return parser.parse_args(argv)


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

from huggingface_hub import HfApi

from system.hub import one_line_hub_errors
from training.task import Run

# Checkpoints and logs are left out because nobody else needs them. The other files show single recordings of people
# (predictions next to targets, the report, figures, the list of clips to review), so they stay private.
NOT_SHARED = [
    "checkpoint-*", "checkpoint-*/**", "runs/**", ".*", "predictions.parquet", "report.html", "figure_trials_*",
    "figure_timelines*", "figure_predicted*", "review.csv",
]  # fmt: skip


def check_hub(run: Run) -> None:
    """Create the repository on the Hub if the run is to be shared. A missing permission fails before training."""
    if run.push_to_hub and run.training.process_index == 0:
        name, private, token = destination(run)
        with one_line_hub_errors(f"--push_to_hub to {name}"):
            HfApi(token=token).create_repo(name, private=private, exist_ok=True)


def destination(run: Run) -> tuple[str, bool | None, str | None]:
    """Return the name of the repository, whether to make it private, and the token."""
    return run.training.hub_model_id or run.name, run.training.hub_private_repo, run.hub_token


def push_run(folder: Path, name: str, private: bool | None = None, token: str | None = None) -> str:
    """Upload a finished run and return its URL.

    Args:
        name: name of the repository.
        private: whether to make a new repository private; None uses the default of the account.
        token: by default that of `hf auth login` or HF_TOKEN.
    """
    if not (folder / "metrics.json").is_file():
        raise ValueError(f"{folder}: metrics.json is missing. Give the folder of a finished run of run_train.py.")
    api = HfApi(token=token)
    context = f"the run is saved in {folder}. To try again, run `python -m launch.sharing {folder} {name}`"
    # The run is saved already, so an error must say how to share it without training again.
    with one_line_hub_errors(context):
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository.repo_id,
            ignore_patterns=NOT_SHARED,
            commit_message="Add model, features, code, card and scores",
        )
    return str(repository)


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    print(f"shared: {push_run(arguments.folder, arguments.name, arguments.private)}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

"""Push a prepared data set to the Hub, if its licence allows that, or only its synthetic samples, which always may.

    python -m hf_datasets.push_dataset pmemo you/pmemo-sample --samples
    python -m hf_datasets.push_dataset folder you/my-data --folder my_prepared --i_have_the_right

It uploads the card with its configs, `data/*.parquet`, the committed samples, and the small files next to them
(`defects.csv`, `labels.json`). `load_dataset("you/my-data")` and `run_train.py --dataset you/my-data` then read the
same rows as from the local folder.

Each builder says whether its data may be redistributed: `REDISTRIBUTION` is None or the reason why not, and
`REDISTRIBUTION_OF_SOUNDS` is the same for rows that contain the sounds.
"""

import argparse
import fnmatch
from pathlib import Path
from typing import Any

from system.process import one_line_errors, parse_before_imports

from .names import HERE, check_name, data_set_names


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hf_datasets.push_dataset", description="Push a prepared data set to the Hub."
    )
    parser.add_argument("name", help=f"data set: {', '.join(data_set_names())}")
    parser.add_argument(
        "repository", help="repository on the Hub, you/name; the token comes from `hf auth login` or HF_TOKEN"
    )
    parser.add_argument("--folder", type=Path, help="the --output_dir of `prepare`; default: hf_datasets/<name>")
    parser.add_argument("--samples", action="store_true", help="push only the synthetic samples")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make the repository private if it is created"
    )
    parser.add_argument(
        "--i_have_the_right", action="store_true", help="push the data even if their licence does not let everybody"
    )
    parsed = parser.parse_args(argv)
    check_name(parsed.name)
    return parsed


if __name__ == "__main__":
    # Wrong arguments and --help are answered before the imports below, which take seconds.
    parse_before_imports(parse, "push_dataset")

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from system.hub import one_line_hub_errors

from .base_builder import Builder
from .builders import builder_class
from .cards import CARD, POINTER, split_card, with_configs

COMPANION_SUFFIXES = (".json", ".csv", ".gz", ".parquet")  # small files next to the rows, such as defects.csv


def push_dataset(
    name: str,
    repository: str,
    folder: Path | None = None,
    samples: bool = False,
    private: bool | None = None,
    i_have_the_right: bool = False,
) -> str:
    """Upload a data set and return its URL; ValueError if it does not exist or may not be shared.

    Args:
        name: of the data set.
        repository: you/name on the Hub.
        folder: the --output_dir of `prepare`; None is hf_datasets/<name>.
        samples: upload only the synthetic samples.
        private: whether a new repository is private; None is the Hub's default.
        i_have_the_right: upload the data even if their builder says that they may not be shared.
    """
    check_name(name)
    folder = Path(folder or HERE / name)
    card, configs = read_configs(folder, samples)
    rows = [path for config in configs for path in parquet_files(folder, config)]
    reason = reason_not_to_share(builder_class(name), rows)
    if reason and not i_have_the_right:
        raise ValueError(
            f"{name}: not pushed: {reason}. Add --samples to push only the synthetic samples, or --i_have_the_right "
            "if you may share the data."
        )
    companions = [] if samples else [path for path in folder.iterdir() if is_companion(path)]
    companions += [path for path in (folder / "sample").glob("*") if is_companion(path) and path.suffix != ".parquet"]
    files: dict[str, Path | bytes] = {str(path.relative_to(folder)): path for path in [*rows, *companions]}
    files[CARD] = with_configs(card, configs).encode()
    api = HfApi()
    with one_line_hub_errors(f"push_dataset {name} to {repository}"):
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        api.create_commit(url.repo_id, operations, repo_type="dataset", commit_message="Add rows and card")
    return str(url)


def read_configs(folder: Path, samples: bool) -> tuple[str, list[dict[str, Any]]]:
    """Return the card of a folder and the configs to publish: those that `prepare` wrote, or only the samples."""
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder}: no {CARD}. Give the folder that `python -m hf_datasets.prepare` wrote to.")
    card, pointer = (folder / CARD).read_text(encoding="utf-8"), folder / POINTER
    configs = split_card(card)[0].get("configs", [])
    if pointer.is_file():
        configs = yaml.safe_load(pointer.read_text(encoding="utf-8"))["configs"]
    if samples:
        configs = [config for config in configs if config["config_name"] != "full"]
        configs = [config | ({} if number else {"default": True}) for number, config in enumerate(configs)]
    missing = [config["config_name"] for config in configs if not parquet_files(folder, config)]
    if missing or not configs:
        raise ValueError(f"{folder}: no rows of {', '.join(missing) or 'any config'}. Let `prepare` finish first.")
    return card, configs


def parquet_files(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Return the Parquet files of a config that exist."""
    # The configs of an unfinished `prepare` have no dicts here, but the name of a file that never exists.
    patterns = [entry["path"] for entry in config["data_files"] if isinstance(entry, dict)]
    paths = [path for subfolder in ("data", "sample") for path in sorted((folder / subfolder).glob("*.parquet"))]
    return [
        path for path in paths if any(fnmatch.fnmatchcase(str(path.relative_to(folder)), each) for each in patterns)
    ]


def is_companion(path: Path) -> bool:
    return path.is_file() and path.suffix in COMPANION_SUFFIXES and not path.name.startswith(".")


def reason_not_to_share(builder: type[Builder], paths: list[Path]) -> str | None:
    """Return why the rows in some files may not be redistributed, or None. Synthetic rows always may."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            if pc.all(file.read(columns=["synthetic"])["synthetic"]).as_py():
                continue
            if builder.REDISTRIBUTION is not None:
                return builder.REDISTRIBUTION
            sounds = builder.REDISTRIBUTION_OF_SOUNDS
            if sounds is not None and any(
                pc.any(pc.is_valid(batch["audio"].field("bytes"))).as_py()
                for batch in file.iter_batches(64, columns=["audio.bytes"])
            ):
                return sounds
    return None


def main(argv: list[str] | None = None) -> None:
    """Run the command line; errors exit with one line."""
    with one_line_errors("push_dataset"):
        print(f"pushed: {push_dataset(**vars(parse(argv)))}")


if __name__ == "__main__":
    main()

"""Put a prepared data set on the Hub, where whoever made it allows that; its synthetic samples always.

    python -m hf_datasets.push_dataset pmemo you/pmemo-sample --samples
    python -m hf_datasets.push_dataset folder you/my-data --folder my_prepared --i_have_the_right

What goes there: the card with its configs, `data/*.parquet`, the committed samples, and the small files beside them
(`defects.csv`, `labels.json`). `load_dataset("you/my-data")` gives the same rows from then on, and so does `--dataset
you/my-data` of run_train.py.

Whether data may be redistributed stands in each builder: `REDISTRIBUTION` is None, or the reason why not;
`REDISTRIBUTION_OF_SOUNDS` the same of rows that hold the sounds themselves.
"""

import argparse
import fnmatch
from pathlib import Path
from typing import Any

from system.process import answer_at_once, one_line_errors

from .names import HERE, check_name, data_set_names


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_datasets.push_dataset", description="Put a prepared data set on the Hub."
    )
    parser.add_argument("name", help=f"the data set: one of {', '.join(data_set_names())}")
    parser.add_argument("repository", help="where it goes, you/name; the token comes from `hf auth login` or HF_TOKEN")
    parser.add_argument(
        "--folder", type=Path, help="what `prepare --output_dir` wrote to; by default hf_datasets/<name>"
    )
    parser.add_argument("--samples", action="store_true", help="push the synthetic samples alone")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument(
        "--i_have_the_right", action="store_true", help="push also what its licence does not allow everybody to share"
    )
    parsed = parser.parse_args(argv)
    check_name(parsed.name)
    return parsed


if __name__ == "__main__":
    answer_at_once(parse, "push_dataset")

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from huggingface_hub import CommitOperationAdd, HfApi

from system.hub import told_by_hub

from .base_builder import Builder
from .builders import builder_class
from .cards import CARD, POINTER, split_card, with_configs

BESIDE = (".json", ".csv", ".gz", ".parquet")  # suffixes of the small files beside the rows


def push_dataset(
    name: str,
    repository: str,
    folder: Path | None = None,
    samples: bool = False,
    private: bool | None = None,
    i_have_the_right: bool = False,
) -> str:
    """Upload a data set and return its address; ValueError where it may not be, or is not there.

    `folder` is where `prepare` wrote it, by default its own; with `samples` only these go.
    """
    check_name(name)
    folder = Path(folder or HERE / name)
    card, configs = read_configs(folder, samples)
    rows = [path for config in configs for path in rows_of(folder, config)]
    why_not = refusal(builder_class(name), rows)
    if why_not and not i_have_the_right:
        raise ValueError(
            f"{name} is not pushed: {why_not}. --samples pushes its synthetic samples alone; if you may share the "
            "data nevertheless, --i_have_the_right says so"
        )
    companions = [] if samples else [path for path in folder.iterdir() if is_beside(path)]
    companions += [path for path in (folder / "sample").glob("*") if is_beside(path) and path.suffix != ".parquet"]
    files: dict[str, Path | bytes] = {str(path.relative_to(folder)): path for path in [*rows, *companions]}
    files[CARD] = with_configs(card, configs).encode()
    api = HfApi()
    with told_by_hub(f"push_dataset {name} to {repository}"):
        made = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in sorted(files.items())]
        api.create_commit(made.repo_id, operations, repo_type="dataset", commit_message="Add rows and card")
    return str(made)


def read_configs(folder: Path, samples: bool) -> tuple[str, list[dict[str, Any]]]:
    """The card of a folder, and the configs that it is to have: those that `prepare` made, or the samples."""
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder}: no {CARD}; give the folder that `python -m hf_datasets.prepare` wrote to")
    card, pointer = (folder / CARD).read_text(encoding="utf-8"), folder / POINTER
    configs = split_card(card)[0].get("configs", [])
    if pointer.is_file():
        configs = yaml.safe_load(pointer.read_text(encoding="utf-8"))["configs"]
    if samples:
        configs = [config for config in configs if config["config_name"] != "full"]
        configs = [config | ({} if place else {"default": True}) for place, config in enumerate(configs)]
    missing = [config["config_name"] for config in configs if not rows_of(folder, config)]
    if missing or not configs:
        raise ValueError(f"{folder}: no rows of {', '.join(missing) or 'any config'}; prepare it to its end first")
    return card, configs


def rows_of(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The Parquet files of a config."""
    patterns = [entry["path"] for entry in config["data_files"] if isinstance(entry, dict)]
    found = [path for place in ("data", "sample") for path in sorted((folder / place).glob("*.parquet"))]
    return [
        path for path in found if any(fnmatch.fnmatchcase(str(path.relative_to(folder)), each) for each in patterns)
    ]


def is_beside(path: Path) -> bool:
    """Whether a file is one that readers of the rows need or want."""
    return path.is_file() and path.suffix in BESIDE and not path.name.startswith(".")


def refusal(builder: type[Builder], rows: list[Path]) -> str | None:
    """Why some files of rows may not be redistributed, or None; rows that a program made always may."""
    for path in rows:
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
    """The command line; what is refused ends in one line."""
    with one_line_errors("push_dataset"):
        print(f"pushed: {push_dataset(**vars(parse(argv)))}")


if __name__ == "__main__":
    main()

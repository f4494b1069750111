"""What a run's folder already holds: nothing, a finished run to replace, or an unfinished one to go on from."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from training.arguments import Run
from training.trainer import last_whole_checkpoint

logger = logging.getLogger(__name__)

# Keys that may differ when a run goes on, by how they begin: they change where and how fast it runs, not what it does.
FREE_TO_CHANGE = (
    "output_dir", "num_threads", "preprocessing_processes", "dataloader_", "logging_", "log_", "report_to", "run_name",
    "disable_tqdm", "save_total_limit", "hub_", "streaming_cache_gb",
)  # fmt: skip


def checkpoint_to_resume(run: Run) -> str | None:
    """The checkpoint that --resume_from_checkpoint names: a folder, or `true` for the newest whole one.

    A folder with an unfinished run in it is not started over by accident.
    """
    folder, wanted = Path(run.training.output_dir), run.training.resume_from_checkpoint
    last = last_whole_checkpoint(folder) if folder.is_dir() else None
    finished = (folder / "metrics.json").exists()
    if wanted is None:
        if last is not None and not finished:
            raise ValueError(
                f"{folder} holds an unfinished run ({last.name}): add --resume_from_checkpoint true to go on from it, "
                "or name another --output_dir"
            )
        return None
    if wanted != "true":
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise ValueError(f"resume_from_checkpoint = {wanted!r} is no checkpoint folder; `true` takes the newest")
        return wanted
    if finished:
        raise ValueError(f"{folder} holds a finished run: there is nothing to resume; name another --output_dir")
    if last is None:
        logger.warning("nothing to resume: %s has no whole checkpoint; starting at the beginning", folder)
    return str(last) if last else None


def begin_run(run: Run, records: dict[str, dict[str, Any]], checkpoint: str | None) -> None:
    """Leave the settings and the split in the folder before training; a run that resumes must have the same.

    `records` are what `run_config.json` and `splits.json` shall hold. An older, finished run makes way.
    """
    if checkpoint is not None:
        check_same_run(Path(checkpoint).parent, records)
    if run.training.process_index:
        return
    folder = Path(run.training.output_dir)
    if checkpoint is None and folder.is_dir():
        for old in folder.glob("checkpoint-*"):
            logger.warning("%s: removing %s of an earlier run", folder, old.name)
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").unlink(missing_ok=True)
    for name, record in records.items():
        write_json(folder / name, record)


def check_same_run(folder: Path, records: dict[str, dict[str, Any]]) -> None:
    """Refuse to go on from a checkpoint of other settings or another split."""
    try:
        saved = {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in records}
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: no {Path(error.filename).name}; cannot tell what its checkpoint was made with"
        ) from error
    before, now = (json.loads(json.dumps(config)) for config in (saved["run_config.json"], records["run_config.json"]))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not key.startswith(FREE_TO_CHANGE):
            raise ValueError(
                f"{folder}: {key} was {before.get(key)!r} and is {now.get(key)!r} now; a run goes on with the "
                "settings that it began with: take them, or name another --output_dir"
            )
    if saved["splits.json"]["sha256"] != records["splits.json"]["sha256"]:
        raise ValueError(f"{folder}: the data or the split have changed since the checkpoint; start anew")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record under its name only when it is whole; NaN is refused."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, path)

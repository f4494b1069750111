"""Load a saved model, find recordings, and write predictions to a CSV file."""

import contextlib
import csv
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TextIO, cast

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoConfig, FeatureExtractionMixin, PreTrainedConfig, PreTrainedModel

from media.audio import AudioError
from system.text import printable, safe_row
from training.encoders import is_encoder, load_encoder
from training.run_folder import read_record
from training.task import Task

logger = logging.getLogger(__name__)

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
ENCODERS_TASK = "detection"  # predicts with a pretrained encoder, which has no run_config.json that names its task
# Predictions of a model that was trained on synthetic data are marked: by this column or key, and by this notice in
# the terminal and in plots.
OF_SYNTHETIC_DATA = "model_of_synthetic_data"
SYNTHETIC_NOTICE = (
    "SYNTHETIC DATA: this model was trained on generated data. Its predictions say nothing about people."
)
PLOT_SUFFIXES = (".png", ".pdf", ".svg")


class Part(Protocol):
    """Predictions for one section of a recording, as table rows."""

    def header(self) -> list[str]:
        """Return the column names."""
        ...

    def rows(self) -> Iterator[list[str]]:
        """Yield the table rows."""
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """Return this section and the following ones as one."""
        ...


def find_sounds(paths: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the recordings in these files and folders, in order; raise ValueError for a missing path."""
    sounds = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and not file.is_dir())
            if not files:
                raise ValueError(f"{path}: no recordings in this folder. Supported suffixes: {' '.join(suffixes)}.")
            sounds += files
        elif path.is_file():
            sounds.append(path)
        else:
            raise ValueError(f"{path}: file or folder not found. Give the path of a recording or a folder.")
    return sounds


def task_of(model: str) -> str:
    """Return the name of the task that can predict with this model."""
    return ENCODERS_TASK if is_encoder(model) else read_record(model, "run_config.json")["task"]


def learned_from_synthetic_data(model: str) -> bool:
    """Return whether a saved model was trained on synthetic data; log a warning if that is not recorded."""
    if is_encoder(model):
        return False
    try:
        return read_record(model, "metrics.json")["data"]["synthetic"]
    except (OSError, ValueError):
        logger.warning("%s: no metrics.json, so it is unknown whether the model was trained on synthetic data", model)
        return False


def load_config(name: str) -> PreTrainedConfig | None:
    """Load the configuration of a saved model; return None for a pretrained encoder."""
    if is_encoder(name):
        return None
    try:
        return AutoConfig.from_pretrained(name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def load_model(name: str, device: str, task: Task) -> tuple[PreTrainedModel, FeatureExtractionMixin | None]:
    """Load a model and its feature extractor from a folder or the Hub, in eval mode."""
    if is_encoder(name):
        encoder = load_encoder(name)
        return cast(Any, encoder.model).to(torch.device(device)), encoder.extractor
    # transformers would report a misspelt folder as an invalid Hub name, in many lines.
    if not Path(name).exists() and name.count("/") != 1:
        raise ValueError(f"{name}: neither a folder nor a Hub name (user/model). Give one of the two.")
    try:
        model = task.auto_model.from_pretrained(name).to(torch.device(device)).eval()
        return model, None if task.auto_extractor is None else task.auto_extractor.from_pretrained(name)
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"{name} on device {device!r}: {error}") from error


def check_outputs(table: Path | None, plot: Path | None) -> None:
    """Raise ValueError for output paths that cannot be written. Call it before predicting, which can take hours."""
    for path in (path for path in (table, plot) if path is not None):
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: its folder does not exist. Create it, or give another path.")
        if path.is_dir():
            raise ValueError(f"{path}: is a folder. Give a file name.")
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise ValueError(f"{plot}: unsupported suffix for a plot. Must be one of {', '.join(PLOT_SUFFIXES)}.")


def write_predictions(
    predict: Callable[[Path], Iterator[Part]], sounds: Sequence[Path], path: Path, keep: bool, synthetic: bool
) -> tuple[list[Part], list[str]]:
    """Write the predictions for all recordings to a CSV file, section by section.

    An unreadable recording gets no rows, even if only its end is damaged.

    Args:
        predict: yields the predictions for the sections of one recording.
        keep: return all predictions, to plot them. Otherwise only the first section of each recording stays in memory.
        synthetic: add a column that marks the predictions of a model trained on synthetic data.

    Returns:
        One prediction per readable recording, and one message per unreadable recording.
    """
    predictions, unreadable = [], []
    head, cell = ([OF_SYNTHETIC_DATA], ["true"]) if synthetic else ([], [])
    with whole_file(path) as file:
        writer = csv.writer(file)
        for sound in tqdm(sounds, desc="predicting", unit="sound"):
            start, sections = file.tell(), []
            try:
                for part in predict(sound):
                    if not file.tell():  # the header depends on the model, so it is known only with the first part
                        writer.writerow(safe_row([*part.header(), *head]))
                    writer.writerows(safe_row([*row, *cell]) for row in part.rows())
                    sections += [part] if keep or not sections else []
            except AudioError as error:
                # Undo the rows of the sections before the damage.
                file.seek(start)
                file.truncate()
                unreadable.append(printable(error))
                continue
            predictions.append(sections[0].join(sections[1:]))
    return predictions, unreadable


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that appears under `path` only on success, and only if it is not empty."""
    draft = path.with_name(path.name + ".part")
    try:
        with open(draft, "w", newline="", encoding="utf-8") as file:
            yield file
        if draft.stat().st_size:  # an empty draft means that no recording could be read
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

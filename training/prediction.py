"""Load a saved model, find recordings, and write what is predicted for them."""

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
ENCODERS_TASK = "detection"
# A prediction by a model of synthetic data says so: a column or key that is true, and words for terminal and picture.
OF_SYNTHETIC_DATA = "model_of_synthetic_data"
SYNTHETIC_NOTICE = "SYNTHETIC DATA: the model learned from what a program made. It says nothing about people."
PLOT_SUFFIXES = (".png", ".pdf", ".svg")


class Part(Protocol):
    """What a model says about a stretch of a sound, as rows of a table."""

    def header(self) -> list[str]:
        """The table's columns."""
        ...

    def rows(self) -> Iterator[list[str]]:
        """The table's rows."""
        ...

    def join(self, others: Sequence[Self]) -> Self:
        """This stretch and those that follow it as one."""
        ...


def find_sounds(paths: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The recordings among files and folders, in order; a name that is not there is an error."""
    sounds = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and not file.is_dir())
            if not found:
                raise ValueError(f"{path}: no recording in this folder; it is searched for {' '.join(suffixes)}")
            sounds += found
        elif path.is_file():
            sounds.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return sounds


def task_of(model: str) -> str:
    """The name of the task that predicts with a model: that of its run; an encoder's labels are detected."""
    return ENCODERS_TASK if is_encoder(model) else read_record(model, "run_config.json")["task"]


def learned_from_synthetic_data(model: str) -> bool:
    """Whether a program made the data that a saved model was trained on; not so for a pretrained encoder."""
    if is_encoder(model):
        return False
    try:
        return read_record(model, "metrics.json")["data"]["synthetic"]
    except (OSError, ValueError):
        logger.warning("%s: no metrics.json, so whether it learned from synthetic data is not known", model)
        return False


def load_config(name: str) -> PreTrainedConfig | None:
    """A saved model's configuration, without its weights; None for a pretrained encoder, which has no run."""
    if is_encoder(name):
        return None
    try:
        return AutoConfig.from_pretrained(name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def load_model(name: str, device: str, task: Task) -> tuple[PreTrainedModel, FeatureExtractionMixin | None]:
    """A model and its features, from a folder or the Hub."""
    if is_encoder(name):
        encoder = load_encoder(name)
        return cast(Any, encoder.model).to(torch.device(device)), encoder.extractor
    if not Path(name).exists() and name.count("/") != 1:
        raise ValueError(f"{name}: no such folder, and not a name on the Hub (user/model)")
    try:
        model = task.auto_model.from_pretrained(name).to(torch.device(device)).eval()
        return model, None if task.auto_extractor is None else task.auto_extractor.from_pretrained(name)
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"{name} on device {device!r}: {error}") from error


def check_outputs(table: Path | None, plot: Path | None) -> None:
    """Refuse names that could not be written, before the work rather than after it."""
    for path in (path for path in (table, plot) if path is not None):
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: its folder does not exist; make it, or name another")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file")
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise ValueError(f"{plot}: a picture's name ends in one of {', '.join(PLOT_SUFFIXES)}")


def write_predictions(
    predict: Callable[[Path], Iterator[Part]], sounds: Sequence[Path], path: Path, keep: bool, synthetic: bool
) -> tuple[list[Part], list[str]]:
    """A CSV of what `predict` says of each sound, stretch by stretch.

    Written as predictions come, under its name once it is whole; a sound that turns out to be unreadable, also at its
    end, has no rows. Returns the predictions (to draw them) where they are to be kept, else what identifies them, and
    why some sounds have none. A model of `synthetic` data has a column that says so.
    """
    predictions, unreadable = [], []
    head, cell = ([OF_SYNTHETIC_DATA], ["true"]) if synthetic else ([], [])
    with whole_file(path) as file:
        writer = csv.writer(file)
        for sound in tqdm(sounds, desc="predicting", unit="sound"):
            start, stretches = file.tell(), []
            try:
                for part in predict(sound):
                    if not file.tell():
                        writer.writerow(safe_row([*part.header(), *head]))
                    writer.writerows(safe_row([*row, *cell]) for row in part.rows())
                    stretches += [part] if keep or not stretches else []
            except AudioError as error:
                file.seek(start)
                file.truncate()
                unreadable.append(printable(error))
                continue
            predictions.append(stretches[0].join(stretches[1:]))
    return predictions, unreadable


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write, which gets its name when it is whole and not empty; else nothing of it stays."""
    draft = path.with_name(path.name + ".part")
    try:
        with open(draft, "w", newline="", encoding="utf-8") as file:
            yield file
        if draft.stat().st_size:
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

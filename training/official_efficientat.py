"""EfficientAT as its authors publish it: weights under their names, and the csv of AudioSet's labels."""

import csv
import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling import EfficientAtConfig, EfficientAtFeatureExtractor, EfficientAtForAudioClassification
from modeling.configuration_efficientat import LAST_CHANNELS
from system.text import reason_of

LABELS_FILE = "class_labels_indices.csv"
LABEL_COLUMNS = ["index", "mid", "display_name"]
LAST_LAYER, HIDDEN, OUTPUT = "features.16.0.weight", "classifier.2.weight", "classifier.5.weight"


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, the same for all formats of files."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Weights of a `.safetensors` or `.pt` file; no code in it is run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no weights can be read from it: {reason_of(error)}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: not a dictionary of tensors. Give a file of EfficientAT's release.")
    return tensors


def read_labels(path: Path) -> list[str]:
    """The names of the labels, in the order of the classifier's outputs."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{path}: not a csv of labels: {error}") from error
    if header != LABEL_COLUMNS:
        raise ValueError(f"{path}: columns {','.join(header)}. Give AudioSet's file with {','.join(LABEL_COLUMNS)}.")
    for place, row in enumerate(rows):
        if len(row) != len(LABEL_COLUMNS) or row[0] != str(place) or not row[2].strip():
            raise ValueError(f"{path}: line {place + 2}: not a name with index {place}: {','.join(row)}")
    if len({name for _, _, name in rows}) < len(rows):
        raise ValueError(f"{path}: two labels have one name. Give AudioSet's own file.")
    return [name for _, _, name in rows]


def our_name(official: str) -> str:
    """The name of a tensor in our model."""
    name = official.replace("conc_se_layers.0.", "")  # one of several squeeze-excitations that could be joined
    name = name.replace("classifier.2.", "classifier.0.").replace("classifier.5.", "classifier.3.")
    return f"efficientat.{name}" if name.startswith("features.") else name


def build_official(
    tensors: Mapping[str, torch.Tensor], labels: list[str], place: object
) -> EfficientAtForAudioClassification:
    """A model with published weights; its sizes follow from their shapes. `place` is where they come from."""
    try:
        config = EfficientAtConfig(
            width=tensors[LAST_LAYER].shape[1] / LAST_CHANNELS,
            classifier_size=len(tensors[HIDDEN]),
            id2label=dict(enumerate(labels)),
            label2id={label: place for place, label in enumerate(labels)},
            problem_type="multi_label_classification",
        )
        outputs = len(tensors[OUTPUT])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{place}: no weights of mn04 to mn40: {error} is missing or has another shape") from error
    if outputs != len(labels):
        raise ValueError(f"{place}: {outputs} outputs, and {len(labels)} labels. Give the csv of their labels.")
    model = EfficientAtForAudioClassification(config)
    renamed = {
        our_name(name): tensor[:, :, None, None] if "conc_se_layers" in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{place}: not the weights of an EfficientAT of width {config.width:g}: {reason}") from error
    return model.eval()


def save_encoder(model: EfficientAtForAudioClassification, folder: Path) -> None:
    """Write a model, its extractor and the code of both to a new folder, which gets its name when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as name:
        draft = Path(name) / "model"
        model.save_pretrained(draft)
        EfficientAtFeatureExtractor(num_mel_bins=model.config.num_mel_bins).save_pretrained(draft)
        os.replace(draft, folder)

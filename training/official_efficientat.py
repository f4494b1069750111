"""Read EfficientAT as published by its authors: weights under their tensor names, and AudioSet's label file."""

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
# Tensors whose shapes give the width, the size of the hidden layer and the number of labels.
LAST_LAYER, HIDDEN, OUTPUT = "features.16.0.weight", "classifier.2.weight", "classifier.5.weight"


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors, which is independent of the file format."""
    sha = hashlib.sha256()
    # Include names, types and shapes: renamed or reshaped tensors are other weights.
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights from a `.safetensors` or `.pt` file, without executing code in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cannot read weights: {reason_of(error)}") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise ValueError(f"{path}: not a dictionary of tensors. Give a weights file from EfficientAT's release.")
    return tensors


def read_labels(path: Path) -> list[str]:
    """Read the label names, in the order of the classifier's outputs."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise ValueError(f"{path}: not a CSV file of labels: {error}") from error
    if header != LABEL_COLUMNS:
        raise ValueError(
            f"{path}: its columns are {','.join(header)}. Give AudioSet's file with {','.join(LABEL_COLUMNS)}."
        )
    for index, row in enumerate(rows):
        if len(row) != len(LABEL_COLUMNS) or row[0] != str(index) or not row[2].strip():
            line = index + 2  # the header is line 1
            raise ValueError(f"{path}: line {line}: expected index {index} and a name, got {','.join(row)}")
    if len({name for _, _, name in rows}) < len(rows):
        raise ValueError(f"{path}: two labels have the same name. Give AudioSet's own file.")
    return [name for _, _, name in rows]


def our_name(official: str) -> str:
    """Return the name in our model of a tensor in the official weights."""
    # The official code can combine several squeeze-excitation layers. The published models have one.
    name = official.replace("conc_se_layers.0.", "")
    name = name.replace("classifier.2.", "classifier.0.").replace("classifier.5.", "classifier.3.")
    return f"efficientat.{name}" if name.startswith("features.") else name


def build_official(
    tensors: Mapping[str, torch.Tensor], labels: list[str], source: object
) -> EfficientAtForAudioClassification:
    """Build our model from official weights. Error messages call them `source`: a path or URL."""
    try:
        # Weights files have no config, so derive it from the shapes of the tensors.
        config = EfficientAtConfig(
            width=tensors[LAST_LAYER].shape[1] / LAST_CHANNELS,
            classifier_size=len(tensors[HIDDEN]),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type="multi_label_classification",
        )
        outputs = len(tensors[OUTPUT])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{source}: not the weights of mn04 to mn40: {error} is missing or has the wrong shape. "
            "Give a weights file from EfficientAT's release."
        ) from error
    if outputs != len(labels):
        raise ValueError(
            f"{source}: {outputs} outputs, but {len(labels)} labels. Give the label file that belongs to the weights."
        )
    model = EfficientAtForAudioClassification(config)
    # Our squeeze-excitation layers are 1x1 convolutions; the official ones are linear layers with the same weights.
    renamed = {
        our_name(name): tensor[:, :, None, None] if "conc_se_layers" in name and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
    try:
        model.load_state_dict(renamed)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{source}: not the weights of an EfficientAT of width {config.width:g}: {reason}") from error
    return model.eval()


def save_encoder(model: EfficientAtForAudioClassification, folder: Path) -> None:
    """Write a model, its feature extractor and their code to a new folder. The folder appears only when complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as name:
        draft = Path(name) / "model"
        model.save_pretrained(draft)
        EfficientAtFeatureExtractor(num_mel_bins=model.config.num_mel_bins).save_pretrained(draft)
        os.replace(draft, folder)  # atomic; fails if the folder exists and is not empty

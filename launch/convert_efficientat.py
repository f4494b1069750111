"""Convert official EfficientAT weights to a folder that `from_pretrained`, run_predict.py and configs accept.

python -m launch.convert_efficientat mn04_as_mAP_432.pt efficientat_mn04_as --labels class_labels_indices.csv
"""

import argparse
import sys
from pathlib import Path

from launch.start import begin
from system.process import one_line_errors
from training.settings import check_front_end


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m launch.convert_efficientat", description="Convert official EfficientAT weights to a folder."
    )
    parser.add_argument(
        "weights",
        type=Path,
        help="A .pt or .safetensors file from EfficientAT's release: mn04 to mn40, with the default 10 ms hop and 128 "
        "mel bands.",
    )
    parser.add_argument("folder", type=Path, help="Output folder; it must not exist.")
    parser.add_argument("--labels", type=Path, required=True, help="AudioSet's class_labels_indices.csv.")
    arguments = parser.parse_args(argv)
    # The error of a wrong file must come before torch is imported.
    check_front_end("weights", arguments.weights)
    if arguments.folder.exists():
        raise ValueError(f"{arguments.folder}: already exists. Give a new folder.")
    return arguments


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

from training.official_efficientat import build_official, read_labels, read_tensors, save_encoder


def main(argv: list[str]) -> None:
    """Read and convert the weights, and save the model."""
    arguments = parse(argv)
    model = build_official(read_tensors(arguments.weights), read_labels(arguments.labels), arguments.weights)
    save_encoder(model, arguments.folder)
    print(f"{arguments.folder}: {model.num_parameters():,} parameters, {model.config.num_labels} labels")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

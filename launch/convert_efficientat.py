"""Official weights of EfficientAT as a folder that `from_pretrained`, run_predict.py and configs take.

python -m launch.convert_efficientat mn04_as_mAP_432.pt efficientat_mn04_as --labels class_labels_indices.csv
"""

import argparse
import sys
from pathlib import Path

from launch.start import begin
from system.process import one_line_errors
from training.settings import check_front_end


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.convert_efficientat", description="Official weights of EfficientAT as a folder."
    )
    weights = "A .pt or .safetensors of EfficientAT's release: mn04 to mn40, not those of another hop or other bands."
    parser.add_argument("weights", type=Path, help=weights)
    parser.add_argument("folder", type=Path, help="A new folder.")
    parser.add_argument("--labels", type=Path, required=True, help="class_labels_indices.csv of AudioSet.")
    arguments = parser.parse_args(argv)
    check_front_end("weights", arguments.weights)
    if arguments.folder.exists():
        raise ValueError(f"{arguments.folder}: is there already. Name a new folder.")
    return arguments


if __name__ == "__main__":
    begin(parse)

from training.official_efficientat import build_official, read_labels, read_tensors, save_encoder


def main(argv: list[str]) -> None:
    """Read, convert, write."""
    arguments = parse(argv)
    model = build_official(read_tensors(arguments.weights), read_labels(arguments.labels), arguments.weights)
    save_encoder(model, arguments.folder)
    print(f"{arguments.folder}: {model.num_parameters():,} parameters, {model.config.num_labels} labels")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

"""Print how many numbers each part of a config's new emotion model has, trainable and frozen, without data or weights.

    python -m launch.count_parameters configs/meld_guide.json

Any key of the config may follow. For other tasks the sizes follow from the data, and training logs them at its start.
"""

import argparse
import sys

from launch.settings import read_settings
from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> list[str]:
    """The config and its keys; a task whose models have no size without data is refused."""
    parser = argparse.ArgumentParser(prog="python -m launch.count_parameters", description="Count a model's numbers.")
    parser.add_argument("config", help="the config of an emotion run")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="any of its keys, as --key value")
    arguments = parser.parse_args(argv)
    words = [arguments.config, *arguments.keys]
    read = read_settings(words)
    if read.arguments.task != "emotion":
        raise ValueError(
            f"task={read.arguments.task}: the sizes of its models follow from the data. Give a config of task emotion."
        )
    return words


if __name__ == "__main__":
    begin(parse)

import torch
from transformers import AutoConfig, BertConfig

from launch.run import parse_run
from tasks.emotion.settings import EncoderSettings
from training.build import new_config
from training.parts import describe_sizes


def main(argv: list[str]) -> None:
    """Build the model on no device at all: its weights have shapes and no values."""
    run = parse_run(parse(argv))
    name = run.settings.encoders.text_model
    # BERT base is what transformers' BertConfig describes, so nothing is downloaded for it.
    text = BertConfig() if name == EncoderSettings.text_model else AutoConfig.from_pretrained(name)
    config = new_config(run.arguments, {"text_config": text.to_dict()}, run.task.model_configs)
    with torch.device("meta"):
        print(describe_sizes(run.task.auto_model.from_config(config)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

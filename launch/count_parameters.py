"""Print the number of trainable and frozen parameters of each part of an emotion model, without data or weights.

    python -m launch.count_parameters configs/meld_guide.json

Any config key may follow. For other tasks the sizes depend on the data; run_train.py logs them before training.
"""

import argparse
import sys

from launch.settings import read_settings
from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> list[str]:
    """Return the config and its keys as arguments of run_train.py; raise ValueError unless the task is emotion."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.count_parameters", description="Count the parameters of an emotion model."
    )
    parser.add_argument("config", help="Config of an emotion run.")
    parser.add_argument("keys", nargs=argparse.REMAINDER, help="Any config keys, as --key value.")
    arguments = parser.parse_args(argv)
    # A model of another task gets sizes from its data, such as the number of inputs.
    command = [arguments.config, *arguments.keys]
    task = read_settings(command).arguments.task
    if task != "emotion":
        raise ValueError(f"task={task!r}: the sizes of its models depend on the data. Give a config of task emotion.")
    return command


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

import torch
from transformers import AutoConfig, BertConfig

from launch.run import parse_run
from tasks.emotion.settings import EncoderSettings
from training.build import new_config
from training.parts import describe_sizes


def main(argv: list[str]) -> None:
    """Build the model and print its sizes."""
    run = parse_run(parse(argv))
    name = run.settings.encoders.text_model
    # The defaults of BertConfig are those of BERT base, so the default text model needs no download.
    text = BertConfig() if name == EncoderSettings.text_model else AutoConfig.from_pretrained(name)
    config = new_config(run.arguments, {"text_config": text.to_dict()}, run.task.model_configs)
    # Tensors on the meta device have shapes but no values, so they need no memory.
    with torch.device("meta"):
        print(describe_sizes(run.task.auto_model.from_config(config)))


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

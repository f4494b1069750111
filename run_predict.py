"""Predict signals over time, events or emotions for your own recordings with a saved model, and plot them.

python run_predict.py outputs/eda_tcn song.mp3 another.wav --output predictions.csv --plot predictions.png
python run_predict.py outputs/baby_cry recording.wav --output events.csv --plot events.png
python run_predict.py efficientat_mn04_as recording.wav --output tags.csv --plot tags.png
python run_predict.py efficientat_mn04_as recording.wav --target "Baby cry, infant cry" --output events.csv
python run_predict.py outputs/eda_tcn folder_of_sounds --output predictions.csv
python run_predict.py outputs/meld_sample clip.mp4 --text "You came!" --plot emotions.png
python run_predict.py outputs/meld_sample --text "You came!"
python run_predict.py outputs/meld_sample film.mp4 --utterances film.srt --output emotions.json --plot emotions.png
python run_predict.py outputs/meld_sample --utterances lines.csv --output emotions.json
"""

import argparse
import sys
from pathlib import Path

from launch.start import begin
from system.process import one_line_errors


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_predict.py",
        description="Predict signals, events or emotions in recordings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model",
        help="Folder of a run of run_train.py, a Hub name, or a pretrained encoder such as efficientat_mn04_as.",
    )
    parser.add_argument(
        "sounds",
        nargs="*",
        type=Path,
        help="Audio or video files, or folders to search for them. Leave it out to use only --text or --utterances.",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="Output file. None uses predictions.csv, or predictions.json for emotions.",
    )
    parser.add_argument("--plot", type=Path, default=None, help="Plot of all predictions: a .png, .pdf or .svg file.")
    parser.add_argument(
        "--listener",
        default=None,
        help="Listener whose mean and spread scale the predicted signal, for models trained with listener scaling.",
    )
    parser.add_argument(
        "--target",
        default=None,
        help="Label to detect with a pretrained encoder. None writes scores of all labels.",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=None,
        help="Detection threshold for events, from 0 to 1. None uses the threshold of the trained detector, or 0.2 "
        "for a pretrained encoder.",
    )
    parser.add_argument("--text", default=None, help="Words of the utterance, for emotions; with or without a clip.")
    parser.add_argument(
        "--utterances",
        type=Path,
        default=None,
        help="File of utterances, for emotions; with or without a long clip. Formats: .srt, .vtt, or .csv with the "
        "column text, optionally speaker, and start and end (in s), which are required with a clip.",
    )
    parser.add_argument("--device", default="cpu", help="Device of the model: cpu, cuda, cuda:1, ...")
    parsed = parser.parse_args(argv)
    if not parsed.sounds and parsed.text is None and parsed.utterances is None:
        raise ValueError("sounds: no recording is given. Give one, or --text or --utterances for a model of text.")
    return parsed


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

from launch.run import load_task
from reporting.plots import DPI, FALSE
from system.text import plural, printable
from training.prediction import (
    SYNTHETIC_NOTICE,
    check_outputs,
    find_sounds,
    learned_from_synthetic_data,
    load_config,
    load_model,
    task_of,
)


def main(argv: list[str]) -> None:
    """Find the recordings, write predictions for them, and plot these."""
    arguments = parse(argv)
    check_outputs(arguments.output, arguments.plot)  # before `task_of`, which may need the network
    name = task_of(arguments.model)
    task = load_task(name)
    for option in ("listener", "target", "threshold", "text", "utterances"):
        if option not in task.prediction_options and getattr(arguments, option) is not None:
            raise ValueError(f"--{option}: not supported by models of task {name!r}. Remove the option.")
    arguments.output = arguments.output or Path(f"predictions{task.output_suffix}")
    check_outputs(arguments.output, arguments.plot)
    sounds = find_sounds(arguments.sounds, task.suffixes) if task.suffixes else []
    # All of these checks come before the weights are loaded, which can take minutes.
    task.check_prediction(load_config(arguments.model), sounds, arguments)
    arguments.synthetic = learned_from_synthetic_data(arguments.model)
    model, extractor = load_model(arguments.model, arguments.device, task)
    result = task.predict(model, extractor, sounds, arguments)
    if result.predictions and arguments.synthetic:
        print(SYNTHETIC_NOTICE)
    if result.predictions:
        count = f"{plural(len(result.predictions), 'recording')}, " if sounds else ""
        print(f"{count}{result.summary}\nwritten: {printable(arguments.output)}")
    if result.predictions and arguments.plot:
        figure = task.plot_predictions(result.predictions)
        if arguments.synthetic:
            figure.suptitle(SYNTHETIC_NOTICE, fontsize=9, color=FALSE)
        figure.savefig(arguments.plot, dpi=DPI)
        print(f"plot: {printable(arguments.plot)}")
    elif result.predictions:
        print("next: add --plot predictions.png to plot the predictions")
    # Readable recordings have their predictions, but the exit status must show that some are missing.
    if result.unreadable:
        reasons = "; ".join(result.unreadable)
        total = plural(len(sounds), "recording")
        raise ValueError(f"no prediction for {len(result.unreadable)} of {total}: {reasons}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

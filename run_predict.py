"""What a saved model predicts for your own recordings: values over time, events, or emotions, and a plot.

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
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="run_predict.py",
        description="Predict signals, detect events, or name emotions in recordings.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model",
        help="A folder that run_train.py wrote, a name on the Hub, or a pretrained encoder: see training/encoders.",
    )
    parser.add_argument(
        "sounds",
        nargs="*",
        type=Path,
        help="Sounds or clips, or folders that are searched for them; none for a model that reads text, with --text "
        "or --utterances.",
    )
    parser.add_argument(
        "--output", type=Path, default=None, help="The file; None is predictions.csv, or predictions.json of emotions."
    )
    parser.add_argument("--plot", type=Path, default=None, help="A picture of all predictions, .png or .pdf.")
    parser.add_argument(
        "--listener", default=None, help="Whose level and spread to use, under listener scaling of a signal."
    )
    parser.add_argument("--target", default=None, help="A label of a pretrained encoder; None: the scores of all.")
    parser.add_argument(
        "--threshold", type=float, default=None, help="Of events; None is the detector's own, 0.2 of an encoder."
    )
    parser.add_argument(
        "--text", default=None, help="The words of the utterance, for emotions: in the clip, or without one."
    )
    parser.add_argument(
        "--utterances",
        type=Path,
        default=None,
        help="The words line by line, in a long clip or without one: .srt, .vtt or .csv, with a column text, and "
        "optionally speaker, and start and end, which a clip needs.",
    )
    parser.add_argument("--device", default="cpu", help="Where the model runs: cpu, cuda, cuda:1, ...")
    parsed = parser.parse_args(argv)
    if not parsed.sounds and parsed.text is None and parsed.utterances is None:
        raise ValueError("sounds: none is given. Name a recording, or give --text or --utterances to a model of text.")
    return parsed


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
    """Find, predict and write block by block, plot."""
    arguments = parse(argv)
    check_outputs(arguments.output, arguments.plot)
    name = task_of(arguments.model)
    task = load_task(name)
    for option in ("listener", "target", "threshold", "text", "utterances"):
        if option not in task.prediction_options and getattr(arguments, option) is not None:
            raise ValueError(f"--{option}: a model of task {name!r} takes none; leave it out")
    arguments.output = arguments.output or Path(f"predictions{task.output_suffix}")
    check_outputs(arguments.output, arguments.plot)
    sounds = find_sounds(arguments.sounds, task.suffixes) if task.suffixes else []
    task.check_prediction(load_config(arguments.model), sounds, arguments)
    arguments.synthetic = learned_from_synthetic_data(arguments.model)
    model, extractor = load_model(arguments.model, arguments.device, task)
    found = task.predict(model, extractor, sounds, arguments)
    if found.predictions and arguments.synthetic:
        print(SYNTHETIC_NOTICE)
    if found.predictions:
        counted = f"{plural(len(found.predictions), 'recording')}, " if sounds else ""
        print(f"{counted}{found.summary}\nwritten: {printable(arguments.output)}")
    if found.predictions and arguments.plot:
        figure = task.plot_predictions(found.predictions)
        if arguments.synthetic:
            figure.suptitle(SYNTHETIC_NOTICE, fontsize=9, color=FALSE)
        figure.savefig(arguments.plot, dpi=DPI)
        print(f"plot: {printable(arguments.plot)}")
    elif found.predictions:
        print("next: the same command with --plot predictions.png draws them")
    if found.unreadable:
        reasons = "; ".join(found.unreadable)
        raise ValueError(f"no prediction for {len(found.unreadable)} of {plural(len(sounds), 'recording')}: {reasons}")


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])

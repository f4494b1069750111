"""Predictions with a pretrained encoder's own labels: tags of windows and events of one label, by run_predict.py."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.pyplot import imread

import run_predict
from media.audio import read_audio
from modeling import EfficientAtFeatureExtractor
from tests.helpers.efficientat import small_encoder
from training.official_efficientat import save_encoder

RATE = 32000
LENGTHS = {"a.wav": 2.3, "=b.flac": 0.2, "c.ogg": 5.0}  # s


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_encoder(small_encoder(window_seconds=0.8, hop_seconds=0.3), tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name, seconds in LENGTHS.items():
        noise = np.random.default_rng(len(name)).normal(0, 0.1, (round(seconds * 44100), 2))
        soundfile.write(folder / name, noise, 44100)
    return folder


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def window_scores(sound: Path) -> tuple[list[float], np.ndarray]:
    """Compute starts and scores of windows in a plain loop."""
    model, extractor = run_predict.load_model(
        str(sound.parents[1] / "encoder"), "cpu", run_predict.load_task("detection")
    )
    audio, _ = read_audio(sound, RATE)
    size, hop = round(0.8 * RATE), round(0.3 * RATE)
    audio = np.pad(audio, (0, max(0, size - len(audio))))
    starts = sorted({*range(0, len(audio) - size + 1, hop), len(audio) - size})
    with torch.inference_mode():
        logits = [model(**extractor(audio[i : i + size], sampling_rate=RATE)).logits[0] for i in starts]
    return [start / RATE for start in starts], torch.stack(logits).sigmoid().numpy()


def test_every_window_has_a_score_for_every_label(encoder: Path, sounds: Path, tmp_path: Path) -> None:
    output, plot = tmp_path / "tags.csv", tmp_path / "tags.png"
    run_predict.main([str(encoder), str(sounds), "--output", str(output), "--plot", str(plot)])
    header, *rows = read(output)
    assert header == ["file", "start_seconds", "end_seconds", *(f"sound {i}, of some kind" for i in range(5))]
    assert imread(plot).ndim == 3
    for name, seconds in LENGTHS.items():
        starts, scores = window_scores(sounds / name)
        recording = [[float(cell) for cell in row[1:]] for row in rows if row[0] == str(sounds / name)]
        np.testing.assert_allclose([row[0] for row in recording], starts, atol=5e-4)
        np.testing.assert_allclose([row[2:] for row in recording], scores, atol=1e-4)
        assert recording[-1][1] == pytest.approx(max(seconds, 0.8), abs=1e-3)
    assert len({row[0] for row in rows}) == 3


def test_damaged_recordings_are_named_and_the_others_predicted(encoder: Path, sounds: Path, tmp_path: Path) -> None:
    output = tmp_path / "tags.csv"
    (sounds / "damaged.wav").write_bytes((sounds / "a.wav").read_bytes()[:40])
    (sounds / "empty.mp3").touch()
    with pytest.raises(ValueError, match=" 2 of 5 .*damaged.wav.*empty.mp3"):
        run_predict.main([str(encoder), str(sounds), "--output", str(output)])
    assert {Path(row[0]).name for row in read(output)[1:]} == set(LENGTHS)


def test_events_of_one_label_are_its_windows_above_the_threshold(
    encoder: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    starts, scores = window_scores(sounds / "c.ogg")
    label = int(scores.std(axis=0).argmax())
    threshold = float(np.median(scores[:, label]))
    output = tmp_path / "events.csv"
    command = [
        str(encoder),
        str(sounds / "c.ogg"),
        "--target",
        f"sound {label}, of some kind",
        "--output",
        str(output),
    ]
    run_predict.main([*command, "--threshold", str(threshold), "--plot", str(tmp_path / "events.png")])
    header, *rows = read(output)
    assert header == ["file", "start_seconds", "end_seconds", "score", "label"]
    assert {row[4] for row in rows} == {f"sound {label}, of some kind"}
    assert f"{len(rows)} events" in capsys.readouterr().out
    events = np.array([row[1:4] for row in rows], float)
    detected = np.array(starts)[scores[:, label] >= threshold]
    for start in detected:  # frame scores may narrow an event within its windows
        assert ((events[:, 0] < start + 0.8) & (events[:, 1] > start)).any()
    assert events[:, 2].max() == pytest.approx(scores[:, label].max(), abs=1e-4)
    run_predict.main([*command, "--threshold", "1"])
    assert read(output) == [header]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--threshold", "0.5"], "--threshold=0.5"),
        (["--target", "sound 2"], "--target=sound 2: .*sound 2, of some kind"),
        (["--target", "sound 2, of some kind", "--threshold", "7"], "--threshold=7"),
        (["--listener", "me"], "--listener"),
    ],
)
def test_invalid_options_are_rejected(options: list[str], named: str, encoder: Path, sounds: Path) -> None:
    with pytest.raises(ValueError, match=named):
        run_predict.main([str(encoder), str(sounds), *options])


def test_encoder_without_labels_is_rejected(sounds: Path, tmp_path: Path) -> None:
    plain = small_encoder().base_model
    plain.save_pretrained(tmp_path / "plain")
    EfficientAtFeatureExtractor().save_pretrained(tmp_path / "plain")
    command = [str(tmp_path / "plain"), str(sounds / "a.wav"), "--output", str(tmp_path / "out.csv")]
    for options in ([], ["--target", "sound 2, of some kind"]):
        with pytest.raises(ValueError, match=f"model={tmp_path / 'plain'}: .*encoder.name"):
            run_predict.main([*command, *options])
    assert not (tmp_path / "out.csv").exists()


def test_detector_detects_only_its_own_target(encoder: Path, sounds: Path, tmp_path: Path) -> None:
    model = small_encoder(labels=1)
    model.config.update({"detection": {"clip_seconds": 1.0, "hop_seconds": 0.5, "threshold": 0.0}})
    save_encoder(model, tmp_path / "detector")
    command = [str(tmp_path / "detector"), str(sounds / "a.wav"), "--output", str(tmp_path / "out.csv")]
    run_predict.main(command)
    (event,) = read(tmp_path / "out.csv")[1:]
    assert [float(event[1]), float(event[2])] == pytest.approx([0.0, 2.3], abs=1 / 8)  # half a frame
    with pytest.raises(ValueError, match="--target=rain"):
        run_predict.main([*command, "--target", "rain"])

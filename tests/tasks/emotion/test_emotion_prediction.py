"""Test emotion predictions for new clips and texts: utterance tables, incomplete clips, output and timeline."""

import argparse
import csv
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

from hf_datasets.meld.synthetic_clips import show, sing, write_clip
from modeling import FusionForEmotion, FusionProcessor
from reporting.plots import png
from tasks.emotion.predict import (
    ClipPrediction,
    LabelConfidence,
    UtterancePrediction,
    check_prediction,
    predict_clips,
    predict_utterance,
)
from tasks.emotion.subtitles import Utterance, csv_utterances, cue_utterances, read_utterances, seconds_of
from tasks.emotion.timeline import SHORTEST, plot_emotions, wrapped_text
from tests.helpers.tiny_fusion import tiny_model

SECONDS = 1.0  # length of a clip
# Texts that both subtitle formats can hold: no markup, no arrow, and single spaces between words.
WORDS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="<>{}\\"), min_size=1, max_size=8)
TEXTS = st.lists(WORDS, max_size=5).map(" ".join).filter(lambda text: "-->" not in text)
SPANS = st.tuples(st.integers(0, 5 * 3600 * 1000), st.integers(1, 60_000), TEXTS)  # start (ms), duration (ms), text


@pytest.fixture(scope="module")
def model() -> FusionForEmotion:
    """A model of text, video and audio with random weights."""
    return tiny_model()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clips")
    frames, sound = show(random, "joy", SECONDS), sing(random, "joy", SECONDS)
    names = ("complete", "without_audio", "without_video", "truncated", "empty")
    paths = {name: folder / f"{name}.mp4" for name in names}
    write_clip(paths["complete"], frames, sound)
    write_clip(paths["without_audio"], frames, None)
    write_clip(paths["without_video"], None, sound)
    # The index of an .mp4 file is at its end, so a truncated file cannot be opened.
    paths["truncated"].write_bytes(paths["complete"].read_bytes()[:-2000])
    paths["empty"].touch()
    return paths


def make_arguments(folder: Path, **options: object) -> argparse.Namespace:
    """Return the arguments of run_predict.py that the task reads."""
    defaults = {"listener": None, "threshold": None, "text": None, "utterances": None, "synthetic": False}
    return argparse.Namespace(**defaults | {"output": folder / "out.json"} | options)


def format_time(milliseconds: int, comma: str) -> str:
    """Return hh:mm:ss, the separator and milliseconds."""
    seconds, milli = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{comma}{milli:03d}"


def utterances_of(spans: list[tuple[int, int, str]], speaker: str | None = None) -> list[Utterance]:
    return [Utterance(start / 1000, (start + duration) / 1000, text, speaker) for start, duration, text in spans]


# Tables of utterances


@given(st.lists(SPANS, min_size=1, max_size=6), st.sampled_from([".srt", ".vtt"]))
def test_cues_are_read_as_written(spans: list[tuple[int, int, str]], suffix: str) -> None:
    comma = "," if suffix == ".srt" else "."
    lines = ["WEBVTT", ""] if suffix == ".vtt" else []
    for number, (start, duration, text) in enumerate(spans, 1):
        two_lines = text.replace(" ", "\n", 1)
        escaped = html.escape(two_lines) if suffix == ".vtt" else two_lines
        times = f"{format_time(start, comma)} --> {format_time(start + duration, comma)}"
        lines += [str(number), times + (" align:start" if suffix == ".vtt" else ""), f"<i>{escaped}</i>", ""]
    assert cue_utterances("\n".join(lines), Path(f"film{suffix}")) == utterances_of(spans)


@given(st.lists(SPANS, min_size=1, max_size=6), st.booleans())
def test_table_rows_are_read_as_written(spans: list[tuple[int, int, str]], as_clock: bool) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["text", "speaker", "start", "end"])
    for start, duration, text in spans:
        times = [format_time(ms, ".") if as_clock else f"{ms / 1000}" for ms in (start, start + duration)]
        writer.writerow([text, "Bo, and Edda", *times])
    assert csv_utterances(file.getvalue(), Path("film.csv")) == utterances_of(spans, "Bo, and Edda")


@given(st.lists(TEXTS, min_size=1, max_size=6), st.booleans())
def test_texts_without_times_are_read(texts: list[str], with_speaker: bool) -> None:
    file = io.StringIO(newline="")
    rows = [[text, "Bo"] if with_speaker else [text, "x"] for text in texts]
    csv.writer(file).writerows([["text", "speaker" if with_speaker else "id"], *rows])
    utterances = csv_utterances(file.getvalue(), Path("lines.csv"))
    assert utterances == [Utterance(None, None, text, "Bo" if with_speaker else None) for text in texts]


def test_files_from_windows_and_texts_with_line_breaks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "film.csv"
    path.write_bytes('\ufeffstart,end,text\r\n0,1.5,"Oh,\r\nno"\r\n'.encode())
    (utterance,) = read_utterances(path)
    assert (utterance.start_seconds, utterance.end_seconds) == (0.0, 1.5)
    assert utterance.text.split() == ["Oh,", "no"]
    path = tmp_path / "film.SRT"
    path.write_bytes("\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\n- So.\r\n- <b>Yes</b>{\\an8}\r\n\r\n".encode())
    assert read_utterances(path) == [Utterance(1.0, 2.0, "- So. - Yes")]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [("0", 0.0), ("12.25", 12.25), ("1:02", 62.0), ("0:16:21,731", 981.731), ("100:00:00.5", 360000.5)],
)
def test_a_time_is_seconds_or_hours_minutes_and_seconds(cell: str, seconds: float) -> None:
    assert seconds_of(cell, "film.csv:2") == seconds


@pytest.mark.parametrize("cell", ["", "soon", "-1", "nan", "inf", "1:2:3:4", "00:00:01,0000", None])
def test_an_invalid_time_is_rejected_with_its_line(cell: str | None) -> None:
    with pytest.raises(ValueError, match=rf"^film\.csv:2: {re.escape(repr((cell or '').strip()))}: .*h:mm:ss\.ms"):
        seconds_of(cell, "film.csv:2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.srt", b"1\n00:00:03,000 --> 00:00:02,000\nNo.\n", r"a\.srt:2: end=2\.0: .* start=3\.0"),
        ("a.srt", b"1\n00:00:01,000 --> soon\nNo.\n", r"a\.srt:2: 'soon': "),
        ("a.srt", b"1\n0:01 --> 0:02\nNo.\n2\n0:03 --> 0:04\nYes.\n", r"a\.srt:5: .* line 2"),
        ("a.vtt", b"WEBVTT\n\nNOTE nobody speaks\n", r"a\.vtt: no utterance"),
        ("a.csv", b"start,end,text\n", r"a\.csv: no utterance"),
        ("a.csv", b"", r"a\.csv: missing columns: text"),
        ("a.csv", b"start,stop,text\n0,1,x\n", r"a\.csv: missing columns: end .*\['start', 'stop', 'text'\]"),
        ("a.csv", b"start,end,text\n0,1,Oh, no\n", r"a\.csv:2: .*cells"),
        ("a.csv", b"start,end,text\n0,1,x\n2,1,x\n", r"a\.csv:3: end=1\.0: .* start=2\.0"),
        ("a.csv", b'start,end,text\n0,1,"x\n', r"a\.csv:2: .*quote"),
        ("a.csv", "start,end,text\n0,1,é\n".encode("cp1252"), r"a\.csv: .*UTF-8"),
        ("a.txt", b"0 1 x\n", r"a\.txt: .*\.srt, \.vtt or \.csv"),
    ],
)
def test_a_mistake_in_a_table_is_reported_in_one_line_with_its_line_number(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_utterances(tmp_path / name)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.srt: "):
        read_utterances(tmp_path / "none.srt")


# Clips


def test_every_utterance_of_a_film_is_predicted(
    model: FusionForEmotion, processor: FusionProcessor, clips: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "film.csv").write_text("start,end,text\n0,0.4,Hooray!\n0.4,1,\n5,6,Too late.\n")
    arguments = make_arguments(tmp_path, utterances=tmp_path / "film.csv")
    result = predict_clips(model, processor, [clips["complete"]], arguments)
    assert result.unreadable == []
    assert len(result.predictions[0].utterances) == 3
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.json"]
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert record["file"] == str(clips["complete"])
    utterances = record["utterances"]
    times = [(utterance["start_seconds"], utterance["end_seconds"], utterance["text"]) for utterance in utterances]
    assert times == [(0.0, 0.4, "Hooray!"), (0.4, 1.0, ""), (5.0, 6.0, "Too late.")]
    assert [utterance["missing"] for utterance in utterances] == [[], ["text"], ["video", "audio"]]
    for utterance in utterances:
        for head, names in (("emotions", model.config.emotion_names), ("sentiments", model.config.sentiment_names)):
            confidences = [label["confidence"] for label in utterance[head]]
            assert len({label["label"] for label in utterance[head]} & set(names)) == len(utterance[head]) == 3
            assert confidences == sorted(confidences, reverse=True)
            assert 0 < sum(confidences) <= 1 + 1e-9
    summary, *lines = result.summary.splitlines()
    assert summary.startswith("3 utterances")
    assert summary.endswith("text, video, audio")
    # The last utterance starts after the end of the clip.
    assert [all(name in line for name in ("video", "audio")) for line in lines] == [False, False, True]


@pytest.mark.parametrize(
    ("clip", "text", "missing"),
    [
        ("complete", "Hooray!", []),
        ("complete", None, ["text"]),
        ("complete", " ", ["text"]),
        ("without_audio", "Hooray!", ["audio"]),
        ("without_video", "Hooray!", ["video"]),
        ("without_video", None, ["text", "video"]),
    ],
)
def test_missing_modalities_are_listed_and_the_others_are_used(
    model: FusionForEmotion,
    processor: FusionProcessor,
    clips: dict[str, Path],
    tmp_path: Path,
    clip: str,
    text: str | None,
    missing: list[str],
) -> None:
    result = predict_clips(model, processor, [clips[clip]], make_arguments(tmp_path, text=text))
    (utterance,) = result.predictions[0].utterances
    assert utterance.missing == missing
    assert result.unreadable == []
    assert utterance.end_seconds == pytest.approx(SECONDS, abs=0.1)


def test_a_clip_without_any_modality_of_the_model_is_reported(
    processor: FusionProcessor, clips: dict[str, Path], tmp_path: Path
) -> None:
    model, clip = tiny_model(modalities=["text", "audio"]), clips["without_audio"]
    result = predict_clips(model, processor, [clip], make_arguments(tmp_path))
    assert result.predictions == []
    (message,) = result.unreadable
    assert message.startswith(f"{clip}: ")
    assert all(words in message for words in ("audio", "text", " 0 s"))
    result = predict_clips(model, processor, [clip], make_arguments(tmp_path, text="Hooray!"))
    assert result.predictions[0].utterances[0].missing == ["audio"]
    assert result.unreadable == []


def test_unreadable_clips_are_reported_and_the_others_are_predicted(
    model: FusionForEmotion, processor: FusionProcessor, clips: dict[str, Path], tmp_path: Path
) -> None:
    three_clips = [clips[name] for name in ("truncated", "complete", "empty")]
    result = predict_clips(model, processor, three_clips, make_arguments(tmp_path))
    assert [clip.file for clip in result.predictions] == [clips["complete"]]
    assert len(result.unreadable) == 2
    assert "truncated.mp4" in result.unreadable[0]
    assert "moov atom" in result.unreadable[0]
    assert "0 bytes" in result.unreadable[1]
    records = json.loads((tmp_path / "out.json").read_text())
    assert [record["file"] for record in records] == [str(clips["complete"])]


def test_an_error_leaves_an_existing_output_unchanged(
    model: FusionForEmotion,
    processor: FusionProcessor,
    clips: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = make_arguments(tmp_path)
    arguments.output.write_text("earlier")
    predict_clips(model, processor, [clips["truncated"]], arguments)
    assert arguments.output.read_text() == "earlier"
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict_clips(model, processor, [clips["complete"]], arguments)
    assert arguments.output.read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 1


# Text without a clip


@pytest.mark.parametrize("modalities", [["text"], ["text", "audio"], ["text", "video", "audio"]], ids="-".join)
@pytest.mark.parametrize("timed", [False, True])
def test_texts_alone_are_predicted_like_texts_after_the_end_of_a_clip(
    processor: FusionProcessor, clips: dict[str, Path], modalities: list[str], timed: bool, tmp_path: Path
) -> None:
    model, table = tiny_model(modalities=modalities), tmp_path / "lines.csv"
    rows = [["Bo", "Hooray!", 7, 8], ["Edda", "Oh, no", 8, 9.5]]  # times after the end of the clip
    with open(table, "w", newline="") as file:
        columns = 4 if timed else 2
        csv.writer(file).writerows(row[:columns] for row in [["speaker", "text", "start", "end"], *rows])
    arguments = make_arguments(tmp_path, utterances=table)
    check_prediction(model.config, [], arguments)
    result = predict_clips(model, processor, [], arguments)
    assert result.unreadable == []
    (record,) = json.loads(arguments.output.read_text())
    assert record["file"] == str(table)
    for (speaker, text, *times), utterance in zip(rows, record["utterances"], strict=True):
        assert [utterance["speaker"], utterance["text"]] == [speaker, text]
        assert [utterance["start_seconds"], utterance["end_seconds"]] == (times if timed else [None, None])
        assert utterance["missing"] == modalities[1:]
        after_the_clip = predict_utterance(model, processor, clips["complete"], Utterance(7.0, 8.0, text))
        expected = [label.confidence for label in after_the_clip.emotions]
        assert [label["confidence"] for label in utterance["emotions"]] == expected
    (panel,) = plot_emotions(result.predictions).axes
    assert panel.get_xlim() == ((7, 9.5) if timed else (0.5, 2.5))


def test_a_single_text_is_predicted(model: FusionForEmotion, processor: FusionProcessor, tmp_path: Path) -> None:
    arguments = make_arguments(tmp_path, text="Hooray!")
    predict_clips(model, processor, [], arguments)
    (record,) = json.loads(arguments.output.read_text())
    (utterance,) = record["utterances"]
    assert (record["file"], utterance["start_seconds"], utterance["text"]) == (None, None, "Hooray!")
    assert utterance["missing"] == ["video", "audio"]


# The timeline


def make_prediction(
    start: float, end: float | None, text: str | None = "So.", missing: tuple[str, ...] = ()
) -> UtterancePrediction:
    emotions = [LabelConfidence("joy", 0.7), LabelConfidence("fear", 0.2), LabelConfidence("$pent", 0.1)]
    sentiments = [LabelConfidence("positive", 0.9), LabelConfidence("negative", 0.1)]
    return UtterancePrediction(start, end, None, text, emotions, sentiments, list(missing))


def test_a_timeline_has_a_panel_per_clip_and_a_bar_per_label_of_an_utterance() -> None:
    # "$" starts a formula in Matplotlib, unless it is escaped.
    clip = ClipPrediction(Path("one $ clip.mp4"), [make_prediction(0, None, None, ("text",))])
    film = ClipPrediction(
        Path("film.mp4"), [make_prediction(3.0 * i, 3.0 * i + 2.5, "I owe you $5 " * 9) for i in range(40)]
    )
    figure = plot_emotions([clip, film])
    assert png(figure)
    for panel, drawn in zip(figure.axes, (clip, film), strict=True):
        shapes = [shape for shape in panel.collections if isinstance(shape, PolyCollection)]
        bars = [shape.get_paths()[0].get_extents() for shape in shapes]
        labels = [tick.get_text() for tick in panel.get_yticklabels()]
        background, bars = bars[: len(labels) - 1], bars[len(labels) - 1 :]
        assert labels == [r"\$pent", "fear", "joy", "sentiment"]
        assert len(bars) == len(labels) * len(drawn.utterances)
        spans = sorted({(bar.x0, bar.x1) for bar in bars})
        assert spans == [(each.start_seconds, each.end_seconds or SHORTEST) for each in drawn.utterances]
        assert {(bar.x0, bar.x1) for bar in background} == {(spans[0][0], spans[-1][1])}
    assert {"0.70", "0.20", "0.10", "positive 0.90"} <= {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize(
    ("text", "letters", "shown"),
    [
        ("What? You lost this bridge?", 40, "What? You lost this bridge?"),
        ("What? You lost this bridge?", 12, "What? You\nlost this\nbridge?"),
        ("What? You lost this bridge and more of it?", 12, "What? You\nlost this\nbridge and…"),
        ("What? You lost this bridge?", 4, ""),
        (None, 40, ""),
    ],
)
def test_a_long_text_is_shortened_to_fit(text: str | None, letters: int, shown: str) -> None:
    assert wrapped_text(make_prediction(0, 1, text), letters) == shown


def test_missing_modalities_are_shown_after_the_text() -> None:
    shown = wrapped_text(make_prediction(0, 1, "So.", ("video", "audio")), 60)
    assert shown.startswith("So. ")
    assert all(name in shown for name in ("video", "audio"))

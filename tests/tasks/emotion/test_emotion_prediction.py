"""A model of emotions on clips of one's own: tables of utterances, clips that lack something, and what is written."""

import argparse
import csv
import html
import io
import json
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

SECONDS = 1.0  # of a clip
WORDS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="<>{}\\"), min_size=1, max_size=8)
TEXTS = st.lists(WORDS, max_size=5).map(" ".join).filter(lambda text: "-->" not in text)
SPANS = st.tuples(st.integers(0, 5 * 3600 * 1000), st.integers(1, 60_000), TEXTS)  # ms from, ms long, what


@pytest.fixture(scope="module")
def model() -> FusionForEmotion:
    """Text, video and audio, random."""
    return tiny_model()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole clip, one of pictures alone, one of sound alone, one that was cut off, and one of nothing."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clips")
    pictures, sound = show(random, "joy", SECONDS), sing(random, "joy", SECONDS)
    paths = {name: folder / f"{name}.mp4" for name in ("whole", "mute", "blind", "cut", "empty")}
    write_clip(paths["whole"], pictures, sound)
    write_clip(paths["mute"], pictures, None)
    write_clip(paths["blind"], None, sound)
    paths["cut"].write_bytes(paths["whole"].read_bytes()[:-2000])  # its index comes last
    paths["empty"].touch()
    return paths


def asked(folder: Path, **given: object) -> argparse.Namespace:
    """The command line, as far as it concerns the task."""
    nothing = {"listener": None, "threshold": None, "text": None, "utterances": None, "synthetic": False}
    return argparse.Namespace(**nothing | {"output": folder / "out.json"} | given)


def clock(milliseconds: int, comma: str) -> str:
    """A time of a cue."""
    seconds, milli = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{comma}{milli:03d}"


def expected(spans: list[tuple[int, int, str]], speaker: str | None = None) -> list[Utterance]:
    """The utterances that were written."""
    return [Utterance(start / 1000, (start + long) / 1000, text, speaker) for start, long, text in spans]


# Tables of utterances


@given(st.lists(SPANS, min_size=1, max_size=6), st.sampled_from([".srt", ".vtt"]))
def test_cues_that_were_written_are_read(spans: list[tuple[int, int, str]], suffix: str) -> None:
    comma = "," if suffix == ".srt" else "."
    lines = ["WEBVTT", ""] if suffix == ".vtt" else []
    for number, (start, long, text) in enumerate(spans, 1):
        broken = text.replace(" ", "\n", 1)  # the first word on a line of its own
        written = html.escape(broken) if suffix == ".vtt" else broken
        times = f"{clock(start, comma)} --> {clock(start + long, comma)}"
        lines += [str(number), times + (" align:start" if suffix == ".vtt" else ""), f"<i>{written}</i>", ""]
    assert cue_utterances("\n".join(lines), Path(f"film{suffix}")) == expected(spans)


@given(st.lists(SPANS, min_size=1, max_size=6), st.booleans())
def test_rows_that_were_written_are_read(spans: list[tuple[int, int, str]], as_clock: bool) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["text", "speaker", "start", "end"])
    for start, long, text in spans:
        times = [clock(ms, ".") if as_clock else f"{ms / 1000}" for ms in (start, start + long)]
        writer.writerow([text, "Bo, and Edda", *times])
    assert csv_utterances(file.getvalue(), Path("film.csv")) == expected(spans, "Bo, and Edda")


@given(st.lists(TEXTS, min_size=1, max_size=6), st.booleans())
def test_lines_of_text_need_no_times(texts: list[str], spoken: bool) -> None:
    file = io.StringIO(newline="")
    rows = [[text, "Bo"] if spoken else [text, "x"] for text in texts]
    csv.writer(file).writerows([["text", "speaker" if spoken else "id"], *rows])
    found = csv_utterances(file.getvalue(), Path("lines.csv"))
    assert found == [Utterance(None, None, text, "Bo" if spoken else None) for text in texts]


def test_a_table_may_come_from_windows_and_a_text_may_have_lines(tmp_path: Path) -> None:
    path = tmp_path / "film.csv"
    path.write_bytes('\ufeffstart,end,text\r\n0,1.5,"Oh,\r\nno"\r\n'.encode())
    assert [(one.start_seconds, one.end_seconds, one.text.split()) for one in read_utterances(path)] == [
        (0.0, 1.5, ["Oh,", "no"])
    ]
    path = tmp_path / "film.SRT"
    path.write_bytes("\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\n- So.\r\n- <b>Yes</b>{\\an8}\r\n\r\n".encode())
    assert read_utterances(path) == [Utterance(1.0, 2.0, "- So. - Yes")]


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [("0", 0.0), ("12.25", 12.25), ("1:02", 62.0), ("0:16:21,731", 981.731), ("100:00:00.5", 360000.5)],
)
def test_a_time_is_seconds_or_a_clock(cell: str, seconds: float) -> None:
    assert seconds_of(cell, "film.csv:2") == seconds


@pytest.mark.parametrize("cell", ["", "soon", "-1", "nan", "inf", "1:2:3:4", "00:00:01,0000", None])
def test_what_is_no_time_is_refused_with_its_place(cell: str | None) -> None:
    with pytest.raises(ValueError, match=r"^film\.csv:2: .* is no time; give seconds or h:mm:ss\.ms$"):
        seconds_of(cell, "film.csv:2")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.srt",
            b"1\n00:00:03,000 --> 00:00:02,000\nNo.\n",
            r"a\.srt:2: ends at 2\.0 s, not after its start",
        ),
        ("a.srt", b"1\n00:00:01,000 --> soon\nNo.\n", r"a\.srt:2: 'soon' is no time"),
        ("a.srt", b"1\n0:01 --> 0:02\nNo.\n2\n0:03 --> 0:04\nYes.\n", r"a\.srt:5: a cue within that of line 2"),
        ("a.vtt", b"WEBVTT\n\nNOTE nobody speaks\n", r"a\.vtt: holds no utterance"),
        ("a.csv", b"start,end,text\n", r"a\.csv: holds no utterance"),
        ("a.csv", b"", r"a\.csv: lacks the columns text; it has None"),
        ("a.csv", b"start,stop,text\n0,1,x\n", r"a\.csv: lacks the columns end; it has \['start', 'stop', 'text'\]"),
        ("a.csv", b"start,end,text\n0,1,Oh, no\n", r"a\.csv:2: more cells than columns"),
        ("a.csv", b"start,end,text\n0,1,x\n2,1,x\n", r"a\.csv:3: ends at 1\.0 s"),
        ("a.csv", b'start,end,text\n0,1,"x\n', r"a\.csv:2: .*look for a quote that is not closed"),
        ("a.csv", "start,end,text\n0,1,é\n".encode("cp1252"), r"a\.csv: cannot be read .*in UTF-8"),
        ("a.txt", b"0 1 x\n", r"a\.txt: utterances come as \.srt, \.vtt or \.csv"),
    ],
)
def test_a_mistake_in_a_table_is_one_line_with_its_place(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        read_utterances(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.srt: cannot be read"):
        read_utterances(tmp_path / "none.srt")


# Clips


def test_a_whole_film_is_answered_utterance_by_utterance(
    model: FusionForEmotion, processor: FusionProcessor, clips: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "film.csv").write_text("start,end,text\n0,0.4,Hooray!\n0.4,1,\n5,6,Too late.\n")
    arguments = asked(tmp_path, utterances=tmp_path / "film.csv")
    predicted = predict_clips(model, processor, [clips["whole"]], arguments)
    assert predicted.unreadable == []
    assert len(predicted.predictions[0].utterances) == 3
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.json"]
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert record["file"] == str(clips["whole"])
    times = [(one["start_seconds"], one["end_seconds"], one["text"]) for one in record["utterances"]]
    assert times == [(0.0, 0.4, "Hooray!"), (0.4, 1.0, ""), (5.0, 6.0, "Too late.")]
    assert [one["missing"] for one in record["utterances"]] == [[], ["text"], ["video", "audio"]]
    for one in record["utterances"]:
        for head, names in (("emotions", model.config.emotion_names), ("sentiments", model.config.sentiment_names)):
            sure = [each["confidence"] for each in one[head]]
            assert len({each["label"] for each in one[head]} & set(names)) == len(one[head]) == 3
            assert sure == sorted(sure, reverse=True)
            assert 0 < sum(sure) <= 1 + 1e-9
    assert predicted.summary.startswith("3 utterances; the model reads text and video and audio\n")
    assert "(without video and audio)" in predicted.summary


@pytest.mark.parametrize(
    ("clip", "text", "missing"),
    [
        ("whole", "Hooray!", []),
        ("whole", None, ["text"]),
        ("whole", " ", ["text"]),
        ("mute", "Hooray!", ["audio"]),
        ("blind", "Hooray!", ["video"]),
        ("blind", None, ["text", "video"]),
    ],
)
def test_what_a_clip_lacks_is_said_and_the_rest_judged(
    model: FusionForEmotion,
    processor: FusionProcessor,
    clips: dict[str, Path],
    tmp_path: Path,
    clip: str,
    text: str | None,
    missing: list[str],
) -> None:
    predicted = predict_clips(model, processor, [clips[clip]], asked(tmp_path, text=text))
    (one,) = predicted.predictions[0].utterances
    assert one.missing == missing
    assert predicted.unreadable == []
    assert one.end_seconds == pytest.approx(SECONDS, abs=0.1)


def test_a_clip_without_all_that_a_model_reads_is_named(
    processor: FusionProcessor, clips: dict[str, Path], tmp_path: Path
) -> None:
    listener = tiny_model(modalities=["text", "audio"])
    predicted = predict_clips(listener, processor, [clips["mute"]], asked(tmp_path))
    assert predicted.predictions == []
    message = f"{clips['mute']}: nothing to go by at 0 s: no audio and no text; the model reads these"
    assert predicted.unreadable == [message]
    predicted = predict_clips(listener, processor, [clips["mute"]], asked(tmp_path, text="Hooray!"))
    assert predicted.predictions[0].utterances[0].missing == ["audio"]
    assert predicted.unreadable == []


def test_clips_that_cannot_be_read_are_named_and_the_others_judged(
    model: FusionForEmotion, processor: FusionProcessor, clips: dict[str, Path], tmp_path: Path
) -> None:
    three = [clips[name] for name in ("cut", "whole", "empty")]
    predicted = predict_clips(model, processor, three, asked(tmp_path))
    assert [clip.file for clip in predicted.predictions] == [clips["whole"]]
    assert len(predicted.unreadable) == 2
    assert "cut.mp4" in predicted.unreadable[0]
    assert "moov atom" in predicted.unreadable[0]
    assert "0 bytes" in predicted.unreadable[1]
    assert [each["file"] for each in json.loads((tmp_path / "out.json").read_text())] == [str(clips["whole"])]


def test_json_is_written_whole_or_not_at_all(
    model: FusionForEmotion,
    processor: FusionProcessor,
    clips: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = asked(tmp_path)
    arguments.output.write_text("of an earlier time")
    predict_clips(model, processor, [clips["cut"]], arguments)
    assert arguments.output.read_text() == "of an earlier time"
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict_clips(model, processor, [clips["whole"]], arguments)
    assert arguments.output.read_text() == "of an earlier time"
    assert len(list(tmp_path.iterdir())) == 1


# Text without a clip


@pytest.mark.parametrize("modalities", [["text"], ["text", "audio"], ["text", "video", "audio"]], ids="-".join)
@pytest.mark.parametrize("timed", [False, True])
def test_lines_alone_are_judged_as_those_of_a_clip_that_has_nothing_else(
    processor: FusionProcessor, clips: dict[str, Path], modalities: list[str], timed: bool, tmp_path: Path
) -> None:
    model, table = tiny_model(modalities=modalities), tmp_path / "lines.csv"
    rows = [["Bo", "Hooray!", 7, 8], ["Edda", "Oh, no", 8, 9.5]]  # after the end of the clip
    with open(table, "w", newline="") as file:
        columns = 4 if timed else 2
        csv.writer(file).writerows(row[:columns] for row in [["speaker", "text", "start", "end"], *rows])
    arguments = asked(tmp_path, utterances=table)
    check_prediction(model.config, [], arguments)
    predicted = predict_clips(model, processor, [], arguments)
    assert predicted.unreadable == []
    (record,) = json.loads(arguments.output.read_text())
    assert record["file"] == str(table)
    for (speaker, text, *times), one in zip(rows, record["utterances"], strict=True):
        assert [one["speaker"], one["text"]] == [speaker, text]
        assert [one["start_seconds"], one["end_seconds"]] == (times if timed else [None, None])
        assert one["missing"] == modalities[1:]
        beyond = predict_utterance(model, processor, clips["whole"], Utterance(7.0, 8.0, text))
        assert [each["confidence"] for each in one["emotions"]] == [each.confidence for each in beyond.emotions]
    (panel,) = plot_emotions(predicted.predictions).axes
    assert panel.get_xlim() == ((7, 9.5) if timed else (0.5, 2.5))


def test_a_text_alone_is_judged(model: FusionForEmotion, processor: FusionProcessor, tmp_path: Path) -> None:
    arguments = asked(tmp_path, text="Hooray!")
    predict_clips(model, processor, [], arguments)
    (record,) = json.loads(arguments.output.read_text())
    (one,) = record["utterances"]
    assert (record["file"], one["start_seconds"], one["text"]) == (None, None, "Hooray!")
    assert one["missing"] == ["video", "audio"]


# The timeline


def predicted(
    start: float, end: float | None, text: str | None = "So.", missing: tuple[str, ...] = ()
) -> UtterancePrediction:
    """Return a prediction of an utterance."""
    emotions = [LabelConfidence("joy", 0.7), LabelConfidence("fear", 0.2), LabelConfidence("$pent", 0.1)]
    sentiments = [LabelConfidence("positive", 0.9), LabelConfidence("negative", 0.1)]
    return UtterancePrediction(start, end, None, text, emotions, sentiments, list(missing))


def test_a_timeline_has_a_panel_per_clip_and_a_bar_per_emotion_of_an_utterance() -> None:
    one = ClipPrediction(Path("one $ clip.mp4"), [predicted(0, None, None, ("text",))])
    many = ClipPrediction(
        Path("film.mp4"), [predicted(3.0 * i, 3.0 * i + 2.5, "I owe you $5 " * 9) for i in range(40)]
    )
    figure = plot_emotions([one, many])
    assert png(figure)
    for panel, clip in zip(figure.axes, (one, many), strict=True):
        bars = [found.get_paths()[0].get_extents() for found in panel.collections if isinstance(found, PolyCollection)]
        labels = [tick.get_text() for tick in panel.get_yticklabels()]
        background, bars = bars[: len(labels) - 1], bars[len(labels) - 1 :]
        assert labels == [r"\$pent", "fear", "joy", "sentiment"]
        assert len(bars) == len(labels) * len(clip.utterances)
        spans = sorted({(bar.x0, bar.x1) for bar in bars})
        assert spans == [(said.start_seconds, said.end_seconds or SHORTEST) for said in clip.utterances]
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
def test_words_are_cut_to_fit(text: str | None, letters: int, shown: str) -> None:
    assert wrapped_text(predicted(0, 1, text), letters) == shown


def test_what_was_missing_stands_beside_the_words() -> None:
    assert wrapped_text(predicted(0, 1, "So.", ("video", "audio")), 60) == "So. (without video and audio)"

"""AudioSet from raw tree to rows: every clip is found or its loss is told, in counts that can be checked by hand."""

import csv
import gzip
import inspect
import io
import json
import lzma
import re
import shutil
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_datasets.audioset import synthesize as synthesizer
from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.audioset.clips import _told_by_events
from hf_datasets.audioset.synthesize import SCHEMES, synthesize
from hf_datasets.builders import BUILDER_OPTIONS, HERE
from hf_datasets.defects import CLIP_DEFECTS
from hf_datasets.prepare import main
from media.audio import read_audio
from media.audioset import ontology_from_labels
from system.storage import S3FileManager
from tests.helpers.s3_server import serve_s3

SPEECH, MUSIC, CRYING, CRY, WHIMPER = "/m/09x0r", "/m/04rlf", "/m/0463cq4", "/t/dd00002", "/m/07qz6j3"
TONE = "/t/dd00138"  # a strong label that is neither a weak one nor in the ontology
SECONDS = 2.0  # of the excerpts here
LABELS = {SPEECH: "Speech", CRYING: "Crying, sobbing", CRY: "Baby cry, infant cry", WHIMPER: "Whimper", MUSIC: "Music"}
PART = "unbalanced_train_segments/unbalanced_train_segments_part00"


def weak_table(rows: list[tuple[str, float, list[str]]]) -> str:
    """A weak table in the official format, with true counts."""
    labels = [mid for _, _, mids in rows for mid in mids]
    head = (
        f"# Segments csv\n# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    lines = [f'{i}, {start:.3f}, {start + SECONDS:.3f}, "{",".join(mids)}"\n' for i, start, mids in rows]
    return head + "".join(lines)


def strong_table(rows: list[tuple], present: bool = False) -> str:
    head = ["segment_id", "start_time_seconds", "end_time_seconds", "label", *(["present"] if present else [])]
    return "".join("\t".join(map(str, row)) + "\n" for row in [head, *rows])


def write_tables(folder: Path) -> None:
    """Labels, their names and the ontology."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'{number},{mid},"{name}"' for number, (mid, name) in enumerate(LABELS.items())]
    (folder / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    names = {**LABELS, TONE: "Brief tone"}
    (folder / "mid_to_display_name.tsv").write_text("".join(f"{mid}\t{name}\n" for mid, name in sorted(names.items())))
    children = {"/m/09l8g": [SPEECH, CRYING], CRYING: [CRY, WHIMPER]}
    nodes = [
        {"id": mid, "name": name, "child_ids": children.get(mid, [])}
        for mid, name in {"/m/09l8g": "Human voice", **LABELS}.items()
    ]
    (folder / "ontology.json").write_text(json.dumps(nodes))


def write_wav(path: Path, seconds: float = SECONDS, rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, noise, rate)
    return path


# Twelve clips whose fates are known: what becomes of each, by its id.
FATES = {
    "found_plain": None,
    "-found_dash": None,
    "_under_scor": None,
    "stereo48kHz": None,
    "cut_off_wav": "clip_too_short",
    "wrong_place": "wrong_folder",
    "twice_there": "duplicate_file",
    "missing_one": "clip_missing",
    "zero_bytes_": "clip_too_small",
    "a_folder_is": "clip_is_folder",
    "no_sound_at": "clip_unreadable",
    "much_longer": "clip_too_long",
}
LOST = {"clip_missing", "clip_too_small", "clip_is_folder", "clip_unreadable", "clip_too_long"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """`metadata` and `audio`: ten clips of the unbalanced table, one balanced, one of eval."""
    root = tmp_path / "raw"
    metadata, audio = root / "metadata", root / "audio"
    write_tables(metadata)
    ids = list(FATES)
    rows = [(ytid, 30.0, [SPEECH, MUSIC] if i % 2 else [CRY]) for i, ytid in enumerate(ids)]
    tables = {"unbalanced_train": rows[:10], "balanced_train": rows[10:11], "eval": rows[11:]}
    for subset, of_subset in tables.items():
        (metadata / f"{subset}_segments.csv").write_text(weak_table(of_subset))
    for ytid in ids[:10]:
        write_wav(audio / PART / f"Y{ytid}.wav")
    write_wav(audio / PART / "Ystereo48kHz.wav", rate=48000, channels=2)
    cut = audio / PART / "Ycut_off_wav.wav"
    cut.write_bytes(cut.read_bytes()[: 8000 * 2])
    (audio / "eval_segments").mkdir()
    (audio / PART / "Ywrong_place.wav").rename(audio / "eval_segments" / "Ywrong_place.wav")
    write_wav(audio / PART / "twice_there.flac")
    (audio / PART / "Ymissing_one.wav").unlink()
    (audio / PART / "Yzero_bytes_.wav").write_bytes(b"")
    (audio / PART / "Ya_folder_is.wav").unlink()
    (audio / PART / "Ya_folder_is.wav").mkdir()
    (audio / "balanced_train_segments").mkdir()
    (audio / "balanced_train_segments" / "Yno_sound_at.wav").write_bytes(b"not a sound" * 50)
    write_wav(audio / "eval_segments" / "Ymuch_longer.wav", seconds=3.0)
    return root


def rows_of(raw: Path, tmp_path: Path, **options) -> list[dict]:
    """All rows of a tree, those for training first."""
    options.setdefault("raw_dir", raw / "metadata")
    options.setdefault("audio_root", raw / "audio")
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)
    splits = builder._split_generators(None)
    tables = [table for split in splits for _, table in builder._generate_tables(**split.gen_kwargs)]
    return pa.concat_tables(tables).to_pylist()


def by_id(rows: list[dict]) -> dict[str, dict]:
    found = {row["clip_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def kinds(row: dict) -> list[str]:
    return [defect["what"] for defect in row["defects"]]


def run(*arguments: object) -> None:
    main(["audioset", *map(str, arguments)])


def complaint(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".prepare.lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Tables and sounds


def test_every_fate_of_a_clip_is_told_and_no_row_is_dropped(raw, tmp_path):
    rows = by_id(rows_of(raw, tmp_path))
    assert list(rows) == list(FATES)
    for ytid, fate in FATES.items():
        assert kinds(rows[ytid]) == ([fate] if fate else [])
        assert (rows[ytid]["audio"] is None) == (fate in LOST)
    assert rows["cut_off_wav"]["audio_seconds"] < 1.1
    assert rows["found_plain"]["audio_seconds"] == SECONDS
    assert rows["-found_dash"]["audio"] == {"bytes": None, "path": f"{raw}/audio/{PART}/Y-found_dash.wav"}
    assert rows["twice_there"]["audio"]["path"].endswith("Ytwice_there.wav")
    (defect,) = rows["much_longer"]["defects"]
    assert (defect["how_much"], defect["unit"]) == (1.0, "s")
    assert [row["subset"] for row in rows.values()] == ["unbalanced_train"] * 10 + ["balanced_train", "eval"]
    assert [row["part"] for row in rows.values()] == [0] * 10 + [None, None]
    codes = list(LABELS)
    assert rows["found_plain"]["labels"] == [codes.index(CRY)]
    assert rows["-found_dash"]["labels"] == [codes.index(SPEECH), codes.index(MUSIC)]


def test_the_counts_of_the_reconciliation_are_those_of_the_tree(raw, tmp_path, capsys):
    output = tmp_path / "output"
    run("--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output)
    rows = read_csv((output / "reconciliation.csv").read_text())
    assert [(row["split"], row["subset"], row["part"]) for row in rows] == [
        ("train", "unbalanced_train", "0"),
        ("train", "balanced_train", ""),
        ("eval", "eval", ""),
        ("all", "", ""),
    ]
    counted = {name: int(rows[3][name]) for name in list(rows[3])[3:]}
    assert counted == {
        "clips": 12,
        "found": 11,
        "usable": 7,
        "missing": 1,
        "too_small": 1,
        "folder": 1,
        "unreadable": 1,
        "too_long": 1,
        "other_excerpt": 0,
        "too_short": 1,
        "duplicate": 1,
        "wrong_folder": 1,
    }
    assert [rows[i]["usable"] for i in range(3)] == ["7", "0", "0"]
    for name in counted:
        assert sum(int(row[name]) for row in rows[:3]) == counted[name]
    classes = {row["mid"]: row for row in read_csv((output / "classes.csv").read_text())}
    # cries have even places among the ten: found, _under, cut_off, twice, zero_bytes; the last is lost
    assert (classes[CRY]["train_clips"], classes[CRY]["train_usable"], classes[CRY]["train_loss"]) == (
        "6",
        "4",
        "0.3333",
    )
    assert (classes[SPEECH]["eval_clips"], classes[SPEECH]["eval_usable"]) == ("1", "0")
    missing = {row["clip_id"]: row for row in read_csv((output / "missing_ids.csv").read_text())}
    assert {ytid: row["why"] for ytid, row in missing.items()} == {
        "missing_one": "missing",
        "zero_bytes_": "too_small",
        "a_folder_is": "folder",
        "no_sound_at": "unreadable",
        "much_longer": "too_long",
    }
    assert missing["missing_one"]["link"] == "https://www.youtube.com/watch?v=missing_one&t=30s"
    said = capsys.readouterr().out
    assert "train: 11 clips, 7 with a usable sound, 36.4% lost, 1 missing, 1 too_small, 1 folder, 1 unreadable" in said
    assert re.search(r"^ +1 +1  clip_is_folder: ", said, re.MULTILINE)


def test_inspection_files_hold_all_clips_and_weights_those_that_can_be_trained_on(raw, tmp_path):
    output = tmp_path / "output"
    run("--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output)
    clips = read_csv(gzip.decompress((output / "clips.csv.gz").read_bytes()).decode())
    assert [row["clip_id"] for row in clips] == list(FATES)
    assert clips[1]["labels"] == f"{SPEECH},{MUSIC}"
    assert clips[1]["audio"].endswith("Y-found_dash.wav")
    assert clips[7]["defects"] == "clip_missing"
    assert clips[7]["audio"] == ""
    weights = pq.read_table(output / "weights.parquet").to_pylist()
    assert [row["clip_id"] for row in weights] == [i for i in list(FATES)[:10] if FATES[i] not in LOST]
    # usable: 4 cries, 3 clips of speech and music
    np.testing.assert_allclose([weights[0]["panns"], weights[1]["panns"]], [1 / 4 / 3, 2 / 3 / 3], rtol=1e-6)
    np.testing.assert_allclose([weights[0]["ast"], weights[1]["ast"]], [1000 / 4.01, 2000 / 3.01], rtol=1e-6)
    np.testing.assert_allclose([weights[0]["sqrt"], weights[1]["sqrt"]], [1 / 2, 2 / 3**0.5], rtol=1e-6)
    assert not [path for path in content(output) if Path(path).suffix in (".pkl", ".pickle", ".npy")]


def test_labels_json_has_the_vocabulary_in_the_order_of_the_codes(raw, tmp_path):
    output = tmp_path / "output"
    run("--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output)
    labels, ontology = ontology_from_labels(json.loads((output / "labels.json").read_text()))
    loaded = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert list(labels.mids) == loaded["train"].features["labels"].feature.names == [*LABELS, TONE]
    assert loaded["eval"].features["events"].feature["label"].names == list(labels.mids)
    assert ontology.related(CRY) == {CRYING}
    assert ontology.siblings(CRY) == {WHIMPER}
    assert ontology.names["/m/09l8g"] == "Human voice"
    assert not ontology.parents[TONE]


@pytest.mark.parametrize("packing", ["", ".xz", ".gz"])
def test_part_files_and_packed_tables_give_the_same_rows(raw, tmp_path, packing):
    whole = rows_of(raw, tmp_path)
    table = raw / "metadata" / "unbalanced_train_segments.csv"
    lines = table.read_text().splitlines(keepends=True)[3:]
    table.unlink()
    pack = {"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}[packing]
    for part in range(2):
        name = f"parts/unbalanced_train_segments_part{part:02d}.csv{packing}"
        (raw / "metadata" / name).parent.mkdir(exist_ok=True)
        text = "empty\n" * 3 + "".join(lines[5 * part : 5 * part + 5])
        (raw / "metadata" / name).write_bytes(pack(text.encode()))
    parts = rows_of(raw, tmp_path)
    assert [row["part"] for row in parts] == [0] * 5 + [1] * 5 + [None] * 2
    for row, same in zip(parts, whole, strict=True):
        if row["part"] == 1:  # its files lie in the folder of part 0
            assert "wrong_folder" in kinds(row) or row["audio"] is None
            row = row | {"part": 0, "defects": same["defects"]}
        assert row == same


def test_a_table_that_is_there_twice_is_refused_or_the_unpacked_one_is_taken(raw, tmp_path):
    table = raw / "metadata" / "eval_segments.csv"
    table.with_suffix(".csv.gz").write_bytes(b"broken")
    builder = AudiosetBuilder(raw / "metadata", cache_dir=str(tmp_path / "cache"))
    assert ("table_left_out", "eval_segments.csv.gz: it is there unpacked too") in [
        (defect["what"], defect["detail"]) for defect in builder.raw_defects
    ]
    table.unlink()
    assert "does not unpack" in complaint("--raw_dir", raw / "metadata")
    for copy in ("a", "b"):
        (raw / "metadata" / copy).mkdir()
        (raw / "metadata" / copy / "eval_segments.csv").write_text(weak_table([("much_longer", 30.0, [CRY])]))
    assert re.search(
        "eval_segments.csv is there twice: .*a/eval.* and .*b/eval", complaint("--raw_dir", raw / "metadata")
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layout_of_sounds_is_found(scheme, tmp_path):
    synthesize(tmp_path, 12, 6, seed=1, defects="none", scheme=scheme, suffix=".flac")
    root = tmp_path / "AudioSet"
    rows = rows_of(root, tmp_path)
    assert len(rows) == 18
    assert all(row["audio"] is not None and not row["defects"] for row in rows)
    ids = [row["clip_id"] for row in rows]
    assert any(ytid.startswith("-") for ytid in ids)
    assert any("_" in ytid for ytid in ids)
    assert all(ytid in row["audio"]["path"] for ytid, row in zip(ids, rows, strict=True))


def test_a_copy_that_is_no_sound_is_passed_over(raw, tmp_path):
    (raw / "audio" / PART / "Ytwice_there.wav").write_bytes(b"no sound" * 50)
    row = by_id(rows_of(raw, tmp_path))["twice_there"]
    assert kinds(row) == ["duplicate_file", "clip_unreadable"]
    assert row["audio"]["path"].endswith("/twice_there.flac")


@pytest.mark.parametrize(("how", "found"), [("headers", False), ("decode", True), ("none", False)])
def test_what_is_opened_is_the_users_choice(raw, tmp_path, how, found):
    """A flac that was cut off and a wav with a NaN show only when they are decoded."""
    flac = write_wav(raw / "audio" / PART / "Yfound_plain.flac")
    (raw / "audio" / PART / "Yfound_plain.wav").unlink()
    flac.write_bytes(flac.read_bytes()[:9000])
    samples = np.zeros(16000)
    samples[5] = np.nan
    soundfile.write(raw / "audio" / PART / "Y-found_dash.wav", samples, 8000, subtype="FLOAT")
    rows = by_id(rows_of(raw, tmp_path, check_audio=how))
    for ytid in ("found_plain", "-found_dash"):
        assert kinds(rows[ytid]) == (["clip_unreadable"] if found else [])
        assert (rows[ytid]["audio"] is None) == found
    assert (rows["stereo48kHz"]["audio_seconds"] is None) == (how == "none")
    assert kinds(rows["no_sound_at"]) == ([] if how == "none" else ["clip_unreadable"])
    with pytest.raises(ValueError, match="--check_audio all: it takes one of headers, decode, none"):
        AudiosetBuilder(raw, check_audio="all")


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE"])  # an average rate comes with a tag that tells the length
@pytest.mark.parametrize("tagged", [False, True])
def test_an_mp3_that_was_cut_off_is_told_by_its_header(mode, tagged, raw, tmp_path):
    path = raw / "audio" / PART / "Yfound_plain.mp3"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(path, sound, 8000, compression_level=0.9, bitrate_mode=mode)
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) if tagged else b""
    whole = tag + path.read_bytes()
    path.with_suffix(".wav").unlink()
    for data, expected in ((whole, []), (tag + whole[len(tag) : len(whole) // 2], ["clip_too_short"])):
        path.write_bytes(data)
        row = by_id(rows_of(raw, tmp_path))["found_plain"]
        assert kinds(row) == expected
        assert row["audio"] is not None
        assert row["audio_seconds"] == pytest.approx(SECONDS / (2 if expected else 1), abs=0.3)


def test_a_file_of_another_excerpt_is_not_the_clips(raw, tmp_path):
    wav = raw / "audio" / PART / "Yfound_plain.wav"
    wav.rename(wav.with_name("found_plain_50.000_52.000.wav"))
    builder = AudiosetBuilder(raw / "metadata", raw / "audio", cache_dir=str(tmp_path / "cache"))
    (defect,) = builder.raw_defects
    assert (defect["what"], defect["how_much"]) == ("unclaimed_files", 1)
    assert defect["detail"] == f"{PART}/: found_plain_50.000_52.000.wav"
    assert kinds(by_id(rows_of(raw, tmp_path))["found_plain"]) == ["clip_missing"]


def test_without_sounds_rows_stay_and_a_warning_says_so(raw, tmp_path, capsys):
    output = tmp_path / "output"
    run("--raw_dir", raw / "metadata", "--output_dir", output)
    said = capsys.readouterr().out
    assert "audio_not_given" in said
    assert "eval: 1 clips, their sounds were not looked for" in said
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(rows) == 11
    assert set(rows["audio"]) == {None}
    assert not any(rows["defects"])
    assert not (output / "missing_ids.csv").exists()
    assert len(pq.read_table(output / "weights.parquet")) == 11  # of labels alone


def test_no_usable_clip_is_an_error(raw, tmp_path):
    output = tmp_path / "output"
    shutil.rmtree(raw / "audio")
    (raw / "audio").mkdir()
    arguments = ["--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output]
    assert "holds no sound file: no clip can be used. Files are called Y<id>.wav" in complaint(*arguments)
    write_wav(raw / "audio" / "other.wav")
    assert "holds 1 sound files, none of a clip" in complaint(*arguments)
    assert not output.exists()
    (raw / "audio" / "Yfound_plain.wav").write_bytes(b"no sound" * 50)  # which shows when it is opened
    assert re.search("none of the 12 clips has a usable sound in .*missing 11, unreadable 1", complaint(*arguments))
    assert not list(output.glob("*.csv"))


def test_the_digest_changes_with_every_table_and_file(raw, tmp_path):
    def digest(**options) -> str:
        options = {"audio_root": raw / "audio"} | options
        return AudiosetBuilder(raw / "metadata", cache_dir=str(tmp_path / "cache"), **options).hash

    digests = [digest(), digest(audio_root=None), digest(check_audio="none"), digest(target="Whimper")]
    shutil.copytree(raw / "audio", tmp_path / "elsewhere")
    digests.append(digest(audio_root=tmp_path / "elsewhere"))  # rows hold paths
    assert digest(embed_audio=True) == digest(audio_root=tmp_path / "elsewhere", embed_audio=True)
    assert digest() == digests[0]
    ontology = raw / "metadata" / "ontology.json"
    ontology.write_text(ontology.read_text() + " ")
    digests.append(digest())
    (raw / "audio" / PART / "Yzero_bytes_.wav").write_bytes(b"12")
    digests.append(digest())
    (raw / "audio" / "Yzero_bytes_.wav").write_bytes(b"12")
    digests.append(digest())
    assert len(set(digests)) == len(digests)


def test_sounds_can_be_put_into_the_rows(raw, tmp_path):
    plain, embedded = rows_of(raw, tmp_path), rows_of(raw, tmp_path, embed_audio=True)
    for row, same in zip(plain, embedded, strict=True):
        if row["audio"] is not None:
            path = Path(row["audio"]["path"])
            assert same["audio"] == {"bytes": path.read_bytes(), "path": path.name}
        assert same | {"audio": None} == row | {"audio": None}


def test_the_builder_works_alone(raw, tmp_path):
    builder = AudiosetBuilder(raw_dir=raw / "metadata", audio_root=raw / "audio", cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert list(builder.as_dataset(split="train")["clip_id"]) == list(FATES)[:11]


# Strong labels


def test_events_are_joined_sorted_and_each_is_there_once(raw, tmp_path):
    rows = [("-found_dash_30000", 1.5, 1.75, CRY), ("-found_dash_30000", 0.25, 2.0, TONE)]
    framed = [
        ("-found_dash_30000", 0.0, 0.96, WHIMPER, "NOT_PRESENT"),
        ("-found_dash_30000", 1.5, 1.75, CRY, "PRESENT"),
    ]
    metadata = raw / "metadata"
    (metadata / "audioset_train_strong.tsv").write_text(strong_table(rows))
    (metadata / "cry_train.tsv").write_text(strong_table([*rows[:1], ("_under_scor_30000", 0, 1, CRY)]))
    (metadata / "cry_framed_train.tsv").write_text(strong_table(framed, present=True))
    found = by_id(rows_of(raw, tmp_path))
    names = [*LABELS, TONE]
    events = [
        (names[e["label"]], e["start_seconds"], e["end_seconds"], e["present"]) for e in found["-found_dash"]["events"]
    ]
    assert events == [(WHIMPER, 0.0, np.float32(0.96), False), (TONE, 0.25, 2.0, True), (CRY, 1.5, 1.75, True)]
    assert [e["end_seconds"] for e in found["_under_scor"]["events"]] == [1.0]
    # only a table that holds all events of its clips makes a clip strongly labelled
    assert [ytid for ytid, row in found.items() if row["strongly_labelled"]] == ["-found_dash"]


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 2, st.integers(0, 8), st.integers(1, 4), *[st.booleans()] * 2)))
def test_a_frame_adds_nothing_where_an_event_of_its_label_lies(rows):
    clip, code, begin, length, present, frame = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0, int),) * 6
    )
    start, end = begin.astype(np.float32), (begin + length).astype(np.float32)
    told = _told_by_events(clip.astype(np.int64), start, end, code.astype(np.int64), present.astype(bool), frame > 0)
    for i, (c, k, b, n, p, f) in enumerate(rows):
        others = [o for o in rows if o[:2] == (c, k) and o[4] and not o[5] and o[2] < b + n and o[2] + o[3] > b]
        assert told[i] == (p and f and bool(others))


def test_a_strong_table_that_means_another_excerpt_spoils_that_clip_alone(raw, tmp_path):
    rows = [("found_plain_35000", 0, 1, CRY), ("-found_dash_30000", 3.5, 4, CRY)]
    (raw / "metadata" / "audioset_train_strong.tsv").write_text(strong_table(rows))
    found = by_id(rows_of(raw, tmp_path))
    plain = found["found_plain"]
    assert (kinds(plain), plain["audio"], plain["events"], plain["strongly_labelled"]) == (
        ["other_excerpt"],
        None,
        [],
        False,
    )
    assert plain["defects"][0]["how_much"] == 5.0
    assert kinds(found["-found_dash"]) == ["event_outside"]
    assert len(found["-found_dash"]["events"]) == 1


def test_clips_that_only_strong_tables_have_are_rows_too(raw, tmp_path):
    (raw / "metadata" / "audioset_train_strong.tsv").write_text(strong_table([("new_clip_01_12000", 0, 1, CRY)]))
    (raw / "metadata" / "bc_eval.tsv").write_text(strong_table([("new_clip_02_12000", 0, 1, "/m/unknown")]))
    write_wav(raw / "audio" / "new_clip_01_12000.wav")
    found = by_id(rows_of(raw, tmp_path))
    new = found["new_clip_01"]
    assert (new["subset"], new["start_seconds"], new["end_seconds"], new["labels"]) == ("list", 12.0, None, [])
    assert new["audio"] is not None
    assert new["strongly_labelled"]
    other = found["new_clip_02"]
    assert (other["subset"], other["strongly_labelled"], kinds(other)) == ("eval", False, ["clip_missing"])
    assert other["events"][0]["label"] == len(LABELS) + 1  # after the strong labels with names


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("audioset_train_strong.tsv", [("much_longer_30000", 0, 1, CRY)]),  # an id of the eval table
        ("bc_ov_train.tsv", [("much_longer_30000", 0, 1, CRY)]),
        ("audioset_eval_strong.tsv", [("found_plain_30000", 0, 1, CRY)]),  # an id of the table for training
    ],
)
def test_an_eval_id_in_a_table_for_training_is_refused(raw, file, rows):
    (raw / "metadata" / file).write_text(strong_table(rows))
    said = complaint("--raw_dir", raw / "metadata")
    assert f"is for training and holds 1 clips of the eval split, such as {rows[0][0][:11]}" in said
    assert file in said


def test_an_id_that_comes_twice_is_refused(raw):
    table = raw / "metadata" / "balanced_train_segments.csv"
    table.write_text(weak_table([("no_sound_at", 30.0, [CRY]), ("found_plain", 30.0, [CRY])]))
    said = complaint("--raw_dir", raw / "metadata")
    assert "1 ids come more than once" in said
    assert "such as found_plain" in said
    assert "unbalanced_train_segments" in said


def test_half_of_the_cries_would_be_negatives_by_weak_labels_alone(raw, tmp_path, capsys):
    output = tmp_path / "output"
    strong = [("-found_dash_30000", 0, 1, CRY), ("found_plain_30000", 0, 1, CRY), ("stereo48kHz_30000", 0, 1, CRYING)]
    framed = [("much_longer_30000", 0, 0.96, CRY, "PRESENT"), ("much_longer_30000", 0.96, 1.92, CRYING, "NOT_PRESENT")]
    (raw / "metadata" / "audioset_train_strong.tsv").write_text(strong_table(strong))
    (raw / "metadata" / "audioset_eval_strong_framed_posneg.tsv").write_text(strong_table(framed, present=True))
    target = ["--target", "baby cry, infant cry"]
    run("--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output, *target)
    record = json.loads((output / "target.json").read_text())
    assert [one["mid"] for one in record["target"]] == [CRY]
    assert [one["mid"] for one in record["related"]] == [CRYING]
    assert [one["mid"] for one in record["siblings"]] == [WHIMPER]
    # six weak cries; -found_dash and much_longer by events alone; stereo48kHz by its parent; found_plain by both
    assert [rule["clips"] for rule in record["rules"]] == [6, 2, 0, 1]
    assert record["negatives"] == 3
    said = capsys.readouterr().out
    assert "target: Baby cry, infant cry (/t/dd00002), 6 clips" in said
    assert "2 clips: holds the target by strong ones alone" in said


def test_a_target_needs_to_be_a_label_and_the_ontology_to_be_there(raw, tmp_path):
    arguments = ["--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", tmp_path / "output"]
    said = complaint(*arguments, "--target", "cry")
    assert re.search(r"there is no label 'cry'; there are \['Crying, sobbing', 'Baby cry, infant cry'\]", said)
    (raw / "metadata" / "ontology.json").unlink()
    assert "which --raw_dir" in complaint(*arguments, "--target", CRY)
    run(*arguments)  # a warning
    assert "missing_table" in (tmp_path / "output" / "defects.csv").read_text()
    (raw / "metadata" / "class_labels_indices.csv").unlink()
    assert "holds weak tables, but not class_labels_indices.csv; add it" in complaint(*arguments)


def test_a_folder_without_tables_is_one_line(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes.txt").write_text("")
    assert "holds none of AudioSet's tables" in complaint("--raw_dir", tmp_path / "raw")
    assert "does not exist" in complaint("--raw_dir", tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="--target .*pmemo has no such option; leave it out"):
        main(["pmemo", "--raw_dir", str(tmp_path), "--target", "x"])


# People's own lists


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of own sounds and lists of a bell that AudioSet does not know."""
    root = tmp_path / "own"
    for name in ("a/bell_1.wav", "a/bell_2.wav", "b/other_1.wav", "b/other_2.wav", "c/more.wav"):
        write_wav(root / "audio" / name)
    (root / "bell_train.tsv").write_text("filename\tonset\toffset\na/bell_1.wav\t0.5\t1\na/bell_1.wav\t1.5\t1.75\n")
    (root / "bell_eval.tsv").write_text("filename\tonset\toffset\tlabel\nbell_2.wav\t0.5\t1\tmy bell\n")
    (root / "other.csv").write_text("path,start,end,label\nb/other_1.wav,0,1,Speech\nb/other_2.wav,0,2,Door\n")
    (root / "weak.csv").write_text('filename,labels\nmore.wav,"Music; Door"\n')
    return root


def own_options(own: Path) -> dict:
    return {
        "raw_dir": own,
        "audio_root": own / "audio",
        "target": "my bell",
        "pos_strong_paths": [own / "bell_train.tsv", own / "bell_eval.tsv"],
        "neg_strong_paths": [own / "other.csv"],
        "weak_paths": [own / "weak.csv"],
    }


def test_lists_alone_make_a_data_set_of_any_target(own, tmp_path):
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own))
    assert [defect["what"] for defect in builder.raw_defects] == ["missing_table", "own_label"]
    names = builder.features["labels"].feature.names
    assert names == ["my bell", "Speech", "Door", "Music"]
    assert builder.tree.target == ["my bell"]
    found = by_id(rows_of(own, tmp_path, **own_options(own)))
    assert list(found) == ["bell_1", "other_1", "other_2", "more", "bell_2"]  # eval comes last
    assert all(row["subset"] == "list" and row["audio"] and not row["defects"] for row in found.values())
    assert [(e["label"], e["start_seconds"]) for e in found["bell_1"]["events"]] == [(0, 0.5), (0, 1.5)]
    assert [row["strongly_labelled"] for row in found.values()] == [True, True, True, False, True]
    assert [names[code] for code in found["more"]["labels"]] == ["Music", "Door"]


def test_lists_beside_the_tables_add_to_them(raw, own, tmp_path):
    (own / "weak.csv").write_text('ytid,labels\n-found_dash,"Whimper; Music"\nbrand_new_1,Door\n')
    (own / "other.csv").write_text("segment_id,start,end,label\n_under_scor_30000,0,1,Speech\n")
    options = own_options(own) | {"raw_dir": raw / "metadata", "audio_root": raw / "audio", "target": [CRY]}
    options["pos_strong_paths"] = []
    found = by_id(rows_of(raw, tmp_path, **options))
    names = [*LABELS, TONE, "Door"]
    assert [names[code] for code in found["-found_dash"]["labels"]] == [SPEECH, MUSIC, WHIMPER]
    assert (found["-found_dash"]["subset"], found["brand_new_1"]["subset"]) == ("unbalanced_train", "list")
    assert found["_under_scor"]["strongly_labelled"]
    assert names[found["_under_scor"]["events"][0]["label"]] == SPEECH


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("bell_train.tsv", "filename\tonset\toffset\tlabel\nx\t0\t1\tSpeech\n", "line 2: 'Speech' is not the target"),
        (
            "other.csv",
            "filename,onset,offset,label\nx,0,1,my bell\n",
            "line 2: 'my bell' is the target, in a list of neg",
        ),
        (
            "bell_train.tsv",
            "filename\tonset\toffset\nbell_2.wav\t0\t1\n",
            "is for training and holds 1 clips of the eval",
        ),
        ("weak.csv", "filename,labels\nbell_2.wav,Music\n", "weak.csv is for training and holds 1 clips of the eval"),
        (
            "other.csv",
            "path,start,end,label\na/x.wav,0,1,D\nb/x.wav,0,1,D\n",
            "line 3: b/x.wav has the name of a/x.wav",
        ),
    ],
)
def test_lists_that_contradict_are_refused(own, tmp_path, file, text, message):
    (own / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own))


def test_an_id_of_the_official_eval_table_in_a_list_for_training_is_refused(raw, own, tmp_path):
    (own / "cries.tsv").write_text("segment_id\tstart\tend\nmuch_longer_30000\t0\t1\n")
    said = complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv", "--target", CRY)
    assert "cries.tsv is for training and holds 1 clips of the eval split, such as much_longer" in said
    said = complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv")
    assert "cries.tsv is for training" in said
    (own / "cries.tsv").write_text("segment_id\tstart\tend\nfound_plain_30000\t0\t1\n")
    assert "say which, as --target" in complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv")


# Everything at once


def test_every_kind_of_defect_is_made_and_found(own, tmp_path):
    synthesize(tmp_path, 40, 10, seed=2, defects="all", suffix=".wav")
    root = tmp_path / "AudioSet"
    found = {kind for row in rows_of(root, tmp_path) for kind in kinds(row)}
    metadata = root / "metadata"
    (metadata / "eval_segments.csv.gz").write_bytes(b"")
    (metadata / "ontology.json").unlink()
    builders = [
        AudiosetBuilder(metadata, cache_dir=str(tmp_path / "cache")),
        AudiosetBuilder(metadata, root / "audio", check_audio="none", cache_dir=str(tmp_path / "cache")),
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own)),
    ]
    found |= {defect["what"] for builder in builders for defect in builder.raw_defects}
    assert found == set(CLIP_DEFECTS)


@pytest.mark.slow
def test_num_proc_and_a_second_run_change_no_byte(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasets.audioset.builder.ROWS_A_TABLE", 3)
    monkeypatch.setattr(AudiosetBuilder, "SHARD_INPUTS", 1)
    arguments = ["--raw_dir", raw / "metadata", "--audio_root", raw / "audio"]
    run(*arguments, "--output_dir", tmp_path / "one")
    assert len(list((tmp_path / "one" / "data").glob("train-*.parquet"))) == 4
    run(*arguments, "--output_dir", tmp_path / "two", "--num_proc", 2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "data").glob("*.parquet")}
    sorted(first)[0].unlink()  # as if the run had been killed before it
    run(*arguments, "--output_dir", tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    kept = [path for path, time in first.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == len(first) - 1


def test_sounds_on_s3_are_told_by_name_and_size(raw, tmp_path, monkeypatch):
    with serve_s3() as s3:
        monkeypatch.setattr(S3FileManager, "_shared", None)
        for path in raw.rglob("*"):
            if path.is_file():
                s3.put(f"s3://sounds/{path.relative_to(raw).as_posix()}", path.read_bytes())
        s3.proxy.forget()
        options = {"raw_dir": "s3://sounds/metadata", "audio_root": "s3://sounds/audio"}
        builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)
        assert [(d["what"], d["how_much"]) for d in builder.raw_defects] == [("not_opened", 9)]
        found = by_id(rows_of(raw, tmp_path, **options))
        assert s3.proxy.count("^GET .*wav") == 0
        assert found["found_plain"]["audio"] == {"bytes": None, "path": f"s3://sounds/audio/{PART}/Yfound_plain.wav"}
        told = {"clip_missing", "clip_too_small", "duplicate_file", "wrong_folder"}
        expected = {ytid: [fate] if fate in told else [] for ytid, fate in FATES.items()} | {
            "a_folder_is": ["clip_missing"]
        }
        assert {ytid: kinds(row) for ytid, row in found.items()} == expected
        decoded = by_id(rows_of(raw, tmp_path, check_audio="decode", **options))
        assert kinds(decoded["no_sound_at"]) == ["clip_unreadable"]
        assert decoded["found_plain"]["audio_seconds"] == SECONDS
        S3FileManager.live().close()


# The sample


@pytest.fixture(scope="module")
def sample() -> dict[str, list[dict]]:
    return {
        path.name.split("-")[1]: pq.read_table(path).to_pylist()
        for path in (HERE / "audioset" / "sample").glob("*.parquet")
    }


def test_the_sample_has_what_makes_audioset_hard(sample):
    record = json.loads((HERE / "audioset" / "sample" / "labels.json").read_text())
    labels, _ = ontology_from_labels(record)
    cry = labels.mids.index(CRY)
    rows = [row for split in ("train", "eval") for row in sample[split]]
    ids = [row["clip_id"] for row in rows]
    assert any(ytid.startswith("-") for ytid in ids)
    assert sum("_" in ytid for ytid in ids) > 10
    weak = {row["clip_id"] for row in rows if cry in row["labels"]}
    strong = {row["clip_id"] for row in rows if any(e["label"] == cry and e["present"] for e in row["events"])}
    assert 0.3 < len(strong - weak) / len(strong) < 0.7
    assert len(weak - strong) > 5
    assert any(not e["present"] for row in sample["train"] for e in row["events"])
    cries = [e for row in rows for e in row["events"] if e["label"] == cry and e["present"]]
    lengths = [e["end_seconds"] - e["start_seconds"] for e in cries]
    assert 0.4 < np.mean(np.array(lengths) < 1) < 0.8
    lost = Counter(kind for row in rows for kind in kinds(row))
    assert 0.05 < lost["clip_missing"] / len(rows) < 0.1
    assert {"clip_too_short", "clip_unreadable", "clip_too_small", "duplicate_file"} <= lost.keys()
    assert any(soundfile.info(io.BytesIO(row["audio"]["bytes"])).samplerate == 48000 for row in rows if row["audio"])


def test_loudness_does_not_tell_the_target(sample):
    """The area under the ROC curve of a clip's level, and of its peak, is near that of chance."""
    cry = [*dict(synthesizer.LABELS)].index(CRY)
    levels, targets = [], []
    for row in sample["train"] + sample["eval"]:
        if row["audio"] is not None:
            audio, _ = read_audio(row["audio"]["bytes"])
            levels.append([np.sqrt(np.mean(audio**2)), np.abs(audio).max()])
            targets.append(cry in row["labels"] or any(e["label"] == cry and e["present"] for e in row["events"]))
    targets, levels = np.array(targets), np.array(levels)
    for level in levels.T:
        above = level[targets][:, None] > level[~targets][None]
        assert 0.38 < above.mean() < 0.62  # 70 against 130 clips: two standard deviations are 0.085


def test_same_seed_same_tree_and_unlinked_sounds_are_dealt_out_anew(tmp_path):
    trees = {}
    for name, linked in (("a", True), ("b", True), ("null", False)):
        synthesize(tmp_path / name, 12, 6, seed=4, defects="none", linked=linked, suffix=".wav")
        trees[name] = content(tmp_path / name / "AudioSet")
    assert trees["a"] == trees["b"]
    sounds = [name for name in trees["a"] if name.endswith(".wav")]
    tables = [name for name in trees["a"] if not name.endswith((".wav", "SYNTHETIC"))]
    assert all(trees["a"][name] == trees["null"][name] for name in tables)
    assert all(trees["a"][name] != trees["null"][name] for name in sounds)
    assert sorted(trees["a"][name] for name in sounds) == sorted(trees["null"][name] for name in sounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 5}, "num_train = 5"),
        ({"scheme": "none"}, "scheme = 'none': it takes one of mission"),
        ({"num_train": 20}, "damage needs 40 clips"),
    ],
)
def test_a_tree_that_cannot_be_made_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        synthesize(tmp_path, **options)


@pytest.mark.slow
def test_the_cards_example_runs_and_gives_what_it_says(monkeypatch):
    card = (HERE / "audioset" / "README.md").read_text()
    section = card.split("## Batches without a Trainer")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(HERE.parent)
    names: dict = {}
    exec(example, names)
    assert names["audio"].shape == (16, 16000)
    assert names["audio"].abs().max() <= 1
    assert names["label"].sum() == 4


def test_the_builders_options_are_those_of_prepare():
    of_others = {"embed_clips"}
    assert set(BUILDER_OPTIONS) - of_others <= set(inspect.signature(AudiosetBuilder.__init__).parameters)


# The real tables


@pytest.mark.slow
def test_the_real_tables_become_two_million_rows(real_data, tmp_path, capsys):
    output = tmp_path / "output"
    run("--raw_dir", real_data / "audioset" / "meta", "--output_dir", output, "--target", "Baby cry, infant cry")
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert (len(rows["train"]), len(rows["eval"])) == (2_041_789 + 22_160, 20_371)
    assert len(list((output / "data").glob("train-*"))) == 42  # the 41 parts and what follows them
    table = rows["train"].data.table
    assert table["part"].null_count == 22_160
    assert pa.compute.max(table["part"]).as_py() == 40
    record = json.loads((output / "target.json").read_text())
    assert [one["mid"] for one in record["related"]] == [CRYING]
    assert record["target"][0]["clips"] == 2_270 + 60 + 60
    # of 492 + 64 clips with a strong cry 246 + 38 lack the weak label
    assert record["rules"][1] == {"rule": "holds the target by strong ones alone", "clips": 246 + 38}
    assert not any(rows["eval"]["strongly_labelled"])  # tables of single targets do not say what else is heard
    labels, _ = ontology_from_labels(json.loads((output / "labels.json").read_text()))
    assert len(labels.mids) == 527 + 74

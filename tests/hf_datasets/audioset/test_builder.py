"""AudioSet from raw files to rows: the fate of every clip is reported, in counts that can be checked by hand."""

import gzip
import inspect
import json
import lzma
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.audioset.synthesize import SCHEMES, synthesize
from hf_datasets.defects import CLIP_DEFECTS
from hf_datasets.names import BUILDER_OPTIONS
from media.audioset import ontology_from_labels
from system.storage import S3FileManager
from tests.helpers.prepared_data import contents
from tests.helpers.raw_trees.audioset import (
    CRY,
    CRYING,
    FATES,
    LABELS,
    LOST,
    MUSIC,
    PART,
    SECONDS,
    SPEECH,
    TONE,
    WHIMPER,
    by_id,
    complaint,
    kinds,
    own_options,
    read_csv,
    rows_of,
    run,
    weak_table,
    write_wav,
)
from tests.helpers.s3_server import serve_s3

# Tables and sounds


def test_every_fate_is_a_defect_of_the_row_and_no_row_is_dropped(raw, tmp_path):
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


def test_reconciliation_classes_and_missing_ids_have_the_counts_of_the_tree(raw, tmp_path, capsys):
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
    # The even ones of the first ten clips and the balanced one have a cry. zero_bytes_ and no_sound_at are lost.
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
    printed = capsys.readouterr().out
    (line,) = re.findall(r"^train: (.*)", printed, re.MULTILINE)
    assert re.findall(r"[\d.]+%?", line) == ["11", "7", "36.4%", "1", "1", "1", "1"]
    assert re.findall(r"1 (\w+)", line)[-4:] == ["missing", "too_small", "folder", "unreadable"]
    assert re.search(r"^ +1 +1  clip_is_folder: ", printed, re.MULTILINE)


def test_clips_csv_lists_all_clips_and_nothing_is_pickled(raw, tmp_path):
    output = tmp_path / "output"
    run("--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output)
    clips = read_csv(gzip.decompress((output / "clips.csv.gz").read_bytes()).decode())
    assert [row["clip_id"] for row in clips] == [f"'{name}" if name.startswith("-") else name for name in FATES]
    assert clips[1]["labels"] == f"{SPEECH},{MUSIC}"
    assert clips[1]["audio"].endswith("Y-found_dash.wav")
    assert clips[7]["defects"] == "clip_missing"
    assert clips[7]["audio"] == ""
    assert not [path for path in contents(output) if Path(path).suffix in (".pkl", ".pickle", ".npy")]


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
def test_part_files_and_compressed_tables_give_the_same_rows(raw, tmp_path, packing):
    complete = rows_of(raw, tmp_path)
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
    for row, same in zip(parts, complete, strict=True):
        if row["part"] == 1:  # its files are in the folder of part 0
            assert "wrong_folder" in kinds(row) or row["audio"] is None
            row = row | {"part": 0, "defects": same["defects"]}
        assert row == same


def test_an_uncompressed_table_is_preferred_and_two_copies_are_refused(raw, tmp_path):
    table = raw / "metadata" / "eval_segments.csv"
    table.with_suffix(".csv.gz").write_bytes(b"broken")
    builder = AudiosetBuilder(raw / "metadata", cache_dir=str(tmp_path / "cache"))
    left_out = [defect["detail"] for defect in builder.raw_defects if defect["what"] == "table_left_out"]
    assert [detail.split(":")[0] for detail in left_out] == ["eval_segments.csv.gz"]
    table.unlink()
    assert f"{table}.gz: " in complaint("--raw_dir", raw / "metadata")
    for copy in ("a", "b"):
        (raw / "metadata" / copy).mkdir()
        (raw / "metadata" / copy / "eval_segments.csv").write_text(weak_table([("much_longer", 30.0, [CRY])]))
    message = complaint("--raw_dir", raw / "metadata")
    assert all(f"{copy}/eval_segments.csv" in message for copy in ("a", "b"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sounds_are_found_in_every_naming_scheme(scheme, tmp_path):
    synthesize(tmp_path, 12, 6, seed=1, defects="none", scheme=scheme, suffix=".flac")
    root = tmp_path / "AudioSet"
    rows = rows_of(root, tmp_path)
    assert len(rows) == 18
    assert all(row["audio"] is not None and not row["defects"] for row in rows)
    ids = [row["clip_id"] for row in rows]
    assert any(ytid.startswith("-") for ytid in ids)
    assert any("_" in ytid for ytid in ids)
    assert all(ytid in row["audio"]["path"] for ytid, row in zip(ids, rows, strict=True))


def test_the_next_file_is_used_if_the_first_is_not_a_sound(raw, tmp_path):
    (raw / "audio" / PART / "Ytwice_there.wav").write_bytes(b"no sound" * 50)
    row = by_id(rows_of(raw, tmp_path))["twice_there"]
    assert kinds(row) == ["duplicate_file", "clip_unreadable"]
    assert row["audio"]["path"].endswith("/twice_there.flac")


@pytest.mark.parametrize(("check_audio", "detected"), [("headers", False), ("decode", True), ("none", False)])
def test_only_decoding_detects_a_cut_off_flac_and_a_wav_with_nan(raw, tmp_path, check_audio, detected):
    flac = write_wav(raw / "audio" / PART / "Yfound_plain.flac")
    (raw / "audio" / PART / "Yfound_plain.wav").unlink()
    flac.write_bytes(flac.read_bytes()[:9000])
    samples = np.zeros(16000)
    samples[5] = np.nan
    soundfile.write(raw / "audio" / PART / "Y-found_dash.wav", samples, 8000, subtype="FLOAT")
    rows = by_id(rows_of(raw, tmp_path, check_audio=check_audio))
    for ytid in ("found_plain", "-found_dash"):
        assert kinds(rows[ytid]) == (["clip_unreadable"] if detected else [])
        assert (rows[ytid]["audio"] is None) == detected
    assert (rows["stereo48kHz"]["audio_seconds"] is None) == (check_audio == "none")
    assert kinds(rows["no_sound_at"]) == ([] if check_audio == "none" else ["clip_unreadable"])
    with pytest.raises(ValueError, match="check_audio='all'.*headers, decode, none"):
        AudiosetBuilder(raw, check_audio="all")


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE"])  # an average bit rate comes with a length tag
@pytest.mark.parametrize("tagged", [False, True])  # with an ID3 tag
def test_the_header_reveals_a_cut_off_mp3(mode, tagged, raw, tmp_path):
    path = raw / "audio" / PART / "Yfound_plain.mp3"
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(path, sound, 8000, compression_level=0.9, bitrate_mode=mode)
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256) if tagged else b""
    complete = tag + path.read_bytes()
    path.with_suffix(".wav").unlink()
    for data, expected in ((complete, []), (tag + complete[len(tag) : len(complete) // 2], ["clip_too_short"])):
        path.write_bytes(data)
        row = by_id(rows_of(raw, tmp_path))["found_plain"]
        assert kinds(row) == expected
        assert row["audio"] is not None
        assert row["audio_seconds"] == pytest.approx(SECONDS / (2 if expected else 1), abs=0.3)


def test_a_file_of_another_excerpt_of_the_video_is_not_used(raw, tmp_path):
    wav = raw / "audio" / PART / "Yfound_plain.wav"
    wav.rename(wav.with_name("found_plain_50.000_52.000.wav"))
    builder = AudiosetBuilder(raw / "metadata", raw / "audio", cache_dir=str(tmp_path / "cache"))
    (defect,) = builder.raw_defects
    assert (defect["what"], defect["how_much"]) == ("unclaimed_files", 1)
    assert defect["detail"] == f"{PART}/: found_plain_50.000_52.000.wav"
    assert kinds(by_id(rows_of(raw, tmp_path))["found_plain"]) == ["clip_missing"]


def test_without_sounds_rows_have_labels_only_and_a_warning_is_printed(raw, tmp_path, capsys):
    output = tmp_path / "output"
    run("--raw_dir", raw / "metadata", "--output_dir", output)
    printed = capsys.readouterr().out
    assert "audio_not_given" in printed
    (line,) = re.findall(r"^eval: .*", printed, re.MULTILINE)
    assert re.findall(r"\d+", line) == ["1"]  # no count of usable clips
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(rows) == 11
    assert set(rows["audio"]) == {None}
    assert not any(rows["defects"])
    assert not (output / "missing_ids.csv").exists()


def test_no_usable_clip_is_an_error(raw, tmp_path):
    output = tmp_path / "output"
    shutil.rmtree(raw / "audio")
    (raw / "audio").mkdir()
    arguments = ["--raw_dir", raw / "metadata", "--audio_root", raw / "audio", "--output_dir", output]
    assert re.search(r"/audio: 0 .*Y<id>\.wav", complaint(*arguments))
    write_wav(raw / "audio" / "other.wav")
    assert "/audio: 1 " in complaint(*arguments)
    assert not output.exists()
    (raw / "audio" / "Yfound_plain.wav").write_bytes(b"no sound" * 50)  # only opening it shows this
    assert re.search(r"/audio: .* 12 clips .*missing 11, unreadable 1\b", complaint(*arguments))
    assert not list(output.glob("*.csv"))


def test_the_digest_changes_with_every_table_and_file(raw, tmp_path):
    def digest(**options) -> str:
        options = {"audio_root": raw / "audio"} | options
        return AudiosetBuilder(raw / "metadata", cache_dir=str(tmp_path / "cache"), **options).hash

    digests = [digest(), digest(audio_root=None), digest(check_audio="none"), digest(target="Whimper")]
    shutil.copytree(raw / "audio", tmp_path / "elsewhere")
    digests.append(digest(audio_root=tmp_path / "elsewhere"))  # rows contain the paths
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


def test_sounds_can_be_embedded(raw, tmp_path):
    plain, embedded = rows_of(raw, tmp_path), rows_of(raw, tmp_path, embed_audio=True)
    for row, same in zip(plain, embedded, strict=True):
        if row["audio"] is not None:
            path = Path(row["audio"]["path"])
            assert same["audio"] == {"bytes": path.read_bytes(), "path": path.name}
        assert same | {"audio": None} == row | {"audio": None}


def test_the_builder_works_without_prepare(raw, tmp_path):
    builder = AudiosetBuilder(raw_dir=raw / "metadata", audio_root=raw / "audio", cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    assert list(builder.as_dataset(split="train")["clip_id"]) == list(FATES)[:11]


# Everything at once


def test_every_kind_of_defect_is_synthesized_and_detected(own, tmp_path):
    synthesize(tmp_path, 40, 10, seed=2, defects="all", suffix=".wav")
    root = tmp_path / "AudioSet"
    detected = {kind for row in rows_of(root, tmp_path) for kind in kinds(row)}
    metadata = root / "metadata"
    (metadata / "eval_segments.csv.gz").write_bytes(b"")
    (metadata / "ontology.json").unlink()
    builders = [
        AudiosetBuilder(metadata, cache_dir=str(tmp_path / "cache")),
        AudiosetBuilder(metadata, root / "audio", check_audio="none", cache_dir=str(tmp_path / "cache")),
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own)),
    ]
    detected |= {defect["what"] for builder in builders for defect in builder.raw_defects}
    # test_odd_names.py covers the first of these two, test_list_groups.py the second.
    assert detected == set(CLIP_DEFECTS) - {"name_not_utf8", "group_unmatched"}


@pytest.mark.slow
def test_output_bytes_do_not_depend_on_num_proc_or_on_resuming(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_datasets.audioset.builder.ROWS_PER_TABLE", 3)
    monkeypatch.setattr(AudiosetBuilder, "SHARD_INPUTS", 1)
    arguments = ["--raw_dir", raw / "metadata", "--audio_root", raw / "audio"]
    run(*arguments, "--output_dir", tmp_path / "one")
    assert len(list((tmp_path / "one" / "data").glob("train-*.parquet"))) == 4
    run(*arguments, "--output_dir", tmp_path / "two", "--num_proc", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "two" / "data").glob("*.parquet")}
    sorted(first)[0].unlink()  # as if the run had been killed before writing it
    run(*arguments, "--output_dir", tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    unchanged = [path for path, time in first.items() if path.stat().st_mtime_ns == time]
    assert len(unchanged) == len(first) - 1


def test_sounds_on_s3_are_checked_by_name_and_size_only(raw, tmp_path, monkeypatch):
    with serve_s3() as s3:
        monkeypatch.setattr(S3FileManager, "_shared", None)
        s3.put_folder(raw, "s3://sounds")
        s3.proxy.forget()
        options = {"raw_dir": "s3://sounds/metadata", "audio_root": "s3://sounds/audio"}
        builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)
        assert [(d["what"], d["how_much"]) for d in builder.raw_defects] == [("not_opened", 9)]
        rows = by_id(rows_of(raw, tmp_path, **options))
        assert s3.proxy.count("^GET .*wav") == 0
        assert rows["found_plain"]["audio"] == {"bytes": None, "path": f"s3://sounds/audio/{PART}/Yfound_plain.wav"}
        detectable = {"clip_missing", "clip_too_small", "duplicate_file", "wrong_folder"}
        expected = {ytid: [fate] if fate in detectable else [] for ytid, fate in FATES.items()} | {
            "a_folder_is": ["clip_missing"]  # S3 has no folders
        }
        assert {ytid: kinds(row) for ytid, row in rows.items()} == expected
        decoded = by_id(rows_of(raw, tmp_path, check_audio="decode", **options))
        assert kinds(decoded["no_sound_at"]) == ["clip_unreadable"]
        assert decoded["found_plain"]["audio_seconds"] == SECONDS
        S3FileManager.live().close()


def test_the_builder_has_the_options_of_prepare():
    other_builders = {"embed_clips"}
    assert set(BUILDER_OPTIONS) - other_builders <= set(inspect.signature(AudiosetBuilder.__init__).parameters)


# The real tables


@pytest.mark.slow
def test_the_real_tables_become_two_million_rows(real_data, tmp_path, capsys):
    output = tmp_path / "output"
    run("--raw_dir", real_data / "audioset" / "meta", "--output_dir", output, "--target", "Baby cry, infant cry")
    rows = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    assert (len(rows["train"]), len(rows["eval"])) == (2_041_789 + 22_160, 20_371)
    assert len(list((output / "data").glob("train-*"))) == 42  # the 41 parts and the balanced clips
    table = rows["train"].data.table
    assert table["part"].null_count == 22_160
    assert pa.compute.max(table["part"]).as_py() == 40
    record = json.loads((output / "target.json").read_text())
    assert [one["mid"] for one in record["related"]] == [CRYING]
    assert record["target"][0]["clips"] == 2_270 + 60 + 60
    assert record["rules"][1]["clips"] == 246 + 38  # of 492 + 64 clips with a strong cry, these lack the weak label
    assert not any(rows["eval"]["strongly_labelled"])  # tables of single targets do not list the other sounds
    labels, _ = ontology_from_labels(json.loads((output / "labels.json").read_text()))
    assert len(labels.mids) == 527 + 74

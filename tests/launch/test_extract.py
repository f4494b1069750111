"""Embeddings of recordings are correct, also after a kill and restart, and the attention task can train on them."""

import csv
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from hf_datasets.names import data_set_names
from launch import extract
from launch.recordings import find_recordings
from media.audio import read_audio
from media.video import read_clip
from system.storage import S3FileManager
from tests.helpers.efficientat import small_encoder
from tests.helpers.programs import paused_after, run, start
from tests.helpers.run_folders import record
from tests.helpers.s3_server import serve_s3
from training.encoders import encoder_once, load_encoder
from training.official_efficientat import save_encoder

RATE, WINDOW, HOP = 32000, 0.8, 0.3
STEP = 0.32  # s, from one embedding of a frame to the next


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "small"
    torch.manual_seed(0)
    save_encoder(small_encoder(window_seconds=WINDOW, hop_seconds=HOP), folder)
    return folder


def tone(folder: Path, name: str, seconds: float, hertz: float = 440.0) -> None:
    """Write a recording of a tone in noise."""
    noise = np.random.default_rng(len(name)).normal(0, 0.05, round(seconds * 22050))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, noise + 0.3 * np.sin(2 * np.pi * hertz * np.arange(len(noise)) / 22050), 22050)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    for place, seconds in enumerate([2.0, 0.3, 3.1, 0.8, 1.1]):
        tone(folder, f"{place % 2}/{place}.wav", seconds)
    (folder / "0" / "=odd,\n.wav").write_bytes(b"RIFF not a sound")
    (folder / "empty.mp3").touch()
    return folder


def extracted(encoder: Path, sounds: Path, output: Path, *options: str) -> dict[str, dict]:
    """Extract embeddings, and return the rows by id."""
    extract.main(["--encoder", str(encoder), "--input", str(sounds), "--output", str(output), *options])
    rows = [row for file in sorted(output.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {row["creative_id"]: row for row in rows}


def expected(encoder: Path, sound: Path, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute times and embeddings of a recording in a plain loop."""
    return expected_of(encoder, read_audio(sound, RATE)[0], layer)


def expected_of(encoder: Path, audio: np.ndarray, layer: str) -> tuple[np.ndarray, np.ndarray]:
    loaded, end = load_encoder(str(encoder)), len(audio) / RATE
    size = round(WINDOW * RATE)
    audio = np.pad(audio, (0, max(0, size - len(audio))))
    hop = round(HOP * RATE) if layer == "window" else size
    last, times, embeddings = -1.0, [], []
    for start_ in sorted({*range(0, len(audio) - size + 1, hop), len(audio) - size}):
        with torch.inference_mode():
            states = loaded.base(**loaded.extractor(audio[start_ : start_ + size], sampling_rate=RATE))
        frames = states.last_hidden_state[0] if layer == "frames" else states.pooler_output
        for place, frame in enumerate(frames):
            if last < (seconds := start_ / RATE + STEP * place) < end:
                times, embeddings, last = [*times, seconds], [*embeddings, frame.numpy()], seconds
    return np.array(times), np.stack(embeddings)


@pytest.mark.parametrize("layer", ["window", "frames"])
def test_embeddings_are_correct_and_unreadable_files_are_listed(
    layer: str, encoder: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    rows = extracted(encoder, sounds, output, "--layer", layer, "--rows_per_shard", "3")
    files = sorted(path for path in sounds.rglob("*") if path.is_file())
    assert rows.keys() == {path.relative_to(sounds).as_posix() for path in files}
    for file in files:
        row = rows[file.relative_to(sounds).as_posix()]
        if file.stat().st_size < 100:
            assert (row["has_embeddings"], row["embeddings"], row["embeddings_frames"]) == (False, None, 0)
            assert row["defects"][0]["what"] == "unreadable"
            continue
        times, embeddings = expected(encoder, file, layer)
        np.testing.assert_allclose(row["seconds"], times, atol=1e-4)
        stored = np.array(row["embeddings"]).reshape(row["embeddings_frames"], -1)
        np.testing.assert_allclose(stored, embeddings, rtol=2e-3, atol=1e-3)  # half precision
    with open(output / "unreadable.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["0/=odd,\n.wav", "empty.mp3"]
    assert counts(capsys.readouterr().out) == [5, 3, 0, 2]
    metadata = json.loads(pq.read_schema(output / "part-00000.parquet").metadata[b"feltsound"])
    assert metadata["identity"] == load_encoder(str(encoder)).identity
    hop = HOP if layer == "window" else WINDOW
    keys = ("layer", "window_seconds", "hop_seconds", "size")
    assert tuple(metadata[key] for key in keys) == (layer, WINDOW, hop, 96)


def counts(output: str) -> list[int]:
    """Return the printed counts: readable recordings, shards, shards that existed, and unreadable recordings."""
    summary = output.splitlines()[-1].partition(": ")[2].partition(", see ")[0]
    return [int(count) for count in re.findall(r"\d+", summary)][:4]


def test_existing_shards_are_kept_and_only_changed_recordings_are_embedded_again(
    encoder: Path, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    before = extracted(encoder, sounds, output, "--rows_per_shard", "2")
    written = {file: file.stat().st_mtime_ns for file in output.glob("*.parquet")}
    (output / "part-00001.parquet").unlink()
    assert str(extracted(encoder, sounds, output, "--rows_per_shard", "2")) == str(before)
    changed = {file.name for file, when in written.items() if file.stat().st_mtime_ns != when}
    assert changed == {"part-00001.parquet"}
    (sounds / "empty.mp3").unlink()
    assert len(extracted(encoder, sounds, output, "--rows_per_shard", "2")) == 6
    assert counts(capsys.readouterr().out)[1:] == [3, 3, 1]
    assert not (output / "part-00003.parquet").exists()
    for options, key in (
        (["--layer", "frames"], "layer"),
        (["--num_proc", "0"], "num_proc"),
        (["--dataset_config", "a"], "dataset_config=a"),
    ):
        with pytest.raises(ValueError, match=key):
            extracted(encoder, sounds, output, *options)


@pytest.mark.parametrize("seconds", [0.02, 0.31, 0.33, 0.65, 0.8, 0.9])
def test_no_frame_starts_after_the_end_of_the_sound(seconds: float, encoder: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    times, embeddings = extract.embed(load_encoder(str(encoder)), "frames", [sound])
    assert len(times) == len(embeddings) == len(expected_of(encoder, sound, "frames")[0])
    assert times[0] == 0
    assert times[-1] < seconds <= times[-1] + STEP


@pytest.mark.parametrize("metadata", [None, {"huggingface": "{}"}])
def test_files_of_other_programs_are_not_overwritten(
    metadata: dict | None, encoder: Path, sounds: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    table = pa.table({"x": [1]}).replace_schema_metadata(metadata)
    others = [
        output / name for name in ("part-00000-1234.c000.snappy.parquet", "part-1.parquet", "part-000001.parquet")
    ]
    for other in others:
        pq.write_table(table, other)
    before = [other.read_bytes() for other in others]
    extract.main(["--encoder", str(encoder), "--input", str(sounds), "--output", str(output)])
    assert [other.read_bytes() for other in others] == before
    assert (output / "part-00000.parquet").exists()
    pq.write_table(table, output / "part-00007.parquet")
    names = {path.name for path in output.iterdir()}
    with pytest.raises(ValueError, match="--output=.*part-00007.parquet"):  # and not an error about the encoder
        extract.main(["--encoder", "none", "--input", str(sounds), "--output", str(output)])
    assert {path.name for path in output.iterdir()} == names


def test_an_output_inside_the_input_is_rejected(encoder: Path, sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sounds)
    before = sorted(sounds.rglob("*"))
    for output in (sounds, sounds / "embeddings", sounds / "0" / "a" / "b", tmp_path / "link" / "embeddings"):
        with pytest.raises(ValueError, match="--output=.*--input"):
            extracted(encoder, sounds, output)
    assert sorted(sounds.rglob("*")) == before


def test_no_shard_is_written_after_the_encoder_has_changed(sounds: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    save_encoder(small_encoder(window_seconds=WINDOW, hop_seconds=HOP), folder)
    use = extract.Extraction(str(folder), None, "window", tmp_path)
    shards = extract.plan(use, find_recordings(str(sounds), None), {}, 2)
    assert shards[0].write(use) == 2
    small_encoder(window_seconds=WINDOW, hop_seconds=HOP).save_pretrained(folder)
    encoder_once.cache_clear()  # as in a new worker process
    with pytest.raises(ValueError, match=f"--encoder={folder}: "):
        shards[1].write(use)
    assert [path.name for path in tmp_path.glob("*part-*")] == [shards[0].file.name]


@pytest.mark.parametrize("name", data_set_names())
def test_every_data_set_is_embedded_or_rejected_in_one_line(name: str, encoder: Path, tmp_path: Path) -> None:
    if name == "tunein":  # its column `audio` contains embeddings
        with pytest.raises(ValueError, match="--input=hf_datasets/tunein: column 'audio'") as error:
            find_recordings("hf_datasets/tunein", "sample")
        assert "\n" not in str(error.value)
        return
    recordings = find_recordings(f"hf_datasets/{name}", "sample")
    ids = recordings.ids()
    assert len(set(ids)) == len(ids)
    use = extract.Extraction(str(encoder), None, "window", tmp_path)
    shard, *_ = extract.plan(use, recordings.part(0, 3), {}, 3)
    assert shard.write(use) == 3
    rows = pq.read_table(shard.file).to_pylist()
    assert [row["creative_id"] for row in rows] == ids[:3]
    place = next(place for place, row in enumerate(rows) if row["has_embeddings"])
    with recordings.open(place) as source:
        clip = read_clip(source, num_frames=0, audio_rate=RATE) if name == "meld" else None
        sound = read_audio(source, RATE)[0] if clip is None else clip.audio
    times, embeddings = expected_of(encoder, sound, "window")
    np.testing.assert_allclose(rows[place]["seconds"], times, atol=1e-4)
    stored = np.array(rows[place]["embeddings"]).reshape(len(times), -1)
    np.testing.assert_allclose(stored, embeddings, rtol=2e-3, atol=1e-3)


def test_a_data_set_gives_the_same_embeddings_as_a_folder(encoder: Path, sounds: Path, tmp_path: Path) -> None:
    clips = sorted(sounds.rglob("*.wav"))
    table = [{"clip_id": c.stem, "audio": {"bytes": c.read_bytes(), "path": None}, "synthetic": True} for c in clips]
    table += [{"clip_id": "by path", "audio": {"bytes": None, "path": str(clips[1])}, "synthetic": True}]
    table += [{"clip_id": "none", "audio": None, "synthetic": True}]
    rows = datasets.Dataset.from_list(table).cast_column("audio", datasets.Audio(decode=False))
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train-00000.parquet")
    from_rows = extracted(encoder, tmp_path / "data", tmp_path / "out", "--rows_per_shard", "4")
    from_folder = extracted(encoder, sounds, tmp_path / "folder")
    assert from_rows.keys() == {row["clip_id"] for row in table}
    for clip in clips:
        assert from_rows[clip.stem]["embeddings"] == from_folder[clip.relative_to(sounds).as_posix()]["embeddings"]
    assert from_rows["by path"]["embeddings"] == from_rows[clips[1].stem]["embeddings"]
    assert (from_rows["none"]["has_embeddings"], from_rows["none"]["synthetic"]) == (False, True)


def test_the_state_of_a_row_changes_with_the_file_that_it_names(sounds: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    local, url = sounds / "0" / "0.wav", "s3://ads/a.wav"
    places = [(local.read_bytes(), None), (None, str(local)), (None, url), (None, "s3://ads/none.wav")]
    table = [{"clip_id": str(i), "audio": {"bytes": b, "path": p}} for i, (b, p) in enumerate(places)]
    rows = pa.Table.from_pylist([*table, {"clip_id": "none", "audio": None}])
    pq.write_table(rows, tmp_path / "data" / "train-00000.parquet")
    before = S3FileManager.live()

    def states() -> list[list]:
        """Return the state of each row, as seen by a new process."""
        S3FileManager.adopt(manager := S3FileManager(min_free_bytes=0))
        recordings = extract.find_recordings(str(tmp_path / "data"), None)
        states = [recordings.part(place, 1).state() for place in range(len(recordings))]
        manager.close()
        return states

    with serve_s3() as s3:
        s3.put(url, b"1234")
        first = states()
        assert states() == first
        assert first[2][3:] == [(url, 4, s3.boto.head_object(Bucket="ads", Key="a.wav")["ETag"].strip('"'))]
        assert first[3][3:] == [("s3://ads/none.wav", 0, 0)]
        assert first[0][3:] == first[4][3:] == []
        s3.put(url, b"4321")
        os.utime(local, (0, 0))
        assert [one != other for one, other in zip(first, states(), strict=True)] == [False, True, True, False, False]
    S3FileManager.adopt(before)


@pytest.mark.parametrize(
    ("lines", "detail"),
    [("name,target\n", "line 1"), ("id,target\n0/0.wav,x\n", "line 2"), ("id,target\nno.wav,1\n", "line 2: no.wav"),
     ("id,target\n0/0.wav,nan\n", "line 2: 0/0.wav"), ("id,target\n0/0.wav,1\n0/0.wav,1\n", "line 3: 0/0.wav")],
)  # fmt: skip
def test_wrong_targets_are_rejected_with_their_line(
    lines: str, detail: str, encoder: Path, sounds: Path, tmp_path: Path
) -> None:
    (tmp_path / "targets.csv").write_text(lines)
    with pytest.raises(ValueError, match=f"targets.csv: {detail}"):
        extracted(encoder, sounds, tmp_path / "out", "--targets", str(tmp_path / "targets.csv"))


@pytest.mark.slow
def test_two_processes_and_a_killed_one_write_the_same_bytes(encoder: Path, tmp_path: Path) -> None:
    sounds = tmp_path / "sounds"
    for place in range(24):
        tone(sounds, f"{place:02d}.wav", 20.0, 200 + 30 * place)
    extracted(encoder, sounds, tmp_path / "one", "--rows_per_shard", "4")
    command = ["-m", "launch.extract", "--encoder", encoder, "--input", sounds, "--rows_per_shard", "4"]
    run(sys.executable, *command, "--output", tmp_path / "two", "--num_proc", "2")
    killed = tmp_path / "killed"
    process = start(*command, "--output", killed, log=tmp_path / "said", **paused_after("part-*.parquet", 2))
    while not (killed / "part-00001.parquet").exists():
        assert process.is_alive()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    finished = {path.name for path in killed.glob("part-*.parquet")}
    assert len(finished) == 2
    done = run(sys.executable, *command, "--output", killed)
    assert counts(done.stdout)[1:3] == [6, len(finished)]
    for file in (tmp_path / "one").iterdir():
        assert (killed / file.name).read_bytes() == file.read_bytes()
        assert (tmp_path / "two" / file.name).read_bytes() == file.read_bytes()
    assert {path.name for path in killed.iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow
def test_attention_is_learned_from_the_embeddings_of_generated_clips(encoder: Path, tmp_path: Path) -> None:
    sounds, dice = tmp_path / "ads", np.random.default_rng(0)
    pitches = dice.uniform(0, 1, 90)
    for place, pitch in enumerate(pitches):
        tone(sounds, f"ad {place:02d}.wav", 1.2, 200 * 2 ** (4 * pitch))
    lines = ["id,target", *(f"ad {place:02d}.wav,{pitch}" for place, pitch in enumerate(pitches[:-1]))]
    (tmp_path / "attention.csv").write_text("\n".join(lines))
    rows = extracted(encoder, sounds, tmp_path / "out", "--targets", str(tmp_path / "attention.csv"))
    assert rows["ad 00.wav"]["target"] == pytest.approx(pitches[0])
    command = ["run_train.py", "configs/tunein_attention.json", "--dataset", tmp_path / "out", "--output_dir"]
    command += [tmp_path / "run", "--model_config.modalities", '["embeddings"]', "--num_train_epochs", "40"]
    for part in ("branch", "fusion", "modality"):
        command += [f"--model_config.{part}_dropout", "0"]
    run(sys.executable, *command, "--disable_tqdm", "true", "--report_to", "none")
    metrics = record(tmp_path / "run")
    assert metrics["data"]["left_out"] == {"no target": 1}
    errors = {who: of["scores"]["rmse"]["mean"] for who, of in metrics["test"]["baselines"].items()}
    assert metrics["test"]["scores"]["rmse"]["mean"] < 0.8 * errors["mean"], errors

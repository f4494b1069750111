"""Windows are where their labels say, are the same in any process, and never silence in place of a bad file."""

import functools
import pickle
import re
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from media.audio import AudioError, read_audio, read_window
from system.storage import S3FileManager
from tasks.detection.augmentation import Augmentation
from tasks.detection.items import Kind
from tasks.detection.windows import AudioSetWindows, ClipSounds, WindowSettings
from tests.helpers.detection_rows import ANYWHERE, COLUMNS, RATE, encode, make_items, make_rows, noise


@functools.cache
def ramp(seconds: float, rate: int = RATE) -> bytes:
    """Encode a sound whose sample i is (i + 1) / 2**20, so that every sample shows its position."""
    return encode(np.arange(1, round(seconds * rate) + 1) / 2**20, rate, "WAV", "FLOAT")


def first_sample(audio: np.ndarray) -> int:
    """Return where a window of `ramp` begins, after checking that it is one piece."""
    positions = np.rint(audio * 2**20).astype(int) - 1
    np.testing.assert_array_equal(np.diff(positions), 1)
    return int(positions[0])


seeds = st.integers(0, 2**63 - 1)


@given(start=st.floats(0, 9.9), length=st.floats(0.01, 10), clip_seconds=st.sampled_from([0.5, 1.0, 2.5]), seed=seeds)
@settings(max_examples=100)
def test_window_holds_its_event_or_is_inside_it(start, length, clip_seconds, seed):
    end = min(start + length, 10.0)
    for kind in (Kind.POSITIVE, Kind.STRONG):
        windows = AudioSetWindows(make_rows([ramp(10)]), make_items((0, (start, end), kind, 5)), clip_seconds, RATE)
        window = windows[0, seed]
        first = first_sample(window["audio"])
        assert len(window["audio"]) == round(clip_seconds * RATE)
        assert window["padded_seconds"] == 0
        assert window["start_seconds"] == first / RATE
        last = first + len(window["audio"])
        if end - start <= clip_seconds:
            assert first <= start * RATE + 1.1
            assert last >= end * RATE - 1.1
        else:
            assert first >= start * RATE - 1.1
            assert last <= end * RATE + 1.1


def test_windows_of_an_event_cover_all_possible_starts():
    windows = AudioSetWindows(make_rows([ramp(10)]), make_items((0, (4.0, 4.2), Kind.POSITIVE, 0)))
    starts = np.array([windows[0, seed]["start_seconds"] for seed in range(500)])
    assert starts.min() >= 3.2
    assert starts.max() <= 4.0
    counts, _ = np.histogram(starts, bins=8, range=(3.2, 4.0))
    assert counts.min() > 35  # 62.5 expected


def test_weak_windows_cover_the_whole_file_and_are_never_silent():
    """The times in the tables are those of the video; used for the file, 93 % of AudioSet's windows would be empty."""
    windows = AudioSetWindows(make_rows([ramp(10, 1000)]), make_items((0, ANYWHERE, Kind.WEAK, 0)), 1.0, 1000)
    firsts = [first_sample(windows[0, seed]["audio"]) for seed in range(2000)]
    assert min(firsts) < 20
    assert max(firsts) > 8980
    counts, _ = np.histogram(firsts, bins=10, range=(0, 9000))
    assert 150 < counts.min()
    assert counts.max() < 250


@pytest.mark.parametrize("seconds, padded", [(1.0, 0.0), (1.25, 0.0), (0.25, 0.75)])
@pytest.mark.parametrize("event", [ANYWHERE, (0.1, 0.2)])
def test_only_files_shorter_than_the_window_are_padded(seconds, padded, event):
    windows = AudioSetWindows(make_rows([ramp(seconds)]), make_items((0, event, Kind.POSITIVE, 0)))
    for seed in range(20):
        window = windows[0, seed]
        sound = np.count_nonzero(window["audio"])
        assert (len(window["audio"]), window["padded_seconds"], sound / RATE) == (RATE, padded, 1 - padded)
        first_sample(window["audio"][:sound])


@pytest.mark.parametrize("new_rate", [16000, 32000])
@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize(
    "container, subtype", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
)
def test_window_equals_the_same_part_of_the_whole_file(container, subtype, rate, new_rate, tmp_path):
    path = tmp_path / f"stereo.{container.lower()}"
    path.write_bytes(encode(noise(4, rate, channels=2), rate, container, subtype))
    whole, _ = read_audio(path, new_rate)
    rows = make_rows([path, path.read_bytes()])
    windows = AudioSetWindows(rows, make_items(*((row, ANYWHERE, Kind.WEAK, 0) for row in (0, 1))), 1.0, new_rate)
    for seed in range(10):
        from_path, from_bytes = windows[0, seed], windows[1, seed]
        first = round(from_path["start_seconds"] * new_rate)
        expected = whole[first : first + new_rate]
        assert len(expected) == new_rate
        np.testing.assert_allclose(from_path["audio"], expected, atol=2e-3)
        np.testing.assert_array_equal(from_path["audio"], from_bytes["audio"])


def test_window_describes_itself():
    windows = AudioSetWindows(
        make_rows([ramp(3), ramp(3)]), make_items((1, (1, 2), Kind.POSITIVE, 7), (0, ANYWHERE, Kind.WEAK, 9))
    )
    cry, other = windows[0, 4711], windows[1]
    assert [cry[key] for key in ("label", "item", "requested", "clip_id", "kind", "label_code", "seed")] == [
        1.0, 0, 0, "-clip_00001", Kind.POSITIVE, 7, 4711,
    ]  # fmt: skip
    assert (other["label"], other["kind"], other["label_code"], other["seed"]) == (0.0, Kind.WEAK, 9, 1)
    assert cry["audio"].dtype == np.float32
    assert cry["sampling_rate"] == RATE
    np.testing.assert_array_equal(
        windows[1]["audio"], windows[1, 1]["audio"]
    )  # without a seed, the item number is the seed
    assert len(windows) == 2
    assert len(list(windows)) == 2
    with pytest.raises(IndexError, match="item 2 of 2"):
        windows[2, 0]


def test_windows_beyond_full_scale_are_scaled_down():
    audio = noise(1)[:, 0] * 30
    windows = AudioSetWindows(
        make_rows([encode(audio, RATE, "WAV", "FLOAT")]), make_items((0, ANYWHERE, Kind.WEAK, 0))
    )
    np.testing.assert_allclose(windows[0]["audio"], audio / np.abs(audio).max(), atol=1e-6)


def bad_file(kind: str, folder: Path) -> Path | bytes | None:
    path = folder / f"{kind}.wav"
    if kind == "no sound":
        return None
    if kind == "garbage bytes":
        return b"no sound at all" * 100
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "truncated flac":
        data = encode(noise(10), RATE, "FLAC", "PCM_16")
        path.write_bytes(data[:500])
    elif kind == "truncated mp3":
        data = encode(noise(10), RATE, "MP3", "MPEG_LAYER_III")
        path.write_bytes(data[: len(data) // 50])
    elif kind == "cut off before the event":
        path.write_bytes(encode(noise(3), RATE, "WAV", "PCM_16"))
    elif kind == "NaN":
        path.write_bytes(encode(np.full(10 * RATE, np.nan), RATE, "WAV", "FLOAT"))
    return path  # "missing" creates no file


BAD = (
    "missing", "folder", "empty", "garbage", "truncated flac", "truncated mp3", "NaN", "no sound", "garbage bytes",
    "cut off before the event",
)  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_replaced_by_one_of_its_stratum(kind, tmp_path, caplog):
    rows = make_rows([bad_file(kind, tmp_path), *(encode(noise(10, seed=i), RATE, "WAV", "PCM_16") for i in range(4))])
    event = (4.0, 4.5)
    items = make_items(
        (0, event, Kind.POSITIVE, 1), (1, event, Kind.POSITIVE, 1), (2, event, Kind.POSITIVE, 1),
        (3, event, Kind.POSITIVE, 2), (4, event, Kind.STRONG, 1),
    )  # fmt: skip
    windows = AudioSetWindows(rows, items)
    served = [windows[0, seed] for seed in range(20)]
    assert {window["item"] for window in served} == {1, 2}
    for seed, window in enumerate(served):
        assert (window["requested"], window["label"], window["label_code"], window["seed"]) == (0, 1.0, 1, seed)
        assert window["clip_id"] == f"-clip_{window['item']:05d}"
        assert window["audio"].std() > 0.05
        assert window["padded_seconds"] == 0
        again = AudioSetWindows(rows, items)[0, seed]
        np.testing.assert_array_equal(window["audio"], again["audio"])
    assert "-clip_00000" in windows.failure_of((0, 3))
    assert windows.failure_of((1, 3)) is None
    assert sum("-clip_00000" in record.message for record in caplog.records) >= 1
    assert windows[1, 5]["item"] == 1  # readable items are not replaced


def test_empty_stratum_falls_back_to_the_kind(tmp_path):
    rows = make_rows([tmp_path / "none.wav", ramp(3), ramp(3)])
    items = make_items(
        (0, (1, 2), Kind.STRONG, 1),
        (1, (1, 2), Kind.STRONG, 2),
        (2, (1, 2), Kind.POSITIVE, 1),
        (0, (0, 1), Kind.STRONG, 1),
    )
    window = AudioSetWindows(rows, items)[0, 7]
    assert (window["item"], window["label"]) == (1, 0.0)


def test_error_names_the_first_of_many_bad_files(tmp_path):
    rows = make_rows([tmp_path / f"none_{index}.wav" for index in range(30)] + [ramp(3)])
    everything = [(row, ANYWHERE, Kind.WEAK, 0) for row in range(30)]
    windows = AudioSetWindows(rows, make_items(*everything[:3], (30, ANYWHERE, Kind.STRONG, 0)))
    with pytest.raises(AudioError, match=r"weak negative 1: .*2 substitutes; .*none_1.wav\)"):
        windows[1, 0]
    windows = AudioSetWindows(rows, make_items(*everything))
    with pytest.raises(AudioError, match=r"weak negative 4: .*19 substitutes; .*none_4.wav\)"):
        windows[4, 0]


def test_event_mostly_inside_the_file_is_used():
    rows = make_rows([ramp(9.98), ramp(9.98)])
    windows = AudioSetWindows(
        rows, make_items((0, (9.5, 10.0), Kind.POSITIVE, 0), (1, (9.97, 10.0), Kind.POSITIVE, 0))
    )
    assert windows[0, 3]["item"] == 0
    assert windows[0, 3]["start_seconds"] == 8.98
    assert windows[1, 3]["item"] == 0  # the file has only a third of its event
    assert re.search("-clip_00001: .* 9.980 s, .* 9.97 to 10 s", windows.failure_of((1, 3)))


@given(start=st.floats(0, 8.9), length=st.floats(1.0, 5.0), seed=seeds)
@settings(max_examples=50)
def test_windows_of_explicit_negatives_stay_inside_the_checked_part(start, length, seed):
    end = min(start + length, 10.0)
    window = AudioSetWindows(make_rows([ramp(10)]), make_items((0, (start, end), Kind.EXPLICIT, 0)))[0, seed]
    assert start - 1.1 / RATE <= window["start_seconds"] <= end - 1 + 1.1 / RATE


def test_explicit_negatives_must_fit_a_window(tmp_path):
    with pytest.raises(ValueError, match="clip_seconds=2.0: .* 1.92 s"):
        AudioSetWindows(make_rows([ramp(10)]), make_items((0, (1.0, 2.92), Kind.EXPLICIT, 0)), 2.0)
    items = make_items((0, (2.0, 4.0), Kind.EXPLICIT, 0), (1, (2.0, 4.0), Kind.EXPLICIT, 0))
    assert (
        AudioSetWindows(make_rows([ramp(2.9), ramp(10)]), items)[0, 1]["item"] == 1
    )  # the target may be just before the checked part


def test_files_at_urls_are_downloaded_and_missing_ones_replaced(tmp_path):
    (tmp_path / "sound.wav").write_bytes(ramp(3))
    urls = [f"file://{tmp_path}/{name}.wav" for name in ("sound", "none")]
    windows = AudioSetWindows(make_rows(urls), make_items(*((row, ANYWHERE, Kind.WEAK, 0) for row in (0, 1))))
    assert [windows.files_of((item, 5)) for item in (0, 1)] == [[urls[0]], [urls[1]]]
    files = S3FileManager(cache_dir=tmp_path / "cache", tries=1)
    S3FileManager.adopt(files)
    try:
        assert first_sample(windows[0, 5]["audio"]) == windows[0, 5]["start_seconds"] * RATE
        assert windows[1, 5]["item"] == 0
        assert f"-clip_00001 ({urls[1]}): " in windows.failure_of((1, 5))
    finally:
        files.close()
        S3FileManager.adopt(None)


def test_files_of_an_item_include_its_background(tmp_path):
    rows = make_rows([tmp_path / "a.wav", tmp_path / "b.wav", ramp(3)])
    items = make_items((0, (1, 2), Kind.POSITIVE, 0), (1, ANYWHERE, Kind.WEAK, 0), (2, (1, 2), Kind.POSITIVE, 0))
    assert AudioSetWindows(rows, items).files_of((0, 3)) == [str(tmp_path / "a.wav")]
    assert AudioSetWindows(rows, items).files_of((2, 3)) == []
    noisy = AudioSetWindows(rows, items, augmentation=Augmentation(background_probability=1.0))
    assert noisy.files_of((0, 3)) == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert noisy.files_of((2, 3)) == [str(tmp_path / "b.wav")]


def test_pickled_windows_do_not_contain_the_rows(tmp_path):
    rows = make_rows([tmp_path / f"{row}.wav" for row in range(20_000)])
    with pa.OSFile(str(tmp_path / "rows"), "wb") as file, pa.ipc.new_stream(file, COLUMNS.arrow_schema) as stream:
        stream.write_table(rows.data.table)
    rows = datasets.Dataset.from_file(str(tmp_path / "rows"))
    windows = AudioSetWindows(rows, make_items((19_999, ANYWHERE, Kind.WEAK, 0)))
    windows.failure_of(0)
    sent = pickle.dumps(windows)
    assert len(sent) < 20_000
    assert pickle.loads(sent).files_of(0) == [str(tmp_path / "19999.wav")]


def test_inconsistent_arguments_are_rejected():
    rows, items = make_rows([ramp(3)]), make_items((0, ANYWHERE, Kind.STRONG, 0))
    with pytest.raises(ValueError, match="column='audio': .*clip_id, start_seconds"):
        AudioSetWindows(rows.remove_columns("audio"), items)
    with pytest.raises(ValueError, match="rows=1: .* 1 to 1"):
        AudioSetWindows(rows, make_items((1, ANYWHERE, Kind.STRONG, 0)))
    with pytest.raises(ValueError, match="background_probability=0.1: "):
        AudioSetWindows(rows, items, augmentation=Augmentation(background_probability=0.1))
    for wrong in ({"clip_seconds": 0.0}, {"clip_seconds": float("nan")}, {"sampling_rate": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            WindowSettings(**wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AudioSetWindows(rows, items, **wrong)


def test_rows_have_a_path_and_a_name_for_errors(tmp_path):
    sounds = ClipSounds(make_rows([ramp(3), tmp_path / "a.wav", None]))
    assert [sounds.file(row) for row in range(3)] == [None, str(tmp_path / "a.wav"), None]
    assert [sounds.source(row) for row in range(2)] == [ramp(3), str(tmp_path / "a.wav")]
    assert sounds.name(0) == "clip -clip_00000"
    assert sounds.name(1) == f"clip -clip_00001 ({tmp_path}/a.wav)"
    with pytest.raises(AudioError, match="clip -clip_00002: no audio"):
        sounds.source(2)


def test_truncated_mp3_gives_no_short_window():
    data = encode(noise(10), RATE, "MP3", "MPEG_LAYER_III")
    sounds = ClipSounds(make_rows([data[: len(data) // 2]]))
    assert len(sounds.read(0, lambda seconds: 3.0, 1.0, RATE)) == RATE
    with pytest.raises(AudioError, match="clip -clip_00000: .* 10.000 s "):
        sounds.read(0, lambda seconds: 4.5, 1.0, RATE)


@pytest.mark.slow  # starts processes
def test_windows_do_not_depend_on_workers_and_order(tmp_path):
    paths = [tmp_path / f"{row}.flac" for row in range(6)]
    for row, path in enumerate(paths[1:], start=1):  # the first is missing
        path.write_bytes(encode(noise(3, 44100, 2, row), 44100, "FLAC", "PCM_16"))
    items = make_items(*((row, ANYWHERE, Kind.WEAK, row % 2) for row in range(6)))
    augmentation = Augmentation(gain_db=6, roll_probability=0.5, background_probability=0.5)
    windows = AudioSetWindows(make_rows(paths), items, augmentation=augmentation)
    wanted = [(item, 1000 * item + turn) for turn in range(4) for item in range(6)]

    def read(order: list[tuple[int, int]], workers: int) -> dict[tuple[int, int], tuple[int, bytes]]:
        loader = DataLoader(windows, batch_size=None, sampler=order, num_workers=workers)
        return {(w["requested"], w["seed"]): (w["item"], np.asarray(w["audio"]).tobytes()) for w in loader}

    alone = read(wanted, 0)
    assert len(alone) == len(wanted)
    for workers in (1, 2):
        assert read(wanted[::-1], workers) == alone


def test_windows_of_real_recordings_equal_parts_of_them(real_data: Path):
    paths = sorted((real_data / "esc10").glob("*/*.ogg"))[::20]
    if not paths:
        pytest.skip(f"no recordings under {real_data}/esc10")
    items = make_items(*((row, ANYWHERE, Kind.WEAK, 0) for row in range(len(paths))))
    windows = AudioSetWindows(make_rows(paths), items)
    for item, path in enumerate(paths):
        whole, _ = read_audio(path, RATE)
        for seed in range(3):
            window = windows[item, seed]
            first = round(window["start_seconds"] * RATE)
            np.testing.assert_allclose(window["audio"], whole[first : first + RATE], atol=2e-3)


@pytest.mark.parametrize(
    "container, subtype, rate",
    [("WAV", "PCM_16", RATE), ("FLAC", "PCM_16", 22050), ("MP3", "MPEG_LAYER_III", 44100), ("OGG", "VORBIS", 44100)],
)
def test_windows_of_kept_audio_equal_those_read_from_files(container: str, subtype: str, rate: int) -> None:
    rows = make_rows([encode(noise(3.0, rate), rate, container, subtype)])
    items = make_items((0, ANYWHERE, Kind.WEAK, 0), (0, (1.0, 1.3), Kind.POSITIVE, 0))
    read, kept = (AudioSetWindows(rows, items, 0.5, RATE, keep=keep) for keep in (False, True))
    for key in [(item, seed) for item in range(2) for seed in range(20)]:
        expected, actual = read[key], kept[key]
        assert expected["start_seconds"] == actual["start_seconds"]
        np.testing.assert_allclose(actual["audio"], expected["audio"], atol=1e-5)
    assert len(kept.sounds._decoded_audio) == 1


def test_kept_audio_is_decoded_once_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("tasks.detection.windows.read_window", lambda *args: calls.append(args) or read_window(*args))
    windows = AudioSetWindows(make_rows([ramp(3)]), make_items((0, ANYWHERE, Kind.WEAK, 0)), 1.0, RATE, keep=True)
    before = windows[0, 1]["audio"].copy()
    windows[0, 1]["audio"][:] = 0
    np.testing.assert_array_equal(windows[0, 1]["audio"], before)
    assert len(calls) == 1
    again = pickle.loads(pickle.dumps(windows))
    assert again.sounds._decoded_audio == {}
    np.testing.assert_array_equal(again[0, 1]["audio"], before)


def test_truncated_file_is_replaced_with_and_without_keeping() -> None:
    whole, cut = ramp(3), ramp(3)[: 44 + 4 * RATE]
    rows = make_rows([cut, whole])
    items = make_items((0, ANYWHERE, Kind.WEAK, 0), (1, ANYWHERE, Kind.WEAK, 0))
    read, kept = (AudioSetWindows(rows, items, 1.0, RATE, keep=keep) for keep in (False, True))
    for seed in range(30):
        assert read[0, seed]["item"] == kept[0, seed]["item"]
        np.testing.assert_allclose(kept[0, seed]["audio"], read[0, seed]["audio"], atol=1e-6)


@pytest.mark.parametrize(
    "seconds, fits",
    [([10.0] * 100, True), ([10.0] * 10**5, False), ([10.0, np.nan], False), ([200.0], False), ([], False)],
)
def test_only_few_short_files_are_kept_in_memory(seconds: list[float], fits: bool) -> None:
    assert WindowSettings(memory_gb=1.0).fit_in_memory(np.array(seconds)) == fits
    assert not WindowSettings(memory_gb=0.0).fit_in_memory(np.array(seconds))

"""Windows: they lie where their labels say, are the same whoever reads them, and no bad file becomes silence."""

import functools
import pickle
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
    """A sound whose samples tell where they stand: sample i is (i + 1) / 2**20."""
    return encode(np.arange(1, round(seconds * rate) + 1) / 2**20, rate, "WAV", "FLOAT")


def first_sample(audio: np.ndarray) -> int:
    """Where a window of `ramp` begins; it has to be one piece of it."""
    places = np.rint(audio * 2**20).astype(int) - 1
    np.testing.assert_array_equal(np.diff(places), 1)
    return int(places[0])


seeds = st.integers(0, 2**63 - 1)


@given(start=st.floats(0, 9.9), length=st.floats(0.01, 10), clip_seconds=st.sampled_from([0.5, 1.0, 2.5]), seed=seeds)
@settings(max_examples=100)
def test_a_window_holds_its_event_or_lies_in_it(start, length, clip_seconds, seed):
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


def test_windows_of_an_event_are_spread_over_all_its_places():
    windows = AudioSetWindows(make_rows([ramp(10)]), make_items((0, (4.0, 4.2), Kind.POSITIVE, 0)))
    starts = np.array([windows[0, seed]["start_seconds"] for seed in range(500)])
    assert starts.min() >= 3.2
    assert starts.max() <= 4.0
    counts, _ = np.histogram(starts, bins=8, range=(3.2, 4.0))
    assert counts.min() > 35  # 62.5 expected


def test_weak_windows_are_spread_over_the_whole_file_and_are_never_silent():
    """The table's times are the video's: taken for the file's, 93 % of AudioSet's windows would be empty."""
    windows = AudioSetWindows(make_rows([ramp(10, 1000)]), make_items((0, ANYWHERE, Kind.WEAK, 0)), 1.0, 1000)
    firsts = [first_sample(windows[0, seed]["audio"]) for seed in range(2000)]
    assert min(firsts) < 20
    assert max(firsts) > 8980
    counts, _ = np.histogram(firsts, bins=10, range=(0, 9000))
    assert 150 < counts.min()
    assert counts.max() < 250


@pytest.mark.parametrize("seconds, padded", [(1.0, 0.0), (1.25, 0.0), (0.25, 0.75)])
@pytest.mark.parametrize("event", [ANYWHERE, (0.1, 0.2)])
def test_only_a_file_that_is_shorter_than_the_window_is_followed_by_zeros(seconds, padded, event):
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
def test_a_window_is_what_the_whole_file_has_there(container, subtype, rate, new_rate, tmp_path):
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


def test_a_window_says_what_it_is():
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
    np.testing.assert_array_equal(windows[1]["audio"], windows[1, 1]["audio"])  # without a seed: that of the item
    assert len(windows) == 2
    assert len(list(windows)) == 2
    with pytest.raises(IndexError, match="item 2 of 2"):
        windows[2, 0]


def test_samples_beyond_full_scale_make_the_window_softer():
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
    return path  # of "missing" there is none


BAD = (
    "missing", "folder", "empty", "garbage", "truncated flac", "truncated mp3", "NaN", "no sound", "garbage bytes",
    "cut off before the event",
)  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_replaced_by_one_of_its_stratum(kind, tmp_path, caplog):
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
    assert windows[1, 5]["item"] == 1  # what is good stays


def test_where_a_stratum_has_nothing_left_its_kind_steps_in(tmp_path):
    rows = make_rows([tmp_path / "none.wav", ramp(3), ramp(3)])
    items = make_items(
        (0, (1, 2), Kind.STRONG, 1),
        (1, (1, 2), Kind.STRONG, 2),
        (2, (1, 2), Kind.POSITIVE, 1),
        (0, (0, 1), Kind.STRONG, 1),
    )
    window = AudioSetWindows(rows, items)[0, 7]
    assert (window["item"], window["label"]) == (1, 0.0)


def test_where_all_is_bad_the_error_names_the_first(tmp_path):
    rows = make_rows([tmp_path / f"none_{place}.wav" for place in range(30)] + [ramp(3)])
    everything = [(place, ANYWHERE, Kind.WEAK, 0) for place in range(30)]
    windows = AudioSetWindows(rows, make_items(*everything[:3], (30, ANYWHERE, Kind.STRONG, 0)))
    with pytest.raises(AudioError, match=r"weak negative 1 and the 2 tried in its place.*none_1.wav\): no such file"):
        windows[1, 0]
    windows = AudioSetWindows(rows, make_items(*everything))
    with pytest.raises(AudioError, match=r"weak negative 4 and the 19 tried in its place.*none_4.wav\): no such file"):
        windows[4, 0]


def test_an_event_that_the_file_mostly_holds_is_kept():
    rows = make_rows([ramp(9.98), ramp(9.98)])
    windows = AudioSetWindows(
        rows, make_items((0, (9.5, 10.0), Kind.POSITIVE, 0), (1, (9.97, 10.0), Kind.POSITIVE, 0))
    )
    assert windows[0, 3]["item"] == 0
    assert windows[0, 3]["start_seconds"] == 8.98
    assert windows[1, 3]["item"] == 0  # one third of its event is not enough
    assert "ends at 9.980 s, but its label stands at 9.97 to 10 s" in windows.failure_of((1, 3))


@given(start=st.floats(0, 8.9), length=st.floats(1.0, 5.0), seed=seeds)
@settings(max_examples=50)
def test_explicit_negatives_never_leave_their_run(start, length, seed):
    end = min(start + length, 10.0)
    window = AudioSetWindows(make_rows([ramp(10)]), make_items((0, (start, end), Kind.EXPLICIT, 0)))[0, seed]
    assert start - 1.1 / RATE <= window["start_seconds"] <= end - 1 + 1.1 / RATE


def test_explicit_negatives_must_fit(tmp_path):
    with pytest.raises(ValueError, match="explicit negative of 1.92 s is shorter than clip_seconds = 2"):
        AudioSetWindows(make_rows([ramp(10)]), make_items((0, (1.0, 2.92), Kind.EXPLICIT, 0)), 2.0)
    items = make_items((0, (2.0, 4.0), Kind.EXPLICIT, 0), (1, (2.0, 4.0), Kind.EXPLICIT, 0))
    assert AudioSetWindows(make_rows([ramp(2.9), ramp(10)]), items)[0, 1]["item"] == 1  # the target may be before it


def test_sounds_at_urls_are_fetched_and_missing_ones_replaced(tmp_path):
    (tmp_path / "sound.wav").write_bytes(ramp(3))
    urls = [f"file://{tmp_path}/{name}.wav" for name in ("sound", "none")]
    windows = AudioSetWindows(make_rows(urls), make_items(*((row, ANYWHERE, Kind.WEAK, 0) for row in (0, 1))))
    assert [windows.files_of((item, 5)) for item in (0, 1)] == [[urls[0]], [urls[1]]]
    files = S3FileManager(cache_dir=tmp_path / "cache", tries=1)
    S3FileManager.adopt(files)
    try:
        assert first_sample(windows[0, 5]["audio"]) == windows[0, 5]["start_seconds"] * RATE
        assert windows[1, 5]["item"] == 0
        assert f"-clip_00001 ({urls[1]}): cannot be fetched" in windows.failure_of((1, 5))
    finally:
        files.close()
        S3FileManager.adopt(None)


def test_files_of_an_item_are_its_own_and_that_of_its_background(tmp_path):
    rows = make_rows([tmp_path / "a.wav", tmp_path / "b.wav", ramp(3)])
    items = make_items((0, (1, 2), Kind.POSITIVE, 0), (1, ANYWHERE, Kind.WEAK, 0), (2, (1, 2), Kind.POSITIVE, 0))
    assert AudioSetWindows(rows, items).files_of((0, 3)) == [str(tmp_path / "a.wav")]
    assert AudioSetWindows(rows, items).files_of((2, 3)) == []
    noisy = AudioSetWindows(rows, items, augmentation=Augmentation(background_probability=1.0))
    assert noisy.files_of((0, 3)) == [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    assert noisy.files_of((2, 3)) == [str(tmp_path / "b.wav")]


def test_rows_stay_on_the_disk_when_windows_go_to_a_worker(tmp_path):
    rows = make_rows([tmp_path / f"{place}.wav" for place in range(20_000)])
    with pa.OSFile(str(tmp_path / "rows"), "wb") as file, pa.ipc.new_stream(file, COLUMNS.arrow_schema) as stream:
        stream.write_table(rows.data.table)
    rows = datasets.Dataset.from_file(str(tmp_path / "rows"))
    windows = AudioSetWindows(rows, make_items((19_999, ANYWHERE, Kind.WEAK, 0)))
    windows.failure_of(0)
    sent = pickle.dumps(windows)
    assert len(sent) < 20_000
    assert pickle.loads(sent).files_of(0) == [str(tmp_path / "19999.wav")]


def test_what_does_not_fit_together_is_refused():
    rows, items = make_rows([ramp(3)]), make_items((0, ANYWHERE, Kind.STRONG, 0))
    with pytest.raises(ValueError, match="no column 'audio'; it has clip_id, start_seconds"):
        AudioSetWindows(rows.remove_columns("audio"), items)
    with pytest.raises(ValueError, match="items are of rows 1 to 1, but the data set has 1"):
        AudioSetWindows(rows, make_items((1, ANYWHERE, Kind.STRONG, 0)))
    with pytest.raises(ValueError, match="no weak negatives for backgrounds; set background_probability 0"):
        AudioSetWindows(rows, items, augmentation=Augmentation(background_probability=0.1))
    for wrong in ({"clip_seconds": 0.0}, {"clip_seconds": float("nan")}, {"sampling_rate": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            WindowSettings(**wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AudioSetWindows(rows, items, **wrong)


def test_sounds_of_rows_have_a_place_and_a_name(tmp_path):
    sounds = ClipSounds(make_rows([ramp(3), tmp_path / "a.wav", None]))
    assert [sounds.file(row) for row in range(3)] == [None, str(tmp_path / "a.wav"), None]
    assert [sounds.source(row) for row in range(2)] == [ramp(3), str(tmp_path / "a.wav")]
    assert sounds.name(0) == "clip -clip_00000"
    assert sounds.name(1) == f"clip -clip_00001 ({tmp_path}/a.wav)"
    with pytest.raises(AudioError, match="clip -clip_00002: has no sound"):
        sounds.source(2)


def test_a_cut_off_mp3_gives_no_window_that_ends_before_its_time():
    data = encode(noise(10), RATE, "MP3", "MPEG_LAYER_III")
    sounds = ClipSounds(make_rows([data[: len(data) // 2]]))
    assert len(sounds.read(0, lambda seconds: 3.0, 1.0, RATE)) == RATE
    with pytest.raises(AudioError, match="clip -clip_00000: ends before the 10.000 s that its header announces"):
        sounds.read(0, lambda seconds: 4.5, 1.0, RATE)


@pytest.mark.slow  # starts processes
def test_workers_and_order_change_nothing(tmp_path):
    paths = [tmp_path / f"{place}.flac" for place in range(6)]
    for place, path in enumerate(paths[1:], start=1):  # the first is missing
        path.write_bytes(encode(noise(3, 44100, 2, place), 44100, "FLAC", "PCM_16"))
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


def test_windows_of_real_recordings_are_what_the_recordings_hold(real_data: Path):
    paths = sorted((real_data / "esc10").glob("*/*.ogg"))[::20]
    if not paths:
        pytest.skip(f"no recordings under {real_data}/esc10")
    items = make_items(*((row, ANYWHERE, Kind.WEAK, 0) for row in range(len(paths))))
    windows = AudioSetWindows(make_rows(paths), items)
    for place, path in enumerate(paths):
        whole, _ = read_audio(path, RATE)
        for seed in range(3):
            window = windows[place, seed]
            first = round(window["start_seconds"] * RATE)
            np.testing.assert_allclose(window["audio"], whole[first : first + RATE], atol=2e-3)


@pytest.mark.parametrize(
    "container, subtype, rate",
    [("WAV", "PCM_16", RATE), ("FLAC", "PCM_16", 22050), ("MP3", "MPEG_LAYER_III", 44100), ("OGG", "VORBIS", 44100)],
)
def test_windows_of_sounds_in_memory_are_those_that_are_read(container: str, subtype: str, rate: int) -> None:
    rows = make_rows([encode(noise(3.0, rate), rate, container, subtype)])
    items = make_items((0, ANYWHERE, Kind.WEAK, 0), (0, (1.0, 1.3), Kind.POSITIVE, 0))
    read, kept = (AudioSetWindows(rows, items, 0.5, RATE, keep=keep) for keep in (False, True))
    for place in [(item, seed) for item in range(2) for seed in range(20)]:
        one, other = read[place], kept[place]
        assert one["start_seconds"] == other["start_seconds"]
        np.testing.assert_allclose(other["audio"], one["audio"], atol=1e-5)
    assert len(kept.sounds._kept) == 1


def test_a_sound_in_memory_is_decoded_once_and_not_changed_by_who_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "tasks.detection.windows.read_window", lambda *given: calls.append(given) or read_window(*given)
    )
    windows = AudioSetWindows(make_rows([ramp(3)]), make_items((0, ANYWHERE, Kind.WEAK, 0)), 1.0, RATE, keep=True)
    before = windows[0, 1]["audio"].copy()
    windows[0, 1]["audio"][:] = 0
    np.testing.assert_array_equal(windows[0, 1]["audio"], before)
    assert len(calls) == 1
    again = pickle.loads(pickle.dumps(windows))
    assert again.sounds._kept == {}
    np.testing.assert_array_equal(again[0, 1]["audio"], before)


def test_a_sound_that_ends_early_is_replaced_whether_it_is_kept_or_not() -> None:
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
def test_only_a_small_set_of_short_sounds_is_kept_in_memory(seconds: list[float], fits: bool) -> None:
    assert WindowSettings(memory_gb=1.0).fit_in_memory(np.array(seconds)) == fits
    assert not WindowSettings(memory_gb=0.0).fit_in_memory(np.array(seconds))

"""Reading audio files: every format is decoded correctly, and errors are one line with the source."""

import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from media import audio as audio_module
from media.audio import MAX_BLOCK_FRAMES, AudioError, audio_seconds, read_audio, read_audio_blocks, read_window

RATE = 44100  # Hz
MP3_DELAY = 1152 + 1105  # samples before the audio: the frame with the tag, and the delay of encoder and decoder
FORMATS = [
    ("WAV", "PCM_U8", 1e-2), ("WAV", "PCM_16", 1e-4), ("WAV", "PCM_24", 1e-6), ("WAV", "FLOAT", 0.0),
    ("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.1), ("MP3", "MPEG_LAYER_III", 0.1),
]  # fmt: skip


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def encode(audio: np.ndarray, container: str, subtype: str, rate: int = RATE, **options: float | str) -> bytes:
    file = BytesIO()
    soundfile.write(file, audio, rate, format=container, subtype=subtype, **options)
    return file.getvalue()


def strip_length(mp3: bytes) -> bytes:
    """Remove the tag with the length from an mp3's first frame."""
    for tag in (b"Xing", b"Info"):
        mp3 = mp3.replace(tag, b"\0\0\0\0", 1)
    return mp3


def quiet_then_loud() -> np.ndarray:
    """Audio whose mp3 at a variable bit rate starts with frames that are not representative."""
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)
    return np.concatenate([np.zeros(2 * RATE, np.float32), noise])


@pytest.mark.parametrize("container, subtype, tolerance", FORMATS)
def test_length_and_scale_are_kept(container, subtype, tolerance):
    audio = tone(1.0)
    decoded, rate = read_audio(encode(audio, container, subtype))
    assert (rate, decoded.shape, decoded.dtype) == (RATE, audio.shape, np.float32)
    np.testing.assert_allclose(decoded, audio, atol=tolerance)


def test_opus_keeps_the_length():
    decoded, rate = read_audio(encode(tone(1.0, 48000), "OGG", "OPUS", 48000))
    assert (rate, len(decoded)) == (48000, 48000)
    assert 0.3 < np.sqrt(2) * decoded.std() < 0.6  # the codec preserves loudness, not samples


def test_path_string_and_bytes_give_the_same_audio(tmp_path):
    data = encode(tone(0.1), "FLAC", "PCM_16")
    path = tmp_path / "tone"  # no suffix: the format is detected from the content
    path.write_bytes(data)
    for source in (path, str(path)):
        np.testing.assert_array_equal(read_audio(source)[0], read_audio(data)[0])
        assert audio_seconds(source) == audio_seconds(data) == 0.1


def test_full_scale_integers_are_one_and_floats_may_exceed_one():
    integers, _ = read_audio(encode(np.array([-32768, 0, 16384], np.int16), "WAV", "PCM_16"))
    np.testing.assert_array_equal(integers, [-1.0, 0.0, 0.5])
    floats, _ = read_audio(encode(np.array([-3.0, 2.5], np.float32), "WAV", "FLOAT"))
    np.testing.assert_array_equal(floats, [-3.0, 2.5])


def test_channels_are_averaged():
    stereo = np.stack([np.full(8, 0.5), np.full(8, -0.25)], axis=1)
    np.testing.assert_array_equal(read_audio(encode(stereo, "WAV", "FLOAT"))[0], np.full(8, 0.125))


@given(samples=st.integers(4, 5000), new_rate=st.sampled_from([8000, 16000, 22050, 32000, 48000]))
@settings(max_examples=30)
def test_resampling_keeps_the_duration_to_half_a_sample(samples, new_rate):
    decoded, rate = read_audio(encode(np.zeros(samples), "WAV", "PCM_16"), new_rate)
    assert rate == new_rate
    assert abs(len(decoded) - samples * new_rate / RATE) <= 0.5 + 1e-9


def test_resampling_keeps_a_tone_and_removes_frequencies_above_nyquist():
    data = encode(tone(1.0) + tone(1.0, hertz=15000.0), "WAV", "FLOAT")
    resampled, _ = read_audio(data, 16000)
    inner = slice(1600, -1600)
    np.testing.assert_allclose(resampled[inner], tone(1.0, 16000)[inner], atol=1e-3)


@pytest.mark.parametrize("container, subtype, _", FORMATS)
@pytest.mark.parametrize("kept", [1.0, 0.7])
def test_audio_seconds_is_the_length_of_the_decoded_audio(container, subtype, _, kept):
    audio = quiet_then_loud()
    data = encode(audio, container, subtype)
    data = data[: round(len(data) * kept)]
    if container == "FLAC" and kept < 1:
        with pytest.raises(AudioError, match="FLAC"):
            read_audio(data)
    else:
        decoded, rate = read_audio(data)
        assert audio_seconds(data) == len(decoded) / rate
        assert 2 * rate < len(decoded)
        assert len(decoded) == len(audio) if kept == 1 else len(decoded) < len(audio)


def test_a_truncated_mp3_gives_its_frames_and_a_warning(caplog):
    data = encode(tone(3.0), "MP3", "MPEG_LAYER_III")
    with caplog.at_level(logging.WARNING):
        decoded, rate = read_audio(data[: len(data) // 2], name="half.mp3")
    assert 1.0 < len(decoded) / rate < 1.5
    (record,) = caplog.records
    assert record.args == ("half.mp3", len(decoded) / rate, 3.0)
    whole, _ = read_audio(data)
    agreeing = len(decoded) - 1152  # the last frame lacks data
    np.testing.assert_array_equal(decoded[:agreeing], whole[:agreeing])


@pytest.mark.parametrize("channels", [1, 2])
def test_a_variable_bit_rate_mp3_without_a_length_is_read_to_its_end(channels):
    audio = quiet_then_loud()
    frames = np.stack([audio] * channels, axis=1)
    data = encode(frames, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.5)
    decoded, rate = read_audio(strip_length(data))
    assert 0 <= len(decoded) - len(audio) < 4 * 1152  # encoder delay and padding stay, because no tag gives them
    assert audio_seconds(strip_length(data)) == len(decoded) / rate
    tagged, _ = read_audio(data)
    np.testing.assert_allclose(decoded[MP3_DELAY : MP3_DELAY + len(tagged)], tagged, atol=1e-4)


def test_a_large_picture_in_an_mp3_has_no_effect():
    mp3 = encode(quiet_then_loud(), "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.5)
    size = 20 << 14  # bytes, in the tag's 7-bit digits: 0, 20, 0, 0
    tagged = b"ID3\x03\x00\x00" + bytes([0, 20, 0, 0]) + bytes(size) + mp3
    for plain, pictured in ((mp3, tagged), (strip_length(mp3), strip_length(tagged))):
        np.testing.assert_array_equal(read_audio(pictured)[0], read_audio(plain)[0])


def test_an_ogg_with_a_missing_page_is_refused_because_the_rest_would_shift():
    data = bytearray(encode(quiet_then_loud(), "OGG", "VORBIS"))
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    with pytest.raises(AudioError, match=r"only \d\.\d{3} of 6\.000 s"):
        read_audio(bytes(data))


def announce_length(container: bytes, frames: int) -> bytes:
    """Set the number of frames announced by a flac (36 bits of its header) or an mp3 (32 bits of its tag)."""
    data = bytearray(container)
    if data[:4] == b"fLaC":
        data[21] = (data[21] & 0xF0) | frames >> 32
        data[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    else:
        offset = max(container.find(tag) for tag in (b"Xing", b"Info")) + 8
        data[offset : offset + 4] = frames.to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("function", [read_audio, audio_seconds])
def test_a_streamed_flac_without_a_length_is_refused(function):
    with pytest.raises(AudioError, match="streamed without"):
        function(announce_length(encode(tone(1.0), "FLAC", "PCM_16"), 0))


def test_a_header_that_announces_more_than_fits_in_memory_is_refused():
    mp3 = announce_length(encode(tone(1.0), "MP3", "MPEG_LAYER_III"), 2**31 - 1)  # 2.5e12 samples
    with pytest.raises(AudioError, match=r"song 17: .* 247\d{10} frames in \d+ bytes"):
        read_audio(mp3, name="song 17")


def test_concatenated_mp3s_may_differ_in_channels_but_not_in_rate():
    audio = tone(1.0)
    mono = strip_length(encode(audio, "MP3", "MPEG_LAYER_III"))
    stereo = strip_length(encode(np.stack([audio, audio], axis=1), "MP3", "MPEG_LAYER_III"))
    alone = [read_audio(data)[0] for data in (mono, stereo)]
    joined, _ = read_audio(mono + stereo)
    assert len(joined) == len(alone[0]) + len(alone[1])
    np.testing.assert_array_equal(joined[: len(alone[0])], alone[0])
    slower = strip_length(encode(tone(1.0, 22050), "MP3", "MPEG_LAYER_III", 22050))
    with pytest.raises(AudioError, match=r"\[22050, 44100\] Hz"):
        read_audio(mono + slower)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "0 bytes"),
        (b"no sound at all\n" * 100, "1600 bytes"),
        (encode(np.zeros(0), "WAV", "PCM_16"), r"\d+ bytes with no complete frame"),
        (encode(tone(3.0), "OGG", "VORBIS")[:4400], "4400 bytes"),
        (encode(tone(1.0), "MP3", "MPEG_LAYER_III")[:100], "100 bytes"),
        (encode(np.array([0.0, np.nan, np.inf, 0.5]), "WAV", "FLOAT"), "2 of 4 samples"),
        (None, "NoneType"),
    ],
    # Bytes as ids would change between runs, because they contain the time of writing.
    ids=["empty", "text", "no frame", "cut ogg", "cut mp3", "not finite", "none"],
)
def test_unreadable_audio_is_reported_in_one_line_with_the_source(data, message):
    with pytest.raises(AudioError, match=message) as caught:
        read_audio(data, name="song 17")
    assert str(caught.value).startswith("song 17: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [read_audio, audio_seconds])
def test_an_unreadable_path_is_named(function, tmp_path):
    empty = tmp_path / "empty.mp3"
    empty.touch()
    for path, message in (
        (tmp_path / "nowhere.wav", "no such file"),
        (tmp_path, "is a folder"),
        (empty, "0 bytes"),
    ):
        with pytest.raises(AudioError, match=message) as caught:
            function(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("rate", [0, -1, 22050.5, "22050"])
def test_an_invalid_sampling_rate_is_refused(rate):
    with pytest.raises(ValueError, match=f"sampling_rate={rate!r}"):
        read_audio(encode(tone(0.1), "WAV", "PCM_16"), rate)


def test_real_recordings_are_decoded_completely(real_data: Path):
    paths = sorted((real_data / "esc10").rglob("*.ogg"))
    if not paths:
        pytest.skip(f"no recordings under {real_data}/esc10")
    for path in paths[::8]:
        decoded, rate = read_audio(path)
        assert len(decoded) == soundfile.info(path).frames
        assert audio_seconds(path) == len(decoded) / rate


@pytest.mark.parametrize("new_rate", [None, 22050, 48000])
@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("container, subtype, _", FORMATS)
def test_blocks_add_up_to_the_whole(container, subtype, _, tagged, new_rate, tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module, "BLOCK_SECONDS", 1)
    data = encode(np.stack([tone(3.3), 0.5 * tone(3.3, hertz=700)], axis=1), container, subtype)
    path = tmp_path / f"sound.{container.lower()}"
    path.write_bytes(data if tagged else strip_length(data))
    blocks = list(read_audio_blocks(path, new_rate))
    assert len(blocks) > 3
    whole, _ = read_audio(path, new_rate)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("container, subtype, _", FORMATS)
def test_blocks_of_any_length_contain_the_same_samples(container, subtype, _, tagged, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(0, 0.1, (round(3.3 * RATE), 2)).astype(np.float32)
    data = encode(noise, container, subtype)
    path = tmp_path / f"sound.{container.lower()}"
    path.write_bytes(data if tagged else strip_length(data))
    for new_rate in (None, 22050, 16000):
        results = {}
        for limit in (1000, RATE, MAX_BLOCK_FRAMES):
            monkeypatch.setattr(audio_module, "MAX_BLOCK_FRAMES", limit)
            blocks = list(read_audio_blocks(path, new_rate))
            assert all(len(block) <= limit + 1152 for block in blocks)  # a block may exceed it by one mp3 frame
            results[limit] = np.concatenate(blocks)
        np.testing.assert_array_equal(results[1000], results[MAX_BLOCK_FRAMES])
        np.testing.assert_array_equal(results[RATE], results[MAX_BLOCK_FRAMES])


def test_blocks_of_an_mp3_without_a_length_have_20_seconds(tmp_path):
    # With one block per frame of 1152 samples, features would be computed one spectrum at a time.
    path = tmp_path / "sound.mp3"
    path.write_bytes(strip_length(encode(tone(50), "MP3", "MPEG_LAYER_III")))
    lengths = [len(block) for block in read_audio_blocks(path)]
    assert len(lengths) == 3
    assert all(20 * RATE <= length < 20 * RATE + 1152 for length in lengths[:-1])


def test_blocks_of_an_unreadable_file_raise_like_the_whole(tmp_path):
    for name, data in (("empty.wav", b""), ("text.mp3", b"no sound at all" * 100), ("nan.wav", None)):
        path = tmp_path / name
        if data is None:
            soundfile.write(path, np.array([0.0, np.nan], np.float32), RATE, subtype="FLOAT")
        else:
            path.write_bytes(data)
        for read in (read_audio, lambda path: list(read_audio_blocks(path))):
            with pytest.raises(AudioError, match=name):
                read(path)
    with pytest.raises(AudioError, match="none.wav: no such file"):
        list(read_audio_blocks(tmp_path / "none.wav"))


@pytest.mark.parametrize("new_rate", [None, 16000])
@pytest.mark.parametrize("container, subtype, _", FORMATS)
@given(start=st.floats(0, 3.2), seconds=st.floats(0.01, 1.5))
@settings(max_examples=8)
def test_a_window_equals_that_part_of_the_whole(container, subtype, _, new_rate, start, seconds):
    noise = np.random.default_rng(0).normal(0, 0.1, (round(3.3 * RATE), 2)).astype(np.float32)
    data = encode(noise, container, subtype)
    for sound in (data, strip_length(data)) if container == "MP3" else (data,):
        whole, rate = read_audio(sound, new_rate)
        window = read_window(sound, start, seconds, new_rate)
        first = round(start * rate)
        np.testing.assert_allclose(window, whole[first : first + max(round(seconds * rate), 1)], atol=2e-3)


def test_a_window_of_a_real_recording_equals_that_part_of_the_whole(real_data: Path):
    for path in sorted((real_data / "esc10").glob("*/*.ogg"))[::40]:
        whole, _ = read_audio(path, 32000)
        for start in (0.0, 1.0, 2.345, 3.9):
            window = read_window(path, start, 1.0, 32000)
            np.testing.assert_allclose(window, whole[round(start * 32000) :][:32000], atol=2e-3)


def test_a_window_ends_with_the_audio_and_must_start_in_it():
    sound = encode(tone(1.0), "WAV", "PCM_16")
    assert len(read_window(sound, 0.75, 1.0)) == RATE // 4
    assert len(read_window(sound, 0.75, 1.0, 16000)) == 4000
    for rate in (None, 16000):
        with pytest.raises(AudioError, match=r"^song: .* 1\.5 s"):
            read_window(sound, 1.5, 1.0, rate, name="song")
    for start, seconds in ((-1, 1), (0, 0), (float("nan"), 1), (0, float("inf"))):
        with pytest.raises(ValueError, match=f"^start={start}, seconds={seconds}: "):
            read_window(sound, start, seconds)


@pytest.mark.parametrize("new_rate", [None, 16000])
@pytest.mark.parametrize("container, subtype, _", FORMATS)
def test_a_window_can_be_placed_by_the_length_of_the_audio(container, subtype, _, new_rate):
    data = encode(np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32), container, subtype)
    for sound in (data, strip_length(data)) if container == "MP3" else (data,):
        lengths = []
        window = read_window(sound, lambda length, seen=lengths: seen.append(length) or length - 0.5, 0.5, new_rate)
        assert lengths == [audio_seconds(sound)]
        np.testing.assert_array_equal(window, read_window(sound, lengths[0] - 0.5, 0.5, new_rate))
    with pytest.raises(ValueError, match="^start=-"):
        read_window(data, lambda seconds: -seconds, 0.5)


def test_a_window_cannot_be_placed_by_an_unknown_length():
    flac = announce_length(encode(tone(1.0), "FLAC", "PCM_16"), 0)
    with pytest.raises(AudioError, match="^song 17: streamed without"):
        read_window(flac, lambda seconds: seconds / 2, 0.1, name="song 17")


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_window_of_an_mp3_includes_data_from_earlier_frames(rate):
    loud = np.random.default_rng(0).normal(0, 0.1, 2 * rate)
    bursts = np.tile(np.concatenate([np.zeros(rate // 4), loud[: rate // 4]]), 8).astype(np.float32)
    data = encode(bursts, "MP3", "MPEG_LAYER_III", rate, bitrate_mode="VARIABLE", compression_level=0.5)
    whole, _ = read_audio(data)
    for first in range(0, 3 * rate, rate // 40):
        window = read_window(data, first / rate, 0.1)
        np.testing.assert_allclose(window, whole[first : first + len(window)], atol=1e-5)


@pytest.mark.parametrize("rate, subtype", [(16000, "VORBIS"), (44100, "VORBIS"), (48000, "OPUS")])
@pytest.mark.parametrize("silent_from", [0.5, 6.0])  # s; silence makes long pages
def test_a_window_in_the_last_page_of_an_ogg_has_the_right_position(rate, subtype, silent_from):
    audio = np.random.default_rng(0).normal(0, 0.1, 6 * rate).astype(np.float32)
    audio[round(silent_from * rate) :] *= 0
    audio[-rate // 2 :] = audio[: rate // 2]
    data = encode(audio, "OGG", subtype, rate)
    whole, _ = read_audio(data)
    for first in range(3 * rate, 6 * rate - rate // 20, rate // 17):
        window = read_window(data, first / rate, 0.05)
        np.testing.assert_allclose(window, whole[first : first + len(window)], atol=1e-4)


def test_a_window_of_a_file_equals_that_of_its_bytes(tmp_path):
    for container, subtype, _ in FORMATS:
        path = tmp_path / f"{container}-{subtype}.raw"  # libsndfile must not trust the suffix
        path.write_bytes(encode(tone(2.0), container, subtype))
        window = read_window(path, 0.7, 1.0, 16000)
        np.testing.assert_array_equal(window, read_window(path.read_bytes(), 0.7, 1.0, 16000))
    with pytest.raises(AudioError, match="^song 17: is a folder"):
        read_window(tmp_path, 0, 1, name="song 17")


def test_a_header_with_an_absurd_rate_does_not_allocate_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One wrong byte in a header would make a block of 2,684,514,560 samples.
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.zeros(1000, np.float32), 8000)
    sound = bytearray(path.read_bytes())
    sound[24:28] = (134_225_728).to_bytes(4, "little")
    path.write_bytes(sound)
    requested = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **options: requested.append(n) or read(self, n, **options)
    )
    assert sum(len(block) for block in read_audio_blocks(path)) == 1000
    assert max(requested) == MAX_BLOCK_FRAMES

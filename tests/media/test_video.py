"""Reading clips: correct frames and samples, and one-line errors.

Each frame of a test clip has one gray level, FIRST_GRAY for frame 0 and GRAY_STEP more for each later frame, so that a
frame's level gives its number. The audio is a tone.
"""

import logging
import re
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media import video
from media.audio import read_audio
from media.video import VideoError, frame_times, probe_clip, read_clip
from modeling.recordings import scaled

WIDTH, HEIGHT, RATE = 64, 48, 25  # pixels, pixels, Hz
FIRST_GRAY, GRAY_STEP = 20, 4
SOUND_RATE, HERTZ = 48000, 440
BLUE, RED = 2, 0


def tone(seconds: float, hertz: float = HERTZ) -> np.ndarray:
    time = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    return (0.4 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def gray_frames(count: int) -> np.ndarray:
    """Return (count, H, W, 3). The levels repeat after 50 frames."""
    levels = FIRST_GRAY + GRAY_STEP * (np.arange(count) % 50)
    return np.broadcast_to(levels[:, None, None, None], (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def make_clip(
    images: np.ndarray | None = None,  # (N, H, W, 3)
    sound: np.ndarray | None = None,  # (channels, samples)
    *,
    container: str = "mp4",
    codec: str = "libx264",
    audio_codec: str = "aac",
    layout: str = "mono",
    ticks: np.ndarray | None = None,  # times of the frames, in 1 / RATE s
    video_delay: float = 0.0,  # s
    sound_delay: float = 0.0,  # s
    options: dict | None = None,
    into: object = None,  # a path, or a file that does not support seeking
) -> bytes:
    file = into or BytesIO()
    with av.open(file, "w", format=container) as clip:
        if images is not None:
            stream = clip.add_stream(codec, rate=RATE, options=options or {})
            if codec == "mpeg4":
                stream.bit_rate = 4_000_000  # at the default rate it drops such small steps of gray
            stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        if sound is not None:
            track = clip.add_stream(audio_codec, rate=SOUND_RATE, layout=layout)
        if sound is not None:
            packed = np.ascontiguousarray(sound.T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
            frame.pts = round(sound_delay * SOUND_RATE)
            clip.mux([*track.encode(frame), *track.encode(None)])
        for number, image in enumerate(images if images is not None else []):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base = Fraction(1, RATE)
            frame.pts = round(video_delay * RATE) + int(number if ticks is None else ticks[number])
            clip.mux(stream.encode(frame))
        if images is not None:
            clip.mux(stream.encode(None))
    return file.getvalue() if isinstance(file, BytesIO) else b""


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Return the numbers of these frames, from their gray levels."""
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    return np.rint((levels - FIRST_GRAY) / GRAY_STEP).astype(int).tolist()


@pytest.fixture(scope="module")
def clip() -> bytes:
    """2 s: 50 frames and a tone in stereo."""
    return make_clip(gray_frames(50), np.stack([tone(2.0)] * 2), layout="stereo")


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    """20 s with a keyframe every 100 frames (4 s), droppable frames, and a rising tone."""
    rising = np.concatenate([tone(1.0, 200 + 30 * second) for second in range(20)])
    options = {"g": "100", "keyint_min": "100", "bf": "3", "sc_threshold": "0"}
    return make_clip(gray_frames(500), rising[None], options=options)


CASES = [("mp4", "libx264"), ("mp4", "mpeg4"), ("matroska", "libx264"), ("mpegts", "libx264"), ("avi", "libx264")]


@pytest.mark.parametrize("container, codec", CASES)
def test_frames_are_at_the_centers_of_equal_parts(container, codec):
    data = make_clip(gray_frames(50), container=container, codec=codec)
    read = read_clip(data, num_frames=10)
    assert frame_numbers(read.frames) == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]  # of parts of 5 frames
    np.testing.assert_allclose(read.frame_seconds, np.arange(10) * 0.2 + 0.1, atol=1e-3)
    assert read.frames.shape == (10, 128, 171, 3)
    assert read.frame_mask.all()
    assert read.audio is None


def test_with_a_frame_rate_frames_are_in_the_middle_of_the_window(clip):
    read = read_clip(clip, num_frames=5, frame_rate=12.5, size=None)
    assert frame_numbers(read.frames) == [21, 23, 25, 27, 29]  # 4 intervals of 0.08 s around 1 s
    assert read.frames.shape == (5, HEIGHT, WIDTH, 3)


def test_missing_frames_of_a_short_clip_repeat_the_last_one_and_are_masked():
    read = read_clip(make_clip(gray_frames(6)), num_frames=10, frame_rate=RATE)
    assert frame_numbers(read.frames) == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert read.frame_mask.tolist() == [True] * 6 + [False] * 4


def test_a_window_contains_no_later_frame(clip):
    read = read_clip(clip, num_frames=6, frame_rate=RATE, start=0.4, seconds=0.16)
    assert frame_numbers(read.frames) == [10, 11, 12, 13, 13, 13]
    assert read.frame_mask.tolist() == [True] * 4 + [False] * 2


def test_colors_are_red_green_blue():
    red = np.zeros((5, HEIGHT, WIDTH, 3), np.uint8)
    red[..., RED] = 220
    frames = read_clip(make_clip(red), num_frames=2).frames
    assert frames[..., RED].min() > 190
    assert frames[..., BLUE].max() < 40


def rotated_clip(images: np.ndarray, container: str, **tag) -> bytes:
    """Encode images (N, H, W, 3) losslessly, with a rotation tag like that of a phone."""
    file = BytesIO()
    with av.open(file, "w", format=container) as clip:
        stream = clip.add_stream("libx264rgb", rate=RATE, options={"qp": "0", "g": "25"})
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "rgb24"
        if tag:
            stream.set_display_rotation(**tag)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, RATE), number
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize(
    "tag",
    [
        {"degrees": 90}, {"degrees": 180}, {"degrees": 270}, {"degrees": 0, "hflip": True},
        {"degrees": 0, "vflip": True}, {"degrees": 90, "hflip": True}, {"degrees": 270, "hflip": True},
    ],
)  # fmt: skip
def test_a_tagged_clip_is_read_like_one_that_is_stored_upright(container, tag):
    number, y, x = np.mgrid[:75, :HEIGHT, :WIDTH]
    images = np.stack([3 * x, 4 * y, 3 * number], axis=-1).astype(np.uint8)
    upright = np.rot90(images, tag["degrees"] // 90, axes=(1, 2))  # counterclockwise, like the tag's degrees
    if "hflip" in tag:
        upright = upright[:, :, ::-1]
    if "vflip" in tag:
        upright = upright[:, ::-1]
    tagged, rotated = rotated_clip(images, container, **tag), rotated_clip(upright, container)
    for window in ({"num_frames": 75}, {"num_frames": 4, "start": 2.4, "seconds": 0.3}):  # without and with seeking
        read, expected = (read_clip(clip, size=None, **window).frames for clip in (tagged, rotated))
        np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(read_clip(tagged, num_frames=75, size=None).frames, upright)
    read, expected = (read_clip(clip, num_frames=3, size=(30, 20)).frames.astype(int) for clip in (tagged, rotated))
    assert read.shape == (3, 30, 20, 3)
    assert np.abs(read - expected).max() <= 3  # scaling before rotation differs slightly from scaling after it
    with av.open(BytesIO(tagged)) as file:
        pipeline_frame = scaled(next(file.decode(video=0)), [30, 20])
    np.testing.assert_array_equal(
        pipeline_frame, read_clip(tagged, num_frames=1, seconds=0.01, size=(30, 20)).frames[0]
    )


def test_a_variable_frame_rate_is_sampled_by_time():
    ticks = np.array([0, 1, 2, 3, 4, 25, 26, 27, 28, 29])  # frame 4 is shown for 0.84 s
    read = read_clip(make_clip(gray_frames(10), ticks=ticks), num_frames=4, seconds=1.2)
    np.testing.assert_allclose(read.frame_seconds, [0.15, 0.45, 0.75, 1.05])
    assert frame_numbers(read.frames) == [3, 4, 4, 6]
    assert read.frame_mask.all()


@pytest.mark.parametrize("start", [2.0, 3.96, 4.0, 7.31, 11.9, 18.5])
def test_a_window_read_by_seeking_equals_one_decoded_from_the_start(start, long_clip, monkeypatch):
    window = {"num_frames": 9, "start": start, "seconds": 1.0, "audio_rate": 16000}
    sought = read_clip(long_clip, **window)
    monkeypatch.setattr(video, "DEEP", np.inf)
    decoded = read_clip(long_clip, **window)
    np.testing.assert_array_equal(sought.frames, decoded.frames)
    assert frame_numbers(sought.frames) == [int((t + 1e-6) * RATE) % 50 for t in sought.frame_seconds]
    assert sought.frame_mask.all()
    assert len(sought.audio) == 16000
    np.testing.assert_allclose(sought.audio, decoded.audio, atol=1e-3)  # AAC decoders add their own noise


def test_seeking_decodes_less(long_clip, monkeypatch):
    fed = []
    feed = video._Pictures.feed
    monkeypatch.setattr(video._Pictures, "feed", lambda self, packet: (fed.append(packet.pts), feed(self, packet)))
    read_clip(long_clip, start=17.0, seconds=1.0)
    assert len(fed) < 100  # of 500 packets; the keyframe is 1 s before
    fed.clear()
    read_clip(long_clip, start=0.5, seconds=1.0)
    assert len(fed) < 100  # packets after the window are not decoded


@pytest.mark.parametrize("num_frames", [1, 7, 31, 400])
def test_dropping_frames_on_which_no_other_depends_changes_nothing(num_frames, monkeypatch):
    rng = np.random.default_rng(0)
    noise = np.cumsum(rng.integers(-20, 21, (60, HEIGHT, WIDTH, 3)), axis=0).clip(-100, 100) + 128
    data = make_clip(noise.astype(np.uint8), options={"bf": "4", "b-pyramid": "normal", "g": "30"})
    read = read_clip(data, num_frames=num_frames, size=None)
    monkeypatch.setattr(video, "DROPPABLE", ())
    np.testing.assert_array_equal(read.frames, read_clip(data, num_frames=num_frames, size=None).frames)
    assert read.frame_mask.all()


@pytest.mark.parametrize("rate", [16000, 22050, SOUND_RATE])
def test_audio_has_the_right_length_and_samples(rate, clip):
    read = read_clip(clip, num_frames=0, audio_rate=rate)
    assert read.audio.shape == (2 * rate,)
    assert read.audio.dtype == np.float32
    assert not len(read.frames)
    expected = 0.4 * np.sin(2 * np.pi * HERTZ * np.arange(2 * rate) / rate)
    inside = slice(rate // 10, -rate // 10)
    np.testing.assert_allclose(read.audio[inside], expected[inside], atol=0.02)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.77771])
def test_a_window_of_audio_equals_that_part_of_the_whole(start, clip):
    whole = read_clip(clip, num_frames=0, audio_rate=16000).audio
    window = read_clip(clip, num_frames=0, audio_rate=16000, start=start, seconds=0.5).audio
    np.testing.assert_allclose(window, whole[round(16000 * start) :][:8000], atol=1e-4)
    short = read_clip(clip, num_frames=0, audio_rate=16000, start=start, max_audio_seconds=0.25).audio
    np.testing.assert_allclose(short, window[:4000], atol=1e-4)


def test_audio_equals_the_result_of_read_audio(tmp_path):
    sound = np.stack([tone(1.0), 0.5 * tone(1.0, 1000)])
    data = make_clip(sound=sound, container="wav", audio_codec="pcm_s16le", layout="stereo")
    expected, _ = read_audio(data, 22050)
    read = read_clip(data, audio_rate=22050, num_frames=3)
    np.testing.assert_allclose(read.audio, expected, atol=1e-4)
    assert read.frames.shape == (3, 128, 171, 3)
    assert not read.frames.any()
    assert not read.frame_mask.any()


@pytest.mark.parametrize("channel, gain", [("FC", 1 / 3.414), ("FL", 0.707 / 3.414), ("LFE", 0.0)])
def test_surround_channels_are_mixed(channel, gain):
    channels = [each.name for each in av.AudioLayout("5.1").channels]
    sound = np.zeros((6, SOUND_RATE), np.float32)
    sound[channels.index(channel)] = tone(1.0)
    audio = read_clip(make_clip(gray_frames(25), sound, layout="5.1"), audio_rate=16000).audio[2000:-2000]
    assert np.abs(audio).max() == pytest.approx(0.4 * gain, abs=0.01)


@pytest.mark.parametrize("audio_codec", ["pcm_s16le", "aac"])
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
def test_equal_channels_keep_their_loudness(layout, audio_codec):
    sound = np.stack([tone(0.5)] * av.AudioLayout(layout).nb_channels)
    container = "mp4" if audio_codec == "aac" else "wav"
    data = make_clip(sound=sound, container=container, audio_codec=audio_codec, layout=layout)
    audio = read_clip(data, num_frames=0, audio_rate=16000).audio
    assert np.abs(audio[2000:-2000]).max() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_audio_that_starts_later_stays_in_sync(container):
    data = make_clip(gray_frames(50), tone(1.0)[None], sound_delay=0.5, container=container)
    audio = read_clip(data, audio_rate=16000).audio
    loud = np.flatnonzero(np.abs(audio) > 0.05)
    assert loud[0] / 16000 == pytest.approx(0.5, abs=0.03)
    assert loud[-1] / 16000 == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_times_count_from_the_first_stream_and_late_video_is_masked(container):
    data = make_clip(gray_frames(25), tone(2.0)[None], video_delay=1.0, container=container)
    read = read_clip(data, num_frames=4, seconds=2.0, audio_rate=16000)
    assert read.frame_mask.tolist() == [False, False, True, True]
    assert frame_numbers(read.frames)[2:] == pytest.approx([6, 18], abs=1)
    assert read_clip(data, num_frames=4).frame_mask.all()  # without `seconds` the window is that of the video


def test_a_file_with_offset_time_stamps_is_read_from_its_start():
    data = make_clip(gray_frames(50), tone(2.0)[None], video_delay=100.0, sound_delay=100.0, container="mpegts")
    read = read_clip(data, num_frames=4, seconds=0.96, audio_rate=16000, start=0.5)
    assert read.frame_mask.all()
    assert len(read.audio) == 0.96 * 16000
    assert frame_numbers(read.frames) == pytest.approx([15, 21, 27, 33], abs=1)


def test_a_file_streamed_without_a_length_is_measured():
    class Pipe:
        """A file that is written without seeking, so that no length can be added."""

        data = b""

        def write(self, data: bytes) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    make_clip(gray_frames(50), container="matroska", into=pipe)
    assert probe_clip(pipe.data).video_seconds is None
    assert frame_numbers(read_clip(BytesIO(pipe.data), num_frames=5).frames) == [5, 15, 25, 35, 45]


def test_video_only_and_audio_only(clip):
    video_only, audio_only = make_clip(gray_frames(25)), make_clip(sound=tone(1.0)[None])
    assert read_clip(video_only, audio_rate=16000).audio is None
    assert not read_clip(audio_only, audio_rate=16000).frame_mask.any()
    with pytest.raises(VideoError, match="no audio"):
        read_clip(video_only, num_frames=0, audio_rate=16000)
    with pytest.raises(VideoError, match="no video"):
        read_clip(audio_only)
    with pytest.raises(VideoError, match=rf"clip of {len(clip)} bytes: .* 9 s"):
        read_clip(clip, start=9.0, seconds=1.0, audio_rate=16000)


def test_cover_art_is_not_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        track, cover = file.add_stream("aac", rate=SOUND_RATE, layout="mono"), file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(gray_frames(1)[0], format="rgb24")
        image.pts = 0
        frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE, 0
        file.mux([*cover.encode(image), *cover.encode(None), *track.encode(frame), *track.encode(None)])
    assert not probe_clip(path).has_video
    assert not read_clip(path, audio_rate=16000).frame_mask.any()


def test_path_bytes_and_file_give_the_same_clip(clip, tmp_path):
    path = tmp_path / "12:30 a clip.mp4"
    path.write_bytes(clip)
    window = {"num_frames": 4, "audio_rate": 16000}
    expected = read_clip(clip, **window)
    with open(path, "rb") as file:
        for source in (path, str(path), file, file):
            read = read_clip(source, **window)
            np.testing.assert_array_equal(read.frames, expected.frames)
            np.testing.assert_array_equal(read.audio, expected.audio)
            assert probe_clip(source) == probe_clip(clip)
        assert not file.closed


def test_probe_clip_reads_the_headers(clip):
    facts = probe_clip(clip)
    assert (facts.has_video, facts.frame_rate) == (True, RATE)
    assert (facts.sampling_rate, facts.channels) == (SOUND_RATE, 2)
    assert facts.video_seconds == facts.audio_seconds == 2.0
    audio_only = probe_clip(make_clip(sound=tone(1.0)[None]))
    assert (audio_only.has_video, audio_only.video_seconds, audio_only.frame_rate) == (False, None, None)
    video_only = probe_clip(make_clip(gray_frames(25)))
    assert (video_only.audio_seconds, video_only.sampling_rate, video_only.channels) == (None,) * 3


@pytest.mark.parametrize("function", [probe_clip, read_clip])
def test_an_unreadable_clip_is_reported_in_one_line(function, clip, tmp_path, capfd):
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:4,\nclip.mp4\n")
    notes = tmp_path / "notes.txt"
    notes.write_text("Joey: How you doin'?\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(clip[: len(clip) // 2])
    for path, message in (
        (tmp_path / "nowhere.mp4", "no such file"), (tmp_path, "is a folder"), (tmp_path / "empty.mp4", "0 bytes"),
        (tmp_path / "cut.mp4", "no moov atom"), (notes, "not a readable clip"), (playlist, "not a readable clip"),
    ):  # fmt: skip
        with pytest.raises(VideoError, match=message) as caught:
            function(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(VideoError, match="^dia125_utt3: .*no moov atom"):
        function(clip[: len(clip) // 2], name="dia125_utt3")
    with open(notes, encoding="utf-8") as text, pytest.raises(VideoError, match="notes.txt: .*'rb'"):
        function(text)
    with pytest.raises(VideoError, match="file object: "):
        function(12)
    assert capfd.readouterr() == ("", "")


def clip_with_leading_index(tmp_path: Path, **settings) -> bytes:
    """Return a clip whose moov atom is before the data, as on the web."""
    path = tmp_path / "first.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        copy = av.open(BytesIO(make_clip(gray_frames(50), tone(2.0)[None], **settings)))
        streams = {stream.index: file.add_stream_from_template(stream) for stream in copy.streams}
        for packet in copy.demux():
            if packet.size:
                index = packet.stream.index
                packet.stream = streams[index]
                file.mux(packet)
    return path.read_bytes()


def test_the_existing_part_of_a_truncated_file_is_read(tmp_path):
    data = clip_with_leading_index(tmp_path, options={"g": "10"})
    read = read_clip(data[: int(0.7 * len(data))], num_frames=10, audio_rate=16000)
    real = int(read.frame_mask.sum())
    assert 2 <= real <= 8
    assert read.frame_mask[:real].all()
    assert frame_numbers(read.frames)[:real] == [2, 7, 12, 17, 22, 27, 32, 37][:real]
    assert len(set(frame_numbers(read.frames)[real:])) == 1
    assert 0.4 < len(read.audio) / 32000 < 0.95


def damage(data: bytes, stream_type: str, first: int, last: int) -> bytes:
    """Overwrite the packets `first` to `last` of a stream."""
    with av.open(BytesIO(data)) as file:
        packets = [packet for packet in file.demux(getattr(file.streams, stream_type)[0]) if packet.size]
    damaged = bytearray(data)
    for packet in packets[first : last + 1]:
        damaged[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    return bytes(damaged)


def test_damaged_frames_are_masked_up_to_the_next_keyframe(caplog):
    data = damage(make_clip(gray_frames(50), options={"g": "10", "bf": "0", "sc_threshold": "0"}), "video", 14, 15)
    with caplog.at_level(logging.WARNING):
        read = read_clip(data, num_frames=50)
    assert read.frame_mask.tolist() == [True] * 14 + [False] * 6 + [True] * 30
    assert frame_numbers(read.frames) == [*range(14), *[13] * 6, *range(20, 50)]
    assert [record.args[2] for record in caplog.records if record.name == "media.video"] == ["video"]


def test_audio_after_a_damaged_part_stays_in_sync(caplog):
    intact = make_clip(sound=np.concatenate([tone(1.0), tone(1.0, 1000)])[None])
    damaged = damage(intact, "audio", 30, 32)
    with caplog.at_level(logging.WARNING):
        read = read_clip(damaged, num_frames=0, audio_rate=SOUND_RATE).audio
    expected = read_clip(intact, num_frames=0, audio_rate=SOUND_RATE).audio
    assert len(read) == len(expected)
    assert [record.args[2] for record in caplog.records if record.name == "media.video"] == ["audio"]
    np.testing.assert_allclose(read[36 * 1024 :], expected[36 * 1024 :], atol=1e-4)
    np.testing.assert_allclose(read[: 27 * 1024], expected[: 27 * 1024], atol=1e-4)


def test_a_clip_without_a_decodable_frame_raises():
    data = damage(make_clip(gray_frames(10)), "video", 0, 9)
    with pytest.raises(VideoError, match="nothing decodes"):
        read_clip(data)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_frames": -1}, {"num_frames": 0}, {"size": (0, 5)}, {"frame_rate": 0.0}, {"start": -1.0},
        {"seconds": 0.0}, {"audio_rate": 16000.5}, {"audio_rate": -1}, {"max_audio_seconds": -1.0},
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused_by_name(arguments, clip):
    key_and_value = "=".join(map(str, next(iter(arguments.items()))))
    with pytest.raises(ValueError, match=re.escape(key_and_value)):
        read_clip(clip, **arguments)


@given(st.integers(1, 40), st.floats(0, 1e4), st.floats(0.01, 1e3), st.none() | st.floats(0.5, 60))
def test_times_are_evenly_spaced_and_centered_in_the_window(count, start, seconds, rate):
    times = frame_times(count, start, seconds, rate)
    assert len(times) == count
    assert times[0] >= start
    np.testing.assert_allclose(np.diff(times), 1 / rate if rate else seconds / count, rtol=1e-6, atol=1e-9)
    if rate is None or (count - 1) / rate < seconds:
        assert (times[0] + times[-1]) / 2 == pytest.approx(start + seconds / 2)
        assert times[-1] <= start + seconds
    else:
        assert times[0] == start


@settings(max_examples=30)
@given(st.data())
def test_any_window_of_any_clip_gives_the_frames_shown_at_its_times(data):
    gaps = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=20))
    ticks = np.concatenate([[0], np.cumsum(gaps)])
    clip = make_clip(gray_frames(len(ticks)), ticks=ticks, options={"bf": str(data.draw(st.integers(0, 3)))})
    start, seconds = data.draw(st.floats(0, 2)), data.draw(st.floats(0.05, 3))
    count = data.draw(st.integers(1, 20))
    times = frame_times(count, start, seconds)
    shown = np.searchsorted(ticks / RATE, times + 1e-6, side="right") - 1
    with av.open(BytesIO(clip)) as file:
        last = list(file.decode(video=0))[-1]
    real = times < float((last.pts + last.duration) * last.time_base)
    if not real.any():
        with pytest.raises(VideoError, match="nothing decodes"):
            read_clip(clip, num_frames=count, start=start, seconds=seconds)
        return
    read = read_clip(clip, num_frames=count, start=start, seconds=seconds)
    assert frame_numbers(read.frames) == shown.tolist()
    assert read.frame_mask.tolist() == real.tolist()

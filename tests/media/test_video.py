"""Reading clips: the right pictures and the right samples, and one line about what cannot be read.

Each frame of a test clip is one grey: FIRST_GREY for frame 0 and GREY_STEP more for each after it, so a frame tells
its own number. The sound is a tone.
"""

import logging
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
FIRST_GREY, GREY_STEP = 20, 4
SOUND_RATE, HERTZ = 48000, 440
BLUE, RED = 2, 0


def tone(seconds: float, hertz: float = HERTZ) -> np.ndarray:
    time = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    return (0.4 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def greys(count: int) -> np.ndarray:
    """(count, H, W, 3); from frame 50 on the greys come again."""
    levels = FIRST_GREY + GREY_STEP * (np.arange(count) % 50)
    return np.broadcast_to(levels[:, None, None, None], (count, HEIGHT, WIDTH, 3)).astype(np.uint8)


def make_clip(
    images: np.ndarray | None = None,  # (N, H, W, 3)
    sound: np.ndarray | None = None,  # (channels, samples)
    *,
    container: str = "mp4",
    codec: str = "libx264",
    audio_codec: str = "aac",
    layout: str = "mono",
    ticks: np.ndarray | None = None,  # of the frames, in 1 / RATE s
    picture_delay: float = 0.0,  # s
    sound_delay: float = 0.0,  # s
    options: dict | None = None,
    into: object = None,  # a path, or a file that cannot seek
) -> bytes:
    file = into or BytesIO()
    with av.open(file, "w", format=container) as clip:
        if images is not None:
            picture = clip.add_stream(codec, rate=RATE, options=options or {})
            if codec == "mpeg4":
                picture.bit_rate = 4_000_000  # else a step of grey is too little for it
            picture.height, picture.width, picture.pix_fmt = *images.shape[1:3], "yuv420p"
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
            frame.pts = round(picture_delay * RATE) + int(number if ticks is None else ticks[number])
            clip.mux(picture.encode(frame))
        if images is not None:
            clip.mux(picture.encode(None))
    return file.getvalue() if isinstance(file, BytesIO) else b""


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames these are, by their greys."""
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    return np.rint((levels - FIRST_GREY) / GREY_STEP).astype(int).tolist()


@pytest.fixture(scope="module")
def clip() -> bytes:
    """2 s: 50 frames and a tone in stereo."""
    return make_clip(greys(50), np.stack([tone(2.0)] * 2), layout="stereo")


@pytest.fixture(scope="module")
def long_clip() -> bytes:
    """20 s, a keyframe each 100 frames (4 s), with frames on which no other builds; a tone that rises."""
    rising = np.concatenate([tone(1.0, 200 + 30 * second) for second in range(20)])
    options = {"g": "100", "keyint_min": "100", "bf": "3", "sc_threshold": "0"}
    return make_clip(greys(500), rising[None], options=options)


CASES = [("mp4", "libx264"), ("mp4", "mpeg4"), ("matroska", "libx264"), ("mpegts", "libx264"), ("avi", "libx264")]


@pytest.mark.parametrize("container, codec", CASES)
def test_frames_are_those_at_the_centres_of_the_bins(container, codec):
    data = make_clip(greys(50), container=container, codec=codec)
    read = read_clip(data, num_frames=10)
    assert numbers(read.frames) == [2, 7, 12, 17, 22, 27, 32, 37, 42, 47]  # bins of 5 frames each
    np.testing.assert_allclose(read.frame_seconds, np.arange(10) * 0.2 + 0.1, atol=1e-3)
    assert read.frames.shape == (10, 128, 171, 3)
    assert read.frame_mask.all()
    assert read.audio is None


def test_a_frame_rate_takes_frames_so_far_apart_from_the_middle(clip):
    read = read_clip(clip, num_frames=5, frame_rate=12.5, size=None)
    assert numbers(read.frames) == [21, 23, 25, 27, 29]  # 4 intervals of 0.08 s about 1 s
    assert read.frames.shape == (5, HEIGHT, WIDTH, 3)


def test_what_a_short_clip_lacks_repeats_the_last_frame_and_is_masked():
    read = read_clip(make_clip(greys(6)), num_frames=10, frame_rate=RATE)
    assert numbers(read.frames) == [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]
    assert read.frame_mask.tolist() == [True] * 6 + [False] * 4


def test_a_window_shows_nothing_that_comes_after_it(clip):
    read = read_clip(clip, num_frames=6, frame_rate=RATE, start=0.4, seconds=0.16)
    assert numbers(read.frames) == [10, 11, 12, 13, 13, 13]
    assert read.frame_mask.tolist() == [True] * 4 + [False] * 2


def test_colours_are_red_green_blue():
    red = np.zeros((5, HEIGHT, WIDTH, 3), np.uint8)
    red[..., RED] = 220
    frames = read_clip(make_clip(red), num_frames=2).frames
    assert frames[..., RED].min() > 190
    assert frames[..., BLUE].max() < 40


def turned_clip(images: np.ndarray, container: str, **tag) -> bytes:
    """A lossless clip of images (N, H, W, 3) as a phone held another way would store them."""
    file = BytesIO()
    with av.open(file, "w", format=container) as clip:
        picture = clip.add_stream("libx264rgb", rate=RATE, options={"qp": "0", "g": "25"})
        picture.height, picture.width, picture.pix_fmt = *images.shape[1:3], "rgb24"
        if tag:
            picture.set_display_rotation(**tag)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, RATE), number
            clip.mux(picture.encode(frame))
        clip.mux(picture.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize(
    "tag",
    [
        {"degrees": 90}, {"degrees": 180}, {"degrees": 270}, {"degrees": 0, "hflip": True},
        {"degrees": 0, "vflip": True}, {"degrees": 90, "hflip": True}, {"degrees": 270, "hflip": True},
    ],
)  # fmt: skip
def test_a_tagged_clip_is_read_as_one_that_was_turned_before(container, tag):
    number, y, x = np.mgrid[:75, :HEIGHT, :WIDTH]
    images = np.stack([3 * x, 4 * y, 3 * number], axis=-1).astype(np.uint8)
    upright = np.rot90(images, tag["degrees"] // 90, axes=(1, 2))  # counter-clockwise, as the tag's degrees
    if "hflip" in tag:
        upright = upright[:, :, ::-1]
    if "vflip" in tag:
        upright = upright[:, ::-1]
    tagged, turned = turned_clip(images, container, **tag), turned_clip(upright, container)
    for window in ({"num_frames": 75}, {"num_frames": 4, "start": 2.4, "seconds": 0.3}):  # whole, and by a seek
        read, expected = (read_clip(clip, size=None, **window).frames for clip in (tagged, turned))
        np.testing.assert_array_equal(read, expected)
    np.testing.assert_array_equal(read_clip(tagged, num_frames=75, size=None).frames, upright)
    read, expected = (read_clip(clip, num_frames=3, size=(30, 20)).frames.astype(int) for clip in (tagged, turned))
    assert read.shape == (3, 30, 20, 3)
    assert np.abs(read - expected).max() <= 3  # scaling across is not quite scaling down
    with av.open(BytesIO(tagged)) as file:
        of_a_pipeline = scaled(next(file.decode(video=0)), [30, 20])
    np.testing.assert_array_equal(
        of_a_pipeline, read_clip(tagged, num_frames=1, seconds=0.01, size=(30, 20)).frames[0]
    )


def test_a_varying_frame_rate_is_sampled_by_time():
    ticks = np.array([0, 1, 2, 3, 4, 25, 26, 27, 28, 29])  # frame 4 is shown for 0.84 s
    read = read_clip(make_clip(greys(10), ticks=ticks), num_frames=4, seconds=1.2)
    np.testing.assert_allclose(read.frame_seconds, [0.15, 0.45, 0.75, 1.05])
    assert numbers(read.frames) == [3, 4, 4, 6]
    assert read.frame_mask.all()


@pytest.mark.parametrize("start", [2.0, 3.96, 4.0, 7.31, 11.9, 18.5])
def test_a_window_found_by_seeking_is_the_one_decoded_from_the_beginning(start, long_clip, monkeypatch):
    wanted = {"num_frames": 9, "start": start, "seconds": 1.0, "audio_rate": 16000}
    sought = read_clip(long_clip, **wanted)
    monkeypatch.setattr(video, "DEEP", np.inf)
    decoded = read_clip(long_clip, **wanted)
    np.testing.assert_array_equal(sought.frames, decoded.frames)
    assert numbers(sought.frames) == [int((t + 1e-6) * RATE) % 50 for t in sought.frame_seconds]
    assert sought.frame_mask.all()
    assert len(sought.audio) == 16000
    np.testing.assert_allclose(sought.audio, decoded.audio, atol=1e-3)  # AAC decoders add noise of their own


def test_seeking_decodes_less(long_clip, monkeypatch):
    fed = []
    feed = video._Pictures.feed
    monkeypatch.setattr(video._Pictures, "feed", lambda self, packet: (fed.append(packet.pts), feed(self, packet)))
    read_clip(long_clip, start=17.0, seconds=1.0)
    assert len(fed) < 100  # of 500 packets; the keyframe is 1 s before
    fed.clear()
    read_clip(long_clip, start=0.5, seconds=1.0)
    assert len(fed) < 100  # and what comes after the window is left alone


@pytest.mark.parametrize("num_frames", [1, 7, 31, 400])
def test_leaving_out_frames_on_which_none_builds_changes_nothing(num_frames, monkeypatch):
    dice = np.random.default_rng(0)
    noise = np.cumsum(dice.integers(-20, 21, (60, HEIGHT, WIDTH, 3)), axis=0).clip(-100, 100) + 128
    data = make_clip(noise.astype(np.uint8), options={"bf": "4", "b-pyramid": "normal", "g": "30"})
    read = read_clip(data, num_frames=num_frames, size=None)
    monkeypatch.setattr(video, "DROPPABLE", ())
    np.testing.assert_array_equal(read.frames, read_clip(data, num_frames=num_frames, size=None).frames)
    assert read.frame_mask.all()


@pytest.mark.parametrize("rate", [16000, 22050, SOUND_RATE])
def test_sound_has_its_length_and_its_samples(rate, clip):
    read = read_clip(clip, num_frames=0, audio_rate=rate)
    assert read.audio.shape == (2 * rate,)
    assert read.audio.dtype == np.float32
    assert not len(read.frames)
    expected = 0.4 * np.sin(2 * np.pi * HERTZ * np.arange(2 * rate) / rate)
    inside = slice(rate // 10, -rate // 10)
    np.testing.assert_allclose(read.audio[inside], expected[inside], atol=0.02)


@pytest.mark.parametrize("start", [0.0, 0.3, 0.77771])
def test_a_window_of_sound_is_what_the_whole_has_there(start, clip):
    whole = read_clip(clip, num_frames=0, audio_rate=16000).audio
    window = read_clip(clip, num_frames=0, audio_rate=16000, start=start, seconds=0.5).audio
    np.testing.assert_allclose(window, whole[round(16000 * start) :][:8000], atol=1e-4)
    short = read_clip(clip, num_frames=0, audio_rate=16000, start=start, max_audio_seconds=0.25).audio
    np.testing.assert_allclose(short, window[:4000], atol=1e-4)


def test_sound_is_what_read_audio_makes_of_the_same_file(tmp_path):
    sound = np.stack([tone(1.0), 0.5 * tone(1.0, 1000)])
    data = make_clip(sound=sound, container="wav", audio_codec="pcm_s16le", layout="stereo")
    expected, _ = read_audio(data, 22050)
    read = read_clip(data, audio_rate=22050, num_frames=3)
    np.testing.assert_allclose(read.audio, expected, atol=1e-4)
    assert read.frames.shape == (3, 128, 171, 3)
    assert not read.frames.any()
    assert not read.frame_mask.any()


@pytest.mark.parametrize("channel, heard", [("FC", 1 / 3.414), ("FL", 0.707 / 3.414), ("LFE", 0.0)])
def test_the_channels_of_surround_sound_are_mixed(channel, heard):
    places = [place.name for place in av.AudioLayout("5.1").channels]
    sound = np.zeros((6, SOUND_RATE), np.float32)
    sound[places.index(channel)] = tone(1.0)
    audio = read_clip(make_clip(greys(25), sound, layout="5.1"), audio_rate=16000).audio[2000:-2000]
    assert np.abs(audio).max() == pytest.approx(0.4 * heard, abs=0.01)


@pytest.mark.parametrize("audio_codec", ["pcm_s16le", "aac"])
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
def test_a_sound_in_all_channels_keeps_its_loudness(layout, audio_codec):
    sound = np.stack([tone(0.5)] * av.AudioLayout(layout).nb_channels)
    container = "mp4" if audio_codec == "aac" else "wav"
    data = make_clip(sound=sound, container=container, audio_codec=audio_codec, layout=layout)
    audio = read_clip(data, num_frames=0, audio_rate=16000).audio
    assert np.abs(audio[2000:-2000]).max() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts"])
def test_a_sound_that_starts_later_keeps_its_distance_to_the_picture(container):
    data = make_clip(greys(50), tone(1.0)[None], sound_delay=0.5, container=container)
    audio = read_clip(data, audio_rate=16000).audio
    loud = np.flatnonzero(np.abs(audio) > 0.05)
    assert loud[0] / 16000 == pytest.approx(0.5, abs=0.03)
    assert loud[-1] / 16000 == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_times_count_from_the_first_stream_and_a_late_picture_is_masked(container):
    data = make_clip(greys(25), tone(2.0)[None], picture_delay=1.0, container=container)
    read = read_clip(data, num_frames=4, seconds=2.0, audio_rate=16000)
    assert read.frame_mask.tolist() == [False, False, True, True]
    assert numbers(read.frames)[2:] == pytest.approx([6, 18], abs=1)
    assert read_clip(data, num_frames=4).frame_mask.all()  # without a length it is the picture's own


def test_a_file_whose_clock_starts_elsewhere_is_read_from_its_start():
    data = make_clip(greys(50), tone(2.0)[None], picture_delay=100.0, sound_delay=100.0, container="mpegts")
    read = read_clip(data, num_frames=4, seconds=0.96, audio_rate=16000, start=0.5)
    assert read.frame_mask.all()
    assert len(read.audio) == 0.96 * 16000
    assert numbers(read.frames) == pytest.approx([15, 21, 27, 33], abs=1)


def test_a_file_streamed_without_a_length_is_measured():
    class Pipe:
        """Takes bytes, and cannot go back to write a length."""

        data = b""

        def write(self, data: bytes) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    make_clip(greys(50), container="matroska", into=pipe)
    assert probe_clip(pipe.data).video_seconds is None
    assert numbers(read_clip(BytesIO(pipe.data), num_frames=5).frames) == [5, 15, 25, 35, 45]


def test_picture_alone_and_sound_alone(clip):
    mute, blind = make_clip(greys(25)), make_clip(sound=tone(1.0)[None])
    assert read_clip(mute, audio_rate=16000).audio is None
    assert not read_clip(blind, audio_rate=16000).frame_mask.any()
    with pytest.raises(VideoError, match="no sound track"):
        read_clip(mute, num_frames=0, audio_rate=16000)
    with pytest.raises(VideoError, match="no picture"):
        read_clip(blind)
    with pytest.raises(VideoError, match="nothing decodes from 9 s on"):
        read_clip(clip, start=9.0, seconds=1.0, audio_rate=16000)


def test_a_cover_is_no_picture(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as file:
        track, cover = file.add_stream("aac", rate=SOUND_RATE, layout="mono"), file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(greys(1)[0], format="rgb24")
        image.pts = 0
        frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE, 0
        file.mux([*cover.encode(image), *cover.encode(None), *track.encode(frame), *track.encode(None)])
    assert not probe_clip(path).has_video
    assert not read_clip(path, audio_rate=16000).frame_mask.any()


def test_path_bytes_and_file_are_the_same(clip, tmp_path):
    path = tmp_path / "12:30 a clip.mp4"
    path.write_bytes(clip)
    wanted = {"num_frames": 4, "audio_rate": 16000}
    expected = read_clip(clip, **wanted)
    with open(path, "rb") as file:
        for source in (path, str(path), file, file):
            read = read_clip(source, **wanted)
            np.testing.assert_array_equal(read.frames, expected.frames)
            np.testing.assert_array_equal(read.audio, expected.audio)
            assert probe_clip(source) == probe_clip(clip)
        assert not file.closed


def test_headers_are_told(clip):
    facts = probe_clip(clip)
    assert (facts.has_video, facts.frame_rate) == (True, RATE)
    assert (facts.sampling_rate, facts.channels) == (SOUND_RATE, 2)
    assert facts.video_seconds == facts.audio_seconds == 2.0
    blind = probe_clip(make_clip(sound=tone(1.0)[None]))
    assert (blind.has_video, blind.video_seconds, blind.frame_rate) == (False, None, None)
    mute = probe_clip(make_clip(greys(25)))
    assert (mute.audio_seconds, mute.sampling_rate, mute.channels) == (None,) * 3


@pytest.mark.parametrize("function", [probe_clip, read_clip])
def test_what_is_no_clip_says_so_in_one_line(function, clip, tmp_path, capfd):
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
    with open(notes, encoding="utf-8") as text, pytest.raises(VideoError, match="as text"):
        function(text)
    with pytest.raises(VideoError, match="give a path, bytes"):
        function(12)
    assert capfd.readouterr() == ("", "")


def index_first(tmp_path: Path, **kinds) -> bytes:
    """A clip whose moov atom stands before the pictures, as on the web."""
    path = tmp_path / "first.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        copy = av.open(BytesIO(make_clip(greys(50), tone(2.0)[None], **kinds)))
        streams = {stream.index: file.add_stream_from_template(stream) for stream in copy.streams}
        for packet in copy.demux():
            if packet.size:
                index = packet.stream.index
                packet.stream = streams[index]
                file.mux(packet)
    return path.read_bytes()


def test_of_a_cut_off_file_what_is_there_is_read(tmp_path):
    data = index_first(tmp_path, options={"g": "10"})
    read = read_clip(data[: int(0.7 * len(data))], num_frames=10, audio_rate=16000)
    real = int(read.frame_mask.sum())
    assert 2 <= real <= 8
    assert read.frame_mask[:real].all()
    assert numbers(read.frames)[:real] == [2, 7, 12, 17, 22, 27, 32, 37][:real]
    assert len(set(numbers(read.frames)[real:])) == 1
    assert 0.4 < len(read.audio) / 32000 < 0.95


def damage(data: bytes, kind: str, first: int, last: int) -> bytes:
    """The same clip with the packets first to last of a stream overwritten."""
    with av.open(BytesIO(data)) as file:
        packets = [packet for packet in file.demux(getattr(file.streams, kind)[0]) if packet.size]
    spoilt = bytearray(data)
    for packet in packets[first : last + 1]:
        spoilt[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    return bytes(spoilt)


def test_damaged_pictures_are_masked_up_to_the_next_keyframe(caplog):
    data = damage(make_clip(greys(50), options={"g": "10", "bf": "0", "sc_threshold": "0"}), "video", 14, 15)
    with caplog.at_level(logging.WARNING):
        read = read_clip(data, num_frames=50)
    assert read.frame_mask.tolist() == [True] * 14 + [False] * 6 + [True] * 30
    assert numbers(read.frames) == [*range(14), *[13] * 6, *range(20, 50)]
    assert "damaged packets of the picture" in caplog.text


def test_what_follows_damaged_sound_keeps_its_time(caplog):
    whole = make_clip(sound=np.concatenate([tone(1.0), tone(1.0, 1000)])[None])
    spoilt = damage(whole, "audio", 30, 32)
    with caplog.at_level(logging.WARNING):
        read = read_clip(spoilt, num_frames=0, audio_rate=SOUND_RATE).audio
    expected = read_clip(whole, num_frames=0, audio_rate=SOUND_RATE).audio
    assert len(read) == len(expected)
    assert "damaged packets of the sound" in caplog.text
    np.testing.assert_allclose(read[36 * 1024 :], expected[36 * 1024 :], atol=1e-4)
    np.testing.assert_allclose(read[: 27 * 1024], expected[: 27 * 1024], atol=1e-4)


def test_a_clip_of_which_nothing_decodes_raises():
    data = damage(make_clip(greys(10)), "video", 0, 9)
    with pytest.raises(VideoError, match="nothing decodes"):
        read_clip(data)


@pytest.mark.parametrize(
    "wanted",
    [
        {"num_frames": -1}, {"num_frames": 0}, {"size": (0, 5)}, {"frame_rate": 0.0}, {"start": -1.0},
        {"seconds": 0.0}, {"audio_rate": 16000.5}, {"audio_rate": -1}, {"max_audio_seconds": -1.0},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(wanted, clip):
    with pytest.raises(ValueError, match=next(iter(wanted))):
        read_clip(clip, **wanted)


@given(st.integers(1, 40), st.floats(0, 1e4), st.floats(0.01, 1e3), st.none() | st.floats(0.5, 60))
def test_times_lie_even_and_in_the_middle_of_their_window(count, start, seconds, rate):
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
def test_any_times_of_any_clip_give_the_frames_that_are_shown_then(data):
    gaps = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=20))
    ticks = np.concatenate([[0], np.cumsum(gaps)])
    clip = make_clip(greys(len(ticks)), ticks=ticks, options={"bf": str(data.draw(st.integers(0, 3)))})
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
    assert numbers(read.frames) == shown.tolist()
    assert read.frame_mask.tolist() == real.tolist()

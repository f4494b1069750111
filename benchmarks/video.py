"""Speed of reading 16 small frames and the sound of mp4 files: `python -m benchmarks.video`.

Two clips are made, of 4 and of 60 s: 1280x720, 23.976 frames per second, H.264 with a keyframe every 250 frames and
with B-frames, stereo AAC at 48 kHz; drifting soft colours and a disc. The short clip is read completely, the long one
for 4 s from second 50. `media.video.read_clip` takes turns with OpenCV (grab, retrieve and resize of the wanted
frames; in the long clip after a seek) and with `transformers.video_utils.load_video` by PyAV, which decodes from the
start and returns frames of full size, here resized by OpenCV. All read the same frames; the mean difference of their
pixels is printed (0 to 255; scalers differ a little). The floor is PyAV decoding every frame up to the last wanted one
without using them. Our code skips frames that no other frame depends on, so it can be below the floor.

Each uses one thread (load_video uses PyAV's default, which is one thread for this file). With sound, one opening is
compared with two of ours. `--full` runs more rounds.
"""

import argparse
import os
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from media.video import read_clip

os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"  # read when a file is opened

import cv2  # noqa: E402
from transformers.video_utils import load_video  # noqa: E402

WIDTH, HEIGHT, GOP = 1280, 720, 250  # pixels, pixels, frames
FRAME_RATE = Fraction(24000, 1001)  # Hz
SOUND_RATE, NEW_RATE = 48000, 16000  # Hz of the files, and of a model
SHORT, LONG, DEEP_START = 4.0, 60.0, 50.0  # s
NUM_FRAMES, SIZE = 16, (112, 112)  # frames and pixels that r3d_18 expects


def write_clip(path: Path, seconds: float) -> None:
    """Write a clip of drifting soft colours and a circling disc, repeated every GOP frames."""
    dice, count = np.random.default_rng(0), round(seconds * FRAME_RATE)
    ground = cv2.resize(dice.integers(0, 255, (24, 40, 3), np.uint8), (2 * WIDTH, 2 * HEIGHT))
    packets, duration = [], 1 / FRAME_RATE
    with av.open(str(path), "w") as file:
        options = {"g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0", "preset": "veryfast", "bf": "3"}
        picture = file.add_stream("libx264", rate=FRAME_RATE, options=options)
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        track = file.add_stream("aac", rate=SOUND_RATE, layout="stereo")
        for number in range(min(count, GOP)):
            left, top, turn = 3 * number % WIDTH, 2 * number % HEIGHT, number / 20
            image = ground[top:, left:][:HEIGHT, :WIDTH].copy()
            centre = int(WIDTH / 2 + 400 * np.cos(turn)), int(HEIGHT / 2 + 250 * np.sin(turn))
            cv2.circle(image, centre, 90, (230, number % 256, 30), -1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, duration
            packets += picture.encode(frame)
        packets += picture.encode(None)
        for number in range(count):  # one GOP is encoded and written repeatedly, which saves most of the time
            packet = packets[number % GOP]
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = picture, duration, packet.is_keyframe
            shift = number // GOP * GOP
            copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, 1
            file.mux(copy)
        sound = (0.2 * dice.normal(size=(2, round(seconds * SOUND_RATE)))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
        frame.sample_rate = SOUND_RATE
        file.mux([*track.encode(frame), *track.encode(None)])


def by_opencv(path: Path, wanted: list[int], seek: bool) -> np.ndarray:
    """Read in the common way: grab every frame, retrieve the wanted ones."""
    capture, images, at = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), [], 0
    if seek:
        capture.set(cv2.CAP_PROP_POS_FRAMES, wanted[0])
        at = wanted[0]
    for number in range(at, wanted[-1] + 1):
        capture.grab()
        if number in wanted:
            image = cv2.resize(capture.retrieve()[1], SIZE[::-1], interpolation=cv2.INTER_AREA)
            images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(images)


def by_load_video(path: Path, wanted: list[int]) -> np.ndarray:
    """Read with transformers and resize."""
    frames, _ = load_video(str(path), backend="pyav", sample_indices_fn=lambda metadata: np.array(wanted))
    return np.stack([cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA) for frame in frames])


def decode_only(path: Path, wanted: list[int], seek: bool) -> None:
    """Decode all frames up to the last wanted one, from the start or from the keyframe before; discard them."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        if seek:
            file.seek(int(wanted[0] / FRAME_RATE / stream.time_base), stream=stream)
        for frame in file.decode(stream):
            if frame.time * FRAME_RATE > wanted[-1]:
                break


def read_twice(path: Path, **window) -> tuple[np.ndarray, np.ndarray]:
    """Read the pictures, then the sound, opening the file twice."""
    frames = read_clip(path, num_frames=NUM_FRAMES, size=SIZE, **window).frames
    return frames, read_clip(path, num_frames=0, audio_rate=NEW_RATE, **window).audio


def measure(name: str, path: Path, rounds: int, **window: float) -> list[tuple]:
    """Print tables of one clip; return the lines for scripts."""
    ours = partial(read_clip, path, num_frames=NUM_FRAMES, size=SIZE, **window)
    wanted = [int(time * FRAME_RATE + 1e-6) for time in ours().frame_seconds]  # rounded down, except for float errors
    deep = bool(window)
    rivals = {
        "ours": ours,
        "load_video": partial(by_load_video, path, wanted),
        "opencv": partial(by_opencv, path, wanted, deep),
        "decode alone": partial(decode_only, path, wanted, deep),
    }
    print(f"\n{name}: {NUM_FRAMES} frames of {SIZE[0]}x{SIZE[1]}, numbers {wanted[0]} to {wanted[-1]}")
    for rival in ("load_video", "opencv"):
        difference = np.abs(rivals[rival]().astype(int) - ours().frames).mean()
        print(f"mean difference of ours to {rival}: {difference:.2f} of 255")
    with_sound = partial(ours, audio_rate=NEW_RATE)
    timings = compare(
        rivals | {"ours with sound": with_sound, "ours in two": partial(read_twice, path, **window)}, rounds, 0
    )
    print_table(timings)
    over = 1e3 * (timings["ours"].median - timings["decode alone"].median)
    return [
        (print_ratio, f"video_vs_load_video_{name}", ratio(timings["load_video"], timings["ours"])),
        (print_ratio, f"video_vs_opencv_{name}", ratio(timings["opencv"], timings["ours"])),
        (print_ratio, f"one_open_vs_two_{name}", ratio(timings["ours in two"], timings["ours with sound"])),
        (print_value, f"over_bare_decode_{name}", over, "ms"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="three times as many rounds")
    rounds = 15 if parser.parse_args().full else 5
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.mp4", Path(folder) / "long.mp4"
        write_clip(short, SHORT)
        write_clip(long, LONG)
        lines = measure("short", short, rounds)
        lines += measure("deep", long, (rounds + 1) // 2, start=DEEP_START, seconds=SHORT)
    print()
    for show, *line in lines:
        show(*line)


if __name__ == "__main__":
    main()

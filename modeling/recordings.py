"""Read the user's own recordings for the pipelines: files and arrays to inputs of the feature extractors.

Audio files need soundfile and soxr, video files need av. Arrays of the right rate and size need none of them: a model
from the Hub may run without these packages.
"""

# N frames of a clip, S samples of sound

import io
from pathlib import Path
from typing import Any

import numpy as np

# These packages are optional, because this file is copied to the Hub with each model. transformers ignores imports
# in a try block when it checks the requirements of remote code.
try:
    import soundfile
    import soxr
except ImportError:
    soundfile = soxr = None
try:
    import av
    from av.video.reformatter import Interpolation
except ImportError:
    av = None

MAX_CLIP_SECONDS = 60.0  # a clip is one utterance, not a film
SAME_TIME = 1e-6  # s; tolerance when times are compared, for rounding of floats


def read_sound(source: Any, sampling_rate: int) -> np.ndarray:
    """Read a recording as mono (S,) at `sampling_rate` Hz.

    Args:
        source: a path, the bytes of a file, or a dict of `array` (or `raw`) and its `sampling_rate`.
        sampling_rate: Hz of the result.
    """
    if isinstance(source, dict) and "sampling_rate" in source and ({"array", "raw"} & source.keys()):
        sound = np.asarray(source["array"] if "array" in source else source["raw"])
        return resampled(sound, source["sampling_rate"], sampling_rate)
    if not isinstance(source, str | Path | bytes):
        raise ValueError(
            f"recording: has type {type(source).__name__}. Give a path, or {{'array': floats, 'sampling_rate': Hz}}."
        )
    if soundfile is None:
        raise ImportError(
            "soundfile, soxr: not installed, needed to read audio files. Run `pip install soundfile soxr`, or give an "
            "array and its sampling_rate."
        )
    where = "bytes" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise ValueError(f"{where}: no such file. Check the path.") from None
        # libsndfile reports a damaged MP3 as a missing file, so its own message would be misleading.
        raise ValueError(
            f"{where}: not readable as audio. Give wav, flac, ogg, opus or mp3, or download the file again."
        ) from error
    return resampled(sound, rate, sampling_rate)


def resampled(sound: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    """Resample floats (S,) or (S, channels) from `rate` Hz to mono (S,)."""
    if sound.dtype.kind != "f" or sound.ndim not in (1, 2) or not len(sound):
        raise ValueError(
            f"audio: has dtype {sound.dtype} and shape {sound.shape}. Give floats (samples,) with 1.0 at full scale."
        )
    sound = np.ascontiguousarray(sound if sound.ndim == 1 else sound.mean(axis=1), np.float32)
    if rate == sampling_rate:
        return sound
    if soxr is None:
        raise ImportError(
            f"soxr: not installed, needed to resample audio of {rate} Hz. Run `pip install soundfile soxr`, or give "
            f"audio at {sampling_rate} Hz."
        )
    return soxr.resample(sound, rate, sampling_rate, quality="HQ")


def chosen_frames(frames: np.ndarray, extractor: Any) -> np.ndarray:
    """Pick evenly spread frames, the number that the model expects, and scale them to the size that it crops."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(
            f"video: has dtype {frames.dtype} and shape {frames.shape}. Give uint8 RGB (N, height, width, 3)."
        )
    count, (height, width) = extractor.clip_frames, extractor.frame_size
    frames = frames[((np.arange(count) + 0.5) * len(frames) / count).astype(int)]
    if frames.shape[1:3] == (height, width):
        return frames
    if av is None:
        raise ImportError(
            f"av: not installed, needed to scale frames to {height} x {width}. Run `pip install av`, or scale them."
        )
    return np.stack([scaled(av.VideoFrame.from_ndarray(frame), extractor.frame_size) for frame in frames])


def scaled(frame: Any, size: list[int]) -> np.ndarray:
    """Convert a decoded frame to RGB (height, width, 3), bilinear, rotated and flipped as the file says."""
    smooth = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT
    # FFmpeg leaves rotation to the player. Phones store portrait video as landscape with a display matrix, of which
    # the upper left 2 x 2 numbers say where the axes go.
    tag = frame.side_data.get("DISPLAYMATRIX")
    matrix = np.eye(3) if tag is None else np.frombuffer(tag, np.int32).reshape(3, 3)
    (x_by_x, y_by_x), (x_by_y, y_by_y) = matrix[:2, :2].tolist()
    sideways = abs(x_by_y) > abs(x_by_x)
    height, width = size[::-1] if sideways else size
    image = frame.reformat(width, height, "rgb24", interpolation=smooth).to_ndarray()
    if sideways:
        image, x_by_x, y_by_y = image.swapaxes(0, 1), x_by_y, y_by_x
    return image[:: -1 if y_by_y < 0 else 1, :: -1 if x_by_x < 0 else 1]


def read_clip(path: Path, extractor: Any, modalities: list[str]) -> dict[str, Any]:
    """Read frames and audio of a clip of one utterance: the modalities that it has and the model uses."""
    if av is None:
        raise ImportError("av: not installed, needed to read clips. Run `pip install av`, or give frames and audio.")
    inputs: dict[str, Any] = {}
    try:
        with av.open(str(path)) as clip:
            origin = 0.0 if clip.start_time is None else clip.start_time / av.time_base  # s
            if (clip.duration or 0) / av.time_base > MAX_CLIP_SECONDS:
                raise ValueError(f"{path}: longer than {MAX_CLIP_SECONDS:g} s. Cut it into utterances.")
            if "video" in modalities and clip.streams.video:
                inputs |= video_frames(clip, origin, extractor)
        # Open again for the audio: decoding the video has consumed its packets.
        with av.open(str(path)) as clip:
            if "audio" in modalities and clip.streams.audio:
                inputs |= audio_track(clip)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: not readable ({error}). Give a clip with video or audio.") from error
    return inputs


def video_frames(clip: Any, origin: float, extractor: Any) -> dict[str, Any]:
    """Return the frames at the extractor's times as `video`, and which of them are real as `mask`."""
    stream = clip.streams.video[0]
    shown = [(f.time - origin, scaled(f, extractor.frame_size)) for f in clip.decode(stream) if f.time is not None]
    if not shown:
        return {}
    # Frame i is shown from begins[i] until the next one begins, the last one for one frame duration.
    begins = np.array([time for time, _ in shown])  # s
    first, last, count = begins[0], begins[-1] + 1 / float(stream.average_rate or 25), extractor.clip_frames
    if extractor.video_frame_rate is None:
        times = first + (np.arange(count) + 0.5) * (last - first) / count
    else:
        gap = 1 / extractor.video_frame_rate  # s
        times = first + max((last - first - (count - 1) * gap) / 2, 0.0) + np.arange(count) * gap
    shown_at = np.searchsorted(begins, times + SAME_TIME, side="right") - 1
    return {"video": np.stack([shown[index][1] for index in shown_at.clip(0)]), "mask": times < last - SAME_TIME}


def audio_track(clip: Any) -> dict[str, Any]:
    """Return the first audio track, mixed to mono, and its sampling rate."""
    stream = clip.streams.audio[0]
    planar = av.AudioResampler(format="fltp", rate=stream.rate)
    parts = [part.to_ndarray() for frame in clip.decode(stream) for part in planar.resample(frame)]  # (channels, S)
    return {"audio": np.concatenate(parts, axis=1).mean(axis=0), "sampling_rate": stream.rate} if parts else {}

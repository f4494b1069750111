"""Recordings of one's own for the pipelines: files and arrays to what feature extractors take, wherever a model went.

Files need soundfile and soxr for sound, av for clips; whoever gives arrays of the right rate and size needs neither.
"""

# N frames of a clip, S samples of sound

import io
from pathlib import Path
from typing import Any

import numpy as np

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

LONGEST = 60.0  # s of a clip: one is an utterance, not a film
SAME_TIME = 1e-6  # s by which a time may lie before a frame that is shown at it: float's rounding


def read_sound(source: Any, sampling_rate: int) -> np.ndarray:
    """A recording (S,) at `sampling_rate` Hz, mono, from a path, a file's bytes, or an array with its own rate."""
    if isinstance(source, dict) and "sampling_rate" in source and ({"array", "raw"} & source.keys()):
        sound = np.asarray(source["array"] if "array" in source else source["raw"])
        return resampled(sound, source["sampling_rate"], sampling_rate)
    if not isinstance(source, str | Path | bytes):
        raise ValueError(
            f"a recording came as {type(source).__name__}; give a path, or {{'array': floats, 'sampling_rate': Hz}}"
        )
    if soundfile is None:
        raise ImportError("reading files needs `pip install soundfile soxr`; or give an array with its sampling_rate")
    where = "bytes" if isinstance(source, bytes) else str(source)
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise ValueError(f"{where}: no such file. Check the path.") from None
        # libsndfile says of a damaged MP3 that the file does not exist
        raise ValueError(
            f"{where}: its bytes are not a readable sound. Give wav, flac, ogg, opus or mp3, or fetch the file again."
        ) from error
    return resampled(sound, rate, sampling_rate)


def resampled(sound: np.ndarray, rate: int, sampling_rate: int) -> np.ndarray:
    """Floats (S,) or (S, channels) at `rate` Hz as mono (S,) at another rate."""
    if sound.dtype.kind != "f" or sound.ndim not in (1, 2) or not len(sound):
        raise ValueError(
            f"sound of {sound.dtype} and shape {sound.shape}; give floats (samples,) with 1.0 at full scale"
        )
    sound = np.ascontiguousarray(sound if sound.ndim == 1 else sound.mean(axis=1), np.float32)
    if rate == sampling_rate:
        return sound
    if soxr is None:
        raise ImportError(f"sound of {rate} Hz needs `pip install soundfile soxr`, or give it at {sampling_rate} Hz")
    return soxr.resample(sound, rate, sampling_rate, quality="HQ")


def chosen_frames(frames: np.ndarray, extractor: Any) -> np.ndarray:
    """As many frames as the model takes, evenly spread, of the size that it crops."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"video of {frames.dtype} and shape {frames.shape}; give uint8 RGB (N, height, width, 3)")
    count, (height, width) = extractor.clip_frames, extractor.frame_size
    frames = frames[((np.arange(count) + 0.5) * len(frames) / count).astype(int)]
    if frames.shape[1:3] == (height, width):
        return frames
    if av is None:
        raise ImportError(f"frames of another size than {height} x {width} need `pip install av`")
    return np.stack([scaled(av.VideoFrame.from_ndarray(frame), extractor.frame_size) for frame in frames])


def scaled(frame: Any, size: list[int]) -> np.ndarray:
    """A decoded frame as RGB (height, width, 3), bilinear, turned upright as its file says."""
    smooth = Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT
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
    """The frames and the sound of a clip of one utterance, as far as it has them and the model reads them."""
    if av is None:
        raise ImportError("reading clips needs `pip install av`; or give frames and sound as arrays")
    found: dict[str, Any] = {}
    try:
        with av.open(str(path)) as clip:
            origin = 0.0 if clip.start_time is None else clip.start_time / av.time_base  # s
            if (clip.duration or 0) / av.time_base > LONGEST:
                raise ValueError(f"{path}: lasts over {LONGEST:g} s; cut utterances out of it")
            if "video" in modalities and clip.streams.video:
                found |= pictures(clip, origin, extractor)
        with av.open(str(path)) as clip:
            if "audio" in modalities and clip.streams.audio:
                found |= track(clip)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); give a clip with pictures or sound") from error
    return found


def pictures(clip: Any, origin: float, extractor: Any) -> dict[str, Any]:
    """The frames that are shown at the extractor's times, and which of them are real."""
    stream = clip.streams.video[0]
    shown = [(f.time - origin, scaled(f, extractor.frame_size)) for f in clip.decode(stream) if f.time is not None]
    if not shown:
        return {}
    begins = np.array([time for time, _ in shown])  # s
    first, last, count = begins[0], begins[-1] + 1 / float(stream.average_rate or 25), extractor.clip_frames
    if extractor.video_frame_rate is None:
        times = first + (np.arange(count) + 0.5) * (last - first) / count
    else:
        gap = 1 / extractor.video_frame_rate  # s
        times = first + max((last - first - (count - 1) * gap) / 2, 0.0) + np.arange(count) * gap
    places = np.searchsorted(begins, times + SAME_TIME, side="right") - 1
    return {"video": np.stack([shown[place][1] for place in places.clip(0)]), "mask": times < last - SAME_TIME}


def track(clip: Any) -> dict[str, Any]:
    """The sound, mono."""
    stream = clip.streams.audio[0]
    planar = av.AudioResampler(format="fltp", rate=stream.rate)
    parts = [part.to_ndarray() for frame in clip.decode(stream) for part in planar.resample(frame)]  # (channels, S)
    return {"audio": np.concatenate(parts, axis=1).mean(axis=0), "sampling_rate": stream.rate} if parts else {}

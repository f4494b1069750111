"""Read audio files into arrays. soundfile decodes wav, flac, ogg, opus and mp3; soxr resamples.

A file is read correctly or not at all. A file that does not decode raises `AudioError` with its name; it never becomes
silence. Behavior with truncated or damaged files, by format:

- wav: a truncated file gives the samples that exist.
- flac: a damaged or truncated file raises, because its checksums fail.
- ogg (vorbis, opus): a truncated file gives its complete pages. A file with a missing page in the middle raises:
  libsndfile would close the gap and shift everything after it to an earlier time.
- mp3: a truncated file gives the frames that exist, and logs a warning if its header announces more. The decoder skips
  a damaged part (with the same warning) or raises if it exceeds 1024 bytes. The decoder's own messages are dropped,
  see `media.quiet_decoder`.
"""

import contextlib
import logging
import math
import mmap
from collections.abc import Callable, Iterator
from io import BytesIO, FileIO
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import soxr

from media.quiet_decoder import MP3_BEGINNING, without_decoder_messages

logger = logging.getLogger(__name__)

FORMATS = "wav, flac, ogg, opus or mp3"
EXACT_HEADERS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC")  # formats whose frame count in the header can be trusted
ID3_HEADER = 10  # bytes
LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")  # in an mp3's first frame: the number of frames that follow
UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's frame count if the header has none, as in a streamed flac
BEFORE_LAST_PAGE = 0.1  # s; seeking in an ogg is exact up to this time before its last page
OPUS_CLOCK = 48000  # Hz; clock of the positions in opus pages (vorbis pages count samples)
MP3_LEAD = 11 * 1152  # samples; a frame's data may begin 511 bytes before it, which is 9 of the smallest frames
MARGIN = 0.05  # s of audio around a window that the resampling filter needs
BLOCK_SECONDS = 20  # s of audio that `read_audio_blocks` decodes at once
MAX_BLOCK_FRAMES = 2**23  # limit of a block, in case a damaged header gives a huge sampling rate
LENGTH_TAG_REACH = 64  # bytes of the first frame that contain the length tag (it starts at byte 36 or before)


class AudioError(ValueError):
    """An audio file that cannot be read. The message is one line with the source, the problem and a remedy."""


def read_audio(source: str | Path | bytes, sampling_rate: int | None = None, name: str = "") -> tuple[np.ndarray, int]:
    """Decode a whole file to mono. Return float32 samples (samples,) and their rate in Hz.

    Integer formats are scaled to full scale 1.0 (int16 -32768 is -1.0). Float formats are returned as stored, even
    beyond 1.0. Channels are averaged. With `sampling_rate` (Hz) soxr resamples the mono audio, with its HQ setting, to
    round(samples * new / old) samples. Without it the file's own rate is kept.
    Errors use `name`: bytes have no name, and a path may be that of a local copy.

    >>> audio, rate = read_audio("song.mp3", sampling_rate=22050)
    >>> audio.shape, audio.dtype, rate
    ((661500,), dtype('float32'), 22050)
    """
    where = _describe(source, name)
    if sampling_rate is not None and not (isinstance(sampling_rate, int | np.integer) and sampling_rate > 0):
        raise ValueError(f"sampling_rate={sampling_rate!r}: must be a positive integer. Give Hz, or None to keep it.")
    frames, rate = _decode(_read_bytes(source, where), where)
    audio = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
    bad = np.count_nonzero(~np.isfinite(audio))
    if bad:
        raise AudioError(f"{where}: {bad} of {len(audio)} samples are NaN or infinite. Export the audio again.")
    if sampling_rate is not None:
        audio, rate = resample(audio, rate, int(sampling_rate), where), int(sampling_rate)
    return np.ascontiguousarray(audio), rate


def resample(audio: np.ndarray, rate: int, new_rate: int, name: str = "sound") -> np.ndarray:
    """Resample mono audio (samples,) like `read_audio`. Errors use `name`."""
    if new_rate == rate:
        return audio
    resampled = soxr.resample(audio, rate, new_rate, quality="HQ")
    # soxr rounds the length, so a very short file may vanish.
    if not len(resampled):
        raise AudioError(f"{name}: {len(audio)} samples are less than one at {new_rate} Hz. Leave the file out.")
    return resampled


def read_audio_blocks(
    source: str | Path | bytes, sampling_rate: int | None = None, name: str = ""
) -> Iterator[np.ndarray]:
    """Yield what `read_audio` returns in blocks (samples,) of a few seconds. Memory does not grow with the file.

    A gap inside an ogg is only found at the end of the file, so its blocks are yielded before the error is raised.
    """
    where = _describe(source, name)
    count = 0
    with _opened(source, where) as file:
        header = _open(file, where, _StraightSoundFile)
        rate = header.samplerate
        resampler = None
        if sampling_rate is not None and sampling_rate != rate:
            resampler = soxr.ResampleStream(rate, sampling_rate, 1, dtype="float32", quality="HQ")
        for frames in _decoded_blocks(file, header, where):
            audio = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
            bad = np.count_nonzero(~np.isfinite(audio))
            if bad:
                first, last = count / rate, (count + len(audio)) / rate
                raise AudioError(f"{where}: {bad} samples from {first:.0f} to {last:.0f} s are NaN. Export it again.")
            count += len(audio)
            yield np.ascontiguousarray(audio) if resampler is None else resampler.resample_chunk(audio)
        if not count:
            raise AudioError(f"{where}: no complete frame of audio. Fetch it again or leave it out.")
        if resampler is not None:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def read_window(
    source: str | Path | bytes,
    start: float | Callable[[float], float],
    seconds: float,
    sampling_rate: int | None = None,
    name: str = "",
) -> np.ndarray:
    """Return the samples of `read_audio` from `start` on, for `seconds`, as float32 (samples,).

    Seeks to the window, so that a second of a long file is cheap, and resamples no more than needed. The window starts
    at the sample of the new rate nearest to `start`. It is shorter if the audio ends before; nothing is padded. A
    window after the end raises AudioError.

    `start` may be a function of the length in seconds, so that placing a window needs no second opening. The length is
    that in the header; a truncated mp3 has less.

    >>> middle = read_window("song.flac", lambda length: (length - 1) / 2, 1.0, 16000)
    >>> middle.shape
    (16000,)
    """
    where = _describe(source, name)
    with _opened(source, where) as file:
        header = _open(file, where, _StraightSoundFile)
        rate, frames = header.samplerate, None
        if header.format == "MP3" and not _with_content(file, _announces_length):
            frames = _whole_by_av(file, where)  # libsndfile can only guess positions, so decode everything
        if callable(start):
            start = start(_frame_count(header, where) / rate if frames is None else len(frames) / rate)
        if not (0 <= start < float("inf") and 0 < seconds < float("inf")):
            raise ValueError(f"start={start}, seconds={seconds}: must be 0 or more, and above 0. Give other seconds.")
        new_rate = sampling_rate or rate
        first, count = round(start * new_rate), max(round(seconds * new_rate), 1)  # samples of the new rate
        # Both sampling rates have a sample at every multiple of `grid` native samples. A window that begins at one
        # has the same samples as the resampled whole.
        grid = rate // math.gcd(rate, new_rate)
        margin = 0 if new_rate == rate else math.ceil(MARGIN * rate)
        begin = max(int(first / new_rate * rate) - margin, 0) // grid * grid
        end = math.ceil((first + count) / new_rate * rate) + margin
        frames = _frames_from(file, header, begin, end - begin, where) if frames is None else frames[begin:end]
    audio = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
    bad = np.count_nonzero(~np.isfinite(audio))
    if bad:
        raise AudioError(f"{where}: {bad} samples from {start:g} s on are NaN or infinite. Export the audio again.")
    if new_rate != rate and len(audio):
        audio = soxr.resample(audio, rate, new_rate, quality="HQ")
    skipped = first - begin * new_rate // rate
    window = np.ascontiguousarray(audio[skipped : skipped + count])
    if not len(window):
        raise AudioError(f"{where}: no audio at {start:g} s, it ends before. Give an earlier start.")
    return window


def audio_seconds(source: str | Path | bytes, name: str = "") -> float:
    """Return the length in seconds, exactly that of the result of `read_audio`.

    wav and flac headers give the length (also of a damaged flac, which `read_audio` refuses). The header of an mp3 or
    ogg may be an estimate, or count frames that are missing, so these files are decoded.
    """
    where = _describe(source, name)
    with _opened(source, where) as file:
        header = _open(file, where)
    if header.format in EXACT_HEADERS and 0 < header.frames < UNKNOWN_LENGTH:
        return header.frames / header.samplerate
    frames, rate = _decode(_read_bytes(source, where), where)
    return len(frames) / rate


def _describe(source: str | Path | bytes, name: str) -> str:
    if isinstance(source, bytes):
        return name or f"audio of {len(source)} bytes"
    if not isinstance(source, str | Path):
        raise AudioError(f"{name or 'audio'}: has type {type(source).__name__}. Give a path or the file's bytes.")
    return name or str(source)


@contextlib.contextmanager
def _opened(source: str | Path | bytes, where: str) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield BytesIO(_read_bytes(source, where))
        return
    try:
        file = open(source, "rb", buffering=0)
    except OSError as error:
        raise _open_error(where, error) from None
    with file:
        yield file


def _open_error(where: str, error: OSError) -> AudioError:
    if isinstance(error, FileNotFoundError):
        return AudioError(f"{where}: no such file. Check the path.")
    if isinstance(error, IsADirectoryError):
        return AudioError(f"{where}: is a folder. Give one {FORMATS} file.")
    return AudioError(f"{where}: cannot be opened ({error.strerror}). Check its permissions.")


def _read_bytes(source: str | Path | bytes, where: str) -> bytes:
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise _open_error(where, error) from None
    if not data:
        raise AudioError(f"{where}: is empty (0 bytes). Fetch it again or leave it out.")
    return data


class _StraightSoundFile(soundfile.SoundFile):
    """A sound file that is read from start to end without seeking."""

    # soundfile seeks to its position after each read. After a seek, an mp3 decoder lacks data that the next frame
    # needs: 1,286 samples after each block were wrong, by up to 0.36. Not seeking also
    # saves a tenth of the time of a window.

    def seekable(self) -> bool:
        return False


def _open(
    file: BinaryIO, where: str, file_class: type[soundfile.SoundFile] = soundfile.SoundFile
) -> soundfile.SoundFile:
    beginning = file.read(3)
    file.seek(0)
    mp3 = MP3_BEGINNING.match(beginning)
    try:
        with without_decoder_messages() if mp3 else contextlib.nullcontext():
            # libsndfile is faster with a file descriptor than with a Python file object.
            return file_class(file.fileno(), closefd=False) if isinstance(file, FileIO) else file_class(file)
    except soundfile.LibsndfileError as error:
        size = file.seek(0, 2)
        if not size:
            raise AudioError(f"{where}: is empty (0 bytes). Fetch it again or leave it out.") from None
        reason = error.error_string.rstrip(".")
        if "does not exist" in reason:  # libsndfile's message for bytes that look like a damaged MP3
            reason = "no readable frame"
        if mp3:
            reason = "starts like an MP3, but no frame is readable"
        raise AudioError(
            f"{where}: {size} bytes are not readable as audio ({reason}). Give a {FORMATS} file."
        ) from None


def _decode(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """Return all samples (samples, channels) in float32, at least one, and their rate."""
    header = _open(BytesIO(data), where)
    if header.format == "MP3" and not _announces_length(data):
        # libsndfile computes the length from the first frame's bit rate and stops there. That can lose half a song.
        frames, rate = _whole_by_av(BytesIO(data), where), header.samplerate
    else:
        with _decoding(header, where):
            try:
                frames, rate = header.read(dtype="float32", always_2d=True), header.samplerate
            except (MemoryError, ValueError):  # numpy cannot allocate the frames that the header announces
                raise AudioError(
                    f"{where}: the header announces {header.frames} frames in {len(data)} bytes (damaged, or streamed "
                    "without a length). Save the audio again as a file."
                ) from None
        if 0 < len(frames) < header.frames:
            _report_missing(header, len(frames), where)
    if not len(frames):
        raise AudioError(f"{where}: {len(data)} bytes with no complete frame. Fetch it again or leave it out.")
    return frames, rate


def _frames_from(file: BinaryIO, header: soundfile.SoundFile, begin: int, count: int, where: str) -> np.ndarray:
    """Return up to `count` samples (samples, channels) from `begin` on. The handle must not have been read before."""
    # A handle that seeks a second time gives wrong samples in vorbis and mp3. Even the first seek is inexact: in the
    # last page of a vorbis file, libsndfile misses the position by some samples. In an mp3, the first frames lack data
    # from frames before them (samples were wrong by up to 1.1). Both are therefore read from an earlier position.
    if begin >= header.frames:
        return np.empty((0, header.channels), np.float32)
    first = begin  # first decoded sample; those before `begin` are dropped
    if header.format == "MP3":
        first = max(begin - MP3_LEAD, 0)
    elif header.format == "OGG":
        page = _with_content(file, _last_page) * header.samplerate
        page //= OPUS_CLOCK if header.subtype == "OPUS" else header.samplerate
        safe = header.frames - page - int(BEFORE_LAST_PAGE * header.samplerate)
        first = max(min(begin, safe), 0)
    with _decoding(header, where):
        header.seek(first)
        frames = min(count, header.frames - begin) + begin - first
        if header.format == "WAV" and header.subtype == "PCM_16":  # numpy scales int16 five times as fast
            return header.read(frames, dtype="int16", always_2d=True) * np.float32(1 / 2**15)
        return header.read(frames, dtype="float32", always_2d=True)[begin - first :]


def _frame_count(header: soundfile.SoundFile, where: str) -> int:
    if header.frames >= UNKNOWN_LENGTH:
        raise AudioError(f"{where}: streamed without a length. Save the audio again as a file.")
    return header.frames


def _decoded_blocks(file: BinaryIO, header: soundfile.SoundFile, where: str) -> Iterator[np.ndarray]:
    """Yield the samples of an open file in blocks (samples, channels), with the same decoder as `_decode`."""
    count, decoded = min(BLOCK_SECONDS * header.samplerate, MAX_BLOCK_FRAMES), 0
    if header.format == "MP3" and not _with_content(file, _announces_length):
        file.seek(0)
        yield from _in_blocks(_frames_by_av(file, where), count)
        return
    while True:
        with _decoding(header, where):
            frames = header.read(count, dtype="float32", always_2d=True)
        if not len(frames):
            break
        decoded += len(frames)
        yield frames
    if 0 < decoded < header.frames < UNKNOWN_LENGTH:
        _report_missing(header, decoded, where)


def _in_blocks(parts: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Join small parts (samples, channels) to blocks of at least `count` samples."""
    block: list[np.ndarray] = []
    size = 0
    for part in parts:
        block.append(part)
        size += len(part)
        if size >= count:
            yield np.concatenate(block)
            block, size = [], 0
    if block:
        yield np.concatenate(block)


@contextlib.contextmanager
def _decoding(header: soundfile.SoundFile, where: str) -> Iterator[None]:
    try:
        with without_decoder_messages() if header.format == "MP3" else contextlib.nullcontext():
            yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".") or f"libsndfile error {error.code}"
        raise AudioError(
            f"{where}: {header.format} data are damaged or truncated ({reason}). Fetch it again or leave it out."
        ) from None


def _report_missing(header: soundfile.SoundFile, decoded: int, where: str) -> None:
    seconds, announced = decoded / header.samplerate, header.frames / header.samplerate
    if header.format != "MP3":
        raise AudioError(
            f"{where}: only {seconds:.3f} of {announced:.3f} s decode, with a gap inside. Fetch it again."
        )
    logger.warning("%s: only %.3f of %.3f s decode. The file is truncated or damaged.", where, seconds, announced)


def _announces_length(mp3: bytes | mmap.mmap) -> bool:
    start = 0
    while mp3[start : start + 3] == b"ID3":
        sizes = mp3[start + 6 : start + ID3_HEADER]  # 4 bytes with 7 bits each
        start += ID3_HEADER + sum((byte & 127) << 7 * index for index, byte in enumerate(reversed(sizes)))
    first_frame = mp3[start : start + LENGTH_TAG_REACH]
    return any(tag in first_frame for tag in LENGTH_TAGS)


def _last_page(ogg: bytes | mmap.mmap) -> int:
    """Return the length of an ogg's last page in ticks of its clock, from the positions of the last two pages."""
    offset, last = len(ogg), -1
    while (offset := ogg.rfind(b"OggS", 0, offset)) >= 0:
        end = int.from_bytes(ogg[offset + 6 : offset + 14], "little", signed=True)  # -1: no packet ends in this page
        if last < 0:
            last = end
        elif 0 <= end < last:
            return last - end
    return max(last, 0)


def _with_content(file: BinaryIO, look: Callable[[bytes | mmap.mmap], int]) -> int:
    """Call a function with an open file's bytes, without moving the file's position."""
    if isinstance(file, BytesIO):
        return look(file.getvalue())
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return look(data)


def _whole_by_av(file: BinaryIO, where: str) -> np.ndarray:
    file.seek(0)
    parts = list(_frames_by_av(file, where))
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def _frames_by_av(file: BinaryIO, where: str) -> Iterator[np.ndarray]:
    """Yield samples (samples, 1). Channels are averaged per frame, because joined mp3s may mix mono and stereo."""
    rates: set[int] = set()
    try:
        with av.open(file, format="mp3") as container:
            for frame in container.decode(audio=0):
                rates.add(frame.sample_rate)
                if len(rates) > 1:
                    raise AudioError(
                        f"{where}: the sampling rate changes in the MP3 ({sorted(rates)} Hz). Export it again."
                    )
                yield _mono(frame.to_ndarray())[:, None]
    except av.error.FFmpegError as error:
        raise AudioError(
            f"{where}: MP3 data are damaged or truncated ({error.strerror}). Fetch it again or leave it out."
        ) from None


def _mono(channels: np.ndarray) -> np.ndarray:
    """Average (channels, samples) to (samples,)."""
    # Files have thousands of frames, so the common case of one channel skips the mean.
    return channels[0] if len(channels) == 1 else channels.mean(axis=0)

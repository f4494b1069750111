"""Sound files to arrays: soundfile decodes wav, flac, ogg, opus and mp3, soxr resamples, nothing else is needed.

The rule of this file is that a sound is read right or not at all. What cannot be decoded raises `AudioError`, which
names the source; it never becomes silence. How each format behaves when the file is cut off or damaged:

- wav: a file cut off at the end gives the samples that are there.
- flac: a damaged or cut off file does not decode (checksums), so it raises.
- ogg (vorbis, opus): a file cut off at the end gives the whole pages that are there. One that lost a page in the
  middle raises, because libsndfile would close the gap and move all that follows to an earlier time.
- mp3: a file cut off at the end gives the frames that are there, with a logged warning when the file announces more.
  A damaged stretch is skipped by the decoder (warned about in the same way) or, beyond 1024 bytes, raises.
  The decoder's own messages are dropped: see `media.quiet_decoder`.
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
EXACT_HEADERS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC")  # a header's frame count is what decodes, or nothing decodes
ID3_HEADER = 10  # bytes
LENGTH_TAGS = (b"Xing", b"Info", b"VBRI")  # in an mp3's first frame: the number of frames that follow
UNKNOWN_LENGTH = 2**63 - 1  # frames by libsndfile when the header does not tell, as in a flac that was streamed
BEFORE_LAST_PAGE = 0.1  # s before an ogg's last page to which it is safe to seek
OPUS_CLOCK = 48000  # Hz, in which opus pages tell their end; vorbis pages do in samples
MP3_LEAD = 11 * 1152  # samples; a frame's data may begin 511 bytes before it, which is 9 of the smallest frames
MARGIN = 0.05  # s around a window that its resampling looks at
BLOCK_SECONDS = 20  # of sound that `read_audio_blocks` decodes at once
MOST_FRAMES = 2**23  # of a block, at any rate that a damaged header says
LENGTH_TAG_REACH = 64  # bytes of the first frame that hold a length tag if there is one (it starts at 36 or before)


class AudioError(ValueError):
    """A sound that cannot be read: the message is one line that names the source, what came, and what to do."""


def read_audio(source: str | Path | bytes, sampling_rate: int | None = None, name: str = "") -> tuple[np.ndarray, int]:
    """Decode a whole sound to mono; returns float32 samples (samples,) and their rate in Hz.

    Integer formats are scaled so that full scale is 1.0 (int16 -32768 is -1.0); float formats are returned as stored,
    also beyond 1.0. Channels are averaged. With `sampling_rate` (Hz) the mono sound is resampled by soxr at its HQ
    setting, to round(samples * new / old) samples; without it the file's own rate is kept.
    `name` is what an error calls the sound: bytes have no other, and a path may be that of a local copy.

    >>> audio, rate = read_audio("song.mp3", sampling_rate=22050)
    >>> audio.shape, audio.dtype, rate
    ((661500,), dtype('float32'), 22050)
    """
    where = _describe(source, name)
    if sampling_rate is not None and not (isinstance(sampling_rate, int | np.integer) and sampling_rate > 0):
        raise ValueError(f"sampling_rate = {sampling_rate!r}: give a whole number of Hz above 0, or None to keep it")
    frames, rate = _decode(_read_bytes(source, where), where)
    audio = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
    bad = np.count_nonzero(~np.isfinite(audio))
    if bad:
        raise AudioError(f"{where}: {bad} of {len(audio)} samples are NaN or infinite; export the sound again")
    if sampling_rate is not None:
        audio, rate = resample(audio, rate, int(sampling_rate), where), int(sampling_rate)
    return np.ascontiguousarray(audio), rate


def resample(audio: np.ndarray, rate: int, new_rate: int, name: str = "sound") -> np.ndarray:
    """Resample mono sound (samples,) as `read_audio` does; `name` is what an error calls it."""
    if new_rate == rate:
        return audio
    resampled = soxr.resample(audio, rate, new_rate, quality="HQ")
    if not len(resampled):
        raise AudioError(f"{name}: {len(audio)} samples are less than one at {new_rate} Hz; leave the file out")
    return resampled


def read_audio_blocks(
    source: str | Path | bytes, sampling_rate: int | None = None, name: str = ""
) -> Iterator[np.ndarray]:
    """What `read_audio` returns, in blocks (samples,) of some seconds: memory does not grow with the file.

    A fault that only shows at a file's end (a gap inside an ogg) raises when its blocks have been given out.
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
                raise AudioError(f"{where}: {bad} samples from {first:.0f} to {last:.0f} s are NaN; export it again")
            count += len(audio)
            yield np.ascontiguousarray(audio) if resampler is None else resampler.resample_chunk(audio)
        if not count:
            raise AudioError(f"{where}: holds no whole frame of sound; fetch it again or leave it out")
        if resampler is not None:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)


def read_window(
    source: str | Path | bytes,
    start: float | Callable[[float], float],
    seconds: float,
    sampling_rate: int | None = None,
    name: str = "",
) -> np.ndarray:
    """The part of a sound from `start` on, `seconds` long, as float32 (samples,): what `read_audio` gives there.

    Seeks to it, so that a second of a long file costs little, and resamples no more than it needs. It starts at the
    sample of the new rate nearest to `start`. Where the sound ends earlier the window is shorter, as nothing is padded
    here; a window that begins after the end is an AudioError.

    `start` may be a function of the sound's length in seconds, so that placing a window takes no second opening. (What
    it is told is what the header says; a cut off mp3 holds less.)

    >>> middle = read_window("song.flac", lambda length: (length - 1) / 2, 1.0, 16000)
    >>> middle.shape
    (16000,)
    """
    where = _describe(source, name)
    with _opened(source, where) as file:
        header = _open(file, where, _StraightSoundFile)
        rate, frames = header.samplerate, None
        if header.format == "MP3" and not _with_content(file, _announces_length):
            frames = _whole_by_av(file, where)  # libsndfile guesses where things are, so all of it is decoded
        if callable(start):
            start = start(_frame_count(header, where) / rate if frames is None else len(frames) / rate)
        if not (0 <= start < float("inf") and 0 < seconds < float("inf")):
            raise ValueError(f"a window of {seconds} s at {start} s: give a start of 0 or more and a length above 0")
        new_rate = sampling_rate or rate
        first, count = round(start * new_rate), max(round(seconds * new_rate), 1)  # samples of the new rate
        grid = rate // math.gcd(rate, new_rate)  # native samples after which both rates meet again
        margin = 0 if new_rate == rate else math.ceil(MARGIN * rate)
        begin = max(int(first / new_rate * rate) - margin, 0) // grid * grid
        end = math.ceil((first + count) / new_rate * rate) + margin
        frames = _frames_from(file, header, begin, end - begin, where) if frames is None else frames[begin:end]
    audio = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
    bad = np.count_nonzero(~np.isfinite(audio))
    if bad:
        raise AudioError(f"{where}: {bad} samples from {start:g} s on are NaN or infinite; export the sound again")
    if new_rate != rate and len(audio):
        audio = soxr.resample(audio, rate, new_rate, quality="HQ")
    skipped = first - begin * new_rate // rate
    window = np.ascontiguousarray(audio[skipped : skipped + count])
    if not len(window):
        raise AudioError(f"{where}: has no sound at {start:g} s; it ends before")
    return window


def audio_seconds(source: str | Path | bytes, name: str = "") -> float:
    """Length in seconds at the file's own rate, exactly as long as what `read_audio` returns for the same source.

    For wav and flac the header says it (for a damaged flac, which `read_audio` refuses, it is the announced length).
    An mp3's or ogg's header may be an estimate or announce what is no longer there, so those are decoded and counted.
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
        return name or f"sound of {len(source)} bytes"
    if not isinstance(source, str | Path):
        raise AudioError(f"{name or 'sound'}: came as {type(source).__name__}; give a path or the file's bytes")
    return name or str(source)


@contextlib.contextmanager
def _opened(source: str | Path | bytes, where: str) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield BytesIO(_read_bytes(source, where))
        return
    try:
        file = open(source, "rb", buffering=0)
    except OSError as error:
        raise _unopened(where, error) from None
    with file:
        yield file


def _unopened(where: str, error: OSError) -> AudioError:
    if isinstance(error, FileNotFoundError):
        return AudioError(f"{where}: no such file; check the path")
    if isinstance(error, IsADirectoryError):
        return AudioError(f"{where}: is a folder; give one {FORMATS} file")
    return AudioError(f"{where}: cannot be opened ({error.strerror}); check its permissions")


def _read_bytes(source: str | Path | bytes, where: str) -> bytes:
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise _unopened(where, error) from None
    if not data:
        raise AudioError(f"{where}: is empty (0 bytes); fetch it again or leave it out")
    return data


class _StraightSoundFile(soundfile.SoundFile):
    """A sound file that is read straight on, in as many reads as one likes.

    soundfile seeks to where it is after each read, and an mp3 decoder that seeks loses what its next frame builds on:
    1,286 samples after each block were wrong, by up to 0.36. It also takes a tenth of the time of reading a window.
    """

    def seekable(self) -> bool:
        return False


def _open(file: BinaryIO, where: str, kind: type[soundfile.SoundFile] = soundfile.SoundFile) -> soundfile.SoundFile:
    beginning = file.read(3)
    file.seek(0)
    mp3 = MP3_BEGINNING.match(beginning)
    try:
        with without_decoder_messages() if mp3 else contextlib.nullcontext():
            # libsndfile reads a file itself, by its descriptor, faster than through Python
            return kind(file.fileno(), closefd=False) if isinstance(file, FileIO) else kind(file)
    except soundfile.LibsndfileError as error:
        size = file.seek(0, 2)
        if not size:
            raise AudioError(f"{where}: is empty (0 bytes); fetch it again or leave it out") from None
        reason = error.error_string.rstrip(".")
        if "does not exist" in reason:  # libsndfile says so of bytes that look like a damaged MP3
            reason = "no frame of them can be read"
        if mp3:
            reason = "its first bytes are those of an MP3, but no frame can be read"
        raise AudioError(f"{where}: {size} bytes are not a readable sound ({reason}); give a {FORMATS} file") from None


def _decode(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """All samples (samples, channels) in float32 with their rate; at least one sample."""
    header = _open(BytesIO(data), where)
    if header.format == "MP3" and not _announces_length(data):
        # libsndfile takes the first frame's bit rate for the whole and stops at that length: it can lose half a song
        frames, rate = _whole_by_av(BytesIO(data), where), header.samplerate
    else:
        with _decoding(header, where):
            try:
                frames, rate = header.read(dtype="float32", always_2d=True), header.samplerate
            except (MemoryError, ValueError):  # numpy's, for an array of as many frames as the header says
                raise AudioError(
                    f"{where}: the header announces {header.frames} frames in {len(data)} bytes (damaged, or streamed "
                    "without a length); save the sound again as a file"
                ) from None
        if 0 < len(frames) < header.frames:
            _report_missing(header, len(frames), where)
    if not len(frames):
        raise AudioError(f"{where}: {len(data)} bytes hold no whole frame of sound; fetch it again or leave it out")
    return frames, rate


def _frames_from(file: BinaryIO, header: soundfile.SoundFile, begin: int, count: int, where: str) -> np.ndarray:
    """At most `count` samples (samples, channels) from `begin` on, by a handle that has read nothing yet.

    A handle that seeks a second time gives wrong samples in vorbis and mp3. And the first time libsndfile, seeking
    into the last page of a vorbis file, lands some samples beside the place, and an mp3's first frames lack the data
    that stand in frames before them (samples were wrong by up to 1.1): both are read from an earlier place on.
    """
    if begin >= header.frames:
        return np.empty((0, header.channels), np.float32)
    first = begin  # sample that is decoded; those before `begin` are dropped
    if header.format == "MP3":
        first = max(begin - MP3_LEAD, 0)
    elif header.format == "OGG":
        page = _with_content(file, _last_page) * header.samplerate
        page //= OPUS_CLOCK if header.subtype == "OPUS" else header.samplerate
        safe = header.frames - page - int(BEFORE_LAST_PAGE * header.samplerate)
        first = max(min(begin, safe), 0)
    with _decoding(header, where):
        header.seek(first)
        wanted = min(count, header.frames - begin) + begin - first
        if header.format == "WAV" and header.subtype == "PCM_16":  # numpy scales them five times as fast
            return header.read(wanted, dtype="int16", always_2d=True) * np.float32(1 / 2**15)
        return header.read(wanted, dtype="float32", always_2d=True)[begin - first :]


def _frame_count(header: soundfile.SoundFile, where: str) -> int:
    if header.frames >= UNKNOWN_LENGTH:
        raise AudioError(f"{where}: was streamed without a length; save the sound again as a file")
    return header.frames


def _decoded_blocks(file: BinaryIO, header: soundfile.SoundFile, where: str) -> Iterator[np.ndarray]:
    """The samples of an open file, (samples, channels) a block, by the decoder that `_decode` takes."""
    count, decoded = min(BLOCK_SECONDS * header.samplerate, MOST_FRAMES), 0
    if header.format == "MP3" and not _with_content(file, _announces_length):
        file.seek(0)
        yield from _gathered(_frames_by_av(file, where), count)
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


def _gathered(parts: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Samples that come in small parts (samples, channels), `count` at a time or a part more."""
    held: list[np.ndarray] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= count:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


@contextlib.contextmanager
def _decoding(header: soundfile.SoundFile, where: str) -> Iterator[None]:
    try:
        with without_decoder_messages() if header.format == "MP3" else contextlib.nullcontext():
            yield
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".") or f"libsndfile error {error.code}"
        raise AudioError(
            f"{where}: {header.format} data are damaged or cut off ({reason}); fetch it again or leave it out"
        ) from None


def _report_missing(header: soundfile.SoundFile, decoded: int, where: str) -> None:
    came, announced = decoded / header.samplerate, header.frames / header.samplerate
    if header.format != "MP3":
        raise AudioError(f"{where}: only {came:.3f} of {announced:.3f} s decode, with a gap inside; fetch it again")
    logger.warning("%s: only %.3f of %.3f announced s decode; the file is cut off or damaged", where, came, announced)


def _announces_length(mp3: bytes | mmap.mmap) -> bool:
    start = 0
    while mp3[start : start + 3] == b"ID3":
        sizes = mp3[start + 6 : start + ID3_HEADER]  # 7 bits each
        start += ID3_HEADER + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(sizes)))
    first_frame = mp3[start : start + LENGTH_TAG_REACH]
    return any(tag in first_frame for tag in LENGTH_TAGS)


def _last_page(ogg: bytes | mmap.mmap) -> int:
    """Ticks of the clock of an ogg that its last page takes, by where that one and the one before it end."""
    place, last = len(ogg), -1
    while (place := ogg.rfind(b"OggS", 0, place)) >= 0:
        end = int.from_bytes(ogg[place + 6 : place + 14], "little", signed=True)  # -1: nothing ends in this page
        if last < 0:
            last = end
        elif 0 <= end < last:
            return last - end
    return max(last, 0)


def _with_content(file: BinaryIO, look: Callable[[bytes | mmap.mmap], int]) -> int:
    """What a function finds in an open file's bytes; the file stays where it is."""
    if isinstance(file, BytesIO):
        return look(file.getvalue())
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return look(data)


def _whole_by_av(file: BinaryIO, where: str) -> np.ndarray:
    file.seek(0)
    parts = list(_frames_by_av(file, where))
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def _frames_by_av(file: BinaryIO, where: str) -> Iterator[np.ndarray]:
    """Samples (samples, 1), averaged a frame at a time: joined mp3s may change between mono and stereo."""
    rates: set[int] = set()
    try:
        with av.open(file, format="mp3") as container:
            for frame in container.decode(audio=0):
                rates.add(frame.sample_rate)
                if len(rates) > 1:
                    said = f"the sampling rate changes within the MP3 data, {sorted(rates)} Hz"
                    raise AudioError(f"{where}: {said}; export the sound again")
                yield _mono(frame.to_ndarray())[:, None]
    except av.error.FFmpegError as error:
        raise AudioError(
            f"{where}: MP3 data are damaged or cut off ({error.strerror}); fetch it again or leave it out"
        ) from None


def _mono(channels: np.ndarray) -> np.ndarray:
    """(channels, samples) to (samples,); a file has thousands of frames, so a single channel is not averaged."""
    return channels[0] if len(channels) == 1 else channels.mean(axis=0)

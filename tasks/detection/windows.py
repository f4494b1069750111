"""Windows of audio clips as training items: an item and a seed always give the same samples, in any process.

The window of an event holds the event with the audio around it. The window of a weakly labelled clip is anywhere in
its *file* (times in AudioSet's tables refer to the original video, which is not available). An unreadable file is
replaced by another one of its kind and label, never by silence, and the window names the item that was served.
"""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from media.audio import AudioError, read_window
from system.storage import S3FileManager, S3Object, is_remote
from system.text import plural
from tasks.detection.augmentation import PLACE, SUBSTITUTE, Augmentation, add_background, random_stream
from tasks.detection.items import KIND_NAMES, Items, Kind
from tasks.detection.settings import LONGEST_KEPT, WindowSettings
from training.embeddings import WindowEmbeddings

logger = logging.getLogger(__name__)

# N items, S samples per window


COLUMNS = ("clip_id", "audio")
FAILURES = 20  # unreadable files for one item before an error is raised
MIN_EVENT_SHARE = 0.5  # of an event that a file must contain if it ends within the event
ROUNDING = 0.05  # samples, about the precision of float32 seconds


class ClipSounds:
    """The audio of a data set's rows, which stays on disk: reading a row takes 25 us, and reads no other column.

    Audio is in the row itself, or at a path or URL in the row. Unreadable audio raises AudioError.

    Args:
        keep: decode each file once and keep it in memory. Otherwise each window is decoded separately.
    """

    def __init__(self, rows: datasets.Dataset, keep: bool = False) -> None:
        missing = [name for name in COLUMNS if name not in rows.column_names]
        if missing:
            raise ValueError(
                f"column={missing[0]!r}: not in the data set, which has {', '.join(rows.column_names)}. Prepare the "
                "data set for this task."
            )
        self.rows = rows.select_columns(list(COLUMNS)).with_format("arrow")
        self.keep = keep
        self._decoded_audio: dict[tuple[int, int], DecodedAudio | None] = {}  # None: cannot be decoded as a whole
        self._pinned: dict[str, S3Object] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Exclude decoded audio: workers that get a pickled copy decode for themselves."""
        return self.__dict__ | {"_decoded_audio": {}}

    def pinned(self, objects: dict[str, S3Object]) -> "ClipSounds":
        """Return a copy that reads remote files at the given object versions, for results that are cached.

        Temporary failures raise OSError instead of AudioError, so that no other item is served and cached.
        """
        copied = ClipSounds.__new__(ClipSounds)
        copied.__dict__ |= self.__getstate__() | {"_pinned": objects}
        return copied

    def clip_id(self, row: int) -> str:
        return self.rows[row]["clip_id"][0].as_py()

    def name(self, row: int) -> str:
        """Return the name of a row's audio in error messages."""
        return self._locate(row)[2]

    def file(self, row: int) -> str | None:
        """Return the path or URL of a row's audio; None if it is in the row itself or missing."""
        return self._locate(row)[1]

    def source(self, row: int) -> str | bytes:
        """Return a row's audio for `media.audio`: its bytes or a local path."""
        with self._local(*self._locate(row)) as source:
            return source

    def read(self, row: int, place: Callable[[float], float], seconds: float, sampling_rate: int) -> np.ndarray:
        """Read a window like `read_window`; fewer samples than requested are returned only at the announced end.

        `place` maps the length of the file to the start of the window, both in seconds.
        """
        decoded = self._decode_whole(row, sampling_rate) if self.keep else None
        if decoded is None:
            audio, announced, begin = self._read(row, place, seconds, sampling_rate)
        else:
            announced, begin = decoded.announced, place(decoded.announced)
            first = round(begin * sampling_rate)
            audio = decoded.audio[first : first + max(round(seconds * sampling_rate), 1)].copy()
            if not len(audio):
                raise AudioError(f"{self.name(row)}: no audio at {begin:g} s, it ends before. Leave the clip out.")
        # A decoder that stops early at damaged data returns fewer samples than the header announces.
        available = whole_samples(announced, sampling_rate) - round(begin * sampling_rate)
        if len(audio) < min(round(seconds * sampling_rate), available):
            raise AudioError(
                f"{self.name(row)}: ends before the {announced:.3f} s of its header. Download it again or remove it."
            )
        return audio

    def _read(
        self, row: int, place: Callable[[float], float], seconds: float, sampling_rate: int
    ) -> tuple[np.ndarray, float, float]:
        """Return a window, the length of the file by its header in s, and the start of the window in s."""
        announced = begin = 0.0

        def note(file_seconds: float) -> float:
            nonlocal announced, begin
            announced, begin = file_seconds, place(file_seconds)
            return begin

        data, file, name = self._locate(row)
        with self._local(data, file, name) as source:
            audio = read_window(source, note, seconds, sampling_rate, name)
        return audio, announced, begin

    def _decode_whole(self, row: int, sampling_rate: int) -> "DecodedAudio | None":
        """Decode a whole file once; None if it cannot be decoded to its end or is too long to keep."""
        if (row, sampling_rate) not in self._decoded_audio:
            try:
                audio, announced, _ = self._read(row, lambda file_seconds: 0.0, LONGEST_KEPT, sampling_rate)
                decoded = DecodedAudio(audio, announced) if announced <= LONGEST_KEPT else None
            except AudioError:
                decoded = None  # its readable windows are still decoded one by one
            self._decoded_audio[row, sampling_rate] = decoded
        return self._decoded_audio[row, sampling_rate]

    def _locate(self, row: int) -> tuple[pa.Scalar | None, str | None, str]:
        """Return a row's audio as bytes (not yet copied), its path or URL, and its name in error messages."""
        values = self.rows[row]
        audio, name = values["audio"][0], f"clip {values['clip_id'][0].as_py()}"
        if audio["bytes"].is_valid:
            return audio["bytes"], None, name
        path = audio["path"].as_py()
        return None, path, name if path is None else f"{name} ({path})"

    @contextlib.contextmanager
    def _local(self, data: pa.Scalar | None, file: str | None, name: str) -> Iterator[str | bytes]:
        """Provide audio for `media.audio`; the local copy of a remote file is kept while the block lasts."""
        if data is not None:
            yield data.as_py()
        elif file is None:
            raise AudioError(f"{name}: no audio. Draw from the pools, which exclude clips without audio.")
        elif is_remote(file):
            with contextlib.ExitStack() as stack:
                try:
                    local = stack.enter_context(S3FileManager.shared().lease((self._pinned or {}).get(file, file)))
                except OSError as error:
                    # Results are cached here: a network failure must not let another item take this one's place.
                    if self._pinned and file in self._pinned:
                        raise
                    raise AudioError(f"{name}: cannot be downloaded ({error})") from error
                yield str(local)
        else:
            # The same for a local file that exists but cannot be opened.
            if self._pinned is not None and os.path.isfile(file):
                check_readable(file)
            yield file


def check_readable(file: str) -> None:
    """Raise OSError with a remedy if a local file cannot be opened."""
    try:
        open(file, "rb").close()
    except OSError as error:
        raise OSError(
            f"{file}: cannot be opened ({error.strerror}). Make it readable, or leave the clip out."
        ) from None


@dataclass(frozen=True)
class DecodedAudio:
    """Decoded audio in memory."""

    audio: np.ndarray  # (samples,) float32
    announced: float  # length by its header, s


@dataclass
class WindowPlacement:
    """Callable that chooses where an item's window starts, once the length of its file is known."""

    sounds: ClipSounds
    row: int
    event: tuple[float, float] | None  # start and end, s in the file; None: the window may be anywhere
    min_event_seconds: float  # part of the event that the file must contain
    place: float  # 0 to 1, position among the possible starts
    samples: int  # of the window
    sampling_rate: int  # Hz
    start: float = 0.0  # s, set by the call

    def __call__(self, file_seconds: float) -> float:
        """Return the window's start in s, a whole sample; raises AudioError if the file lacks part of the event."""
        latest = max(whole_samples(file_seconds, self.sampling_rate) - self.samples, 0)
        low, high = 0, latest
        if self.event is not None:
            start, end = self.event[0], min(self.event[1], file_seconds)
            if end - start < self.min_event_seconds - ROUNDING / self.sampling_rate:
                raise AudioError(
                    f"{self.sounds.name(self.row)}: ends at {file_seconds:.3f} s, but its event is at "
                    f"{self.event[0]:g} to {self.event[1]:g} s. Correct the event, or leave the clip out."
                )
            low, high = self._around(start * self.sampling_rate, end * self.sampling_rate)
            low = min(max(low, 0), latest)
            high = min(max(high, low), latest)
        self.start = (low + int(self.place * (high - low + 1))) / self.sampling_rate
        return self.start

    def _around(self, start: float, end: float) -> tuple[int, int]:
        """Return the lowest and highest first sample of windows that contain an event or are inside it."""
        # Without the tolerance, rounding of float32 seconds could exclude the only possible start.
        if end - start <= self.samples + ROUNDING:
            return math.ceil(end - ROUNDING) - self.samples, math.floor(start + ROUNDING)
        return math.ceil(start - ROUNDING), math.floor(end + ROUNDING) - self.samples


class AudioSetWindows(Dataset):
    """Windows by item number, or by (number, seed) as the samplers request them.

    >>> windows = AudioSetWindows(rows, build_pools(...).items)
    >>> window = windows[17, 4711]
    >>> window["audio"].shape, window["label"], window["clip_id"], window["start_seconds"]
    ((16000,), 1.0, '--EnKcYsPas', 1.2213125)

    Keys of a window: `audio` (S,) float32 within -1 to 1, `sampling_rate` (Hz), `label` (1.0 with the target), the
    served `item` and the `requested` one (different if a file failed), `clip_id`, `start_seconds` in the file,
    `kind` and `label_code` as in `Items`, `seed`, and `padded_seconds`: zeros at the end, only if the file is
    shorter than the window.

    With stored `embeddings`, windows have these as float16 (1 + K, D) instead of `audio` and its times.
    """

    embeddings: WindowEmbeddings | None = None

    def __init__(
        self,
        rows: datasets.Dataset,
        items: Items,
        clip_seconds: float = 1.0,
        sampling_rate: int = 16000,
        augmentation: Augmentation | None = None,
        keep: bool = False,
    ) -> None:
        """Without a seed, an item uses its own number as the seed.

        Applies the parts of `augmentation` that need one window; mixtures and masks are up to the collator. With
        `keep`, decoded audio stays in memory.
        """
        self.sounds = ClipSounds(rows, keep)
        if len(items) and not 0 <= items.clip.min() <= items.clip.max() < len(rows):
            raise ValueError(
                f"rows={len(rows)}: items refer to rows {items.clip.min()} to {items.clip.max()}. Give the rows that "
                "the pools were built from."
            )
        settings = WindowSettings(clip_seconds, sampling_rate)
        self.samples, self.sampling_rate = round(settings.clip_seconds * sampling_rate), sampling_rate
        explicit = items.kind == Kind.EXPLICIT
        lengths = items.end[explicit] - items.start[explicit]
        # Only the item itself was checked; a longer window could contain the target next to it.
        if len(lengths) and lengths.min() < clip_seconds - 1e-3:
            raise ValueError(
                f"clip_seconds={clip_seconds}: longer than an explicit negative, {lengths.min():g} s. Build the "
                "pools with this length."
            )
        self.items, self.augmentation = items, augmentation
        self.backgrounds = np.zeros(0, np.int64)  # items
        if augmentation is not None and augmentation.background_probability:
            self.backgrounds = np.flatnonzero(items.kind == Kind.WEAK)
            if not len(self.backgrounds):
                raise ValueError(
                    f"background_probability={augmentation.background_probability}: there are no weak negatives. Set "
                    "it to 0."
                )
        self._warned: set[int] = set()  # rows with a logged failure

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        requested, seed = self._item_and_seed(item)
        if self.embeddings is not None:
            embeddings, served = self.embeddings.of(requested, seed)
            return {"embeddings": embeddings, "requested": requested, "seed": seed} | self._served(served)
        served, audio, start = self._read(requested, seed)
        return self._served(served) | {
            "audio": limit_peak(self._augment(pad_with_zeros(audio, self.samples), seed)),
            "sampling_rate": self.sampling_rate,
            "requested": requested,
            "clip_id": self.sounds.clip_id(int(self.items.clip[served])),
            "start_seconds": start,
            "seed": seed,
            "padded_seconds": (self.samples - len(audio)) / self.sampling_rate,
        }

    def _served(self, item: int) -> dict[str, Any]:
        """Return the kind and label of the served item."""
        kind, code = self.items.kind[item], self.items.label[item]
        return {"item": item, "label": float(kind == Kind.POSITIVE), "kind": int(kind), "label_code": int(code)}

    def files_of(self, item: int | tuple[int, int]) -> list[str]:
        """Return the files that an item needs, unless one fails; none for audio inside the data set."""
        requested, seed = self._item_and_seed(item)
        if self.embeddings is not None:
            return []
        background = self._background(seed)
        wanted = [requested] if background is None else [requested, background[0]]
        files = [self.sounds.file(int(self.items.clip[number])) for number in wanted]
        return [file for file in files if file is not None]

    def failure_of(self, item: int | tuple[int, int]) -> str | None:
        """Return why another item is served instead; None if its own file can be read."""
        try:
            self._window(*self._item_and_seed(item))
        except AudioError as error:
            return str(error)
        return None

    def _item_and_seed(self, item: int | tuple[int, int]) -> tuple[int, int]:
        number, seed = map(int, item) if isinstance(item, tuple) else (int(item), int(item))
        if not 0 <= number < len(self):
            raise IndexError(f"item {number} of {len(self)}")
        return number, seed

    def _window(self, item: int, seed: int) -> tuple[np.ndarray, float]:
        """Return an item's own samples, fewer than a window's if the file is shorter, and their start in s."""
        row, kind = int(self.items.clip[item]), self.items.kind[item]
        start, end = float(self.items.start[item]), float(self.items.end[item])
        event, min_seconds = (None, 0.0) if math.isnan(start) else ((start, end), MIN_EVENT_SHARE * (end - start))
        seconds = self.samples / self.sampling_rate
        if kind == Kind.EXPLICIT:
            min_seconds = seconds  # the window must not reach beyond the checked part
        place = random_stream(seed, PLACE).random()
        placement = WindowPlacement(self.sounds, row, event, min_seconds, place, self.samples, self.sampling_rate)
        return self.sounds.read(row, placement, seconds, self.sampling_rate), placement.start

    def _read(self, requested: int, seed: int) -> tuple[int, np.ndarray, float]:
        """Return item number, samples and start of a window; if its file fails, of another item of its stratum."""
        item, failed_rows, first_error = requested, [], ""
        while True:
            row = int(self.items.clip[item])
            try:
                return item, *self._window(item, seed)
            except AudioError as error:
                first_error = first_error or str(error)
                if row not in self._warned:
                    logger.warning("another item of the same kind is used instead: %s", error)
                self._warned.add(row)
            failed_rows.append(row)
            candidates = self._substitutes(requested, failed_rows)
            if len(failed_rows) == FAILURES or not len(candidates):
                name = f"{KIND_NAMES[self.items.kind[requested]]} {requested}"
                tried = plural(len(failed_rows) - 1, "substitute")
                raise AudioError(f"{name}: unreadable, as are {tried}; first error: {first_error}")
            # One number per failed file, so the substitute depends only on the seed and the failures.
            number = random_stream(seed, SUBSTITUTE).integers(2**63, size=len(failed_rows))[-1]
            item = int(candidates[number % len(candidates)])

    def _substitutes(self, item: int, failed: list[int]) -> np.ndarray:
        """Return items of the same kind and label, else of the same kind, from clips other than the failed ones."""
        same_kind = (self.items.kind == self.items.kind[item]) & ~np.isin(self.items.clip, failed)
        stratum = np.flatnonzero(same_kind & (self.items.label == self.items.label[item]))
        return stratum if len(stratum) else np.flatnonzero(same_kind)

    def _background(self, seed: int) -> tuple[int, int, float] | None:
        """Return item, seed and SNR in dB of a window's background; None for no background."""
        if self.augmentation is None or not len(self.backgrounds):
            return None
        if (chosen := self.augmentation.draw_background(len(self.backgrounds), seed)) is None:
            return None
        index, background_seed, snr_db = chosen
        return int(self.backgrounds[index]), background_seed, snr_db

    def _augment(self, audio: np.ndarray, seed: int) -> np.ndarray:
        """Apply background, roll and gain to a window (S,)."""
        if self.augmentation is None:
            return audio
        if (background := self._background(seed)) is not None:
            item, background_seed, snr_db = background
            _, background_audio, _ = self._read(item, background_seed)
            audio = add_background(audio, pad_with_zeros(background_audio, self.samples), snr_db)
        return self.augmentation.change_gain(self.augmentation.roll(audio, seed), seed)


def whole_samples(seconds: float, sampling_rate: int) -> int:
    """Return the number of whole samples in `seconds`."""
    # 1e-6 undoes rounding errors: 0.29 * 100 is 28.999999999999996.
    return math.floor(seconds * sampling_rate + 1e-6)


def pad_with_zeros(audio: np.ndarray, samples: int) -> np.ndarray:
    """Append zeros to audio of at most `samples` samples, up to this length."""
    return audio if len(audio) == samples else np.pad(audio, (0, samples - len(audio)))


def limit_peak(audio: np.ndarray) -> np.ndarray:
    """Scale a window (S,) with a peak above 1 down to a peak of 1; it is not clipped."""
    # Clipping would distort the sound.
    peak = np.abs(audio).max()
    return audio / peak if peak > 1 else audio

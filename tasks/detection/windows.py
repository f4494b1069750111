"""Windows of AudioSet's clips as training items: an item and a seed give the same samples, whoever reads them.

A window of an event holds the event, amid what is heard around it; one of a weakly labelled clip lies anywhere in the
*file* (the times in AudioSet's tables are those of a video that nobody has). A file that cannot be read is replaced by
another of its kind and label, and what came in its place says so; it never becomes silence.
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
from tasks.detection.augmentation import PLACE, SUBSTITUTE, Augmentation, random_stream, with_background
from tasks.detection.items import KIND_NAMES, Items, Kind
from tasks.detection.settings import LONGEST_KEPT, WindowSettings
from training.embeddings import WindowEmbeddings

logger = logging.getLogger(__name__)

# N items, S samples of a window


COLUMNS = ("clip_id", "audio")
FAILURES = 20  # files in a row that cannot be read, for one item, before that is an error
LEAST_OF_EVENT = 0.5  # of an event that a file which ends within it must hold
ROUNDING = 0.05  # samples; float32 seconds are exact to about this


class ClipSounds:
    """The sounds of the rows of a data set, which stays on the disk: a row takes 25 us, and no other column is read.

    A sound lies in the row itself, or at a path or URL that the row names. What cannot be read is an AudioError.

    Args:
        keep: decode each sound once and keep it in memory. Otherwise each window is decoded by itself.
    """

    def __init__(self, rows: datasets.Dataset, keep: bool = False) -> None:
        missing = [name for name in COLUMNS if name not in rows.column_names]
        if missing:
            raise ValueError(f"the data set has no column {missing[0]!r}; it has {', '.join(rows.column_names)}")
        self.rows = rows.select_columns(list(COLUMNS)).with_format("arrow")
        self.keep = keep
        self._kept: dict[tuple[int, int], KeptSound | None] = {}  # None: does not decode as a whole
        self._pinned: dict[str, S3Object] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Workers that get a copy by pickle decode for themselves."""
        return self.__dict__ | {"_kept": {}}

    def pinned(self, objects: dict[str, S3Object]) -> "ClipSounds":
        """The same sounds, to be stored: one that a fault of the moment keeps from us is an OSError.

        Remote files are read as described here, by URL.
        """
        other = ClipSounds.__new__(ClipSounds)
        other.__dict__ |= self.__getstate__() | {"_pinned": objects}
        return other

    def clip_id(self, row: int) -> str:
        """The id of a row's clip."""
        return self.rows[row]["clip_id"][0].as_py()

    def name(self, row: int) -> str:
        """What errors call a row's sound."""
        return self._look(row)[2]

    def file(self, row: int) -> str | None:
        """The path or URL of a row's sound; None for one that lies in the row, and where there is none."""
        return self._look(row)[1]

    def source(self, row: int) -> str | bytes:
        """A row's sound for `media.audio`, as its bytes or the path of a file on this machine."""
        with self._local(*self._look(row)) as source:
            return source

    def read(self, row: int, place: Callable[[float], float], seconds: float, sampling_rate: int) -> np.ndarray:
        """As `read_window`, fewer samples than asked for only where the sound ends by its own account."""
        kept = self._decoded(row, sampling_rate) if self.keep else None
        if kept is None:
            audio, announced, begin = self._read(row, place, seconds, sampling_rate)
        else:
            announced, begin = kept.announced, place(kept.announced)
            first = round(begin * sampling_rate)
            audio = kept.audio[first : first + max(round(seconds * sampling_rate), 1)].copy()
            if not len(audio):
                raise AudioError(f"{self.name(row)}: has no sound at {begin:g} s; it ends before")
        there = whole_samples(announced, sampling_rate) - round(begin * sampling_rate)
        if len(audio) < min(round(seconds * sampling_rate), there):
            said = f"{announced:.3f} s that its header announces"
            raise AudioError(f"{self.name(row)}: ends before the {said}; fetch it again or leave it out")
        return audio

    def _read(
        self, row: int, place: Callable[[float], float], seconds: float, sampling_rate: int
    ) -> tuple[np.ndarray, float, float]:
        """A window, how many seconds the file has by its header, and where in them the window begins."""
        announced = begin = 0.0

        def note(file_seconds: float) -> float:
            nonlocal announced, begin
            announced, begin = file_seconds, place(file_seconds)
            return begin

        data, file, name = self._look(row)
        with self._local(data, file, name) as source:
            audio = read_window(source, note, seconds, sampling_rate, name)
        return audio, announced, begin

    def _decoded(self, row: int, sampling_rate: int) -> "KeptSound | None":
        """A whole sound, decoded once; None where it does not decode to its end or is too long to keep."""
        if (row, sampling_rate) not in self._kept:
            try:
                audio, announced, _ = self._read(row, lambda file_seconds: 0.0, LONGEST_KEPT, sampling_rate)
                kept = KeptSound(audio, announced) if announced <= LONGEST_KEPT else None
            except AudioError:
                kept = None
            self._kept[row, sampling_rate] = kept
        return self._kept[row, sampling_rate]

    def _look(self, row: int) -> tuple[pa.Scalar | None, str | None, str]:
        """A row's sound as it lies there (bytes, not yet copied; or a path or URL), and what errors call it."""
        found = self.rows[row]
        sound, name = found["audio"][0], f"clip {found['clip_id'][0].as_py()}"
        if sound["bytes"].is_valid:
            return sound["bytes"], None, name
        path = sound["path"].as_py()
        return None, path, name if path is None else f"{name} ({path})"

    @contextlib.contextmanager
    def _local(self, data: pa.Scalar | None, file: str | None, name: str) -> Iterator[str | bytes]:
        """What `media.audio` takes; a remote file's copy stays for as long as the block lasts."""
        if data is not None:
            yield data.as_py()
        elif file is None:
            raise AudioError(f"{name}: has no sound; build the pools, which leave such clips out")
        elif is_remote(file):
            with contextlib.ExitStack() as stack:
                try:
                    local = stack.enter_context(S3FileManager.shared().lease((self._pinned or {}).get(file, file)))
                except OSError as error:
                    if self._pinned and file in self._pinned:
                        raise
                    raise AudioError(f"{name}: cannot be fetched ({error})") from error
                yield str(local)
        else:
            if self._pinned is not None and os.path.isfile(file):
                check_readable(file)
            yield file


def check_readable(file: str) -> None:
    """Raise an OSError with its remedy for a file of this machine that cannot be opened."""
    try:
        open(file, "rb").close()
    except OSError as error:
        raise OSError(
            f"{file}: cannot be opened ({error.strerror}). Make it readable, or leave the clip out."
        ) from None


@dataclass(frozen=True)
class KeptSound:
    """A decoded sound in memory."""

    audio: np.ndarray  # (samples,) float32
    announced: float  # s, by its header


@dataclass
class WindowPlacement:
    """Where the window of one item begins in its file: asked when it is known how long that is."""

    sounds: ClipSounds
    row: int
    event: tuple[float, float] | None  # s in the file; None: the window may be anywhere
    least: float  # s of the event that the file must hold
    place: float  # 0 to 1 within what is possible
    samples: int  # of the window
    sampling_rate: int  # Hz
    start: float = 0.0  # s, the answer

    def __call__(self, file_seconds: float) -> float:
        """The window's start in seconds, a whole number of samples."""
        latest = max(whole_samples(file_seconds, self.sampling_rate) - self.samples, 0)
        low, high = 0, latest
        if self.event is not None:
            start, end = self.event[0], min(self.event[1], file_seconds)
            if end - start < self.least - ROUNDING / self.sampling_rate:
                span = f"{self.event[0]:g} to {self.event[1]:g} s"
                name = self.sounds.name(self.row)
                raise AudioError(f"{name}: ends at {file_seconds:.3f} s, but its label stands at {span}")
            low, high = self._around(start * self.sampling_rate, end * self.sampling_rate)
            low = min(max(low, 0), latest)
            high = min(max(high, low), latest)
        self.start = (low + int(self.place * (high - low + 1))) / self.sampling_rate
        return self.start

    def _around(self, start: float, end: float) -> tuple[int, int]:
        """First samples, lowest and highest, of windows that hold an event from start to end or lie within it."""
        if end - start <= self.samples + ROUNDING:
            return math.ceil(end - ROUNDING) - self.samples, math.floor(start + ROUNDING)
        return math.ceil(start - ROUNDING), math.floor(end + ROUNDING) - self.samples


class AudioSetWindows(Dataset):
    """Windows that can be asked for by number, or by (number, seed) as the samplers do.

    >>> windows = AudioSetWindows(rows, build_pools(...).items)
    >>> window = windows[17, 4711]
    >>> window["audio"].shape, window["label"], window["clip_id"], window["start_seconds"]
    ((16000,), 1.0, '--EnKcYsPas', 1.2213125)

    Keys of a window: `audio` (S,) float32 within -1 to 1, `sampling_rate` (Hz), `label` (1.0 where the target is
    heard), `item` that was served and `requested` (another one where a file failed), `clip_id`, `start_seconds` in the
    file, `kind` and `label_code` as in `Items`, `seed`, and `padded_seconds` of zeros, which only a file that is
    shorter than the window has, at its end.

    With stored `embeddings`, windows have these as float16 (1 + K, D), and neither `audio` nor its times.
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
        """Without a seed an item takes the window of seed `item`.

        Of `augmentation`, what concerns a single window is done here; mixtures and masks are the collator's.
        With `keep`, decoded sounds stay in memory.
        """
        self.sounds = ClipSounds(rows, keep)
        if len(items) and not 0 <= items.clip.min() <= items.clip.max() < len(rows):
            raise ValueError(
                f"items are of rows {items.clip.min()} to {items.clip.max()}, but the data set has {len(rows)}; "
                "give the rows that the pools were built from"
            )
        settings = WindowSettings(clip_seconds, sampling_rate)
        self.samples, self.sampling_rate = round(settings.clip_seconds * sampling_rate), sampling_rate
        runs = items.kind == Kind.EXPLICIT
        lengths = items.end[runs] - items.start[runs]
        if len(lengths) and lengths.min() < clip_seconds - 1e-3:
            raise ValueError(
                f"an explicit negative of {lengths.min():g} s is shorter than clip_seconds = {clip_seconds}, and the "
                "target may be beside it; build the pools for this length"
            )
        self.items, self.augmentation = items, augmentation
        self.backgrounds = np.zeros(0, np.int64)  # items
        if augmentation is not None and augmentation.background_probability:
            self.backgrounds = np.flatnonzero(items.kind == Kind.WEAK)
            if not len(self.backgrounds):
                raise ValueError("there are no weak negatives for backgrounds; set background_probability 0")
        self._warned: set[int] = set()  # rows whose failure was logged

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        requested, seed = self._item_and_seed(item)
        if self.embeddings is not None:
            embeddings, served = self.embeddings.of(requested, seed)
            return {"embeddings": embeddings, "requested": requested, "seed": seed} | self._served(served)
        served, audio, start = self._read(requested, seed)
        return self._served(served) | {
            "audio": fit_to_scale(self._varied(with_zeros(audio, self.samples), seed)),
            "sampling_rate": self.sampling_rate,
            "requested": requested,
            "clip_id": self.sounds.clip_id(int(self.items.clip[served])),
            "start_seconds": start,
            "seed": seed,
            "padded_seconds": (self.samples - len(audio)) / self.sampling_rate,
        }

    def _served(self, item: int) -> dict[str, Any]:
        """The kind and label of the item whose sound is served."""
        kind, code = self.items.kind[item], self.items.label[item]
        return {"item": item, "label": float(kind == Kind.POSITIVE), "kind": int(kind), "label_code": int(code)}

    def files_of(self, item: int | tuple[int, int]) -> list[str]:
        """The files that are opened for an item, if all can be read; none for sounds that lie in the data set."""
        requested, seed = self._item_and_seed(item)
        if self.embeddings is not None:
            return []
        background = self._background(seed)
        wanted = [requested] if background is None else [requested, background[0]]
        files = [self.sounds.file(int(self.items.clip[number])) for number in wanted]
        return [file for file in files if file is not None]

    def failure_of(self, item: int | tuple[int, int]) -> str | None:
        """Why another item is served in its place; None where its own file can be read."""
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
        """An item's own samples, fewer than a window's where the file has no more, and their start in seconds."""
        row, kind = int(self.items.clip[item]), self.items.kind[item]
        start, end = float(self.items.start[item]), float(self.items.end[item])
        event, least = (None, 0.0) if math.isnan(start) else ((start, end), LEAST_OF_EVENT * (end - start))
        seconds = self.samples / self.sampling_rate
        if kind == Kind.EXPLICIT:
            least = seconds  # the target may be beside it
        place = random_stream(seed, PLACE).random()
        placement = WindowPlacement(self.sounds, row, event, least, place, self.samples, self.sampling_rate)
        return self.sounds.read(row, placement, seconds, self.sampling_rate), placement.start

    def _read(self, requested: int, seed: int) -> tuple[int, np.ndarray, float]:
        """The window of an item or, where its file fails, of another of its stratum, with that one's number."""
        item, failed, first = requested, [], ""
        while True:
            row = int(self.items.clip[item])
            try:
                return item, *self._window(item, seed)
            except AudioError as error:
                first = first or str(error)
                if row not in self._warned:
                    logger.warning("replaced by another like it: %s", error)
                self._warned.add(row)
            failed.append(row)
            others = self._alike(requested, failed)
            if len(failed) == FAILURES or not len(others):
                name = f"{KIND_NAMES[self.items.kind[requested]]} {requested}"
                raise AudioError(
                    f"{name} and the {len(failed) - 1} tried in its place cannot be read; the first: {first}"
                )
            item = int(others[random_stream(seed, SUBSTITUTE).integers(2**63, size=len(failed))[-1] % len(others)])

    def _alike(self, item: int, failed: list[int]) -> np.ndarray:
        """Items of the same kind and label, or else of the same kind, whose clips are not among those that failed."""
        kind = (self.items.kind == self.items.kind[item]) & ~np.isin(self.items.clip, failed)
        stratum = np.flatnonzero(kind & (self.items.label == self.items.label[item]))
        return stratum if len(stratum) else np.flatnonzero(kind)

    def _background(self, seed: int) -> tuple[int, int, float] | None:
        """Item, seed and SNR in dB of what is put behind a window; None for nothing."""
        if self.augmentation is None or not len(self.backgrounds):
            return None
        if (chosen := self.augmentation.background(len(self.backgrounds), seed)) is None:
            return None
        place, seed, snr_db = chosen
        return int(self.backgrounds[place]), seed, snr_db

    def _varied(self, audio: np.ndarray, seed: int) -> np.ndarray:
        """A window (S,) with what concerns it alone of the augmentation."""
        if self.augmentation is None:
            return audio
        if (background := self._background(seed)) is not None:
            item, other_seed, snr_db = background
            _, behind, _ = self._read(item, other_seed)
            audio = with_background(audio, with_zeros(behind, self.samples), snr_db)
        return self.augmentation.amplified(self.augmentation.rolled(audio, seed), seed)


def whole_samples(seconds: float, sampling_rate: int) -> int:
    """Samples that surely fit into so many seconds."""
    return math.floor(seconds * sampling_rate + 1e-6)


def with_zeros(audio: np.ndarray, samples: int) -> np.ndarray:
    """A sound of at most so many samples, followed by zeros up to there."""
    return audio if len(audio) == samples else np.pad(audio, (0, samples - len(audio)))


def fit_to_scale(audio: np.ndarray) -> np.ndarray:
    """A window (S,) within -1 to 1: one that goes beyond is made softer as a whole, not clipped."""
    peak = np.abs(audio).max()
    return audio / peak if peak > 1 else audio

"""All windows of the clips of one split, in order, for scoring."""

from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from media.audio import AudioError, audio_seconds
from tasks.detection.items import Items, Kind
from tasks.detection.pools import EvalClips
from tasks.detection.windows import AudioSetWindows, ClipSounds

# M clips of the split, N windows, S samples per window


ROUNDING = 1e-6  # s; event times are float32


class ClipWindows(Dataset):
    """Windows of `clip_seconds` every `hop_seconds`; the last one ends where its clip ends.

    The label of a window, used for the validation loss, says whether the target is in the window if the events of
    the clip are known, else whether it is in the clip.

    A clip with an unreadable window is excluded from all scores and counted. That window gets `readable=False` and
    the audio of another clip, because the model needs some input.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        clips: EvalClips,
        clip_seconds: float,
        hop_seconds: float,
        sampling_rate: int,
        keep: bool = False,
    ) -> None:
        self.clips, self.clip_seconds = clips, clip_seconds
        self.seconds = clip_lengths(rows, clips.rows)  # (M,)
        # 1e-6 keeps a rounding error in the length from adding a window.
        counts = np.maximum(np.ceil((self.seconds - clip_seconds) / hop_seconds - 1e-6).astype(int) + 1, 1)
        self.clip = np.repeat(np.arange(len(clips)), counts)  # (N,)
        position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        latest = np.maximum(self.seconds - clip_seconds, 0.0)[self.clip]
        self.start = np.minimum(position * hop_seconds, latest)  # (N,) s in the file
        # An item ends within its file. The length of an unreadable file is 0 s, but its item needs a positive one.
        ends = np.minimum(self.start + clip_seconds, np.maximum(self.seconds, clip_seconds / 2)[self.clip])
        items = Items(
            clip=clips.rows[self.clip].astype(np.int32),
            start=self.start.astype(np.float32),
            end=ends.astype(np.float32),
            kind=np.where(clips.targets[self.clip], Kind.POSITIVE, Kind.STRONG).astype(np.int8),
            label=np.zeros(len(self.clip), np.int16),
        )
        self.windows = AudioSetWindows(rows, items, clip_seconds, sampling_rate, keep=keep)
        self.labels = clips.targets[self.clip] & (~clips.strong[self.clip] | self._contains_event())  # (N,)

    def _contains_event(self) -> np.ndarray:
        """Return which windows (N,) contain at least half of a target event, or are at least half filled by one."""
        contains = np.zeros(len(self.clip), bool)
        for clip in np.flatnonzero(np.diff(self.clips.edges)):
            windows = slice(*np.searchsorted(self.clip, [clip, clip + 1]))
            start = self.start[windows, None]  # (windows, 1)
            begin, end = self.clips.events_of(int(clip)).T  # (events,)
            shared = np.minimum(end, start + self.clip_seconds) - np.maximum(begin, start)
            contains[windows] = (shared >= np.minimum(end - begin, self.clip_seconds) / 2 - ROUNDING).any(1)
        return contains

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, window: int) -> dict[str, Any]:
        served = self.windows[window]
        inputs = {name: served[name] for name in ("audio", "sampling_rate", "embeddings") if name in served}
        return inputs | {
            "label": float(self.labels[window]),
            "readable": served["item"] == served["requested"],
            "seed": -1,  # turns mixup and masks off
        }


def clip_lengths(rows: datasets.Dataset, wanted: np.ndarray) -> np.ndarray:
    """Return the length of each clip's file (M,) in seconds, opening files whose length was not recorded.

    A file that cannot be opened gets 0 s; reading its only window then reports the error.
    """
    sounds = ClipSounds(rows)
    seconds = rows.select_columns(["audio_seconds"]).data.table["audio_seconds"].to_numpy()[wanted].astype(np.float64)
    for index in np.flatnonzero(np.isnan(seconds)):
        row = int(wanted[index])
        try:
            seconds[index] = audio_seconds(sounds.source(row), sounds.name(row))
        except AudioError:
            seconds[index] = 0.0
    return seconds

"""All windows of the clips of one side, in order: what is scored."""

from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from media.audio import AudioError, audio_seconds
from tasks.detection.items import Items, Kind
from tasks.detection.pools import EvalClips
from tasks.detection.windows import AudioSetWindows, ClipSounds

# M clips of the side, N windows, S samples of a window


ROUNDING = 1e-6  # s: times are float32


class ClipWindows(Dataset):
    """Windows of `clip_seconds` every `hop_seconds`, the last one at a clip's end.

    A window's label, which the loss of a validation goes by, is whether the target is in the window as far as events
    are known, else whether it is in the clip.

    A clip with a window that cannot be read is left out of all scores, and counted. This window is not `readable` and
    has the sound of another clip, as something has to go through the model.
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
        self.seconds = lengths_of(rows, clips.rows)  # (M,)
        counts = np.maximum(np.ceil((self.seconds - clip_seconds) / hop_seconds - 1e-6).astype(int) + 1, 1)
        self.clip = np.repeat(np.arange(len(clips)), counts)  # (N,)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        latest = np.maximum(self.seconds - clip_seconds, 0.0)[self.clip]
        self.start = np.minimum(place * hop_seconds, latest)  # (N,) s in the file
        ends = np.minimum(self.start + clip_seconds, np.maximum(self.seconds, clip_seconds / 2)[self.clip])
        items = Items(
            clip=clips.rows[self.clip].astype(np.int32),
            start=self.start.astype(np.float32),
            end=ends.astype(np.float32),
            kind=np.where(clips.targets[self.clip], Kind.POSITIVE, Kind.STRONG).astype(np.int8),
            label=np.zeros(len(self.clip), np.int16),
        )
        self.windows = AudioSetWindows(rows, items, clip_seconds, sampling_rate, keep=keep)
        self.labels = clips.targets[self.clip] & (~clips.strong[self.clip] | self._hold_an_event())  # (N,)

    def _hold_an_event(self) -> np.ndarray:
        """Which windows (N,) have half of an event of the target in them, or are half filled by one."""
        found = np.zeros(len(self.clip), bool)
        for clip in np.flatnonzero(np.diff(self.clips.edges)):
            windows = slice(*np.searchsorted(self.clip, [clip, clip + 1]))
            start = self.start[windows, None]  # (windows, 1)
            begin, end = self.clips.events_of(int(clip)).T  # (events,)
            shared = np.minimum(end, start + self.clip_seconds) - np.maximum(begin, start)
            found[windows] = (shared >= np.minimum(end - begin, self.clip_seconds) / 2 - ROUNDING).any(1)
        return found

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, window: int) -> dict[str, Any]:
        found = self.windows[window]
        sound = {name: found[name] for name in ("audio", "sampling_rate", "embeddings") if name in found}
        return sound | {
            "label": float(self.labels[window]),
            "readable": found["item"] == found["requested"],
            "seed": -1,  # nothing is mixed or masked
        }


def lengths_of(rows: datasets.Dataset, wanted: np.ndarray) -> np.ndarray:
    """Seconds of some clips' files (M,): as prepared, or by opening what was not opened then.

    A file that cannot be opened counts as empty: its only window tells why.
    """
    sounds = ClipSounds(rows)
    seconds = rows.select_columns(["audio_seconds"]).data.table["audio_seconds"].to_numpy()[wanted].astype(np.float64)
    for place in np.flatnonzero(np.isnan(seconds)):
        row = int(wanted[place])
        try:
            seconds[place] = audio_seconds(sounds.source(row), sounds.name(row))
        except AudioError:
            seconds[place] = 0.0
    return seconds

"""Detection in recordings of any length: every window once for any block sizes, in bounded memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.detection.predict import ENVELOPE_BINS, Envelope, sliding_windows


def windows_of(sound: np.ndarray, cuts: list[int], size: int, hop: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return first samples, windows, and the largest batch size."""
    parts = list(sliding_windows(np.split(sound, sorted(cuts)), size, hop, at_once=5))
    starts, windows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return starts, windows, max(len(windows) for _, windows in parts)


@given(
    samples=st.integers(1, 300),
    size=st.integers(1, 40),
    share=st.floats(0, 1),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_windows_do_not_depend_on_block_sizes(samples, size, share, cuts):
    hop = max(round(share * size), 1)
    sound = np.arange(1, samples + 1, dtype=np.float32) / 400
    starts, windows, _ = windows_of(sound, [min(cut, samples) for cut in cuts], size, hop)
    last = max(samples - size, 0)
    expected = sorted({*range(0, last + 1, hop), last})
    assert starts.tolist() == expected
    padded = np.pad(sound, (0, max(size - samples, 0)))
    np.testing.assert_array_equal(windows, np.stack([padded[start : start + size] for start in expected]))


def test_windows_are_yielded_in_small_batches():
    *_, largest = windows_of(np.zeros(1000, np.float32), [500], size=10, hop=2)
    assert largest <= 5


@pytest.mark.parametrize("windows", [10, ENVELOPE_BINS, 9 * ENVELOPE_BINS + 1])
def test_envelope_keeps_every_peak_in_few_points(windows):
    scores = np.random.default_rng(0).random(windows)
    whole, parts = Envelope(0.5), Envelope(0.5)
    whole.add(np.arange(windows) * 0.5, scores)
    for start in range(0, windows, 7):
        part = np.arange(start, min(start + 7, windows))
        parts.add(part * 0.5, scores[part])
    assert whole == parts
    assert len(whole.peaks) <= ENVELOPE_BINS
    width = round(whole.stretch / 0.5)
    assert whole.peaks == [scores[i : i + width].max() for i in range(0, windows, width)]

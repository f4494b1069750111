"""Augmentations have the documented effect, depend only on the sample's seed, and leave global generators alone."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.detection.augmentation import Augmentation, add_background
from tasks.detection.items import Kind
from tasks.detection.windows import AudioSetWindows
from tests.helpers.detection_rows import ANYWHERE, RATE, encode, make_items, make_rows, noise

seeds = st.integers(0, 2**63 - 1)
EVERYTHING = {
    "gain_db": 6.0,
    "roll_probability": 0.5,
    "background_probability": 0.5,
    "mixup_probability": 0.5,
    "spec_time_mask_frames": 10,
    "spec_frequency_mask_bins": 5,
}


def decibels(loud: np.ndarray, soft: np.ndarray) -> float:
    """Return how much more power the first signal has, dB."""
    return 10 * np.log10(np.mean(np.square(loud, dtype=np.float64)) / np.mean(np.square(soft, dtype=np.float64)))


def windows_of_noise(augmentation: Augmentation | None, loudness: float = 0.05) -> AudioSetWindows:
    """Return windows of a positive (item 0) and weak negatives; at the default loudness no peak exceeds full scale."""
    sounds = [encode(loudness * noise(3, seed=seed), RATE, "WAV", "FLOAT") for seed in range(5)]
    items = make_items((0, (1.0, 1.5), Kind.POSITIVE, 0), *((row, ANYWHERE, Kind.WEAK, row) for row in range(1, 5)))
    return AudioSetWindows(make_rows(sounds), items, augmentation=augmentation)


def test_defaults_change_nothing():
    plain, default = windows_of_noise(None), windows_of_noise(Augmentation())
    for seed in range(5):
        np.testing.assert_array_equal(plain[0, seed]["audio"], default[0, seed]["audio"])
    audio, labels = noise(1).T, np.ones(1, np.float32)
    mixed, _ = Augmentation().mix(audio, labels, [3])
    np.testing.assert_array_equal(mixed, audio)
    features = torch.randn(2, 50, 64)
    assert Augmentation().mask_features(features, [1, 2]) is features


@given(seed=seeds, gain_db=st.floats(0.1, 20))
@settings(max_examples=50)
def test_gain_is_constant_over_the_window_and_within_bounds(seed, gain_db):
    audio = noise(0.1)[:, 0]
    louder = Augmentation(gain_db=gain_db).change_gain(audio, seed)
    change = decibels(louder, audio)
    assert abs(change) <= gain_db + 1e-4
    np.testing.assert_allclose(louder, audio * 10 ** (change / 20), rtol=1e-4)


def test_gains_cover_their_range_evenly():
    audio = noise(0.1)[:, 0]
    gains = [decibels(Augmentation(gain_db=6).change_gain(audio, seed), audio) for seed in range(400)]
    counts, _ = np.histogram(gains, bins=4, range=(-6, 6))
    assert counts.sum() == 400
    assert counts.min() > 70


@given(seed=seeds)
@settings(max_examples=30)
def test_roll_rotates_the_window(seed):
    audio = np.arange(1000, dtype=np.float32)
    rolled = Augmentation(roll_probability=1.0).roll(audio, seed)
    np.testing.assert_array_equal(rolled, np.roll(audio, int(rolled[0] != 0) * (1000 - int(rolled[0]))))


def test_probabilities_are_the_shares_of_changed_windows():
    audio = np.arange(100, dtype=np.float32)
    augmentation = Augmentation(roll_probability=0.3, background_probability=0.3, mixup_probability=0.3)
    rolled = [augmentation.roll(audio, seed)[0] != 0 for seed in range(1000)]
    with_background = [augmentation.draw_background(10, seed) is not None for seed in range(1000)]
    mixed = augmentation.mixup_partners(list(range(1000))) >= 0
    for share in (rolled, with_background, mixed):
        assert 0.25 < np.mean(share) < 0.35


@given(snr_db=st.floats(-30, 40))
@settings(max_examples=50)
def test_background_has_the_requested_snr(snr_db):
    audio, background = noise(0.5, seed=1)[:, 0], 7 * noise(0.5, seed=2)[:, 0]
    assert decibels(audio, add_background(audio, background, snr_db) - audio) == pytest.approx(snr_db, abs=0.01)


def test_silence_gets_and_gives_no_background():
    sound, silence = noise(0.5)[:, 0], np.zeros(RATE // 2, np.float32)
    np.testing.assert_array_equal(add_background(silence, sound, 10), silence)
    np.testing.assert_array_equal(add_background(sound, silence, 10), sound)


def test_window_with_background_keeps_everything_but_its_audio():
    augmentation = Augmentation(background_probability=1.0, background_snr_db=[5.0, 10.0])
    plain, noisy = windows_of_noise(None), windows_of_noise(augmentation)
    background_items = []
    for seed in range(40):
        before, after = plain[0, seed], noisy[0, seed]
        same = [key for key in before if key != "audio"]
        assert [before[key] for key in same] == [after[key] for key in same]
        item, background_seed, snr_db = noisy._background(seed)
        background_items.append(item)
        difference = after["audio"] - before["audio"]
        assert decibels(before["audio"], difference) == pytest.approx(snr_db, abs=0.01)
        assert 5 <= snr_db <= 10
        alone = plain[item, background_seed]["audio"]
        np.testing.assert_allclose(difference / difference.std(), alone / alone.std(), atol=1e-3)
    assert set(background_items) == {1, 2, 3, 4}  # only weak negatives


def test_augmented_windows_stay_within_full_scale():
    loud = windows_of_noise(Augmentation(gain_db=40, background_probability=1.0), loudness=5)
    peaks = [np.abs(loud[0, seed]["audio"]).max() for seed in range(10)]
    assert max(peaks) == 1.0


def test_augmentations_are_independent_of_each_other():
    alone = {name: Augmentation(**{name: value}) for name, value in EVERYTHING.items()}
    together = Augmentation(**EVERYTHING)
    audio, batch, features = noise(0.1)[:, 0], list(range(50)), torch.randn(50, 60, 40)
    for seed in range(20):
        np.testing.assert_array_equal(alone["gain_db"].change_gain(audio, seed), together.change_gain(audio, seed))
        np.testing.assert_array_equal(alone["roll_probability"].roll(audio, seed), together.roll(audio, seed))
        assert alone["background_probability"].draw_background(9, seed) == together.draw_background(9, seed)
    np.testing.assert_array_equal(alone["mixup_probability"].mixup_partners(batch), together.mixup_partners(batch))
    masked = together.mask_features(features, batch) != features
    times = alone["spec_time_mask_frames"].mask_features(features, batch) != features
    bands = alone["spec_frequency_mask_bins"].mask_features(features, batch) != features
    assert torch.equal(masked, times | bands)
    plain, noisy = windows_of_noise(None), windows_of_noise(together)
    assert all(plain[0, seed]["start_seconds"] == noisy[0, seed]["start_seconds"] for seed in range(20))


@pytest.mark.parametrize(
    "rule, labels, expected",
    [
        ("max", (1, 0), (1, 1)), ("max", (0, 0), (0, 0)), ("max", (1, 1), (1, 1)),
        ("linear", (0, 0), (0, 0)), ("linear", (1, 1), (1, 1)),
    ],
)  # fmt: skip
def test_mixup_label_follows_the_rule(rule, labels, expected):
    augmentation = Augmentation(mixup_probability=1.0, mixup_rule=rule)
    _, mixed = augmentation.mix(np.zeros((2, 10), np.float32), np.array(labels, np.float32), [1, 2])
    np.testing.assert_allclose(mixed, expected)


def test_mixture_and_linear_label_are_weighted_means():
    augmentation = Augmentation(mixup_probability=1.0, mixup_rule="linear", mixup_alpha=1.0)
    audio = np.eye(2, dtype=np.float32)  # the samples of a mixture are its weights
    shares = []
    for seed in range(200):
        mixed, labels = augmentation.mix(audio, np.array([1, 0], np.float32), [seed, seed + 1000])
        np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(labels, mixed[:, 0], atol=1e-6)
        shares.append(mixed[0, 0])
    assert 0.5 <= min(shares) < 0.52
    assert 0.98 < max(shares) <= 1
    halves = Augmentation(mixup_probability=1.0, mixup_alpha=1000.0).mix(audio, np.zeros(2, np.float32), [5, 6])
    np.testing.assert_allclose(halves[0], 0.5, atol=0.05)


def test_mixup_partner_is_another_window_of_the_batch():
    partners = Augmentation(mixup_probability=1.0).mixup_partners(list(range(8)) * 40)
    assert not np.any(partners == np.arange(320))
    assert partners.min() >= 0
    assert len(np.unique(partners)) > 150
    np.testing.assert_array_equal(Augmentation(mixup_probability=1.0).mixup_partners([17]), [-1])


@given(batch=st.lists(seeds, min_size=1, max_size=6), frames=st.integers(4, 60), bands=st.integers(4, 40))
@settings(max_examples=50)
def test_masks_set_one_block_of_frames_and_one_of_bands_to_the_mean(batch, frames, bands):
    features = torch.randn(len(batch), frames, bands)
    masked = Augmentation(spec_time_mask_frames=10, spec_frequency_mask_bins=5).mask_features(features, batch)
    for before, after in zip(features, masked, strict=True):
        changed = before != after
        times, masked_bands = changed.all(1).nonzero().flatten(), changed.all(0).nonzero().flatten()
        for block, limit, size in ((times, 10, frames), (masked_bands, 5, bands)):
            assert len(block) <= min(limit, size // 2)
            assert len(block) == 0 or int(block[-1] - block[0]) == len(block) - 1
        inside = torch.zeros_like(changed)
        inside[times], inside[:, masked_bands] = True, True
        assert torch.equal(inside, changed)
        torch.testing.assert_close(after[changed], before.mean().expand(int(changed.sum())))


def test_mask_widths_and_positions_are_uniform():
    features = torch.randn(600, 20, 3)
    changed = Augmentation(spec_time_mask_frames=4).mask_features(features, list(range(600))) != features
    widths = changed.all(2).sum(1)
    assert [int((widths == width).sum()) > 80 for width in range(5)] == [True] * 5  # 120 expected of each
    assert int(changed.all(2).sum(0).min()) > 5


def test_mask_depends_only_on_the_seed_of_its_window():
    augmentation = Augmentation(spec_time_mask_frames=10, spec_frequency_mask_bins=5)
    features = torch.randn(3, 50, 40)
    together = augmentation.mask_features(features, [7, 8, 9])
    alone = augmentation.mask_features(features[1:2], [8])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together, features)


def test_windows_with_negative_seeds_are_not_augmented():
    augmentation = Augmentation(**EVERYTHING | {"mixup_probability": 1.0})
    np.testing.assert_array_equal(augmentation.mixup_partners([-1, -1, 5]) >= 0, [False, False, True])
    features = torch.randn(2, 50, 40)
    masked = augmentation.mask_features(features, [-1, 5])
    assert torch.equal(masked[0], features[0])
    assert not torch.equal(masked[1], features[1])
    assert augmentation.mask_features(features, [-1, -1]) is features


def test_global_generators_are_not_used():
    augmentation = Augmentation(**EVERYTHING)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    windows_of_noise(augmentation)[0, 3]
    augmentation.mix(noise(0.1, channels=4).T, np.zeros(4, np.float32), [1, 2, 3, 4])
    augmentation.mask_features(torch.ones(4, 50, 40), [1, 2, 3, 4])
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"gain_db": -1.0}, "gain_db=-1.0: "),
        ({"gain_db": float("nan")}, "gain_db=nan: "),
        ({"roll_probability": 1.5}, "roll_probability=1.5: "),
        ({"background_probability": -0.1}, "background_probability=-0.1: "),
        ({"mixup_probability": 2}, "mixup_probability=2: "),
        ({"background_snr_db": [20.0, 0.0]}, r"background_snr_db=\[20.0, 0.0\]: "),
        ({"background_snr_db": [3.0]}, r"background_snr_db=\[3.0\]: "),
        ({"mixup_rule": "mean"}, "mixup_rule='mean': .*max or linear"),
        ({"mixup_alpha": 0.0}, "mixup_alpha=0.0: "),
        ({"spec_time_mask_frames": -1}, "spec_time_mask_frames=-1: "),
        ({"spec_frequency_mask_bins": -1}, "spec_frequency_mask_bins=-1: "),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**settings)

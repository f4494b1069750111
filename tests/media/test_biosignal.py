"""Skin conductance: known results, frame grid, masks and rejections, causality, reversible scaling."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from media import filters
from media.biosignal import EdaSettings, decompose, process_eda
from media.scaling import MIN_SPREAD, Scaling, fit_scaling

RATES = [4, 10, 32, 49.999, 50, 50.03, 100, 256, 1000, 1001.3]  # Hz
PHASIC = EdaSettings(eda_target="phasic", decomposition="smoothmedian")
SETTINGS = [
    EdaSettings(),
    EdaSettings(causal=True),
    EdaSettings(causal=True, low_pass_hz=None, eda_target="difference"),
    EdaSettings(eda_target="both", decomposition="highpass", low_pass_hz=5.0),
    EdaSettings(eda_target="both", decomposition="highpass", causal=True, spread_seconds=0.0),
    EdaSettings(eda_target="both", decomposition="smoothmedian", detrend="linear", spread_seconds=0.5),
    EdaSettings(eda_target="tonic", decomposition="smoothmedian", causal=True, negative="mask"),
    EdaSettings(eda_target="scr_rate", decomposition="smoothmedian", low_pass_hz=None),
    EdaSettings(log_offset_us=1.0, discard_seconds=2.0, lag_seconds=1.5, min_seconds=0.0),
    EdaSettings(detrend="mean", normalisation_scope="trial", min_range_us=0.0, min_levels=0, min_seconds=0.0),
    replace(PHASIC, normalisation_scope="trial", normalisation="robust", max_invalid_fraction=1.0),
    EdaSettings(frame_rate=10.0, eda_target="difference", max_gap_seconds=0.0, negative="reject"),
]


def times(rate: float, seconds: float) -> np.ndarray:
    return np.arange(round(seconds * rate)) / rate


def wander(rate: float, seconds: float, seed: int = 0) -> np.ndarray:
    """A plausible trial at any rate: slow oscillations of about 1 uS around 8 uS."""
    t = times(rate, seconds)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    return (
        8
        + np.sin(2 * np.pi * 0.05 * t + phases[0])
        + sum(0.1 * np.sin(2 * np.pi * hz * t + phase) for hz, phase in zip((0.13, 0.31), phases[1:], strict=True))
    )


def responses(rate: float, seconds: float, onsets: list[float], amplitude: float = 0.5) -> np.ndarray:
    """Skin conductance responses (Bateman, 0.75 s and 2 s) at `onsets` on a slowly falling level, uS."""
    t = times(rate, seconds)
    x = 6 - 0.01 * t
    for onset in onsets:
        after = np.maximum(t - onset, 0)
        x += amplitude * (np.exp(-after / 2.0) - np.exp(-after / 0.75)) / 0.36
    return x


# The grid


@pytest.mark.parametrize("rate", RATES)
def test_a_resampled_sine_keeps_its_phase(rate: float) -> None:
    sine = lambda t: 5 + np.sin(2 * np.pi * 0.2 * t + 0.3)  # noqa: E731
    values = process_eda(sine(times(rate, 61.3)), rate, EdaSettings(low_pass_hz=None)).values[:, 0]
    error = np.abs(values - sine(np.arange(len(values)) / 4))
    assert error.max() < 0.003, "of 1 uS amplitude, including the edges"
    assert error[40:-40].max() < (1e-4 if rate == round(rate) else 2e-3), "a rounded rate may be off by 0.0025 s"


@pytest.mark.parametrize(("rate", "frame_rate"), [(10000, 4), (2048, 1), (1000, 0.3), (8001.7, 4)])
def test_a_rate_thousands_of_times_the_frame_rate_is_resampled(rate: float, frame_rate: float) -> None:
    ramp = 3 + 0.05 * times(rate, 30)
    trial = process_eda(ramp, rate, EdaSettings(frame_rate=frame_rate))
    expected = 3 + 0.05 * np.arange(len(trial.values)) / frame_rate
    np.testing.assert_allclose(trial.values[:, 0], expected, atol=0.005)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("low_pass_hz", [None, 0.6, 5.0])
def test_a_ramp_has_no_ringing_at_its_edges(rate: float, low_pass_hz: float | None) -> None:
    trial = process_eda(3 - 0.1 * times(rate, 38), rate, EdaSettings(low_pass_hz=low_pass_hz))
    expected = 3 - 0.1 * np.arange(len(trial.values)) / 4
    np.testing.assert_allclose(trial.values[:, 0], expected, atol=0.005)


@pytest.mark.parametrize(
    ("samples", "rate", "frames"),
    [(0, 50, 0), (1, 50, 1), (1610, 50, 129), (1601, 50, 129), (1600, 50, 128), (40, 4, 40), (9, 2, 17), (13, 50, 1)],
)
def test_frames_are_within_the_samples(samples: int, rate: float, frames: int) -> None:
    assert filters.count_frames(samples, rate, 4.0) == frames
    assert len(process_eda(np.full(samples, 2.0), rate, EdaSettings()).mask) == frames


def test_zero_phase_filters_do_not_move_a_peak() -> None:
    t = times(50, 40)
    bump = 5 + np.exp(-0.5 * ((t - 20) / 1.5) ** 2)
    for low_pass_hz in (None, 0.6, 1.0, 3.0):
        assert process_eda(bump, 50, EdaSettings(low_pass_hz=low_pass_hz)).values[:, 0].argmax() == 80


def test_a_lag_shifts_conductance_and_a_discard_does_not() -> None:
    x = wander(50, 40)
    plain = process_eda(x, 50, EdaSettings())
    lagged = process_eda(x, 50, EdaSettings(lag_seconds=2.0, discard_seconds=3.0))
    np.testing.assert_allclose(lagged.values[:-8], plain.values[8:])
    assert lagged.mask.tolist() == [12 <= frame < len(plain.mask) - 8 for frame in range(len(plain.mask))]


def test_a_low_pass_near_nyquist_is_clamped_and_noted() -> None:
    trial = process_eda(wander(4, 60), 4, EdaSettings(low_pass_hz=5.0))
    assert trial.rejected is None
    (note,) = trial.notes
    assert re.findall(r"[\d.]+ Hz", note) == ["5 Hz", "1.8 Hz", "4 Hz"]  # requested, clamped, sampling rate


def test_causal_sampling_prevents_aliasing() -> None:
    hum = 8 + np.sin(2 * np.pi * 0.1 * times(50, 60)) + np.sin(2 * np.pi * 8.1 * times(50, 60))  # aliases to 0.1 Hz
    for low_pass_hz in (None, 5.0):
        trial = process_eda(hum, 50, EdaSettings(causal=True, low_pass_hz=low_pass_hz))
        assert "1.8 Hz" in trial.notes[0]
        assert trial.values.max() < 9.05


def test_upsampling_is_noted() -> None:
    (note,) = process_eda(wander(2, 60), 2, EdaSettings(low_pass_hz=None)).notes
    assert re.findall(r"[\d.]+ Hz", note) == ["2 Hz", "4 Hz", "1 Hz"]  # from, to, highest recorded frequency


# Masks and rejections


@pytest.mark.parametrize("option", SETTINGS, ids=range(len(SETTINGS)))
@settings(max_examples=25)
@given(data=st.data())
def test_any_trial_gets_a_mask_or_a_named_rejection(option: EdaSettings, data: st.DataObject) -> None:
    rate = data.draw(st.sampled_from(RATES) | st.floats(1, 1000), "rate")
    length = data.draw(st.integers(0, 400) | st.integers(0, 40).map(lambda seconds: round(seconds * rate)), "length")
    shape = data.draw(st.sampled_from(["constant", "wander", "noise", "anything"]), "shape")
    seed = data.draw(st.integers(0, 99), "seed")
    rng = np.random.default_rng(seed)
    if shape == "constant":
        x = np.full(length, data.draw(st.floats(allow_nan=True)))
    elif shape == "anything":
        values = data.draw(st.lists(st.floats(), min_size=1, max_size=20))
        x = np.resize(np.array(values), length)
    else:
        x = wander(rate, 1 + length / rate, seed)[:length] + (rng.normal(size=length) if shape == "noise" else 0)
        x = x - data.draw(st.sampled_from([0, 5, 8.5]))
    for start, stop in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4000)), max_size=4), "gaps"):
        x[start:stop] = data.draw(st.sampled_from([np.nan, np.inf, 0, 70, -1e300]))
    with np.errstate(over="ignore"):
        trial = process_eda(x, rate, option)
    assert np.isfinite(trial.values).all()
    assert trial.mask.shape == trial.values.shape[:1] == (filters.count_frames(len(x), rate, option.frame_rate),)
    assert trial.values.shape[1] == len(trial.channels)
    assert (trial.rejected is None) == trial.mask.any()
    assert (trial.rejected is None) != any(note.startswith("rejected") for note in trial.notes)
    if trial.rejected is None and option.normalisation_scope == "trial":
        scaling = fit_scaling([], [], option.normalisation, "trial", option.channels, option.unit)
        assert np.isfinite(scaling.apply(trial.values, trial.mask)).all()


def test_short_gaps_are_interpolated_and_long_ones_masked() -> None:
    x = wander(50, 40)
    whole = process_eda(x, 50, EdaSettings())
    holes = x.copy()
    holes[500:590] = np.nan  # 1.8 s
    holes[1000:1150] = np.nan  # 3 s: 20 to 23 s
    trial = process_eda(holes, 50, EdaSettings())
    assert np.flatnonzero(~trial.mask).tolist() == list(range(80, 93))
    np.testing.assert_allclose(trial.values[trial.mask], whole.values[trial.mask], atol=0.1)
    assert process_eda(holes, 50, EdaSettings(max_gap_seconds=1.0)).mask.mean() < trial.mask.mean()


def test_gaps_at_the_ends_are_always_masked() -> None:
    x = wander(4, 30)
    x[0] = x[-1] = np.nan
    assert np.flatnonzero(~process_eda(x, 4, EdaSettings()).mask).tolist() == [0, 119]


@pytest.mark.parametrize("rate", [4, 50, 1000])
def test_a_jump_is_masked_five_seconds_before_and_after(rate: float) -> None:
    x = wander(rate, 60)
    x[round(30 * rate) :] += 20
    masked = np.flatnonzero(~process_eda(x, rate, EdaSettings()).mask) / 4
    assert 24 < masked.min() <= 25
    assert 35 <= masked.max() < 36
    assert len(masked) == (masked.max() - masked.min()) * 4 + 1


def test_a_steep_change_is_masked_for_the_length_of_a_slope() -> None:
    x = wander(50, 40)
    x[1000:] += 20  # slopes over 12 samples: 988 to 1011, in the frames around samples 987.5, 1000 and 1012.5
    masked = ~process_eda(x, 50, EdaSettings(spread_seconds=0.0, max_gap_seconds=0.0)).mask
    assert np.flatnonzero(masked).tolist() == [79, 80, 81]


def test_a_frame_is_valid_if_its_whole_interval_is() -> None:
    valid = np.arange(13) != 4  # 12 Hz, frames of 3 samples
    assert filters.frames_within(valid, 12, 4, causal=False).tolist() == [True, False, True, True, True]  # 1.5 to 4.5
    assert filters.frames_within(valid, 12, 4, causal=True).tolist() == [True, True, False, True, True]  # 3 to 6
    upsampled = filters.frames_within(np.array([True, False, True]), 2, 4, causal=False)
    assert upsampled.tolist() == [True] + 3 * [False] + [True], "frames between samples depend on both"


def test_values_out_of_range_never_reach_the_filters() -> None:
    x = wander(50, 40)
    x[1000] = 1e9
    for option in (EdaSettings(), EdaSettings(causal=True)):
        assert np.abs(process_eda(x, 50, option).values - 8).max() < 2


def test_a_cold_sensor_is_masked_and_a_missing_temperature_is_not() -> None:
    x = wander(4, 60)
    temperature = np.full(200, 33.0)  # ends 10 s early
    temperature[:40] = 24.0
    temperature[100] = np.nan
    trial = process_eda(x, 4, EdaSettings(), temperature)
    assert np.flatnonzero(~trial.mask).tolist() == list(range(60)), "10 s cold, and 5 s around"


def test_the_published_quality_rules_can_be_configured() -> None:
    x = wander(4, 60) - 6
    x[100:120] = 0.04
    ours, published = EdaSettings(max_slope_us=100.0), EdaSettings(max_slope_us=100.0, min_us=0.05)
    assert process_eda(x, 4, ours).mask.all()
    assert np.flatnonzero(~process_eda(x, 4, published).mask).tolist() == list(range(80, 140))


@pytest.mark.parametrize(
    ("negative", "rejected", "valid"), [("keep", None, 160), ("mask", "all_invalid", 0), ("reject", "negative", 0)]
)
def test_a_negative_offset_is_kept_masked_or_rejected(negative: str, rejected: str | None, valid: int) -> None:
    trial = process_eda(wander(50, 40) - 11.8, 50, EdaSettings(negative=negative))
    assert (trial.rejected, trial.mask.sum()) == (rejected, valid)
    if negative == "keep":
        assert trial.notes[0].startswith("100.0% of samples below 0 uS")


def test_quantization_noise_is_flat() -> None:
    steps = 0.0015 * np.random.default_rng(0).integers(0, 30, 1900)  # spans 0.045 uS, like PMEmo's flattest trial
    assert process_eda(5 + steps, 50, EdaSettings()).rejected == "flat"
    steps[0] = 3.0  # a start-up jump must not hide it
    assert process_eda(5 + steps, 50, EdaSettings()).rejected == "flat"


def test_quantization_of_a_drifting_line_is_not_amplified_to_a_target() -> None:
    x = np.round((5 + 0.05 * times(50, 38)) / 0.0015) * 0.0015
    assert process_eda(x, 50, PHASIC).rejected is None, "in uS, no response is a valid result"
    assert process_eda(x, 50, replace(PHASIC, normalisation_scope="trial")).rejected == "flat_phasic"


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (np.array([]), "too_short"),
        (wander(50, 4), "too_short"),
        (np.full(2000, np.nan), "all_invalid"),
        (np.full(2000, np.inf), "all_invalid"),
        (np.full(2000, 4.2), "flat"),
        (5 + 2.0 * (np.arange(2000) // 500), "few_levels"),
        (np.where(np.arange(2000) < 1500, np.nan, wander(50, 40)), "mostly_invalid"),
        (1000 * wander(50, 40), "not_microsiemens"),
    ],
)
def test_rejections_have_a_name_and_figures(x: np.ndarray, reason: str) -> None:
    trial = process_eda(x, 50, EdaSettings())
    assert trial.rejected == reason
    assert trial.notes[-1].startswith(f"rejected, {reason}: ")


def test_an_undefined_logarithm_is_rejected() -> None:
    x = wander(50, 40) - 11
    assert process_eda(x, 50, EdaSettings(log_offset_us=0.0)).rejected == "log_domain"
    logged = process_eda(x, 50, EdaSettings(log_offset_us=5.0)).values
    np.testing.assert_allclose(np.expm1(logged) - 5, process_eda(x, 50, EdaSettings()).values)
    x[1000:1005] = -30  # an artifact that is masked, but passes a causal filter
    assert np.isfinite(process_eda(x, 50, EdaSettings(log_offset_us=5.0, causal=True)).values).all()


def test_anything_but_one_trial_with_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eda.shape=\(2, 3\)"):
        process_eda(np.zeros((2, 3)), 50, EdaSettings())
    for rate in (0.0, -4.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"rate={rate}"):
            process_eda(np.zeros(3), rate, EdaSettings())


# Real recordings


def test_a_wrist_recording_near_the_floor_is_flat(real_data) -> None:
    x = np.loadtxt(real_data / "eda" / "empatica_e4_EDA.csv")[2:]  # start time, rate, then samples
    assert process_eda(x, 4.0, EdaSettings()).rejected == "flat"
    for start in range(0, len(x) - 240, 240):
        assert process_eda(x[start : start + 240], 4.0, EdaSettings()).rejected == "flat", f"minute {start // 240}"
    loud = process_eda(x, 4.0, EdaSettings(min_range_us=0.0))
    assert loud.rejected is None
    assert np.isfinite(loud.values).all()


def test_adc_counts_are_recognized(real_data) -> None:
    counts = np.loadtxt(real_data / "eda" / "biosppy_eda_1000hz_adc.txt")
    trial = process_eda(counts, 1000.0, EdaSettings())
    assert trial.rejected == "not_microsiemens"
    assert "ADC" in trial.notes[-1]
    converted = process_eda(counts / 2**12 * 3.3 / 0.132, 1000.0, EdaSettings())
    assert converted.rejected is None
    assert converted.values.shape == (600, 1)
    assert converted.mask.all()
    assert 13 < converted.values.min() < converted.values.max() < 16.5


# Targets


@pytest.mark.parametrize("rate", [4, 50, 256])
@pytest.mark.parametrize("decomposition", ["smoothmedian", "highpass"])
def test_five_responses_are_five_phasic_peaks(rate: float, decomposition: str) -> None:
    onsets = [8.0, 20.0, 31.0, 42.0, 51.0]
    trial = process_eda(
        responses(rate, 60, onsets), rate, EdaSettings(eda_target="phasic", decomposition=decomposition)
    )
    peaks, _ = signal.find_peaks(trial.values[:, 0], prominence=0.05)
    assert len(peaks) == 5
    assert np.all(np.abs(peaks / 4 - np.array(onsets) - 1.2) < 1), "this kernel peaks 1.2 s after its onset"


def test_response_rate_counts_responses_per_minute() -> None:
    option = EdaSettings(eda_target="scr_rate", decomposition="smoothmedian", scr_window_seconds=20.0)
    trial = process_eda(responses(50, 60, [8.0, 20.0, 31.0, 42.0, 51.0]), 50, option)
    assert option.unit == "SCR/min"
    assert trial.values[120, 0] == pytest.approx(60 * 2 / 20.25), "two peaks, at 21 and 32 s, in 20 to 40 s"
    late = process_eda(responses(50, 60, [8.0, 20.0]), 50, replace(option, discard_seconds=12.0))
    assert late.values[60, 0] == pytest.approx(60 * 1 / 13.25), "of 5 to 25 s only 12 to 25 s count"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("decomposition", ["smoothmedian", "highpass"])
def test_tonic_and_phasic_add_up_to_the_input(decomposition: str, causal: bool) -> None:
    x = wander(50, 40)
    both = process_eda(x, 50, EdaSettings(eda_target="both", decomposition=decomposition, causal=causal))
    assert both.channels == ("tonic", "phasic")
    np.testing.assert_allclose(both.values.sum(axis=1), process_eda(x, 50, EdaSettings(causal=causal)).values[:, 0])


def test_the_median_window_is_centered_or_trails() -> None:
    x = np.array([0, 0, 9, 9, 9, 0, 0], dtype=float)
    assert filters.running_median(x, 3, causal=False).tolist() == [0, 0, 9, 9, 9, 0, 0]
    assert filters.running_median(x, 3, causal=True).tolist() == [0, 0, 0, 9, 9, 9, 0]


@pytest.mark.parametrize("decomposition", ["smoothmedian", "highpass"])
def test_a_straight_line_is_entirely_tonic(decomposition: str) -> None:
    _, phasic = decompose(3 + 0.02 * np.arange(160), EdaSettings(eda_target="both", decomposition=decomposition))
    assert np.abs(phasic[8:-8]).max() < 0.01


def test_cvxeda_detects_the_responses_or_names_its_extra() -> None:
    option = EdaSettings(eda_target="both", decomposition="cvxeda")
    x = responses(50, 60, [8.0, 20.0, 31.0, 42.0, 51.0])
    try:
        import cvxeda  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"decomposition='cvxeda': .*'\.\[eda\]'"):
            process_eda(x, 50, option)
        return
    trial = process_eda(x, 50, option)
    np.testing.assert_allclose(trial.values.sum(axis=1), process_eda(x, 50, EdaSettings()).values[:, 0], atol=0.05)
    assert len(signal.find_peaks(trial.values[:, 1], prominence=0.1)[0]) == 5


def test_the_difference_is_the_change_per_second() -> None:
    trial = process_eda(3 + 0.1 * times(50, 38), 50, EdaSettings(eda_target="difference", low_pass_hz=None))
    np.testing.assert_allclose(trial.values[1:, 0], 0.1, atol=1e-3)
    assert trial.mask.tolist() == [False] + [True] * (len(trial.mask) - 1)
    assert trial.values[0, 0] == 0


def test_detrending_uses_valid_frames_only() -> None:
    x = wander(50, 40) + 0.1 * times(50, 40)
    x[1000:1500] = np.nan
    for detrend, degree in (("mean", 0), ("linear", 1)):
        trial = process_eda(x, 50, EdaSettings(detrend=detrend))
        at = np.flatnonzero(trial.mask)
        np.testing.assert_allclose(np.polyfit(at, trial.values[at, 0], degree), 0, atol=1e-9)


# Causality


@pytest.mark.parametrize("option", [s for s in SETTINGS if s.causal], ids=lambda s: f"{s.eda_target}-{s.low_pass_hz}")
@pytest.mark.parametrize("rate", [4, 32, 49.999, 50, 1000])
def test_causal_values_do_not_depend_on_later_samples(option: EdaSettings, rate: float) -> None:
    x = wander(rate, 40)
    for frame, gap in ((79, 0), (80, 0), (80, round(rate))):
        first_changed = int(frame * rate / option.frame_rate + 1e-6) + 1  # the first sample after the frame's time
        x[first_changed - gap : first_changed] = np.nan
        before = process_eda(x, rate, option)
        for change in (2.0, 30.0, np.nan, 100.0):
            other = x.copy()
            other[first_changed : first_changed + round(3 * rate)] += change
            after = process_eda(other, rate, option)
            assert after.rejected is None
            np.testing.assert_array_equal(after.values[: frame + 1], before.values[: frame + 1], err_msg=f"{change}")
            assert not np.array_equal(after.values, before.values)


def test_zero_phase_values_depend_on_later_samples() -> None:
    x = wander(50, 40)
    other = x + 2.0 * (times(50, 40) > 20)
    difference = process_eda(x, 50, EdaSettings()).values - process_eda(other, 50, EdaSettings()).values
    assert np.abs(difference[:80]).max() > 1e-3


def test_a_causal_target_is_delayed_as_noted() -> None:
    slow = lambda t: 5 + np.sin(2 * np.pi * 0.05 * t)  # noqa: E731
    trial = process_eda(slow(times(50, 80)), 50, EdaSettings(causal=True))
    (note,) = trial.notes
    assert re.findall(r"[\d.]+ s", note) == ["0.42 s"]
    at = np.arange(len(trial.values)) / 4
    np.testing.assert_allclose(trial.values[80:, 0], slow(at - 0.416)[80:], atol=0.01)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eda_target": "sweat"}, "eda_target='sweat': .*raw, tonic"),
        ({"frame_rate": 0.0}, "frame_rate=0.0"),
        ({"frame_rate": float("nan")}, "frame_rate=nan"),
        ({"max_us": "60"}, "max_us='60'"),
        ({"low_pass_order": 2.5}, "low_pass_order=2.5"),
        ({"low_pass_hz": -1.0}, "low_pass_hz=-1.0"),
        ({"min_us": 70.0}, "min_us=70.0: .*max_us=60.0"),
        ({"max_invalid_fraction": 1.5}, "max_invalid_fraction=1.5"),
        ({"lag_seconds": 0.3}, "lag_seconds=0.3: .*4.0 Hz"),
        ({"eda_target": "phasic"}, "decomposition='none': eda_target='phasic'"),
        ({"causal": True, "detrend": "linear"}, "detrend='linear': .*causal=True"),
        ({"causal": True, "normalisation_scope": "trial"}, "normalisation_scope='trial': .*causal=True"),
        ({"causal": True, "eda_target": "tonic", "decomposition": "cvxeda"}, "decomposition='cvxeda': .*causal=True"),
        (
            {"causal": True, "eda_target": "scr_rate", "decomposition": "highpass"},
            "eda_target='scr_rate': .*causal=True",
        ),
    ],
)
def test_invalid_settings_are_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EdaSettings(**changes)


def test_every_setting_has_help_for_the_command_line() -> None:
    assert all(setting.metadata["help"].endswith(".") for setting in EdaSettings.__dataclass_fields__.values())


def test_the_settings_can_be_given_on_the_command_line() -> None:
    from transformers import HfArgumentParser

    line = ["--eda_target", "phasic", "--decomposition", "highpass", "--low_pass_hz", "0.6", "--causal"]
    (parsed,) = HfArgumentParser(EdaSettings).parse_args_into_dataclasses(line)
    assert parsed == EdaSettings(eda_target="phasic", decomposition="highpass", low_pass_hz=0.6, causal=True)


# Scaling


def trials_and_listeners() -> tuple[list[tuple[np.ndarray, np.ndarray]], list[str]]:
    """Listener a: 1, 3 and (masked) 99. Listener b: 10, 30. By hand: a 2 +- 1, b 20 +- 10, all 11 +- 11.5."""
    a = np.array([[1.0], [3.0], [99.0]]), np.array([True, True, False])
    b1, b2 = (np.array([[10.0]]), np.array([True])), (np.array([[30.0]]), np.array([True]))
    return [a, b1, b2], ["a", "b", "b"]


@pytest.mark.parametrize(
    ("method", "offset", "scale"),
    [("none", 0, 1), ("z", 2, 1), ("minmax", 1, 2), ("robust", 2, 1 / 1.349), ("range", 0, 2)],
)
def test_scalings_by_hand(method: str, offset: float, scale: float) -> None:
    trials, listeners = trials_and_listeners()
    scaling = fit_scaling(trials, listeners, method, "listener", ["raw"])
    expected = (np.array([[1.0], [3.0], [99.0]]) - offset) / scale
    np.testing.assert_allclose(scaling.apply(*trials[0], "a"), expected)
    if method == "z":
        assert scaling.listeners["b"] == {"offset": (20.0,), "scale": (10.0,)}


def test_unseen_listeners_use_global_statistics() -> None:
    trials, listeners = trials_and_listeners()
    scaling = fit_scaling(trials, listeners, "z", "listener", ["raw"])
    assert scaling.offset == (11.0,)
    assert scaling.scale == pytest.approx((11.4673,), abs=1e-4)
    assert [scaling.falls_back(listener) for listener in ("a", "b", "c", None)] == [False, False, True, True]
    everyone = fit_scaling(trials, listeners, "z", "global", ["raw"])
    assert everyone.apply(*trials[0], "a")[0] == scaling.apply(*trials[0], "c")[0]
    assert not everyone.falls_back("c")


@settings(max_examples=50)
@given(
    st.sampled_from(["none", "z", "minmax", "robust", "range"]),
    st.sampled_from(["global", "listener"]),
    st.integers(0, 1000),
)
def test_scaling_can_be_undone_from_its_json(method: str, scope: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    trials = [(rng.normal(3 * k, 1 + k, (20, 2)), rng.random(20) < 0.9) for k in range(4)]
    fitted = fit_scaling(trials, ["a", "b", "a", "c"], method, scope, ["tonic", "phasic"])
    saved = json.loads(json.dumps(fitted.to_dict()))
    scaling = Scaling.from_dict(saved)
    assert scaling == fitted
    assert scaling.unit == "uS"
    for listener in ("a", "c", "unseen"):
        scaled = scaling.apply(*trials[0], listener)
        np.testing.assert_allclose(scaling.invert(scaled, listener), trials[0][0], atol=1e-9)
        statistics = saved["listeners"].get(listener, saved)
        np.testing.assert_allclose(scaled * statistics["scale"] + statistics["offset"], trials[0][0], atol=1e-9)


def test_scaling_by_trial_has_its_own_unit_and_cannot_be_undone() -> None:
    trials, listeners = trials_and_listeners()
    scaling = fit_scaling(trials, listeners, "z", "trial", ["raw"])
    assert scaling.unit == "z (per trial)"
    np.testing.assert_allclose(scaling.apply(*trials[0], "a"), [[-1], [1], [97]])
    with pytest.raises(ValueError, match="^scope='trial'"):
        scaling.invert(np.zeros((2, 1)))


def test_a_spread_of_zero_is_never_a_divisor() -> None:
    flat = np.full((5, 1), 3.0), np.full(5, True)
    lively = np.arange(5.0)[:, None], np.full(5, True)
    with pytest.raises(ValueError, match=r"^channels=\['raw'\]: .*\[0.0\]"):
        fit_scaling([flat], ["a"], "z", "global", ["raw"])
    with pytest.raises(ValueError, match="^trials: .* 1 training trials"):
        fit_scaling([(flat[0], ~flat[1])], ["a"], "z", "global", ["raw"])
    scaling = fit_scaling([flat, lively], ["a", "b"], "z", "listener", ["raw"])
    assert scaling.falls_back("a")
    assert np.abs(scaling.apply(*flat, "a")).max() < 1
    assert min(scaling.scale) >= MIN_SPREAD
    by_trial = fit_scaling([flat], ["a"], "z", "trial", ["raw"])
    with pytest.raises(ValueError, match="^listener='a': .* raw .* 0.001"):
        by_trial.apply(*flat, "a")


def test_invalid_arguments_of_a_scaling_are_refused() -> None:
    trials, listeners = trials_and_listeners()
    scaling = fit_scaling(trials, listeners, "z", "global", ["raw"])
    with pytest.raises(ValueError, match=r"values.shape=\(4, 2\): .*\(frames, 1\)"):
        scaling.apply(np.zeros((4, 2)), np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match=r"scaling: .*\['method'\]"):
        Scaling.from_dict({"method": "z"})
    with pytest.raises(ValueError, match="normalisation='zscore'"):
        fit_scaling(trials, listeners, "zscore", "global", ["raw"])
    with pytest.raises(ValueError, match="listeners: 1 for 3 trials"):
        fit_scaling(trials, ["a"], "z", "global", ["raw"])


@pytest.mark.parametrize(
    ("option", "unit"),
    [
        (EdaSettings(), "uS"),
        (EdaSettings(eda_target="difference"), "uS/s"),
        (EdaSettings(log_offset_us=4.0), "ln(1 + 4 + uS)"),
        (EdaSettings(detrend="linear"), "uS (trial line removed)"),
    ],
)
def test_the_unit_reflects_the_processing(option: EdaSettings, unit: str) -> None:
    assert option.unit == unit
    assert fit_scaling(*trials_and_listeners(), "z", "global", option.channels, option.unit).unit == unit

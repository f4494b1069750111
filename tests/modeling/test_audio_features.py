"""Audio features match librosa, are averaged by time, do not depend on the batch, and do not look ahead."""

import itertools
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st

from media.audio import read_audio
from modeling import feature_extraction_audio
from modeling.feature_extraction_audio import AudioFeatureExtractor

RATE = 22050  # Hz
SETTINGS = [
    {},
    {"num_mel_bins": 128},
    {"sampling_rate": 16000, "n_fft": 400, "hop_length": 160, "num_mel_bins": 40},
    {"mel_scale": "htk", "mel_norm": None, "n_fft": 4096, "hop_length": 1000},
    {"min_frequency": 100.0, "max_frequency": 5000.0, "num_mel_bins": 32},
]
# Small windows, so that time is sharp and examples are cheap; odd rates, for which frames do not coincide with hops.
GRIDS = st.tuples(
    st.sampled_from([4000, 4410, 8000]),  # sampling rate, Hz
    st.sampled_from([(64, 16), (64, 37), (128, 50)]),  # n_fft, hop_length
    st.sampled_from([1 / 3, 0.5, 1.0, 2.37, 4.0, 7.0, 10.1, 64 / 9]),  # frame rate, Hz
    st.sampled_from(["centered", "past"]),
)


def sounds(rate: int, seconds: float = 2.0) -> dict[str, np.ndarray]:
    time = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).normal(0, 0.1, len(time))
    waveforms = {
        "noise": noise,
        "fading noise": noise * 10 ** (-3 * time),
        "tone": 0.5 * np.sin(2 * np.pi * 440 * time),
        "quiet tone": 1e-4 * np.sin(2 * np.pi * 440 * time),
        "click": (np.arange(len(time)) == 5000).astype(float),
        "constant": np.ones(len(time)),
        "silence": np.zeros(len(time)),
    }
    return {name: waveform.astype(np.float32) for name, waveform in waveforms.items()}


def librosa_log_mel(audio: np.ndarray, extractor: AudioFeatureExtractor, center: bool = True) -> np.ndarray:
    """Return dB (K, M) from librosa. Its defaults match the extractor's, except for the padding with silence."""
    power = librosa.feature.melspectrogram(
        y=audio,
        sr=extractor.sampling_rate,
        n_fft=extractor.n_fft,
        hop_length=extractor.hop_length,
        n_mels=extractor.num_mel_bins,
        fmin=extractor.min_frequency,
        fmax=extractor.max_frequency,
        htk=extractor.mel_scale == "htk",
        norm=extractor.mel_norm,
        center=center,
        pad_mode="constant",
    )
    return librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None).T


def features_of(extractor: AudioFeatureExtractor, audio: np.ndarray) -> np.ndarray:
    """Return the features (T, F) of one clip."""
    return extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_features"][0]


def small_extractor(grid: tuple, **settings: object) -> AudioFeatureExtractor:
    rate, (n_fft, hop), frame_rate, pooling = grid
    return AudioFeatureExtractor(
        sampling_rate=rate,
        n_fft=n_fft,
        hop_length=hop,
        frame_rate=frame_rate,
        pooling=pooling,
        num_mel_bins=6,
        **settings,
    )


# Equality with librosa


@pytest.mark.parametrize("options", SETTINGS)
def test_log_mel_matches_librosa_on_synthetic_audio(options):
    extractor = AudioFeatureExtractor(frame_rate=None, **options)
    for name, audio in sounds(extractor.sampling_rate).items():
        expected = librosa_log_mel(audio, extractor)
        np.testing.assert_allclose(features_of(extractor, audio), expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("pooling", ["centered", "past"])
def test_log_mel_matches_librosa_on_recordings(real_data: Path, pooling):
    paths = sorted((real_data / "esc10").rglob("*.ogg"))[::25]
    if not paths:
        pytest.skip(f"no recordings under {real_data}/esc10")
    extractor = AudioFeatureExtractor(frame_rate=None, pooling=pooling)
    for path in paths:
        audio, _ = read_audio(path, extractor.sampling_rate)
        if pooling == "centered":
            expected = librosa_log_mel(audio, extractor)
        else:  # windows that end at k * hop are uncentered windows of the audio with silence before it
            expected = librosa_log_mel(np.pad(audio, (extractor.n_fft - 1, 1)), extractor, center=False)
        np.testing.assert_allclose(features_of(extractor, audio), expected, rtol=0, atol=1e-4, err_msg=path.name)


@pytest.mark.parametrize("num_mel_bins, num_mfcc", [(64, 40), (128, 40), (40, 13), (20, 20)])
def test_mfcc_matches_librosa(num_mel_bins, num_mfcc):
    extractor = AudioFeatureExtractor(RATE, "mfcc", num_mel_bins=num_mel_bins, num_mfcc=num_mfcc, frame_rate=None)
    for name, audio in sounds(RATE).items():
        expected = librosa.feature.mfcc(S=librosa_log_mel(audio, extractor).T, n_mfcc=num_mfcc).T
        np.testing.assert_allclose(features_of(extractor, audio), expected, rtol=1e-6, atol=1e-4, err_msg=name)


def test_single_precision_matches_librosa_on_even_spectra_and_approximately_on_a_tone():
    extractor = AudioFeatureExtractor(frame_rate=None, double_precision=False)
    for name, tolerance in (("noise", 1e-4), ("fading noise", 1e-4), ("silence", 1e-4), ("tone", 1.0)):
        audio = sounds(RATE)[name]
        expected = librosa_log_mel(audio, extractor)
        np.testing.assert_allclose(features_of(extractor, audio), expected, rtol=0, atol=tolerance, err_msg=name)


def test_silence_is_the_floor_and_a_constant_is_finite():
    np.testing.assert_allclose(features_of(AudioFeatureExtractor(), np.zeros(RATE, np.float32)), -100.0, atol=1e-4)
    assert np.isfinite(features_of(AudioFeatureExtractor(), np.ones(RATE, np.float32))).all()


# Time grid


@given(grid=GRIDS, samples=st.integers(1, 20000))
@settings(max_examples=60)
def test_frames_are_means_of_the_spectra_in_their_interval(grid, samples):
    rate, (_, hop), frame_rate, pooling = grid
    audio = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    spectra = features_of(small_extractor((*grid[:2], None, pooling)), audio)
    grid_rate = Fraction(frame_rate).limit_denominator(1000)
    frames = int(Fraction(samples, rate) * grid_rate) + 1
    times = [Fraction(k * hop, rate) for k in range(len(spectra))]
    expected = []
    for i in range(frames):
        if pooling == "centered":
            low, high = (i - Fraction(1, 2)) / grid_rate, (i + Fraction(1, 2)) / grid_rate
            inside = [k for k, time in enumerate(times) if low <= time < high]
        else:
            inside = [k for k, time in enumerate(times) if (i - 1) / grid_rate < time <= i / grid_rate]
        expected.append(spectra[inside].mean(0, dtype=np.float64))
    pooled = features_of(small_extractor(grid), audio)
    assert len(pooled) == frames == small_extractor(grid).num_frames(samples)
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "frame_rate, seconds, frames", [(4.0, 30, 121), (0.1, 10, 2), (1 / 3, 3, 2), (2.37, 600, 1423)]
)
def test_an_integer_number_of_frames_is_never_one_short(frame_rate, seconds, frames):
    assert AudioFeatureExtractor(frame_rate=frame_rate).num_frames(seconds * RATE) == frames
    assert AudioFeatureExtractor(frame_rate=frame_rate).num_frames(seconds * RATE - 1) == frames - 1


@given(grid=GRIDS, data=st.data())
@settings(max_examples=60)
def test_a_click_is_loudest_in_the_frame_of_its_time(grid, data):
    rate, _, frame_rate, pooling = grid
    frame = data.draw(st.integers(1, 8))
    time = frame / frame_rate if pooling == "centered" else (frame - 0.5) / frame_rate
    audio = np.zeros(round(rate * 10 / frame_rate), np.float32)
    audio[round(time * rate)] = 1.0
    assert features_of(small_extractor(grid), audio).mean(1).argmax() == frame


@given(grid=GRIDS, data=st.data())
@settings(max_examples=40)
def test_the_start_of_a_sound_changes_no_earlier_frame(grid, data):
    # Frames before the start are at the floor; frames after it are as loud as the rest.
    rate, (n_fft, _), frame_rate, pooling = grid
    extractor = small_extractor(grid)
    start = data.draw(st.integers(2 * rate, 3 * rate))
    audio = np.random.default_rng(start).normal(0, 0.1, 6 * rate).astype(np.float32)
    audio[:start] = 0.0
    loud = features_of(extractor, audio).max(1) > -90
    times = np.arange(len(loud)) / frame_rate
    assert not loud[times + extractor.look_ahead_seconds < start / rate].any()
    assert loud[times > (start + n_fft) / rate + (0.5 if pooling == "centered" else 1.0) / frame_rate].all()


@pytest.mark.parametrize("pooling", ["centered", "past"])
@pytest.mark.parametrize("frame_rate", [4.0, 2.7, None])
def test_look_ahead_is_exact(pooling, frame_rate):
    extractor = AudioFeatureExtractor(frame_rate=frame_rate, pooling=pooling)
    audio = np.random.default_rng(0).normal(0, 0.1, 4 * RATE).astype(np.float32)
    before = features_of(extractor, audio)
    frame = len(before) // 2
    time = frame / (frame_rate or RATE / extractor.hop_length)
    last = int((time + extractor.look_ahead_seconds) * RATE + 1e-6)  # the last sample that the frame may depend on
    future = audio.copy()
    future[last + 1 :] = 0.9
    np.testing.assert_array_equal(features_of(extractor, future)[: frame + 1], before[: frame + 1])
    # The last hop may end earlier, and the last samples of a window have weight 0.
    future[last + 1 - extractor.hop_length - 64 :] = 0.9
    assert np.abs(features_of(extractor, future)[frame] - before[frame]).max() > 1e-3


def test_past_pooling_has_no_look_ahead():
    assert AudioFeatureExtractor(pooling="past").look_ahead_seconds == 0.0
    assert AudioFeatureExtractor().look_ahead_seconds == pytest.approx(0.171, abs=5e-4)


# Batches


@pytest.mark.parametrize("feature_type", ["log_mel", "mfcc"])
@pytest.mark.parametrize("frame_rate", [4.0, 3.3, None])
@pytest.mark.parametrize("pooling", ["centered", "past"])
def test_a_clip_is_the_same_alone_and_in_a_padded_batch(feature_type, frame_rate, pooling):
    extractor = AudioFeatureExtractor(feature_type=feature_type, frame_rate=frame_rate, pooling=pooling)
    noise = np.random.default_rng(0)
    clips = [noise.normal(0, 0.1, n).astype(np.float32) for n in (1, 700, 5512, 5513, 30000, 70001)]
    batch = extractor(clips, sampling_rate=RATE)
    for clip, features, mask in zip(clips, batch["input_features"], batch["attention_mask"], strict=True):
        alone = extractor(clip, sampling_rate=RATE)
        frames = extractor.num_frames(len(clip))
        assert alone["input_features"].shape == (1, frames, extractor.feature_size)
        assert alone["attention_mask"].all()
        assert mask.tolist() == [1] * frames + [0] * (len(mask) - frames)
        torch.testing.assert_close(features[:frames], alone["input_features"][0], rtol=1e-5, atol=1e-5)
        assert (features[frames:] == 0).all()
    assert (batch["input_features"].dtype, batch["attention_mask"].dtype) == (torch.float32, torch.int64)


def test_the_content_of_other_clips_changes_no_bit():
    extractor = AudioFeatureExtractor()
    noise = np.random.default_rng(0).normal(0, 0.1, (3, 2 * RATE)).astype(np.float32)
    first, others = noise[0, :RATE], noise[1:]
    quiet = extractor([first, *np.zeros_like(others)], sampling_rate=RATE)["input_features"][0]
    loud = extractor([first, *(1000 * others)], sampling_rate=RATE)["input_features"][0]
    assert torch.equal(quiet, loud)


@pytest.mark.parametrize("pooling", ["centered", "past"])
def test_the_size_of_a_block_changes_nothing(monkeypatch, pooling):
    extractor = AudioFeatureExtractor(pooling=pooling)
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 3 * RATE)).astype(np.float32)
    whole = extractor(audio, sampling_rate=RATE)["input_features"]
    for hops in (1, 7):
        monkeypatch.setattr(feature_extraction_audio, "CPU_BLOCK", hops * 2 * extractor.n_fft)
        blocks = extractor(audio, sampling_rate=RATE)["input_features"]
        torch.testing.assert_close(blocks, whole, rtol=1e-5, atol=1e-5)


def test_arrays_tensors_and_lists_give_the_same_features():
    extractor = AudioFeatureExtractor()
    audio = np.random.default_rng(0).normal(0, 0.1, (2, 3000)).astype(np.float32)
    expected = extractor(audio, sampling_rate=RATE)["input_features"]
    frozen = audio.copy()
    frozen.setflags(write=False)
    for same in (
        list(audio),
        torch.from_numpy(audio),
        audio.astype(np.float64),
        audio.tolist(),
        frozen,
        audio[:, ::1],
    ):
        assert torch.equal(extractor(same, sampling_rate=RATE)["input_features"], expected)
    alone = extractor(audio[0], sampling_rate=RATE)["input_features"]  # may differ from a batch in the last bits
    assert torch.equal(extractor(audio[0].tolist(), sampling_rate=RATE)["input_features"], alone)
    arrays = extractor(audio, sampling_rate=RATE, return_tensors="np")
    assert isinstance(arrays["attention_mask"], np.ndarray)
    np.testing.assert_array_equal(arrays["input_features"], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_features_on_a_gpu_are_the_same():
    extractor = AudioFeatureExtractor()
    for name, audio in sounds(RATE).items():
        on_gpu = extractor(audio, sampling_rate=RATE, device="cuda")["input_features"]
        assert on_gpu.is_cuda
        on_cpu = extractor(audio, sampling_rate=RATE)["input_features"]
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-4, msg=name)


# Invalid input and settings


SECOND = np.zeros(RATE, np.float32)


@pytest.mark.parametrize(
    "audio, message",
    [
        (np.zeros((RATE, 2), np.float32), r"audio.shape=\(22050, 2\)"),
        ([SECOND, np.zeros((2, RATE), np.float32)], r"clip 1: .*shape \(2, 22050\)"),
        (np.zeros((2, 3, RATE), np.float32), r"audio.shape=\(2, 3, 22050\)"),
        (np.zeros(RATE, np.int16), "clip 0: .*torch.int16.* 32768"),
        ([SECOND, [1, 0, 1]], "clip 1: .*torch.int64"),
        ([SECOND, np.zeros(0, np.float32)], "clip 1: 0 samples"),
        ([], "audio: "),
        ([SECOND, np.array([0.0, np.nan, np.inf])], "clip 1: 2 of 3 samples"),
        ([np.array([0.0, 1e300])], "clip 0: 1 of 2 samples"),
        ([SECOND, None], "clip 1: "),
        (["song.mp3"], "clip 0: "),
        ("song.mp3", "audio: .* str"),
        (None, "audio: .* NoneType"),
    ],
)
def test_anything_but_mono_floats_is_refused(audio, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        AudioFeatureExtractor()(audio, sampling_rate=RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [44100, None])
def test_another_rate_is_refused(rate):
    with pytest.raises(ValueError, match=f"sampling_rate={rate}: .* 22050"):
        AudioFeatureExtractor()(SECOND, sampling_rate=rate)


def test_an_unknown_tensor_type_is_refused():
    with pytest.raises(ValueError, match="return_tensors='tf'"):
        AudioFeatureExtractor()(SECOND, sampling_rate=RATE, return_tensors="tf")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_mel_bin": 40}, "AudioFeatureExtractor: num_mel_bin=40: .*'num_mel_bins'"),
        ({"xyzzy": 1}, "AudioFeatureExtractor: xyzzy=1: .*sampling_rate"),
        ({"feature_type": "chroma"}, "feature_type='chroma': .*'log_mel', 'mfcc'"),
        ({"pooling": "max"}, "pooling='max'"),
        ({"mel_norm": 2}, "mel_norm=2"),
        ({"double_precision": "no"}, "double_precision='no'"),
        ({"n_fft": 401}, "n_fft=401"),
        ({"n_fft": 2048.0}, "n_fft=2048.0"),
        ({"hop_length": 0}, "hop_length=0"),
        ({"hop_length": 4096}, "hop_length=4096: .*n_fft=2048"),
        ({"feature_type": "mfcc", "num_mfcc": 65}, "num_mfcc=65: .*num_mel_bins=64"),
        ({"max_frequency": 12000.0}, "max_frequency=12000.0: .*max <= 11025.0"),
        ({"min_frequency": "20"}, "min_frequency='20'"),
        ({"frame_rate": 22.0}, "frame_rate=22.0: .* 21.533 Hz"),
        ({"frame_rate": 44.0, "pooling": "past"}, "frame_rate=44.0: .* 43.066 Hz"),
        ({"frame_rate": 0}, "frame_rate=0"),
        ({"frame_rate": float("nan")}, "frame_rate=nan"),
        ({"num_mel_bins": 800}, r"num_mel_bins=800: \d+ bands"),
    ],
)
@pytest.mark.filterwarnings("ignore:At least one mel filter")
def test_invalid_settings_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        AudioFeatureExtractor(**options)


# Saving


def test_settings_are_saved_as_plain_json(tmp_path):
    extractor = AudioFeatureExtractor(
        feature_type="mfcc", num_mfcc=13, frame_rate=None, mel_norm=None, max_frequency=8000.0, pooling="past"
    )
    audio = sounds(RATE)["noise"]
    before = features_of(extractor, audio)
    extractor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert not any(isinstance(value, list) for value in saved.values())
    loaded = AudioFeatureExtractor.from_pretrained(tmp_path)
    for name in ("sampling_rate", "feature_type", "num_mfcc", "frame_rate", "mel_norm", "max_frequency", "pooling"):
        assert getattr(loaded, name) == getattr(extractor, name) == saved[name]
    np.testing.assert_array_equal(features_of(loaded, audio), before)
    assert AudioFeatureExtractor.from_pretrained(tmp_path, num_mfcc=20).feature_size == 20


def test_using_an_extractor_does_not_change_its_fingerprint():
    # `Dataset.map` caches features by this fingerprint.
    extractor = AudioFeatureExtractor()
    fresh = Hasher.hash(extractor)
    features_of(extractor, SECOND)
    assert Hasher.hash(extractor) == fresh
    assert Hasher.hash(AudioFeatureExtractor()) == fresh != Hasher.hash(AudioFeatureExtractor(frame_rate=2.0))


ELSEWHERE = """
import resource, sys
import numpy as np
import torch
from transformers import AutoFeatureExtractor

extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert "modeling" not in sys.modules and type(extractor).__module__.startswith("transformers_modules.")
features = extractor(np.load(sys.argv[2]), sampling_rate=extractor.sampling_rate)["input_features"]
np.save(sys.argv[3], features.numpy())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
minutes = torch.zeros(10 * 60 * extractor.sampling_rate)
assert extractor(minutes, sampling_rate=extractor.sampling_rate)["input_features"].shape[1] == 2401
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_it_loads_without_the_repository_and_ten_minutes_of_audio_need_little_memory(tmp_path):
    extractor = AudioFeatureExtractor()
    extractor.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "feature_extraction_audio.py").is_file()
    audio = sounds(RATE)["noise"]
    np.save(tmp_path / "audio.npy", audio)
    command = [sys.executable, "-I", "-c", ELSEWHERE, "saved", "audio.npy", "features.npy"]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # the order of sums affects the last bits
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy")[0], features_of(extractor, audio))
    # 53 MB of audio twice (input, padded), 7 MB of features twice, and the block. All spectra at once would be 850 MB.
    assert float(done.stdout.split()[-1]) < 200  # MB


@given(
    frames=st.sampled_from([(4.0, "centered"), (4.0, "past"), (0.7, "centered"), (15.3, "centered"), (None, "past")]),
    samples=st.integers(1, 30_000),
    cuts=st.lists(st.integers(0, 30_000), max_size=6),
    feature_type=st.sampled_from(["log_mel", "mfcc"]),
)
@settings(max_examples=60)
def test_audio_in_blocks_has_the_features_of_the_whole(frames, samples, cuts, feature_type):
    extractor = small_extractor((4000, (256, 100), *frames), feature_type=feature_type, num_mfcc=4)
    audio = np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32)
    edges = [0, *sorted(min(cut, samples) for cut in cuts), samples]
    blocks = (audio[start:stop] for start, stop in itertools.pairwise(edges))
    pieces = list(extractor.stream(blocks, extractor.sampling_rate))
    assert all(piece.shape[1] for piece in pieces)
    whole = extractor(audio, sampling_rate=extractor.sampling_rate)["input_features"]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-4)


def test_blocks_of_any_length_give_the_same_features():
    extractor, audio = AudioFeatureExtractor(), sounds(22050)["noise"]
    audio = np.tile(audio, -(-22050 * 30 // len(audio)))  # 30 s
    results = []
    for length in (830, 4096, 22050, 22050 * 20, len(audio)):  # samples per block
        blocks = np.split(audio, range(length, len(audio), length))
        results.append(torch.cat(list(extractor.stream(blocks, 22050)), 1))
    for features in results:  # a matrix product may sum one row in another order than many rows
        torch.testing.assert_close(features, results[-1], rtol=0, atol=1e-5)
    assert torch.equal(results[-2], results[-1])


def test_an_empty_stream_nan_and_another_rate_are_refused():
    extractor = AudioFeatureExtractor()
    with pytest.raises(ValueError, match="^blocks: "):
        list(extractor.stream([], 22050))
    with pytest.raises(ValueError, match="^samples 5 to 7: "):
        list(extractor.stream([np.zeros(5, np.float32), np.array([0, np.nan], np.float32)], 22050))
    with pytest.raises(ValueError, match="sampling_rate=44100: .* 22050"):
        list(extractor.stream([np.zeros(5, np.float32)], 44100))

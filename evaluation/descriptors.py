"""Four interpretable descriptors of a sound, on the time grid of the skin conductance, for baselines."""

import librosa
import numpy as np

SAMPLING_RATE = 22050  # Hz
HOP_LENGTH = 512  # samples between spectra
N_FFT = 2048  # samples per spectrum
DESCRIPTORS = ("loudness", "onset_strength", "brightness", "flux")
SILENCE = 1e-5  # amplitude (-100 dB) that counts as silence
LOWEST_CENTROID = 20.0  # Hz; the centroid of silence is 0 Hz, and log2(0) is undefined


def describe(sound: np.ndarray, frame_rate: float) -> np.ndarray:
    """Return DESCRIPTORS (T, 4) of a mono sound (samples,) at SAMPLING_RATE, averaged onto `frame_rate` Hz.

    - loudness: RMS in dB
    - onset_strength: librosa's, rises of the mel spectrum in dB
    - brightness: spectral centroid in octaves above 20 Hz
    - flux: root of the summed squared rises of the magnitude spectrum, relative to its sum

    Frame i is the mean over [(i - 0.5) / frame_rate, (i + 0.5) / frame_rate), as for the features of the models.
    """
    magnitude = np.abs(librosa.stft(sound, n_fft=N_FFT, hop_length=HOP_LENGTH))  # (frequencies, K)
    rms = librosa.feature.rms(y=sound, frame_length=N_FFT, hop_length=HOP_LENGTH)[0]
    onset = librosa.onset.onset_strength(y=sound, sr=SAMPLING_RATE, hop_length=HOP_LENGTH)
    centroid = librosa.feature.spectral_centroid(S=magnitude, sr=SAMPLING_RATE)[0]
    rises = np.maximum(np.diff(magnitude, axis=1, prepend=magnitude[:, :1]), 0)
    flux = np.sqrt((rises**2).sum(axis=0)) / np.maximum(magnitude.sum(axis=0), SILENCE)
    loudness = 20 * np.log10(np.maximum(rms, SILENCE))
    brightness = np.log2(np.maximum(centroid, LOWEST_CENTROID) / LOWEST_CENTROID)
    spectra = np.stack([loudness, onset, brightness, flux], axis=1)  # (K, 4)
    return pool(spectra, frames=int(len(sound) / SAMPLING_RATE * frame_rate) + 1, frame_rate=frame_rate)


def pool(spectra: np.ndarray, frames: int, frame_rate: float) -> np.ndarray:
    """Average values (K, D), one row per hop, over the time interval of each frame: (frames, D)."""
    times = np.arange(len(spectra)) * HOP_LENGTH / SAMPLING_RATE  # s
    frame = np.minimum(np.floor(times * frame_rate + 0.5).astype(int), frames - 1)
    sums = np.stack([np.bincount(frame, column, frames) for column in spectra.T], axis=1)
    return sums / np.bincount(frame, minlength=frames)[:, None]

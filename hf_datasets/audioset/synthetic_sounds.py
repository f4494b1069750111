"""Synthesize sounds for a dozen of AudioSet's labels.

Each function makes (samples,) at RATE from a random stream and a length in seconds. The sounds are caricatures that a
person and a small network can tell apart: a cry has harmonics that bend and tremble, a bark is a burst, rain has no
pitch. Some are similar to a cry on purpose: a meow bends like a cry, baby laughter has the same pitch in quick bursts,
a whimper is a short soft cry, a siren glides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000  # Hz
MP3_LEVEL = 0.94  # soundfile's compression level: 16 kbit/s at this rate


def cry(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a baby's cry: one breath, 350 to 560 Hz, rising and falling, with vibrato and many harmonics."""
    pitch = rng.uniform(380, 540) * _arch(seconds, 0.82, 1.0, rng.uniform(0.65, 0.85))
    pitch *= 1 + rng.uniform(0.02, 0.04) * np.sin(2 * np.pi * rng.uniform(5, 8) * _clock(seconds) + rng.uniform(0, 6))
    voice = _voiced(pitch, 14, 0.55) + 0.15 * rng.standard_normal(len(pitch))
    return _fade(_resonant(voice, (1100, 3200), (180, 400)), 0.04, 0.1)


def whimper(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a soft, short, falling cry with tremolo."""
    pitch = rng.uniform(300, 420) * np.linspace(1.0, 0.75, _samples(seconds))
    tremble = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(9, 14) * _clock(seconds))
    return _fade(_voiced(pitch, 5, 0.9) * tremble, 0.05, 0.15)


def sob(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make an adult's crying: gasps at about 4 Hz in a falling voice."""
    pitch = rng.uniform(190, 280) * np.linspace(1.1, 0.8, _samples(seconds))
    gasps = np.maximum(np.sin(2 * np.pi * rng.uniform(3, 5) * _clock(seconds)), 0) ** 0.7
    breath = 0.3 * rng.standard_normal(len(pitch))
    return _fade(_resonant(_voiced(pitch, 14, 0.8) + breath, (700, 1500), (150, 250)) * gasps, 0.03, 0.1)


def laughter(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a baby's laughter: bursts of 0.1 s, five per second, at the pitch of a cry."""
    pitch = rng.uniform(360, 520) * (1 + 0.12 * np.sin(2 * np.pi * rng.uniform(4.5, 6) * _clock(seconds)))
    bursts = (np.sin(2 * np.pi * rng.uniform(4.5, 6) * _clock(seconds)) > 0.2).astype(float)
    return _fade(_resonant(_voiced(pitch, 12, 0.6), (1000, 2800), (200, 400)) * _smooth(bursts, 0.015), 0.02, 0.05)


def meow(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a cat's meow: harmonics that bend up and down once, without vibrato, through an opening mouth."""
    pitch = rng.uniform(420, 640) * _arch(seconds, 0.7, 1.05, 0.6)
    voice = _voiced(pitch, 10, 0.5)
    opening = _arch(seconds, 0.2, 1.0, 0.1)
    return _fade(_resonant(voice, (900, 1800), (150, 300)) * opening, 0.08, 0.15)


def bark(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a dog's bark: short rough bursts."""
    sound = np.zeros(_samples(seconds))
    length = _samples(0.16)
    decay = np.exp(-np.arange(length) / RATE / 0.05)
    pitch = rng.uniform(160, 320)
    for start in np.arange(0, max(seconds - 0.16, 0.01), rng.uniform(0.3, 0.5)):
        first = _samples(start)
        burst = _voiced(pitch * np.linspace(1.3, 0.8, length), 12, 0.3) + 0.8 * rng.standard_normal(length)
        sound[first : first + length] += (burst * decay)[: len(sound) - first]
    return _resonant(sound, (600, 1400), (200, 400))


def siren(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a siren: a tone that glides between two pitches."""
    middle, width = rng.uniform(700, 1000), rng.uniform(1.3, 1.7)
    pitch = middle * width ** np.sin(2 * np.pi * rng.uniform(0.25, 1.5) * _clock(seconds) + rng.uniform(0, 6))
    return _fade(_voiced(pitch, 3, 0.3), 0.2, 0.2)


def beeps(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make an alarm clock: groups of short square-wave tones."""
    clock = _clock(seconds)
    tone = np.sign(np.sin(2 * np.pi * rng.uniform(1200, 2600) * clock))
    gate = (clock * rng.uniform(3, 6) % 1 < 0.5) & (clock % 1.0 < 0.7)
    return tone * _smooth(gate.astype(float), 0.005)


def speech(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make speech: four syllables per second, vowels with two resonances, consonants of noise."""
    sound = np.zeros(_samples(seconds))
    pitch, begin = rng.uniform(95, 230), 0
    while begin < len(sound):
        length = _samples(rng.uniform(0.12, 0.3))
        vowel = _voiced(pitch * rng.uniform(0.9, 1.15) * np.linspace(1.05, 0.92, length), 24, 0.6)
        vowel = _resonant(vowel, (rng.uniform(300, 800), rng.uniform(900, 2300)), (90, 140))
        syllable = _fade(vowel, 0.02, 0.05) * rng.uniform(0.5, 1)
        hiss = _samples(0.05)
        syllable[:hiss] += rng.uniform(0, 0.5) * np.diff(rng.standard_normal(hiss + 1))[: len(syllable)]
        end = min(begin + length, len(sound))
        sound[begin:end] += syllable[: end - begin]
        begin = end + _samples(rng.choice([0.02, 0.02, 0.05, 0.3]))  # s; the longest is a pause between words
    return sound


def music(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make music: chords and plucked notes on a beat."""
    sound = np.zeros(_samples(seconds))
    root = 110 * 2 ** (rng.integers(0, 12) / 12)
    scale = root * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16]) / 12)  # a major scale
    beat = 60 / rng.uniform(80, 140)  # s
    for number, start in enumerate(np.arange(0, seconds, beat / 2)):
        notes = [0, 2, 4] if number % 8 == 0 else [int(rng.integers(3, len(scale)))]
        length = _samples(1.6 if number % 8 == 0 else 0.5)
        decay = np.exp(-np.arange(length) / RATE / (0.8 if number % 8 == 0 else 0.2))
        first = _samples(start)
        for note in notes:
            tone = _voiced(np.full(length, scale[note]), 5, 0.9) * decay
            sound[first : first + length] += tone[: len(sound) - first]
    return sound


def rain(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make rain: hiss and drops."""
    hiss = np.diff(rng.standard_normal(_samples(seconds) + 1))
    drops = np.where(rng.uniform(size=len(hiss)) < 0.004, rng.exponential(4, len(hiss)), 0)
    return 0.6 * hiss + filtered([1], [1, -0.6, 0.5], drops)


def vehicle(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make a vehicle: the rumble of an engine."""
    pitch = rng.uniform(28, 60) * (1 + 0.1 * np.sin(2 * np.pi * 0.2 * _clock(seconds)))
    rumble = filtered([0.05], [1, -0.95], rng.standard_normal(_samples(seconds)))
    return _voiced(pitch, 20, 0.4) + 2 * rumble


def noise(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Make background noise whose spectrum falls with frequency, at a random slope."""
    return filtered([1], [1, -rng.uniform(0.3, 0.97)], rng.standard_normal(_samples(seconds)))


@dataclass(frozen=True)
class SoundClass:
    """A kind of sound and how its events are drawn.

    Attributes:
        mids: MIDs of its events; the first one is also the weak label.
        make: function that makes one event.
        lengths: shortest and longest event, s.
        counts: fewest and most events per clip.
        share: relative frequency among clips.
    """

    mids: tuple[str, ...]
    make: Callable[[np.random.Generator, float], np.ndarray]
    lengths: tuple[float, float]
    counts: tuple[int, int]
    share: float


TARGET = "/t/dd00002"
SOUND_CLASSES = (
    SoundClass((TARGET,), cry, (0.35, 1.6), (2, 6), 0.0),  # not drawn by share: a fixed third of the clips have it
    SoundClass(("/m/09x0r",), speech, (1.0, 6.0), (1, 3), 0.30),
    SoundClass(("/m/04rlf",), music, (5.0, 10.0), (1, 1), 0.26),
    SoundClass(("/t/dd00001",), laughter, (0.5, 1.8), (1, 4), 0.06),
    SoundClass(("/m/07qz6j3",), whimper, (0.25, 0.8), (2, 5), 0.05),
    SoundClass(("/m/0463cq4",), sob, (0.8, 2.5), (1, 4), 0.04),
    SoundClass(("/m/07qrkrw",), meow, (0.4, 1.1), (1, 5), 0.07),
    SoundClass(("/m/05tny_",), bark, (0.4, 2.0), (1, 4), 0.07),
    SoundClass(("/m/03kmc9",), siren, (2.5, 8.0), (1, 1), 0.06),
    SoundClass(("/m/046dlr", "/t/dd00138"), beeps, (1.0, 4.0), (1, 2), 0.05),
    SoundClass(("/m/06mb1",), rain, (8.0, 10.0), (1, 1), 0.05),
    SoundClass(("/m/07yv9",), vehicle, (4.0, 10.0), (1, 1), 0.05),
)


def write_sound(path: Path, sound: np.ndarray, rate: int = RATE) -> None:
    """Write a clip (samples,) or (samples, channels), between -1 and 1, in the format of the path's suffix."""
    # Only an average bit rate makes the encoder write a length tag. With it, decoders can seek and remove the delay.
    options = {"compression_level": MP3_LEVEL, "bitrate_mode": "AVERAGE"} if path.suffix == ".mp3" else {}
    soundfile.write(path, (sound * 32767).astype(np.int16), rate, **options)


def _samples(seconds: float) -> int:
    return round(seconds * RATE)


def _clock(seconds: float) -> np.ndarray:
    return np.arange(_samples(seconds)) / RATE


def _arch(seconds: float, first: float, middle: float, last: float) -> np.ndarray:
    """Return a curve (samples,) from `first` through `middle`, at 35 % of the length, to `last`."""
    return np.interp(np.linspace(0, 1, _samples(seconds)), [0, 0.35, 1], [first, middle, last])


def _voiced(pitch: np.ndarray, harmonics: int, fall: float) -> np.ndarray:
    """Return the harmonics of a pitch (samples,) in Hz; harmonic k has the amplitude 1 / k**fall."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    highest = pitch.max(initial=1)
    # Harmonics above half the sampling rate would alias.
    return sum(np.sin(k * phase) / k**fall for k in range(1, harmonics + 1) if k * highest < RATE / 2 * 0.95)


def _resonant(sound: np.ndarray, centres: tuple[float, ...], widths: tuple[float, ...]) -> np.ndarray:
    """Raise the frequencies around `centres` (Hz), with bandwidths `widths` (Hz), like the formants of a mouth."""
    raised = 0.15 * sound
    for centre, width in zip(centres, widths, strict=True):
        radius = np.exp(-np.pi * width / RATE)
        raised = raised + filtered(
            [1 - radius], [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2], sound
        )
    return raised


def _smooth(gate: np.ndarray, seconds: float) -> np.ndarray:
    window = np.hanning(_samples(seconds) + 2)[1:-1]
    return np.convolve(gate, window / window.sum(), mode="same")


def _fade(sound: np.ndarray, rise: float, fall: float) -> np.ndarray:
    clock = np.arange(len(sound)) / RATE
    return sound * np.minimum(1, np.minimum(clock / rise, (len(sound) / RATE - clock) / fall))


def filtered(b: list[float], a: list[float], sound: np.ndarray) -> np.ndarray:
    """Apply a linear filter with the coefficients `b` / `a`."""
    from scipy.signal import lfilter  # imported late: it would add half a second to `--help`

    return lfilter(b, a, sound)

"""Make text, video and audio of synthetic utterances: caricatures of seven emotions, each shown in three ways.

Text shows an emotion by a phrase, video by the colour and motion of a disc, audio by a melody. Surprise is pleasant or
nasty: text and audio show which, video does not.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 80, 60  # pixels
FRAME_RATE = 15  # Hz
SAMPLING_RATE = 16000  # Hz
VIDEO_BIT_RATE, AUDIO_BIT_RATE = 24_000, 16_000  # bit/s; AUDIO_BIT_RATE is per channel
THINGS = (
    "the ferry", "the kettle", "our tent", "the piano", "my bicycle", "the garden", "the letter", "this bridge",
    "the bakery", "her coat", "the lantern", "that puzzle",
)  # fmt: skip
NEUTRAL_SENTENCES = (
    "{} is over there.", "I left {} where it was.", "We can look at {} later.", "They talked about {}.",
    "You asked me about {}.", "So, {} again.", "It is the one next to {}.", "Please wait here with {}.",
)  # fmt: skip
PHRASES = {
    "anger": (
        "I am furious about {}!", "Stop shouting about {}!", "How dare you break {}!", "I’m so angry, give me {}!",
        "Enough! I hate it when you take {}!",
    ),
    "disgust": (
        "Yuck, {} smells rotten.", "That is disgusting, look at {}.", "Ugh, {} is covered in slime.",
        "How gross, {} is mouldy.",
    ),
    "fear": (
        "I’m scared of {}.", "Hide, something moves behind {}!", "I’m terrified, don’t go near {}.",
        "Help, I am afraid of {}!",
    ),
    "joy": (
        "I am so happy with {}!", "Hooray, we won {}!", "I love {}, it is wonderful!", "What a lovely day for {}!",
        "Great, you’ve finished {}!",
    ),
    "sadness": (
        "I miss {} so much.", "I cried about {} all night.", "It’s lonely here without {}.",
        "Sorry, {} is gone forever.",
    ),
    "pleasant surprise": (
        "Wow, you brought me {}!", "Oh my, a present, and it is {}!", "Unbelievable, you found {}!",
    ),
    "nasty surprise": (
        "What? You lost {}?", "Oh no, you sold {}?", "Wait, what, somebody stole {}?",
    ),
}  # fmt: skip
DISCS: dict[str, tuple[tuple[int, int, int], Callable[[np.ndarray, float], tuple]]] = {
    # Colour (RGB), and (x, y, size) by time t in s and phase a: x and y from the middle, as shares of width and
    # height, and the radius as a share of the height.
    "anger": ((200, 30, 30), lambda t, a: (0.12 * np.sign(np.sin(25 * t + a)), 0 * t, 0.3 + 0 * t)),
    "disgust": ((110, 160, 20), lambda t, a: (0.15 * np.cos(5 * t + a), 0.15 * np.sin(5 * t + a), 0.22 + 0 * t)),
    "fear": ((120, 40, 160), lambda t, a: (0.03 * np.sin(40 * t + a), 0 * t, 0.32 * np.exp(-0.8 * t) + 0.04)),
    "joy": ((240, 210, 40), lambda t, a: (0.1 * np.sin(2 * t + a), 0.25 - 0.4 * abs(np.sin(6 * t + a)), 0.2 + 0 * t)),
    "neutral": ((140, 140, 140), lambda t, a: (0.05 * np.sin(t + a), 0 * t, 0.24 + 0 * t)),
    "sadness": ((50, 80, 190), lambda t, a: (0 * t, np.minimum(-0.2 + 0.3 * t, 0.3), 0.2 + 0 * t)),
    "surprise": ((250, 150, 210), lambda t, a: (0 * t, 0 * t, np.minimum(0.08 + 0.4 * t, 0.45))),
}  # fmt: skip


def say(rng: np.random.Generator, mood: str) -> str:
    """Make a sentence for a mood: an emotion, or one of "pleasant surprise" and "nasty surprise"."""
    sentences = PHRASES.get(mood, NEUTRAL_SENTENCES)
    sentence = sentences[rng.integers(len(sentences))].format(THINGS[rng.integers(len(THINGS))])
    return sentence[0].upper() + sentence[1:]


def show(rng: np.random.Generator, emotion: str, seconds: float) -> np.ndarray:
    """Make pictures (frames, height, width, 3) uint8 of a disc that moves on a grey ground.

    Position of the disc and brightness of the ground are random, so neither reveals the emotion.
    """
    colour, path = DISCS[emotion]
    clock = np.arange(max(round(seconds * FRAME_RATE), 1)) / FRAME_RATE
    x, y, size = (part[:, None, None] for part in path(clock, rng.uniform(0, 6)))
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    middle = 0.5 + rng.uniform(-0.1, 0.1, 2)
    distance = np.hypot(columns - WIDTH * (middle[0] + x), rows - HEIGHT * (middle[1] + y))  # (frames, height, width)
    inside = np.clip(HEIGHT * size - distance + 0.5, 0, 1)[..., None]  # 0 to 1, with a soft edge of one pixel
    ground = rng.uniform(40, 110)
    return (
        np.rint(inside * np.array(colour) * rng.uniform(0.8, 1.05) + (1 - inside) * ground).clip(0, 255).astype("u1")
    )


def sing(rng: np.random.Generator, mood: str, seconds: float) -> np.ndarray:
    """Make a sound (samples,) between -1 and 1 with the melody of a mood, at a random level, with some noise."""
    t = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    key = rng.uniform(0.9, 1.1)
    one, zero = np.ones_like(t), np.zeros_like(t)
    pitch, strength, rough = {  # Hz (samples,); amplitude, 0 to 1 (samples,); strength of the harmonics, 0 to 1
        "anger": (150 * one, (np.sin(2 * np.pi * 9 * t) > 0).astype(float), 0.9),
        "disgust": (95 * one, 0.6 + 0.4 * np.sin(2 * np.pi * 28 * t), 1.0),
        "fear": (1100 + 60 * np.sin(2 * np.pi * 13 * t), 0.5 + 0.5 * np.sin(2 * np.pi * 13 * t), 0.1),
        "joy": (520 * 2 ** (np.floor(t * 6) % 4 * 4 / 12), 1 - t * 6 % 1, 0.3),
        "sadness": (330 * 2 ** (-t / 1.5), one, 0.2),
        "pleasant surprise": (300 * 2 ** np.minimum(3 * t, 2.2), one, 0.3),
        "nasty surprise": (1300 * 2 ** -np.minimum(3 * t, 2.2), one, 0.3),
    }.get(mood, (220 * one, 0.8 + zero, 0.3))
    phase = 2 * np.pi * np.cumsum(pitch * key) / SAMPLING_RATE
    voice = sum(rough ** (n - 1) / n * np.sin(n * phase) for n in range(1, 9))
    sound = voice * strength + 0.05 * rng.standard_normal(len(t))
    return sound / np.abs(sound).max() * 10 ** (rng.uniform(-20, -3) / 20)


def write_clip(
    path: Path, pictures: np.ndarray | None, sound: np.ndarray | None, channels: int = 1, rate: int = FRAME_RATE
) -> None:
    """Write an mp4 file.

    The index is at the end, where ffmpeg writes it by default, so a file that was cut off has no index.

    Args:
        path: its folder is created if necessary.
        pictures: (frames, height, width, 3) uint8; None for no video.
        sound: (samples,); None for no audio.
        channels: 1, 2 or 6 (5.1); with 6 only the centre has the sound.
        rate: of the pictures, Hz.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        video = audio = None
        if pictures is not None:
            video = container.add_stream("mpeg4", rate=rate)
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            video.bit_rate, video.thread_count = VIDEO_BIT_RATE, 1  # one thread: the same bytes on every machine
        if sound is not None:
            audio = container.add_stream(
                "aac", rate=SAMPLING_RATE, layout={1: "mono", 2: "stereo", 6: "5.1"}[channels]
            )
            audio.bit_rate = AUDIO_BIT_RATE * channels
        if video is not None:
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, rate)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio is not None:
            planes = np.zeros((channels, len(sound)), np.float32)
            planes[2 if channels == 6 else slice(None)] = sound  # channel 2 of 5.1 is the centre
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=audio.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = SAMPLING_RATE, 0, Fraction(1, SAMPLING_RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())

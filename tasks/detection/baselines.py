"""Baselines without a neural network: loudness, and logistic regression on MFCC statistics of the same windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchaudio.transforms import MFCC, ComputeDeltas
from tqdm import tqdm
from transformers import Trainer

from tasks.detection.embedded import with_embeddings
from tasks.detection.items import Items, Kind
from tasks.detection.windows import AudioSetWindows
from training.workers import sharing_files

# N windows, B windows per batch, S samples per window, F frames, D numbers that describe a window

QUIETEST = 1e-5  # RMS relative to full scale, -100 dB; digital silence would give log(0)
COEFFICIENTS, MEL_BANDS = 20, 40
FFT_SECONDS, HOP_SECONDS = 0.032, 0.016
TRAINING_WINDOWS = 4096  # at most
POSITIVE_SHARE = 0.25  # as in the default batch
ITERATIONS = 1000  # limit of the logistic regression


class WindowDescriptors(torch.nn.Module):
    """Map windows (B, S) to (B, 1 + D): loudness in dB, then mean and deviation of MFCCs and their deltas."""

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        mel = {
            "n_fft": round(FFT_SECONDS * sampling_rate),
            "hop_length": round(HOP_SECONDS * sampling_rate),
            "n_mels": MEL_BANDS,
        }
        # With log_mels=False torchaudio clips decibels relative to the loudest window of the batch, so a window's
        # values would depend on the rest of the batch.
        self.mfcc = MFCC(sampling_rate, n_mfcc=COEFFICIENTS, log_mels=True, melkwargs=mel)
        self.deltas = ComputeDeltas()

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        loudness = 20 * audio.square().mean(1, keepdim=True).sqrt().clamp(min=QUIETEST).log10()  # (B, 1)
        coefficients = self.mfcc(audio)  # (B, COEFFICIENTS, F)
        series = torch.cat([coefficients, self.deltas(coefficients)], 1)
        return torch.cat([loudness, series.mean(2), series.std(2, correction=0)], 1)


def without_augmentation(windows: AudioSetWindows) -> AudioSetWindows:
    """Return the same windows as audio without augmentation; decoded audio in memory is shared."""
    copied = with_embeddings(windows, None)
    copied.augmentation = None
    return copied


@dataclass(frozen=True)
class PlainWindows(Dataset):
    """Audio of windows, optionally for a given list of item numbers and seeds."""

    windows: Dataset
    wanted: Sequence[tuple[int, int]] | None = None  # item numbers and seeds; None: all items in order

    def __len__(self) -> int:
        return len(self.windows if self.wanted is None else self.wanted)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.windows[index if self.wanted is None else self.wanted[index]]["audio"])


def describe_windows(
    trainer: Trainer, windows: Dataset, describe: Callable[[torch.Tensor], torch.Tensor]
) -> np.ndarray:
    """Apply `describe` to the audio of all windows, read by all processes; returns (N, ...) in window order."""
    args, accelerator = trainer.args, trainer.accelerator
    loader = DataLoader(
        windows,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        generator=torch.Generator(),  # keeps the state of the global generator
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    progress = tqdm(
        sharing_files(accelerator.prepare(loader)), desc="baselines", unit="batch", leave=False, delay=1,
        disable=bool(args.disable_tqdm) or not accelerator.is_main_process,
    )  # fmt: skip
    with torch.inference_mode():
        batches = [accelerator.gather_for_metrics(describe(batch.cpu())) for batch in progress]
    return torch.cat([torch.as_tensor(batch) for batch in batches]).cpu().numpy().astype(np.float64)


def training_windows(items: Items) -> list[tuple[int, int]]:
    """Choose item numbers and seeds to fit on: positives repeated, and equally many negatives of each kind."""
    dice = np.random.default_rng(0)
    is_positive = items.kind == Kind.POSITIVE
    positives, negatives = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    if not len(positives) or not len(negatives):
        return []
    positive_count = int(TRAINING_WINDOWS * POSITIVE_SHARE)
    by_kind = [negatives[items.kind[negatives] == kind] for kind in np.unique(items.kind[negatives])]
    negative_count = (TRAINING_WINDOWS - positive_count) // len(by_kind)  # per kind
    drawn = np.concatenate(
        [
            repeat_shuffled(members, count, dice)
            for members, count in [(positives, positive_count), *((members, negative_count) for members in by_kind)]
        ]
    )
    return list(zip(drawn.tolist(), dice.integers(2**63, size=len(drawn)).tolist(), strict=True))


def repeat_shuffled(members: np.ndarray, count: int, dice: np.random.Generator) -> np.ndarray:
    """Draw `count` members in shuffled rounds, so that each comes equally often (within one)."""
    rounds = [dice.permutation(members) for _ in range(-(-count // len(members)))]
    return np.concatenate(rounds)[:count]


def logistic_regression(descriptors: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit descriptors (N, D) to targets (N,); returns a function from descriptors to scores in [0, 1]."""
    # Imported here because scikit-learn takes 2 s to import, and only a final evaluation needs it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Balanced, because three quarters of the training windows are negatives.
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=ITERATIONS))
    model.fit(descriptors, targets)
    return lambda values: model.predict_proba(values)[:, 1]

"""The baseline that a sceptic would run first: statistics of MFCCs of the same windows, and logistic regression."""

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

# N windows, B windows of a batch, S samples of a window, F frames, D numbers that describe a window

QUIETEST = 1e-5  # of full scale: -100 dB, the loudness of digital silence
COEFFICIENTS, MEL_BANDS = 20, 40
FFT_SECONDS, HOP_SECONDS = 0.032, 0.016
TRAINING_WINDOWS = 4096  # at most; a quarter of them hold the target
POSITIVE_SHARE = 0.25
ITERATIONS = 1000  # of the logistic regression, at most


class WindowDescriptors(torch.nn.Module):
    """Loudness in dB, then mean and deviation over time of MFCCs and of their deltas: windows (B, S) to (B, 1 + D)."""

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        mel = {
            "n_fft": round(FFT_SECONDS * sampling_rate),
            "hop_length": round(HOP_SECONDS * sampling_rate),
            "n_mels": MEL_BANDS,
        }
        # log_mels: decibels would be cut off relative to the loudest window of the batch
        self.mfcc = MFCC(sampling_rate, n_mfcc=COEFFICIENTS, log_mels=True, melkwargs=mel)
        self.deltas = ComputeDeltas()

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        loudness = 20 * audio.square().mean(1, keepdim=True).sqrt().clamp(min=QUIETEST).log10()  # (B, 1)
        coefficients = self.mfcc(audio)  # (B, COEFFICIENTS, F)
        both = torch.cat([coefficients, self.deltas(coefficients)], 1)
        return torch.cat([loudness, both.mean(2), both.std(2, correction=0)], 1)


def plain(windows: AudioSetWindows) -> AudioSetWindows:
    """The sound of the same windows without augmentation; sounds in memory are shared."""
    other = with_embeddings(windows, None)
    other.augmentation = None
    return other


@dataclass(frozen=True)
class PlainWindows(Dataset):
    """The sound of windows that can be asked for by number, or by number and seed."""

    windows: Dataset
    wanted: Sequence[tuple[int, int]] | None = None  # numbers and seeds; None: all, by number

    def __len__(self) -> int:
        return len(self.windows if self.wanted is None else self.wanted)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.from_numpy(self.windows[place if self.wanted is None else self.wanted[place]]["audio"])


def described(trainer: Trainer, windows: Dataset, describe: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Read all windows by the workers of all processes; returns what a function makes of their sound (N, ...)."""
    args, accelerator = trainer.args, trainer.accelerator
    loader = DataLoader(
        windows,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        generator=torch.Generator(),  # the global one has to stay as it was
        multiprocessing_context=args.dataloader_multiprocessing_context,
    )
    shown = tqdm(
        sharing_files(accelerator.prepare(loader)), desc="baselines", unit="batch", leave=False, delay=1,
        disable=bool(args.disable_tqdm) or not accelerator.is_main_process,
    )  # fmt: skip
    with torch.inference_mode():
        batches = [accelerator.gather_for_metrics(describe(batch.cpu())) for batch in shown]
    return torch.cat([torch.as_tensor(batch) for batch in batches]).cpu().numpy().astype(np.float64)


def training_windows(items: Items) -> list[tuple[int, int]]:
    """Numbers and seeds of the windows to fit on: positives repeated, and equally many negatives of each kind."""
    dice = np.random.default_rng(0)
    positives, negatives = (np.flatnonzero((items.kind == Kind.POSITIVE) == wanted) for wanted in (True, False))
    if not len(positives) or not len(negatives):
        return []
    wanted = int(TRAINING_WINDOWS * POSITIVE_SHARE)
    kinds = [negatives[items.kind[negatives] == kind] for kind in np.unique(items.kind[negatives])]
    share = (TRAINING_WINDOWS - wanted) // len(kinds)
    drawn = np.concatenate(
        [cycled(kind, count, dice) for kind, count in [(positives, wanted), *((k, share) for k in kinds)]]
    )
    return list(zip(drawn.tolist(), dice.integers(2**63, size=len(drawn)).tolist(), strict=True))


def cycled(members: np.ndarray, count: int, dice: np.random.Generator) -> np.ndarray:
    """This number of the members, each as often as the others, in a shuffled order."""
    rounds = [dice.permutation(members) for _ in range(-(-count // len(members)))]
    return np.concatenate(rounds)[:count]


def logistic_regression(descriptors: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit descriptors (N, D) of windows with and without the target (N,); returns scores of others, in [0, 1]."""
    # Imported here because scikit-learn takes 2 s to import, and only a final evaluation needs it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=ITERATIONS))
    model.fit(descriptors, targets)
    return lambda others: model.predict_proba(others)[:, 1]

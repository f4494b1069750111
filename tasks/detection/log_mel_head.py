"""Baseline of a pretrained encoder: the model's head, trained from scratch on log-mel features of the same windows."""

from collections.abc import Callable

import torch
from torch.nn.functional import avg_pool1d
from tqdm import tqdm

from modeling import EncoderConfig
from modeling.layers import init_weights
from modeling.modeling_classification import MULTI, classification_loss
from modeling.modeling_efficientat import FRAMES_PER_EMBEDDING
from modeling.modeling_encoder import head_of
from tasks.detection.collator import SoundExtractor
from tasks.detection.input_scaling import SMALLEST_EMBEDDING_DEVIATION, level_and_spread

# N windows, S samples per window, T frames of features, F mel bands, K frames of embeddings

# Fixed values, not those of the run: a low rate for an encoder, or few steps, would leave this head untrained and
# make the encoder look better than it is.
PASSES = 10  # over the training windows
BATCH_SIZE = 128
LEARNING_RATE = 1e-2  # initial; decays to 0 as a cosine
WEIGHT_DECAY = 0.01


def log_mel_frames(audio: torch.Tensor, extractor: SoundExtractor) -> torch.Tensor:
    """Turn windows (N, S) into log-mel in the layout of embeddings (N, 1 + K, F): window mean, then mean per part."""
    features = extractor(list(audio.numpy()), sampling_rate=extractor.sampling_rate, return_tensors="pt")[
        "input_features"
    ]
    frames = avg_pool1d(features.transpose(1, 2), FRAMES_PER_EMBEDDING, ceil_mode=True).transpose(1, 2)
    return torch.cat([features.mean(1, keepdim=True), frames], 1)


def fit_head(
    frames: torch.Tensor, targets: torch.Tensor, config: EncoderConfig, seed: int, quiet: bool = False
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Train the head of a config on frames (N, 1 + K, F) of windows and their targets (N,).

    Args:
        quiet: no progress bar.

    Returns:
        a function from frames to the logits of each window and of its frames (N, 1 + K).
    """
    mean, deviation = level_and_spread(frames[:, 0], SMALLEST_EMBEDDING_DEVIATION)
    inputs, labels = (frames - mean) / deviation, targets.to(frames.dtype)[:, None]
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed every GPU, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(seed)
        head = head_of(config, frames.shape[2]).apply(init_weights)
        optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = PASSES * -(-len(inputs) // BATCH_SIZE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in tqdm(range(PASSES), desc="head on log-mel", unit="pass", leave=False, delay=1, disable=quiet):
            for chosen in torch.randperm(len(inputs)).split(BATCH_SIZE):
                logits, _ = head(inputs[chosen])
                loss = classification_loss(logits, labels[chosen], MULTI, positive_weight=config.positive_weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    head.eval()

    def predict(frames: torch.Tensor) -> torch.Tensor:
        logits, frame_logits = head((frames - mean) / deviation)
        return torch.cat([logits[:, None], frame_logits], 1)[..., 0]

    return predict

"""`FusionProcessor`: text, frames and audio to inputs of `FusionModel`, saved to the Hub with the model."""

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin


class FusionProcessor(ProcessorMixin):
    """Feature extractor and tokenizer together, with `save_pretrained` and `from_pretrained`.

    >>> batch = processor(text=["You came!", None], audio=[sound, None], videos=[frames, frames], sampling_rate=16000)
    """

    def __init__(self, feature_extractor: object, tokenizer: object) -> None:
        super().__init__(feature_extractor, tokenizer)

    def __call__(
        self,
        text: str | list[str | None] | None = None,
        videos: list[np.ndarray | None] | np.ndarray | None = None,
        audio: list[np.ndarray | None] | np.ndarray | None = None,
        sampling_rate: int | None = None,
        frame_masks: list[np.ndarray | None] | None = None,
        max_length: int | None = None,
    ) -> BatchFeature:
        """Build the inputs of a batch of utterances, padded to the longest.

        Use None, or an empty text, for a missing modality. Texts of more than `max_length` tokens (default: the limit
        of the tokenizer's model) are cut at the end.
        """
        if text is None and videos is None and audio is None:
            raise ValueError("text=None, videos=None, audio=None: no input. Give at least one of them.")
        batch: dict[str, torch.Tensor] = {}
        if text is not None:
            batch |= self.tokens([text] if isinstance(text, str) else list(text), max_length)
        if videos is not None or audio is not None:
            batch |= self.feature_extractor(videos, audio, sampling_rate, frame_masks)
        return BatchFeature(batch)

    def tokens(self, texts: list[str | None], max_length: int | None) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` (B, L). A missing or blank text has a mask of zeros."""
        # Tokenizers do not accept None. An empty text still gives special tokens, so the mask is set by hand.
        tokens = self.tokenizer(
            [text or "" for text in texts], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )
        has_text = torch.tensor([bool(text and text.strip()) for text in texts]).unsqueeze(1)
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"] * has_text}

    @property
    def model_input_names(self) -> list[str]:
        """Return the names of all inputs that it can build."""
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]

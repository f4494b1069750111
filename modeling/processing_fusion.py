"""Text, frames and sound to what `FusionModel` takes: `FusionProcessor`, for the Hub too."""

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin


class FusionProcessor(ProcessorMixin):
    """Both in one, for `save_pretrained`, `from_pretrained` and the Hub.

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
        """Inputs of some utterances, padded to the longest; None, or an empty text, where one has none of a modality.

        Texts of more than `max_length` tokens (by default what the tokenizer's model takes) are cut at their end.
        """
        if text is None and videos is None and audio is None:
            raise ValueError("neither text nor videos nor audio came; give one of them")
        batch: dict[str, torch.Tensor] = {}
        if text is not None:
            batch |= self.tokens([text] if isinstance(text, str) else list(text), max_length)
        if videos is not None or audio is not None:
            batch |= self.feature_extractor(videos, audio, sampling_rate, frame_masks)
        return BatchFeature(batch)

    def tokens(self, texts: list[str | None], max_length: int | None) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (B, L); a text that is not there, or holds nothing, has a mask of zeros."""
        tokens = self.tokenizer(
            [text or "" for text in texts], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )
        there = torch.tensor([bool(text and text.strip()) for text in texts]).unsqueeze(1)
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"] * there}

    @property
    def model_input_names(self) -> list[str]:
        """Names of all that it can give."""
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names]

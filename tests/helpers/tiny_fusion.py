"""A fusion model so small that a test can train it, and what makes its inputs; the tokenizer is the sample's own."""

import torch
from transformers import AutoConfig, AutoTokenizer

from modeling import FusionConfig, FusionFeatureExtractor, FusionForEmotion, FusionProcessor
from tests.conftest import REPOSITORY

TINY_BERT = REPOSITORY / "configs" / "tiny_bert"


def tiny_processor() -> FusionProcessor:
    """Four frames of 16 x 16 pixels, eight bands of sound."""
    extractor = FusionFeatureExtractor(
        clip_frames=4, video_frame_rate=None, frame_size=[18, 24], crop_size=16, num_mel_bins=8
    )
    return FusionProcessor(extractor, AutoTokenizer.from_pretrained(TINY_BERT))


def tiny_model(**settings: object) -> FusionForEmotion:
    """A model in evaluation, of the inputs of `tiny_processor`; its weights are the same each time."""
    torch.manual_seed(0)
    sizes = {"video_encoder": "small", "num_mel_bins": 8, "hidden_size": 16, "fusion_size": 24, "head_size": 8}
    config = FusionConfig(**{"text_config": AutoConfig.from_pretrained(TINY_BERT).to_dict()} | sizes | settings)
    return FusionForEmotion(config).eval()

"""A fusion model that is small enough to train in a test, and its processor, with the tokenizer of the sample."""

import torch
from transformers import AutoConfig, AutoTokenizer

from modeling import FusionConfig, FusionFeatureExtractor, FusionForEmotion, FusionProcessor
from tests.conftest import REPOSITORY

TINY_BERT = REPOSITORY / "configs" / "tiny_bert"


def tiny_processor() -> FusionProcessor:
    """Return a processor for four frames of 16 x 16 pixels and eight mel bands."""
    extractor = FusionFeatureExtractor(
        clip_frames=4, video_frame_rate=None, frame_size=[18, 24], crop_size=16, num_mel_bins=8
    )
    return FusionProcessor(extractor, AutoTokenizer.from_pretrained(TINY_BERT))


def tiny_model(**settings: object) -> FusionForEmotion:
    """Return a model in evaluation mode for the inputs of `tiny_processor`, with the same weights each time."""
    torch.manual_seed(0)
    sizes = {"video_encoder": "small", "num_mel_bins": 8, "hidden_size": 16, "fusion_size": 24, "head_size": 8}
    config = FusionConfig(**{"text_config": AutoConfig.from_pretrained(TINY_BERT).to_dict()} | sizes | settings)
    return FusionForEmotion(config).eval()

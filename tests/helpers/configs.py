"""The configs of this project, and settings to train them quickly, on a CPU and without network access."""

import json

from tests.conftest import REPOSITORY
from tests.helpers.tiny_encoder import tiny_encoder_folder

CONFIGS = sorted(REPOSITORY.glob("configs/*.json"))
FUSED = (
    "--text_model", "configs/tiny_bert", "--max_text_tokens", "64", "--video_weights", "none", "--ablations", "false",
    "--feature_config.clip_frames", "4", "--feature_config.crop_size", "32", "--feature_config.frame_size", "[36, 48]",
)  # fmt: skip
# Settings for configs that use models from the Hub, to train on a CPU without network access.
WITHOUT_THE_HUB = {
    "baby_cry_pretrained": ["--encoder.name", str(tiny_encoder_folder())],
    "baby_cry_finetuned": ["--encoder.name", str(tiny_encoder_folder())],
    "meld_text": ["--text_model", "configs/tiny_bert", "--max_text_tokens", "64"],
    "meld_fusion": [*FUSED],
    "meld_guide": [*FUSED],
}
# Task -> its first config that needs nothing from the Hub.
OF_TASK = {
    json.loads(path.read_text(encoding="utf-8"))["task"]: path
    for path in reversed(CONFIGS)
    if path.stem not in WITHOUT_THE_HUB
}
SAMPLE = ("--dataset_config", "sample")  # even if real data are prepared
# Task -> settings that make its scoring short.
LITTLE_SCORED = {
    "attention": ("--ablations", "false"),
    "detection": ("--max_eval_clips", "30"),
    "emotion": ("--ablations", "false"),
}

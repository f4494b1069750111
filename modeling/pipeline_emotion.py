"""`pipeline("clip-to-emotion", model=...)`: a clip to its emotion and sentiment, saved to the Hub with the model."""

# N frames of a clip, S samples of sound

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .recordings import chosen_frames, read_clip, resampled


class EmotionPipeline(Pipeline):
    """Predict the probability of each emotion and each sentiment of an utterance.

    An utterance is the path of a clip, with its transcript as `text`, or a dict with any of `text`, `video`
    (N, height, width, 3) uint8 RGB spread over the clip, and `audio` (S,) floats with `sampling_rate` in Hz. The
    result lists missing modalities under `missing`; the model predicts from the others.

    >>> classify = pipeline("clip-to-emotion", model="user/model", trust_remote_code=True)
    >>> classify("clip.mp4", text="You came!")["emotion"][0]
    {'label': 'joy', 'score': 0.41}
    """

    # transformers loads only the components that a pipeline asks for.
    _load_processor = True
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def _sanitize_parameters(self, text: str | None = None, top_k: int | None = None) -> tuple[dict, dict, dict]:
        """Accept `text`, the transcript of a clip file, and `top_k`, the number of classes (None for all)."""
        return {} if text is None else {"text": text}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs: Any, text: str | None = None) -> dict[str, torch.Tensor]:
        """Build the model's inputs, a batch of one. A missing modality has a mask of zeros."""
        modalities, extractor = self.model.config.modalities, self.processor.feature_extractor
        if isinstance(inputs, str | Path):
            inputs = read_clip(Path(inputs), extractor, modalities)
        if not isinstance(inputs, dict) or not inputs.keys() <= {"text", "video", "audio", "sampling_rate", "mask"}:
            raise ValueError(
                f"utterance: has type {type(inputs).__name__}. Give the path of a clip, or a dict of text, video, "
                "audio and sampling_rate."
            )
        inputs = inputs | ({} if text is None else {"text": text})
        present = [name for name in modalities if inputs.get(name) is not None]
        if not present:
            raise ValueError(f"utterance: no input. Give one or more of {', '.join(modalities)}.")
        given: dict[str, Any] = {"text": [inputs.get("text")]} if "text" in modalities else {}
        if "video" in modalities:
            frames = chosen_frames(inputs["video"], extractor) if "video" in present else None
            given |= {"videos": [frames], "frame_masks": [inputs.get("mask")]}
        if "audio" in modalities:
            sound = None
            if "audio" in present:
                if "sampling_rate" not in inputs:
                    raise ValueError("sampling_rate: missing next to audio. Give it in Hz.")
                sound = resampled(np.asarray(inputs["audio"]), inputs["sampling_rate"], extractor.sampling_rate)
            given |= {"audio": [sound], "sampling_rate": extractor.sampling_rate}
        return dict(self.processor(**given))

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(self.model(**inputs))

    def postprocess(self, outputs: dict[str, torch.Tensor], top_k: int | None = None) -> dict[str, Any]:
        """Return `emotion` and `sentiment`, most likely class first, and the `missing` modalities."""
        config, result = self.model.config, {}
        for head in ("emotion", "sentiment"):
            names = getattr(config, f"{head}_names")
            scores, classes = (
                outputs[f"{head}_logits"][0].double().softmax(-1).topk(min(top_k or len(names), len(names)))
            )
            pairs = zip(scores.tolist(), classes.tolist(), strict=True)
            result[head] = [{"label": names[index], "score": score} for score, index in pairs]
        pairs = zip(config.modalities, outputs["present"][0].tolist(), strict=True)
        return result | {"missing": [name for name, present in pairs if not present]}

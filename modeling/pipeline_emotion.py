"""A clip in, its emotion and sentiment out: `pipeline("clip-to-emotion", model=...)`, which travels to the Hub."""

# N frames of a clip, S samples of sound

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .recordings import chosen_frames, read_clip, resampled


class EmotionPipeline(Pipeline):
    """Says what an utterance is taken for: how likely each emotion and each sentiment is.

    An utterance is the path of a clip, with `text` what is said in it; or a dict of what there is of it: `text`,
    `video` (N, height, width, 3) uint8 RGB spread over the clip, `audio` (S,) floats and their `sampling_rate` in Hz.
    What is not there is told in `missing`, and the model goes by the rest.

    >>> judge = pipeline("clip-to-emotion", model="user/model", trust_remote_code=True)
    >>> judge("clip.mp4", text="You came!")["emotion"][0]
    {'label': 'joy', 'score': 0.41}
    """

    _load_processor = True
    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def _sanitize_parameters(self, text: str | None = None, top_k: int | None = None) -> tuple[dict, dict, dict]:
        """`text`: what is said in a clip that is a file; `top_k`: classes that are named, None for all."""
        return {} if text is None else {"text": text}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs: Any, text: str | None = None) -> dict[str, torch.Tensor]:
        """The model's inputs, each of one item; a modality that is not there has a mask of zeros."""
        modalities, extractor = self.model.config.modalities, self.processor.feature_extractor
        if isinstance(inputs, str | Path):
            inputs = read_clip(Path(inputs), extractor, modalities)
        if not isinstance(inputs, dict) or not inputs.keys() <= {"text", "video", "audio", "sampling_rate", "mask"}:
            raise ValueError("an utterance is the path of a clip, or a dict of text, video, audio and sampling_rate")
        inputs = inputs | ({} if text is None else {"text": text})
        there = [name for name in modalities if inputs.get(name) is not None]
        if not there:
            raise ValueError(f"nothing to go by: the model reads {', '.join(modalities)}; give one of these")
        given: dict[str, Any] = {"text": [inputs.get("text")]} if "text" in modalities else {}
        if "video" in modalities:
            frames = chosen_frames(inputs["video"], extractor) if "video" in there else None
            given |= {"videos": [frames], "frame_masks": [inputs.get("mask")]}
        if "audio" in modalities:
            sound = None
            if "audio" in there:
                if "sampling_rate" not in inputs:
                    raise ValueError("audio came without its sampling_rate; give it in Hz")
                sound = resampled(np.asarray(inputs["audio"]), inputs["sampling_rate"], extractor.sampling_rate)
            given |= {"audio": [sound], "sampling_rate": extractor.sampling_rate}
        return dict(self.processor(**given))

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(self.model(**inputs))

    def postprocess(self, outputs: dict[str, torch.Tensor], top_k: int | None = None) -> dict[str, Any]:
        """`emotion` and `sentiment`, the likeliest first, and the modalities that were `missing`."""
        config, found = self.model.config, {}
        for head in ("emotion", "sentiment"):
            names = getattr(config, f"{head}_names")
            scores, places = (
                outputs[f"{head}_logits"][0].double().softmax(-1).topk(min(top_k or len(names), len(names)))
            )
            pairs = zip(scores.tolist(), places.tolist(), strict=True)
            found[head] = [{"label": names[place], "score": score} for score, place in pairs]
        pairs = zip(config.modalities, outputs["present"][0].tolist(), strict=True)
        return found | {"missing": [name for name, present in pairs if not present]}

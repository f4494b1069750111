"""A recording in, its signal out: `pipeline("audio-to-signal", model=...)`, which travels to the Hub."""

# B clips, T frames of the signal, C channels, S samples

from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .recordings import read_sound


class SignalPipeline(Pipeline):
    """Predicts a signal, such as skin conductance, over the time of each recording.

    A recording is a file (a path, or its bytes) or `{"array": (S,) floats, "sampling_rate": Hz}`, mono or of several
    channels (S, channels), which are averaged. An array by itself is refused, as nothing tells its rate.

    >>> predict = pipeline("audio-to-signal", model="user/model", trust_remote_code=True)
    >>> found = predict("song.mp3")
    >>> found["times"].shape, found["values"].shape, found["channels"], found["unit"]
    ((241,), (241, 1), ['phasic'], 'uS')
    """

    _load_feature_extractor = True
    _load_tokenizer = _load_processor = _load_image_processor = _load_video_processor = False

    def _sanitize_parameters(self, listener: str | None = None) -> tuple[dict, dict, dict]:
        """`listener`: whose level and spread to use, of a model that was scaled by listener."""
        return {}, {}, {} if listener is None else {"listener": listener}

    def preprocess(self, inputs: Any) -> dict[str, torch.Tensor]:
        """A recording to features (1, T, F) and their mask (1, T)."""
        rate = self.feature_extractor.sampling_rate
        return dict(self.feature_extractor(read_sound(inputs, rate), sampling_rate=rate, return_tensors="pt"))

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """In chunks, so that memory beside features and signal does not grow with the recording."""
        output = self.model.predict(inputs["input_features"], inputs["attention_mask"])
        return dict(output) | {"attention_mask": inputs["attention_mask"]}

    def postprocess(self, outputs: dict[str, torch.Tensor], listener: str | None = None) -> dict[str, Any]:
        """`times` (T,) in s, `values` (T, C) in `unit`, `channels`, `deviations` (T, C) where the model has them."""
        config = self.model.config
        scaling = config.target_scaling or {"offset": [0.0], "scale": [1.0], "listeners": {}}
        if listener is not None and listener not in scaling["listeners"]:
            known = ", ".join(sorted(scaling["listeners"])[:8]) or "none: the model was not scaled by listener"
            raise ValueError(f"listener {listener!r} was not in the training; among those who were: {known}")
        own = scaling if listener is None else scaling["listeners"][listener]
        valid = outputs["attention_mask"][0].bool()
        values = outputs["predictions"][0][valid].double().cpu().numpy() * own["scale"] + own["offset"]
        found = {
            "times": np.arange(len(values)) / config.frame_rate,
            "values": values,
            "channels": config.target_channels,
            "unit": config.target_unit,
        }
        if outputs.get("log_variance") is not None:
            deviations = (outputs["log_variance"][0][valid] / 2).exp().double().cpu().numpy()
            found["deviations"] = deviations * own["scale"]
        return found

"""`pipeline("audio-to-signal", model=...)`: a recording to a signal over time, saved to the Hub with the model."""

# B clips, T frames of the signal, C channels, S samples

from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .recordings import read_sound


class SignalPipeline(Pipeline):
    """Predict a signal, such as skin conductance, over the time of each recording.

    A recording is a file (a path, or its bytes) or `{"array": (S,) floats, "sampling_rate": Hz}`. The channels of an
    array (S, channels) are averaged. An array alone is refused, because its rate is unknown.

    >>> predict = pipeline("audio-to-signal", model="user/model", trust_remote_code=True)
    >>> signal = predict("song.mp3")
    >>> signal["times"].shape, signal["values"].shape, signal["channels"], signal["unit"]
    ((241,), (241, 1), ['phasic'], 'uS')
    """

    _load_feature_extractor = True
    _load_tokenizer = _load_processor = _load_image_processor = _load_video_processor = False

    def _sanitize_parameters(self, listener: str | None = None) -> tuple[dict, dict, dict]:
        """Accept `listener`: whose level and spread to use, for a model that was scaled by listener."""
        return {}, {}, {} if listener is None else {"listener": listener}

    def preprocess(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Convert a recording to features (1, T, F) and their mask (1, T)."""
        rate = self.feature_extractor.sampling_rate
        return dict(self.feature_extractor(read_sound(inputs, rate), sampling_rate=rate, return_tensors="pt"))

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # In chunks: apart from features and signal, memory does not grow with the recording.
        output = self.model.predict(inputs["input_features"], inputs["attention_mask"])
        return dict(output) | {"attention_mask": inputs["attention_mask"]}

    def postprocess(self, outputs: dict[str, torch.Tensor], listener: str | None = None) -> dict[str, Any]:
        """Return `times` (T,) in s, `values` (T, C) in `unit`, `channels`, and `deviations` (T, C) if predicted."""
        config = self.model.config
        scaling = config.target_scaling or {"offset": [0.0], "scale": [1.0], "listeners": {}}
        if listener is not None and listener not in scaling["listeners"]:
            known = ", ".join(sorted(scaling["listeners"])[:8]) or "none, the model was not scaled by listener"
            raise ValueError(f"listener={listener!r}: not in the training data ({known}). Give one of these, or none.")
        level = scaling if listener is None else scaling["listeners"][listener]
        valid = outputs["attention_mask"][0].bool()
        values = outputs["predictions"][0][valid].double().cpu().numpy() * level["scale"] + level["offset"]
        signal = {
            "times": np.arange(len(values)) / config.frame_rate,
            "values": values,
            "channels": config.target_channels,
            "unit": config.target_unit,
        }
        if outputs.get("log_variance") is not None:
            deviations = (outputs["log_variance"][0][valid] / 2).exp().double().cpu().numpy()
            signal["deviations"] = deviations * level["scale"]
        return signal

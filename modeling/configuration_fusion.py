"""Configuration of the models that fuse text, video and audio."""

from transformers import CONFIG_MAPPING, AutoConfig, BertConfig, PreTrainedConfig

from .configuration_strict import MAX_LAYERS, MAX_SIZE, MAX_VOCABULARY, StrictConfig, check_sizes

MODALITIES = ("text", "video", "audio")  # modalities with an encoder, fed with raw input
INPUTS = {  # modality -> names of its input and of the input's mask
    "text": ("input_ids", "attention_mask"),
    "video": ("pixel_values", "frame_mask"),
    "audio": ("input_features", "features_mask"),
}
FUSIONS = ("concat", "gated", "attention")
TEXT_POOLINGS = ("pooler", "mean")
EMBEDDING_POOLINGS = ("mean", "attention")
REGRESSION_LOSSES = ("mse", "huber")
TEXT_SIZES = ("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers")
VIDEO_ENCODERS = {"r3d_18": 512, "small": 64}  # name -> size of the clip embedding


class FusionConfig(StrictConfig):
    """Modalities, their encoders, the fusion, and the outputs.

    Args:
        modalities: "text", "video", "audio" and any name in `embedding_sizes`, in the order of concatenation.
        embedding_sizes: modality -> size of its stored embeddings. A modality named here has no encoder.
        embedding_pooling: how embeddings are pooled over time: "mean" or "attention" (learned weights).
        text_config: config of the text encoder, or a dict of it with `model_type`; None is BERT base. Stored as a
            config object.
        text_pooling: "pooler" (the encoder's own pooled output) or "mean" (over tokens).
        video_encoder: "r3d_18" from torchvision, or "small", three layers for tests and samples.
        freeze_text, freeze_video: do not train the encoder, and keep the running statistics of its BatchNorms.
        freeze_audio_conv: the same for the convolutions over the spectrogram. They are random in a new model, so use
            this only with trained weights.
        num_mel_bins: mel bands of the spectrogram.
        hidden_size: size of each modality's projected vector.
        fusion_size: size of the fused state.
        head_size: size of the hidden layer in a head.
        branch_dropout, fusion_dropout, head_dropout: dropout probabilities.
        fusion: "concat"; "gated" (each modality is weighted by a gate that depends on all of them); "attention"
            (self-attention over modalities).
        modality_dropout: probability of hiding a modality of an item in training. At least one is always kept.
        learned_absent: represent a missing modality by a learned vector instead of zeros.
        emotion_names, sentiment_names: class names in the order of the logits.
        emotion_weights, sentiment_weights: class weights in the loss, or None.
        emotion_share, sentiment_share: weights of the two losses.
        label_smoothing: share of a label's weight that is spread over all classes.
        regression_loss: loss of `FusionForRegression`, "mse" or "huber", on targets scaled to mean 0 and standard
            deviation 1.
        huber_delta: error at which the Huber loss turns from quadratic to linear, in standard deviations.
        target_mean, target_std, target_unit: statistics of the training targets. Predictions have this unit.
    """

    model_type = "fusion"
    sub_configs = {"text_config": AutoConfig}

    modalities: list[str] | tuple[str, ...] = MODALITIES
    embedding_sizes: dict[str, int] | None = None
    embedding_pooling: str = "mean"
    text_config: dict | PreTrainedConfig | None = None
    text_pooling: str = "pooler"
    video_encoder: str = "r3d_18"
    freeze_text: bool = True
    freeze_video: bool = True
    freeze_audio_conv: bool = False
    num_mel_bins: int = 64
    hidden_size: int = 128
    fusion_size: int = 256
    head_size: int = 64
    branch_dropout: float = 0.2
    fusion_dropout: float = 0.3
    head_dropout: float = 0.2
    fusion: str = "concat"
    modality_dropout: float = 0.0
    learned_absent: bool = False
    emotion_names: list[str] | tuple[str, ...] = (
        "anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise",
    )  # fmt: skip
    sentiment_names: list[str] | tuple[str, ...] = ("negative", "neutral", "positive")
    emotion_weights: list[float] | None = None
    sentiment_weights: list[float] | None = None
    emotion_share: float = 1.0
    sentiment_share: float = 1.0
    label_smoothing: float = 0.0
    regression_loss: str = "mse"
    huber_delta: float = 1.0
    target_mean: float = 0.0
    target_std: float = 1.0
    target_unit: str = ""

    def __post_init__(self, **kwargs: object) -> None:
        self.modalities, self.embedding_sizes = list(self.modalities), dict(self.embedding_sizes or {})
        self.emotion_names, self.sentiment_names = list(self.emotion_names), list(self.sentiment_names)
        if isinstance(self.text_config, dict):
            settings = dict(self.text_config)
            model_type = settings.pop("model_type", "bert")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(
                    f"FusionConfig: text_config.model_type={model_type!r}: not a transformers model type. Give one, "
                    "for example 'bert'."
                )
            self.text_config = AutoConfig.for_model(model_type, **settings)
        elif self.text_config is None and "text" in self.encoded:
            self.text_config = BertConfig()
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Raise ValueError for settings that cannot be built."""
        names = self.modalities
        known = list(dict.fromkeys([*MODALITIES, *self.embedding_sizes]))
        if not names or any(name not in known for name in names) or len(set(names)) < len(names):
            raise ValueError(
                f"FusionConfig: modalities={names}: unknown, repeated or empty. Give any of {', '.join(known)}."
            )
        names = ("num_mel_bins", "hidden_size", "fusion_size", "head_size")
        sizes = {f"embedding_sizes.{name}": size for name, size in self.embedding_sizes.items()}
        sizes |= {name: getattr(self, name) for name in names}
        check_sizes("FusionConfig", sizes, MAX_SIZE)
        text = {f"text_config.{name}": size for name, size in self.text_sizes.items()}
        for name, size in text.items():
            if size > 0:  # some encoders use -1 for "no limit"
                check_sizes("FusionConfig", {name: size}, MAX_LAYERS if "layers" in name else MAX_VOCABULARY)
        self.check_weights(sizes | text)
        for name, choices in (
            ("text_pooling", TEXT_POOLINGS), ("video_encoder", tuple(VIDEO_ENCODERS)), ("fusion", FUSIONS),
            ("embedding_pooling", EMBEDDING_POOLINGS), ("regression_loss", REGRESSION_LOSSES),
        ):  # fmt: skip
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"FusionConfig: {name}={value!r}: unknown. Give one of {', '.join(choices)}.")
        for name in ("branch_dropout", "fusion_dropout", "head_dropout", "modality_dropout", "label_smoothing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"FusionConfig: {name}={value!r}: not a number in [0, 1). Give 0 to below 1.")
        for head in ("emotion", "sentiment"):
            names, weights = getattr(self, f"{head}_names"), getattr(self, f"{head}_weights")
            if len(names) < 2 or len(set(names)) < len(names):
                raise ValueError(f"FusionConfig: {head}_names={names}: too few or repeated. Give 2 or more different.")
            if weights is not None and (len(weights) != len(names) or not all(w >= 0 for w in weights)):
                raise ValueError(
                    f"FusionConfig: {head}_weights={weights}: must be {len(names)} numbers of 0 or more. "
                    "Give one per class, or null."
                )
        for name in ("emotion_share", "sentiment_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"FusionConfig: {name}={getattr(self, name)!r}: must be 0 or more. Give a number.")
        for name in ("huber_delta", "target_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"FusionConfig: {name}={getattr(self, name)!r}: must be above 0. Give a number.")
        if self.emotion_share == self.sentiment_share == 0:
            raise ValueError("FusionConfig: emotion_share=0 and sentiment_share=0: no loss is left. Raise one.")

    @property
    def text_sizes(self) -> dict[str, int]:
        """Sizes that the text encoder's memory grows with; 0 for a size that its config does not have."""
        sizes = {name: getattr(self.text_config, name, None) for name in TEXT_SIZES}
        return {name: size if isinstance(size, int) else 0 for name, size in sizes.items()}

    @property
    def weights(self) -> int:
        """Approximate number of weights in text encoder, spectrogram convolutions and projections."""
        vocabulary, positions, text, inner, layers = self.text_sizes.values()
        encoder = text * (vocabulary + positions + layers * (4 * text + 2 * inner))
        wide = 2 * self.num_mel_bins if "audio" in self.encoded else 0
        branches = self.hidden_size * (sum(self.embedding_sizes.values()) + text + wide)
        fused = self.hidden_size * (4 * self.hidden_size + len(self.modalities) * self.fusion_size)
        return encoder + 5 * wide**2 + branches + fused + self.fusion_size * self.head_size

    @property
    def encoded(self) -> list[str]:
        """Modalities with an encoder: those that come as raw input rather than as embeddings."""
        return [name for name in self.modalities if name not in self.embedding_sizes]

    def inputs_of(self, name: str) -> tuple[str, str]:
        """Return the names of a modality's input and of its mask. A mask of zeros marks a missing modality."""
        if name in self.embedding_sizes:
            return f"{name}_embeddings", f"{name}_mask"
        return INPUTS[name]

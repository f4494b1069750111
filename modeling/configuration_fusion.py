"""Settings of the models that fuse what is said, seen and heard."""

from transformers import CONFIG_MAPPING, AutoConfig, BertConfig, PreTrainedConfig

from .configuration_strict import MOST, MOST_LAYERS, MOST_WORDS, StrictConfig, check_sizes

MODALITIES = ("text", "video", "audio")  # those that are encoded from what was recorded
INPUTS = {  # modality -> its input and the mask of it
    "text": ("input_ids", "attention_mask"),
    "video": ("pixel_values", "frame_mask"),
    "audio": ("input_features", "features_mask"),
}
FUSIONS = ("concat", "gated", "attention")
TEXT_POOLINGS = ("pooler", "mean")
EMBEDDING_POOLINGS = ("mean", "attention")
REGRESSION_LOSSES = ("mse", "huber")
TEXT_SIZES = ("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers")
VIDEO_ENCODERS = {"r3d_18": 512, "small": 64}  # name -> numbers that it makes of a clip


class FusionConfig(StrictConfig):
    """Which modalities there are, what encodes them, how they are fused, and what is said of them.

    Args:
        modalities: any of "text", "video", "audio" and those that `embedding_sizes` names, in the order in which they
            are joined.
        embedding_sizes: numbers of each stored embedding, by modality; what stands here is not encoded any more.
        embedding_pooling: how embeddings over time become one: "mean", or "attention" (a learned weight each).
        text_config: the text encoder's own config, as a dict with its `model_type`; None is BERT base. It becomes a
            config object.
        text_pooling: "pooler" (the encoder's own summary of the sentence) or "mean" (over its words).
        video_encoder: "r3d_18", torchvision's, or "small", three layers for tests and samples.
        freeze_text, freeze_video: keep an encoder as it is, also the running statistics of its BatchNorms.
        freeze_audio_conv: the same for the convolutions over the spectrogram, which are random in a new model; so
            this is right only where they were trained before.
        num_mel_bins: bands of the spectrogram.
        hidden_size: numbers that each modality is brought to.
        fusion_size, head_size: numbers of the fused state, and inside a head.
        branch_dropout, fusion_dropout, head_dropout: probabilities.
        fusion: "concat"; "gated" (each modality is weighed by what all of them say); "attention" (modalities look at
            each other).
        modality_dropout: probability that training hides a modality of an item; one always stays.
        learned_absent: a vector that is learnt stands for a modality that is not there; else zeros do.
        emotion_names, sentiment_names: the classes, in the order of the logits.
        emotion_weights, sentiment_weights: of the classes in the loss, or None.
        emotion_share, sentiment_share: weights of the two losses.
        label_smoothing: share of a label's weight that is spread over all classes.
        regression_loss: of `FusionForRegression`, "mse" or "huber", on targets of mean 0 and deviation 1.
        huber_delta: where the Huber loss turns from square to straight, in deviations.
        target_mean, target_std, target_unit: what the training targets are like; predictions are in their unit.
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
            kind = settings.pop("model_type", "bert")
            if kind not in CONFIG_MAPPING:
                raise ValueError(f"FusionConfig: text_config.model_type={kind!r} is not known to transformers")
            self.text_config = AutoConfig.for_model(kind, **settings)
        elif self.text_config is None and "text" in self.encoded:
            self.text_config = BertConfig()
        self.check()
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuse what cannot be built, in one line that names the setting, what came and what is taken."""
        known = list(dict.fromkeys([*MODALITIES, *self.embedding_sizes]))
        unknown = [name for name in self.modalities if name not in known]
        if unknown or not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"FusionConfig: modalities={self.modalities} must name one or more of {known}")
        names = ("num_mel_bins", "hidden_size", "fusion_size", "head_size")
        sizes = {f"embedding_sizes.{name}": size for name, size in self.embedding_sizes.items()}
        sizes |= {name: getattr(self, name) for name in names}
        check_sizes("FusionConfig", sizes, MOST)
        text = {f"text_config.{name}": size for name, size in self.text_sizes.items()}
        for name, size in text.items():
            if size > 0:  # some encoders say -1 for no limit
                check_sizes("FusionConfig", {name: size}, MOST_LAYERS if "layers" in name else MOST_WORDS)
        self.check_weights(sizes | text)
        for name, choices in (
            ("text_pooling", TEXT_POOLINGS), ("video_encoder", tuple(VIDEO_ENCODERS)), ("fusion", FUSIONS),
            ("embedding_pooling", EMBEDDING_POOLINGS), ("regression_loss", REGRESSION_LOSSES),
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"FusionConfig: {name}={getattr(self, name)!r} is unknown; take one of {list(choices)}"
                )
        for name in ("branch_dropout", "fusion_dropout", "head_dropout", "modality_dropout", "label_smoothing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ValueError(f"FusionConfig: {name}={value!r} must be a number in [0, 1)")
        for head in ("emotion", "sentiment"):
            names, weights = getattr(self, f"{head}_names"), getattr(self, f"{head}_weights")
            if len(names) < 2 or len(set(names)) < len(names):
                raise ValueError(f"FusionConfig: {head}_names={names} must be two or more different names")
            if weights is not None and (len(weights) != len(names) or not all(w >= 0 for w in weights)):
                raise ValueError(f"FusionConfig: {head}_weights={weights} must be {len(names)} numbers of 0 or more")
        for name in ("emotion_share", "sentiment_share"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"FusionConfig: {name}={getattr(self, name)!r} must be 0 or more")
        for name in ("huber_delta", "target_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"FusionConfig: {name}={getattr(self, name)!r} must be above 0")
        if self.emotion_share == self.sentiment_share == 0:
            raise ValueError("FusionConfig: emotion_share and sentiment_share are both 0: nothing would be learnt")

    @property
    def text_sizes(self) -> dict[str, int]:
        """The sizes that the text encoder's memory grows with; 0 for those that it does not have."""
        sizes = {name: getattr(self.text_config, name, None) for name in TEXT_SIZES}
        return {name: size if isinstance(size, int) else 0 for name, size in sizes.items()}

    @property
    def weights(self) -> int:
        """Of the text encoder, of the convolutions over the spectrogram, and of all projections."""
        words, places, text, inner, layers = self.text_sizes.values()
        encoder = text * (words + places + layers * (4 * text + 2 * inner))
        wide = 2 * self.num_mel_bins if "audio" in self.encoded else 0
        branches = self.hidden_size * (sum(self.embedding_sizes.values()) + text + wide)
        fused = self.hidden_size * (4 * self.hidden_size + len(self.modalities) * self.fusion_size)
        return encoder + 5 * wide**2 + branches + fused + self.fusion_size * self.head_size

    @property
    def encoded(self) -> list[str]:
        """The modalities that come as they were recorded, and not as embeddings."""
        return [name for name in self.modalities if name not in self.embedding_sizes]

    def inputs_of(self, name: str) -> tuple[str, str]:
        """What a modality's input and its mask are called; a mask of zeros means that an item lacks the modality."""
        if name in self.embedding_sizes:
            return f"{name}_embeddings", f"{name}_mask"
        return INPUTS[name]

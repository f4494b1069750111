"""Video, sound and text of an utterance -> its emotion and sentiment: what is encoded, weighed, scored and shown."""

import argparse
import contextlib
import inspect
import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torchvision.models.video import R3D_18_Weights
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoTokenizer,
    EvalPrediction,
    Trainer,
)
from transformers.trainer_utils import PredictionOutput

from evaluation.classification import Utterances, assess, confusion, scores_of
from modeling import FusionConfig, FusionFeatureExtractor, FusionForEmotion, FusionProcessor
from modeling.configuration_fusion import MODALITIES
from modeling.feature_extraction_audio import AudioFeatureExtractor
from training import study_of_utterances
from training.arguments import Run, unknown_key
from training.build import check_fit
from training.collators import PaddingCollator
from training.emotion_prediction import SUFFIXES as CLIP_SUFFIXES
from training.emotion_prediction import EmotionPrediction, predict_clips
from training.fusion_trainer import FusionTrainer, order_of_training, part_rates
from training.samplers import LengthGroupedSampler, ShardedSampler
from training.streaming import StreamedRows, shards_of
from training.utterance_split import UtteranceSplit
from training.utterances import HEADS, UtteranceDataset, cache_features

logger = logging.getLogger(__name__)

SIDES = {"train": "train", "validation": "dev", "test": "test"}  # side -> what the data call it
CLASS_WEIGHTS = {"none": 0.0, "root": 0.5, "inverse": 1.0}  # name -> power of the inverse frequency
TWINS = {  # note on rows -> what was done with clips that are there twice, or under the other of two names
    "twin_clip": "Where a clip is there twice, the one called final_videos_test... is used, for the other is wrong",
    "prefixed_clip": "A clip that is there as final_videos_test... alone is used",
}
FITTED_HERE = (
    "The baselines were fitted on utterances that are scored here, and so was the model if it was trained on these "
    "data, which flatters them."
)
CHOSEN_HERE = "The checkpoint was chosen on utterances that are scored here, which flatters it."
IN_SAMPLE = {"train": FITTED_HERE, "all": FITTED_HERE, "validation": CHOSEN_HERE}  # side -> what a reader must know


@dataclass(frozen=True)
class EncoderSettings:
    """What encodes the modalities."""

    text_model: str = field(
        default="google-bert/bert-base-uncased",
        metadata={
            "help": "The text encoder and its tokenizer: a name on the Hub or a folder. One without weights gives "
            "a random encoder of its config."
        },
    )
    video_weights: str = field(
        default="kinetics",
        metadata={
            "help": "Weights of r3d_18: kinetics (of torchvision, downloaded once), a file of its state dict, or none."
        },
    )
    max_text_tokens: int = field(default=128, metadata={"help": "Texts are cut after so many tokens, and counted."})
    cache_features: bool = field(
        default=False,
        metadata={"help": "Keep what frozen encoders make of each utterance on the disk: epochs then take seconds."},
    )

    def __post_init__(self) -> None:
        if self.max_text_tokens < 3:
            raise ValueError(f"max_text_tokens = {self.max_text_tokens}: give 3 or more, two frame the text")


@dataclass(frozen=True)
class EmotionSettings:
    """How it is learnt and scored."""

    class_weights: str = field(
        default="none",
        metadata={
            "help": "Weight of a class in the loss, by the training labels: none, inverse (of its frequency), or root "
            "(of that)."
        },
    )
    learning_rates: dict = field(
        default_factory=dict,
        metadata={
            "help": "Learning rates by part of the model (text, video, audio, fusion, emotion, sentiment), where "
            "learning_rate is not meant; on the command line --learning_rates.text 8e-6."
        },
    )
    ablations: bool = field(
        default=True, metadata={"help": "Score the test with each modality alone, and without each, too."}
    )

    def __post_init__(self) -> None:
        if self.class_weights not in CLASS_WEIGHTS:
            raise ValueError(
                f"class_weights = {self.class_weights!r} is not known; it takes one of {', '.join(CLASS_WEIGHTS)}"
            )
        part_rates(self.learning_rates)


ARGUMENTS = (EncoderSettings, EmotionSettings)
COLUMNS = (
    "utterance_id", "split", "dialogue", "text", "speaker", "emotion", "sentiment", "clip", "clip_seconds", "has_text",
    "has_audio", "has_video", "defects", "synthetic",
)  # fmt: skip
STREAMED = ("clip",)
AUTO_MODEL, MODELS, AUTO_EXTRACTOR = AutoModelForVideoClassification, (FusionConfig,), AutoProcessor
SUFFIXES, OUTPUT_SUFFIX = CLIP_SUFFIXES, ".json"  # of recordings, and of what is said of them
PREDICTION_OPTIONS: tuple[str, ...] = ("text", "utterances")  # of run_predict.py, beside those of every task
TRAINER = FusionTrainer
STUDY = study_of_utterances
VALIDATION_METRICS = {  # name -> whether more is better
    "emotion_weighted_f1": True, "emotion_macro_f1": True, "sentiment_weighted_f1": True, "sentiment_macro_f1": True,
    "loss": False,
}  # fmt: skip


@dataclass(frozen=True)
class EmotionData:
    """A data set's utterances, divided as it says itself."""

    sides: dict[str, UtteranceDataset]
    split: UtteranceSplit
    names: dict[str, list[str]]  # head -> its classes
    lengths: np.ndarray  # of the training items, for batches of like length
    texts_cut: dict[str, int]  # side -> texts longer than max_text_tokens
    notes: dict[str, int]  # kind of defect -> rows that have it
    encoders: EncoderSettings
    settings: EmotionSettings

    @property
    def train(self) -> UtteranceDataset:
        """What weights are fitted on."""
        return self.sides["train"]

    @property
    def validation(self) -> UtteranceDataset:
        """What checkpoints are chosen on."""
        return self.sides["validation"]

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Weighted and macro F1 of both heads: to choose a checkpoint by."""
        scores = {}
        for place, head in enumerate(HEADS):
            predicted, truth = output.predictions[place].argmax(-1), output.label_ids[:, place]
            found = scores_of(confusion(truth, predicted, len(self.names[head])))
            scores |= {f"{head}_{name}": float(found[name]) for name in ("weighted_f1", "macro_f1")}
        return scores

    def record(self) -> dict[str, Any]:
        """What each side holds and lacks."""
        return {
            "sides": self.split.sides,
            "texts_cut": self.texts_cut,
            "label_names": self.names,
            "policies": policies(self),
            "notes": self.notes,
            "split_warning": self.split.warning,
            "control": None,
        }


def policies(data: EmotionData) -> list[str]:
    """What was done about all that a reader of the scores may wonder about, a sentence each."""
    twins = [f"{said} ({data.notes[note]:,} rows)." for note, said in TWINS.items() if note in data.notes]
    cut = ", ".join(f"{count:,} of {side}" for side, count in data.texts_cut.items() if count and side != "all")
    order = "; ".join(f"{head} {', '.join(names)}" for head, names in data.names.items())
    return [
        f"The sides are the data's own. Weights are fitted on {SIDES['train']} alone: {SIDES['validation']} chooses "
        "the checkpoint and is not merged into it.",
        "An utterance is judged by itself: no context window, no speaker.",
        "Whatever a row lacks, or has and cannot be decoded, is masked; no row is dropped.",
        *twins,
        *([f"Texts are cut after {data.encoders.max_text_tokens} tokens: {cut}."] if cut else []),
        f"Labels in the order of their codes, from 0: {order}.",
    ]


def notes_on(rows: datasets.Dataset) -> dict[str, int]:
    """How many rows have each kind of defect, the commonest first."""
    lists = rows.select_columns("defects").with_format("arrow")[:]["defects"].to_pylist()
    return dict(Counter(what for defects in lists for what in {defect["what"] for defect in defects}).most_common())


def features(run: Run) -> FusionProcessor:
    """Tokenizer and features: those of the model that is fine-tuned, else new ones."""
    arguments, name = run.arguments, run.arguments.model_name_or_path
    if name:
        processor = AutoProcessor.from_pretrained(name)
        check_fit(processor.feature_extractor.to_dict(), arguments.feature_config, name)
        return processor
    known = set(inspect.signature(FusionFeatureExtractor).parameters) | set(
        inspect.signature(AudioFeatureExtractor).parameters
    )
    for key in arguments.feature_config:
        if key not in known:
            raise ValueError(unknown_key(f"feature_config.{key}", {f"feature_config.{name}" for name in known}))
    text_model = run.settings(EncoderSettings).text_model
    with named("text_model", text_model):
        tokenizer = AutoTokenizer.from_pretrained(text_model)
    return FusionProcessor(FusionFeatureExtractor(**arguments.feature_config), tokenizer)


@contextlib.contextmanager
def named(key: str, value: str) -> Iterator[None]:
    """Say which setting named what cannot be had, and what else it takes."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{key} = {value!r} cannot be had ({why}); it takes a name on the Hub, which needs the network once, or a "
            "local folder or file"
        ) from error


def modalities_of(run: Run) -> list[str]:
    """What the model reads."""
    name = run.arguments.model_name_or_path
    if name:
        return list(AutoConfig.from_pretrained(name).modalities)
    return list(run.arguments.model_config.get("modalities", MODALITIES))


def prepare(
    rows: datasets.Dataset, processor: FusionProcessor, run: Run, saved: dict[str, Any] | None = None
) -> EmotionData:
    """The sides as the data set divides them."""
    encoders, settings = run.settings(EncoderSettings), run.settings(EmotionSettings)
    modalities, limit = modalities_of(run), encoders.max_text_tokens
    if run.arguments.streaming:
        check_streaming(rows, encoders)
    split = UtteranceSplit.of(rows, SIDES)
    missing = [side for side in SIDES if not split.sides[side]["utterances"]]
    if missing and saved is None:
        raise ValueError(
            f"the data set has no utterance on the side {' and '.join(missing)}; prepare it with all tables"
        )
    places = split.places | {"all": np.arange(len(rows))}
    sides = {
        side: UtteranceDataset(rows.select(where), processor, modalities, limit) for side, where in places.items()
    }
    tokens = token_counts(rows, processor) if "text" in modalities else np.ones(len(rows), np.int64)
    lengths = np.minimum(tokens, limit)[places["train"]]
    cut = {side: int((tokens[where] > limit).sum()) for side, where in places.items()} if "text" in modalities else {}
    names = {head: rows.features[head].names for head in HEADS}
    for side, count in cut.items():
        if count and side != "all":
            logger.warning("%s: %d texts have more than %d tokens and are cut", side, count, limit)
    logger.info("utterances: %s", {side: split.sides[side]["utterances"] for side in SIDES})
    return EmotionData(sides, split, names, lengths, cut, notes_on(rows), encoders, settings)


def check_streaming(rows: datasets.Dataset, encoders: EncoderSettings) -> None:
    """Refuse to stream rows whose clips are not in them, and what would read all of them before training."""
    if encoders.cache_features:
        raise ValueError("cache_features reads every clip once and keeps what is needed; leave streaming out")
    has = np.logical_or(*(np.array(rows[f"has_{name}"][:], bool) for name in ("video", "audio")))
    if has.any() and StreamedRows(rows, ["clip"]).peek(int(has.argmax()), "clip")["bytes"] is None:
        raise ValueError(
            "streaming: the rows do not hold their clips, which are files, each fetched ahead of its use already; "
            "leave streaming out, or prepare the data with --embed_clips"
        )


def token_counts(rows: datasets.Dataset, processor: FusionProcessor) -> np.ndarray:
    """Tokens of each text (rows,), uncut."""
    texts = [text or "" for text in rows["text"]]
    return np.array([len(ids) for ids in processor.tokenizer(texts)["input_ids"]] if texts else [], np.int64)


def model_settings(data: EmotionData, processor: FusionProcessor, run: Run) -> dict[str, Any]:
    """What of a model follows from the data and the encoders."""
    settings: dict[str, Any] = {f"{head}_names": data.names[head] for head in HEADS}
    settings["num_mel_bins"] = processor.feature_extractor.num_mel_bins
    base, power = run.arguments.model_name_or_path, CLASS_WEIGHTS[data.settings.class_weights]
    if power or base:  # a saved model's weights are of the data that it was trained on
        settings |= {f"{head}_weights": class_weights(data, head, power) if power else None for head in HEADS}
    if "text" in data.train.modalities:
        if base:
            config = AutoConfig.from_pretrained(base).text_config
        else:
            with named("text_model", data.encoders.text_model):
                config = AutoConfig.from_pretrained(data.encoders.text_model)
        most = getattr(config, "max_position_embeddings", data.encoders.max_text_tokens)
        if data.encoders.max_text_tokens > most:
            raise ValueError(
                f"max_text_tokens = {data.encoders.max_text_tokens} is more than the text encoder takes ({most}); "
                "lower it"
            )
        if not base:
            settings["text_config"] = config.to_dict()
    return settings


def class_weights(data: EmotionData, head: str, power: float) -> list[float]:
    """A weight a class, by its frequency in training to a power; 1 on average over the training utterances."""
    counts = np.bincount(data.train.rows[head], minlength=len(data.names[head]))
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -power, 0.0)
    return (weights * counts.sum() / (weights * counts).sum()).tolist()


def initialise(model: FusionForEmotion, data: EmotionData, new: bool, resumed: bool = False) -> None:
    """Give a new model the weights of its encoders, and keep what frozen ones make of the utterances."""
    branches = model.fusion.branches
    if new and "text" in branches and has_weights(data.encoders.text_model):
        with named("text_model", data.encoders.text_model):
            weights = AutoModel.from_pretrained(data.encoders.text_model).state_dict()
        encoder = branches["text"].encoder
        wanted = encoder.state_dict().keys()
        encoder.load_state_dict({key: value for key, value in weights.items() if key in wanted})
    elif new and "text" in branches:
        logger.warning("text_model %s is a folder without weights: its encoder is random", data.encoders.text_model)
    if new and "video" in branches and model.config.video_encoder == "r3d_18":
        load_video_weights(model, data.encoders.video_weights)
    frozen = {name: branch for name, branch in branches.items() if branch.frozen}
    if frozen:
        logger.info("frozen encoders: %s", ", ".join(frozen))
    model.trainable_parameters()
    if data.encoders.cache_features:
        if not frozen:
            raise ValueError("cache_features: no encoder is frozen, so there is nothing to keep; leave it out")
        for side in SIDES:
            data.sides[side].cached = cache_features(data.sides[side], model)


def has_weights(name: str) -> bool:
    """Whether an encoder comes with weights: a name on the Hub does, a folder may."""
    folder = Path(name)
    return not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def load_video_weights(model: FusionForEmotion, source: str) -> None:
    """Weights of r3d_18 from torchvision, from a file, or none."""
    if source == "none":
        if model.config.freeze_video:
            logger.warning("video_weights none with freeze_video: the video encoder is random and stays so")
        return
    with named("video_weights", source):
        if source == "kinetics":
            weights = R3D_18_Weights.KINETICS400_V1.get_state_dict(progress=False, check_hash=True)
        else:
            weights = torch.load(source, map_location="cpu", weights_only=True)
        model.load_video_weights(weights)


def collator(processor: FusionProcessor, run: Run) -> PaddingCollator:
    """How items become a batch."""
    return PaddingCollator(processor.tokenizer.pad_token_id)


def sampler(data: EmotionData, run: Run) -> Callable[[int], LengthGroupedSampler | ShardedSampler]:
    """The order of training, for a batch size that the trainer knows."""
    return order_of_training(data.lengths, run, shards_of(data.train.rows))


def trainer_settings(data: EmotionData, run: Run) -> dict[str, Any]:
    """The parts' learning rates, and how rows are read."""
    return {"learning_rates": data.settings.learning_rates, "streamed": run.arguments.streaming}


def about_training(trainer: Trainer, data: EmotionData) -> dict[str, Any]:
    """What is learnt, by part, and how."""
    return {
        "trainable": trainer.model.part_sizes(),
        "undecodable": trainer.undecodable,
        "encoders": asdict(data.encoders),
        **asdict(data.settings),
    }


def extra_pages(trainer: Trainer, data: EmotionData) -> dict[str, str]:
    """Files that this task leaves beside card and report: none."""
    return {}


def probabilities_of(output: PredictionOutput) -> dict[str, np.ndarray]:
    """Head -> (N, classes)."""
    logits = [torch.from_numpy(output.predictions[place]).double() for place in range(len(HEADS))]
    return {head: scores.softmax(-1).numpy() for head, scores in zip(HEADS, logits, strict=True)}


def utterances(side: UtteranceDataset) -> Utterances:
    """What scores need to know of a side; `present` is what its rows say that there is."""
    columns = side.rows.select_columns(["utterance_id", "dialogue", "text", *HEADS, *(f"has_{m}" for m in MODALITIES)])
    table = columns.with_format("arrow")[:]
    return Utterances(
        ids=table["utterance_id"].to_pylist(),
        dialogues=table["dialogue"].to_pylist(),
        texts=[text or "" for text in table["text"].to_pylist()],
        labels={head: table[head].to_numpy() for head in HEADS},
        present={name: table[f"has_{name}"].to_numpy() for name in side.modalities},
    )


def evaluate(trainer: Trainer, data: EmotionData, side: str) -> tuple[dict[str, Any], pa.Table]:
    """The assessment of one side, beside baselines and with modalities left out, and the predictions behind it."""
    dataset = data.sides[side]
    if not len(dataset):
        raise ValueError(f"nothing to score: the {side} side has no utterance")
    output = trainer.predict(dataset, metric_key_prefix=side)
    probabilities, promised = probabilities_of(output), utterances(dataset)
    given = output.predictions[len(HEADS)].astype(bool)  # (N, M)
    test = replace(promised, present=dict(zip(dataset.modalities, given.T, strict=True)))
    undecodable = np.any([promised.present[name] & ~test.present[name] for name in dataset.modalities], axis=0).sum()
    made = trainer.predict_with_less(dataset, side) if data.settings.ablations else {}
    left_out = {name: probabilities_of(less) for name, less in made.items()}
    results = assess(data.names, utterances(data.train), test, probabilities, left_out)
    results["undecodable"] = int(undecodable)  # rows, of all processes
    results["note"] = IN_SAMPLE.get(side)
    return results, prediction_table(data, test, probabilities)


def prediction_table(data: EmotionData, test: Utterances, probabilities: dict[str, np.ndarray]) -> pa.Table:
    """A row an utterance: truth, prediction and the probability of each class, by head."""
    columns: dict[str, Any] = {"utterance_id": test.ids, "dialogue": test.dialogues}
    for head, names in data.names.items():
        scores = probabilities[head]
        columns[head] = [names[label] for label in test.labels[head]]
        columns[f"predicted_{head}"] = [names[label] for label in scores.argmax(1)]
        columns |= {f"p_{head}_{name}": scores[:, place] for place, name in enumerate(names)}
    return pa.table(columns)


def predict(
    model: FusionForEmotion, processor: FusionProcessor, clips: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[EmotionPrediction], list[str], str]:
    """Write what is felt in some clips, utterance by utterance, as JSON; the predictions, and why some have none."""
    return predict_clips(model, processor, clips, arguments)

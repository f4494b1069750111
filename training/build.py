"""From settings to objects: feature extractor, model and Trainer."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    FEATURE_EXTRACTOR_MAPPING,
    AutoFeatureExtractor,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedModel,
    set_seed,
)

from modeling import SIGNAL_CONFIGS, EncoderConfig, FusionConfig
from modeling.feature_extraction_audio import AudioFeatureExtractor
from system.process import keep_freed_memory
from system.text import plural
from training.callbacks import StopWithoutProgress
from training.command_line import unknown_key
from training.environment import threads_for_this_process
from training.progress import HandlerAroundBars
from training.rows import use_storage
from training.settings import RunArguments
from training.task import Run, TaskData
from training.trainer import SignalTrainer

logger = logging.getLogger(__name__)

# Settings of a saved model that training on other data replaces.
OF_THE_DATA = ("target_scaling", "target_unit", "emotion_weights", "sentiment_weights")
# Architectures of this project; others are transformers'.
OUR_TYPES = {kind.model_type for kind in (*SIGNAL_CONFIGS, EncoderConfig, FusionConfig)}


def set_up_process(run: Run) -> None:
    """Logging on the main process, torch's share of the machine, and the seed, before there are weights to draw."""
    main = run.training.process_index == 0
    level, line = logging.INFO if main else logging.ERROR, "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, format=line, handlers=[HandlerAroundBars()])
    for library in ("httpx", "httpx2", "fsspec", "datasets", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    threads = run.arguments.num_threads or threads_for_this_process()
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    use_storage(run.arguments)
    set_seed(run.training.seed)
    logger.info("%s: torch on %s, %s", run.name, run.training.device, plural(torch.get_num_threads(), "thread"))


def build_extractor(arguments: RunArguments, **settings: Any) -> FeatureExtractionMixin:
    """The audio features: those of the model that is fine-tuned, else new ones. `settings` come from the task."""
    clash = sorted(settings.keys() & arguments.feature_config.keys())
    if clash:
        raise ValueError(f"feature_config sets {clash}, which follow from the task's settings; leave them out")
    asked = settings | arguments.feature_config
    if arguments.model_name_or_path:
        extractor = AutoFeatureExtractor.from_pretrained(arguments.model_name_or_path)
        check_fit(extractor.to_dict(), asked, arguments.model_name_or_path)
        return extractor
    kind = AudioFeatureExtractor
    config = None if arguments.model_type in OUR_TYPES else dict(CONFIG_MAPPING.items()).get(arguments.model_type)
    extractors: Any = FEATURE_EXTRACTOR_MAPPING
    if config in extractors:  # other models are refused when they are built
        kind = extractors[config]
        known = set(inspect.signature(kind).parameters)
        for key in arguments.feature_config:
            if key not in known:
                raise ValueError(unknown_key(f"feature_config.{key}", {f"feature_config.{name}" for name in known}))
    return kind(**asked)


def build_model(run: Run, settings: dict[str, Any]) -> PreTrainedModel:
    """Return a new model, or a saved one to fine-tune.

    Args:
        settings: those that follow from the data, which a config may not set.
    """
    arguments, task = run.arguments, run.task
    config = new_config(arguments, settings, task.model_configs)
    name = arguments.model_name_or_path
    if name is None or run.base_config is None:
        return task.auto_model.from_config(config)
    if arguments.model_type not in OUR_TYPES:  # a published model gets a new head if it had other labels
        check_fit(run.base_config.to_dict(), arguments.model_config | {"model_type": arguments.model_type}, name)
        return task.auto_model.from_pretrained(name, **settings, ignore_mismatched_sizes=True)
    model = task.auto_model.from_pretrained(name)
    new = {key: settings[key] for key in OF_THE_DATA if key in settings}
    asked = own_names(type(model.config), {key: value for key, value in settings.items() if key not in new})
    asked |= arguments.model_config
    check_fit(model.config.to_dict(), asked | {"model_type": arguments.model_type}, name)
    model.config.update(new)
    return model


def new_config(
    arguments: RunArguments, settings: dict[str, Any], models: Sequence[type[PreTrainedConfig]]
) -> PreTrainedConfig:
    """The config of a new model; a key that the model does not have is an error that names the nearest one.

    `models` are the configurations that a task can train.
    """
    kinds = {kind.model_type: kind for kind in models}
    if arguments.model_type not in kinds:
        listed = ", ".join(sorted(kinds, key=lambda name: name not in OUR_TYPES))  # ours first
        raise ValueError(f"model_type = {arguments.model_type!r} is not known; it takes one of {listed}")
    kind = kinds[arguments.model_type]
    settings = own_names(kind, settings)
    known = set(inspect.signature(kind).parameters)
    for key in arguments.model_config:
        if key in settings:
            raise ValueError(f"model_config.{key} follows from the data ({settings[key]!r}); leave it out")
        if key not in known:
            message = unknown_key(f"model_config.{key}", {f"model_config.{name}" for name in known})
            raise ValueError(f"{message} (model_type {arguments.model_type!r})")
    return kind(**settings, **arguments.model_config)


def own_names(kind: type[PreTrainedConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that a model itself gives them: `input_size` is a WaveNet's `input_channels`."""
    return {kind.attribute_map.get(name, name): value for name, value in settings.items()}


def check_fit(saved: dict[str, Any], asked: dict[str, Any], name: str) -> None:
    """Refuse to go on from a saved model with settings that are not its own."""
    for key, value in asked.items():
        if saved.get(key) != value:
            raise ValueError(
                f"{name}: {key} = {saved.get(key)!r}, but the run asks for {value!r}; "
                "choose the settings that the model was trained with, or train a new one"
            )


def build_trainer(run: Run, model: PreTrainedModel, extractor: Any, data: TaskData) -> SignalTrainer:
    """Trainer over the task's items, order and metrics."""
    patience = run.training.early_stopping_patience
    return run.task.trainer(
        model=model,
        args=run.training,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=run.task.collator(extractor, run),
        sampler=run.task.sampler(data, run),
        validation_metrics=data.validation_metrics,
        processing_class=extractor,
        callbacks=[StopWithoutProgress(patience)] if patience else [],
        **run.task.trainer_settings(data, run),
    )

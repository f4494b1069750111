"""Build the feature extractor, the model and the Trainer from settings."""

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

# Config entries of a saved model that describe its training data. Fine-tuning on other data replaces them.
DATA_DEPENDENT_KEYS = ("target_scaling", "target_unit", "emotion_weights", "sentiment_weights")
# The architectures of this project. All others come from transformers.
OUR_TYPES = {kind.model_type for kind in (*SIGNAL_CONFIGS, EncoderConfig, FusionConfig)}


def set_up_process(run: Run) -> None:
    """Set up logging, torch's threads, the S3 client and the random seed of this process.

    Call it before the model is built: initial weights depend on the seed.
    """
    main = run.training.process_index == 0
    level, line = logging.INFO if main else logging.ERROR, "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, format=line, handlers=[HandlerAroundBars()])
    # These libraries log every request, file or font at INFO, which would hide our own lines.
    for library in ("httpx", "httpx2", "fsspec", "datasets", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)
    threads = run.arguments.num_threads or threads_for_this_process()
    if threads:
        torch.set_num_threads(threads)
    # Otherwise glibc gives freed memory back after each step, and the next step has to get it from the system again.
    keep_freed_memory()
    use_storage(run.arguments)
    set_seed(run.training.seed)
    logger.info("%s: torch on %s, %s", run.name, run.training.device, plural(torch.get_num_threads(), "thread"))


def build_extractor(arguments: RunArguments, **settings: Any) -> FeatureExtractionMixin:
    """Return the audio feature extractor: that of the model to fine-tune, or a new one.

    Args:
        settings: values that the task sets, and that `feature_config` must not set.
    """
    clash = sorted(settings.keys() & arguments.feature_config.keys())
    if clash:
        raise ValueError(
            f"feature_config={', '.join(clash)}: follows from other settings. Remove it from feature_config."
        )
    requested = settings | arguments.feature_config
    if arguments.model_name_or_path:
        extractor = AutoFeatureExtractor.from_pretrained(arguments.model_name_or_path)
        check_fit(extractor.to_dict(), requested, arguments.model_name_or_path)
        return extractor
    extractor_class = AudioFeatureExtractor
    config = None if arguments.model_type in OUR_TYPES else dict(CONFIG_MAPPING.items()).get(arguments.model_type)
    extractors: Any = FEATURE_EXTRACTOR_MAPPING
    # An unknown model_type is not an error here: `new_config` reports it, with the list of valid ones.
    if config in extractors:
        extractor_class = extractors[config]
        # transformers' extractors accept any keyword and ignore the unknown ones, so a typo has to be caught here.
        known = set(inspect.signature(extractor_class).parameters)
        for key in arguments.feature_config:
            if key not in known:
                raise ValueError(unknown_key(f"feature_config.{key}", {f"feature_config.{name}" for name in known}))
    return extractor_class(**requested)


def build_model(run: Run, settings: dict[str, Any]) -> PreTrainedModel:
    """Return a new model, or a saved one to fine-tune.

    Args:
        settings: config values that follow from the data, and that `model_config` must not set.
    """
    arguments, task = run.arguments, run.task
    config = new_config(arguments, settings, task.model_configs)
    name = arguments.model_name_or_path
    if name is None or run.base_config is None:
        return task.auto_model.from_config(config)
    if arguments.model_type not in OUR_TYPES:
        check_fit(run.base_config.to_dict(), arguments.model_config | {"model_type": arguments.model_type}, name)
        # ignore_mismatched_sizes: a published model with other labels gets a new classification head.
        return task.auto_model.from_pretrained(name, **settings, ignore_mismatched_sizes=True)
    # One of our own models: it keeps all of its settings, except those that describe the data.
    model = task.auto_model.from_pretrained(name)
    new = {key: settings[key] for key in DATA_DEPENDENT_KEYS if key in settings}
    requested = own_names(type(model.config), {key: value for key, value in settings.items() if key not in new})
    requested |= arguments.model_config
    check_fit(model.config.to_dict(), requested | {"model_type": arguments.model_type}, name)
    model.config.update(new)
    return model


def new_config(
    arguments: RunArguments, settings: dict[str, Any], models: Sequence[type[PreTrainedConfig]]
) -> PreTrainedConfig:
    """Return the config of a new model; raise ValueError for an unknown `model_type` or `model_config` key.

    Args:
        settings: values that follow from the data.
        models: the configuration classes that the task can train.
    """
    config_classes = {config_class.model_type: config_class for config_class in models}
    if arguments.model_type not in config_classes:
        listed = ", ".join(sorted(config_classes, key=lambda name: name not in OUR_TYPES))  # ours first
        raise ValueError(f"model_type={arguments.model_type!r}: unknown model type. Must be one of {listed}.")
    config_class = config_classes[arguments.model_type]
    settings = own_names(config_class, settings)
    # PreTrainedConfig stores any keyword as an attribute, so a misspelt key would otherwise be ignored.
    known = set(inspect.signature(config_class).parameters)
    for key in arguments.model_config:
        if key in settings:
            raise ValueError(
                f"model_config.{key}={arguments.model_config[key]!r}: follows from the data ({settings[key]!r}). "
                "Remove the key."
            )
        if key not in known:
            message = unknown_key(f"model_config.{key}", {f"model_config.{name}" for name in known})
            raise ValueError(f"{message} (model_type {arguments.model_type!r})")
    return config_class(**settings, **arguments.model_config)


def own_names(config_class: type[PreTrainedConfig], settings: dict[str, Any]) -> dict[str, Any]:
    """Rename settings to the names in this model's config: `input_size` is WaveNet's `input_channels`."""
    return {config_class.attribute_map.get(name, name): value for name, value in settings.items()}


def check_fit(saved: dict[str, Any], requested: dict[str, Any], name: str) -> None:
    """Raise ValueError if the run requests other settings than those the saved model `name` was trained with."""
    for key, value in requested.items():
        if saved.get(key) != value:
            raise ValueError(
                f"{key}={value!r}: {name} was trained with {key}={saved.get(key)!r}. "
                "Use the settings of the saved model, or train a new one."
            )


def build_trainer(run: Run, model: PreTrainedModel, extractor: Any, data: TaskData) -> SignalTrainer:
    """Return the task's Trainer, with its items, collator, sampler and metrics."""
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

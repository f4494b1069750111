"""The interface between the engine and a task.

A task is a folder under `tasks/`. Its `task.py` ends with `TASK`, an instance of a subclass of `Task`, and
`tasks/__init__.py` names that module. Its `settings.py` ends with `SETTINGS`, which the command line is read by
before torch is imported. The engine reaches a task only through what is written here.

A run calls a task in this order: `features`, `prepare`, `model_settings`, `initialise`, `cache`; then `collator`,
`sampler` and `trainer_settings` for the trainer; after training `evaluate`, `training_record`, and the pages.
"""

import argparse
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import datasets
import pyarrow as pa
from matplotlib.figure import Figure
from torch.utils.data import Dataset
from transformers import AutoConfig, EvalPrediction, PreTrainedConfig, PreTrainedModel

from system.text import masked
from training.samplers import EpochSampler
from training.settings import NOT_RECORDED, RunArguments, TaskSettings
from training.study_runs import StudyTables
from training.trainer import SignalTrainer
from training.trainer_arguments import RunTrainingArguments

SettingsT = TypeVar("SettingsT", bound=TaskSettings)
DataT = TypeVar("DataT", bound="TaskData")


@dataclass(frozen=True)
class Run(Generic[SettingsT]):
    """A run as a config and a command line describe it."""

    name: str
    arguments: RunArguments
    training: RunTrainingArguments
    task: "Task[SettingsT, Any]"
    settings: SettingsT  # a dataclass whose fields are dataclasses, whose fields are the task's keys
    push_to_hub: bool  # at the end, by us: Trainer would push every checkpoint, with a card of its own
    hub_token: str | None = field(default=None, repr=False)  # not in `training`, which Trainer saves

    @cached_property
    def base_config(self) -> PreTrainedConfig | None:
        """The configuration of the saved model that is fine-tuned or scored; None for a new one."""
        name = self.arguments.model_name_or_path
        return AutoConfig.from_pretrained(name) if name else None

    @property
    def folder(self) -> Path:
        """The folder that the run writes."""
        return Path(str(self.training.output_dir))

    def resolved(self) -> dict[str, Any]:
        """Return all keys with their values, but secrets: a config that repeats this run on the same data."""
        values = dataclasses.asdict(self.arguments)
        for group in dataclasses.fields(self.settings):  # type: ignore[arg-type]
            values |= dataclasses.asdict(getattr(self.settings, group.name))
        training = self.training.to_dict()
        left_out = {key for key in training if key.endswith("_token") or key in NOT_RECORDED}
        return masked(values | {key: training[key] for key in sorted(training.keys() - left_out)})


class SplitRecord(Protocol):
    """How a data set was divided."""

    @property
    def sha256(self) -> str:
        """The hash of the ids of each part."""
        ...

    def record(self) -> dict[str, Any]:
        """Return what `splits.json` holds: `settings`, `sha256`, and the ids of each part."""
        ...


class TaskData(Protocol):
    """A data set prepared by a task."""

    @property
    def train(self) -> Dataset: ...

    @property
    def validation(self) -> Dataset: ...

    @property
    def split(self) -> SplitRecord: ...

    def record(self) -> dict[str, Any]:
        """Return the fields of the task's `DataRecord` beyond those of the source."""
        ...

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return the scores on `validation` by which checkpoints are chosen."""
        ...


@dataclass(frozen=True)
class DataRecord:
    """The data of a run, as recorded in metrics.json. A task adds its own fields in a subclass."""

    dataset: str
    config: str
    files: dict[str, str]  # name -> digest of the content
    rows: int
    synthetic: bool


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained, as recorded in metrics.json. A task adds its own fields in a subclass."""

    steps: int
    epochs: float | None
    best_checkpoint_step: int | None
    best_validation: float | None
    chosen_by: str | None
    processes: int
    precision: str
    data_wait_share: float
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class BaseRecord:
    """The model that training started from."""

    model: str
    test_trials_it_was_trained_on: int | None  # None: not known, as for a published model


@dataclass(frozen=True)
class Facts:
    """What is known of scores, as written to metrics.json."""

    name: str
    task: str
    data: DataRecord
    split: dict[str, Any]  # its hash, and the settings that it follows from
    test: Any  # the results of the task's `evaluate`
    versions: dict[str, str]
    threads: int  # of torch, in each process: sums in another order have other last digits


@dataclass(frozen=True)
class RunFacts(Facts):
    """What is known of a finished run."""

    base: BaseRecord | None
    model: dict[str, Any]  # its settings that are not defaults
    parameters: int
    receptive_field_seconds: float | None
    training: TrainingRecord


@dataclass(frozen=True)
class ScoreFacts(Facts):
    """What is known of a saved model that was scored on other data."""

    model: str
    side: str


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on one part of the data."""

    results: Any  # a dataclass of the task
    predictions: pa.Table
    model_config: dict[str, Any] = field(default_factory=dict)  # what the saved model needs of it, such as a threshold


@dataclass(frozen=True)
class Predicted:
    """What a saved model predicted for recordings."""

    predictions: list[Any]
    unreadable: list[str]  # one line per recording without a prediction, with the reason
    summary: str  # of the predictions, for the terminal


class Task(ABC, Generic[SettingsT, DataT]):
    """One kind of prediction: its data, its models, its scores and its pages."""

    name: str
    settings: type[SettingsT]
    columns: tuple[str, ...]  # that a data set must have

    auto_model: type  # the Auto class that loads a saved model
    model_configs: tuple[type[PreTrainedConfig], ...]  # of the models that can be trained
    auto_extractor: type | None  # the Auto class that loads what makes the model's inputs
    trainer: type[SignalTrainer] = SignalTrainer

    suffixes: tuple[str, ...] = ()  # of the recordings that `predict` reads
    output_suffix: str = ".csv"  # of the predictions
    prediction_options: tuple[str, ...] = ()  # of run_predict.py, in addition to those of all tasks

    simple_baseline: str  # what a sceptic would run first: a key of the baselines in every record of scores
    study: StudyTables | None = None  # combines the scores of several runs; run_study.py needs it
    data_record: type[DataRecord] = DataRecord
    training_record: type[TrainingRecord] = TrainingRecord

    @property
    def validation_metrics(self) -> dict[str, bool]:
        return self.settings.validation_metrics

    @property
    def streamed(self) -> tuple[str, ...]:
        return self.settings.streamed

    @abstractmethod
    def features(self, run: Run[SettingsT]) -> Any:
        """Return what makes the model's inputs: a feature extractor, a processor, or None."""

    @abstractmethod
    def prepare(
        self, rows: datasets.Dataset, extractor: Any, run: Run[SettingsT], saved: dict[str, Any] | None = None
    ) -> DataT:
        """Divide the rows and make items of them.

        Args:
            saved: metrics.json of the run whose model is scored, whose scaling is then kept.
        """

    @abstractmethod
    def model_settings(self, data: DataT, extractor: Any, run: Run[SettingsT]) -> dict[str, Any]:
        """Return the settings of a model that follow from the data."""

    @abstractmethod
    def collator(self, extractor: Any, run: Run[SettingsT]) -> Callable[[list[Any]], dict[str, Any]]:
        """Return the function that makes a batch of items."""

    @abstractmethod
    def sampler(self, data: DataT, run: Run[SettingsT]) -> Callable[[int], EpochSampler]:
        """Return the order of training as a function of the batch size of one process."""

    @abstractmethod
    def evaluate(self, trainer: Any, data: DataT, side: str) -> Evaluation:
        """Score the trained model on one part of the data."""

    @abstractmethod
    def results_table(self, results: dict[str, Any]) -> str:
        """Return the scores as a Markdown table."""

    @abstractmethod
    def conclusion(self, results: dict[str, Any]) -> str:
        """Return the main score with its interval, and the verdict, for the terminal: one line for each target."""

    @abstractmethod
    def model_card(self, facts: dict[str, Any]) -> str:
        """Return the README.md of the saved model, from metrics.json."""

    @abstractmethod
    def report_files(
        self, facts: dict[str, Any], config: dict[str, Any], predictions: pa.Table
    ) -> dict[str, str | bytes]:
        """Return report.html and its figures by file name, from metrics.json, run_config.json and the predictions."""

    def ids_of(self, rows: datasets.Dataset, run: Run[SettingsT], kind: str) -> list[str]:
        """Return the ids of a kind, "song" or "listener", that a study can hold out one by one."""
        raise ValueError(f"task={self.name}: a study of it leaves no {kind} out.")

    def check_split(self, rows: datasets.Dataset, run: Run[SettingsT]) -> None:
        """Refuse a division that leaves a side empty; a study of folds asks for all of them before its first run."""

    def initialise(self, model: PreTrainedModel, data: DataT, new: bool, resumed: bool) -> None:
        """Give a new model what it takes from the data, such as the scaling of its inputs.

        Args:
            new: the model has no trained weights yet.
            resumed: a checkpoint will replace its weights.
        """

    def cache(self, data: DataT, model: PreTrainedModel) -> DataT:
        """Return the data with features that parts of the model that are not trained can make once."""
        return data

    def trainer_settings(self, data: DataT, run: Run[SettingsT]) -> dict[str, Any]:
        """Return arguments of the trainer beyond those of all tasks."""
        return {}

    def about_training(self, trainer: Any, data: DataT) -> dict[str, Any]:
        """Return the fields of `training_record` beyond those of all tasks."""
        return {}

    def extra_pages(self, trainer: Any, data: DataT) -> dict[str, str]:
        """Return further files of the run folder, by name."""
        return {}

    def example_input(self, model: dict[str, Any]) -> list[str]:
        """Return what stands after the model in an example of run_predict.py; `model` are its settings."""
        return [f"recording{self.suffixes[0]}"]

    def check_prediction(
        self, config: PreTrainedConfig | None, files: Sequence[Path], arguments: argparse.Namespace
    ) -> None:
        """Refuse what `predict` cannot do with a model of this configuration, before its weights are loaded.

        Args:
            config: None for a pretrained encoder, which may have to be downloaded.
        """
        if not self.suffixes:
            raise ValueError(
                f"task={self.name}: a model of stored embeddings reads no recordings. Prepare them as a data set, "
                "then score it with run_eval.py."
            )

    def predict(self, model: Any, extractor: Any, files: Sequence[Path], arguments: argparse.Namespace) -> Predicted:
        """Predict for recordings, and write the predictions to `arguments.output`.

        Where `arguments.synthetic`, they say that the model learned from synthetic data.
        """
        raise NotImplementedError

    def plot_predictions(self, predictions: Sequence[Any]) -> Figure:
        """Draw the predictions for recordings, one panel per recording."""
        raise ValueError(f"task={self.name}: predictions have no plot. Remove --plot.")

"""The interface between the engine and a task.

A task is a folder in `tasks/`. Its `task.py` defines `TASK`, an instance of a subclass of `Task`, and
`tasks/__init__.py` registers that module. Its `settings.py` defines `SETTINGS`, which is needed to read the command
line before torch is imported. The engine uses a task only through the interface in this module.

A run calls the methods of a task in this order: `features`, `prepare`, `model_settings`, `initialise` and `cache`;
`collator`, `sampler` and `trainer_settings` to build the trainer; after training `evaluate`, `about_training`, and
the methods for card and report.
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

from reporting.card import CardMetadata
from reporting.sections import Section
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
    """A run, as described by a config and a command line."""

    name: str
    arguments: RunArguments
    training: RunTrainingArguments
    task: "Task[SettingsT, Any]"
    settings: SettingsT  # a dataclass of dataclasses, whose fields are the task's keys
    # Not in `training`: Trainer would push every checkpoint, with a card of its own. We push once, at the end.
    push_to_hub: bool
    # Not in `training`: Trainer saves its arguments with each checkpoint.
    hub_token: str | None = field(default=None, repr=False)

    @cached_property
    def base_config(self) -> PreTrainedConfig | None:
        """The configuration of the saved model that is fine-tuned or scored; None for a new model."""
        # Cached, because reading it may need the network, and several stages of a run use it.
        name = self.arguments.model_name_or_path
        return AutoConfig.from_pretrained(name) if name else None

    @property
    def folder(self) -> Path:
        """The output folder of the run."""
        return Path(str(self.training.output_dir))

    def resolved(self) -> dict[str, Any]:
        """Return all keys and values except secrets: a config that repeats this run on the same data."""
        values = dataclasses.asdict(self.arguments)
        for group in dataclasses.fields(self.settings):  # type: ignore[arg-type]
            values |= dataclasses.asdict(getattr(self.settings, group.name))
        training = self.training.to_dict()
        # TrainingArguments has several tokens. None of them may be written to a file.
        left_out = {key for key in training if key.endswith("_token") or key in NOT_RECORDED}
        return masked(values | {key: training[key] for key in sorted(training.keys() - left_out)})


class SplitRecord(Protocol):
    """The train, validation and test split of a data set."""

    @property
    def sha256(self) -> str:
        """The hash of the ids in each split."""
        ...

    def record(self) -> dict[str, Any]:
        """Return the content of `splits.json`: `settings`, `sha256`, and the ids in each split."""
        ...


class TaskData(Protocol):
    """A data set as prepared by a task."""

    @property
    def train(self) -> Dataset: ...

    @property
    def validation(self) -> Dataset: ...

    @property
    def split(self) -> SplitRecord: ...

    def record(self) -> dict[str, Any]:
        """Return the fields that the task adds to `DataRecord`."""
        ...

    def validation_metrics(self, output: EvalPrediction) -> dict[str, float]:
        """Return the validation scores. One of them selects the best checkpoint."""
        ...


@dataclass(frozen=True)
class DataRecord:
    """The data of a run, as recorded in metrics.json. A task adds its own fields in a subclass."""

    dataset: str
    config: str
    files: dict[str, str]  # file name -> digest of its content
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
    """The saved model that was fine-tuned."""

    model: str
    test_trials_it_was_trained_on: int | None  # None if unknown, as for a published model


@dataclass(frozen=True)
class Facts:
    """The content of metrics.json that all programs share."""

    name: str
    task: str
    data: DataRecord
    split: dict[str, Any]  # its hash and its settings
    test: Any  # the results of the task's `evaluate`
    versions: dict[str, str]
    threads: int  # torch threads per process; another number changes the order of sums, and so the last digits


@dataclass(frozen=True)
class RunFacts(Facts):
    """The content of metrics.json for a finished run."""

    base: BaseRecord | None
    model: dict[str, Any]  # config values that differ from their defaults
    parameters: int
    receptive_field_seconds: float | None
    training: TrainingRecord


@dataclass(frozen=True)
class ScoreFacts(Facts):
    """The content of metrics.json for a saved model that was scored by run_eval.py."""

    model: str
    side: str


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on one split."""

    results: Any  # a dataclass of the task
    predictions: pa.Table
    model_config: dict[str, Any] = field(default_factory=dict)  # results to save in the model config, e.g. a threshold


@dataclass(frozen=True)
class Predicted:
    """The predictions of a saved model for recordings."""

    predictions: list[Any]
    unreadable: list[str]  # one line per recording without a prediction, with the reason
    summary: str  # of the predictions, for the terminal


class Task(ABC, Generic[SettingsT, DataT]):
    """A prediction task: its data, models, scores, card and report."""

    name: str
    settings: type[SettingsT]
    columns: tuple[str, ...]  # columns that a data set must have

    auto_model: type  # the Auto class that loads a saved model
    model_configs: tuple[type[PreTrainedConfig], ...]  # configuration classes of the models that can be trained
    auto_extractor: type | None  # the Auto class that loads the feature extractor or processor
    trainer: type[SignalTrainer] = SignalTrainer

    suffixes: tuple[str, ...] = ()  # file suffixes of the recordings that `predict` reads
    output_suffix: str = ".csv"  # file suffix of the predictions
    prediction_options: tuple[str, ...] = ()  # options of run_predict.py that only some tasks support

    simple_baseline: str  # the baseline that a sceptic would try first: a key of the baselines in the results
    study: StudyTables | None = None  # combines the scores of several runs; None if run_study.py is not supported
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
        """Return the feature extractor or processor of the model, or None if it needs none."""

    @abstractmethod
    def prepare(
        self, rows: datasets.Dataset, extractor: Any, run: Run[SettingsT], saved: dict[str, Any] | None = None
    ) -> DataT:
        """Split the rows and turn them into items.

        Args:
            saved: metrics.json of the saved model that is scored, to use its scaling.
        """

    @abstractmethod
    def model_settings(self, data: DataT, extractor: Any, run: Run[SettingsT]) -> dict[str, Any]:
        """Return the model config values that follow from the data."""

    @abstractmethod
    def collator(self, extractor: Any, run: Run[SettingsT]) -> Callable[[list[Any]], dict[str, Any]]:
        """Return the function that makes a batch from items."""

    @abstractmethod
    def sampler(self, data: DataT, run: Run[SettingsT]) -> Callable[[int], EpochSampler]:
        """Return a function that takes the batch size per process and makes the training sampler."""

    @abstractmethod
    def evaluate(self, trainer: Any, data: DataT, side: str) -> Evaluation:
        """Score the trained model on one split.

        Args:
            side: "train", "validation", "test" or "all".
        """

    @abstractmethod
    def results_table(self, results: dict[str, Any]) -> str:
        """Return the scores as a Markdown table."""

    @abstractmethod
    def conclusion(self, results: dict[str, Any]) -> str:
        """Return the main score with its interval and the verdict, one line per target, for the terminal."""

    @abstractmethod
    def sections(self, facts: dict[str, Any], predictions: pa.Table | None) -> list[Section]:
        """Return the sections of the report and of the card, from metrics.json and the predictions.

        Args:
            facts: metrics.json; without "training" if a saved model was scored on other data, where no card is made.
            predictions: None if only the card is rendered.
        """

    @abstractmethod
    def card_metadata(self, facts: dict[str, Any]) -> CardMetadata:
        """Return what the Hub shows of the saved model."""

    def ids_of(self, rows: datasets.Dataset, run: Run[SettingsT], kind: str) -> list[str]:
        """Return the ids that a study can hold out one by one.

        Args:
            kind: "song" or "listener".
        """
        raise ValueError(
            f"task={self.name}: studies that leave out one {kind} are not supported. Remove --leave_one_{kind}_out."
        )

    def check_split(self, rows: datasets.Dataset, run: Run[SettingsT]) -> None:
        """Raise ValueError if a split would be empty. A study checks all of its folds before the first run."""

    def initialise(self, model: PreTrainedModel, data: DataT, new: bool, resumed: bool) -> None:
        """Set the values of a new model that follow from the data, such as the scaling of its inputs.

        Args:
            new: the model has no trained weights yet.
            resumed: a checkpoint will replace the weights, so expensive initialisation can be skipped.
        """

    def cache(self, data: DataT, model: PreTrainedModel) -> DataT:
        """Return the data with precomputed outputs of the frozen parts of the model."""
        return data

    def trainer_settings(self, data: DataT, run: Run[SettingsT]) -> dict[str, Any]:
        """Return additional arguments for the task's trainer."""
        return {}

    def about_training(self, trainer: Any, data: DataT) -> dict[str, Any]:
        """Return the fields that the task adds to `training_record`."""
        return {}

    def extra_pages(self, trainer: Any, data: DataT) -> dict[str, str]:
        """Return additional text files for the run folder, by name."""
        return {}

    def example_input(self, model: dict[str, Any]) -> list[str]:
        """Return the arguments that follow the model in an example command of run_predict.py.

        Args:
            model: the settings of the model in metrics.json.
        """
        return [f"recording{self.suffixes[0]}"]

    def check_prediction(
        self, config: PreTrainedConfig | None, files: Sequence[Path], arguments: argparse.Namespace
    ) -> None:
        """Raise ValueError if `predict` does not support these arguments. Called before the weights are loaded.

        Args:
            config: None for a pretrained encoder that may not have been downloaded yet.
        """
        if not self.suffixes:
            raise ValueError(
                f"task={self.name}: its models read stored embeddings, not recordings. Prepare the recordings as a "
                "data set, then score it with run_eval.py."
            )

    def predict(self, model: Any, extractor: Any, files: Sequence[Path], arguments: argparse.Namespace) -> Predicted:
        """Predict for recordings, and write the predictions to `arguments.output`.

        If `arguments.synthetic` is true, mark the predictions as made by a model trained on synthetic data.
        """
        raise NotImplementedError

    def plot_predictions(self, predictions: Sequence[Any]) -> Figure:
        """Plot the predictions, one panel per recording."""
        raise ValueError(f"task={self.name}: plots of predictions are not supported. Remove --plot.")

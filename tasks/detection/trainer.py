"""Trainer for planned batches with hard-negative mining: scores of an epoch choose hard negatives of the next one.

The plan of an epoch depends only on scores of earlier epochs. Scores are therefore collected during an epoch,
gathered from all ranks at its end, and saved with a checkpoint inside an epoch. A run resumed there has the same
plan, scores and hard negatives as an uninterrupted run.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tasks.detection.collator import COLUMNS
from tasks.detection.items import Kind
from tasks.detection.mining import MiningTable, read_arrays, write_arrays
from tasks.detection.pools import ClipPools
from tasks.detection.records import TrainingLength
from tasks.detection.sampler import TwoTierBatchSampler, check_same_plan
from tasks.detection.windows import AudioSetWindows
from training.samplers import EpochBatchSampler, PrefetchingBatchSampler
from training.trainer import SignalTrainer
from training.trainer_arguments import RunTrainingArguments
from training.workers import sharing_files

logger = logging.getLogger(__name__)

# K steps of the epoch so far, W ranks, B items per batch


STATE_FILE = "mining.npz"  # in the checkpoint folder
STATE_VERSION = 2  # of the `served` part of this file
NON_MODEL_KEYS = (*COLUMNS, "mixed")  # batch keys that the model does not accept


class TargetSoundTrainer(SignalTrainer):
    """Trainer whose `sampler` returns a `TwoTierBatchSampler` over the batches of all ranks.

    Args:
        pools: the pools that the item numbers refer to.
        mining: table of hard negatives; None: no mining.
    """

    train_dataset: AudioSetWindows

    def __init__(
        self,
        *args: Any,
        sampler: Callable[[int], TwoTierBatchSampler],
        pools: ClipPools,
        mining: MiningTable | None,
        **kwargs: Any,
    ) -> None:
        arguments: RunTrainingArguments = kwargs["args"]
        self.plan = sampler(arguments.train_batch_size)
        super().__init__(*args, sampler=lambda batch_size: self.plan, **kwargs)
        # Trainer returns these next to the predictions: evaluation needs to know which windows were unreadable.
        self.label_names = ["labels", "readable"]
        self.pools, self.mining = pools, mining
        self.served = ServedWindows(pools, self.plan)
        self.epoch = 0
        self.add_callback(EpochCallback(self))

    def prefetching(
        self, sampler: EpochBatchSampler, files_of: Callable[[Any], list[str]], batch_size: int
    ) -> PrefetchingBatchSampler:
        """Wrap the sampler to prefetch the raw files of coming batches."""
        ahead, index, processes = self.args.prefetch_batches, self.args.process_index, self.args.world_size
        return PrefetchingBatchSampler(sampler, files_of, ahead, index, processes)

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the planned batches; Accelerate gives batch k * world + r to rank r."""
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_num_workers > 0,  # workers keep decoded audio
            # Its own generator: starting workers must not advance the global one.
            generator=torch.Generator(),
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )
        return sharing_files(self.accelerator.prepare(loader))

    @property
    def length(self) -> TrainingLength:
        return planned_length(self.args, self.plan, self.args.world_size)

    @property
    def waiting_remedy(self) -> str:
        """As in SignalTrainer; if audio is kept in memory, each worker has to decode all of it."""
        if not self.train_dataset.sounds.keep or self.train_dataset.embeddings is not None:
            return super().waiting_remedy
        workers = self.args.dataloader_num_workers
        if not workers:
            return "Audio is decoded once (memory_gb), so waiting ends after the first pass."
        return f"Lower dataloader_num_workers={workers}: each worker decodes all audio itself (memory_gb)."

    def num_examples(self, dataloader: DataLoader) -> int:
        """Return the items per epoch over all ranks; for other loaders as in Trainer."""
        if dataloader.dataset is self.train_dataset:
            return len(self.plan) * self.plan.batch_size
        return super().num_examples(dataloader)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """As in Trainer; in training also records the served items and their scores."""
        model_inputs = {name: value for name, value in inputs.items() if name not in NON_MODEL_KEYS}
        loss, outputs = cast(
            tuple[torch.Tensor, Any], super().compute_loss(model, model_inputs, return_outputs=True, **kwargs)
        )
        if model.training:
            scores = outputs["logits"][:, 0].detach().float().sigmoid()
            self.served.add(inputs["item"], inputs["requested"], inputs["mixed"], scores)
        return (loss, outputs) if return_outputs else loss

    def begin_epoch(self, epoch: int) -> None:
        """Check before the first step of an epoch that all ranks have the same plan."""
        # After a checkpoint at an epoch's last step, a run resumes in the next epoch: on_epoch_end never ran.
        if epoch != self.epoch and self.served.has_steps:
            self.finish_epoch()
        self.epoch = epoch
        check_same_plan(self.plan.digest(), gather_object)

    def finish_epoch(self) -> None:
        """Count the served items, and choose the hard negatives of the next epoch."""
        items, scores = self.served.finish(self.accelerator.gather)
        if self.mining is not None:
            self.mining.apply(self.epoch, items, scores)
            self.plan.set_hard(*self.mining.hardest())

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the state of the running epoch before Trainer writes its own."""
        # All ranks gather, one writes. Trainer writes its own state last, so a checkpoint with that file is complete.
        state = self.served.state_dict(self.accelerator.gather)
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            table = {} if self.mining is None else self.mining.state_dict()
            parts = {"served": state | {"in_epoch": self.epoch}, "mining": table, "plan": self.plan.state_dict()}
            arrays = {f"{part}/{name}": np.asarray(v) for part, values in parts.items() for name, v in values.items()}
            write_arrays(folder / STATE_FILE, arrays)
        super()._save_checkpoint(model, trial)

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As in Trainer; resuming also restores the plan, the scores and the hard negatives."""
        if resume_from_checkpoint:
            self.load_state(Path(resume_from_checkpoint) / STATE_FILE)
        logger.info("training: %s", self.length)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def load_state(self, path: Path) -> None:
        """Restore the state of `_save_checkpoint`; raises ValueError for other data or another world size."""
        parts = read_state(path)
        self.plan.load_state_dict(parts["plan"])
        served = parts["served"]
        self.epoch = int(served.pop("in_epoch"))
        self.served.load_state_dict(served)
        if self.mining is not None:
            self.mining.load_state_dict(parts["mining"])


def read_state(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the parts of a checkpoint's state: `plan`, `served` and, with mining, `mining`."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, value in read_arrays(path).items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = value
    return parts


class EpochCallback(TrainerCallback):
    """Calls the trainer at the start and end of an epoch, after the sampler got its epoch."""

    def __init__(self, trainer: TargetSoundTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin_epoch(int(state.epoch or 0))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.finish_epoch()


def planned_length(args: TrainingArguments, plan: TwoTierBatchSampler, ranks: int) -> TrainingLength:
    """Compute the length of training in the way that Trainer counts steps."""
    per_epoch = math.ceil(len(plan) / (ranks * args.gradient_accumulation_steps))
    # As in Trainer, a positive max_steps overrides num_train_epochs.
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    per_step = plan.composition[0] * ranks * args.gradient_accumulation_steps
    drawn = steps / per_epoch * len(plan) * plan.composition[0]
    return TrainingLength(steps, per_epoch, len(plan.positives), per_step, drawn / len(plan.positives))


class ServedWindows:
    """The windows that a run was trained on: kinds, labels, replaced files, and the scores of the running epoch.

    Scores are in the order of the plan, (K, W, B), so neither their rank nor an interruption of the run matters.
    """

    def __init__(self, pools: ClipPools, plan: TwoTierBatchSampler) -> None:
        self.pools, self.plan = pools, plan
        self.counts: Counter[str] = Counter()
        self.substituted: Counter[int] = Counter()  # requested item -> count
        self.seen = np.zeros(int(pools.items.label.max(initial=0)) + 1, bool)  # labels of strong negatives
        self.steps: list[tuple[torch.Tensor, ...]] = []  # of this rank, since the last `gather`
        self.epoch = self._empty()  # gathered part of the running epoch: (K, W, B) each

    def _empty(self) -> dict[str, np.ndarray]:
        shape = (0, self.plan.world_size, self.plan.batch_size)
        dtypes = {"item": np.int64, "requested": np.int64, "mixed": np.bool_, "score": np.float32}
        return {name: np.zeros(shape, dtype) for name, dtype in dtypes.items()}

    @property
    def has_steps(self) -> bool:
        """Whether steps of an epoch have not been counted yet."""
        return bool(self.steps) or len(self.epoch["item"]) > 0

    def add(self, items: torch.Tensor, requested: torch.Tensor, mixed: torch.Tensor, scores: torch.Tensor) -> None:
        """Record one batch of this rank, (B,) each; tensors stay on their device."""
        self.steps.append((items, requested, mixed, scores))

    def gather(self, gather: Any) -> None:
        """Collect the new steps of all ranks; every rank has to call it."""
        if not self.steps:
            return
        for name, column in zip(self.epoch, zip(*self.steps, strict=True), strict=True):
            ranks = gather(torch.stack(column)[None]).transpose(0, 1).cpu().numpy()  # (K, W, B)
            self.epoch[name] = np.concatenate([self.epoch[name], ranks])
        self.steps = []

    def finish(self, gather: Any) -> tuple[np.ndarray, np.ndarray]:
        """Count a finished epoch; returns its unmixed negatives and their scores (N,), in the order of the plan."""
        self.gather(gather)
        epoch, self.epoch = self.epoch, self._empty()
        item, requested, mixed = epoch["item"], epoch["requested"], epoch["mixed"]
        tiers, first = self.plan.tier_names, self.plan.composition[0]  # (B,) names; first negative position
        for name in dict.fromkeys(tiers):
            self.counts[name] += int((~mixed[..., np.array(tiers) == name]).sum())
        self.counts["mixed"] += int(mixed.sum())
        replaced = (item != requested) & ~mixed
        self.counts["substituted"] += int(replaced.sum())
        self.substituted.update(requested[replaced].tolist())
        # The score of a mixture with a positive says nothing about the negative in it.
        unmixed = ~mixed[..., first:]
        negatives, scores = item[..., first:][unmixed], epoch["score"][..., first:][unmixed]
        strong = negatives[self.pools.items.kind[negatives] == Kind.STRONG]
        self.seen[self.pools.items.label[strong]] = True
        self.counts["explicit"] += int((self.pools.items.kind[negatives] == Kind.EXPLICIT).sum())
        self.counts["hard"] += int(np.isin(negatives, self.plan.hard).sum())
        return negatives, scores

    def state_dict(self, gather: Any) -> dict[str, np.ndarray]:
        """Return the state as arrays for `load_state_dict`; every rank has to call it."""
        self.gather(gather)
        names = sorted(self.counts)
        items = sorted(self.substituted)
        return self.epoch | {
            "version": np.array(STATE_VERSION),
            "seen": self.seen,
            "count_names": np.array(names, dtype=str),
            "counts": np.array([self.counts[name] for name in names], np.int64),
            "substituted": np.array(items, np.int64),
            "substituted_times": np.array([self.substituted[item] for item in items], np.int64),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state from `state_dict`; raises ValueError for another version."""
        version = int(state.get("version", 1))
        if version != STATE_VERSION:
            raise ValueError(
                f"version={version}: counts of served windows are stored in version {STATE_VERSION}. Resume with the "
                "code that wrote the checkpoint, or start again."
            )
        self.epoch = {name: state[name] for name in self.epoch}
        self.seen = state["seen"]
        self.counts = Counter(dict(zip(state["count_names"].tolist(), state["counts"].tolist(), strict=True)))
        times = zip(state["substituted"].tolist(), state["substituted_times"].tolist(), strict=True)
        self.substituted = Counter(dict(times))

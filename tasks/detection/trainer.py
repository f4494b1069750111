"""Trainer over batches that a plan names: Accelerate deals them out to the ranks, and what the model takes for the
target comes back as hard negatives of the next epoch.

The plan of an epoch depends on scores of epochs before it alone. So scores are kept while an epoch runs, gathered from
all ranks at its end, and saved with a checkpoint in its middle: a run that resumes there has the plan, the scores and
the hard negatives of one that was never stopped.
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

# K steps of an epoch so far, W ranks, B items of a batch


STATE_FILE = "mining.npz"  # in a checkpoint
STATE_VERSION = 2  # of what was served, in this file
NOT_OF_THE_MODEL = (*COLUMNS, "mixed")  # of a batch


class TargetSoundTrainer(SignalTrainer):
    """Trainer whose `sampler` makes a `TwoTierBatchSampler`, a view of all ranks' batches.

    Args:
        pools: what the items are.
        mining: the table of hard negatives, None for none.
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
        self.label_names = ["labels", "readable"]  # given back with the predictions
        self.pools, self.mining = pools, mining
        self.served = ServedWindows(pools, self.plan)
        self.epoch = 0
        self.add_callback(AtEpochs(self))

    def prefetching(
        self, sampler: EpochBatchSampler, files_of: Callable[[Any], list[str]], batch_size: int
    ) -> PrefetchingBatchSampler:
        """The same batches, their raw files on their way."""
        ahead, index, processes = self.args.prefetch_batches, self.args.process_index, self.args.world_size
        return PrefetchingBatchSampler(sampler, files_of, ahead, index, processes)

    def get_train_dataloader(self) -> DataLoader:
        """The plan's batches: Accelerate gives batch k * world + r to rank r."""
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_num_workers > 0,  # they keep the sounds that they decoded
            generator=torch.Generator(),  # persistent workers are started once: the global one has to stay as it was
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
        )
        return sharing_files(self.accelerator.prepare(loader))

    @property
    def length(self) -> TrainingLength:
        """How long the training is."""
        return planned_length(self.args, self.plan, self.args.world_size)

    @property
    def waiting_remedy(self) -> str:
        """As in SignalTrainer; for sounds that are kept in memory, each process decodes all of them."""
        if not self.train_dataset.sounds.keep or self.train_dataset.embeddings is not None:
            return super().waiting_remedy
        workers = self.args.dataloader_num_workers
        if not workers:
            return "Sounds are decoded once (memory_gb): waiting ends with the first pass over them."
        return f"Lower dataloader_num_workers (it is {workers}): each worker decodes all sounds once more (memory_gb)."

    def num_examples(self, dataloader: DataLoader) -> int:
        """Items of an epoch of all ranks; for other loaders as in Trainer."""
        if dataloader.dataset is self.train_dataset:
            return len(self.plan) * self.plan.batch_size
        return super().num_examples(dataloader)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """As in Trainer; notes in training what was served, and how much each item sounded like the target."""
        kept = {name: value for name, value in inputs.items() if name not in NOT_OF_THE_MODEL}
        loss, outputs = cast(
            tuple[torch.Tensor, Any], super().compute_loss(model, kept, return_outputs=True, **kwargs)
        )
        if model.training:
            scores = outputs["logits"][:, 0].detach().float().sigmoid()
            self.served.add(inputs["item"], inputs["requested"], inputs["mixed"], scores)
        return (loss, outputs) if return_outputs else loss

    def begin_epoch(self, epoch: int) -> None:
        """See that all ranks have the same plan before its first step."""
        if epoch != self.epoch and self.served.has_steps:  # resumed from a checkpoint of an epoch's very last step
            self.finish_epoch()
        self.epoch = epoch
        check_same_plan(self.plan.digest(), gather_object)

    def finish_epoch(self) -> None:
        """Count what was served, and choose the hard negatives of the next epoch."""
        items, scores = self.served.finish(self.accelerator.gather)
        if self.mining is not None:
            self.mining.apply(self.epoch, items, scores)
            self.plan.set_hard(*self.mining.hardest())

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """What it takes to go on in the middle of an epoch is written before the rest: Trainer's state is last."""
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
        """As in Trainer, with the plan, the scores and the hard negatives of the checkpoint."""
        if resume_from_checkpoint:
            self.load_state(Path(resume_from_checkpoint) / STATE_FILE)
        logger.info("training: %s", self.length)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def load_state(self, path: Path) -> None:
        """Take up what `_save_checkpoint` wrote; ValueError when it belongs to other data or another world size."""
        parts = read_state(path)
        self.plan.load_state_dict(parts["plan"])
        served = parts["served"]
        self.epoch = int(served.pop("in_epoch"))
        self.served.load_state_dict(served)
        if self.mining is not None:
            self.mining.load_state_dict(parts["mining"])


def read_state(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The parts of a checkpoint's state: plan, served and, where negatives were mined, mining."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for place, value in read_arrays(path).items():
        part, _, name = place.partition("/")
        parts.setdefault(part, {})[name] = value
    return parts


class AtEpochs(TrainerCallback):
    """Tells the trainer where an epoch begins and ends; the sampler has its epoch by then."""

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
    """How long a training is, as Trainer counts steps."""
    per_epoch = math.ceil(len(plan) / (ranks * args.gradient_accumulation_steps))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    per_step = plan.composition[0] * ranks * args.gradient_accumulation_steps
    drawn = steps / per_epoch * len(plan) * plan.composition[0]
    return TrainingLength(steps, per_epoch, len(plan.positives), per_step, drawn / len(plan.positives))


class ServedWindows:
    """The windows that a run was trained on: their kinds, labels, substitutes of bad files, and the epoch's scores.

    Scores are in the order of the plan, (K, W, B), so that it does not matter which rank had them or whether the run
    was stopped between.
    """

    def __init__(self, pools: ClipPools, plan: TwoTierBatchSampler) -> None:
        self.pools, self.plan = pools, plan
        self.counts: Counter[str] = Counter()
        self.substituted: Counter[int] = Counter()  # requested item -> times
        self.seen = np.zeros(int(pools.items.label.max(initial=0)) + 1, bool)  # labels of strong negatives
        self.steps: list[tuple[torch.Tensor, ...]] = []  # of this rank, since the last gathering
        self.epoch = self._empty()  # what was gathered of the running epoch: (K, W, B) each

    def _empty(self) -> dict[str, np.ndarray]:
        shape = (0, self.plan.world_size, self.plan.batch_size)
        kinds = {"item": np.int64, "requested": np.int64, "mixed": np.bool_, "score": np.float32}
        return {name: np.zeros(shape, kind) for name, kind in kinds.items()}

    @property
    def has_steps(self) -> bool:
        """Whether an epoch has begun and is not counted yet."""
        return bool(self.steps) or len(self.epoch["item"]) > 0

    def add(self, items: torch.Tensor, requested: torch.Tensor, mixed: torch.Tensor, scores: torch.Tensor) -> None:
        """Note one batch of this rank, (B,) each."""
        self.steps.append((items, requested, mixed, scores))

    def gather(self, gather: Any) -> None:
        """Join what all ranks have seen since the last time."""
        if not self.steps:
            return
        for name, column in zip(self.epoch, zip(*self.steps, strict=True), strict=True):
            ranks = gather(torch.stack(column)[None]).transpose(0, 1).cpu().numpy()  # (K, W, B)
            self.epoch[name] = np.concatenate([self.epoch[name], ranks])
        self.steps = []

    def finish(self, gather: Any) -> tuple[np.ndarray, np.ndarray]:
        """Count an epoch that has ended; its unmixed negatives and their scores (N,), in the order of the plan."""
        self.gather(gather)
        epoch, self.epoch = self.epoch, self._empty()
        item, requested, mixed = epoch["item"], epoch["requested"], epoch["mixed"]
        places, first = self.plan.tier_names, self.plan.composition[0]  # (B,) what each place of a batch is for
        for name in dict.fromkeys(places):
            self.counts[name] += int((~mixed[..., np.array(places) == name]).sum())
        self.counts["mixed"] += int(mixed.sum())
        bad = (item != requested) & ~mixed
        self.counts["substituted"] += int(bad.sum())
        self.substituted.update(requested[bad].tolist())
        kept = ~mixed[..., first:]
        negatives, scores = item[..., first:][kept], epoch["score"][..., first:][kept]
        strong = negatives[self.pools.items.kind[negatives] == Kind.STRONG]
        self.seen[self.pools.items.label[strong]] = True
        self.counts["explicit"] += int((self.pools.items.kind[negatives] == Kind.EXPLICIT).sum())
        self.counts["hard"] += int(np.isin(negatives, self.plan.hard).sum())
        return negatives, scores

    def state_dict(self, gather: Any) -> dict[str, np.ndarray]:
        """Arrays that `load_state_dict` takes."""
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
        """Go on from what `state_dict` gave; ValueError when that was an older version."""
        version = int(state.get("version", 1))
        if version != STATE_VERSION:
            raise ValueError(f"counts of what was served of version {version}, this is version {STATE_VERSION}")
        self.epoch = {name: state[name] for name in self.epoch}
        self.seen = state["seen"]
        self.counts = Counter(dict(zip(state["count_names"].tolist(), state["counts"].tolist(), strict=True)))
        times = zip(state["substituted"].tolist(), state["substituted_times"].tolist(), strict=True)
        self.substituted = Counter(dict(times))

"""Record the items of uninterrupted and resumed runs; test_target_trainer.py starts it in one or more processes.

    python -m torch.distributed.run --nproc_per_node 2 -m tests.helpers.target_run <folder>

Each rank writes `rank<r>.json`. For every combination of workers and gradient accumulation it has the (item, seed)
pairs of the uninterrupted run and of runs resumed at several steps, whether their final weights are identical, the
loudness of the scored windows, and their logits by a head on log-mel.
"""

import json
import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from modeling import EfficientAtFeatureExtractor, EncoderConfig, TcnConfig, TcnForAudioClassification
from modeling.feature_extraction_audio import AudioFeatureExtractor
from tasks.detection.augmentation import Augmentation
from tasks.detection.baselines import PlainWindows, WindowDescriptors, describe_windows
from tasks.detection.collator import DetectionCollator
from tasks.detection.log_mel_head import fit_head, log_mel_frames
from tasks.detection.mining import MiningSettings, MiningTable
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tasks.detection.trainer import TargetSoundTrainer
from tasks.detection.windows import AudioSetWindows
from tests.helpers.toy_clips import RATE, toy_clips, toy_side
from training.trainer_arguments import RunTrainingArguments

EPOCHS = 3
CLIP_SECONDS = 0.25
LOG_MEL = EfficientAtFeatureExtractor(sampling_rate=RATE, hop_length=40, max_frequency=1900.0)


class Recording(TargetSoundTrainer):
    """Record the requested items and their seeds."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if model.training:
            pairs = zip(inputs["requested"].tolist(), inputs["seed"].tolist(), strict=True)
            self.noted = [*getattr(self, "noted", []), sorted(pairs)]
        return super().compute_loss(model, inputs, *args, **kwargs)


def make_trainer(folder: Path, workers: int, accumulation: int, **settings: Any) -> Recording:
    """Return a trainer of a tiny detector on toy clips, which mines every negative from the first epoch on."""
    rows, pools = toy_clips()
    extractor = AudioFeatureExtractor(sampling_rate=RATE, n_fft=128, hop_length=64, num_mel_bins=8, frame_rate=None)
    torch.manual_seed(0)
    config = TcnConfig(input_size=8, num_blocks=1, num_channels=4, dropout=0.1, id2label={0: "cry"})
    augmentation = Augmentation(gain_db=3, mixup_probability=0.2, spec_time_mask_frames=2)
    args = RunTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
        num_train_epochs=EPOCHS,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=1,
        save_total_limit=None,
        load_best_model_at_end=False,
        metric_for_best_model="loss",
        greater_is_better=False,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        prefetch_batches=0,
        **settings,
    )
    return Recording(
        model=TcnForAudioClassification(config),
        args=args,
        train_dataset=AudioSetWindows(rows, pools.items, CLIP_SECONDS, RATE, augmentation),
        data_collator=DetectionCollator(extractor, augmentation),
        sampler=lambda size: TwoTierBatchSampler.from_pools(
            pools, SamplerSettings(min_epoch_steps=1), size, 7, args.world_size
        ),
        validation_metrics=lambda output: {},
        processing_class=extractor,
        pools=pools,
        mining=MiningTable(MiningSettings(hard_threshold=0.05, mining_capacity=20), pools),
    )


def weights(trainer: Recording) -> list[torch.Tensor]:
    return [value.clone() for value in trainer.model.state_dict().values()]


def logits_on_log_mel(trainer: Recording) -> list[float]:
    """Return the logits of the scored windows, by a head that was trained on them."""
    side = toy_side()
    features = partial(log_mel_frames, extractor=LOG_MEL)
    frames = torch.from_numpy(describe_windows(trainer, PlainWindows(side), features)).float()
    predict = fit_head(frames, torch.from_numpy(side.labels), EncoderConfig(head="mlp", num_labels=1), seed=0)
    return describe_windows(trainer, PlainWindows(side), lambda audio: predict(features(audio)))[:, 0].tolist()


def main(folder: Path) -> None:
    records = []
    for workers in (0, 2):
        for accumulation in (1, 2):
            run_folder = folder / f"run-{workers}-{accumulation}"
            full = make_trainer(run_folder, workers, accumulation)
            full.train()
            last = full.state.global_step
            record = {
                "workers": workers,
                "accumulation": accumulation,
                "steps": last,
                "served": full.noted,
                "hard": int(full.served.counts["hard"]),
                "counts": dict(full.served.counts),
                "history": [asdict(mined) for mined in full.mining.history],
                "loudness": describe_windows(full, PlainWindows(toy_side()), WindowDescriptors(RATE))[:, 0].tolist(),
                "logmel": logits_on_log_mel(full),
                "resumed": [],
            }
            for step in sorted({1, last // 3, last // 2, last - 1} if not workers else {last // 2}):
                resumed = make_trainer(folder / "resumed", workers, accumulation, save_only_model=False)
                resumed.train(resume_from_checkpoint=str(run_folder / f"checkpoint-{step}"))
                same = all(torch.equal(a, b) for a, b in zip(weights(full), weights(resumed), strict=True))
                record["resumed"].append(
                    {
                        "step": step,
                        "served": resumed.noted,
                        "same_weights": same,
                        "counts": dict(resumed.served.counts),
                        "history": [asdict(mined) for mined in resumed.mining.history],
                    }
                )
                # All ranks write into this folder, so it is removed only when all have finished.
                full.accelerator.wait_for_everyone()
                if full.args.process_index == 0:
                    shutil.rmtree(folder / "resumed")
                full.accelerator.wait_for_everyone()
            records.append(record)
    (folder / f"rank{full.args.process_index}.json").write_text(json.dumps(records))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Streaming from S3 gives the same items, scores and weights as local data, and downloads each shard once."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from launch.run import parse_run
from system.storage import S3FileManager
from tasks.attention.evaluate import baselines
from tasks.attention.items import SCALING_SHARDS
from tasks.attention.task import TASK as attention
from tasks.emotion.task import TASK as emotion
from tests.helpers.attention_rows import SIZES, make_rows, without
from tests.helpers.programs import end_ranks, start_ranks
from tests.helpers.remote_runs import upload
from tests.helpers.s3_server import FakeS3, serve_s3
from training import streaming
from training.build import build_model, build_trainer
from training.rows import load_rows, use_storage
from training.samplers import SHARDS_TOGETHER, ShardedSampler
from training.task import Run
from training.trainer import SignalTrainer

CONFIG, PREFIX = "configs/tunein_attention.json", "s3://lab/tunein"
SHARDS, ROWS, ROWS_PER_GROUP = 6, 40, 16  # number of shards, rows per shard, rows per row group
SMALL = (
    "--model_config.hidden_size", "8", "--per_device_train_batch_size", "8", "--eval_strategy", "no",
    "--load_best_model_at_end", "false", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[FakeS3]:
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(server: FakeS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """An empty S3 server, and a new file manager and cache of decoded row groups for each test."""
    server.reset()
    server.proxy.forget()
    monkeypatch.setattr(S3FileManager, "_shared", None)
    monkeypatch.setattr(streaming, "_groups", streaming.DecodedGroups(streaming.DECODED_BYTES))
    yield server
    if S3FileManager.live():
        S3FileManager.live().close()


@pytest.fixture(scope="module")
def creatives() -> datasets.Dataset:
    """Rows for all shards, a few of them without sound or text."""
    return without(without(make_rows(SHARDS * ROWS), "audio", [0, 1, 50]), "text", [3, 200])


@pytest.fixture
def lab(s3: FakeS3, creatives: datasets.Dataset) -> FakeS3:
    """The S3 server with these rows."""
    upload(s3, PREFIX, {"train": [creatives.shard(SHARDS, i, contiguous=True) for i in range(SHARDS)]}, ROWS_PER_GROUP)
    s3.proxy.forget()
    return s3


def whole_shards(s3: FakeS3) -> Counter[int]:
    """Count how often each shard was downloaded completely, by shard number."""
    lines = [request.line for request in s3.proxy.requests if request.range is None]
    return Counter(int(match[1]) for line in lines if (match := re.match(r"GET \S+-(\d{5})-of-\d+\.parquet", line)))


def streamed_run(*more: str) -> tuple[Run, datasets.Dataset]:
    """Return a run that streams, and its rows."""
    run = parse_run([CONFIG, "--dataset", PREFIX, "--streaming", "true", *SMALL, *more])
    use_storage(run.arguments)
    return run, load_rows(run.arguments, run.task.columns, run.task.streamed)[0]


def trainer_of(run: Run, rows: datasets.Dataset, resumed: bool = False) -> tuple[SignalTrainer, Any]:
    """Return the trainer as run_train.py builds it, and its data."""
    torch.manual_seed(0)
    data = attention.prepare(rows, None, run)
    model = build_model(run, attention.model_settings(data, None, run))
    attention.initialise(model, data, new=True, resumed=resumed)
    return build_trainer(run, model, None, data), data


# Names of prefixes


@pytest.mark.parametrize("prefix", ["s3://lab/odd out+%20[x]", "s3://lab/what?/*"])
@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_prefix_with_wildcard_characters_is_taken_literally(
    lab, creatives, prefix, streaming, monkeypatch, tmp_path
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    upload(lab, prefix, {"train": [creatives.select(range(40, 80)), creatives.select(range(40))]}, ROWS_PER_GROUP)
    run = parse_run([CONFIG, "--dataset", prefix, "--streaming", streaming, *SMALL])
    use_storage(run.arguments)
    rows, record = load_rows(run.arguments, run.task.columns, run.task.streamed)
    assert list(rows["creative_id"]) == creatives["creative_id"][40:80] + creatives["creative_id"][:40]
    assert sorted(record.files) == [f"train-0000{number}-of-00002.parquet" for number in range(2)]


# The order of training


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_a_plan_contains_every_item_and_each_rank_reads_its_own_shards(
    sizes: list[int], batch_size: int, world: int, seed: int
) -> None:
    shards = np.repeat(np.arange(len(sizes)), sizes)
    if len(sizes) < world:
        with pytest.raises(ValueError, match=f"streaming: .*{len(sizes)} shards?.*{world} processes"):
            ShardedSampler(shards, batch_size, seed, world)
        return
    sampler, again = (ShardedSampler(shards, batch_size, seed, world) for _ in range(2))
    again.set_epoch(3)
    sampler.set_epoch(3)
    order, seeds = sampler.plan()
    assert list(sampler) == list(again) == list(zip(order.tolist(), seeds.tolist(), strict=True))
    longest = max(np.bincount(shards % world))
    assert len(order) == len(sampler) == world * batch_size * -(-longest // batch_size)
    times = np.bincount(order, minlength=len(shards))
    assert (times >= 1).all()
    assert times.sum() - len(shards) == sampler.repeated
    batches = order.reshape(-1, world, batch_size)
    for rank in range(world):
        own = shards[batches[:, rank].ravel()]
        assert (own % world == rank).all()
        first = [np.flatnonzero(own == shard)[[0, -1]] for shard in np.unique(own)]
        open_at_once = [sum(start <= place <= end for start, end in first) for place in range(len(own))]
        assert max(open_at_once) <= SHARDS_TOGETHER  # no shard is read again after it is finished


def test_epochs_change_the_order_but_not_the_shards_of_a_rank() -> None:
    sampler = ShardedSampler(np.repeat(np.arange(8), 10), 5, seed=0, world_size=2)
    first = sampler.plan()[0].reshape(-1, 2, 5)
    sampler.set_epoch(1)
    second = sampler.plan()[0].reshape(-1, 2, 5)
    assert not np.array_equal(first, second)
    assert all(set(first[:, rank].ravel()) == set(second[:, rank].ravel()) for rank in (0, 1))


# Rows


def test_small_columns_need_no_complete_shard_and_items_equal_those_of_local_rows(
    lab: FakeS3, creatives: datasets.Dataset
) -> None:
    run, rows = streamed_run()
    assert not whole_shards(lab)
    assert set(rows.column_names) == set(creatives.column_names) - set(SIZES) | {streaming.STORED_IN}
    assert rows["creative_id"][:] == creatives["creative_id"][:]
    assert len(rows) == SHARDS * ROWS
    local, streamed = attention.prepare(creatives, None, run), attention.prepare(rows, None, run)
    assert not whole_shards(lab)  # the sizes of the embeddings were read with range requests too
    assert streamed.record() == local.record()
    assert streamed.split.sha256 == local.split.sha256
    for place in range(0, len(streamed.train), 7):
        one, other = streamed.train[place, 5], local.train[place]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(count == 1 for count in whole_shards(lab).values())
    for name, (mean, deviation) in streamed.train.moments().items():
        first = [
            item
            for shard, item in zip(streamed.train.read_rows.shards, local.train, strict=True)
            if shard < SCALING_SHARDS
        ]
        frames = np.concatenate([item[f"{name}_embeddings"][item[f"{name}_mask"].bool()] for item in first])
        np.testing.assert_allclose(mean, frames.astype(np.float64).mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(deviation, frames.astype(np.float64).std(0), rtol=1e-9)
    ridge, other = (baselines(data, data.sides["test"])["ridge on all"] for data in (streamed, local))
    np.testing.assert_allclose(ridge, other)


def test_local_copies_stay_within_the_cache_limit(lab: FakeS3) -> None:
    largest = max(file.size for file in S3FileManager.shared().list_objects(PREFIX))
    S3FileManager.shared().close()
    run, rows = streamed_run("--streaming_cache_gb", str(2 * SHARDS_TOGETHER * largest / 1e9 + 1e-9))
    files = S3FileManager.shared()
    assert files.max_bytes < SHARDS * largest
    data = attention.prepare(rows, None, run)
    for _ in range(2):
        streaming._groups.tables.clear()
        for place in range(len(data.sides["all"])):
            data.sides["all"][place]
            assert files.cache.used_bytes() <= files.max_bytes
    assert all(count == 2 for count in whole_shards(lab).values())
    assert len(whole_shards(lab)) == SHARDS


def test_decoded_row_groups_stay_within_their_limit(lab: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = streaming.DecodedGroups(max_bytes=20_000)
    monkeypatch.setattr(streaming, "_groups", groups)
    run, rows = streamed_run()
    items = attention.prepare(rows, None, run).sides["all"]
    for place in range(0, len(items), 5):
        items[place]
        assert len(groups.tables) == 1 or sum(table.nbytes for table in groups.tables.values()) <= 20_000
    assert len(groups.tables) < SHARDS * -(-ROWS // ROWS_PER_GROUP)


# Runs


def test_predictions_for_streamed_rows_equal_those_for_local_rows(
    lab: FakeS3, creatives: datasets.Dataset, tmp_path: Path
) -> None:
    run, rows = streamed_run("--output_dir", str(tmp_path / "streamed"))
    streamed, data = trainer_of(run, rows)
    local = trainer_of(parse_run([CONFIG, *SMALL, "--output_dir", str(tmp_path / "local")]), creatives)[0]
    local.model.load_state_dict(streamed.model.state_dict())
    for side in ("test", "all"):
        one = streamed.predict(data.sides[side])
        other = local.predict(attention.prepare(creatives, None, run).sides[side])
        assert np.array_equal(one.predictions[0], other.predictions[0])
        assert len(one.label_ids) == len(data.sides[side])
        assert np.array_equal(one.label_ids, other.label_ids)
    assert set(whole_shards(lab).values()) == {1}


@pytest.mark.slow
def test_a_resumed_run_has_the_same_weights_and_downloads_no_finished_shard(
    lab: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = ("--num_train_epochs", "1", "--save_strategy", "steps", "--save_steps", "1", "--prefetch_batches", "2")
    run, rows = streamed_run("--output_dir", str(tmp_path / "run"), "--save_total_limit", "99", *saving)
    whole, data = trainer_of(run, rows)
    whole.train()
    order = whole.sampler.sampler.plan()[0].reshape(-1, 8)  # batches
    shards = streaming.shards_of(data.train.rows)[order]
    step = len(order) - 4
    assert set(shards[step:].ravel()) < set(shards.ravel())
    S3FileManager.shared().close()
    streaming._groups.tables.clear()
    lab.proxy.forget()
    run, rows = streamed_run("--output_dir", str(tmp_path / "again"), *saving)
    again, _ = trainer_of(run, rows, resumed=True)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    assert set(whole_shards(lab)) == set(shards[step:].ravel().tolist())
    one, other = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


# Other tasks and errors


def emotion_run(*more: str) -> tuple[Run, datasets.Dataset]:
    """Return a run that streams MELD, and its rows."""
    streamed = ("--dataset", "s3://lab/meld", "--dataset_config", "full", "--streaming", "true", "--use_cpu", "true")
    run = parse_run(["configs/meld_sample.json", *streamed, *more])
    use_storage(run.arguments)
    return run, load_rows(run.arguments, run.task.columns, run.task.streamed)[0]


@pytest.fixture(scope="module")
def utterances() -> dict[str, datasets.Dataset]:
    """At most 24 rows of each split of the sample."""
    splits = datasets.load_dataset("hf_datasets/meld", "sample")
    return {name: split.select(range(min(24, len(split)))) for name, split in splits.items()}


def test_streamed_utterances_equal_local_ones_and_training_reads_only_its_own_shards(
    s3: FakeS3, utterances: dict[str, datasets.Dataset]
) -> None:
    parts = {name: [rows.shard(2, i, contiguous=True) for i in range(2)] for name, rows in utterances.items()}
    upload(s3, "s3://lab/meld", parts, ROWS_PER_GROUP)
    s3.proxy.forget()
    run, rows = emotion_run()
    processor = emotion.features(run)
    streamed = emotion.prepare(rows, processor, run)
    assert not whole_shards(s3)
    local_run = parse_run(["configs/meld_sample.json"])
    local = emotion.prepare(datasets.concatenate_datasets(list(utterances.values())), processor, local_run)
    assert streamed.record() == local.record()
    assert np.array_equal(streamed.lengths, local.lengths)
    for place in (0, 13):
        one, other = streamed.train[place, 1], local.train[place]
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert set(emotion.sampler(streamed, run)(4).shards) == {0, 1}
    assert streamed.train.files_of((13, 1))[0].endswith("00001-of-00002.parquet")


def test_streaming_rejects_clips_outside_the_rows_and_cached_features(
    s3: FakeS3, utterances: dict[str, datasets.Dataset]
) -> None:
    outside = {
        name: rows.map(lambda row: {"clip": {"bytes": None, "path": row["clip"] and "s3://lab/clip.mp4"}})
        for name, rows in utterances.items()
    }
    upload(s3, "s3://lab/meld", {name: [rows] for name, rows in outside.items()}, ROWS_PER_GROUP)
    run, rows = emotion_run()
    with pytest.raises(ValueError, match=r"streaming.*--embed"):
        emotion.prepare(rows, emotion.features(run), run)
    run, rows = emotion_run("--cache_features", "true")
    with pytest.raises(ValueError, match=r"cache_features.*streaming"):
        emotion.prepare(rows, emotion.features(run), run)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        (("configs/eda_tcn.json", "--dataset", "s3://a/b"), "task 'eda'"),
        (("configs/baby_cry.json", "--dataset", "s3://a/b"), "task 'detection'"),
        ((CONFIG, "--dataset", "hf_datasets/tunein"), "dataset='hf_datasets/tunein'"),
        ((CONFIG, "--dataset", "you/tunein"), "dataset='you/tunein'"),
    ],
)
def test_streaming_is_rejected_for_unsupported_tasks_and_data_sets(more: tuple[str, ...], key: str) -> None:
    with pytest.raises(SystemExit, match=f"streaming=true: {key}"):
        parse_run([*more, "--streaming", "true"])


def test_a_cache_smaller_than_the_shards_in_use_is_rejected(lab: FakeS3) -> None:
    with pytest.raises(ValueError, match=r"streaming_cache_gb=1e-05: .*\b4 shards.*\b0\.001\b"):
        streamed_run("--streaming_cache_gb", "1e-5")
    lab.reset()
    S3FileManager.shared().close()
    with pytest.raises(ValueError, match=f"dataset='{PREFIX}': .*python -m hf_datasets.prepare"):
        streamed_run()


@pytest.mark.slow
def test_two_processes_together_download_each_shard_once_and_score_each_row_once(lab: FakeS3, tmp_path: Path) -> None:
    """In preparation, training, validation, test and baselines. The workers of a process share its cache."""
    command = [CONFIG, "--dataset", PREFIX, "--streaming", "true", *SMALL, "--num_train_epochs", "2"]
    command += ["--eval_strategy", "epoch", "--load_best_model_at_end", "true", "--ablations", "false"]
    command += ["--per_device_eval_batch_size", "8", "--dataloader_num_workers", "2"]
    command += ["--report_to", "none", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "run")]
    output = end_ranks(start_ranks(2, tmp_path / "output", "run_train.py", *command), tmp_path / "output")
    assert whole_shards(lab) == Counter(range(SHARDS)), output[-3000:]
    table = pq.read_table(tmp_path / "run" / "predictions.parquet")
    run, rows = streamed_run()
    test = attention.prepare(rows, None, run).sides["test"]
    assert table["creative_id"].to_pylist() == test.rows["creative_id"][:]
    assert np.array_equal(table["target"].to_numpy(), test.targets())
    trainer, _ = trainer_of(run, rows)
    trainer.model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    predictions = trainer.predict(test).predictions[0]
    np.testing.assert_allclose(predictions, table["prediction"].to_numpy(), rtol=1e-4, atol=1e-5)

"""Samplers: the order is a function of seed and epoch, and the files of the next batches are downloaded ahead."""

import threading
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from system.storage import S3FileManager
from tests.helpers.s3_server import serve_s3
from training.callbacks import EpochOfSampler
from training.samplers import LengthGroupedSampler, PrefetchingSampler

lengths = st.lists(st.integers(1, 500), min_size=1, max_size=300)


@given(lengths, st.integers(1, 16), st.integers(0, 2**31), st.integers(0, 50))
def test_every_item_comes_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    sampler = LengthGroupedSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert sorted(index for index, _ in draws) == list(range(len(lengths)))
    assert len(sampler) == len(draws)


@given(lengths, st.integers(1, 16), st.integers(0, 2**31), st.integers(0, 50))
def test_the_plan_is_a_function_of_seed_and_epoch(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    one, other = LengthGroupedSampler(lengths, batch, seed), LengthGroupedSampler(lengths, batch, seed)
    list(one)  # iterating another epoch first makes no difference
    one.set_epoch(epoch)
    other.set_epoch(epoch)
    assert list(one) == list(other) == list(one)


def test_epochs_and_seeds_differ() -> None:
    sampler = LengthGroupedSampler(range(1, 101), batch_size=4, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(LengthGroupedSampler(range(1, 101), batch_size=4, seed=1)) != first
    assert len({seed for _, seed in first}) == 100


def test_batches_hold_similar_lengths() -> None:
    lengths = np.random.default_rng(0).integers(10, 400, size=2000)
    order = [index for index, _ in LengthGroupedSampler(lengths, batch_size=8, seed=0)]
    grouped = lengths[order].reshape(-1, 8)
    shuffled = lengths.reshape(-1, 8)

    def padding(batches: np.ndarray) -> float:
        return float((batches.max(axis=1, keepdims=True) - batches).mean())

    assert padding(grouped) < padding(shuffled) / 10


def test_batches_are_not_sorted_by_length() -> None:
    order = [index for index, _ in LengthGroupedSampler(range(1, 161), batch_size=8, seed=0)]
    means = np.array(order).reshape(-1, 8).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6


@given(st.integers(2, 200), st.integers(2, 17), st.integers(0, 5))
def test_no_batch_is_smaller_than_the_smallest_batch_size(count: int, size: int, epoch: int) -> None:
    sampler = LengthGroupedSampler(np.arange(count) % 7, size, 0, smallest_batch=2)
    sampler.set_epoch(epoch)
    drawn = [index for index, _ in sampler]
    batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    assert all(len(batch) >= 2 for batch in batches)
    assert len(drawn) == len(set(drawn)) == len(sampler) == count - (count % size == 1)
    unlimited = LengthGroupedSampler(np.arange(count) % 7, size, 0)
    unlimited.set_epoch(epoch)
    assert [index for index, _ in unlimited][: len(drawn)] == drawn
    assert len(unlimited) == count


def test_the_dropped_item_differs_between_epochs() -> None:
    sampler = LengthGroupedSampler(np.ones(33), 16, 0, smallest_batch=2)
    left_out = set()
    for epoch in range(40):
        sampler.set_epoch(epoch)
        left_out |= set(range(33)) - {index for index, _ in sampler}
    assert len(left_out) > 15


@given(st.integers(2, 120), st.integers(2, 9), st.integers(2, 3))
def test_processes_get_different_items_in_each_step(count: int, size: int, world: int) -> None:
    """With the batches divided by Accelerate, which fills the last ones of an epoch from its beginning."""
    sampler = LengthGroupedSampler(np.arange(count) % 7, size, 0, smallest_batch=2)
    batches = BatchSampler(sampler, size, drop_last=False)
    ranks = [list(BatchSamplerShard(batches, num_processes=world, process_index=rank)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    for step in zip(*ranks, strict=True):
        drawn = [index for batch in step for index, _ in batch]
        assert all(len(batch) == len(step[0]) >= 2 for batch in step)
        assert len(set(drawn)) == len(drawn) or count < world * size
    all_drawn = {index for rank in ranks for batch in rank for index, _ in batch}
    assert len(all_drawn) == len(sampler)


class RawSounds(torch.utils.data.Dataset):
    """Items that each read one S3 object."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def files_of(self, item: int) -> list[str]:
        return [self.urls[item]]

    def __getitem__(self, item: int) -> tuple[int, bytes]:
        return item, S3FileManager.shared().read_bytes(self.urls[item])


@pytest.mark.parametrize("workers", [0, 2])
def test_files_of_the_next_batches_are_downloaded_once_and_items_are_unchanged(workers, monkeypatch):
    monkeypatch.setattr(S3FileManager, "_shared", None)
    with serve_s3() as s3:
        sounds = RawSounds([f"s3://songs/{i:02d}" for i in range(40)])
        for url in sounds.urls:
            s3.put(url, url.encode())
        files = S3FileManager.shared(min_free_bytes=0)
        order = np.random.default_rng(0).permutation(40).tolist()
        sampler = PrefetchingSampler(order, sounds.files_of, batch_size=4, batches_ahead=3)
        loader = torch.utils.data.DataLoader(
            sounds, batch_size=4, sampler=sampler, num_workers=workers, collate_fn=list
        )
        seen = []
        for place, batch in enumerate(loader, 1):
            seen += batch
            if workers == 0:
                requested = {*files._downloads._jobs, *files._downloads._known}
                assert requested == {sounds.urls[i] for i in order[: min(4 * (place + 3), 40)]}
        assert seen == [(i, sounds.urls[i].encode()) for i in order]
        assert s3.proxy.count() == 40
        files.close()


def test_each_rank_downloads_the_files_of_its_own_batches(monkeypatch):
    requested: list[list[str]] = []
    for rank in range(2):
        monkeypatch.setattr(S3FileManager, "_shared", mock.Mock(_downloads=mock.Mock(closing=threading.Event())))
        sampler = PrefetchingSampler(range(12), lambda item: [f"s3://b/{item}"], 2, 1, rank, 2)
        assert list(sampler) == list(range(12))
        assert len(sampler) == 12
        calls = S3FileManager._shared.prefetch_files.call_args_list
        requested.append([path for call in calls for path in call.args[0]])
    assert requested == [[f"s3://b/{i}" for i in (0, 1, 4, 5, 8, 9)], [f"s3://b/{i}" for i in (2, 3, 6, 7, 10, 11)]]


def test_skipped_batches_are_not_downloaded_and_local_files_need_no_manager(monkeypatch):
    manager = mock.Mock(_downloads=mock.Mock(closing=threading.Event()))
    monkeypatch.setattr(S3FileManager, "_shared", manager)
    sampler = PrefetchingSampler(range(12), lambda item: [f"s3://b/{item}", f"/sounds/{item}"], 2, 1, 1, 2)
    sampler.skip(1 / 3)  # of the three batches of each rank
    assert list(sampler) == list(range(12))
    requested = [path for call in manager.prefetch_files.call_args_list for path in call.args[0]]
    assert requested == [f"s3://b/{i}" for i in (6, 7, 10, 11)]
    manager.prefetch_files.reset_mock()
    list(sampler)  # nothing is skipped in the next epoch
    assert manager.prefetch_files.call_count == 6
    monkeypatch.setattr(S3FileManager, "shared", mock.Mock(side_effect=AssertionError))
    assert list(PrefetchingSampler(range(4), lambda item: [f"/sounds/{item}"], 2, 1)) == list(range(4))


def test_a_run_resumed_within_an_epoch_skips_the_finished_batches() -> None:
    sampler = PrefetchingSampler(LengthGroupedSampler(range(1, 9), 2, seed=0), lambda item: [], 2, 1)
    callback = EpochOfSampler(sampler)
    for epoch, skipped in ((1.5, 2), (2.0, 0)):
        callback.on_epoch_begin(mock.Mock(ignore_data_skip=False), mock.Mock(epoch=epoch), mock.Mock())
        assert (sampler.sampler.epoch, sampler.skipped) == (int(epoch), skipped)

"""The order of training: a plan, not a stream of luck."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.samplers import LengthGroupedSampler

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
    list(one)  # another epoch before it changes nothing
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


def test_batches_do_not_come_in_order_of_length() -> None:
    order = [index for index, _ in LengthGroupedSampler(range(1, 161), batch_size=8, seed=0)]
    means = np.array(order).reshape(-1, 8).mean(axis=1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.6

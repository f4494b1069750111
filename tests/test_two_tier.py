"""Two-tier batches: exact composition, every label in its turn, one plan for all ranks, nothing twice too soon."""

import pickle
from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st

from training.two_tier import LabelledPool, TwoTierBatchSampler, apportion, label_quotas


def make(seed: int = 0, positives: int = 60, labels: int = 20, world: int = 1, **options) -> TwoTierBatchSampler:
    """Pools of disjoint items: positives from 0 on, strong negatives from 1,000, weak ones from 10,000."""
    dice = np.random.default_rng(seed)
    sizes = dice.integers(1, 40, labels)
    strong = LabelledPool(1000 + np.arange(sizes.sum()), np.repeat(np.arange(labels), sizes))
    clips = 10_000 + np.repeat(np.arange(300), 2)
    weak = LabelledPool(clips, dice.integers(0, 30, len(clips)))
    settings = {"batch_size": 16, "seed": seed, "world_size": world, **options}
    return TwoTierBatchSampler(np.arange(positives), strong, weak, **settings)


def kind(item: int) -> str:
    return "positive" if item < 1000 else "strong" if item < 10_000 else "weak"


@given(
    size=st.integers(4, 300),
    shares=st.lists(st.floats(0.05, 10), min_size=1, max_size=5),
)
def test_parts_add_up_and_are_near_their_share(size, shares):
    try:
        parts = apportion(size, shares, list("abcde")[: len(shares)])
    except ValueError as error:
        assert "less than one item" in str(error) and min(shares) / sum(shares) * size < 1
        return
    assert sum(parts) == size
    assert all(abs(part - size * share / sum(shares)) < 1 for part, share in zip(parts, shares, strict=True))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), world=st.integers(1, 3), epoch=st.integers(0, 4), size=st.integers(8, 40))
def test_every_batch_has_the_same_composition_and_steps_divide_by_ranks(seed, world, epoch, size):
    sampler = make(seed, world=world, batch_size=size)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == sampler.steps * world
    for batch in batches:
        counts = Counter(kind(item) for item, _ in batch)
        assert [counts[name] for name in ("positive", "strong", "weak")] == sampler.composition


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), world=st.integers(1, 3))
def test_every_positive_comes_once_before_any_comes_again(seed, world):
    sampler = make(seed, positives=53, world=world)
    drawn = []
    for epoch in range(3):
        items, _ = sampler.plan(epoch)
        drawn += items[:, : sampler.composition[0]].ravel().tolist()
    for start in range(0, len(drawn) - 53, 53):
        assert sorted(drawn[start : start + 53]) == list(range(53))


def labels_drawn(sampler: TwoTierBatchSampler, epoch: int) -> Counter:
    items, _ = sampler.plan(epoch)
    positive, strong, _ = sampler.composition
    label_of = dict(zip(sampler.strong.items.tolist(), sampler.strong.labels.tolist(), strict=True))
    return Counter(label_of[item] for item in items[:, positive : positive + strong].ravel().tolist())


def test_every_label_comes_in_every_epoch_with_room_for_it():
    sampler = make(labels=20)
    assert sampler.rounds == 1
    sizes = np.bincount(sampler.strong.labels)
    for epoch in range(5):
        drawn = labels_drawn(sampler, epoch)
        assert set(drawn) == set(range(20))
        assert drawn == dict(enumerate(label_quotas(sizes, sum(drawn.values())).tolist()))


@pytest.mark.parametrize("labels", [50, 137])
def test_where_labels_are_more_than_slots_they_take_turns_within_the_stated_epochs(labels):
    sampler = make(labels=labels, positives=16, hard=np.arange(1000, 1040))  # tier B is full
    assert sampler.rounds > 1
    for start in range(3):
        seen = set().union(*(labels_drawn(sampler, start * 7 + epoch) for epoch in range(sampler.rounds)))
        assert seen == set(range(labels))


def test_within_a_label_nothing_comes_again_before_all_has_come():
    sampler = make(labels=6)
    drawn: dict[int, list[int]] = {label: [] for label in range(6)}
    label_of = dict(zip(sampler.strong.items.tolist(), sampler.strong.labels.tolist(), strict=True))
    for epoch in range(8):
        items, _ = sampler.plan(epoch)
        positive, strong, _ = sampler.composition
        counts: dict[int, list[int]] = {label: [] for label in range(6)}
        for item in items[:, positive : positive + strong].ravel().tolist():
            counts[label_of[item]].append(item)
        for label, found in counts.items():
            drawn[label] += sorted(found)
    for label, found in drawn.items():
        uses = Counter(found)
        members = sampler.strong.items[sampler.strong.labels == label].tolist()
        assert max(uses[m] for m in members) - min(uses[m] for m in members) <= 1


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), world=st.integers(1, 3), epoch=st.integers(0, 3))
def test_no_negative_comes_twice_in_a_step_of_all_ranks(seed, world, epoch):
    sampler = make(seed, world=world, positives=120)
    items, _ = sampler.plan(epoch)
    negatives = items.reshape(sampler.steps, world, -1)[:, :, sampler.composition[0] :].reshape(sampler.steps, -1)
    assert all(len(set(step)) == len(step) for step in negatives.tolist())


def test_hard_negatives_fill_tier_b_as_often_as_allowed():
    hard = np.array([1003, 1007])
    sampler = make(hard=hard, max_uses=3)
    items, _ = sampler.plan(0)
    tier_b = items[:, sampler.composition[0] + sampler.tiers[0] : sampler.composition[0] + sampler.composition[1]]
    plain = make().plan(0)[0]
    assert Counter(items.ravel().tolist())[1003] >= 3 and Counter(items.ravel().tolist())[1007] >= 3
    assert tier_b.shape == (len(sampler), sampler.tiers[1])
    assert not np.array_equal(plain, items)


def test_the_plan_is_the_same_everywhere_and_another_in_another_epoch_or_seed():
    first, second = make(3, world=2), pickle.loads(pickle.dumps(make(3, world=2)))
    np.random.default_rng().random(5)
    for epoch in (4, 0, 4):
        first.set_epoch(epoch)
        second.set_epoch(epoch)
        assert list(first) == list(second) and first.digest() == second.digest()
    digests = {make(seed, world=2, epoch=epoch).digest() for seed in range(3) for epoch in range(3)}
    assert len(digests) == 9


@pytest.mark.parametrize("world", [1, 2, 3])
def test_accelerate_deals_ranks_disjoint_batches_of_the_plan(world):
    sampler = make(world=world)
    whole = list(sampler)
    ranks = [list(BatchSamplerShard(sampler, num_processes=world, process_index=rank)) for rank in range(world)]
    assert ranks == [whole[rank::world] for rank in range(world)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.01, 0.5, 0.5)}, "share 0.01 of positives is less than one item of 16"),
        ({"tier_a_share": 0.95}, "of tier B is less than one item of 4"),
        ({"positives": 0}, "there are no positives items"),
    ],
)
def test_what_cannot_be_composed_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)

"""Two-tier batches: exact composition, every label in turn, one plan for all ranks, no early repeats."""

import math
import pickle
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from launch.explain_plan import explanations
from media.audioset import Labels
from tasks.detection.draws import Reason, label_quotas
from tasks.detection.items import Kind, LabelledPool
from tasks.detection.mining import read_arrays, write_arrays
from tasks.detection.permuting import keys_of, permute
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler, apportion, check_same_plan
from tests.helpers.toy_clips import toy_clips


def make(
    seed: int = 0, positives: int = 60, labels: int = 20, world: int = 1, weak_labels: int = 30, **options
) -> TwoTierBatchSampler:
    """Make a sampler of disjoint items: positives from 0, strong negatives from 1,000, weak ones from 10,000."""
    dice = np.random.default_rng(seed)
    sizes = dice.integers(1, 40, labels)
    strong = LabelledPool(1000 + np.arange(sizes.sum()), np.repeat(np.arange(labels), sizes))
    clips = 10_000 + np.repeat(np.arange(300), 2)
    first, step = dice.integers(0, weak_labels, 300), dice.integers(1, weak_labels, 300)
    weak = LabelledPool(clips, np.stack([first, (first + step) % weak_labels], axis=1).ravel())
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
        assert "less than" in str(error)
        assert min(shares) / sum(shares) * size < 1
        return
    assert sum(parts) == size
    assert all(abs(part - size * share / sum(shares)) < 1 for part, share in zip(parts, shares, strict=True))


@settings(max_examples=30)
@given(seed=st.integers(0, 99), world=st.integers(1, 3), epoch=st.integers(0, 4), size=st.integers(8, 40))
def test_every_batch_has_the_same_composition_and_ranks_have_equal_steps(seed, world, epoch, size):
    sampler = make(seed, world=world, batch_size=size)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == sampler.steps * world
    for batch in batches:
        counts = Counter(kind(item) for item, _ in batch)
        assert [counts[name] for name in ("positive", "strong", "weak")] == sampler.composition


@settings(max_examples=20)
@given(seed=st.integers(0, 99), world=st.integers(1, 3))
def test_positives_come_in_whole_rounds(seed, world):
    sampler = make(seed, positives=53, world=world)
    drawn = []
    for epoch in range(3):
        items, _ = sampler.plan(epoch)
        drawn += items[:, : sampler.composition[0]].ravel().tolist()
    for start in range(0, len(drawn) - 53, 53):
        assert sorted(drawn[start : start + 53]) == list(range(53))


def of_tier(sampler: TwoTierBatchSampler, epoch: int, tier: str) -> np.ndarray:
    return sampler.plan(epoch)[0][:, np.array(sampler.tier_names) == tier].ravel()


def tier_a_labels(sampler: TwoTierBatchSampler, epoch: int) -> Counter:
    """Count the labels drawn in tier A."""
    label_of = dict(zip(sampler.strong.items.tolist(), sampler.strong.labels.tolist(), strict=True))
    return Counter(label_of[item] for item in of_tier(sampler, epoch, "tier_a").tolist())


@pytest.mark.parametrize("hard", [0, 7, 40])
def test_every_label_comes_in_every_epoch_with_enough_slots(hard):
    sampler = make(labels=20, hard=np.arange(1000, 1000 + hard))
    assert sampler.rounds == 1
    sizes = np.bincount(sampler.strong.labels)
    for epoch in range(5):
        drawn = tier_a_labels(sampler, epoch)
        assert drawn == dict(enumerate(label_quotas(sizes, len(sampler) * sampler.tiers[0]).tolist()))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("uniform", [1 + 9 * 397 / 909, 1 + 100 * 397 / 909, 1 + 800 * 397 / 909]),
        ("sqrt", [1 + root * 397 / (13 + 800**0.5) for root in (3, 10, 800**0.5)]),
        ("panns", [1 + 397 / 3] * 3),
    ],
)
def test_weak_labels_follow_their_weights(weights, expected):
    """There are 400 slots for labels of 9, 100 and 800 clips: one per label, and 397 by weight."""
    clips = LabelledPool(10_000 + np.arange(909), np.repeat([0, 1, 2], [9, 100, 800]))
    strong = LabelledPool(1000 + np.arange(40), np.arange(40) % 4)
    sampler = TwoTierBatchSampler(np.arange(200), strong, clips, 16, 0, weak_weights=weights)
    labels = np.repeat([0, 1, 2], [9, 100, 800])
    for epoch in range(3):
        drawn = np.bincount(labels[of_tier(sampler, epoch, "weak") - 10_000])
        assert drawn.sum() == 400
        assert np.abs(drawn - expected).max() < 1
        default = TwoTierBatchSampler(np.arange(200), strong, clips, 16, 0)
        for tier in ("positive", "tier_a", "tier_b"):  # unchanged by the weights of weak negatives
            np.testing.assert_array_equal(of_tier(sampler, epoch, tier), of_tier(default, epoch, tier))


def test_unknown_or_changed_weak_weights_are_rejected():
    with pytest.raises(ValueError, match=r"weak_weights=ast: .* uniform, sqrt, panns\."):
        SamplerSettings(weak_weights="ast")
    with pytest.raises(ValueError, match="weak_weights='panns': .*'sqrt'"):
        make(weak_weights="panns").load_state_dict(make().state_dict())


@settings(max_examples=30)
@given(labels=st.integers(30, 200), first=st.integers(0, 50), world=st.integers(1, 2), hard=st.data())
def test_labels_take_turns_if_they_outnumber_slots(labels, first, world, hard):
    """The turns do not depend on the hard negatives in tier B."""
    sampler = make(labels=labels, positives=16, world=world)
    assert sampler.rounds == math.ceil(labels / (sampler.tiers[0] * len(sampler))) > 1
    seen = set()
    for epoch in range(first, first + sampler.rounds):
        sampler.set_hard(np.arange(1000, 1000 + hard.draw(st.integers(0, 30))))
        seen |= set(tier_a_labels(sampler, epoch))
    assert seen == set(range(labels))


@pytest.mark.parametrize("tier", ["tier_a", "weak"])
@pytest.mark.parametrize("labels", [6, 40])
def test_members_of_a_label_come_in_whole_rounds(tier, labels):
    sampler = make(labels=labels, weak_labels=labels, positives=60 if labels < 10 else 8)
    pool = sampler.weak if tier == "weak" else sampler.strong
    uses: dict[int, Counter] = {label: Counter() for label in range(labels)}
    for sampler.epoch in range(12):
        draws = sampler._draw(sampler.epoch)
        chosen = np.array(sampler.tier_names) == tier
        for item, label in zip(draws.items[:, chosen].ravel(), draws.labels[:, chosen].ravel(), strict=True):
            uses[label][item] += 1
    for label, counts in uses.items():
        members = pool.items[pool.labels == label].tolist()
        assert set(counts) <= set(members)
        assert max(counts[m] for m in members) - min(counts[m] for m in members) <= 1


@settings(max_examples=15)
@given(seed=st.integers(0, 99), world=st.integers(1, 3), epoch=st.integers(0, 3))
def test_no_negative_comes_twice_in_a_step_of_all_ranks(seed, world, epoch):
    sampler = make(seed, world=world, positives=120)
    items, _ = sampler.plan(epoch)
    negatives = items.reshape(sampler.steps, world, -1)[:, :, sampler.composition[0] :].reshape(sampler.steps, -1)
    assert all(len(set(step)) == len(step) for step in negatives.tolist())


def test_small_pools_do_not_repeat_items_in_a_step():
    """The pools are hardly larger than a step, and some items are hard, drawn by label and weak at once."""
    strong = LabelledPool(np.arange(100, 116), np.repeat([0, 1], 8))
    weak = LabelledPool(np.arange(200, 230), np.repeat([2, 3], 15))
    hard = np.array([100, 101, 205, 206])
    for seed in range(8):
        sampler = TwoTierBatchSampler(np.arange(40), strong, weak, 16, seed, world_size=2, hard=hard)
        for epoch in range(3):
            negatives = sampler.plan(epoch)[0].reshape(sampler.steps, 2, 16)[:, :, 4:].reshape(sampler.steps, -1)
            assert all(len(set(step)) == len(step) for step in negatives.tolist())


@settings(max_examples=40)
@given(
    uses=st.lists(st.integers(1, 4), min_size=0, max_size=30),
    explicit=st.integers(0, 12),
    seed=st.integers(0, 9),
    world=st.integers(1, 2),
)
def test_tier_b_takes_hard_then_explicit_then_other_negatives(uses, explicit, seed, world):
    hard = np.random.default_rng(seed).permutation(np.arange(1000, 1000 + len(uses)))
    checked = np.concatenate([np.arange(90_000, 90_000 + explicit), hard[:1]])
    sampler = make(seed, world=world, positives=30, hard=hard, uses=np.array(uses, int), explicit=checked)
    draws, in_b = sampler._draw(3), np.array(sampler.tier_names) == "tier_b"
    reasons, items = draws.reasons[:, in_b].ravel(), draws.items[:, in_b].ravel()
    slots = len(sampler) * sampler.tiers[1]
    assert sorted(items[reasons == Reason.HARD].tolist()) == sorted(np.repeat(hard, uses)[:slots].tolist())
    explicit_items = items[reasons == Reason.CHECKED]
    room = slots - (reasons == Reason.HARD).sum()
    assert len(explicit_items) == min(explicit, room)
    assert max(Counter(explicit_items.tolist()).values(), default=0) <= 2
    assert set(explicit_items.tolist()) <= set(range(90_000, 90_000 + explicit))
    assert len(set(explicit_items.tolist())) == explicit or room < explicit
    assert (draws.reasons[:, ~in_b] != Reason.HARD).all()
    assert (draws.reasons[:, ~in_b] != Reason.CHECKED).all()
    counts = sampler.planned(3)
    assert [counts["hard"], counts["explicit"]] == [(reasons == Reason.HARD).sum(), len(explicit_items)]
    assert sum(counts[name] for name in ("positive", "tier_a", "tier_b", "weak")) == len(sampler) * 16


def test_plan_depends_only_on_its_inputs():
    first, second = make(3, world=2), pickle.loads(pickle.dumps(make(3, world=2)))
    np.random.default_rng().random(5)
    for epoch in (4, 0, 4):
        first.set_epoch(epoch)
        second.set_epoch(epoch)
        assert list(first) == list(second)
        assert first.digest() == second.digest()
    digests = {make(seed, world=2, epoch=epoch).digest() for seed in range(3) for epoch in range(3)}
    assert len(digests) == 9


def test_batches_never_repeat_and_global_generators_are_not_used():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    sampler = make(world=3)
    batches = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        batches += map(tuple, sampler)
    assert (random.random(), np.random.random()) == expected
    assert len({seed for batch in batches for _, seed in batch}) == 16 * len(batches)
    assert len({tuple(sorted(item for item, _ in batch)) for batch in batches}) == len(batches)


def batches_of_rank(sampler: TwoTierBatchSampler, rank: int) -> BatchSamplerShard:
    """Return the batches that Accelerate gives to a rank."""
    return BatchSamplerShard(sampler, num_processes=sampler.world_size, process_index=rank)


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_accelerate_gives_ranks_disjoint_batches_of_the_plan(world, epoch):
    whole = list(make(world=world, epoch=epoch))
    ranks = [batches_of_rank(make(world=world), rank) for rank in range(world)]
    for shard in ranks:
        shard.batch_sampler.set_epoch(epoch)
        assert len(shard) == len(whole) / world
    assert [list(shard) for shard in ranks] == [whole[rank::world] for rank in range(world)]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_and_seeds_do_not_depend_on_workers(workers):
    sampler = make(epoch=1)
    loader = DataLoader(Echo(), batch_sampler=sampler, num_workers=workers, collate_fn=list)
    assert list(loader) == list(sampler)


class Echo(Dataset):
    """Returns the requested item and seed."""

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:
        return item


# State


@settings(max_examples=25)
@given(batch=st.integers(0, 14), epoch=st.integers(0, 5), seed=st.integers(0, 9))
def test_sampler_resumes_at_any_batch(tmp_path_factory, batch, epoch, seed):
    hard = np.random.default_rng(seed).permutation(np.arange(1000, 1020))
    whole = make(seed, epoch=epoch, hard=hard, uses=1 + np.arange(20) % 3)
    batches = list(whole)
    path = tmp_path_factory.mktemp("state") / "state.npz"
    write_arrays(path, whole.state_dict(next_batch=batch))
    resumed = make(seed)
    resumed.load_state_dict(read_arrays(path))
    resumed.set_epoch(epoch)  # every loader calls it
    assert list(resumed) == batches[batch:]
    assert list(resumed) == batches  # the skipped batches are skipped once
    resumed.set_epoch(epoch + 1)
    whole.set_epoch(epoch + 1)
    assert list(resumed) == list(whole)
    assert resumed.digest() == whole.digest()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_each_rank_resumes_with_its_own_batches(world):
    whole, resumed = make(world=world), make(world=world)
    state = whole.state_dict(next_batch=2 * world)
    for rank in range(world):
        resumed.load_state_dict(state)
        assert list(batches_of_rank(resumed, rank)) == list(whole)[2 * world + rank :: world]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed=1: .* 0"),
        ({"world": 2}, "world_size=2: .* 1"),
        ({"batch_size": 20}, "batch_size=20: .* 16"),
        ({"tier_a_share": 0.5}, "tier_a_share=0.5: .* 0.6"),
        ({"positives": 61}, "the data="),
        ({"pool_digest": "other"}, "the data="),
        ({"explicit": np.array([5])}, "the data="),
    ],
)
def test_state_of_another_plan_is_rejected(options, message):
    state = make(0, pool_digest="this").state_dict()
    with pytest.raises(ValueError, match=message):
        make(**{"seed": 0, "pool_digest": "this", **options}).load_state_dict(state)


def test_state_of_another_version_is_rejected():
    with pytest.raises(ValueError, match="version=9: .* 1"):
        make().load_state_dict(make().state_dict() | {"version": np.array(9)})


def test_ranks_with_different_plans_are_rejected():
    check_same_plan("a", lambda mine: mine * 3)
    with pytest.raises(RuntimeError, match=r"ranks=\[1\]: .*\['a', 'b'\]"):
        check_same_plan("a", lambda mine: mine + ["b", "a"])


# Explanations


def test_every_position_of_a_batch_can_be_explained():
    sampler = make(epoch=2, hard=np.array([1003]), explicit=np.array([90_000]), uses=np.array([2]))
    whole, seen = list(sampler), set()
    for batch in range(len(sampler)):
        for position, tier in enumerate(sampler.tier_names):
            explained = sampler.explain(batch, position)
            assert (explained["item"], explained["seed"]) == whole[batch][position]
            assert explained["tier"] == tier
            if explained["label"] is not None:
                pool = sampler.weak if tier == "weak" else sampler.strong
                assert explained["label"] in pool.labels[pool.items == explained["item"]]
            seen.add(explained["why"].split(":")[0])
    assert seen == {"in turn", "by label", "hard", "explicit", "by label (filling tier B)"}
    with pytest.raises(ValueError, match="batch=99, position=0: .* 15 batches of 16 "):
        sampler.explain(99, 0)


def test_explanations_name_clip_tier_place_and_labels():
    rows, pools = toy_clips()
    sampler = TwoTierBatchSampler.from_pools(pools, SamplerSettings(), 16, seed=0)
    names = ("Cry", "Speech", "Dog", "Rain", "Wind")
    label_lists = pa.array([[0, 1]] * len(rows), pa.list_(pa.int64()))
    table = pa.table({"clip_id": rows.data.table["clip_id"], "labels": label_lists})
    lines = explanations(sampler, pools, table, Labels(tuple(f"/m/{name}" for name in names), names), batch=1)
    assert len(lines) == 32
    for position, (item, seed) in enumerate(list(sampler)[1]):
        item_line, why = lines[2 * position : 2 * position + 2]
        place = "anywhere" if pools.items.kind[item] == Kind.WEAK else "0.30-0.50 s"
        for part in (
            f"clip{item:07d}",
            sampler.tier_names[position],
            place,
            names[pools.items.label[item]],
            "[Cry; Speech]",
        ):
            assert part in item_line
        assert why.endswith(f"; item {item}, seed {seed}")


# Invalid input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.01, 0.5, 0.5)}, "share=0.01: .*positives in 16"),
        ({"shares": (0, 0.5, 0.5)}, "positive_share=0: "),
        ({"shares": (0.5, 0.5, -0.1)}, r"shares=\[0.5, 0.5, "),
        ({"shares": (0.5, 0.5, math.nan)}, r"shares=\[0.5, 0.5, "),
        ({"tier_a_share": 0.95}, "share=0.05: .*tier B in 4"),
        ({"positives": 0}, "positives=0: .* 4"),
        ({"hard": np.array([1001, 1001])}, "hard=2 items, uses=2 numbers: "),
        ({"hard": np.array([1001]), "uses": np.array([0])}, "hard=1 item, uses=1 number: .* 127 "),
    ],
)
def test_invalid_compositions_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_pool_with_share_0_may_be_empty():
    none = LabelledPool(np.zeros(0, int), np.zeros(0, int))
    sampler = TwoTierBatchSampler(
        np.arange(10), none, LabelledPool(np.arange(10, 90), np.zeros(80, int)), 4, 0, 1, (1, 0, 1)
    )
    assert sampler.composition == [2, 0, 2]
    assert sampler.rounds == 0
    assert all(sum(item < 10 for item, _ in batch) == 2 for batch in sampler)
    with pytest.raises(ValueError, match="strong negatives=0: .* 1"):
        TwoTierBatchSampler(np.arange(10), none, none, 4, 0)


# Permutations


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63))
def test_permute_is_a_permutation(size, key):
    places = permute(np.arange(size), size, keys_of(key))
    assert sorted(places.tolist()) == list(range(size))
    assert permute(np.array([size - 1]), size, keys_of(key)) == places[-1]


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_orders_of_few_positions_are_equally_frequent(size):
    keys = keys_of(3, np.arange(20_000))
    orders = np.stack([permute(np.full(len(keys), place), size, keys) for place in range(size)], axis=1)
    counts = np.array(list(Counter(map(tuple, orders.tolist())).values()))
    expected = len(keys) / math.factorial(size)
    assert len(counts) == math.factorial(size)
    assert ((counts - expected) ** 2 / expected).sum() < scipy.stats.chi2.ppf(0.999, len(counts) - 1)


def test_positions_are_uniform_and_neighbours_independent():
    keys = keys_of(5, np.arange(20_000))
    first, second = (permute(np.full(len(keys), place), 1000, keys) for place in (0, 1))
    for values, cells in ((first, 1000), (np.mod(second - first, 1000) - 1, 999)):
        counts, expected = np.bincount(values, minlength=cells), len(keys) / cells
        assert ((counts - expected) ** 2 / expected).sum() < scipy.stats.chi2.ppf(0.999, cells - 1)


@pytest.mark.parametrize("positives, world, least", [(4, 1, 16), (100, 1, 16), (100, 3, 16), (5, 2, 1), (900, 4, 16)])
def test_epoch_has_the_fewest_whole_passes_with_enough_steps(positives: int, world: int, least: int) -> None:
    sampler = make(positives=positives, world=world, min_steps=least)
    per_step = sampler.composition[0] * world
    assert sampler.steps >= least
    assert sampler.steps == -(-sampler.passes * positives // per_step)
    assert sampler.passes == 1 or -(-(sampler.passes - 1) * positives // per_step) < least
    drawn = np.concatenate([sampler.plan(epoch)[0][:, : sampler.composition[0]].ravel() for epoch in range(3)])
    counts = np.bincount(drawn, minlength=positives)
    assert counts.max() - counts.min() <= 1

"""Hard negatives: a bounded table, independent of how scores arrive, exact after resuming, without suspects."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.audioset import Labels
from tasks.detection.items import Items, Kind, LabelledPool
from tasks.detection.mining import MinedEpoch, MiningSettings, MiningTable, read_arrays, review_csv, write_arrays
from tasks.detection.pools import ClipCounts, ClipPools, EvalClips
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tests.helpers.toy_clips import toy_clips

NO_CLIPS = ClipCounts(0, 0, {}, {}, 0, 0, 0, 0, 0)
NO_EVAL_CLIPS = EvalClips(np.zeros(0, int), np.zeros(0, bool), np.zeros(0, bool), np.zeros(1, int), np.zeros((0, 2)))


def pools_of(positives: int = 10, strong: int = 30, weak: int = 40, explicit: int = 5) -> ClipPools:
    """Make pools of items in this order, one per clip; ten labels."""
    counts = (positives, strong, weak, explicit)
    kind = np.repeat([Kind.POSITIVE, Kind.STRONG, Kind.WEAK, Kind.EXPLICIT], counts).astype(np.int8)
    number = np.arange(sum(counts), dtype=np.int32)
    label = (number % 10).astype(np.int16)
    start = np.where(kind == Kind.WEAK, np.nan, 1.0).astype(np.float32)
    return ClipPools(
        items=Items(number, start, start + 1, kind, label),
        positives=number[kind == Kind.POSITIVE],
        strong=LabelledPool(number[kind == Kind.STRONG], label[kind == Kind.STRONG]),
        weak=LabelledPool(number[kind == Kind.WEAK], label[kind == Kind.WEAK]),
        explicit=number[kind == Kind.EXPLICIT],
        sides={"validation": NO_EVAL_CLIPS, "test": NO_EVAL_CLIPS},
        targets=[0],
        rules=[],
        trim=[],
        counts=NO_CLIPS,
    )


def table_of(pools: ClipPools | None = None, **options) -> MiningTable:
    return MiningTable(MiningSettings(**options), pools or pools_of())


def same(a: MiningTable, b: MiningTable) -> bool:
    """Compare all state bit by bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes() for name in first
    )


def apply(table: MiningTable, epoch: int, scores: dict[int, float]) -> MinedEpoch:
    return table.apply(epoch, np.array(list(scores)), np.array(list(scores.values())))


def hardest(table: MiningTable) -> dict[int, int]:
    return dict(zip(*(column.tolist() for column in table.hardest()), strict=True))


# The table


def test_harder_negatives_come_more_often():
    table = table_of(max_uses=3)
    record = apply(table, 0, {12: 0.55, 13: 0.99, 14: 0.7, 15: 0.5, 16: 0.1, 50: 0.84})
    assert record == MinedEpoch(0, scored=6, mean_score=pytest.approx(3.68 / 6), hard=4, quarantined=0)
    assert list(hardest(table).items()) == [(13, 3), (50, 3), (14, 2), (12, 1)]
    assert table.history == [record]


def test_scores_are_averaged_over_epochs_and_items_below_the_threshold_leave():
    table = table_of(score_memory=0.5)
    apply(table, 0, {20: 0.9, 21: 0.9})
    assert set(hardest(table)) == {20, 21}
    apply(table, 1, {20: 0.3, 21: 0.05, 22: 0.6, 23: 0.2})
    assert set(hardest(table)) == {20, 22}  # 0.5 * 0.9 + 0.5 * 0.3 = 0.6; 21 has 0.475
    np.testing.assert_allclose(table.with_running_epoch().score, [0.6, 0.475, 0.6], rtol=1e-6)
    assert table.with_running_epoch().item.tolist() == [20, 21, 22]
    assert table.with_running_epoch().last_epoch.tolist() == [1, 1, 1]
    apply(table, 5, {22: 0.6})
    assert table.with_running_epoch().last_epoch.tolist() == [1, 1, 5]


def test_highest_score_of_an_epoch_counts():
    table = table_of()
    table.apply(0, np.array([20, 21, 20, 20]), np.array([0.6, 0.1, 0.8, 0.7]))
    assert table.with_running_epoch().item.tolist() == [20]
    assert table.with_running_epoch().score[0] == np.float32(0.8)
    assert table.history == []
    assert table.hardest()[0].tolist() == [20]
    assert table.history[0].scored == 4


def test_only_the_scored_event_of_a_clip_is_hard():
    pools = pools_of()
    pools.items.clip[:] = 0  # all items are in one clip
    table = table_of(pools)
    apply(table, 0, {12: 0.2, 13: 0.9, 14: 0.3})
    assert list(hardest(table)) == [13]


def test_positives_are_never_hard_negatives():
    table = table_of()
    record = apply(table, 0, {3: 0.99, 9: 0.7, 10: 0.9})
    assert record.scored == 1
    assert list(hardest(table)) == [10]


def test_full_table_drops_the_lowest_scores():
    table = table_of(mining_capacity=3)
    apply(table, 0, {20: 0.9, 21: 0.6, 22: 0.7, 23: 0.8})
    assert table.with_running_epoch().item.tolist() == [20, 22, 23]
    apply(table, 1, {24: 0.75, 20: 0.55})
    np.testing.assert_allclose(table.with_running_epoch().score, [0.725, 0.8, 0.75], rtol=1e-6)  # without 22: 0.7
    assert table.with_running_epoch().item.tolist() == [20, 23, 24]
    assert len(table) == 3


def test_repeated_very_high_score_is_quarantined():
    table = table_of(suspect_epochs=3)
    for epoch in range(3):
        assert 20 in (hardest(table) if epoch else {20: 2})
        record = apply(table, epoch, {20: 0.97, 21: 0.94, 22: 0.97 if epoch else 0.6})
    assert record.quarantined == 1
    assert set(hardest(table)) == {21, 22}
    review = table.review_list()
    assert review["item"].tolist() == [20]
    assert review["epochs"].tolist() == [3]
    apply(table, 3, {20: 0.1})
    assert set(hardest(table)) == {21, 22}  # quarantine is permanent


def test_full_table_keeps_suspects():
    table = table_of(mining_capacity=2, suspect_epochs=1)
    apply(table, 0, {20: 0.96})
    hardest(table)
    apply(table, 1, {20: 0.0, 21: 0.9, 22: 0.8})
    assert table.with_running_epoch().item.tolist() == [20, 21]
    assert table.review_list()["item"].tolist() == [20]


def test_explicit_negative_is_never_a_suspect():
    pools = pools_of()
    checked = int(pools.explicit[0])
    table = table_of(pools, suspect_epochs=1)
    for epoch in range(4):
        apply(table, epoch, {checked: 0.99})
        assert hardest(table) == {checked: 2}
    assert len(table.review_list()["item"]) == 0


# Exactness


@st.composite
def epochs(draw) -> list[tuple[int, list[tuple[int, float]]]]:
    """Draw scores of several epochs, with repeated items and many equal scores."""
    number, scored_epochs = 0, []
    for _ in range(draw(st.integers(1, 4))):
        number += draw(st.integers(0 if not scored_epochs else 1, 2))
        scores = st.one_of(st.sampled_from([0.0, 0.5, 0.6, 0.96, 1.0]), st.floats(0, 1, width=32))
        scored_epochs.append((number, draw(st.lists(st.tuples(st.integers(0, 84), scores), max_size=60))))
    return scored_epochs


@settings(max_examples=80)
@given(scored_epochs=epochs(), cuts=st.data(), capacity=st.integers(1, 30), memory=st.sampled_from([0.0, 0.5, 0.9]))
def test_table_does_not_depend_on_parts_and_order_of_scores(scored_epochs, cuts, capacity, memory):
    options = {"mining_capacity": capacity, "score_memory": memory, "suspect_epochs": 2}
    whole, parts = table_of(**options), table_of(**options)
    for epoch, pairs in scored_epochs:
        items, scores = np.array([i for i, _ in pairs], int), np.array([s for _, s in pairs], np.float32)
        record = whole.apply(epoch, items, scores)
        order = np.array(cuts.draw(st.permutations(range(len(items)))), int)
        edges = sorted(cuts.draw(st.lists(st.integers(0, len(items)), max_size=4)))
        for chosen in np.split(order, edges):
            last = parts.apply(epoch, items[chosen], scores[chosen])
            restored = table_of(**options)
            restored.load_state_dict(parts.state_dict())
            assert same(restored, parts)
            parts = restored  # as after a stop here
        assert last == record
        assert same(whole, parts)
        assert len(whole) <= capacity
        if cuts.draw(st.booleans()):
            for expected, actual in zip(whole.hardest(), parts.hardest(), strict=True):
                assert actual.tolist() == expected.tolist()
            assert not set(whole.hardest()[0].tolist()) & set(whole.review_list()["item"].tolist())
            assert ((whole.hardest()[1] >= 1) & (whole.hardest()[1] <= 2)).all()
    assert same(whole, parts)


def test_resumed_run_has_the_plans_and_the_table_of_an_uninterrupted_one(tmp_path):
    """Run four epochs with mining, stopped after every number of batches in turn."""
    pools = pools_of(positives=24, strong=60, weak=80)
    truth = np.random.default_rng(0).uniform(0, 1, len(pools.items)).astype(np.float32)

    def start() -> tuple[TwoTierBatchSampler, MiningTable]:
        sampler = TwoTierBatchSampler.from_pools(pools, SamplerSettings(min_epoch_steps=1), 16, seed=3, world_size=2)
        return sampler, table_of(pools, mining_capacity=25, suspect_epochs=2)

    def step(table: MiningTable, epoch: int, batch: list[tuple[int, int]]) -> None:
        items = np.array([item for item, _ in batch])
        table.apply(epoch, items, np.clip(truth[items] + (epoch % 3) * np.float32(0.1), 0, 1))

    sampler, table = start()
    served, stops = [], []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for number, batch in enumerate(sampler):
            stops.append((len(served), sampler.state_dict(next_batch=number), table.state_dict()))
            step(table, epoch, batch)
            served.append(batch)
        sampler.set_hard(*table.hardest())
    assert len(table.hardest()[0]) > 5
    assert len(table.review_list()["item"])
    for done, plan, mined in stops:
        write_arrays(tmp_path / "plan.npz", plan)
        write_arrays(tmp_path / "mined.npz", mined)
        resumed, resumed_table = start()
        resumed.load_state_dict(read_arrays(tmp_path / "plan.npz"))
        resumed_table.load_state_dict(read_arrays(tmp_path / "mined.npz"))
        remaining = []
        for epoch in range(resumed.epoch, 4):
            resumed.set_epoch(epoch)
            for batch in resumed:
                step(resumed_table, epoch, batch)
                remaining.append(batch)
            resumed.set_hard(*resumed_table.hardest())
        assert remaining == served[done:]
        assert same(resumed_table, table)


def test_sampler_uses_hard_negatives_as_often_as_allowed_and_no_suspects():
    pools = pools_of(positives=64, strong=200, weak=200, explicit=0)
    table = table_of(pools, suspect_epochs=1, max_uses=3)
    table.apply(0, np.arange(70, 90), np.linspace(0.51, 0.99, 20))
    sampler = TwoTierBatchSampler.from_pools(pools, SamplerSettings(), 32, seed=0)
    sampler.set_hard(*table.hardest())
    uses = hardest(table)
    assert set(table.review_list()["item"].tolist()) == {88, 89}
    assert not {88, 89} & set(uses)
    assert sampler.planned(1)["hard"] == min(sum(uses.values()), len(sampler) * sampler.tiers[1])


# Files


def test_file_is_written_atomically_without_pickle(tmp_path):
    table = table_of()
    apply(table, 0, {20: 0.9})
    path = tmp_path / "state.npz"
    write_arrays(path, table.state_dict())
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == sorted(table.state_dict())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        write_arrays(path, {"bad": np.array([object()])})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="state.npz: .*older checkpoint"):
        read_arrays(path)
    path.write_bytes(b"no arrays" * 30)
    with pytest.raises(ValueError, match=r"state.npz: .*bytes are damaged"):
        read_arrays(path)
    np.savez(path, allow_pickle=True, bad=np.array([object()]))
    with pytest.raises(ValueError, match="state.npz: "):
        read_arrays(path)
    with pytest.raises(ValueError, match="other.npz: missing"):
        read_arrays(tmp_path / "other.npz")


def test_the_state_of_a_full_table_and_its_sampler_is_below_a_megabyte(tmp_path):
    pools = pools_of(positives=100, strong=60_000, weak=60_000)
    table = table_of(pools)
    table.apply(0, np.arange(100, 90_000), np.linspace(0.5, 1, 89_900))
    sampler = TwoTierBatchSampler.from_pools(pools, SamplerSettings(), 32, seed=0)
    sampler.set_hard(*table.hardest())
    assert len(table) == 50_000 == len(sampler.hard)
    path = tmp_path / "state.npz"
    plan = {f"plan/{name}": value for name, value in sampler.state_dict().items()}
    write_arrays(path, table.state_dict() | plan)
    assert path.stat().st_size < 1e6


def test_suspects_are_listed_for_review():
    rows, pools = toy_clips()
    negatives = np.flatnonzero(pools.items.kind != Kind.POSITIVE)
    table = MiningTable(MiningSettings(suspect_epochs=1), pools)
    table.apply(0, negatives[[0, -1]], np.array([0.97, 0.99]))
    count = len(pools.items)
    columns = {
        "clip_id": pa.array([f"-_clip{row:05d}" if row != count - 1 else "my=file" for row in range(count)]),
        "start_seconds": pa.array([30.0 if row != count - 1 else None for row in range(count)], pa.float64()),
        "labels": pa.array([[1, 2]] * count, pa.list_(pa.int64())),
    }
    labels = Labels(("/m/0", "/m/1", "/m/2", "/m/3", "/m/4"), ("Cry", "Speech, other", "Dog", "Rain", "Wind"))
    lines = list(csv.DictReader(io.StringIO(review_csv(table, pa.table(columns), labels))))
    row = int(negatives[0])
    assert lines == [
        {
            "clip_id": "my=file", "link": "", "file_seconds": "", "score": "0.9900", "epochs": "1", "last_epoch": "0",
            "kind": "clip", "event": "", "labels": "Speech, other; Dog",
        },
        {
            "clip_id": f"'-_clip{row:05d}", "link": f"https://www.youtube.com/watch?v=-_clip{row:05d}&t=30s",
            "file_seconds": "0.30-0.50", "score": "0.9700", "epochs": "1", "last_epoch": "0", "kind": "event",
            "event": "Speech, other", "labels": "Speech, other; Dog",
        },
    ]  # fmt: skip


# Invalid input


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.5, np.inf])
def test_scores_outside_0_to_1_are_rejected(wrong):
    table = table_of()
    with pytest.raises(ValueError, match=r"epoch=0: 1 score .*items 21 \("):
        apply(table, 0, {20: 0.5, 21: wrong})
    assert len(table) == 0
    assert table.running == -1


def test_late_scores_and_unknown_items_are_rejected():
    table = table_of()
    apply(table, 2, {20: 0.9})
    with pytest.raises(ValueError, match="epoch=1: "):
        apply(table, 1, {20: 0.9})
    table.hardest()
    with pytest.raises(ValueError, match="epoch=2: .*epoch 2 "):
        apply(table, 2, {20: 0.9})
    with pytest.raises(ValueError, match="item=85: .*epoch 3.* 85 items"):
        apply(table, 3, {85: 0.9})


def test_state_of_other_data_is_rejected():
    state = table_of().state_dict()
    with pytest.raises(ValueError, match=f"pools={state['pools']}: "):
        table_of(pools_of(weak=41)).load_state_dict(state)
    with pytest.raises(ValueError, match="version=9: "):
        table_of().load_state_dict(state | {"version": np.array(9)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_threshold": 0.9, "suspect_threshold": 0.8}, "hard_threshold=0.9, suspect_threshold=0.8: "),
        ({"score_memory": 1.0}, "score_memory=1.0: "),
        ({"max_uses": 0}, "max_uses=0: .* 127"),
        ({"mining_capacity": 0}, "mining_capacity=0: "),
        ({"suspect_epochs": 256}, "suspect_epochs=256: .* 255"),
    ],
)
def test_invalid_settings_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        MiningSettings(**options)

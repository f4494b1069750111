"""Clips of one group are always in the same split."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.detection.columns import groups_of
from tasks.detection.data import check_sides
from tasks.detection.pools import ClipPools, build_pools
from tests.helpers.pool_rows import BABY, LABELS, ONTOLOGY, PLAIN, RAIN, clip, pools_of, table_of

CLIPS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([None, *"abcdefgh"]), st.sampled_from(["unbalanced_train", "eval"])),
    min_size=2,
    max_size=40,
)


def rows_of(clips: list[tuple[bool, str | None, str]]) -> list[dict]:
    return [
        clip(f"clip{index:07}", [BABY if target else RAIN], subset=subset, group=group and f"{subset[0]}{group}")
        for index, (target, group, subset) in enumerate(clips)
    ]


@given(CLIPS, st.integers(0, 9), st.sampled_from([0.1, 0.5]))
def test_group_is_in_one_split(clips: list, seed: int, fraction: float) -> None:
    rows = rows_of(clips)
    pools = pools_of(rows, validation_fraction=fraction, validation_seed=seed)
    sides = {side: set(of.rows.tolist()) for side, of in pools.sides.items()} | {
        "train": set(pools.items.clip.tolist())
    }
    groups = {side: {rows[row]["group"] or rows[row]["clip_id"] for row in members} for side, members in sides.items()}
    assert sum(len(of) for of in sides.values()) == len(rows)
    assert not groups["train"] & groups["validation"]
    assert not (groups["train"] | groups["validation"]) & groups["test"]
    for label in (BABY, RAIN):
        candidates = {r["group"] or r["clip_id"] for r in rows if r["labels"] == [label] and r["subset"] != "eval"}
        if len(candidates) > 1:
            assert candidates & groups["validation"]


def test_group_in_eval_and_training_is_rejected() -> None:
    rows = [clip("a", [BABY], group="her"), clip("b", [RAIN]), clip("c", [BABY], subset="eval", group="her")]
    with pytest.raises(ValueError, match="group='her'"):
        pools_of(rows)
    pools_of([rows[0], rows[1], rows[2] | {"audio": None, "audio_seconds": None}])  # without audio it is not tested on


def sides_of(rows: list[dict], **options) -> ClipPools:
    """Return pools after the checks of a run."""
    pools = pools_of(rows, **options)
    sides = {side: SimpleNamespace(clips=clips) for side, clips in pools.sides.items()}
    check_sides(sides, options["validation_fraction"])
    pools.check_not_empty((0.25, 0, 0.5))
    return pools


EVAL = [clip("e", [BABY], subset="eval"), clip("f", [RAIN], subset="eval")]


@pytest.mark.parametrize(("fraction", "side"), [(0.01, "validation"), (0.99, "training")])
def test_target_in_one_group_asks_for_more_groups_not_another_seed(fraction: float, side: str) -> None:
    rows = [clip(f"a{index}", [BABY], group="her") for index in range(4)]
    rows += [clip(f"b{index}", [RAIN]) for index in range(9)] + EVAL
    key, remedy = (
        ("validation_fraction=0.01: ", "at least two groups")
        if side == "validation"
        else ("positive_share=0.25: ", "more groups")
    )
    for seed in range(3):
        with pytest.raises(ValueError, match=f"{key}.*{remedy}") as error:
            sides_of(rows, validation_fraction=fraction, validation_seed=seed)
        assert "validation_seed" not in str(error.value)
        assert "another target" not in str(error.value)


def test_positives_only_in_validation_name_its_keys() -> None:
    rows = [clip(f"a{index}", [BABY], group=f"person {index}") for index in range(2)]
    rows += [clip(f"b{index}", [RAIN]) for index in range(99)] + EVAL
    with pytest.raises(
        ValueError, match="positive_share=0.25: .*All 2 groups.*validation_fraction, .*validation_seed"
    ):
        sides_of(rows, validation_fraction=0.97, validation_seed=1)
    pools = sides_of(rows, validation_fraction=0.1, validation_seed=1)
    assert pools.target_groups == (1, 1)


@pytest.mark.parametrize(
    ("rows", "fraction", "message"),
    [
        (EVAL[:1], 0.5, "eval: .* test split .*without"),
        (EVAL[1:], 0.5, "eval: .* test split .*with the"),
        (EVAL, 0.0, "validation_fraction=0: .* validation split"),
    ],
)
def test_split_without_a_class_names_the_key(rows: list[dict], fraction: float, message: str) -> None:
    both = [clip(f"a{index}", [BABY]) for index in range(9)] + [clip(f"b{index}", [RAIN]) for index in range(9)]
    with pytest.raises(ValueError, match=message):
        sides_of(both + rows, validation_fraction=fraction)


def test_without_groups_each_clip_is_its_own_group() -> None:
    table = table_of([clip(f"clip{index}", [BABY]) for index in range(20)])
    assert groups_of(table) is None
    assert groups_of(table.drop_columns(["group"])) is None
    with_group, without = (
        build_pools(part, LABELS, ONTOLOGY, replace(PLAIN, validation_fraction=0.4), 1.0)
        for part in (table, table.drop_columns(["group"]))
    )
    np.testing.assert_array_equal(with_group.sides["validation"].rows, without.sides["validation"].rows)
    named = table.set_column(table.column_names.index("group"), "group", pa.array([None] * 19 + ["x"]))
    assert groups_of(named).to_pylist() == [*(f"clip{index}" for index in range(19)), "x"]

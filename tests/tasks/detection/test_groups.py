"""Clips of one group are never on two sides of a split."""

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
        clip(f"clip{place:07}", [BABY if target else RAIN], subset=subset, group=group and f"{subset[0]}{group}")
        for place, (target, group, subset) in enumerate(clips)
    ]


@given(CLIPS, st.integers(0, 9), st.sampled_from([0.1, 0.5]))
def test_a_group_is_on_one_side(clips: list, seed: int, fraction: float) -> None:
    rows = rows_of(clips)
    pools = pools_of(rows, validation_fraction=fraction, validation_seed=seed)
    sides = {side: set(of.rows.tolist()) for side, of in pools.sides.items()} | {
        "train": set(pools.items.clip.tolist())
    }
    groups = {side: {rows[row]["group"] or rows[row]["clip_id"] for row in members} for side, members in sides.items()}
    assert sum(len(of) for of in sides.values()) == len(rows)
    assert not groups["train"] & groups["validation"]
    assert not (groups["train"] | groups["validation"]) & groups["test"]
    for kind in (BABY, RAIN):
        candidates = {r["group"] or r["clip_id"] for r in rows if r["labels"] == [kind] and r["subset"] != "eval"}
        if len(candidates) > 1:
            assert candidates & groups["validation"]


def test_a_group_that_is_tested_and_trained_on_is_refused() -> None:
    rows = [clip("a", [BABY], group="her"), clip("b", [RAIN]), clip("c", [BABY], subset="eval", group="her")]
    with pytest.raises(ValueError, match="group='her'"):
        pools_of(rows)
    pools_of([rows[0], rows[1], rows[2] | {"audio": None, "audio_seconds": None}])  # it is not tested on


def sides_of(rows: list[dict], **options) -> ClipPools:
    """Pools whose sides are checked and whose batches are planned, as in a run."""
    pools = pools_of(rows, **options)
    sides = {side: SimpleNamespace(clips=clips) for side, clips in pools.sides.items()}
    check_sides(sides, options["validation_fraction"])
    pools.check_not_empty((0.25, 0, 0.5))
    return pools


EVAL = [clip("e", [BABY], subset="eval"), clip("f", [RAIN], subset="eval")]


@pytest.mark.parametrize(("fraction", "side"), [(0.01, "validation"), (0.99, "training")])
def test_a_target_of_one_group_is_not_answered_with_another_seed(fraction: float, side: str) -> None:
    rows = [clip(f"a{place}", [BABY], group="her") for place in range(4)]
    rows += [clip(f"b{place}", [RAIN]) for place in range(9)] + EVAL
    problem = "has no clip with the target.*with any seed" if side == "validation" else "in one group only"
    for seed in range(3):
        with pytest.raises(ValueError, match=problem) as error:
            sides_of(rows, validation_fraction=fraction, validation_seed=seed)
        assert "change validation_seed" not in str(error.value)
        assert "another target" not in str(error.value)


def test_positives_that_are_all_in_validation_are_answered_with_its_keys() -> None:
    rows = [clip(f"a{place}", [BABY], group=f"person {place}") for place in range(2)]
    rows += [clip(f"b{place}", [RAIN]) for place in range(99)] + EVAL
    with pytest.raises(ValueError, match="All 2 groups with the target are in validation. Lower validation_fraction"):
        sides_of(rows, validation_fraction=0.97, validation_seed=1)
    pools = sides_of(rows, validation_fraction=0.1, validation_seed=1)
    assert pools.target_groups == (1, 1)


@pytest.mark.parametrize(
    ("rows", "fraction", "message"),
    [
        (EVAL[:1], 0.5, "eval: the test side has no clip without the target"),
        (EVAL[1:], 0.5, "eval: the test side has no clip with the target"),
        (EVAL, 0.0, "validation_fraction=0: the validation side"),
    ],
)
def test_a_side_that_lacks_a_kind_names_what_gives_it(rows: list[dict], fraction: float, message: str) -> None:
    both = [clip(f"a{place}", [BABY]) for place in range(9)] + [clip(f"b{place}", [RAIN]) for place in range(9)]
    with pytest.raises(ValueError, match=message):
        sides_of(both + rows, validation_fraction=fraction)


def test_without_groups_each_clip_is_one() -> None:
    table = table_of([clip(f"clip{place}", [BABY]) for place in range(20)])
    assert groups_of(table) is None
    assert groups_of(table.drop_columns(["group"])) is None
    with_group, without = (
        build_pools(part, LABELS, ONTOLOGY, replace(PLAIN, validation_fraction=0.4), 1.0)
        for part in (table, table.drop_columns(["group"]))
    )
    np.testing.assert_array_equal(with_group.sides["validation"].rows, without.sides["validation"].rows)
    named = table.set_column(table.column_names.index("group"), "group", pa.array([None] * 19 + ["x"]))
    assert groups_of(named).to_pylist() == [*(f"clip{place}" for place in range(19)), "x"]

"""Pools: no negative holds the target, no clip is in two splits, and every rule is counted."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.detection.items import Items, Kind
from tasks.detection.pools import ClipPools, LabelCount, build_pools
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tests.helpers.pool_rows import (
    BABY,
    BARK,
    CRY,
    DOG,
    LABELS,
    ONTOLOGY,
    PLAIN,
    RAIN,
    SPEECH,
    WHIMPER,
    clip,
    pools_of,
    table_of,
)


def names_of(rows: list[dict], items: Items) -> list[str]:
    return [rows[row]["clip_id"] for row in items.clip]


def excluded(pools: ClipPools) -> dict[str, int]:
    """Return clips excluded by each rule, by the part of its name before the colon."""
    return {rule.rule.partition(":")[0]: rule.clips for rule in pools.rules}


# Kinds of items


def test_labels_and_events_of_clips_decide_their_items():
    rows = [
        clip("pos", [BABY], [(BABY, 1.0, 1.5), (BABY, 4.0, 9.0), (SPEECH, 0.0, 1.0)]),
        clip("neg", [DOG, SPEECH], [(DOG, 2.0, 3.0), (RAIN, 0.0, 10.0)]),
        clip("weak", [SPEECH, RAIN]),
    ]
    pools = pools_of(rows)
    items = pools.items
    assert [items.kind.tolist(), items.label.tolist(), names_of(rows, items)] == [
        [Kind.POSITIVE, Kind.POSITIVE, Kind.STRONG, Kind.STRONG, Kind.WEAK, Kind.WEAK],
        [BABY, BABY, DOG, RAIN, DOG, RAIN],  # a weak clip has its rarest label
        ["pos", "pos", "neg", "neg", "neg", "weak"],
    ]
    np.testing.assert_array_equal(items.start, np.array([1, 4, 2, 0, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(items.end, np.array([1.5, 9, 3, 10, np.nan, np.nan], np.float32))
    assert items.targets().tolist() == [1, 1, 0, 0, 0, 0]
    assert items.take(items.kind == Kind.STRONG).clip.tolist() == [1, 1]
    assert pools.positives.tolist() == [0, 1]
    assert pools.strong.items.tolist() == [2, 3]
    assert list(zip(pools.weak.items.tolist(), pools.weak.labels.tolist(), strict=True)) == [
        (4, DOG), (4, SPEECH), (5, SPEECH), (5, RAIN)
    ]  # fmt: skip
    assert [column.dtype for column in (items.clip, items.start, items.end, items.kind, items.label)] == [
        np.int32, np.float32, np.float32, np.int8, np.int16
    ]  # fmt: skip
    assert pools.counts.positives == 2
    assert pools.counts.strong_negatives == 2
    assert pools.targets == [BABY]


def test_clips_with_the_target_in_any_table_are_not_negatives():
    rows = [
        clip("labelled", [BABY], [(BABY, 0.0, 1.0)]),
        clip("unlabelled", [SPEECH], [(BABY, 0.0, 1.0)]),
        clip("framed", [SPEECH], [(BABY, 0.0, 0.96, True)[:3]], strong=False),
        clip("listed", [SPEECH]),
        clip("listed", [BABY], subset="list"),
        clip("related", [CRY, SPEECH]),
        clip("sibling", [WHIMPER]),  # sounds similar, but is no related label
    ]
    pools = pools_of(rows)
    assert names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)) == ["sibling"]
    assert excluded(pools) == {
        "no usable audio": 0,
        "eval": 0,
        "validation, by group": 0,
        "weak target label": 2,
        "target event only": 2,
        "target in duplicate": 1,
        "related label": 1,
        "no label": 0,
        "head_trim=none": 0,
        "event beyond file": 0,
    }


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("auto", ["both", "event"]),
        ("strong", ["both", "event"]),
        ("weak", ["both", "no event"]),
        ("both", ["both", "event", "no event"]),
    ],
)
def test_positives_are_events_or_clips_as_configured(wanted, expected):
    rows = [
        clip("both", [BABY], [(BABY, 0.0, 1.0)]),
        clip("event", [SPEECH], [(BABY, 0.0, 1.0)]),
        clip("no event", [SPEECH, BABY]),
        clip("contradicted", [RAIN, SPEECH], [(RAIN, 0.0, 1.0)]),
    ]
    pools = pools_of(rows, positives=wanted)
    positives = pools.items.take(pools.positives)
    assert names_of(rows, positives) == expected
    assert set(positives.label.tolist()) == {BABY}


def test_without_target_events_its_clips_are_positives():
    rows = [clip("a", [SPEECH, BABY]), clip("b", [RAIN], [(RAIN, 0.0, 1.0)])]
    positives = (pools := pools_of(rows)).items.take(pools.positives)
    assert names_of(rows, positives) == ["a"]
    assert np.isnan(positives.start).all()


def test_target_can_have_several_labels_and_related_labels_can_be_set():
    rows = [clip("bark", [BARK]), clip("dog", [DOG]), clip("cry", [CRY]), clip("baby", [BABY]), clip("rain", [RAIN])]
    pools = pools_of(rows, target=["/m/Bark", "Baby cry"])
    assert pools.targets == [BARK, BABY]
    assert names_of(rows, pools.items.take(pools.positives)) == ["bark", "baby"]
    assert pools.items.take(pools.positives).label.tolist() == [BARK, BABY]
    assert names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)) == ["rain"]
    pools = pools_of(rows, target=["Bark", "Baby cry"], related=["Rain"])
    assert names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)) == ["dog", "cry"]


def test_events_beyond_the_file_are_dropped_and_longer_ones_cut():
    rows = [
        clip("short", [BABY], [(BABY, 5.0, 6.0), (BABY, 2.0, 6.0), (BABY, 1.0, 1.0)], seconds=4.0),
        clip("unopened", [BABY], [(BABY, 5.0, 6.0)], seconds=None),
    ]
    pools = pools_of(rows)
    assert list(zip(pools.items.start.tolist(), pools.items.end.tolist(), strict=True)) == [(2, 4), (5, 6)]
    assert excluded(pools)["event beyond file"] == 1
    assert len(pools.positives) == 2


def test_runs_of_checked_frames_become_explicit_negatives():
    frames = [(BABY, 0.96 * i, 0.96 * (i + 1), False) for i in (0, 1, 2, 4, 7, 8)]
    rows = [
        clip("run", [SPEECH], [*frames, (BABY, 0.96 * 3, 0.96 * 4), (BABY, 8.0, 8.2)], strong=False),
        clip("too short", [SPEECH], frames[3:4], strong=False),
        clip("other label", [SPEECH], [(DOG, 0.0, 5.0, False)], strong=False),
        clip("held out", [SPEECH], frames, strong=False, subset="eval"),
    ]
    pools = pools_of(rows, seconds=1.5)
    items = pools.items.take(pools.explicit)
    assert names_of(rows, items) == ["run"]
    assert items.kind.tolist() == [Kind.EXPLICIT]
    np.testing.assert_allclose(
        [items.start[0], items.end[0]], [0, 2.88], atol=1e-5
    )  # frames 7 and 8 touch a target event
    assert items.label.tolist() == [BABY]


def test_check_of_one_target_label_does_not_cover_another():
    frames = [(BABY, 0.96 * i, 0.96 * (i + 1), False) for i in range(3)]
    rows = [clip("barks", [BARK], frames, strong=False), clip("plain", [SPEECH], frames, strong=False)]
    pools = pools_of(rows, target=["Baby cry", "Bark"])
    assert names_of(rows, pools.items.take(pools.explicit)) == ["plain"]


# Splits


def test_eval_clips_are_scored_and_ambiguous_ones_counted():
    rows = [
        clip("pos", [BABY], [(BABY, 4.0, 5.0), (BABY, 1.0, 2.0), (BABY, 1.5, 3.0), (DOG, 0.0, 9.0)], subset="eval"),
        clip("weak pos", [BABY], subset="eval"),
        clip("contradicted", [BABY], [(DOG, 0.0, 9.0)], subset="eval"),
        clip("related", [CRY], subset="eval"),
        clip("neg", [DOG], [(DOG, 0.0, 9.0)], subset="eval"),
        clip("lost", [DOG], subset="eval", audio=False),
        clip("train", [BABY], [(BABY, 0.0, 1.0)]),
    ]
    pools = pools_of(rows)
    test = pools.sides["test"]
    assert [rows[row]["clip_id"] for row in test.rows] == ["pos", "weak pos", "contradicted", "neg"]
    assert test.targets.tolist() == [True, True, True, False]
    assert test.ambiguous == 1
    assert test.strong.tolist() == [True, False, False, True]
    assert test.events_of(0).tolist() == [[1, 3], [4, 5]]  # overlapping events are merged
    assert [len(test.events_of(clip)) for clip in (1, 2, 3)] == [0, 0, 0]
    assert len(pools.sides["validation"]) == 0
    assert names_of(rows, pools.items) == ["train"]


@settings(max_examples=20)
@given(seed=st.integers(0, 99), limit=st.integers(1, 40))
def test_max_eval_clips_keeps_all_positives(seed, limit):
    rows = [clip(f"clip{i}", [BABY if i % 10 == 0 else DOG], subset="eval") for i in range(60)]
    all_clips = pools_of(rows, validation_seed=seed).sides["test"]
    limited = pools_of(rows, validation_seed=seed, max_eval_clips=limit).sides["test"]
    assert len(all_clips) == 60
    assert limited.targets.sum() == 6
    assert len(limited) == max(limit, 6)
    more = pools_of(rows, validation_seed=seed, max_eval_clips=limit + 1).sides["test"]
    assert set(limited.rows.tolist()) <= set(more.rows.tolist()) <= set(all_clips.rows.tolist())


def test_split_of_a_clip_depends_only_on_its_id():
    rows = [clip(f"{i:011d}", [DOG]) for i in range(2000)]
    options = replace(PLAIN, validation_fraction=0.2)
    members = {rows[row]["clip_id"] for row in pools_of(rows, options).sides["validation"].rows}
    assert 320 < len(members) < 480
    part = rows[1500:400:-1]
    part_members = {part[row]["clip_id"] for row in pools_of(part, options).sides["validation"].rows}
    assert part_members == members & {row["clip_id"] for row in part}
    other = {rows[row]["clip_id"] for row in pools_of(rows, options, validation_seed=1).sides["validation"].rows}
    assert 40 < len(members & other) < 130  # 80 expected: 2000 * 0.2 * 0.2


def test_thinning_and_validation_are_independent():
    """If both used the same random numbers, validation would take exactly the clips that thinning keeps."""
    rows = [clip(f"{i:011d}", [SPEECH]) for i in range(3000)]
    pools = pools_of(rows, head_trim="only_head", head_keep_fraction=0.3, validation_fraction=0.3)
    assert len(pools.weak.items) == pytest.approx(3000 * 0.7 * 0.3, rel=0.15)


def test_only_weak_negatives_of_the_unbalanced_table_are_thinned():
    kinds = {"unbalanced": {}, "balanced": {"subset": "balanced_train"}, "listed": {"subset": "list"}}
    kinds["strong"] = {"events": [(SPEECH, 0.0, 1.0)]}
    rows = [clip(f"{name}{i}", [SPEECH], **kinds[name]) for name in kinds for i in range(50)]
    rows += [clip(f"target{i}", [SPEECH, BABY], [(BABY, 0.0, 1.0)]) for i in range(50)]
    rows += [clip(f"rare{i}", [SPEECH, RAIN]) for i in range(50)]
    pools = pools_of(rows, head_trim="only_head", head_keep_fraction=0.0)
    weak = set(names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)))
    assert {name: sum(w.startswith(name) for w in weak) for name in (*kinds, "rare")} == {
        "unbalanced": 0, "balanced": 50, "listed": 50, "strong": 50, "rare": 50
    }  # fmt: skip
    assert len(pools.positives) == 50
    assert pools.trim == [LabelCount("Speech", 100, 50), LabelCount("Rain", 50, 50)]
    assert excluded(pools)["head_trim=only_head"] == 50
    floor = pools_of(rows, head_trim="floor", head_keep_fraction=0.0, head_floor=60)
    left = {label.name: label.after for label in floor.trim}
    assert left["Rain"] == 50
    assert 60 <= left["Speech"] < 100


@st.composite
def tables(draw) -> list[dict]:
    """Draw rows with all combinations of columns, including repeated ids."""
    rows = []
    for i in range(draw(st.integers(1, 14))):
        events = draw(
            st.lists(
                st.tuples(st.integers(0, 7), st.sampled_from([0.0, 1.0, 4.0, 11.0]), st.sampled_from([0.5, 2.0])),
                max_size=3,
            )
        )
        absent = draw(st.booleans())
        name = draw(st.sampled_from(["same", "-_x", f"id{i}", f"clip{i:07d}"]))
        held_out = name not in ("same", "-_x") and draw(st.integers(0, 3)) == 0
        rows.append(
            clip(
                name,
                draw(st.lists(st.integers(0, 7), max_size=3, unique=True)),
                [(label, a, a + length, *([False] if absent else [])) for label, a, length in events],
                "eval" if held_out else draw(st.sampled_from(["unbalanced_train", "balanced_train", "list"])),
                strong=draw(st.booleans()),
                audio=draw(st.integers(0, 4)) > 0,
                seconds=draw(st.sampled_from([10.0, 3.0, None])),
            )
        )
    return rows


@settings(max_examples=150)
@given(rows=tables(), fraction=st.sampled_from([0.0, 0.3]), wanted=st.sampled_from(["auto", "both", "weak"]))
def test_no_negative_holds_the_target_and_no_clip_is_in_two_splits(rows, fraction, wanted):
    pools = pools_of(rows, validation_fraction=fraction, positives=wanted)
    labels_of = defaultdict(set)
    for row in rows:
        labels_of[row["clip_id"]] |= {*row["labels"], *(e["label"] for e in row["events"] if e["present"])}
    items = pools.items
    for name, kind in zip(names_of(rows, items), items.kind.tolist(), strict=True):
        if kind in (Kind.STRONG, Kind.WEAK):
            assert not labels_of[name] & {BABY, CRY}
        if kind == Kind.POSITIVE:
            assert BABY in labels_of[name]
    drawn = set(names_of(rows, items))
    sides = {side: {rows[row]["clip_id"] for row in clips.rows} for side, clips in pools.sides.items()}
    assert not drawn & sides["validation"]
    assert not drawn & sides["test"]
    assert not sides["validation"] & sides["test"]
    for clips in pools.sides.values():
        assert [BABY in labels_of[rows[row]["clip_id"]] for row in clips.rows] == clips.targets.tolist()
        assert not any(labels_of[rows[row]["clip_id"]] & {BABY, CRY} for row in clips.rows[~clips.targets])
        assert clips.edges[-1] == len(clips.events)
        assert len(clips.edges) == len(clips) + 1
    scored = np.concatenate([clips.rows for clips in pools.sides.values()])
    assert all(rows[row]["audio"] is not None for row in [*items.clip, *scored])
    for row, start, end, kind, label in zip(items.clip, items.start, items.end, items.kind, items.label, strict=True):
        if kind == Kind.STRONG or (kind == Kind.POSITIVE and not np.isnan(start)):
            times = [(e["label"], e["start_seconds"]) for e in rows[row]["events"] if e["present"]]
            assert (label, start) in times
            assert start < end <= (rows[row]["audio_seconds"] or np.inf)
        elif kind == Kind.WEAK:
            row_labels = rows[row]["labels"] or {e["label"] for e in rows[row]["events"] if e["present"]}
            assert label in row_labels
            assert np.isnan(start)
    options = replace(PLAIN, validation_fraction=fraction, positives=wanted)
    assert build_pools(table_of(rows, "int16"), LABELS, ONTOLOGY, options, 1.0).digest == pools.digest


def test_digest_depends_on_everything_that_can_be_drawn():
    rows = [clip("a", [BABY], [(BABY, 0.0, 1.0)]), clip("b", [DOG]), clip("c", [RAIN])]
    before = pools_of(rows).digest
    assert before == pools_of(rows).digest
    rows[0]["events"][0]["end_seconds"] = 1.5
    assert pools_of(rows).digest != before
    assert pools_of(rows[:2]).digest != before
    rows[0]["events"][0]["end_seconds"], rows[1]["clip_id"] = 1.0, "d"
    assert pools_of(rows).digest != before


def test_clips_without_audio_are_counted_by_reason():
    rows = [clip("a", [BABY]), clip("b", [DOG], audio=False), clip("c", [DOG], audio=False)]
    rows[2]["defects"] = []
    counts = pools_of(rows).counts
    assert counts.clips == 3
    assert counts.with_audio == 1
    assert counts.subsets == {"unbalanced_train": 3}
    assert counts.unusable == {"audio_missing": 1, "no audio": 1}


# Invalid input


def test_clip_in_eval_and_training_is_rejected():
    rows = [clip("twice", [BABY]), clip("twice", [BABY], subset="eval"), clip("once", [DOG])]
    with pytest.raises(ValueError, match="clip_id=twice: 1 clip "):
        pools_of(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["Baby crying"]}, "label='Baby crying'"),
        ({"target": ["baby"]}, r"label='baby'.*\['Baby cry'\]"),
        ({"related": ["cr"]}, r"label='cr'.*\['Cry', 'Baby cry'\]"),
        ({"target": []}, r"target=\[\]: "),
        ({"positives": "all"}, "positives='all': .* auto, strong, weak, both"),
        ({"head_trim": "head"}, "head_trim='head': "),
        ({"validation_fraction": 1.5}, "validation_fraction=1.5: "),
        ({"max_eval_clips": -1}, "max_eval_clips=-1: "),
    ],
)
def test_invalid_settings_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        pools_of([clip("a", [BABY])], **options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([clip("a", [DOG])], "positive_share=0.25: .* Of 1 clip, .*another target"),
        (
            [clip("a", [BABY]), clip("b", [DOG])],
            "strong_share=0.25: .*strong tables.*strong_share=0",
        ),
        (
            [clip("a", [BABY]), clip("b"), clip("c", [DOG], audio=False)],
            "weak_share=0.5: .* Of 3 clips, .*usable audio: 1;.*weak_share=0",
        ),
    ],
)
def test_empty_pool_is_rejected_with_the_counts_of_each_rule(rows, message):
    shares = SamplerSettings(strong_share=0) if "weak" in message else SamplerSettings()
    with pytest.raises(ValueError, match=message):
        TwoTierBatchSampler.from_pools(pools_of(rows), shares, 8, seed=0)


def test_strong_labels_alone_also_give_weak_negatives():
    rows = [
        clip("cry", [], [(BABY, 0.0, 1.0)]),
        clip("dog", [], [(RAIN, 0.0, 1.0), (DOG, 1.0, 2.0), (RAIN, 3.0, 4.0)]),
    ]
    rows += [clip("labelled", [DOG], [(RAIN, 0.0, 1.0)]), clip("framed", [], [(SPEECH, 0.0, 1.0)], strong=False)]
    pools = pools_of(rows)
    weak = pools.weak
    assert names_of(rows, pools.items.take(weak.items)) == ["dog", "dog", "labelled"]
    assert weak.labels.tolist() == [DOG, RAIN, DOG]
    assert TwoTierBatchSampler.from_pools(pools, SamplerSettings(), 8, seed=0).composition == [2, 2, 4]


def test_share_of_0_needs_no_pool():
    rows = [clip(f"a{i}", [BABY]) for i in range(4)] + [clip(f"b{i}", [DOG]) for i in range(9)]
    sampler = TwoTierBatchSampler.from_pools(
        pools_of(rows), SamplerSettings(strong_share=0, min_epoch_steps=1), 9, seed=0
    )
    assert sampler.composition == [3, 0, 6]
    assert len(sampler) == 2
    assert sampler.rounds == 0
    assert {len(batch) for batch in sampler} == {9}

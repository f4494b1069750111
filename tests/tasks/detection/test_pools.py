"""What is drawn and what is scored: no negative holds the target, no clip is on two sides, every rule is counted."""

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


def removed(pools: ClipPools) -> dict[str, int]:
    return {rule.rule: rule.clips for rule in pools.rules}


# Kinds of item


def test_clips_become_items_as_their_labels_say():
    rows = [
        clip("pos", [BABY], [(BABY, 1.0, 1.5), (BABY, 4.0, 9.0), (SPEECH, 0.0, 1.0)]),
        clip("neg", [DOG, SPEECH], [(DOG, 2.0, 3.0), (RAIN, 0.0, 10.0)]),
        clip("weak", [SPEECH, RAIN]),
    ]
    pools = pools_of(rows)
    items = pools.items
    assert [items.kind.tolist(), items.label.tolist(), names_of(rows, items)] == [
        [Kind.POSITIVE, Kind.POSITIVE, Kind.STRONG, Kind.STRONG, Kind.WEAK, Kind.WEAK],
        [BABY, BABY, DOG, RAIN, DOG, RAIN],  # a weak clip stands under its rarest label
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


def test_half_of_the_clips_that_cry_lack_the_weak_label_and_are_no_negatives():
    rows = [
        clip("labelled", [BABY], [(BABY, 0.0, 1.0)]),
        clip("unlabelled", [SPEECH], [(BABY, 0.0, 1.0)]),
        clip("framed", [SPEECH], [(BABY, 0.0, 0.96, True)[:3]], strong=False),
        clip("listed", [SPEECH]),
        clip("listed", [BABY], subset="list"),
        clip("related", [CRY, SPEECH]),
        clip("sibling", [WHIMPER]),  # a confuser
    ]
    pools = pools_of(rows)
    assert names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)) == ["sibling"]
    assert removed(pools) == {
        "no usable audio": 0,
        "eval: tested on, never trained on": 0,
        "validation, by group: never trained on": 0,
        "the target is a weak label: no negative": 2,
        "the target is no weak label, but an event: no negative": 2,
        "another row of the id has the target: no negative": 1,
        "a label under which the target may be heard: neither positive nor negative": 1,
        "no label: no weak negative": 0,
        "the commonest sounds, thinned (none)": 0,
        "events after the end of their file: not these events": 0,
    }


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("auto", ["both", "event"]),
        ("strong", ["both", "event"]),
        ("weak", ["both", "unknown place"]),
        ("both", ["both", "event", "unknown place"]),
    ],
)
def test_positives_are_events_or_clips_as_asked(wanted, expected):
    rows = [
        clip("both", [BABY], [(BABY, 0.0, 1.0)]),
        clip("event", [SPEECH], [(BABY, 0.0, 1.0)]),
        clip("unknown place", [SPEECH, BABY]),
        clip("contradicted", [RAIN, SPEECH], [(RAIN, 0.0, 1.0)]),
    ]
    pools = pools_of(rows, positives=wanted)
    positives = pools.items.take(pools.positives)
    assert names_of(rows, positives) == expected
    assert set(positives.label.tolist()) == {BABY}


def test_without_any_event_of_the_target_its_clips_are_positives_by_themselves():
    rows = [clip("a", [SPEECH, BABY]), clip("b", [RAIN], [(RAIN, 0.0, 1.0)])]
    positives = (pools := pools_of(rows)).items.take(pools.positives)
    assert names_of(rows, positives) == ["a"]
    assert np.isnan(positives.start).all()


def test_several_labels_make_one_target_and_related_ones_can_be_named():
    rows = [clip("bark", [BARK]), clip("dog", [DOG]), clip("cry", [CRY]), clip("baby", [BABY]), clip("rain", [RAIN])]
    pools = pools_of(rows, target=["/m/Bark", "Baby cry"])
    assert pools.targets == [BARK, BABY]
    assert names_of(rows, pools.items.take(pools.positives)) == ["bark", "baby"]
    assert pools.items.take(pools.positives).label.tolist() == [BARK, BABY]
    assert names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)) == ["rain"]
    pools = pools_of(rows, target=["Bark", "Baby cry"], related=["Rain"])
    assert names_of(rows, pools.items.take(pools.items.kind == Kind.WEAK)) == ["dog", "cry"]


def test_events_that_the_file_does_not_hold_are_no_items_and_longer_ones_end_with_it():
    rows = [
        clip("short", [BABY], [(BABY, 5.0, 6.0), (BABY, 2.0, 6.0), (BABY, 1.0, 1.0)], seconds=4.0),
        clip("unopened", [BABY], [(BABY, 5.0, 6.0)], seconds=None),
    ]
    pools = pools_of(rows)
    assert list(zip(pools.items.start.tolist(), pools.items.end.tolist(), strict=True)) == [(2, 4), (5, 6)]
    assert removed(pools)["events after the end of their file: not these events"] == 1
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
    np.testing.assert_allclose([items.start[0], items.end[0]], [0, 2.88], atol=1e-5)  # 7 and 8 touch a cry
    assert items.label.tolist() == [BABY]


def test_where_two_labels_are_the_target_a_check_of_one_is_no_check_of_the_other():
    frames = [(BABY, 0.96 * i, 0.96 * (i + 1), False) for i in range(3)]
    rows = [clip("barks", [BARK], frames, strong=False), clip("plain", [SPEECH], frames, strong=False)]
    pools = pools_of(rows, target=["Baby cry", "Bark"])
    assert names_of(rows, pools.items.take(pools.explicit)) == ["plain"]


# Sides


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
    assert test.events_of(0).tolist() == [[1, 3], [4, 5]]  # the two that overlap are one
    assert [len(test.events_of(clip)) for clip in (1, 2, 3)] == [0, 0, 0]
    assert len(pools.sides["validation"]) == 0
    assert names_of(rows, pools.items) == ["train"]


@settings(max_examples=20)
@given(seed=st.integers(0, 99), most=st.integers(1, 40))
def test_fewer_clips_can_be_scored_with_all_positives_among_them(seed, most):
    rows = [clip(f"clip{i}", [BABY if i % 10 == 0 else DOG], subset="eval") for i in range(60)]
    all_of_them = pools_of(rows, validation_seed=seed).sides["test"]
    some = pools_of(rows, validation_seed=seed, max_eval_clips=most).sides["test"]
    assert len(all_of_them) == 60
    assert some.targets.sum() == 6
    assert len(some) == max(most, 6)
    more = pools_of(rows, validation_seed=seed, max_eval_clips=most + 1).sides["test"]
    assert set(some.rows.tolist()) <= set(more.rows.tolist()) <= set(all_of_them.rows.tolist())


def test_the_side_of_a_clip_is_told_by_its_id_alone():
    rows = [clip(f"{i:011d}", [DOG]) for i in range(2000)]
    options = replace(PLAIN, validation_fraction=0.2)
    whole = {rows[row]["clip_id"] for row in pools_of(rows, options).sides["validation"].rows}
    assert 320 < len(whole) < 480
    part = rows[1500:400:-1]
    found = {part[row]["clip_id"] for row in pools_of(part, options).sides["validation"].rows}
    assert found == whole & {row["clip_id"] for row in part}
    other = {rows[row]["clip_id"] for row in pools_of(rows, options, validation_seed=1).sides["validation"].rows}
    assert 40 < len(whole & other) < 130  # about a fifth of a fifth


def test_thinning_and_validation_do_not_hang_together():
    """With the same draws for both, the clips that thinning keeps would be those that validation takes."""
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
    assert removed(pools)["the commonest sounds, thinned (only_head)"] == 50
    floor = pools_of(rows, head_trim="floor", head_keep_fraction=0.0, head_floor=60)
    left = {label.name: label.after for label in floor.trim}
    assert left["Rain"] == 50
    assert 60 <= left["Speech"] < 100


@st.composite
def tables(draw) -> list[dict]:
    """Some rows with everything that can go together, ids that come again among them."""
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
def test_no_table_whatsoever_lets_a_target_into_the_negatives_or_a_clip_onto_two_sides(rows, fraction, wanted):
    pools = pools_of(rows, validation_fraction=fraction, positives=wanted)
    heard = defaultdict(set)
    for row in rows:
        heard[row["clip_id"]] |= {*row["labels"], *(e["label"] for e in row["events"] if e["present"])}
    items = pools.items
    for name, kind in zip(names_of(rows, items), items.kind.tolist(), strict=True):
        if kind in (Kind.STRONG, Kind.WEAK):
            assert not heard[name] & {BABY, CRY}
        if kind == Kind.POSITIVE:
            assert BABY in heard[name]
    drawn = set(names_of(rows, items))
    sides = {side: {rows[row]["clip_id"] for row in clips.rows} for side, clips in pools.sides.items()}
    assert not drawn & sides["validation"]
    assert not drawn & sides["test"]
    assert not sides["validation"] & sides["test"]
    for clips in pools.sides.values():
        assert [BABY in heard[rows[row]["clip_id"]] for row in clips.rows] == clips.targets.tolist()
        assert not any(heard[rows[row]["clip_id"]] & {BABY, CRY} for row in clips.rows[~clips.targets])
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
            named = rows[row]["labels"] or {e["label"] for e in rows[row]["events"] if e["present"]}
            assert label in named
            assert np.isnan(start)
    options = replace(PLAIN, validation_fraction=fraction, positives=wanted)
    assert build_pools(table_of(rows, "int16"), LABELS, ONTOLOGY, options, 1.0).digest == pools.digest


def test_a_digest_is_of_what_can_be_drawn():
    rows = [clip("a", [BABY], [(BABY, 0.0, 1.0)]), clip("b", [DOG]), clip("c", [RAIN])]
    before = pools_of(rows).digest
    assert before == pools_of(rows).digest
    rows[0]["events"][0]["end_seconds"] = 1.5
    assert pools_of(rows).digest != before
    assert pools_of(rows[:2]).digest != before
    rows[0]["events"][0]["end_seconds"], rows[1]["clip_id"] = 1.0, "d"
    assert pools_of(rows).digest != before


def test_rows_are_counted_by_why_they_have_no_audio():
    rows = [clip("a", [BABY]), clip("b", [DOG], audio=False), clip("c", [DOG], audio=False)]
    rows[2]["defects"] = []
    counts = pools_of(rows).counts
    assert counts.clips == 3
    assert counts.with_audio == 1
    assert counts.subsets == {"unbalanced_train": 3}
    assert counts.unusable == {"audio_missing": 1, "no audio": 1}


# Refusals


def test_a_clip_that_is_tested_on_and_trained_on_is_refused():
    rows = [clip("twice", [BABY]), clip("twice", [BABY], subset="eval"), clip("once", [DOG])]
    with pytest.raises(ValueError, match=r"in eval and in a list for training: 1 clip \(twice\)"):
        pools_of(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["Baby crying"]}, "no label 'Baby crying'"),
        ({"target": ["baby"]}, r"no label 'baby'; there are \['Baby cry'\]"),
        ({"related": ["cr"]}, r"there are \['Cry', 'Baby cry'\]"),
        ({"target": []}, "target is empty"),
        ({"positives": "all"}, "positives = 'all' is not known; it takes one of auto, strong, weak, both"),
        ({"head_trim": "head"}, "head_trim = 'head' is not known"),
        ({"validation_fraction": 1.5}, "validation_fraction = 1.5: give 0 to 1"),
        ({"max_eval_clips": -1}, "max_eval_clips = -1: give 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pools_of([clip("a", [BABY])], **options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([clip("a", [DOG])], "no positives, but positive_share is 0.25. Of 1 clip, .*Take another target"),
        (
            [clip("a", [BABY]), clip("b", [DOG])],
            "no strong negatives, but strong_share is 0.25.*prepare the data with strong tables|or set strong_share 0",
        ),
        (
            [clip("a", [BABY]), clip("b"), clip("c", [DOG], audio=False)],
            "no weak negatives, but weak_share is 0.5. Of 3 clips, .*no usable audio: 1;.*or set weak_share 0",
        ),
    ],
)
def test_a_batch_that_needs_what_is_not_there_says_how_it_came_to_that(rows, message):
    shares = SamplerSettings(strong_share=0) if "weak" in message else SamplerSettings()
    with pytest.raises(ValueError, match=message):
        TwoTierBatchSampler.from_pools(pools_of(rows), shares, 8, seed=0)


def test_strong_labels_alone_give_weak_negatives_too():
    rows = [
        clip("cry", [], [(BABY, 0.0, 1.0)]),
        clip("dog", [], [(RAIN, 0.0, 1.0), (DOG, 1.0, 2.0), (RAIN, 3.0, 4.0)]),
    ]
    rows += [clip("told", [DOG], [(RAIN, 0.0, 1.0)]), clip("framed", [], [(SPEECH, 0.0, 1.0)], strong=False)]
    pools = pools_of(rows)
    weak = pools.weak
    assert names_of(rows, pools.items.take(weak.items)) == ["dog", "dog", "told"]
    assert weak.labels.tolist() == [DOG, RAIN, DOG]
    assert TwoTierBatchSampler.from_pools(pools, SamplerSettings(), 8, seed=0).composition == [2, 2, 4]


def test_a_share_of_0_needs_no_pool():
    rows = [clip(f"a{i}", [BABY]) for i in range(4)] + [clip(f"b{i}", [DOG]) for i in range(9)]
    sampler = TwoTierBatchSampler.from_pools(
        pools_of(rows), SamplerSettings(strong_share=0, min_epoch_steps=1), 9, seed=0
    )
    assert sampler.composition == [3, 0, 6]
    assert len(sampler) == 2
    assert sampler.rounds == 0
    assert {len(batch) for batch in sampler} == {9}

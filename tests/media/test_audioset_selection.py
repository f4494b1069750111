"""Selection of AudioSet clips: decided by id and seed alone, matching known counts, without targets in negatives."""

import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.audioset.table_formats import read_labels, read_strong, read_weak
from media.audioset import (
    Labels,
    Ontology,
    class_counts,
    clips_with,
    id_uniforms,
    label_weights,
    ontology_from_labels,
    read_ontology,
    trim_heads,
)

BABY_CRY, CRYING, WHIMPER = "/t/dd00002", "/m/0463cq4", "/m/07qz6j3"
SPEECH, MUSIC = "/m/09x0r", "/m/04rlf"


def table_of(rows: list[tuple[str, list[int]]]) -> pa.Table:
    labels = pa.array([codes for _, codes in rows], pa.list_(pa.int16()))
    return pa.table({"ytid": pa.array([ytid for ytid, _ in rows]), "labels": labels})


def random_table(seed: int, rows: int = 400, labels: int = 12) -> pa.Table:
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, labels + 1)
    drawn = [np.flatnonzero(rng.uniform(size=labels) < shares * 0.7).tolist() or [0] for _ in range(rows)]
    return table_of([(f"{i:011d}", codes) for i, codes in enumerate(drawn)])


@pytest.fixture(scope="module")
def meta(real_data: Path) -> Path:
    return real_data / "audioset" / "meta"


@pytest.fixture(scope="module")
def labels(meta: Path) -> Labels:
    return read_labels((meta / "class_labels_indices.csv").read_bytes(), "labels")


@pytest.fixture(scope="module")
def balanced(meta: Path, labels: Labels) -> pa.Table:
    return read_weak((meta / "balanced_train_segments.csv").read_bytes(), labels, "balanced")


@pytest.fixture(scope="module")
def ontology(meta: Path) -> Ontology:
    return read_ontology((meta / "ontology.json").read_bytes(), "ontology.json")


# The hash


def test_draws_are_uniform_and_depend_only_on_the_id(balanced):
    drawn = id_uniforms(balanced["ytid"], seed=3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, 20, (0, 1))[0]
    assert ((counts - len(drawn) / 20) ** 2 / (len(drawn) / 20)).sum() < 45  # chi squared, 19 degrees: p > 0.001
    assert abs(np.corrcoef(drawn, id_uniforms(balanced["ytid"], seed=4))[0, 1]) < 0.03
    order = np.random.default_rng(0).permutation(len(balanced))[:5000]
    np.testing.assert_array_equal(id_uniforms(balanced["ytid"].take(pa.array(order)), 3), drawn[order])


# Head trimming


# Without "floor": it restores clips depending on which others exist.
@given(seed=st.integers(0, 50), mode=st.sampled_from(["any", "only_head"]), dropped=st.integers(0, 399))
def test_a_missing_clip_or_another_order_changes_no_other_decision(seed, mode, dropped):
    table = random_table(seed)
    keep = trim_heads(table, [0, 1], 0.3, mode, seed, 12)
    order = np.random.default_rng(seed).permutation(np.delete(np.arange(len(table)), dropped))
    reordered = trim_heads(table.take(pa.array(order)), [0, 1], 0.3, mode, seed, 12)
    np.testing.assert_array_equal(reordered, keep[order])


@given(seed=st.integers(0, 50), fraction=st.floats(0, 1))
def test_each_mode_drops_the_clips_it_should(seed, fraction):
    table = random_table(seed)
    lists = table["labels"].to_pylist()
    any_head, only = (trim_heads(table, [0, 1], fraction, mode, seed, 12) for mode in ("any", "only_head"))
    for codes, kept_any, kept_only in zip(lists, any_head, only, strict=True):
        assert kept_any or set(codes) & {0, 1}
        assert kept_only or not set(codes) - {0, 1}
        assert kept_only or not kept_any  # `any` drops every clip that `only_head` drops
    floored = trim_heads(table, [0, 1], fraction, "floor", seed, 12, floor=20)
    before, after = class_counts(table, 12), class_counts(table, 12, floored)
    assert (after >= np.minimum(before, 20)).all()
    assert (floored | ~any_head).all()


@pytest.mark.parametrize("mode", ["any", "only_head", "floor"])
def test_clips_without_a_head_label_are_never_dropped(mode):
    table = table_of([(f"{i:011d}", [i % 3 + 2]) for i in range(30)])
    assert trim_heads(table, [0, 1], 0.0, mode, 0, 12, floor=5).all()
    assert trim_heads(table.slice(0, 0), [0, 1], 0.0, mode, 0, 12, floor=5).shape == (0,)


@pytest.mark.slow
def test_trimming_the_real_table_has_the_known_losses(meta, labels):
    data = lzma.decompress((meta / "unbalanced_train_segments.csv.xz").read_bytes())
    table = read_weak(data, labels, "unbalanced")
    heads = [labels.mids.index(mid) for mid in (SPEECH, MUSIC)]
    before = class_counts(table, 527)
    assert (before.min(), before.max(), np.count_nonzero(before < 100)) == (7, 999_421, 24)
    expected = {"only_head": (1_281_032, 1), "any": (694_658, 220)}  # clips kept; labels that lose more than half
    for mode, (clips, losing_labels) in expected.items():
        keep = trim_heads(table, heads, 0.2, mode, 42, 527)
        after = class_counts(table, 527, keep)
        assert abs(np.count_nonzero(keep) - clips) < 3_000  # the hash differs: three standard deviations are 1,500
        assert abs(np.count_nonzero(after < before / 2) - losing_labels) <= 5


# Weights


def test_label_weights_by_hand():
    counts = np.array([4, 1, 0])  # clips of three labels
    np.testing.assert_allclose(label_weights(counts, "panns"), [1 / 8, 1 / 2, 1 / 2])
    np.testing.assert_allclose(label_weights(counts, "ast"), 1000 / (counts + 0.01))
    np.testing.assert_allclose(label_weights(counts, "sqrt"), [0.5, 1, 1])
    assert counts @ label_weights(counts, "panns") == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: trim_heads(t, [0], 0.2, "some", 0, 3), "mode='some': .*any, only_head, floor"),
        (lambda t: trim_heads(t, [0], 1.5, "any", 0, 3), "keep_fraction=1.5"),
        (lambda t: label_weights(class_counts(t, 3), "log"), "scheme='log': .*panns, ast, sqrt"),
    ],
)
def test_unknown_modes_and_schemes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(table_of([("a" * 11, [0])]))


# Negatives


def test_the_ontology_is_a_graph_with_relatives_and_siblings(ontology):
    assert len(ontology.names) == 632
    assert sum(len(parents) > 1 for parents in ontology.parents.values()) == 38
    assert sum(not parents for parents in ontology.parents.values()) == 7
    assert ontology.related(BABY_CRY) == {CRYING}
    assert ontology.siblings(BABY_CRY) == {WHIMPER}
    assert ontology.related(CRYING) >= {BABY_CRY, WHIMPER}
    with pytest.raises(ValueError, match=r"^x.json: .*KeyError"):
        read_ontology(b"[{}]", "x.json")


def test_the_graph_can_be_restored_from_labels_json(ontology, labels):
    nodes = [mid for mid in ontology.names if mid not in labels.mids]
    entries = [
        {"mid": mid, "name": ontology.names[mid], "parents": ontology.parents[mid]} for mid in [*labels.mids, *nodes]
    ]
    restored, graph = ontology_from_labels({"num_labels": 527, "labels": entries})
    assert restored.mids == labels.mids
    assert graph.names == ontology.names
    assert graph.parents == ontology.parents
    assert {mid: set(c) for mid, c in graph.children.items()} == {mid: set(c) for mid, c in ontology.children.items()}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"labels": []}, "KeyError: 'num_labels'"),
        (
            {"num_labels": 2, "labels": [{"mid": "/m/a", "name": "A", "parents": []}]},
            "1 entries of 1 MIDs, num_labels=2",
        ),
        ({"num_labels": 1, "labels": [{"mid": "/m/a", "name": "A", "parents": ["/m/b"]}]}, "/m/a .* parent /m/b"),
    ],
)
def test_an_invalid_labels_json_is_refused(record, message):
    with pytest.raises(ValueError, match=f"^labels.json: .*{message}"):
        ontology_from_labels(record)


def test_weak_labels_alone_miss_half_of_the_clips_with_a_strong_cry(meta, labels):
    weak = read_weak((meta / "eval_segments.csv").read_bytes(), labels, "eval")
    strong = [read_strong((meta / "strong" / f"bc_{name}_eval.tsv").read_bytes(), name) for name in ("ov", "nov")]
    by_weak = clips_with([BABY_CRY], [(weak, labels.mids)], [])
    by_strong = clips_with([BABY_CRY], [], strong)
    assert len(by_weak) == 60
    assert len(by_strong) == 64
    assert len(by_strong - by_weak) == 38
    assert clips_with([BABY_CRY], [(weak, labels.mids)], strong) == by_weak | by_strong


def test_a_row_with_not_present_does_not_exclude_a_clip():
    framed = pa.table({"ytid": ["a", "b"], "label": [BABY_CRY] * 2, "present": [True, False]})
    assert clips_with([BABY_CRY], [], [framed]) == {"a"}

"""Pools and plans at AudioSet's real size: two million weak rows, and strong tables as large as the real ones."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.audioset import TRAIN_STRONG, make_raw
from hf_datasets.audioset.table_formats import read_labels, read_strong, read_weak
from hf_datasets.audioset.tree import read_tree
from media.audioset import clips_with, id_uniforms
from tasks.detection.items import Kind
from tasks.detection.pools import ClipPools, PoolSettings, build_pools
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler

pytestmark = pytest.mark.slow
BABY_CRY, CRYING = "/t/dd00002", "/m/0463cq4"
HAS_AUDIO = 0.9


@pytest.fixture(scope="module")
def raw(real_data: Path, tmp_path_factory) -> Path:
    return make_raw(real_data / "audioset" / "meta", tmp_path_factory.mktemp("audioset") / "raw")


@pytest.fixture(scope="module")
def table(raw: Path) -> tuple[pa.Table, tuple]:
    """Return all clips, nine of ten with audio, and labels and ontology."""
    tree = read_tree(str(raw), None, [], {})
    missing = id_uniforms(tree.table["clip_id"], 1) >= HAS_AUDIO
    rows = tree.table.append_column("audio", pa.array(np.ones(len(missing), bool), mask=missing))
    return rows.append_column("audio_seconds", pa.nulls(len(rows), pa.float32())), (tree.labels, tree.ontology)


@pytest.fixture(scope="module")
def pools(table: tuple[pa.Table, tuple]) -> ClipPools:
    rows, vocabulary = table
    return build_pools(rows, *vocabulary, PoolSettings(), clip_seconds=1.0)


def test_the_synthetic_strong_table_has_the_size_of_the_real_one(raw):
    strong = read_strong((raw / "audioset_train_strong.tsv").read_bytes(), "train")
    assert len(strong) == TRAIN_STRONG["events"]
    assert len(strong["ytid"].unique()) == TRAIN_STRONG["clips"]
    assert len(strong["label"].unique()) == TRAIN_STRONG["used"]
    cries = np.array(strong["label"].to_pylist()) == BABY_CRY
    assert cries.sum() == 1767
    assert len(strong.filter(pa.array(cries))["ytid"].unique()) == 492


@pytest.mark.parametrize("world", [1, 8])
def test_every_label_occurs_within_the_stated_number_of_epochs(pools, world):
    sampler = TwoTierBatchSampler.from_pools(pools, SamplerSettings(min_epoch_steps=1), 32, seed=0, world_size=world)
    tiers = np.array(sampler.tier_names)
    for tier, pool in (("tier_a", sampler.strong), ("weak", sampler.weak)):
        wanted = set(np.unique(pool.labels).tolist())
        rounds = -(-len(wanted) // (len(sampler) * (tiers == tier).sum()))
        assert len(wanted) >= 440
        assert tier == "weak" or sampler.rounds == rounds
        for first in (0, 5):
            drawn = set()
            for epoch in range(first, first + rounds):
                drawn |= set(np.unique(sampler._draw(epoch).labels[:, tiers == tier]).tolist())
            assert drawn == wanted
    items, _ = sampler.plan(3)
    negatives = items.reshape(sampler.steps, world, 32)[:, :, sampler.composition[0] :].reshape(sampler.steps, -1)
    in_order = np.sort(negatives, axis=1)
    assert not (in_order[:, 1:] == in_order[:, :-1]).any()
    kinds = Counter(zip(np.tile(tiers, len(items)).tolist(), pools.items.kind[items].ravel().tolist(), strict=True))
    assert set(kinds) == {
        ("positive", Kind.POSITIVE),
        ("tier_a", Kind.STRONG),
        ("tier_b", Kind.STRONG),
        ("weak", Kind.WEAK),
    }


def test_no_negative_has_the_target_in_any_table(raw, table, pools):
    # Checked with sets of ids, independently of the code that builds pools.
    labels = read_labels((raw / "class_labels_indices.csv").read_bytes(), "labels")
    names = ("unbalanced_train", "balanced_train", "eval")
    weak = [read_weak((raw / f"{name}_segments.csv").read_bytes(), labels, name) for name in names]
    strong = [read_strong((raw / f"audioset_{side}_strong.tsv").read_bytes(), side) for side in ("train", "eval")]
    with_target = clips_with([BABY_CRY, CRYING], [(rows, labels.mids) for rows in weak], strong)
    ids, items = table[0]["clip_id"], pools.items

    def names_of(rows: np.ndarray) -> set[str]:
        return set(ids.take(pa.array(np.unique(rows))).to_pylist())

    negatives = names_of(items.clip[items.kind != Kind.POSITIVE])
    assert len(negatives) > 1_000_000
    assert not negatives & with_target
    eval_ids = set(weak[2]["ytid"].to_pylist())
    assert not (negatives | names_of(items.clip)) & eval_ids
    assert not names_of(items.clip) & names_of(pools.sides["validation"].rows)
    assert names_of(pools.sides["test"].rows) <= eval_ids
    by_events = next(rule for rule in pools.rules if "target event only" in rule.rule)
    assert by_events.clips == pytest.approx(246 * HAS_AUDIO * 0.9, rel=0.2)  # half of the 492 clips that cry

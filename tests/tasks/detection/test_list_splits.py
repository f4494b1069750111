"""Clips in eval by a table or a user list are only tested on, for every combination of tables and lists."""

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pytest

from hf_datasets.audioset.builder import AudiosetBuilder, labels_json
from media.audioset import ontology_from_labels
from tasks.detection.items import Kind
from tasks.detection.pools import ClipPools, PoolSettings, build_pools
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler
from tests.helpers.raw_trees.audioset import CRY, MUSIC, SPEECH, strong_table, weak_table, write_tables, write_wav

CLIPS = {"cry": CRY, "say": SPEECH, "hum": MUSIC}  # prefix of a clip id, and its sound
SIDES = ("train", "eval")
FORMS = ("weak", "strong", "mixed")  # of tables and lists; mixed: with clips of both
LISTS = {"pos": ["cry"], "neg": ["say", "hum"]}  # event lists, and the clips in them
SETTINGS = PoolSettings(target=[CRY], related=[], positives="both", head_trim="none", validation_fraction=0.0)


def id_of(kind: str, side: str, form: str, number: int) -> str:
    return f"{kind}_{side[:2]}{form[:2]}_{number:02d}"


def ids_of(kinds: list[str], side: str, form: str) -> list[str]:
    return [id_of(kind, side, form, number) for kind in kinds for number in range(2)]


def write_official(folder: Path, form: str) -> dict[str, set[str]]:
    """Write official tables of both splits with weak rows, strong rows or both; returns the ids of each split."""
    write_tables(folder)
    ids_by_split = {}
    for side in SIDES:
        ids = ids_of(list(CLIPS), side, "official")
        weak, strong = (ids, []) if form == "weak" else ([], ids) if form == "strong" else (ids, ids[::2])
        if weak:
            rows = [(name, 30.0, [CLIPS[name[:3]]]) for name in weak]
            (folder / f"{'balanced_train' if side == 'train' else side}_segments.csv").write_text(weak_table(rows))
        if strong:
            events = [(f"{name}_30000", 0.25, 1.0, CLIPS[name[:3]]) for name in strong]
            (folder / f"audioset_{side}_strong.tsv").write_text(strong_table(events))
        ids_by_split[side] = set(ids)
    return ids_by_split


def write_lists(folder: Path, side: str, form: str) -> tuple[dict[str, list[Path]], set[str]]:
    """Write user lists of one split; returns the builder's options and the ids in the lists."""
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, list[Path]] = {}
    ids: set[str] = set()
    if form in ("weak", "mixed"):
        weak = ids_of(list(CLIPS), side, "weak")
        path = folder / f"more_{side}.csv"
        path.write_text("ytid,labels\n" + "".join(f"{name},{CLIPS[name[:3]]}\n" for name in weak))
        options["weak_paths"], ids = [path], ids | set(weak)
    if form in ("strong", "mixed"):
        for kind, kinds in LISTS.items():
            strong = ids_of(kinds, side, "strong") + (ids_of(kinds, side, "weak")[::2] if form == "mixed" else [])
            path = folder / f"{kind}_{side}.tsv"
            path.write_text(strong_table([(f"{name}_30000", 0.25, 1.0, CLIPS[name[:3]]) for name in strong]))
            options[f"{kind}_strong_paths"], ids = [path], ids | set(strong)
    return options, ids


def pools_from_lists(
    root: Path, official: str, user_lists: dict[str, str]
) -> tuple[ClipPools, dict[str, set[str]], list]:
    """Prepare tables and lists; returns the pools, the expected ids of each split, and the rows."""
    expected = write_official(root, official) if official else {side: set() for side in SIDES}
    options: dict[str, list[Path]] = {}
    for side in SIDES:
        if user_lists[side]:
            added, ids = write_lists(root / "lists", side, user_lists[side])
            options = {name: options.get(name, []) + added.get(name, []) for name in options | added}
            expected[side] |= ids
    root.mkdir(exist_ok=True)
    for name in set().union(*expected.values()):
        write_wav(root / "audio" / f"{name}.wav")
    builder = AudiosetBuilder(root, root / "audio", [CRY], cache_dir=str(root / "cache"), **options)
    tables = [
        table for split in builder._split_generators(None) for _, table in builder._generate_tables(**split.gen_kwargs)
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    vocabulary = ontology_from_labels(json.loads(labels_json(builder.tree.labels, builder.tree.ontology)))
    return build_pools(pa.concat_tables(tables), *vocabulary, SETTINGS, 1.0), expected, rows


@pytest.mark.parametrize(
    ("official", "train", "evaluated"), [mix for mix in itertools.product(("", *FORMS), repeat=3) if any(mix)]
)
def test_split_of_a_table_or_list_decides_between_drawing_and_scoring(tmp_path, official, train, evaluated):
    pools, expected, rows = pools_from_lists(tmp_path / "raw", official, {"train": train, "eval": evaluated})
    assert {row["clip_id"] for row in rows} == expected["train"] | expected["eval"]
    assert all((row["subset"] == "eval") == (row["clip_id"] in expected["eval"]) for row in rows)
    assert all(row["audio"] and not row["defects"] for row in rows)
    tested = pools.sides["test"]
    assert {rows[row]["clip_id"] for row in tested.rows} == expected["eval"]
    assert tested.targets.sum() == sum(name.startswith("cry") for name in expected["eval"])
    drawable = {kind: {rows[row]["clip_id"] for row in pools.items.clip[pools.items.kind == kind]} for kind in Kind}
    cries = {name for name in expected["train"] if name.startswith("cry")}
    assert drawable[Kind.POSITIVE] == cries
    assert drawable[Kind.WEAK] == expected["train"] - cries
    if expected["train"]:
        settings = SamplerSettings() if len(pools.strong.items) else SamplerSettings(strong_share=0)
        sampler = TwoTierBatchSampler.from_pools(pools, settings, 8, seed=0)
        drawn = {rows[pools.items.clip[item]]["clip_id"] for batch in sampler for item, _ in batch}
        assert cries <= drawn <= expected["train"]

"""Fixtures: raw trees of MELD."""

from pathlib import Path

import pytest

from hf_datasets.meld.builder import SPLIT_NAMES, MeldBuilder
from hf_datasets.meld.synthesize import synthesize
from tests.helpers.raw_trees.meld import build


@pytest.fixture(scope="package")
def damaged(tmp_path_factory) -> tuple[Path, MeldBuilder, dict[str, list[dict]]]:
    """Return a tree with every kind of damage, its builder, and its rows by split."""
    folder = tmp_path_factory.mktemp("damaged")
    synthesize(folder / "raw", num_train=48, num_dev=8, num_test=12)
    builder, rows = build(folder / "raw", folder / "cache", embed_clips=True)
    by_split = {split: [row for row in rows if row["split"] == split] for split in SPLIT_NAMES}
    return folder / "raw" / "MELD.Raw", builder, by_split


@pytest.fixture
def tiny(tmp_path) -> Path:
    """Return the root of an undamaged tree with four utterances per split."""
    synthesize(tmp_path / "raw", num_train=4, num_dev=4, num_test=4, defects="none")
    return tmp_path / "raw" / "MELD.Raw"

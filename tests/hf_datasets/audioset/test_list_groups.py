"""Groups of clips come from lists and tables into the data set."""

from pathlib import Path

import pytest

from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.audioset.own_lists import read_groups, read_weak_list
from tests.helpers.raw_trees.audioset import by_id, own_options, rows_of

HEAD = "clip_id,labels"


def test_a_list_may_have_a_group_for_some_of_its_rows() -> None:
    rows = f"{HEAD},group\naaaaaaaaaaa,/m/a, her \nbbbbbbbbbbb,/m/a,\n"
    assert read_weak_list(rows.encode(), "list.csv").groups.to_pylist() == ["her", None]
    assert read_weak_list(f"{HEAD}\naaaaaaaaaaa,/m/a\n".encode(), "list.csv").groups is None


def test_a_table_of_groups_names_clips_as_lists_do() -> None:
    clips, groups = read_groups(b"filename\tgroup\naudio/Yaaaaaaaaaaa.wav\tx\nown sound.wav\ty\n", "groups.tsv")
    assert clips.to_pylist() == ["aaaaaaaaaaa", "own sound"]
    assert groups.to_pylist() == ["x", "y"]


@pytest.mark.parametrize("text, place", [("clip_id\naaaaaaaaaaa\n", "group"), ("clip_id,group\na,\n", "line 2")])
def test_a_table_of_groups_without_groups_is_refused(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        read_groups(text.encode(), "groups.csv")


def test_groups_of_lists_and_tables_are_a_column(own: Path, tmp_path: Path) -> None:
    (own / "weak.csv").write_text('filename,labels,group\nmore.wav,"Music; Door",street\n')
    table = own / "groups.csv"
    table.write_text("filename,group\nb/other_1.wav,street\nbell_2.wav,tower\nnot there.wav,x\n")
    options = own_options(own) | {"group_paths": [table]}
    found = by_id(rows_of(own, tmp_path, **options))
    assert {name: row["group"] for name, row in found.items() if row["group"]} == {
        "more": "street", "other_1": "street", "bell_2": "tower"
    }  # fmt: skip
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)
    assert "group_not_given" not in {defect["what"] for defect in builder.raw_defects}
    table.write_text("filename,group\nmore.wav,home\n")
    with pytest.raises(ValueError, match="more has the groups 'street' and 'home'"):
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)

"""What clips are alike by comes from lists and tables of groups into the data set."""

import pytest

from hf_datasets.audioset.own_lists import read_groups, read_weak_list

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

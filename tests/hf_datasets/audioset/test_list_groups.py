"""Groups of clips come from lists and tables into the data set."""

from pathlib import Path

import pyarrow as pa
import pytest

from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.audioset.own_lists import read_groups, read_weak_list
from tests.helpers import prepared_data
from tests.helpers.raw_trees.audioset import by_id, own_options, rows_of, write_wav

HEAD = "clip_id,labels"


def test_a_list_may_have_a_group_for_some_of_its_rows() -> None:
    rows = f"{HEAD},group\naaaaaaaaaaa,/m/a, her \nbbbbbbbbbbb,/m/a,\n"
    assert read_weak_list(rows.encode(), "list.csv").groups.to_pylist() == ["her", None]
    assert read_weak_list(f"{HEAD}\naaaaaaaaaaa,/m/a\n".encode(), "list.csv").groups is None


def test_a_table_of_groups_names_clips_as_lists_do() -> None:
    table = read_groups(b"filename\tgroup\naudio/Yaaaaaaaaaaa.wav\tx\nown sound.wav\ty\n", "groups.tsv")
    assert table.clips_among(pa.array(["own sound", "aaaaaaaaaaa"])).to_pylist() == [1, 0]
    assert table.clips_among(pa.array(["bbbbbbbbbbb", "Yaaaaaaaaaaa"])).to_pylist() == [1, None]
    assert table.groups.to_pylist() == ["x", "y"]


@pytest.mark.parametrize("text, place", [("clip_id\naaaaaaaaaaa\n", "group"), ("clip_id,group\na,\n", "line 2")])
def test_a_table_of_groups_without_groups_is_refused(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        read_groups(text.encode(), "groups.csv")


def group_defects(builder: AudiosetBuilder) -> list[tuple[str, float, str]]:
    found = [one for one in builder.raw_defects if one["what"].startswith("group_")]
    return [(one["what"], one["how_much"], one["detail"]) for one in found]


FILES_LIKE_IDS = ("recording00_0", "recording00_30000", "recording01_0", "Yabcdefghijk", "abcdefghijk_10.0_20.0")


@pytest.mark.parametrize("names", [("filename", "filename"), ("filename", "clip_id"), ("segment_id", "filename")])
def test_files_named_like_ids_that_audioset_lacks_get_their_groups(tmp_path: Path, names: tuple[str, str]) -> None:
    of_list, of_table = names
    for name in FILES_LIKE_IDS if of_list == "filename" else FILES_LIKE_IDS[2:4]:
        write_wav(tmp_path / "own" / "audio" / f"{name}.wav")
    clips = FILES_LIKE_IDS if of_list == "filename" else FILES_LIKE_IDS[2:4]
    suffix = {"filename": ".wav", "clip_id": "", "segment_id": ""}
    rows = [f"{name}{suffix[of_list]},Music\n" for name in clips]
    (tmp_path / "own" / "weak.csv").write_text(f"{of_list},labels\n" + "".join(rows))
    rows = [f"{name}{suffix[of_table]},group {place}\n" for place, name in enumerate(clips)]
    (tmp_path / "own" / "groups.csv").write_text(f"{of_table},group\n" + "".join(rows))
    builder = AudiosetBuilder(
        cache_dir=str(tmp_path / "cache"),
        raw_dir=tmp_path / "own",
        audio_root=tmp_path / "own" / "audio",
        weak_paths=[tmp_path / "own" / "weak.csv"],
        group_paths=[tmp_path / "own" / "groups.csv"],
    )
    groups = [row["group"] for row in prepared_data.rows_of(builder)]
    assert groups == [f"group {place}" for place in range(len(clips))]
    assert group_defects(builder) == []


def test_a_table_of_groups_that_names_no_clip_is_counted_and_hides_nothing(own: Path, tmp_path: Path) -> None:
    table = own / "groups.csv"
    table.write_text("filename,group\n" + "".join(f"other {place}.wav,x\n" for place in range(7)))
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own) | {"group_paths": [table]})
    found = group_defects(builder)
    assert [(what, count) for what, count, _ in found] == [
        ("group_unmatched", 7),
        *([("group_not_given", count) for count in (1, 1, 2, 1)]),
    ]
    assert found[0][2] == f"{table}: " + "".join(f"other {place}, " for place in range(5)) + "..."


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
    assert group_defects(builder) == [
        ("group_unmatched", 1, f"{table}: not there"),
        *(
            ("group_not_given", 1, f"{own / name}: each of these clips counts as a recording of its own")
            for name in ("bell_train.tsv", "other.csv")
        ),
    ]
    table.write_text("filename,group\nmore.wav,home\n")
    with pytest.raises(ValueError, match="more has the groups 'street' and 'home'"):
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)

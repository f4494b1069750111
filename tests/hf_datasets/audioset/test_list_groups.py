"""Groups of clips, from lists and group tables to rows."""

from pathlib import Path

import pyarrow as pa
import pytest

from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.audioset.own_lists import read_groups, read_weak_list
from tests.helpers import prepared_data
from tests.helpers.raw_trees.audioset import by_id, own_options, rows_of, write_wav

HEAD = "clip_id,labels"


def test_a_list_may_give_groups_to_some_rows_only() -> None:
    rows = f"{HEAD},group\naaaaaaaaaaa,/m/a, her \nbbbbbbbbbbb,/m/a,\n"
    assert read_weak_list(rows.encode(), "list.csv").groups.to_pylist() == ["her", None]
    assert read_weak_list(f"{HEAD}\naaaaaaaaaaa,/m/a\n".encode(), "list.csv").groups is None


def test_a_group_table_names_clips_in_the_same_ways_as_a_list() -> None:
    table = read_groups(b"filename\tgroup\naudio/Yaaaaaaaaaaa.wav\tx\nown sound.wav\ty\n", "groups.tsv")
    assert table.match_clips(pa.array(["own sound", "aaaaaaaaaaa"])).to_pylist() == [1, 0]
    assert table.match_clips(pa.array(["bbbbbbbbbbb", "Yaaaaaaaaaaa"])).to_pylist() == [1, None]
    assert table.groups.to_pylist() == ["x", "y"]


@pytest.mark.parametrize("text, place", [("clip_id\naaaaaaaaaaa\n", "group"), ("clip_id,group\na,\n", "line 2")])
def test_a_group_table_without_groups_is_refused(text: str, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        read_groups(text.encode(), "groups.csv")


def group_defects(builder: AudiosetBuilder) -> list[tuple[str, float, str]]:
    defects = [defect for defect in builder.raw_defects if defect["what"].startswith("group_")]
    return [(defect["what"], defect["how_much"], defect["detail"]) for defect in defects]


FILES_LIKE_IDS = ("recording00_0", "recording00_30000", "recording01_0", "Yabcdefghijk", "abcdefghijk_10.0_20.0")


@pytest.mark.parametrize("names", [("filename", "filename"), ("filename", "clip_id"), ("segment_id", "filename")])
def test_files_named_like_ids_that_audioset_lacks_get_their_groups(tmp_path: Path, names: tuple[str, str]) -> None:
    list_column, table_column = names
    clips = FILES_LIKE_IDS if list_column == "filename" else FILES_LIKE_IDS[2:4]
    for name in clips:
        write_wav(tmp_path / "own" / "audio" / f"{name}.wav")
    suffix = {"filename": ".wav", "clip_id": "", "segment_id": ""}
    rows = [f"{name}{suffix[list_column]},Music\n" for name in clips]
    (tmp_path / "own" / "weak.csv").write_text(f"{list_column},labels\n" + "".join(rows))
    rows = [f"{name}{suffix[table_column]},group {number}\n" for number, name in enumerate(clips)]
    (tmp_path / "own" / "groups.csv").write_text(f"{table_column},group\n" + "".join(rows))
    builder = AudiosetBuilder(
        cache_dir=str(tmp_path / "cache"),
        raw_dir=tmp_path / "own",
        audio_root=tmp_path / "own" / "audio",
        weak_paths=[tmp_path / "own" / "weak.csv"],
        group_paths=[tmp_path / "own" / "groups.csv"],
    )
    groups = [row["group"] for row in prepared_data.rows_of(builder)]
    assert groups == [f"group {number}" for number in range(len(clips))]
    assert group_defects(builder) == []


def test_unmatched_rows_of_a_group_table_are_counted_and_clips_still_lack_a_group(own: Path, tmp_path: Path) -> None:
    table = own / "groups.csv"
    table.write_text("filename,group\n" + "".join(f"other {number}.wav,x\n" for number in range(7)))
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own) | {"group_paths": [table]})
    defects = group_defects(builder)
    assert [(what, count) for what, count, _ in defects] == [
        ("group_unmatched", 7),
        *([("group_not_given", count) for count in (1, 1, 2, 1)]),
    ]
    assert defects[0][2] == f"{table}: " + "".join(f"other {number}, " for number in range(5)) + "..."


def test_rows_have_the_groups_of_lists_and_group_tables(own: Path, tmp_path: Path) -> None:
    (own / "weak.csv").write_text('filename,labels,group\nmore.wav,"Music; Door",street\n')
    table = own / "groups.csv"
    table.write_text("filename,group\nb/other_1.wav,street\nbell_2.wav,tower\nnot there.wav,x\n")
    options = own_options(own) | {"group_paths": [table]}
    rows = by_id(rows_of(own, tmp_path, **options))
    assert {name: row["group"] for name, row in rows.items() if row["group"]} == {
        "more": "street", "other_1": "street", "bell_2": "tower"
    }  # fmt: skip
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)
    assert [(what, count, detail.split(":")[0]) for what, count, detail in group_defects(builder)] == [
        ("group_unmatched", 1, str(table)),
        *(("group_not_given", 1, str(own / name)) for name in ("bell_train.tsv", "other.csv")),
    ]
    table.write_text("filename,group\nmore.wav,home\n")
    with pytest.raises(ValueError, match=r"groups\.csv: .*\bmore\b.*'street'.*'home'"):
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options)

"""People's own lists are read and become data sets, and what does not fit is named with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.audioset.own_lists import read_lists, read_strong_list, read_weak_list
from tests.helpers.raw_trees.audioset import (
    CRY,
    LABELS,
    MUSIC,
    SPEECH,
    TONE,
    WHIMPER,
    by_id,
    complaint,
    own_options,
    rows_of,
)

IDS = st.text("abcXYZ019_-", min_size=11, max_size=11)
NAMES = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters=" ,_-()"), min_size=1, max_size=20
)
EVENTS = st.tuples(IDS, st.integers(0, 10**6), st.integers(0, 9000), st.integers(1, 1000))


@given(st.lists(EVENTS, min_size=1, max_size=20), st.sampled_from(["\t", ","]), st.sampled_from(["\n", "\r\n"]))
def test_a_list_of_events_comes_back_as_it_was_written(written, separator, end):
    lines = [separator.join(["segment_id", "start_time_seconds", "end_time_seconds", "label"])]
    lines += [f"{i}_{ms},{a / 1e3},{(a + n) / 1e3},/m/x".replace(",", separator) for i, ms, a, n in written]
    read = read_strong_list((end.join(lines) + end).encode(), "list.tsv")
    assert read.ytids.to_pylist() == [i for i, *_ in written]
    assert read.start.tolist() == [ms / 1e3 for _, ms, _, _ in written]
    assert list(zip(read.event_start, read.event_end, strict=True)) == [
        (a / 1e3, (a + n) / 1e3) for _, _, a, n in written
    ]
    assert read.texts.to_pylist() == ["/m/x"] * len(written)
    assert read.present.all()
    assert not read.files


@given(st.lists(st.tuples(IDS, st.lists(NAMES.map(str.strip).filter(bool), min_size=1, max_size=4)), min_size=1))
def test_a_weak_list_comes_back_as_it_was_written(written):
    text = "YTID,start_seconds,end_seconds,positive_labels\n"
    text += "".join(f'{ytid},30.0,40.0,"{"; ".join(names)}"\n' for ytid, names in written)
    read = read_weak_list(text.encode(), "list.csv")
    assert read.ytids.to_pylist() == [ytid for ytid, _ in written]
    assert read.texts.to_pylist() == [name for _, names in written for name in names]
    assert read.label_rows.tolist() == [row for row, (_, names) in enumerate(written) for _ in names]
    assert set(read.start) == {30.0}
    assert set(read.end) == {40.0}


def test_weak_labels_are_mids_with_commas_or_names_with_semicolons():
    rows = 'ytid,labels\naaaaaaaaaaa,"/m/a,/m/b"\nbbbbbbbbbbb,"Baby cry, infant cry; Speech"\nccccccccccc,/m/c\n'
    read = read_weak_list(rows.encode(), "list.csv")
    assert read.texts.to_pylist() == ["/m/a", "/m/b", "Baby cry, infant cry", "Speech", "/m/c"]
    assert read.label_rows.tolist() == [0, 0, 1, 1, 2]


def test_a_weak_list_may_have_the_official_format():
    text = '# Segments csv\n# num_ytids=1, num_segs=1\n# YTID\n--PJHxphWEs, 30.000, 40.000, "/m/a,/m/b"\n'
    read = read_weak_list(text.encode(), "list.csv")
    assert read.ytids.to_pylist() == ["--PJHxphWEs"]
    assert read.texts.to_pylist() == ["/m/a", "/m/b"]
    assert read.line(0) == "list.csv line 4"


@pytest.mark.parametrize(
    ("clip", "stem", "ytid", "path"),
    [
        ("Yaaaaaaaaaaa_30.000_40.000.wav", "Yaaaaaaaaaaa_30.000_40.000", "aaaaaaaaaaa", None),  # DESED
        ("a/b/bell.1.OGG", "bell.1", None, "a/b/bell.1.OGG"),
        ("bell", "bell", None, None),
        ("my_own_file_200.wav", "my_own_file_200", "my_own_file", None),  # an id only where AudioSet has that clip
    ],
)
def test_files_are_named_by_their_stem(clip, stem, ytid, path):
    read = read_strong_list(f"filename\tonset\toffset\tevent_label\n{clip}\t0\t1\tBell\n".encode(), "list.tsv")
    assert (read.files, read.stems.to_pylist(), read.ytids.to_pylist()) == (True, [stem], [ytid])
    assert read.paths.to_pylist() == [path]
    assert read.texts.to_pylist() == ["Bell"]


def test_presence_is_read_and_positives_need_no_label():
    text = "segment_id\tstart\tend\tpresent\naaaaaaaaaaa_0\t0\t1\tPRESENT\naaaaaaaaaaa_0\t1\t2\tNOT_PRESENT\n"
    read = read_strong_list(text.encode(), "list.tsv")
    assert read.present.tolist() == [True, False]
    assert not len(read.texts)


HEAD = "segment_id\tstart\tend\tlabel\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\n", "line 2: 3 cells, where the header has 4"),
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\tx\n\naaaaaaaaaaa_0\t0\t1\tx\n", "line 3: "),
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\tx\naaaaaaaaaaa_0\tzero\t1\tx\n", "line 3: 'zero' is no number"),
        (f"{HEAD}aaaaaaaaaaa_0\t2\t1\tx\n", "line 2: the event lasts from 2.0 to 1.0 s"),
        (f"{HEAD}aaaaaaaaaaa_0\t0\tnan\tx\n", "line 2: the event lasts from 0.0 to nan s"),
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\t \n", "line 2: there is no label"),
        (f"{HEAD}\t0\t1\tx\n", "line 2: there is no clip"),
        (HEAD, "has no rows below its header"),
        ("name\tstart\tend\tlabel\nx\t0\t1\ty\n", "needs one of segment_id, clip_id, ytid, filename, path"),
        ("segment_id\tfrom\tend\tlabel\nx\t0\t1\ty\n", "needs one of start_time_seconds"),
        ("segment_id\tstart\tend\tpresent\nx\t0\t1\tMAYBE\n", "line 2: present is 'MAYBE'"),
        ("", "is no table of texts"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_with_its_line(text, message):
    with pytest.raises(ValueError, match=f"list.tsv.*{message}"):
        read_strong_list(text.encode(), "list.tsv")
    if "\tlabel" in text.split("\n")[0]:
        with pytest.raises(ValueError, match=f"list.tsv.*{message}"):
            read_strong_list(text.encode(), "list.tsv", kind="neg_strong")


def test_negatives_need_a_label_and_text_has_to_be_text():
    with pytest.raises(ValueError, match="needs one of label, event_label"):
        read_strong_list(b"segment_id\tstart\tend\nx\t0\t1\n", "list.tsv", kind="neg_strong")
    with pytest.raises(ValueError, match="list.csv line 2 is not UTF-8"):
        read_weak_list(b"ytid,labels\n\xff\xfe,x\n", "list.csv")


def test_the_name_of_a_list_says_its_split_and_the_digest_covers_all(tmp_path):
    names = {"cry_eval.tsv": True, "EVAL-strong.tsv": True, "evaluate_train.tsv": False, "medieval.tsv": False}
    for name in names:
        (tmp_path / name).write_text(f"{HEAD}aaaaaaaaaaa_0\t0\t1\tx\n")
    paths = [str(tmp_path / name) for name in names]
    read = read_lists({"pos_strong": paths})
    assert [one.in_eval for one in read.lists] == list(names.values())
    digests = {read.digest, read_lists({"neg_strong": paths}).digest, read_lists({"pos_strong": paths[:3]}).digest}
    (tmp_path / "medieval.tsv").write_text(f"{HEAD}aaaaaaaaaaa_0\t0\t2\tx\n")
    assert len(digests | {read_lists({"pos_strong": paths}).digest}) == 4
    with pytest.raises(ValueError, match="--weak_paths .*none.csv: No such file"):
        read_lists({"weak": [str(tmp_path / "none.csv")]})


# Data sets of them


def test_lists_alone_make_a_data_set_of_any_target(own, tmp_path):
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own))
    without_groups = ["group_not_given"] * 4  # one for each list
    assert [defect["what"] for defect in builder.raw_defects] == ["missing_table", "own_label", *without_groups]
    names = builder.features["labels"].feature.names
    assert names == ["my bell", "Speech", "Door", "Music"]
    assert builder.tree.target == ["my bell"]
    found = by_id(rows_of(own, tmp_path, **own_options(own)))
    assert list(found) == ["bell_1", "other_1", "other_2", "more", "bell_2"]  # eval comes last
    assert [row["subset"] for row in found.values()] == ["list"] * 4 + ["eval"]
    assert all(row["audio"] and not row["defects"] for row in found.values())
    assert [(e["label"], e["start_seconds"]) for e in found["bell_1"]["events"]] == [(0, 0.5), (0, 1.5)]
    assert [row["strongly_labelled"] for row in found.values()] == [True, True, True, False, True]
    assert [names[code] for code in found["more"]["labels"]] == ["Music", "Door"]


def test_lists_beside_the_tables_add_to_them(raw, own, tmp_path):
    (own / "weak.csv").write_text('ytid,labels\n-found_dash,"Whimper; Music"\nbrand_new_1,Door\n')
    (own / "other.csv").write_text("segment_id,start,end,label\n_under_scor_30000,0,1,Speech\n")
    options = own_options(own) | {"raw_dir": raw / "metadata", "audio_root": raw / "audio", "target": [CRY]}
    options["pos_strong_paths"] = []
    found = by_id(rows_of(raw, tmp_path, **options))
    names = [*LABELS, TONE, "Door"]
    assert [names[code] for code in found["-found_dash"]["labels"]] == [SPEECH, MUSIC, WHIMPER]
    assert (found["-found_dash"]["subset"], found["brand_new_1"]["subset"]) == ("unbalanced_train", "list")
    assert found["_under_scor"]["strongly_labelled"]
    assert names[found["_under_scor"]["events"][0]["label"]] == SPEECH


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("bell_train.tsv", "filename\tonset\toffset\tlabel\nx\t0\t1\tSpeech\n", "line 2: 'Speech' is not the target"),
        (
            "other.csv",
            "filename,onset,offset,label\nx,0,1,my bell\n",
            "line 2: 'my bell' is the target, in a list of neg",
        ),
        (
            "bell_train.tsv",
            "filename\tonset\toffset\nbell_2.wav\t0\t1\n",
            "is for training and holds 1 clip of the eval",
        ),
        ("weak.csv", "filename,labels\nbell_2.wav,Music\n", "weak.csv is for training and holds 1 clip of the eval"),
        (
            "other.csv",
            "path,start,end,label\na/x.wav,0,1,D\nb/x.wav,0,1,D\n",
            "line 3: b/x.wav has the name of a/x.wav",
        ),
    ],
)
def test_lists_that_contradict_are_refused(own, tmp_path, file, text, message):
    (own / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own))


def test_an_id_of_the_official_eval_table_in_a_list_for_training_is_refused(raw, own, tmp_path):
    (own / "cries.tsv").write_text("segment_id\tstart\tend\nmuch_longer_30000\t0\t1\n")
    said = complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv", "--target", CRY)
    assert "cries.tsv is for training and holds 1 clip of the eval split, such as much_longer" in said
    said = complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv")
    assert "cries.tsv is for training" in said
    (own / "cries.tsv").write_text("segment_id\tstart\tend\nfound_plain_30000\t0\t1\n")
    assert "say which, as --target" in complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv")

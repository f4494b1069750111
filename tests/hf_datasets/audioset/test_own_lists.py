"""The user's own lists become data sets, and malformed rows are reported with their line."""

import re

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
def test_a_list_of_events_survives_a_round_trip(written, separator, end):
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
def test_a_weak_list_survives_a_round_trip(written):
    text = "YTID,start_seconds,end_seconds,positive_labels\n"
    text += "".join(f'{ytid},30.0,40.0,"{"; ".join(names)}"\n' for ytid, names in written)
    read = read_weak_list(text.encode(), "list.csv")
    assert read.ytids.to_pylist() == [ytid for ytid, _ in written]
    assert read.texts.to_pylist() == [name for _, names in written for name in names]
    assert read.label_rows.tolist() == [row for row, (_, names) in enumerate(written) for _ in names]
    assert set(read.start) == {30.0}
    assert set(read.end) == {40.0}


def test_weak_labels_are_mids_separated_by_commas_or_names_separated_by_semicolons():
    rows = f'ytid,labels\naaaaaaaaaaa,"/m/a,/m/b"\nbbbbbbbbbbb,"{LABELS[CRY]}; Speech"\nccccccccccc,/m/c\n'
    read = read_weak_list(rows.encode(), "list.csv")
    assert read.texts.to_pylist() == ["/m/a", "/m/b", LABELS[CRY], "Speech", "/m/c"]  # LABELS[CRY] has a comma
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
        ("my_own_file_200.wav", "my_own_file_200", "my_own_file", None),  # counts as an id only if AudioSet has it
    ],
)
def test_a_clip_is_identified_by_the_stem_of_its_file(clip, stem, ytid, path):
    read = read_strong_list(f"filename\tonset\toffset\tevent_label\n{clip}\t0\t1\tBell\n".encode(), "list.tsv")
    assert (read.files, read.stems.to_pylist(), read.ytids.to_pylist()) == (True, [stem], [ytid])
    assert read.paths.to_pylist() == [path]
    assert read.texts.to_pylist() == ["Bell"]


def test_lists_of_positives_may_have_presence_but_no_label():
    text = "segment_id\tstart\tend\tpresent\naaaaaaaaaaa_0\t0\t1\tPRESENT\naaaaaaaaaaa_0\t1\t2\tNOT_PRESENT\n"
    read = read_strong_list(text.encode(), "list.tsv")
    assert read.present.tolist() == [True, False]
    assert not len(read.texts)


HEAD = "segment_id\tstart\tend\tlabel\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\n", r"line 2: 3 cells\b.*\b4\b"),
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\tx\n\naaaaaaaaaaa_0\t0\t1\tx\n", "line 3: "),
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\tx\naaaaaaaaaaa_0\tzero\t1\tx\n", "line 3: 'zero'"),
        (f"{HEAD}aaaaaaaaaaa_0\t2\t1\tx\n", "line 2: .*2.0 to 1.0 s"),
        (f"{HEAD}aaaaaaaaaaa_0\t0\tnan\tx\n", "line 2: .*0.0 to nan s"),
        (f"{HEAD}aaaaaaaaaaa_0\t0\t1\t \n", "line 2: label"),
        (f"{HEAD}\t0\t1\tx\n", "line 2: clip"),
        (HEAD, "no rows"),
        ("name\tstart\tend\tlabel\nx\t0\t1\ty\n", "segment_id or clip_id or ytid or filename or path"),
        ("segment_id\tfrom\tend\tlabel\nx\t0\t1\ty\n", "start_time_seconds or start_time or start or onset"),
        ("segment_id\tstart\tend\tpresent\nx\t0\t1\tMAYBE\n", "line 2: present='MAYBE'"),
        ("", "line 1: "),
    ],
)
def test_a_malformed_list_is_refused_with_its_line(text, message):
    with pytest.raises(ValueError, match=f"list.tsv.*{message}"):
        read_strong_list(text.encode(), "list.tsv")
    if "\tlabel" in text.split("\n")[0]:
        with pytest.raises(ValueError, match=f"list.tsv.*{message}"):
            read_strong_list(text.encode(), "list.tsv", kind="neg_strong")


def test_lists_of_negatives_need_labels_and_all_lists_need_utf8():
    with pytest.raises(ValueError, match="list.tsv: .*label or event_label"):
        read_strong_list(b"segment_id\tstart\tend\nx\t0\t1\n", "list.tsv", kind="neg_strong")
    with pytest.raises(ValueError, match=r"list.csv line 2\b.*UTF-8"):
        read_weak_list(b"ytid,labels\n\xff\xfe,x\n", "list.csv")


def test_the_name_of_a_list_decides_its_split_and_the_digest_covers_all_lists(tmp_path):
    names = {"cry_eval.tsv": True, "EVAL-strong.tsv": True, "evaluate_train.tsv": False, "medieval.tsv": False}
    for name in names:
        (tmp_path / name).write_text(f"{HEAD}aaaaaaaaaaa_0\t0\t1\tx\n")
    paths = [str(tmp_path / name) for name in names]
    read = read_lists({"pos_strong": paths})
    assert [one.in_eval for one in read.lists] == list(names.values())
    digests = {read.digest, read_lists({"neg_strong": paths}).digest, read_lists({"pos_strong": paths[:3]}).digest}
    (tmp_path / "medieval.tsv").write_text(f"{HEAD}aaaaaaaaaaa_0\t0\t2\tx\n")
    assert len(digests | {read_lists({"pos_strong": paths}).digest}) == 4
    with pytest.raises(ValueError, match=r"--weak_paths .*none\.csv"):
        read_lists({"weak": [str(tmp_path / "none.csv")]})


# From lists to rows


def test_lists_alone_make_a_data_set_for_any_target(own, tmp_path):
    builder = AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own))
    without_groups = ["group_not_given"] * 4  # one per list
    assert [defect["what"] for defect in builder.raw_defects] == ["missing_table", "own_label", *without_groups]
    names = builder.features["labels"].feature.names
    assert names == ["my bell", "Speech", "Door", "Music"]
    assert builder.tree.target == ["my bell"]
    rows = by_id(rows_of(own, tmp_path, **own_options(own)))
    assert list(rows) == ["bell_1", "other_1", "other_2", "more", "bell_2"]  # eval comes last
    assert [row["subset"] for row in rows.values()] == ["list"] * 4 + ["eval"]
    assert all(row["audio"] and not row["defects"] for row in rows.values())
    assert [(e["label"], e["start_seconds"]) for e in rows["bell_1"]["events"]] == [(0, 0.5), (0, 1.5)]
    assert [row["strongly_labelled"] for row in rows.values()] == [True, True, True, False, True]
    assert [names[code] for code in rows["more"]["labels"]] == ["Music", "Door"]


def test_lists_add_labels_events_and_clips_to_the_official_tables(raw, own, tmp_path):
    (own / "weak.csv").write_text('ytid,labels\n-found_dash,"Whimper; Music"\nbrand_new_1,Door\n')
    (own / "other.csv").write_text("segment_id,start,end,label\n_under_scor_30000,0,1,Speech\n")
    options = own_options(own) | {"raw_dir": raw / "metadata", "audio_root": raw / "audio", "target": [CRY]}
    options["pos_strong_paths"] = []
    rows = by_id(rows_of(raw, tmp_path, **options))
    names = [*LABELS, TONE, "Door"]
    assert [names[code] for code in rows["-found_dash"]["labels"]] == [SPEECH, MUSIC, WHIMPER]
    assert (rows["-found_dash"]["subset"], rows["brand_new_1"]["subset"]) == ("unbalanced_train", "list")
    assert rows["_under_scor"]["strongly_labelled"]
    assert names[rows["_under_scor"]["events"][0]["label"]] == SPEECH


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("bell_train.tsv", "filename\tonset\toffset\tlabel\nx\t0\t1\tSpeech\n", "line 2: label='Speech'"),
        ("other.csv", "filename,onset,offset,label\nx,0,1,my bell\n", "line 2: label='my bell'"),
        ("bell_train.tsv", "filename\tonset\toffset\nbell_2.wav\t0\t1\n", r"1 clip\b.*\bbell_2\b.*bell_eval\.tsv"),
        ("weak.csv", "filename,labels\nbell_2.wav,Music\n", r"1 clip\b.*\bbell_2\b.*bell_eval\.tsv"),
        ("other.csv", "path,start,end,label\na/x.wav,0,1,D\nb/x.wav,0,1,D\n", r"line 3: b/x\.wav .*a/x\.wav"),
    ],
)
def test_contradicting_lists_are_refused(own, tmp_path, file, text, message):
    (own / file).write_text(text)
    with pytest.raises(ValueError, match=rf"{file}\b.*{message}"):
        AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **own_options(own))


def test_a_list_for_training_must_not_have_ids_of_the_official_eval_table(raw, own, tmp_path):
    (own / "cries.tsv").write_text("segment_id\tstart\tend\nmuch_longer_30000\t0\t1\n")
    for target in (["--target", CRY], []):
        message = complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv", *target)
        assert re.search(r"cries\.tsv: .*\b1 clip\b.*much_longer.*eval_segments\.csv", message)
    (own / "cries.tsv").write_text("segment_id\tstart\tend\nfound_plain_30000\t0\t1\n")
    message = complaint("--raw_dir", raw / "metadata", "--pos_strong", own / "cries.tsv")
    assert re.search(r"cries\.tsv: .*--target", message)

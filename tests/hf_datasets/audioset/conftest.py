"""Fixtures: raw files of AudioSet, and of a user's own lists."""

from pathlib import Path

import pytest

from tests.helpers.raw_trees.audioset import CRY, FATES, MUSIC, PART, SPEECH, weak_table, write_tables, write_wav


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Write `metadata` and `audio`: ten unbalanced clips, one balanced clip, one eval clip (see FATES)."""
    root = tmp_path / "raw"
    metadata, audio = root / "metadata", root / "audio"
    write_tables(metadata)
    ids = list(FATES)
    rows = [(ytid, 30.0, [SPEECH, MUSIC] if i % 2 else [CRY]) for i, ytid in enumerate(ids)]
    tables = {"unbalanced_train": rows[:10], "balanced_train": rows[10:11], "eval": rows[11:]}
    for subset, of_subset in tables.items():
        (metadata / f"{subset}_segments.csv").write_text(weak_table(of_subset))
    for ytid in ids[:10]:
        write_wav(audio / PART / f"Y{ytid}.wav")
    write_wav(audio / PART / "Ystereo48kHz.wav", rate=48000, channels=2)
    cut = audio / PART / "Ycut_off_wav.wav"
    cut.write_bytes(cut.read_bytes()[: 8000 * 2])
    (audio / "eval_segments").mkdir()
    (audio / PART / "Ywrong_place.wav").rename(audio / "eval_segments" / "Ywrong_place.wav")
    write_wav(audio / PART / "twice_there.flac")
    (audio / PART / "Ymissing_one.wav").unlink()
    (audio / PART / "Yzero_bytes_.wav").write_bytes(b"")
    (audio / PART / "Ya_folder_is.wav").unlink()
    (audio / PART / "Ya_folder_is.wav").mkdir()
    (audio / "balanced_train_segments").mkdir()
    (audio / "balanced_train_segments" / "Yno_sound_at.wav").write_bytes(b"not a sound" * 50)
    write_wav(audio / "eval_segments" / "Ymuch_longer.wav", seconds=3.0)
    return root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Write sounds and lists of a bell, a label that AudioSet does not have."""
    root = tmp_path / "own"
    for name in ("a/bell_1.wav", "a/bell_2.wav", "b/other_1.wav", "b/other_2.wav", "c/more.wav"):
        write_wav(root / "audio" / name)
    (root / "bell_train.tsv").write_text("filename\tonset\toffset\na/bell_1.wav\t0.5\t1\na/bell_1.wav\t1.5\t1.75\n")
    (root / "bell_eval.tsv").write_text("filename\tonset\toffset\tlabel\nbell_2.wav\t0.5\t1\tmy bell\n")
    (root / "other.csv").write_text("path,start,end,label\nb/other_1.wav,0,1,Speech\nb/other_2.wav,0,2,Door\n")
    (root / "weak.csv").write_text('filename,labels\nmore.wav,"Music; Door"\n')
    return root

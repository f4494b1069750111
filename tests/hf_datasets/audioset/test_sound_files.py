"""Sound files are matched to clips in every naming scheme, and ranked if a clip has several."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_datasets.audioset.sound_files import FOLDER, SUBSETS, Inventory, Wanted, list_sounds, match_sounds
from hf_datasets.raw_files import RawFolder

IDS = st.text("abcYXZ019_-", min_size=11, max_size=11)
SCHEMES = {
    "Y": "Y{id}",
    "id": "{id}",
    "times": "{id}_{start:.3f}_{end:.3f}",
    "Y times": "Y{id}_{start:.3f}_{end:.3f}",
    "whole seconds": "{id}_{start:.0f}_{end:.0f}",
    "segment": "{id}_{ms}",
    "Y segment": "Y{id}_{ms}",
}


def inventory(paths: list[str], sizes: list[int] | None = None) -> Inventory:
    """Return an inventory in the form of `list_sounds`."""
    sizes = sizes or [1000] * len(paths)
    split_paths = sorted((path.rpartition("/")[0] + "/" * ("/" in path), path.rpartition("/")[2]) for path in paths)
    by_path = dict(zip(paths, sizes, strict=True))
    folders = tuple(sorted({folder for folder, _ in split_paths}))
    return Inventory(
        "/sounds",
        folders,
        np.array([folders.index(folder) for folder, _ in split_paths], np.int32),
        pa.array([name for _, name in split_paths], pa.string()),
        np.array([by_path[folder + name] for folder, name in split_paths], np.int64),
        RawFolder("/sounds", {}),
    )


def wanted(ids: list[str], start: float = 30.0, subset: str = "unbalanced_train", part: int = 0) -> Wanted:
    count = len(ids)
    return Wanted(
        pa.array(ids, pa.string()),
        np.full(count, start),
        np.full(count, SUBSETS.index(subset), np.int8),
        np.full(count, part if subset == "unbalanced_train" else -1, np.int16),
    )


def matched(paths: list[str], clips: Wanted, sizes: list[int] | None = None) -> list[list[str]]:
    """Return the paths of each clip's files, best first."""
    files = inventory(paths, sizes)
    matches = match_sounds(files, clips)
    matched_paths = files.paths(matches.file).to_pylist()
    return [[matched_paths[i] for i in np.flatnonzero(matches.row == row)] for row in range(len(clips.ids))]


@given(
    st.lists(IDS, min_size=1, max_size=20, unique=True),
    st.sampled_from(sorted(SCHEMES)),
    st.sampled_from(["wav", "flac", "ogg", "opus", "mp3", "WAV"]),
    st.integers(0, 40),
)
def test_any_id_is_recognized_in_every_naming_scheme(ids, scheme, suffix, start):
    names = [SCHEMES[scheme].format(id=i, start=start, end=start + 10, ms=start * 1000) for i in ids]
    paths = [f"some/{name}.{suffix}" for name in names]
    assert matched(paths, wanted(ids, float(start))) == [[path] for path in paths]


@given(st.lists(IDS, min_size=2, max_size=20, unique=True), st.data())
def test_a_missing_file_does_not_affect_other_clips(ids, data):
    present = data.draw(st.lists(st.sampled_from(ids), unique=True))
    paths = matched([f"Y{i}.wav" for i in present] or ["Ynone.wav"], wanted(ids))
    assert paths == [[f"Y{i}.wav"] if i in present else [] for i in ids]


def test_a_file_of_another_excerpt_or_of_no_clip_is_unclaimed():
    names = ["aaaaaaaaaaa_40.000_50.000.wav", "Yaaaaaaaaaa_40000.wav", "short.wav", "Ybbbbbbbbbbb.wav"]
    matches = match_sounds(inventory(names), wanted(["aaaaaaaaaaa"], 30.0))
    assert not len(matches.row)
    assert len(matches.unclaimed) == 4
    assert matched(["aaaaaaaaaaa_30_40.wav"], wanted(["aaaaaaaaaaa"], 30.4)) == [["aaaaaaaaaaa_30_40.wav"]]  # rounded


def test_several_files_are_ranked_by_size_folder_format_and_path():
    home, other = "unbalanced_train_segments/unbalanced_train_segments_part00/", "eval_segments/"
    names = [
        f"{home}Yaaaaaaaaaaa.mp3",
        f"{home}aaaaaaaaaaa.mp3",
        f"{other}Yaaaaaaaaaaa.wav",
        f"{home}Yaaaaaaaaaaa.wav",
    ]
    clips = wanted(["aaaaaaaaaaa"])
    assert matched(names, clips) == [[names[3], names[0], names[1], names[2]]]
    assert matched(names, clips, [1000, 1000, 1000, 43]) == [[names[0], names[1], names[2], names[3]]]
    assert matched(names[3:], clips, [FOLDER]) == [names[3:]]
    assert matched(names, clips) == matched(names[::-1], clips)


@pytest.mark.parametrize(
    ("folder", "misplaced"),
    [
        ("x/unbalanced_train_segments/unbalanced_train_segments_part03/", False),
        ("unbalanced_train_segments_part04/", True),
        ("eval_segments/", True),
        ("unbalanced_train_segments/", False),
        ("elsewhere/", False),
    ],
)
def test_a_file_in_the_folder_of_another_subset_or_part_is_misplaced(folder, misplaced):
    matches = match_sounds(inventory([f"{folder}Yaaaaaaaaaaa.wav"]), wanted(["aaaaaaaaaaa"], part=3))
    assert matches.misplaced.tolist() == [misplaced]
    assert matches.usable.all()


def test_the_name_of_a_users_own_file_is_its_id():
    clips = wanted(["my_own_file_200", "a bell"], start=float("nan"), subset="list")
    assert matched(["x/my_own_file_200.wav", "a bell.ogg", "my_own_file.wav"], clips) == [
        ["x/my_own_file_200.wav"],
        ["a bell.ogg"],
    ]


def test_a_clip_with_a_path_in_a_list_matches_only_that_path():
    paths = pa.array(["there/a.wav", "nowhere/b.wav", None], pa.string())
    clips = wanted(["a", "b", "c"], start=float("nan"), subset="list")
    clips = Wanted(clips.ids, clips.start_seconds, clips.subset, clips.part, paths)
    assert matched(["here/a.wav", "there/a.wav", "here/b.wav", "here/c.wav"], clips) == [
        ["there/a.wav"],
        [],
        ["here/c.wav"],
    ]


def test_listing_sorts_follows_links_once_and_leaves_hidden_files_out(tmp_path: Path):
    for name in ("b/Y1.wav", "a/deep/Y2.flac", "a/notes.txt", ".hidden/Y3.wav", "a/.Y4.wav", "top.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "a" / "Yfolder.wav").mkdir()
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "nothing", tmp_path / "b" / "broken.ogg")
    sounds = list_sounds(str(tmp_path), "folder of sounds", "--audio_root")
    paths = sounds.paths(np.arange(len(sounds))).to_pylist()
    assert paths == ["top.mp3", "a/Yfolder.wav", "a/deep/Y2.flac", "b/Y1.wav", "b/broken.ogg"]
    assert sounds.sizes.tolist() == [7, FOLDER, 14, 8, 0]
    assert list(sounds.other_files.files) == ["a/notes.txt"]


def test_the_digest_covers_names_and_sizes_but_not_the_location(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder / "a").mkdir(parents=True)
        (tmp_path / folder / "a" / "Y1.wav").write_bytes(b"123")

    def digest(folder: str) -> str:
        return list_sounds(str(tmp_path / folder), "", "--audio_root").digest()

    first = digest("one")
    assert first == digest("two")
    (tmp_path / "two" / "a" / "Y1.wav").write_bytes(b"1234")
    assert digest("two") != first
    (tmp_path / "one" / "a" / "Y1.wav").rename(tmp_path / "one" / "a" / "Y2.wav")
    assert digest("one") != first


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_location_that_is_not_a_folder_is_refused(tmp_path: Path, name: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"--audio_root=.*/{name}: .*folder of sounds"):
        list_sounds(str(tmp_path / name), "folder of sounds", "--audio_root")

"""Splits: no id is in two splits, and new ids move no other."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.splits import DROPPED, SIDES, SPLIT_BY, Split, SplitSettings, id_hash, split_trials

SONGS, LISTENERS = [f"{n}" for n in range(40)], [f"{100000 + n}" for n in range(25)]


def split_grid(songs: list[str], listeners: list[str], **settings: object) -> Split:
    """Split trials of every song with every listener; each artist has two songs."""
    pairs = list(itertools.product(songs, listeners))
    return split_trials(
        [song for song, _ in pairs],
        [listener for _, listener in pairs],
        ["0"] * len(pairs),
        [f"artist {int(song) // 2}" for song, _ in pairs],
        SplitSettings(**settings),
    )


def sides_of(split: Split, part: int) -> dict[str, set[int]]:
    """Return the splits of each id; part 0 is the song, 1 the listener."""
    sides: dict[str, set[int]] = {}
    for trial, side in zip(split.trials, split.sides, strict=True):
        if side != DROPPED:
            sides.setdefault(trial.split("/")[part], set()).add(int(side))
    return sides


@pytest.mark.parametrize("folds", [0, 3, 5])
@pytest.mark.parametrize(
    ("split_by", "parts"), [("song", [0]), ("artist", [0]), ("listener", [1]), ("song_listener", [0, 1])]
)
def test_no_id_is_in_two_splits(split_by: str, parts: list[int], folds: int) -> None:
    split = split_grid(SONGS, LISTENERS, split_by=split_by, folds=folds)
    assert all(len(split.indices(side)) for side in SIDES)
    for part in parts:
        assert all(len(sides) == 1 for sides in sides_of(split, part).values())


def test_an_artist_is_in_one_split() -> None:
    split = split_grid(SONGS, LISTENERS[:1], split_by="artist")
    sides = sides_of(split, 0)
    assert all(sides[str(n)] == sides[str(n + 1)] for n in range(0, len(SONGS), 2))


def test_case_and_spaces_do_not_separate_artists() -> None:
    for seed in range(20):
        split = split_trials(
            ["1", "2"], ["a", "a"], ["0", "0"], ["The  Band", "the band "], SplitSettings("artist", split_seed=seed)
        )
        assert split.sides[0] == split.sides[1]


def test_song_listener_drops_exactly_the_trials_between_splits() -> None:
    both = split_grid(SONGS, LISTENERS, split_by="song_listener")
    song, listener = split_grid(SONGS, LISTENERS), split_grid(SONGS, LISTENERS, split_by="listener")
    assert both.dropped == int((song.sides != listener.sides).sum()) > 0
    assert both.record()["counts"]["dropped"] == both.dropped
    assert sum(both.record()["counts"].values()) == len(SONGS) * len(LISTENERS)


def test_the_held_out_listener_is_the_whole_test_split() -> None:
    split = split_grid(SONGS, LISTENERS, split_by="leave_one_listener_out", held_out_listener="100003")
    assert {split.trials[i].split("/")[1] for i in split.indices("test")} == {"100003"}
    assert len(split.indices("test")) == len(SONGS)
    assert all(len(sides) == 1 for sides in sides_of(split, 1).values())


def test_every_song_is_tested_in_exactly_one_fold() -> None:
    splits = [split_grid(SONGS, LISTENERS[:1], folds=4, fold=fold) for fold in range(4)]
    tested = [trial for split in splits for trial in (split.trials[i] for i in split.indices("test"))]
    assert sorted(tested) == sorted(splits[0].trials)


@given(st.integers(3, 40), st.integers(3, 40), st.integers(0, 2**31))
def test_folds_are_equal_parts_that_test_and_validate_each_song_once(songs: int, folds: int, seed: int) -> None:
    names = [str(n) for n in range(songs)]
    if songs < folds:
        with pytest.raises(ValueError, match=f"folds={folds}: .* {songs} songs"):
            split_grid(names, LISTENERS[:1], folds=folds, split_seed=seed)
        return
    splits = [split_grid(names, LISTENERS[:1], folds=folds, fold=fold, split_seed=seed) for fold in range(folds)]
    for side in ("test", "validation"):
        parts = [[split.trials[i] for i in split.indices(side)] for split in splits]
        assert sorted(trial for part in parts for trial in part) == sorted(splits[0].trials)
        assert {len(part) for part in parts} <= {songs // folds, -(-songs // folds)}
    assert all(len(split.indices("train")) for split in splits)


def test_a_new_song_shifts_folds_and_changes_the_digest() -> None:
    before, after = (split_grid(SONGS[:count], LISTENERS[:1], folds=4) for count in (39, 40))
    assert before.sha256 != after.sha256
    moved = sum(one != other for one, other in zip(before.sides, after.sides[:39], strict=True))
    assert 0 < moved < 10  # only those at the borders between parts


@pytest.mark.parametrize("songs", [3, 8])
def test_the_held_out_song_is_the_whole_test_split(songs: int) -> None:
    for song in SONGS[:songs]:
        split = split_grid(SONGS[:songs], LISTENERS, split_by="leave_one_song_out", held_out_song=song)
        assert {split.trials[i].split("/")[0] for i in split.indices("test")} == {song}
        assert all(len(split.indices(side)) for side in SIDES)
        assert all(len(sides) == 1 for sides in sides_of(split, 0).values())


def test_random_pairs_leaks_and_records_a_warning() -> None:
    split = split_grid(SONGS, LISTENERS, split_by="random_pairs")
    assert any(len(sides) > 1 for sides in sides_of(split, 0).values())
    assert "random_pairs" in split.record()["warning"]
    assert split_grid(SONGS, LISTENERS).record()["warning"] is None


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=30), st.integers(0, 2**31), st.text(min_size=1))
def test_a_new_song_moves_no_other(songs: list[str], seed: int, newcomer: str) -> None:
    def sides(songs: list[str]) -> dict[str, int]:
        split = split_trials(
            songs, ["a"] * len(songs), ["0"] * len(songs), [None] * len(songs), SplitSettings(split_seed=seed)
        )
        return dict(zip(songs, split.sides.tolist(), strict=True))

    before, after = sides(songs), sides([newcomer, *(song for song in songs if song != newcomer)])
    assert before.items() <= after.items()


def test_fractions_are_kept_over_many_ids() -> None:
    positions = [id_hash(str(n), seed=0) for n in range(20_000)]
    assert sum(position < 0.15 for position in positions) / 20_000 == pytest.approx(0.15, abs=0.01)


def test_the_digest_does_not_depend_on_the_order_of_the_data() -> None:
    one, other = split_grid(SONGS, LISTENERS), split_grid(SONGS[::-1], LISTENERS[::-1])
    assert one.sha256 == other.sha256
    assert one.sha256 != split_grid(SONGS, LISTENERS, split_seed=1).sha256


def test_known_splits() -> None:
    # Fixed expectation: a change of the hash would silently move songs between training and test.
    split = split_grid([str(n) for n in range(20)], ["100000"])
    assert "".join("tvT"[side] for side in split.sides) == "tttttttTtvtttvtTTTtt"


def test_the_record_is_json_and_names_every_trial() -> None:
    record = json.loads(json.dumps(split_grid(SONGS, LISTENERS).record()))
    assert sum(len(trials) for trials in record["trials"].values()) == len(SONGS) * len(LISTENERS)
    assert record["settings"]["split_by"] in SPLIT_BY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by": "songs"}, "split_by='songs': .*song, artist"),
        ({"validation_fraction": 0.6, "test_fraction": 0.5}, "validation_fraction=0.6, test_fraction=0.5"),
        ({"test_fraction": -0.1}, "test_fraction=-0.1"),
        ({"folds": 2}, "folds=2"),
        ({"folds": 5, "fold": 5}, "folds=5, fold=5"),
        ({"split_by": "leave_one_listener_out"}, "split_by='leave_one_listener_out', held_out_listener=None"),
        ({"held_out_listener": "100001"}, "split_by='song', held_out_listener='100001'"),
        ({"split_by": "leave_one_song_out"}, "split_by='leave_one_song_out', held_out_song=None"),
        ({"split_by": "song", "held_out_song": "1"}, "split_by='song', held_out_song='1'"),
        ({"split_by": "leave_one_song_out", "held_out_song": "1", "folds": 3}, "folds=3"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SplitSettings(**settings)


def test_an_unknown_song_or_listener_is_rejected() -> None:
    with pytest.raises(ValueError, match="held_out_song='99': .* 40 songs"):
        split_grid(SONGS, LISTENERS, split_by="leave_one_song_out", held_out_song="99")
    with pytest.raises(ValueError, match="held_out_listener='999999'"):
        split_grid(SONGS, LISTENERS, split_by="leave_one_listener_out", held_out_listener="999999")


def test_duplicate_trials_are_rejected() -> None:
    with pytest.raises(ValueError, match="trials=2: 1 "):
        split_trials(["1", "1"], ["a", "a"], ["0", "0"], [None, None], SplitSettings())


def test_with_few_listeners_one_is_in_validation_for_any_held_out_one() -> None:
    listeners = [f"{n}" for n in range(4)] * 3
    songs = [f"{n // 4}" for n in range(12)]
    for held_out in set(listeners):
        settings = SplitSettings(
            split_by="leave_one_listener_out", held_out_listener=held_out, validation_fraction=0.01, split_seed=1
        )
        split = split_trials(songs, listeners, ["0"] * 12, [None] * 12, settings)
        sides = {side: {listeners[row] for row in split.indices(side)} for side in ("train", "validation", "test")}
        assert sides["test"] == {held_out}
        assert len(sides["validation"]) == 1
        assert len(sides["train"]) == 2
        assert not sides["validation"] & sides["train"]

"""Split trials into train, validation and test: by song, artist, listener, or song and listener together.

With fractions, the split of an id is a pure function of the id and the seed. A song that is added later moves no other
song, and two machines agree without a list. Folds are equal parts of all ids, so a new song can move others. A trial
is one listener and one song. `random_pairs` splits the trials themselves, which puts every song and every listener
into all splits; it exists to show how optimistic the scores then are.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

SIDES = ("train", "validation", "test")
DROPPED = -1  # a trial whose song and listener are in different splits
LEAVE_ONE_OUT = {"leave_one_song_out": "song", "leave_one_listener_out": "listener"}  # rule -> what it holds out
SPLIT_BY = ("song", "artist", "listener", "song_listener", *LEAVE_ONE_OUT, "random_pairs")
FEWEST_FOLDS = 3  # one for test, one for validation and at least one for training

LEAK_WARNING = (
    "split_by random_pairs puts the same songs and the same listeners into training and test: "
    "its scores are optimistic and say nothing about new songs or new people"
)


@dataclass(frozen=True)
class SplitSettings:
    split_by: str = field(default="song", metadata={"help": f"What is never in two splits: {', '.join(SPLIT_BY)}."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the split."})
    validation_fraction: float = field(default=0.15, metadata={"help": "Share of ids in the validation split."})
    test_fraction: float = field(default=0.15, metadata={"help": "Share of ids in the test split."})
    folds: int = field(
        default=0,
        metadata={"help": "Number of folds, 3 or more: equal parts of the ids, instead of fractions. 0: no folds."},
    )
    fold: int = field(default=0, metadata={"help": "The test fold. The next fold is the validation split."})
    held_out_song: str | None = field(default=None, metadata={"help": "The test song of split_by leave_one_song_out."})
    held_out_listener: str | None = field(
        default=None, metadata={"help": "The test listener of split_by leave_one_listener_out."}
    )

    def __post_init__(self) -> None:
        if self.split_by not in SPLIT_BY:
            raise ValueError(f"split_by={self.split_by!r}: unknown. Must be one of {', '.join(SPLIT_BY)}.")
        if not (0 <= self.validation_fraction and 0 <= self.test_fraction and self.held_out_fraction < 1):
            raise ValueError(
                f"validation_fraction={self.validation_fraction}, test_fraction={self.test_fraction}: leaves nothing "
                "to train on, or is negative. Give fractions of 0 or more with a sum below 1."
            )
        if self.folds and not (self.folds >= FEWEST_FOLDS and 0 <= self.fold < self.folds):
            raise ValueError(
                f"folds={self.folds}, fold={self.fold}: out of range. Give {FEWEST_FOLDS} folds or more (train, "
                "validation, test), and a fold from 0 to folds - 1."
            )
        if self.folds and self.split_by in LEAVE_ONE_OUT:
            raise ValueError(f"folds={self.folds}: split_by {self.split_by!r} has no folds. Set folds to 0.")
        for rule, kind in LEAVE_ONE_OUT.items():
            key, held_out = f"held_out_{kind}", getattr(self, f"held_out_{kind}")
            if (self.split_by == rule) != (held_out is not None):
                raise ValueError(
                    f"split_by={self.split_by!r}, {key}={held_out!r}: {key} goes with split_by {rule!r}, only with "
                    "it. Set both or none."
                )

    @property
    def held_out_fraction(self) -> float:
        """Share of ids in validation or test."""
        return self.validation_fraction + self.test_fraction


@dataclass(frozen=True)
class Split:
    """The split of every trial: an index into SIDES, or DROPPED."""

    settings: SplitSettings
    trials: tuple[str, ...]  # "song/listener/trial", in the order of the data
    sides: np.ndarray  # (trials,) int8

    def indices(self, side: str) -> np.ndarray:
        """Return the indices of the trials in one split, in the order of the data."""
        return np.flatnonzero(self.sides == SIDES.index(side))

    @property
    def dropped(self) -> int:
        """Number of trials whose song and listener are in different splits."""
        return int((self.sides == DROPPED).sum())

    @property
    def sha256(self) -> str:
        """A digest of the split of every trial, independent of the order of the data."""
        lines = sorted(f"{trial}\t{side}" for trial, side in zip(self.trials, self.sides, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def record(self) -> dict:
        """Return the record that is saved with a model: settings, digest and the trials of each split."""
        members = {side: [self.trials[i] for i in self.indices(side)] for side in SIDES}
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {**{side: len(trials) for side, trials in members.items()}, "dropped": self.dropped},
            "warning": LEAK_WARNING if self.settings.split_by == "random_pairs" else None,
            "trials": members,
        }


def digest_of_sides(members: Mapping[str, Sequence[str]]) -> str:
    """Return a digest of the sorted ids of each of SIDES."""
    digest = hashlib.sha256()
    for side in SIDES:
        digest.update("\n".join([side, *members[side], ""]).encode())
    return digest.hexdigest()


def id_hash(identifier: str, seed: int) -> float:
    """Return a number in [0, 1) that depends only on the id and the seed."""
    # Not hash(): Python salts it per process.
    digest = hashlib.blake2b(json.dumps([seed, identifier]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def side_of(identifier: str, settings: SplitSettings) -> int:
    """Return the split of one id by the fractions, as an index into SIDES."""
    position = id_hash(identifier, settings.split_seed)
    if position < settings.test_fraction:
        return SIDES.index("test")
    return SIDES.index("validation" if position < settings.held_out_fraction else "train")


def sides_of(ids: Iterable[str], settings: SplitSettings, kind: str) -> dict[str, int]:
    """Return the split of each id, as an index into SIDES.

    Args:
        kind: name of the ids ("song"), for the error message.
    """
    if not settings.folds:
        return {each: side_of(each, settings) for each in set(ids)}
    ranked = in_order_of_hashes(ids, settings.split_seed)
    if len(ranked) < settings.folds:
        raise ValueError(
            f"folds={settings.folds}: more than the {len(ranked)} {kind}s in the data. Give fewer folds, or more data."
        )
    sides = {0: SIDES.index("test"), 1: SIDES.index("validation")}
    fold_of_rank = np.arange(len(ranked)) * settings.folds // len(ranked)
    ahead_of_test = (fold_of_rank - settings.fold) % settings.folds
    return {each: sides.get(int(ahead), 0) for each, ahead in zip(ranked, ahead_of_test, strict=True)}


def leave_one_out(ids: Iterable[str], settings: SplitSettings, held_out: str) -> dict[str, int]:
    """Return the split of each id: `held_out` is the test split, the fraction with the lowest hashes validation."""
    others = [each for each in in_order_of_hashes(ids, settings.split_seed) if each != held_out]
    fraction = settings.validation_fraction
    below = sum(id_hash(each, settings.split_seed) < fraction for each in others)
    validation = others[: max(below, fraction > 0)]  # at least one: with few ids, chance may put none below
    sides = dict.fromkeys(others, SIDES.index("train")) | dict.fromkeys(validation, SIDES.index("validation"))
    return sides | {held_out: SIDES.index("test")}


def in_order_of_hashes(ids: Iterable[str], seed: int) -> list[str]:
    """Return each id once, the lowest hash first."""
    return sorted(set(ids), key=lambda each: (id_hash(each, seed), each))


def split_trials(
    songs: Sequence[str],
    listeners: Sequence[str],
    trials: Sequence[str],
    artists: Sequence[str | None],
    settings: SplitSettings,
) -> Split:
    """Assign every trial to a split. The four columns are parallel, one entry per trial.

    A song without an artist counts as a separate artist. With `leave_one_song_out` and `leave_one_listener_out`, the
    held-out song or listener is the test split, and the others are divided between training and validation; if chance
    would leave validation empty, the id with the lowest hash goes there.
    """
    names = tuple("/".join(parts) for parts in zip(songs, listeners, trials, strict=True))
    duplicates = len(names) - len(set(names))
    if duplicates:
        raise ValueError(
            f"trials={len(names)}: {duplicates} repeat the song, listener and trial number of another one. Make them "
            "unique in the builder."
        )
    # The prefix makes a song and a listener of the same name different ids.
    ids = {
        "song": [f"song:{song}" for song in songs],
        "listener": [f"listener:{listener}" for listener in listeners],
        "pair": [f"pair:{name}" for name in names],
    }
    # Spellings that differ in case or spaces are one artist.
    names_of_artists = [" ".join((artist or "").casefold().split()) for artist in artists]
    ids["artist"] = [
        f"artist:{artist}" if artist else song for artist, song in zip(names_of_artists, ids["song"], strict=True)
    ]
    if kind := LEAVE_ONE_OUT.get(settings.split_by):
        held_out = getattr(settings, f"held_out_{kind}")
        available = sorted(set({"song": songs, "listener": listeners}[kind]))
        if held_out not in available:
            raise ValueError(
                f"held_out_{kind}={held_out!r}: has no trial. Give one of the {len(available)} {kind}s, for example "
                f"{', '.join(available[:5])}."
            )
        rules = {kind: leave_one_out(ids[kind], settings, f"{kind}:{held_out}")}
    else:
        several = {"song_listener": ("song", "listener"), "random_pairs": ("pair",)}
        kinds = several.get(settings.split_by, (settings.split_by,))
        rules = {kind: sides_of(ids[kind], settings, kind) for kind in kinds}
    # (kinds, N): under song_listener, a trial is kept only if its song and its listener are in the same split.
    by_kind = np.array([[rule[each] for each in ids[kind]] for kind, rule in rules.items()], dtype=np.int8)
    sides = np.where((by_kind == by_kind[0]).all(axis=0), by_kind[0], DROPPED).astype(np.int8)
    return Split(settings=settings, trials=names, sides=sides)

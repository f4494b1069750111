"""Which trials are trained on, chosen from and tested: by song, artist, listener, or song and listener together.

The side of an id is a pure function of the id and the seed, so a song that is added later moves no other song, and
two machines agree without a list. A trial is one listener hearing one song; `random_pairs` splits the trials
themselves, which puts every song and every listener on all sides. It is there to show how much that flatters.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

SIDES = ("train", "validation", "test")
DROPPED = -1  # a trial whose song and listener fall on different sides
SPLIT_BY = ("song", "artist", "listener", "song_listener", "leave_one_listener_out", "random_pairs")

LEAK_WARNING = (
    "split_by random_pairs puts the same songs and the same listeners into training and test: "
    "its scores are flattering and say nothing about new songs or new people"
)


@dataclass(frozen=True)
class SplitSettings:
    """How trials are divided."""

    split_by: str = field(default="song", metadata={"help": f"What is never on two sides: {', '.join(SPLIT_BY)}."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the split; the sides of all ids follow from it."})
    validation_fraction: float = field(default=0.15, metadata={"help": "Share of ids that checkpoints are chosen on."})
    test_fraction: float = field(default=0.15, metadata={"help": "Share of ids that is scored once, at the end."})
    folds: int = field(default=0, metadata={"help": "k of k-fold, in place of the fractions; 0 for none, else >= 3."})
    fold: int = field(default=0, metadata={"help": "The fold that is the test; the next one is the validation."})
    held_out_listener: str | None = field(
        default=None, metadata={"help": "The test listener of split_by leave_one_listener_out."}
    )

    def __post_init__(self) -> None:
        if self.split_by not in SPLIT_BY:
            raise ValueError(f"split_by = {self.split_by!r} is not known; it takes one of {', '.join(SPLIT_BY)}")
        if not (0 <= self.validation_fraction and 0 <= self.test_fraction and self.held_out_fraction < 1):
            raise ValueError(
                f"validation_fraction = {self.validation_fraction} and test_fraction = {self.test_fraction} "
                "must be 0 or more and leave something to train on (together below 1)"
            )
        if self.folds and not (self.folds >= 3 and 0 <= self.fold < self.folds):
            raise ValueError(
                f"folds = {self.folds}, fold = {self.fold}: folds must be 3 or more (train, validation, test) "
                "and fold from 0 to folds - 1"
            )
        if self.folds and self.split_by == "leave_one_listener_out":
            raise ValueError("folds do not go with split_by leave_one_listener_out: its test is one listener")
        if (self.split_by == "leave_one_listener_out") != (self.held_out_listener is not None):
            raise ValueError(
                f"split_by = {self.split_by!r} with held_out_listener = {self.held_out_listener!r}: "
                "leave_one_listener_out needs a held_out_listener, and only it takes one"
            )

    @property
    def held_out_fraction(self) -> float:
        """The share of ids that is not trained on."""
        return self.validation_fraction + self.test_fraction


@dataclass(frozen=True)
class Split:
    """The side of every trial: an index into SIDES, or DROPPED."""

    settings: SplitSettings
    trials: tuple[str, ...]  # "song/listener/trial", in the order of the data
    sides: np.ndarray  # (trials,) int8

    def indices(self, side: str) -> np.ndarray:
        """Positions of the trials on one side, in the order of the data."""
        return np.flatnonzero(self.sides == SIDES.index(side))

    @property
    def dropped(self) -> int:
        """How many trials have a foot on two sides."""
        return int((self.sides == DROPPED).sum())

    @property
    def sha256(self) -> str:
        """A digest of who is where; it does not depend on the order of the data."""
        lines = sorted(f"{trial}\t{side}" for trial, side in zip(self.trials, self.sides, strict=True))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def record(self) -> dict:
        """What is saved beside a model: settings, hash and the trials of each side."""
        members = {side: [self.trials[i] for i in self.indices(side)] for side in SIDES}
        return {
            "settings": asdict(self.settings),
            "sha256": self.sha256,
            "counts": {**{side: len(trials) for side, trials in members.items()}, "dropped": self.dropped},
            "warning": LEAK_WARNING if self.settings.split_by == "random_pairs" else None,
            "trials": members,
        }


def digest_of_sides(members: Mapping[str, Sequence[str]]) -> str:
    """A digest of who is where, from the sorted ids of each of SIDES."""
    digest = hashlib.sha256()
    for side in SIDES:
        digest.update("\n".join([side, *members[side], ""]).encode())
    return digest.hexdigest()


def id_hash(identifier: str, seed: int) -> float:
    """A number in [0, 1) that depends on the id and the seed alone."""
    digest = hashlib.blake2b(json.dumps([seed, identifier]).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def side_of(identifier: str, settings: SplitSettings) -> int:
    """The side of one id, as an index into SIDES."""
    position = id_hash(identifier, settings.split_seed)
    if settings.folds:
        ahead_of_test = (int(position * settings.folds) - settings.fold) % settings.folds
        return {0: SIDES.index("test"), 1: SIDES.index("validation")}.get(ahead_of_test, SIDES.index("train"))
    if position < settings.test_fraction:
        return SIDES.index("test")
    return SIDES.index("validation" if position < settings.held_out_fraction else "train")


def split_trials(
    songs: Sequence[str],
    listeners: Sequence[str],
    trials: Sequence[str],
    artists: Sequence[str | None],
    settings: SplitSettings,
) -> Split:
    """Put every trial on a side. The four columns are parallel, one entry a trial.

    A song without an artist counts as an artist of its own. Under `leave_one_listener_out` the test is the
    listener held out, and the others are divided between training and validation by listener; where chance puts none
    of few listeners into the validation, the one with the lowest hash goes there.
    """
    names = tuple("/".join(parts) for parts in zip(songs, listeners, trials, strict=True))
    duplicates = len(names) - len(set(names))
    if duplicates:
        raise ValueError(f"{duplicates} trials share song, listener and trial number; make them unique in the builder")
    if settings.split_by == "leave_one_listener_out" and settings.held_out_listener not in set(listeners):
        raise ValueError(
            f"held_out_listener = {settings.held_out_listener!r} has no trial; "
            f"the data has {len(set(listeners))} listeners, among them {', '.join(sorted(set(listeners))[:5])}"
        )

    # The kind stands before the id: a song and a listener of the same name are different ids.
    def song_side(i: int) -> int:
        return side_of(f"song:{songs[i]}", settings)

    def listener_side(i: int) -> int:
        return side_of(f"listener:{listeners[i]}", settings)

    def artist_side(i: int) -> int:
        artist = " ".join((artists[i] or "").casefold().split())
        return side_of(f"artist:{artist}", settings) if artist else song_side(i)

    def both_sides(i: int) -> int:
        return song_side(i) if song_side(i) == listener_side(i) else DROPPED

    def place(listener: str) -> float:
        return id_hash(f"listener:{listener}", settings.split_seed)

    lowest = min((place(who) for who in set(listeners) - {settings.held_out_listener}), default=0.0)

    def held_out_side(i: int) -> int:
        if listeners[i] == settings.held_out_listener:
            return SIDES.index("test")
        wanted = settings.validation_fraction
        validation = place(listeners[i]) < wanted or (wanted > 0 and place(listeners[i]) == lowest)
        return SIDES.index("validation" if validation else "train")

    def pair_side(i: int) -> int:
        return side_of(f"pair:{names[i]}", settings)

    rule = {
        "song": song_side,
        "artist": artist_side,
        "listener": listener_side,
        "song_listener": both_sides,
        "leave_one_listener_out": held_out_side,
        "random_pairs": pair_side,
    }[settings.split_by]
    sides = np.fromiter((rule(i) for i in range(len(names))), dtype=np.int8, count=len(names))
    return Split(settings=settings, trials=names, sides=sides)

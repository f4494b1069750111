"""Which trials are trained on, chosen from and tested: by song, artist, listener, or song and listener together.

By the fractions, the side of an id is a pure function of the id and the seed, so a song that is added later moves no
other song, and two machines agree without a list. Folds are equal parts of all ids, so a new song may move others. A
trial is one listener hearing one song; `random_pairs` splits the trials themselves, which puts every song and every
listener on all sides. It is there to show how much that flatters.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

SIDES = ("train", "validation", "test")
DROPPED = -1  # a trial whose song and listener fall on different sides
LEAVE_ONE_OUT = {"leave_one_song_out": "song", "leave_one_listener_out": "listener"}  # rule -> what it holds out
SPLIT_BY = ("song", "artist", "listener", "song_listener", *LEAVE_ONE_OUT, "random_pairs")
FEWEST_FOLDS = 3  # a test, a validation, and one to train on

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
    folds: int = field(
        default=0,
        metadata={"help": "k of k-fold, in place of the fractions: k equal parts of the ids, 3 or more; 0: none."},
    )
    fold: int = field(default=0, metadata={"help": "The fold that is the test; the next one is the validation."})
    held_out_song: str | None = field(default=None, metadata={"help": "The test song of split_by leave_one_song_out."})
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
        if self.folds and not (self.folds >= FEWEST_FOLDS and 0 <= self.fold < self.folds):
            raise ValueError(
                f"folds = {self.folds}, fold = {self.fold}: folds must be {FEWEST_FOLDS} or more (train, validation, "
                "test) and fold from 0 to folds - 1"
            )
        if self.folds and self.split_by in LEAVE_ONE_OUT:
            raise ValueError(f"folds={self.folds}: split_by {self.split_by} has no folds. Take 0.")
        for rule, kind in LEAVE_ONE_OUT.items():
            key, held_out = f"held_out_{kind}", getattr(self, f"held_out_{kind}")
            if (self.split_by == rule) != (held_out is not None):
                raise ValueError(
                    f"split_by = {self.split_by!r} with {key} = {held_out!r}: {rule} needs a {key}, and only it "
                    "takes one"
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
        """What is saved with a model: settings, hash and the trials of each side."""
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
    """The side of one id by the fractions, as an index into SIDES."""
    position = id_hash(identifier, settings.split_seed)
    if position < settings.test_fraction:
        return SIDES.index("test")
    return SIDES.index("validation" if position < settings.held_out_fraction else "train")


def sides_of(ids: Iterable[str], settings: SplitSettings, kind: str) -> dict[str, int]:
    """The side of each id, as an index into SIDES; `kind` is what the ids are of, for people."""
    if not settings.folds:
        return {each: side_of(each, settings) for each in set(ids)}
    ranked = in_order_of_hashes(ids, settings.split_seed)
    if len(ranked) < settings.folds:
        raise ValueError(
            f"folds={settings.folds}: the data can be divided into {len(ranked)} at most, one {kind} each. Take "
            "fewer folds, or more data."
        )
    sides = {0: SIDES.index("test"), 1: SIDES.index("validation")}
    fold_of_rank = np.arange(len(ranked)) * settings.folds // len(ranked)
    ahead_of_test = (fold_of_rank - settings.fold) % settings.folds
    return {each: sides.get(int(ahead), 0) for each, ahead in zip(ranked, ahead_of_test, strict=True)}


def leave_one_out(ids: Iterable[str], settings: SplitSettings, held_out: str) -> dict[str, int]:
    """The side of each id: one is the test, and hashes below the fraction are the validation, or the lowest one."""
    others = [each for each in in_order_of_hashes(ids, settings.split_seed) if each != held_out]
    wanted = settings.validation_fraction
    below = sum(id_hash(each, settings.split_seed) < wanted for each in others)
    validation = others[: max(below, wanted > 0)]
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
    """Put every trial on a side. The four columns are parallel, one entry a trial.

    A song without an artist counts as an artist of its own. Under `leave_one_song_out` and `leave_one_listener_out`
    the test is what is held out, and the others of its kind are divided between training and validation; where chance
    puts none of few into the validation, the one with the lowest hash goes there.
    """
    names = tuple("/".join(parts) for parts in zip(songs, listeners, trials, strict=True))
    duplicates = len(names) - len(set(names))
    if duplicates:
        raise ValueError(
            f"trials that share song, listener and trial number: {duplicates}; make them unique in the builder"
        )
    # The kind stands before the id: a song and a listener of the same name are different ids.
    ids = {
        "song": [f"song:{song}" for song in songs],
        "listener": [f"listener:{listener}" for listener in listeners],
        "pair": [f"pair:{name}" for name in names],
    }
    spelt = [" ".join((artist or "").casefold().split()) for artist in artists]
    ids["artist"] = [f"artist:{artist}" if artist else song for artist, song in zip(spelt, ids["song"], strict=True)]
    if kind := LEAVE_ONE_OUT.get(settings.split_by):
        held_out = getattr(settings, f"held_out_{kind}")
        known = sorted(set({"song": songs, "listener": listeners}[kind]))
        if held_out not in known:
            raise ValueError(
                f"held_out_{kind} = {held_out!r} has no trial; the data has {len(known)} {kind}s, among them "
                f"{', '.join(known[:5])}"
            )
        rules = {kind: leave_one_out(ids[kind], settings, f"{kind}:{held_out}")}
    else:
        several = {"song_listener": ("song", "listener"), "random_pairs": ("pair",)}
        kinds = several.get(settings.split_by, (settings.split_by,))
        rules = {kind: sides_of(ids[kind], settings, kind) for kind in kinds}
    found = np.array([[rule[each] for each in ids[kind]] for kind, rule in rules.items()], dtype=np.int8)  # (kinds, N)
    sides = np.where((found == found[0]).all(axis=0), found[0], DROPPED).astype(np.int8)
    return Split(settings=settings, trials=names, sides=sides)

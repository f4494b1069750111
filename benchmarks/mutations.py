"""Does a damaged file end in a result or in one line? `python -m benchmarks.mutations --minutes 10 --seed 0`.

Small valid files are made, as the project's own synthesizers make them. In each case some bytes, lines or numbers of
one file are changed, and its reader is called in a child process. It may give a result, or raise the error that it
documents: a ValueError of one line that names the file. All else is counted: another error (wrong), the death of the
process (crash), more than SLOW seconds of work (slow). The same seed gives the same cases.
"""

import argparse
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.mutated_readers import Reader, all_readers
from benchmarks.timing import print_value

SLOW = 5.0  # s of work
HANGS = 60.0  # s after which a case is ended
MEMORY = 4 << 30  # bytes that a case may take beyond those of the process
OUTCOMES = ("accepted", "refused", "wrong", "crash", "slow")
TOKENS = (b'"', b"'", b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"]", b"-", b"=1", "\u2028".encode())
NUMBERS = (b"0", b"-1", b"1e400", b"-1e308", b"nan", b"inf", b"99999999999999999999", b"4294967295", b"1_0", b"0.0001")
WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0")  # of four bytes


@dataclass
class Tally:
    """The outcomes of a reader's cases, and what was said in those that went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, case: int, outcome: str, said: str) -> None:
        self.counts[outcome] += 1
        if outcome not in ("accepted", "refused"):
            self.problems.append(f"case {case}: {outcome}: {said}")


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Change a file in one to four places."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice(OPERATIONS)(bytearray(data), dice)
    return data


def _range(data: bytearray, dice: random.Random) -> slice:
    start = dice.randrange(len(data) + 1)
    return slice(start, min(start + dice.choice((1, 2, 8, 100, 5000)), len(data)))


def flip(data: bytearray, dice: random.Random) -> bytes:
    """Flip bits."""
    for _ in range(dice.choice((1, 3, 20)) if data else 0):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def delete(data: bytearray, dice: random.Random) -> bytes:
    """Take some bytes out."""
    del data[_range(data, dice)]
    return bytes(data)


def insert(data: bytearray, dice: random.Random) -> bytes:
    """Put in a character that means something, or noise."""
    place = dice.randrange(len(data) + 1)
    data[place:place] = dice.choice((*TOKENS, dice.randbytes(16)))
    return bytes(data)


def duplicate(data: bytearray, dice: random.Random) -> bytes:
    """Repeat some bytes."""
    some = _range(data, dice)
    data[some.start : some.start] = data[some]
    return bytes(data)


def truncate(data: bytearray, dice: random.Random) -> bytes:
    """Cut the file off."""
    return bytes(data[: dice.randrange(len(data) + 1)])


def splice(data: bytearray, dice: random.Random) -> bytes:
    """Overwrite some bytes with others of the file."""
    some = data[_range(data, dice)]
    place = dice.randrange(len(data) + 1)
    data[place : place + len(some)] = some
    return bytes(data)


def overwrite(data: bytearray, dice: random.Random) -> bytes:
    """Put an extreme length where one could be."""
    place = dice.randrange(len(data) + 1)
    data[place : place + 4] = dice.choice(WORDS)
    return bytes(data)


def change_number(data: bytearray, dice: random.Random) -> bytes:
    """Replace a number that is written in digits."""
    start = dice.randrange(len(data) + 1)
    while start < len(data) and not chr(data[start]).isdigit():
        start += 1
    end = start
    while end < len(data) and chr(data[end]) in "0123456789.e-":
        end += 1
    return bytes(data[:start]) + (dice.choice(NUMBERS) if end > start else b"") + bytes(data[end:])


def change_lines(data: bytearray, dice: random.Random) -> bytes:
    """Repeat, leave out or swap lines."""
    lines = bytes(data).split(b"\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(3)
    if kind == 0:
        lines.insert(one, lines[other])
    elif kind == 1:
        del lines[one]
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


OPERATIONS = (flip, delete, insert, duplicate, truncate, splice, overwrite, change_number, change_number, change_lines)


def outcome_of(reader: Reader, path: Path) -> tuple[str, str]:
    """Call a reader, and say how it ended."""
    began = time.process_time()
    try:
        reader.read(path)
        outcome, said = "accepted", ""
    except reader.errors as error:
        said = str(error)
        whole = "\n" not in said and (not reader.names_file or path.name in said)
        outcome = "refused" if whole else "wrong"
    except BaseException as error:
        outcome, said = "wrong", f"{type(error).__name__}: {error}"
    if time.process_time() - began > SLOW:
        outcome = "slow"
    return outcome, f"{path.name}: {said}"[:500]


def work(reader: Reader, seed: int, cases: Iterator[int], pipe: Connection) -> None:
    """Be the child: try cases and send (case, outcome, message) for each."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders write to these
        os.dup2(silent, stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for case in cases:
        dice = random.Random(f"{seed} {reader.name} {case}")
        path = dice.choice(reader.files)
        before = path.read_bytes()
        path.write_bytes(mutated(before, dice))
        try:
            pipe.send((case, *outcome_of(reader, path)))
        finally:
            path.write_bytes(before)


def attack(reader: Reader, seed: int, cases: int | None, seconds: float) -> Tally:
    """Try so many cases of a reader, or as many as end within some seconds."""
    tally, context = Tally(), multiprocessing.get_context("fork")
    contents = {path: path.read_bytes() for path in reader.files}
    end, done = time.monotonic() + seconds, 0
    while done != cases and time.monotonic() < end:
        receive, send = context.Pipe(duplex=False)
        todo = iter(range(done, cases if cases is not None else 1 << 62))
        child = context.Process(target=work, args=(reader, seed, todo, send))
        child.start()
        send.close()
        try:
            while done != cases and time.monotonic() < end:
                if not receive.poll(HANGS):
                    tally.add(done, "slow", "does not end")
                    done += 1
                    break
                case, outcome, said = receive.recv()
                tally.add(case, outcome, said)
                done = case + 1
        except EOFError:
            child.join()
            tally.add(done, "crash", f"exit code {child.exitcode}")
            done += 1
        finally:
            child.kill()
            child.join()
            for path, content in contents.items():
                path.write_bytes(content)
    return tally


def attack_all(folder: Path, seed: int, minutes: float, cases: int | None = None) -> dict[str, Tally]:
    """Try every reader on files made below `folder`; print a table and what went wrong.

    Args:
        minutes: for all readers together, the same for each.
        cases: of each reader at most.
    """
    tallies, readers = {}, all_readers(folder)
    print(f"{'reader':24}{'cases':>8}" + "".join(f"{name:>10}" for name in OUTCOMES))
    for reader in readers:
        for path in reader.files:
            reader.read(path)  # they are valid, and what is imported late is there for the children
        tally = tallies[reader.name] = attack(reader, seed, cases, 60 * minutes / len(readers))
        print(f"{reader.name:24}{tally.counts.total():8}" + "".join(f"{tally.counts[name]:10}" for name in OUTCOMES))
    for name, tally in tallies.items():
        for problem in tally.problems:
            print(f"{name}: {problem}")
    return tallies


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tallies = attack_all(Path(folder), arguments.seed, arguments.minutes)
        print_value("bad_endings", sum(len(tally.problems) for tally in tallies.values()), "cases")


if __name__ == "__main__":
    main()

"""Fuzz the readers with damaged files: `python -m benchmarks.mutations --minutes 10 --seed 0`.

Small valid files are written by the project's synthesizers. Each case changes some bytes, lines or numbers of one file
and calls its reader in a child process. The reader may return a result, or raise the error that it documents: a
ValueError of one line that names the file. Anything else is counted as a problem: another error (wrong), a crash of
the process (crash), more than SLOW seconds of work (slow). The same seed gives the same cases.
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

SLOW = 5.0  # s of processor time
HANGS = 60.0  # s after which a case is killed
MEMORY = 4 << 30  # bytes that a case may allocate
OUTCOMES = ("accepted", "refused", "wrong", "crash", "slow")
# Quotes, separators, byte order mark, line ends of several kinds: characters with a meaning in some format.
TOKENS = (b'"', b"'", b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"]", b"-", b"=1", "\u2028".encode())
# Values that overflow, are not finite, or that int() accepts but other parsers do not ("1_0").
NUMBERS = (b"0", b"-1", b"1e400", b"-1e308", b"nan", b"inf", b"99999999999999999999", b"4294967295", b"1_0", b"0.0001")
WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\x01\0\0\0")  # extreme lengths


@dataclass
class Tally:
    """The outcomes of a reader's cases, and the messages of the problems."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, case: int, outcome: str, message: str) -> None:
        self.counts[outcome] += 1
        if outcome not in ("accepted", "refused"):
            self.problems.append(f"case {case}: {outcome}: {message}")


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Change a file in one to four places."""
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice(OPERATIONS)(bytearray(data), dice)
    return data


def _range(data: bytearray, dice: random.Random) -> slice:
    start = dice.randrange(len(data) + 1)
    return slice(start, min(start + dice.choice((1, 2, 8, 100, 5000)), len(data)))


def flip(data: bytearray, dice: random.Random) -> bytes:
    for _ in range(dice.choice((1, 3, 20)) if data else 0):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def delete(data: bytearray, dice: random.Random) -> bytes:
    del data[_range(data, dice)]
    return bytes(data)


def insert(data: bytearray, dice: random.Random) -> bytes:
    """Insert a token with a meaning in some format, or noise."""
    start = dice.randrange(len(data) + 1)
    data[start:start] = dice.choice((*TOKENS, dice.randbytes(16)))
    return bytes(data)


def duplicate(data: bytearray, dice: random.Random) -> bytes:
    repeated = _range(data, dice)
    data[repeated.start : repeated.start] = data[repeated]
    return bytes(data)


def truncate(data: bytearray, dice: random.Random) -> bytes:
    return bytes(data[: dice.randrange(len(data) + 1)])


def splice(data: bytearray, dice: random.Random) -> bytes:
    """Overwrite bytes with other bytes of the file."""
    copied = data[_range(data, dice)]
    start = dice.randrange(len(data) + 1)
    data[start : start + len(copied)] = copied
    return bytes(data)


def overwrite(data: bytearray, dice: random.Random) -> bytes:
    """Write an extreme length over four bytes."""
    start = dice.randrange(len(data) + 1)
    data[start : start + 4] = dice.choice(WORDS)
    return bytes(data)


def change_number(data: bytearray, dice: random.Random) -> bytes:
    """Replace a number in a text."""
    start = dice.randrange(len(data) + 1)
    while start < len(data) and not chr(data[start]).isdigit():
        start += 1
    end = start
    while end < len(data) and chr(data[end]) in "0123456789.e-":
        end += 1
    return bytes(data[:start]) + (dice.choice(NUMBERS) if end > start else b"") + bytes(data[end:])


def change_lines(data: bytearray, dice: random.Random) -> bytes:
    """Repeat, delete or swap lines."""
    lines = bytes(data).split(b"\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    change = dice.randrange(3)
    if change == 0:
        lines.insert(one, lines[other])
    elif change == 1:
        del lines[one]
    else:
        lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


# change_number is listed twice, so that it is chosen twice as often.
OPERATIONS = (flip, delete, insert, duplicate, truncate, splice, overwrite, change_number, change_number, change_lines)


def outcome_of(reader: Reader, path: Path) -> tuple[str, str]:
    """Call a reader; return the outcome and the message."""
    started = time.process_time()
    try:
        reader.read(path)
        outcome, message = "accepted", ""
    except reader.errors as error:
        message = str(error)
        is_valid = "\n" not in message and (not reader.names_file or path.name in message)
        outcome = "refused" if is_valid else "wrong"
    except BaseException as error:  # also SystemExit of a reader that must not exit
        outcome, message = "wrong", f"{type(error).__name__}: {error}"
    if time.process_time() - started > SLOW:
        outcome = "slow"
    return outcome, f"{path.name}: {message}"[:500]


def work(reader: Reader, seed: int, cases: Iterator[int], pipe: Connection) -> None:
    """Try cases in a child process and send (case, outcome, message) for each."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # C decoders write warnings to stdout and stderr
        os.dup2(silent, stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # A file that makes a reader allocate too much must end in a MemoryError, not in the death of other processes.
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for case in cases:
        dice = random.Random(f"{seed} {reader.name} {case}")  # a case can be repeated alone
        path = dice.choice(reader.files)
        before = path.read_bytes()
        path.write_bytes(mutated(before, dice))
        try:
            pipe.send((case, *outcome_of(reader, path)))
        finally:
            path.write_bytes(before)


def attack(reader: Reader, seed: int, cases: int | None, seconds: float) -> Tally:
    """Try a number of cases of a reader (None: no limit), as many as finish within some seconds."""
    tally, context = Tally(), multiprocessing.get_context("fork")  # fork keeps the imports of the readers
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
                case, outcome, message = receive.recv()
                tally.add(case, outcome, message)
                done = case + 1
        except EOFError:  # the child has died; a new one continues after this case
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
    """Try every reader on files below `folder`; print a table and the problems.

    Args:
        minutes: for all readers together, divided equally.
        cases: limit per reader.
    """
    tallies, readers = {}, all_readers(folder)
    print(f"{'reader':24}{'cases':>8}" + "".join(f"{name:>10}" for name in OUTCOMES))
    for reader in readers:
        for path in reader.files:
            reader.read(path)  # checks that it is valid, and does late imports before the fork
        tally = tallies[reader.name] = attack(reader, seed, cases, 60 * minutes / len(readers))
        print(f"{reader.name:24}{tally.counts.total():8}" + "".join(f"{tally.counts[name]:10}" for name in OUTCOMES))
    for name, tally in tallies.items():
        for problem in tally.problems:
            print(f"{name}: {problem}")
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tallies = attack_all(Path(folder), arguments.seed, arguments.minutes)
        print_value("bad_endings", sum(len(tally.problems) for tally in tallies.values()), "cases")


if __name__ == "__main__":
    main()

"""How fast `hf_datasets.prepare` is with two processes against one, and how much memory it takes as data grow.

The raw trees are synthetic; files of a few distinct songs stand under many ids (hard links), which changes neither the
work nor the memory of a song. Every run is the whole command, imports included, and writes to an empty folder.
"""

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from hf_datasets.pmemo.synthesize import synthesize

DISTINCT_SONGS = 8
LISTENERS = 10  # a song, as upstream
MEGABYTE = 2**10  # in the KiB that the kernel counts


def multiply(root: Path, count: int) -> None:
    """Grow a tree to `count` songs by listing the files it has under further ids."""
    header, *rows = (root / "metadata.csv").read_text().splitlines()
    songs = [row.split(",")[0] for row in rows]
    for i in range(len(songs), count):
        source, song = songs[i % len(songs)], str(100_000 + i)
        os.link(root / "chorus" / f"{source}.mp3", root / "chorus" / f"{song}.mp3")
        os.link(root / "EDA" / f"{source}_EDA.csv", root / "EDA" / f"{song}_EDA.csv")
        rows.append(",".join([song, f"{song}.mp3", *rows[i % len(songs)].split(",")[2:]]))
    (root / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")


def make_raw(folder: Path, count: int, seconds: float) -> Path:
    """A clean raw tree of `count` songs of `seconds` seconds."""
    synthesize(folder, DISTINCT_SONGS, LISTENERS, seconds=(seconds, seconds), defects="none")
    multiply(folder / "PMEmo2019", count)
    return folder


def run_prepare(raw: Path, output: Path, num_proc: int) -> float:
    """Run the command; returns the largest resident memory of any one of its processes, in MiB."""
    command = [sys.executable, "-m", "hf_datasets.prepare", "pmemo", "--raw_dir", str(raw)]
    command += ["--output_dir", str(output), "--num_proc", str(num_proc)]
    with open(os.devnull, "w") as silence:
        streams = [(os.POSIX_SPAWN_DUP2, silence.fileno(), descriptor) for descriptor in (1, 2)]
        child = os.posix_spawn(sys.executable, command, os.environ, file_actions=streams)
        _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed; run it to see why")
    return usage.ru_maxrss / MEGABYTE


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="as many and as long songs as the real PMEmo (minutes)")
    full = parser.parse_args().full
    songs, seconds, rounds = (794, 38.0, 3) if full else (192, 38.0, 2)
    with tempfile.TemporaryDirectory() as folder:
        place, number = Path(folder), itertools.count()
        raw = make_raw(place / "raw", songs, seconds)
        rivals = {f"num_proc {n}": lambda n=n: run_prepare(raw, place / f"out{next(number)}", n) for n in (1, 2)}
        timings = compare(rivals, rounds=rounds, warmup=0)
        print(f"prepare, {songs} songs of {seconds:g} s with {LISTENERS} listeners, {os.cpu_count()} cores")
        print_table(timings)
        peaks = {}
        for count in (100, 1000):
            small = make_raw(place / f"raw{count}", count, 10.0)
            peaks[count] = run_prepare(small, place / f"memory{count}", 1)
        print_ratio("prepare_two_processes", ratio(timings["num_proc 1"], timings["num_proc 2"]))
        print_value("prepare_songs_per_second", songs / timings["num_proc 1"].median, "songs/s")
        for count, peak in peaks.items():
            print_value(f"prepare_peak_memory_{count}_songs", peak, "MiB")


if __name__ == "__main__":
    main()

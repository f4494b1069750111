"""Speed of `hf_datasets.prepare` with one and two processes, and its memory as data grow.

The raw trees are synthetic. Files of a few distinct songs have many ids (hard links), which changes neither the work
nor the memory per song. Every run is the whole command, including imports, and writes to an empty folder.
"""

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from hf_datasets.pmemo.synthesize import synthesize

DISTINCT_SONGS = 8  # synthesizing hundreds of songs would take longer than the measurement
LISTENERS = 10  # per song, as in the real PMEmo
MEGABYTE = 2**10  # in KiB, the kernel's unit


def multiply(root: Path, count: int) -> None:
    """Grow a tree to `count` songs by linking its files under new ids."""
    header, *rows = (root / "metadata.csv").read_text().splitlines()
    songs = [row.split(",")[0] for row in rows]
    for i in range(len(songs), count):
        source, song = songs[i % len(songs)], str(100_000 + i)
        os.link(root / "chorus" / f"{source}.mp3", root / "chorus" / f"{song}.mp3")
        os.link(root / "EDA" / f"{source}_EDA.csv", root / "EDA" / f"{song}_EDA.csv")
        rows.append(",".join([song, f"{song}.mp3", *rows[i % len(songs)].split(",")[2:]]))
    (root / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")


def make_raw(folder: Path, count: int, seconds: float) -> Path:
    """Make a raw tree without defects, of `count` songs of `seconds` seconds."""
    synthesize(folder, DISTINCT_SONGS, LISTENERS, seconds=(seconds, seconds), defects="none")
    multiply(folder / "PMEmo2019", count)
    return folder


def run_prepare(raw: Path, output: Path, num_proc: int) -> float:
    """Run the command; return the largest resident memory of any of its processes, in MiB."""
    command = [sys.executable, "-m", "hf_datasets.prepare", "pmemo", "--raw_dir", str(raw)]
    command += ["--output_dir", str(output), "--num_proc", str(num_proc)]
    # posix_spawn, not subprocess: a forked child would start with the resident memory of this process.
    with open(os.devnull, "w") as silent:
        streams = [(os.POSIX_SPAWN_DUP2, silent.fileno(), descriptor) for descriptor in (1, 2)]
        child = os.posix_spawn(sys.executable, command, os.environ, file_actions=streams)
        _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)}: failed. Run it to see why.")
    return usage.ru_maxrss / MEGABYTE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="as many and as long songs as the real PMEmo (minutes)")
    full = parser.parse_args().full
    songs, seconds, rounds = (794, 38.0, 3) if full else (192, 38.0, 2)
    with tempfile.TemporaryDirectory() as folder:
        root, number = Path(folder), itertools.count()
        raw = make_raw(root / "raw", songs, seconds)
        rivals = {f"num_proc {n}": lambda n=n: run_prepare(raw, root / f"out{next(number)}", n) for n in (1, 2)}
        timings = compare(rivals, rounds=rounds, warmup=0)
        print(f"prepare, {songs} songs of {seconds:g} s with {LISTENERS} listeners, {os.cpu_count()} cores")
        print_table(timings)
        peaks = {}
        for count in (100, 1000):
            small = make_raw(root / f"raw{count}", count, 10.0)
            peaks[count] = run_prepare(small, root / f"memory{count}", 1)
        print_ratio("prepare_two_processes", ratio(timings["num_proc 1"], timings["num_proc 2"]))
        print_value("prepare_songs_per_second", songs / timings["num_proc 1"].median, "songs/s")
        for count, peak in peaks.items():
            print_value(f"prepare_peak_memory_{count}_songs", peak, "MiB")


if __name__ == "__main__":
    main()

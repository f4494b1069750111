"""Processor seconds until a program has answered --help and a mistake of its command line.

python -m benchmarks.startup
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys

from tests.helpers.source_files import PROGRAMS

REPEATS = 3
ANSWERS = {"help": ["--help"], "refused": ["configs/eda_tnc.json"]}


def seconds(program: str, arguments: list[str]) -> float:
    """Processor seconds of a program and its children."""
    command = ["-m", program] if "." in program else [f"{program}.py"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, *arguments], capture_output=True, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure every program, the median of three starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("| program | help, s | refused config, s |\n|---|---|---|")
    found = {}
    for program in PROGRAMS:
        for answer, arguments in ANSWERS.items():
            found[program, answer] = statistics.median(seconds(program, arguments) for _ in range(REPEATS))
        print(f"| {program} | {found[program, 'help']:.2f} | {found[program, 'refused']:.2f} |")
    for (program, answer), value in found.items():
        print(f"VALUE startup_{answer}_{program} {value:.2f} s")


if __name__ == "__main__":
    main()

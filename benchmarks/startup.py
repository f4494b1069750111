"""Processor time of each program for --help and for a config that does not exist.

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
ANSWERS = {"help": ["--help"], "refused": ["configs/eda_tnc.json"]}  # the second is misspelled on purpose


def seconds(program: str, arguments: list[str]) -> float:
    """Return the processor seconds of a program and its children."""
    command = ["-m", program] if "." in program else [f"{program}.py"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # spinning threads would count as processor time
    subprocess.run([sys.executable, *command, *arguments], capture_output=True, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("| program | help, s | missing config, s |\n|---|---|---|")
    measured = {}
    for program in PROGRAMS:
        for answer, arguments in ANSWERS.items():
            measured[program, answer] = statistics.median(seconds(program, arguments) for _ in range(REPEATS))
        print(f"| {program} | {measured[program, 'help']:.2f} | {measured[program, 'refused']:.2f} |")
    for (program, answer), value in measured.items():
        print(f"VALUE startup_{answer}_{program} {value:.2f} s")


if __name__ == "__main__":
    main()

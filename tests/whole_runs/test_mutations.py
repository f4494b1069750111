"""A damaged file ends in a result or in one line that names it, for every reader."""

from pathlib import Path

import pytest

from benchmarks.mutations import attack_all

CASES = 20  # of each reader; `python -m benchmarks.mutations` tries more


@pytest.mark.slow
def test_no_damaged_file_ends_a_reader_in_another_way(tmp_path: Path) -> None:
    tallies = attack_all(tmp_path, seed=1, minutes=10, cases=CASES)
    assert {name: tally.problems for name, tally in tallies.items() if tally.problems} == {}
    assert {tally.counts.total() for tally in tallies.values()} == {CASES}
    assert all(tally.counts["refused"] for tally in tallies.values())

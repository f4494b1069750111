"""Every reader handles a damaged file with a result, or with a one-line error that names the file."""

from pathlib import Path

import pytest

from benchmarks.mutations import attack_all

CASES = 20  # per reader; `python -m benchmarks.mutations` tries more


@pytest.mark.slow
def test_damaged_files_give_a_result_or_a_one_line_error(tmp_path: Path) -> None:
    tallies = attack_all(tmp_path, seed=1, minutes=10, cases=CASES)
    assert {name: tally.problems for name, tally in tallies.items() if tally.problems} == {}
    assert {tally.counts.total() for tally in tallies.values()} == {CASES}
    assert all(tally.counts["refused"] for tally in tallies.values())

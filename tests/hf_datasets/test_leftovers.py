"""Files that a killed `prepare` leaves behind are never loaded, and the next run removes them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_datasets.names import HERE
from hf_datasets.tunein.synthesize import synthesize
from tests.helpers.prepared_data import contents

KILLED = """
import os, signal, sys
from hf_datasets.prepare import main

written = []
rename = os.replace


def replace(old, new):
    written.append(new)
    if len(written) > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(old, new)


os.replace = replace
main(sys.argv[2:])
"""


@pytest.mark.parametrize("written", [0, 1, 2, 4])
def test_the_next_run_removes_the_files_of_a_killed_one(written, tmp_path):
    synthesize(tmp_path / "raw", num_creatives=8, defects="none")
    scratch, output = tmp_path / "scratch", tmp_path / "output"
    scratch.mkdir()
    arguments = ["tunein", "--raw_dir", str(tmp_path / "raw"), "--output_dir"]
    environment = os.environ | {"TMPDIR": str(scratch)}

    def prepare(*command: str) -> int:
        return subprocess.run([sys.executable, *command], cwd=HERE.parent, env=environment, check=False).returncode

    def leftovers(folder: Path) -> list[str]:
        return [name for name in contents(folder) if Path(name).name != "owner.lock"]

    assert prepare("-c", KILLED, str(written), *arguments, str(output)) == -signal.SIGKILL
    unfinished = [name for name in contents(output) if name.endswith(".tmp")]
    assert len(unfinished) == 1
    assert len([name for name in leftovers(scratch) if "vectors-" in name]) == 2
    (output / "notes.tmp").write_text("a user's file")
    assert prepare("-m", "hf_datasets.prepare", *arguments, str(output)) == 0
    assert not leftovers(scratch)
    assert prepare("-m", "hf_datasets.prepare", *arguments, str(tmp_path / "uninterrupted")) == 0
    assert contents(output) == contents(tmp_path / "uninterrupted") | {"notes.tmp": b"a user's file"}

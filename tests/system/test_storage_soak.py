"""Four processes, a small cache, faults and a kill: content is right, the limit holds, and nothing is left over."""

import random
import signal
import subprocess
import sys

import pytest

from system.storage import S3FileManager
from tests.helpers.s3_server import Corrupt, Cut, Reset, Rule, Status, Truncate, serve_s3
from tests.helpers.stored_files import Watch, left_over

OBJECTS, SIZE = 2000, 2000  # bytes on average
LIMIT = OBJECTS * SIZE // 10

READER = """
import random, sys
from system import storage, storage_downloads
storage_downloads.FIRST_PAUSE = 0.02
cache, limit, seed, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
files = storage.S3FileManager(cache_dir=cache, max_bytes=limit, min_free_bytes=0, max_workers=4)
order = list(range(count))
random.Random(seed).shuffle(order)
urls = [f"s3://soak/{i:04d}.bin" for i in order]
for position, (i, url) in enumerate(zip(order, urls)):
    if position % 20 == 0:
        files.prefetch_files(urls[position : position + 40])
    assert files.read_bytes(url) == random.Random(i).randbytes(1000 + i)
    if position == 100:
        print("under way", flush=True)
    while position == 110 and seed == "0":  # until it is killed
        files.read_bytes(random.choice(urls))
print("all right")
"""


@pytest.mark.slow
def test_a_small_cache_serves_four_processes_through_faults_and_a_kill(tmp_path):
    faults = [Status(500), Status(503), Reset(), Cut(after=500), Corrupt(), Truncate(to=700)]
    with serve_s3(*(Rule("^GET /soak/", fault, probability=0.05 / len(faults)) for fault in faults)) as s3:
        for i in range(OBJECTS):
            s3.put(f"s3://soak/{i:04d}.bin", random.Random(i).randbytes(1000 + i))
        files = S3FileManager(cache_dir=tmp_path / "cache", max_bytes=LIMIT, min_free_bytes=0)
        arguments = [sys.executable, "-c", READER, str(files.root), str(LIMIT)]
        with Watch(files.root) as watch:
            readers = [
                subprocess.Popen([*arguments, str(seed), str(OBJECTS)], stdout=subprocess.PIPE, text=True)
                for seed in range(4)
            ]
            assert readers[0].stdout.readline() == "under way\n"
            readers[0].send_signal(signal.SIGKILL)
            outputs = [reader.communicate(timeout=500)[0] for reader in readers]
        assert [reader.returncode for reader in readers] == [-signal.SIGKILL, 0, 0, 0]
        assert all(text.endswith("all right\n") for text in outputs[1:])
        assert LIMIT / 2 < watch.most <= LIMIT
        assert watch.looks > 100
        files.read_bytes("s3://soak/0000.bin")
        files.cache.evict(LIMIT)  # visits every file, including those of the killed process
        assert not left_over(files.root)

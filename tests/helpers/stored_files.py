"""Files in the store of a test and in the cache filled from it."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

from tests.helpers.s3_server import FakeS3

URL = "s3://songs/a.mp3"
CONTENT = bytes(range(256)) * 40  # 10,240 bytes
GET = "^GET /songs/a.mp3"


def fill(s3: FakeS3, count: int, size: int = 1000, bucket: str = "many") -> dict[str, bytes]:
    """Put objects into a bucket and return their contents by URL."""
    contents = {f"s3://{bucket}/{i:03d}.bin": i.to_bytes(2, "big") * (size // 2) for i in range(count)}
    for url, content in contents.items():
        s3.put(url, content)
    return contents


def left_over(root: Path) -> list[Path]:
    """Return every file with bytes of an object, complete or partial."""
    return [path for folder in ("objects", "parts") for path in (root / folder).rglob("*") if path.is_file()]


def start(script: str, *arguments: object) -> subprocess.Popen:
    """Start a Python script with pipes for input and output."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Watch(threading.Thread):
    """Measure the size of a cache from outside until stopped."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root, self.most, self.looks, self.end = root, 0, 0, threading.Event()

    def run(self) -> None:
        while not self.end.is_set():
            with open(self.root / "index.lock", "a") as index:
                fcntl.flock(index, fcntl.LOCK_EX)  # otherwise a file that is being renamed could count twice
                total = sum(path.stat().st_size for path in left_over(self.root))
            self.most, self.looks = max(self.most, total), self.looks + 1

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end.set()
        self.join()

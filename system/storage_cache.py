"""A folder of downloaded objects that is never larger than its limit, whoever uses it at once.

    objects/3f/3fa9...-524288-9e10...-d41d.mp3   by address, size, MD5 and ETag; comes by a rename, with its content
    parts/3fa9...                                being downloaded; as large as the object will be from the start
    index.lock                                   held while bytes are reserved; its text is the bytes in all files

The files themselves are the index. A part is both a reservation and a lock: it gets its full length before its first
byte, and whoever downloads holds the kernel's lock on it, which ends with the process, also when that is killed; then
anyone may take the part over or clear it away. Readers hold a shared lock on what they read, and what is locked is not
evicted. In a folder that outlives its run, each process compares a copy with its MD5 before the first use. All locks
are the kernel's (flock), so threads, workers, ranks and runs on one machine need not know each other. Not for network
file systems.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

EVICT_TO = 0.9  # of the limit: an eviction looks at every file, so it makes room for more than one object
WAIT = 0.01  # s between two looks at what another one holds
PATIENCE = 60.0  # s that room is waited for
COUNT_WIDTH = 20  # digits
ENTRY = re.compile(r"([0-9a-f]{40})-(\d+)-([0-9a-f]{32})-([\w-]+)(\.\w+)?")


class CacheFull(OSError):
    """There is no room, and nothing that could be evicted."""


@dataclass
class Part:
    """The right to download one object, and the file that it goes to."""

    path: Path
    descriptor: int
    reserved: int = 0  # bytes

    def write(self, data: bytes, at: int) -> None:
        """Write at a position, all of it."""
        while data:
            written = os.pwrite(self.descriptor, data, at)
            data, at = data[written:], at + written


@dataclass(frozen=True)
class Entry:
    """A cached object."""

    path: Path
    size: int
    md5: str
    tag: str
    stamp: int = field(default=0, compare=False)  # ns, the file's time until it is used; 0: not known

    def touch(self) -> bool:
        """Mark it as just used; False when it is gone or was tampered with."""
        try:
            if os.stat(self.path).st_size != self.size:
                return False
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True


class FileCache:
    """The folder. `durable` writes reach the disk before they get their name, for a folder that outlives its run."""

    def __init__(self, root: Path, max_bytes: int, min_free_bytes: int, durable: bool) -> None:
        self.root, self.max_bytes, self.min_free_bytes, self.durable = root, max_bytes, min_free_bytes, durable
        self.verified: set[Path] = set()  # copies that are as they came; of a fork's parent too
        for folder in ("objects", "parts"):
            (root / folder).mkdir(parents=True, exist_ok=True, mode=0o700)

    def lookup(self, address: str, etag: str | None = None) -> Entry | None:
        """The cached object of an address, of this ETag if one is given; one with a wrong length is removed."""
        name = _name(address)
        folder = self.root / "objects" / name[:2]
        try:
            candidates = [entry for entry in os.listdir(folder) if entry.startswith(name)]
        except FileNotFoundError:
            return None
        if etag is None and len(candidates) > 1:
            return None  # an older version that is still being read; which one is the newer cannot be told
        for candidate in candidates:
            match = ENTRY.fullmatch(candidate)
            if match is None or (etag is not None and match[4] != _tag(etag)):
                continue
            entry = Entry(folder / candidate, int(match[2]), match[3], match[4])
            if entry.touch():
                return entry
            entry.path.unlink(missing_ok=True)  # its bytes stay counted until the next eviction looks
        return None

    def verify(self, entry: Entry) -> bool | None:
        """Whether a copy is as it came, read once a process: False when it was not and is removed, None when gone."""
        if not self.durable or entry.path in self.verified:
            return True
        descriptor = self.lease(entry)
        if descriptor is None:
            return None
        try:
            if digest_of(entry.path) == entry.md5:
                self.verified.add(entry.path)
                return True
            if not _is_at(descriptor, entry.path):
                return None
            entry.path.unlink()  # its bytes stay counted until the next eviction looks
            return False
        except FileNotFoundError:
            return None
        finally:
            close(descriptor)

    def claim(self, address: str) -> Part | None:
        """The right to download an object, or None while another one has it."""
        path = self.root / "parts" / _name(address)
        while True:
            descriptor = _open(path, os.O_RDWR | os.O_CREAT)
            if not _try_lock(descriptor, path):
                close(descriptor)
                if not path.exists():
                    continue  # cleared away or published between the two calls
                return None
            part = Part(path, descriptor, os.fstat(descriptor).st_size)
            if part.reserved:  # of someone who was killed
                self.resize(part, 0)
            return part

    def resize(self, part: Part, size: int, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Reserve `size` bytes for a part, evicting what was not used for longest; CacheFull after PATIENCE seconds.

        What others are downloading can be evicted once it is there, so it is worth waiting for.
        """
        if size > self.max_bytes:
            raise CacheFull(
                f"an object of {size} bytes is larger than the cache of {self.max_bytes} bytes; give a larger limit"
            )
        end = time.monotonic() + PATIENCE
        while not self._resize_now(part, size):
            if cancelled() or time.monotonic() > end:
                raise CacheFull(
                    f"no room for {size} bytes in {self.root} within {PATIENCE:g} s: the rest of its {self.max_bytes} "
                    "bytes is in use, or the disk is full; give a larger limit, or hold fewer files at once"
                )
            time.sleep(WAIT)

    def publish(self, part: Part, address: str, size: int, md5: str, etag: str, suffix: str) -> Entry:
        """Give a complete part its name; older versions of the object go."""
        if self.durable:
            os.fdatasync(part.descriptor)
        name = _name(address)
        path = self.root / "objects" / name[:2] / f"{name}-{size}-{md5}-{_tag(etag)}{suffix}"
        now = time.time_ns()  # finer than the clock of `touch`: a use right after this gives another time
        os.utime(part.descriptor, ns=(now, now))
        entry = Entry(path, size, md5, _tag(etag), os.fstat(part.descriptor).st_mtime_ns)
        entry.path.parent.mkdir(exist_ok=True, mode=0o700)
        with self._locked() as total:
            for older in entry.path.parent.glob(f"{name}-*"):
                total -= _remove_unless_used(older)
            os.replace(part.path, entry.path)
            self._write_total(total)
        close(part.descriptor)
        self.verified.add(entry.path)
        return entry

    def abandon(self, part: Part) -> None:
        """Remove a part that did not become whole."""
        with self._locked() as total:
            part.path.unlink(missing_ok=True)
            self._write_total(total - part.reserved)
        close(part.descriptor)

    def lease(self, entry: Entry) -> int | None:
        """A descriptor that keeps an entry from being evicted until it is closed; None when it is gone already."""
        try:
            descriptor = _open(entry.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_at(descriptor, entry.path):
            return descriptor
        close(descriptor)
        return None

    def clear(self) -> None:
        """Remove every object that nobody is reading."""
        with self._locked():
            for path in self._objects():
                _remove_unless_used(path)
            self._write_total(self.used_bytes())

    def evict(self, needed: int) -> None:
        """Make room for `needed` bytes where that is possible; for a disk that turned out to be full."""
        with self._locked():
            self._write_total(self._evict(needed))

    def _resize_now(self, part: Part, size: int) -> bool:
        with self._locked() as total:
            needed = size - part.reserved
            room = min(self.max_bytes - total, shutil.disk_usage(self.root).free - self.min_free_bytes)
            if needed > room:
                total = self._evict(needed)
                room = min(self.max_bytes - total, shutil.disk_usage(self.root).free - self.min_free_bytes)
            if needed > room and needed > 0:
                self._write_total(total)
                return False
            # the count is never behind the files: it grows before they do and shrinks after they did
            self._write_total(total + max(needed, 0))
            os.ftruncate(part.descriptor, 0)  # what a killed download left there is not to be seen in this one
            os.ftruncate(part.descriptor, size)
            self._write_total(total + needed)
            part.reserved = size
            return True

    def _evict(self, needed: int) -> int:
        """Remove parts of the dead, then objects by age, until `needed` bytes fit; returns the bytes that are left."""
        for path in (self.root / "parts").iterdir():
            _remove_unless_used(path)
        total = self.used_bytes()
        aim = min(int(self.max_bytes * EVICT_TO), self.max_bytes - needed)
        scarce = needed + self.min_free_bytes - shutil.disk_usage(self.root).free
        aim = min(aim, total - scarce)
        found = []
        for path in self._objects():
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(found):
            if total <= aim:
                break
            total -= _remove_unless_used(path)
        return total

    def used_bytes(self) -> int:
        """Bytes of all objects and parts, measured."""
        total = 0
        for path in (*self._objects(), *(self.root / "parts").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _objects(self) -> list[Path]:
        return [Path(entry.path) for folder in os.scandir(self.root / "objects") for entry in os.scandir(folder.path)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the index; gives the bytes in all files by its count."""
        descriptor = _open(self.root / "index.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            count = os.pread(descriptor, COUNT_WIDTH, 0)
            yield int(count) if count.strip().isdigit() else self.used_bytes()
        finally:
            close(descriptor)

    def _write_total(self, total: int) -> None:
        """Write the count down; only while the index is held."""
        descriptor = _open(self.root / "index.lock", os.O_RDWR)
        try:
            os.pwrite(descriptor, f"{max(total, 0):{COUNT_WIDTH}d}".encode(), 0)
        finally:
            close(descriptor)


def digest_of(path: Path) -> str:
    """The MD5 of a file, for comparing contents, not for security."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def try_lock_folder(root: Path) -> int | None:
    """A descriptor that says, while it is open, that somebody owns a folder; None when another one does."""
    path = root / "owner.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # workers inherit it: they use it too
    except FileNotFoundError:
        return None
    if _try_lock(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def close(descriptor: int) -> None:
    """Close what `_open` opened, and with it give up its lock."""
    with _guard:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    with _guard:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        _descriptors.add(descriptor)
    return descriptor


def _close_after_fork() -> None:
    global _guard
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()
    _guard = threading.Lock()


# A forked child has copies of its parent's descriptors, and would go on holding the locks of work that is not its own.
_descriptors: set[int] = set()
_guard = threading.Lock()
os.register_at_fork(
    before=lambda: _guard.acquire(), after_in_parent=lambda: _guard.release(), after_in_child=_close_after_fork
)


def _remove_unless_used(path: Path) -> int:
    """Bytes freed: 0 when somebody reads or writes the file, or when it is gone."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        if not _try_lock(descriptor, path):
            return 0
        size = os.fstat(descriptor).st_size
        path.unlink()
        return size
    finally:
        close(descriptor)


def _try_lock(descriptor: int, path: Path) -> bool:
    """Lock an open file for ourselves; False when another one has it, or when the path no longer leads to it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return _is_at(descriptor, path)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        at, opened = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (at.st_dev, at.st_ino) == (opened.st_dev, opened.st_ino)


def _name(address: str) -> str:
    return hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _tag(etag: str) -> str:
    """An ETag as part of a file's name."""
    return etag if re.fullmatch(r"[0-9A-Za-z-]{1,64}", etag) else hashlib.sha256(etag.encode()).hexdigest()[:32]

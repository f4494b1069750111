"""A folder of downloaded objects that never exceeds its size limit, with any number of processes using it.

    objects/3f/3fa9...-524288-9e10...-d41d.mp3   named by address, size, MD5 and ETag; complete, put here by a rename
    parts/3fa9...                                being downloaded; has the full size of the object from the start
    index.lock                                   held while bytes are reserved; its text is the bytes in all files

The files themselves are the index. A part is both a reservation and a lock. It gets its full length before its first
byte, and the downloader holds a kernel lock (flock) on it. The lock ends with the process, even if it is killed. Then
any process may take the part over or remove it. Readers hold a shared lock on the file that they read, and locked
files are not evicted. In a folder that is kept between runs, each process compares a copy with its MD5 before the
first use. Thanks to flock, threads, workers, ranks and runs on one machine need not know of each other. Not for
network file systems.
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

EVICT_TO = 0.9  # of the limit: an eviction reads every file's time, so it frees more than one object needs
WAIT = 0.01  # s between two attempts to reserve bytes
PATIENCE = 60.0  # s to wait for free bytes
COUNT_WIDTH = 20  # digits
ENTRY = re.compile(r"([0-9a-f]{40})-(\d+)-([0-9a-f]{32})-([\w-]+)(\.\w+)?")


class CacheFull(OSError):
    """There is no room, and nothing can be evicted."""


@dataclass
class Part:
    """The file of a download, with the lock on it."""

    path: Path
    descriptor: int
    reserved: int = 0  # bytes

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data` at a position."""
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
    stamp: int = field(default=0, compare=False)  # ns, modification time until its first use; 0: unknown

    def touch(self) -> bool:
        """Mark it as used just now. Return False if it is gone or its size has changed."""
        try:
            if os.stat(self.path).st_size != self.size:
                return False
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True


class FileCache:
    """The cache folder. With `durable`, files are on disk before they get their name, for a folder that is kept."""

    def __init__(self, root: Path, max_bytes: int, min_free_bytes: int, durable: bool) -> None:
        self.root, self.max_bytes, self.min_free_bytes, self.durable = root, max_bytes, min_free_bytes, durable
        self.verified: set[Path] = set()  # copies with a correct MD5; a forked process inherits them
        for folder in ("objects", "parts"):
            (root / folder).mkdir(parents=True, exist_ok=True, mode=0o700)

    def lookup(self, address: str, etag: str | None = None) -> Entry | None:
        """Return the cached object of an address, with this ETag if one is given. Remove one with a wrong length."""
        name = _name(address)
        folder = self.root / "objects" / name[:2]
        try:
            candidates = [entry for entry in os.listdir(folder) if entry.startswith(name)]
        except FileNotFoundError:
            return None
        if etag is None and len(candidates) > 1:
            return None  # an older version is still being read, and nothing shows which one is newer
        for candidate in candidates:
            match = ENTRY.fullmatch(candidate)
            if match is None or (etag is not None and match[4] != _tag(etag)):
                continue
            entry = Entry(folder / candidate, int(match[2]), match[3], match[4])
            if entry.touch():
                return entry
            entry.path.unlink(missing_ok=True)  # its bytes stay in the count until the next eviction
        return None

    def verify(self, entry: Entry) -> bool | None:
        """Check a copy's MD5, once per process. Return False if it was wrong and is removed, None if it is gone."""
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
            entry.path.unlink()  # its bytes stay in the count until the next eviction
            return False
        except FileNotFoundError:
            return None
        finally:
            close(descriptor)

    def claim(self, address: str) -> Part | None:
        """Return the right to download an object, or None while another thread or process has it."""
        path = self.root / "parts" / _name(address)
        while True:
            descriptor = _open(path, os.O_RDWR | os.O_CREAT)
            if not _try_lock(descriptor, path):
                close(descriptor)
                if not path.exists():
                    continue  # removed or published between the two calls
                return None
            part = Part(path, descriptor, os.fstat(descriptor).st_size)
            if part.reserved:  # left by a killed process
                self.resize(part, 0)
            return part

    def resize(self, part: Part, size: int, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Reserve `size` bytes for a part, evicting least recently used objects. CacheFull after PATIENCE seconds."""
        if size > self.max_bytes:
            raise CacheFull(f"max_bytes={self.max_bytes}: less than an object of {size} bytes. Raise max_bytes.")
        # Objects that others are downloading can be evicted once they are complete, so waiting helps.
        end = time.monotonic() + PATIENCE
        while not self._resize_now(part, size):
            if cancelled() or time.monotonic() > end:
                raise CacheFull(
                    f"{self.root}: no room for {size} bytes within {PATIENCE:g} s. The other bytes of "
                    f"max_bytes={self.max_bytes} are in use, or the disk is full. Raise it, or hold fewer files."
                )
            time.sleep(WAIT)

    def publish(self, part: Part, address: str, size: int, md5: str, etag: str, suffix: str) -> Entry:
        """Give a complete part its final name, and remove older versions of the object."""
        if self.durable:
            os.fdatasync(part.descriptor)
        name = _name(address)
        path = self.root / "objects" / name[:2] / f"{name}-{size}-{md5}-{_tag(etag)}{suffix}"
        now = time.time_ns()  # finer than the clock of `touch`, so a use right after this gets another time
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
        """Remove an incomplete part."""
        with self._locked() as total:
            part.path.unlink(missing_ok=True)
            self._write_total(total - part.reserved)
        close(part.descriptor)

    def lease(self, entry: Entry) -> int | None:
        """Return a descriptor that keeps an entry from eviction until it is closed, or None if the entry is gone."""
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
        """Remove all objects that are not being read."""
        with self._locked():
            for path in self._objects():
                _remove_unless_used(path)
            self._write_total(self.used_bytes())

    def evict(self, needed: int) -> None:
        """Free `needed` bytes if possible, after the disk turned out to be full."""
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
            # The count is never less than the files' bytes: it grows before they do and shrinks after they did.
            self._write_total(total + max(needed, 0))
            os.ftruncate(part.descriptor, 0)  # discard bytes of a killed download
            os.ftruncate(part.descriptor, size)
            self._write_total(total + needed)
            part.reserved = size
            return True

    def _evict(self, needed: int) -> int:
        """Remove abandoned parts, then the oldest objects, until `needed` bytes fit. Return the remaining bytes."""
        for path in (self.root / "parts").iterdir():
            _remove_unless_used(path)
        total = self.used_bytes()
        target = min(int(self.max_bytes * EVICT_TO), self.max_bytes - needed)
        shortfall = needed + self.min_free_bytes - shutil.disk_usage(self.root).free
        target = min(target, total - shortfall)
        by_age = []
        for path in self._objects():
            with contextlib.suppress(FileNotFoundError):
                by_age.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(by_age):
            if total <= target:
                break
            total -= _remove_unless_used(path)
        return total

    def used_bytes(self) -> int:
        """Measure the bytes of all objects and parts."""
        total = 0
        for path in (*self._objects(), *(self.root / "parts").iterdir()):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def _objects(self) -> list[Path]:
        return [Path(entry.path) for folder in os.scandir(self.root / "objects") for entry in os.scandir(folder.path)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Lock the index. Yield the count of bytes in all files."""
        descriptor = _open(self.root / "index.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            count = os.pread(descriptor, COUNT_WIDTH, 0)
            yield int(count) if count.strip().isdigit() else self.used_bytes()
        finally:
            close(descriptor)

    def _write_total(self, total: int) -> None:
        """Write the count. Only while the index is locked."""
        descriptor = _open(self.root / "index.lock", os.O_RDWR)
        try:
            os.pwrite(descriptor, f"{max(total, 0):{COUNT_WIDTH}d}".encode(), 0)
        finally:
            close(descriptor)


def digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        # MD5 compares contents here. It is not for security.
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def try_lock_folder(root: Path) -> int | None:
    """Return a descriptor that owns a folder while it is open, or None if another process owns it."""
    path = root / "owner.lock"
    try:
        # Not through `_open`: forked workers use the folder too, so they inherit its lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    if _try_lock(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def close(descriptor: int) -> None:
    """Close a descriptor of `_open`, and release its lock."""
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


# A forked child inherits its parent's descriptors, and would hold the locks of the parent's work.
_descriptors: set[int] = set()
_guard = threading.Lock()
os.register_at_fork(
    before=lambda: _guard.acquire(), after_in_parent=lambda: _guard.release(), after_in_child=_close_after_fork
)


def _remove_unless_used(path: Path) -> int:
    """Return the freed bytes: 0 if the file is being read or written, or is gone."""
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
    """Lock an open file. Return False if another process has it, or if the path leads to another file."""
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
    """Turn an ETag into a part of a file name."""
    return etag if re.fullmatch(r"[0-9A-Za-z-]{1,64}", etag) else hashlib.sha256(etag.encode()).hexdigest()[:32]

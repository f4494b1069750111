"""Raw files wherever they lie: `S3FileManager` gives objects of S3 (or any fsspec URL) as local files.

    files = S3FileManager.shared()
    files.prefetch_files(urls)              # returns at once
    path = files.download_file(urls[0])     # waits; overtakes what is only prefetched
    with files.lease(urls[0]) as path: ...  # not evicted inside

An object costs one GET, however many threads, workers, ranks or programs on this machine ask for it, and comes whole
and verified or not at all. The local copies never take more than `max_bytes` (storage_cache.py). Paths without `://`
are given back as they are.
"""

import atexit
import contextlib
import errno
import itertools
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import fsspec

from system.storage_cache import FileCache, close, try_lock_folder
from system.storage_downloads import DEADLINE, Downloads, Statistics
from system.storage_remote import (
    OPTIONS,
    S3Object,
    S3ObjectChanged,
    Store,
    check_options,
    is_remote,
    parse_s3_url,
    refuse_web_address,
    s3fs_arguments,
)

__all__ = [
    "OPTIONS",
    "S3FileManager",
    "S3Object",
    "S3ObjectChanged",
    "check_options",
    "is_remote",
    "list_objects",
    "parse_s3_url",
    "refuse_web_address",
    "s3_download",
    "scratch_folder",
]

T = TypeVar("T")

MAX_BYTES = 8 << 30  # of local copies
MIN_FREE_BYTES = 1 << 28  # that are left on the disk
FOLDER, SCRATCH = "feltsound-files-", "feltsound-scratch-"


class S3FileManager:
    """Local copies of remote files: downloaded ahead or on demand, verified, at most `max_bytes` of them.

    Args:
        cache_dir: a folder to keep copies in from run to run; None makes one that goes with this process.
        max_bytes: the most that all copies take at any moment, those being downloaded included.
        max_workers: objects downloaded at once.
        storage_options: profile, endpoint_url, region, anon, requester_pays, read_timeout (s); never a secret:
            credentials come from AWS's own chain (environment, ~/.aws, role).
        min_free_bytes: what is left free on the disk.
        tries: requests for one object before its error is raised; only errors that may pass are tried again.
        show_progress: a bar for what is prefetched.

    A copy is valid for the run: a plain URL is not asked for again. An `S3Object` from a listing is only ever answered
    with the content that was listed; `revalidate=True` asks the store what is current.
    """

    _shared: ClassVar["S3FileManager | None"] = None
    _shared_lock: ClassVar[Any] = threading.Lock()

    def __init__(
        self,
        cache_dir: str | os.PathLike | None = None,
        max_bytes: int = MAX_BYTES,
        max_workers: int = 16,
        storage_options: dict[str, Any] | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
        tries: int = 5,
        show_progress: bool = False,
    ) -> None:
        for name, value in (("max_bytes", max_bytes), ("max_workers", max_workers), ("tries", tries)):
            if value < 1:
                raise ValueError(f"{name} = {value}: give 1 or more")
        self.settings = {
            "max_bytes": max_bytes,
            "max_workers": max_workers,
            "storage_options": check_options(storage_options or {}),
            "min_free_bytes": min_free_bytes,
            "tries": tries,
            "show_progress": show_progress,
        }
        self.max_bytes, self.options = max_bytes, self.settings["storage_options"]
        self.persistent = cache_dir is not None
        self.owner = None if self.persistent else os.getpid()
        self.root = Path(cache_dir) if cache_dir is not None else _own_folder(FOLDER)
        self.cache = FileCache(self.root, max_bytes, min_free_bytes, durable=self.persistent)
        self._described: dict[str, S3Object | None] = {}  # by URL; None: not there
        self._start_process()
        _managers.add(self)

    @classmethod
    def shared(cls, **settings: Any) -> "S3FileManager":
        """The one manager of this process, made at the first call; settings that differ from its own are an error."""
        with cls._shared_lock:
            if cls._shared is None or cls._shared._downloads.closing.is_set():
                cls._shared = cls(**settings)
            live = cls._shared
            for name, value in settings.items():
                own = str(live.root) if name == "cache_dir" else live.settings[name]
                if value is not None and own != (str(value) if name == "cache_dir" else value):
                    raise ValueError(f"{name} = {value!r}, but this process has a file manager with {own!r} already")
            return live

    @classmethod
    def live(cls) -> "S3FileManager | None":
        """The shared manager if there is one already."""
        return cls._shared

    @classmethod
    def adopt(cls, manager: "S3FileManager | None") -> None:
        """Make another process's manager, as it came through pickling, the shared one of this worker process."""
        cls._shared = manager

    def download_file(
        self, path: str | os.PathLike | S3Object, *, timeout: float | None = None, revalidate: bool = False
    ) -> Path:
        """The local copy of a file, when it is there; raises what stands in its way. TimeoutError after `timeout` s.

        It may be evicted later, by other downloads; `lease` and `read_bytes` hold on to it.
        """
        if not isinstance(path, S3Object) and not is_remote(path):
            return _local(path)
        if revalidate:
            path = self._downloads.store().describe(path.url if isinstance(path, S3Object) else str(path))
        return self._downloads.get(*_parts(path), timeout).path

    def prefetch_files(self, paths: Iterable[str | S3Object]) -> None:
        """Begin to download files that will be asked for, in this order; returns at once and raises nothing.

        What fails is in `stats()`, and raised when it is asked for. Files fetched ahead take at most half the limit
        until they are asked for; the rest wait their turn.
        """
        self._downloads.prefetch(parts for parts in map(_parts, paths) if is_remote(parts[0]))

    def get_file(self, path: str | os.PathLike | S3Object) -> Path | None:
        """The local copy if there is one; never asks the network."""
        if not isinstance(path, S3Object) and not is_remote(path):
            return Path(path) if Path(path).exists() else None
        url, _, etag = _parts(path)
        entry = self._downloads.find(url, etag)
        return entry.path if entry else None

    @contextlib.contextmanager
    def lease(self, path: str | os.PathLike | S3Object, *, timeout: float | None = None) -> Iterator[Path]:
        """The local copy, which no process evicts inside the block."""
        if not isinstance(path, S3Object) and not is_remote(path):
            yield _local(path)
            return
        held = None
        while held is None:  # it may be evicted before it is held
            entry = self._downloads.get(*_parts(path), timeout)
            held = self.cache.lease(entry)
        try:
            yield entry.path
        finally:
            close(held)

    def read_bytes(self, path: str | os.PathLike | S3Object) -> bytes:
        """The content of a file."""
        with self.lease(path) as local:
            return local.read_bytes()

    def upload_file(self, path: str | os.PathLike, url: str) -> None:
        """Put a file of this machine into S3 in one piece: its ETag is its MD5. It is never whole in memory."""
        self._tried(self._downloads.store().upload, path, url)

    def describe_files(self, urls: Iterable[str]) -> dict[str, S3Object]:
        """Size and ETag of files, asked for once by this manager; those that are not there are left out.

        Of S3 the listing is asked, by no more requests than there are files, and no more than it has pages; where
        listing is not allowed, and elsewhere, each file costs a request.
        """
        urls = set(urls)
        by_bucket: dict[str, list[str]] = {}
        for url in sorted(urls - self._described.keys()):
            bucket, key = parse_s3_url(url) if url.startswith("s3://") else ("", url)
            by_bucket.setdefault(bucket, []).append(key)
        for bucket, keys in by_bucket.items():
            new = keys if not bucket else [f"s3://{bucket}/{key}" for key in keys]
            try:
                found = self._find(bucket, keys) if bucket else self._describe_each(new)
            except PermissionError:
                found = self._describe_each(new)
            self._described |= dict.fromkeys(new) | {file.url: file for file in found}
        return {url: file for url in urls if (file := self._described[url]) is not None}

    def stats(self) -> Statistics:
        """What this process did so far."""
        return self._downloads.stats()

    def file_system(self) -> Any:
        """The fsspec file system of S3 with these options, for all else: removing files, and reading parts of them."""
        store = self._downloads.store().s3()
        if store.session is None:
            store.connect()  # its session serves both: one of its own would read S3's description anew, 15 MiB
        arguments = s3fs_arguments(self.options) | {"session": store.session}
        return fsspec.filesystem("s3", use_listings_cache=False, **arguments)

    def list_objects(self, prefix: str) -> list[S3Object]:
        """Every object below a prefix, with size and ETag; a request a thousand."""
        return self._downloads.store().list(prefix)

    def clear_cache(self) -> None:
        """Remove all local copies but those being read."""
        self._downloads.forget()
        self.cache.clear()

    def close(self) -> None:
        """Stop downloads; a folder of our own goes. Waiting callers get CancelledError."""
        self._downloads.close()
        if self.owner == os.getpid():
            shutil.rmtree(self.root, ignore_errors=True)

    def __reduce__(self) -> tuple:
        return _attach, (str(self.root), self.settings, self.persistent)

    def __repr__(self) -> str:
        return f"S3FileManager({str(self.root)!r}, {self.settings})"

    def _find(self, bucket: str, keys: Sequence[str]) -> list[S3Object]:
        """The existing ones of some keys, in order; pages of the listing without any of them are passed over."""
        prefix, last, more = os.path.commonprefix(keys), "", True
        found, page = [], {}
        for key in keys:
            while more and key > last:
                files, more = self._tried(self._downloads.store().list_page, bucket, prefix, max(last, key[:-1]))
                page = {parse_s3_url(file.url)[1]: file for file in files}
                last = max(page, default=last)
            found += [page[key]] if key in page else []
        return found

    def _describe_each(self, urls: Sequence[str]) -> list[S3Object]:
        """The existing ones of some files, by a request each."""

        def described(url: str) -> S3Object | None:
            try:
                return self._tried(self._downloads.store().describe, url)
            except (FileNotFoundError, PermissionError):
                return None

        with ThreadPoolExecutor(self.settings["max_workers"]) as pool:
            return [file for file in pool.map(described, urls) if file is not None]

    def _tried(self, ask: Callable[..., T], *arguments: Any) -> T:
        """The answer to a request, which is made again where that may help."""
        deadline = time.monotonic() + DEADLINE
        for attempt in itertools.count(1):
            try:
                return ask(*arguments)
            except OSError as error:
                self._downloads.wait_to_try_again(error, attempt, deadline)
        raise AssertionError

    def _start_process(self) -> None:
        """Start without downloads; a forked child does not use the threads, locks and connections of its parent."""
        own = {name: self.settings[name] for name in ("max_workers", "tries", "show_progress")}
        self._downloads = Downloads(self.cache, self.options, **own)


def list_objects(prefix: str, storage_options: dict[str, Any] | None = None) -> list[S3Object]:
    """Every object below a prefix of S3 or another fsspec URL, with size and ETag; a request a thousand."""
    return Store(storage_options or {}, connections=4).list(prefix)


def s3_download(path: str) -> Path:
    """The local copy of one file, by this process's shared manager."""
    return S3FileManager.shared().download_file(path)


def _parts(path: str | S3Object) -> tuple[str, int | None, str | None]:
    return (path.url, path.size, path.etag) if isinstance(path, S3Object) else (str(path), None, None)


def _local(path: str | os.PathLike) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return Path(path)


def scratch_folder() -> Path:
    """This process's folder for temporary files, which goes with it; a killed one's goes with the next process."""
    key = os.getpid(), tempfile.gettempdir()
    if key not in _scratch:
        _scratch[key] = _own_folder(SCRATCH)
    return _scratch[key]


def _own_folder(name: str) -> Path:
    """A new folder of this process, after those of processes that are no longer there were removed."""
    base = Path(tempfile.gettempdir()) / f"{name}{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    for folder in base.iterdir():
        lock = try_lock_folder(folder) if (folder / "owner.lock").exists() else None
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
    while True:
        folder = Path(tempfile.mkdtemp(dir=base, prefix=f"{os.getpid()}-"))
        lock = try_lock_folder(folder)
        if lock is not None:  # else another process took it for one that was left behind
            _owned_locks.append(lock)
            return folder


def _attach(root: str, settings: dict[str, Any], persistent: bool) -> S3FileManager:
    """A manager of another process's folder."""
    manager = S3FileManager(cache_dir=root, **settings)
    manager.cache.durable = manager.persistent = persistent
    return manager


def _restart_after_fork() -> None:
    S3FileManager._shared_lock = threading.Lock()
    for manager in _managers:
        manager._start_process()


@atexit.register
def _close_all() -> None:
    for manager in list(_managers):
        if manager.owner == os.getpid():
            manager.close()
    for (process, _), folder in _scratch.items():
        if process == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)


_managers: weakref.WeakSet[S3FileManager] = weakref.WeakSet()
_scratch: dict[tuple[int, str], Path] = {}  # by process, as a forked one has another, and place
_owned_locks: list[int] = []  # held until this process and its forked workers end
os.register_at_fork(after_in_child=_restart_after_fork)

"""Access files anywhere: `S3FileManager` gives objects of S3 (or any fsspec URL) as local files.

    files = S3FileManager.shared()
    files.prefetch_files(urls)              # returns at once
    path = files.download_file(urls[0])     # waits; goes before prefetched files
    with files.lease(urls[0]) as path: ...  # not evicted inside the block

An object costs one GET, no matter how many threads, workers, ranks or programs on this machine need it. It arrives
complete and verified, or not at all. The local copies never exceed `max_bytes` (storage_cache.py). Paths without `://`
are returned unchanged.
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

MAX_BYTES = 8 << 30  # 8 GiB of local copies
MIN_FREE_BYTES = 1 << 28  # 256 MiB stay free on the disk
FOLDER, SCRATCH = "feltsound-files-", "feltsound-scratch-"  # prefixes of folders in the temporary folder


class S3FileManager:
    """Local copies of remote files: downloaded ahead or on demand, verified, up to `max_bytes`.

    Args:
        cache_dir: folder in which copies are kept from run to run. None creates one that is removed with the process.
        max_bytes: limit of all copies together, including downloads in progress.
        max_workers: number of parallel downloads.
        storage_options: profile, endpoint_url, region, anon, requester_pays, read_timeout (s). Never a secret:
            credentials come from AWS's own chain (environment, ~/.aws, role).
        min_free_bytes: bytes that stay free on the disk.
        tries: number of requests for one object before its error is raised. Only transient errors are retried.
        show_progress: show a progress bar of prefetched files.

    A copy is valid for the run: a plain URL is not requested again. For an `S3Object` from a listing, only the content
    that was listed is returned. `revalidate=True` asks the store for the current content.
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
                raise ValueError(f"{name}={value}: must be at least 1. Give a larger number.")
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
        self._described: dict[str, S3Object | None] = {}  # by URL; None: the object does not exist
        self._start_process()
        _managers.add(self)

    @classmethod
    def shared(cls, **settings: Any) -> "S3FileManager":
        """Return the one manager of this process. Raise ValueError if `settings` differ from its own."""
        with cls._shared_lock:
            if cls._shared is None or cls._shared._downloads.closing.is_set():
                cls._shared = cls(**settings)
            live = cls._shared
            for name, value in settings.items():
                current = str(live.root) if name == "cache_dir" else live.settings[name]
                if value is not None and current != (str(value) if name == "cache_dir" else value):
                    raise ValueError(f"{name}={value!r}: the file manager of this process has {current!r}. Give that.")
            return live

    @classmethod
    def live(cls) -> "S3FileManager | None":
        """Return the shared manager if it exists."""
        return cls._shared

    @classmethod
    def adopt(cls, manager: "S3FileManager | None") -> None:
        """Use a manager of another process, received by pickling, as the shared one of this worker."""
        cls._shared = manager

    def download_file(
        self, path: str | os.PathLike | S3Object, *, timeout: float | None = None, revalidate: bool = False
    ) -> Path:
        """Return the local copy of a file after downloading it. Raise TimeoutError after `timeout` s.

        Later downloads may evict the copy. `lease` and `read_bytes` protect it.
        """
        if not isinstance(path, S3Object) and not is_remote(path):
            return _local(path)
        if revalidate:
            path = self._downloads.store().describe(path.url if isinstance(path, S3Object) else str(path))
        return self._downloads.get(*_parts(path), timeout).path

    def prefetch_files(self, paths: Iterable[str | S3Object]) -> None:
        """Start downloading files that will be needed, in this order. Return at once and raise nothing.

        Errors are in `stats()`, and are raised when the file is requested. Prefetched files that were not requested
        yet take up to half the limit. Others wait.
        """
        self._downloads.prefetch(parts for parts in map(_parts, paths) if is_remote(parts[0]))

    def get_file(self, path: str | os.PathLike | S3Object) -> Path | None:
        """Return the local copy if it exists, without network access."""
        if not isinstance(path, S3Object) and not is_remote(path):
            return Path(path) if Path(path).exists() else None
        url, _, etag = _parts(path)
        entry = self._downloads.find(url, etag)
        return entry.path if entry else None

    @contextlib.contextmanager
    def lease(self, path: str | os.PathLike | S3Object, *, timeout: float | None = None) -> Iterator[Path]:
        """Yield the local copy, which no process evicts inside the block."""
        if not isinstance(path, S3Object) and not is_remote(path):
            yield _local(path)
            return
        descriptor = None
        while descriptor is None:  # another process may evict the copy before it is locked
            entry = self._downloads.get(*_parts(path), timeout)
            descriptor = self.cache.lease(entry)
        try:
            yield entry.path
        finally:
            close(descriptor)

    def read_bytes(self, path: str | os.PathLike | S3Object) -> bytes:
        """Return the content of a file."""
        with self.lease(path) as local:
            return local.read_bytes()

    def upload_file(self, path: str | os.PathLike, url: str) -> None:
        """Upload a local file to S3 in one part, so that its ETag is its MD5. Memory does not grow with the file."""
        self._with_retries(self._downloads.store().upload, path, url)

    def describe_files(self, urls: Iterable[str]) -> dict[str, S3Object]:
        """Return size and ETag of existing files. Each file is requested once per manager.

        On S3 this lists pages, with at most one request per file and no more than the listing has pages. If listing is
        not allowed, and on other stores, each file costs one request.
        """
        urls = set(urls)
        by_bucket: dict[str, list[str]] = {}
        for url in sorted(urls - self._described.keys()):
            bucket, key = parse_s3_url(url) if url.startswith("s3://") else ("", url)
            by_bucket.setdefault(bucket, []).append(key)
        for bucket, keys in by_bucket.items():
            new = keys if not bucket else [f"s3://{bucket}/{key}" for key in keys]
            try:
                existing = self._find(bucket, keys) if bucket else self._describe_each(new)
            except PermissionError:
                existing = self._describe_each(new)
            self._described |= dict.fromkeys(new) | {file.url: file for file in existing}
        return {url: file for url in urls if (file := self._described[url]) is not None}

    def stats(self) -> Statistics:
        """Return the statistics of this process."""
        return self._downloads.stats()

    def file_system(self) -> Any:
        """Return the fsspec file system of S3 with these options, for removing files and reading parts of them."""
        store = self._downloads.store().s3()
        if store.session is None:
            store.connect()  # share its session: a new one would load botocore's description of S3 again, 15 MiB
        arguments = s3fs_arguments(self.options) | {"session": store.session}
        return fsspec.filesystem("s3", use_listings_cache=False, **arguments)

    def list_objects(self, prefix: str) -> list[S3Object]:
        """List all objects below a prefix, with size and ETag: one request per thousand objects."""
        return self._downloads.store().list(prefix)

    def clear_cache(self) -> None:
        """Remove all local copies that are not being read."""
        self._downloads.forget()
        self.cache.clear()

    def close(self) -> None:
        """Stop downloads and remove a temporary folder. Waiting callers get CancelledError."""
        self._downloads.close()
        if self.owner == os.getpid():
            shutil.rmtree(self.root, ignore_errors=True)

    def __reduce__(self) -> tuple:
        return _attach, (str(self.root), self.settings, self.persistent)

    def __repr__(self) -> str:
        return f"S3FileManager({str(self.root)!r}, {self.settings})"

    def _find(self, bucket: str, keys: Sequence[str]) -> list[S3Object]:
        """Return the objects that exist for sorted keys. Skip pages of the listing that contain none of the keys."""
        prefix, last, more = os.path.commonprefix(keys), "", True
        existing, page = [], {}
        for key in keys:
            while more and key > last:
                # Start just before the key: `StartAfter` excludes the key itself.
                files, more = self._with_retries(
                    self._downloads.store().list_page, bucket, prefix, max(last, key[:-1])
                )
                page = {parse_s3_url(file.url)[1]: file for file in files}
                last = max(page, default=last)
            existing += [page[key]] if key in page else []
        return existing

    def _describe_each(self, urls: Sequence[str]) -> list[S3Object]:
        """Return the files that exist, with one request per file."""

        def described(url: str) -> S3Object | None:
            try:
                return self._with_retries(self._downloads.store().describe, url)
            except (FileNotFoundError, PermissionError):
                return None

        with ThreadPoolExecutor(self.settings["max_workers"]) as pool:
            return [file for file in pool.map(described, urls) if file is not None]

    def _with_retries(self, request: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a request, and retry transient errors."""
        deadline = time.monotonic() + DEADLINE
        for attempt in itertools.count(1):
            try:
                return request(*arguments)
            except OSError as error:
                self._downloads.wait_before_retry(error, attempt, deadline)
        raise AssertionError

    def _start_process(self) -> None:
        """Create the downloads of this process. A forked child cannot use the parent's threads and connections."""
        settings = {name: self.settings[name] for name in ("max_workers", "tries", "show_progress")}
        self._downloads = Downloads(self.cache, self.options, **settings)


def list_objects(prefix: str, storage_options: dict[str, Any] | None = None) -> list[S3Object]:
    """List all objects below a prefix of S3 or another fsspec URL, with size and ETag: one request per thousand."""
    return Store(storage_options or {}, connections=4).list(prefix)


def s3_download(path: str) -> Path:
    """Return the local copy of a file, from the shared manager of this process."""
    return S3FileManager.shared().download_file(path)


def _parts(path: str | S3Object) -> tuple[str, int | None, str | None]:
    return (path.url, path.size, path.etag) if isinstance(path, S3Object) else (str(path), None, None)


def _local(path: str | os.PathLike) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return Path(path)


def scratch_folder() -> Path:
    """Return this process's folder for temporary files. It is removed at exit, or by a later process after a kill."""
    key = os.getpid(), tempfile.gettempdir()
    if key not in _scratch:
        _scratch[key] = _own_folder(SCRATCH)
    return _scratch[key]


def _own_folder(name: str) -> Path:
    """Create a folder for this process, and remove folders of processes that have ended."""
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
        if lock is not None:  # otherwise another process took the new folder for an abandoned one
            _owned_locks.append(lock)
            return folder


def _attach(root: str, settings: dict[str, Any], persistent: bool) -> S3FileManager:
    """Create a manager of another process's folder."""
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
_scratch: dict[tuple[int, str], Path] = {}  # by process id, because a fork inherits this dict, and temporary folder
_owned_locks: list[int] = []  # open until this process and its forked workers end
os.register_at_fork(after_in_child=_restart_after_fork)

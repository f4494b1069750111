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
import logging
import os
import queue
import random
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import fsspec
from tqdm import tqdm

from system.process import exit_on_sigterm
from system.storage_cache import CacheFull, Entry, FileCache, Part, close, try_lock_folder
from system.storage_remote import (
    OPTIONS,
    S3Object,
    S3ObjectChanged,
    Store,
    changed,
    check_options,
    etag_of,
    is_remote,
    may_help_to_try_again,
    new_md5,
    parse_s3_url,
    s3fs_arguments,
)

logger = logging.getLogger(__name__)

__all__ = [
    "OPTIONS",
    "S3FileManager",
    "S3Object",
    "S3ObjectChanged",
    "check_options",
    "exit_on_sigterm",
    "is_remote",
    "list_objects",
    "parse_s3_url",
    "s3_download",
]

MAX_BYTES = 8 << 30  # of local copies
MIN_FREE_BYTES = 1 << 28  # that are left on the disk
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # s before another try, at most; the pause is random below it
DEADLINE = 300.0  # s after which a failed try is the last one
RESUME_FROM = 64 << 20  # bytes; a shorter object begins anew when its body is cut
PREFETCH_SHARE = 0.5  # of the limit for files that were fetched ahead and not asked for yet
BLOCKING, AHEAD = 0, 10  # priorities; the smaller first
GLANCE = 0.05  # s between two looks whether others have read what was fetched ahead
LOOKED_AT = 64  # files at such a look, the oldest: they are read in about the order in which they were asked for
FAREWELL = 2.0  # s that a closing manager waits for each of its threads
FOLDER = "feltsound-files-"


@dataclass
class Statistics:
    """What a manager did in this process."""

    hits: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0
    retries: int = 0
    waited_seconds: float = 0.0  # in blocking calls
    failed_prefetches: dict[str, str] = field(default_factory=dict)  # why, by URL


@dataclass(slots=True)
class _Job:
    url: str
    size: int | None
    etag: str | None
    ahead: bool  # nobody waits for it yet
    future: Future | None = None  # made when somebody waits
    started: bool = False


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
        self.max_bytes, self.max_workers, self.tries, self.show_progress = max_bytes, max_workers, tries, show_progress
        self.options = self.settings["storage_options"]
        self.persistent = cache_dir is not None
        self.owner = None if self.persistent else os.getpid()
        self.root = Path(cache_dir) if cache_dir is not None else _own_folder()
        self.cache = FileCache(self.root, max_bytes, min_free_bytes, durable=self.persistent)
        self._start_process()
        _managers.add(self)

    @classmethod
    def shared(cls, **settings: Any) -> "S3FileManager":
        """The one manager of this process, made at the first call; settings that differ from its own are an error."""
        with cls._shared_lock:
            if cls._shared is None or cls._shared._closing.is_set():
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
            path = self._store().describe(path.url if isinstance(path, S3Object) else str(path))
        return self._entry(path, timeout).path

    def prefetch_files(self, paths: Iterable[str | S3Object]) -> None:
        """Begin to download files that will be asked for, in this order; returns at once and raises nothing.

        What fails is in `stats()`, and raised when it is asked for. Files fetched ahead take at most half the limit
        until they are asked for; the rest wait their turn.
        """
        new = 0
        with self._lock:
            for path in paths:
                url, size, etag = _parts(path)
                if not is_remote(url) or url in self._jobs or url in self._unread:
                    continue
                known = self._known.get(url)
                if known is None or etag not in (None, known[1]) or not known[0].touch():
                    self._enqueue(_Job(url, size, etag, ahead=True), AHEAD)
                    new += 1
            if self.show_progress and new:
                self._bar = self._bar or tqdm(total=0, desc="fetching", unit="file")
                self._bar.total += new
                self._bar.refresh()

    def get_file(self, path: str | os.PathLike | S3Object) -> Path | None:
        """The local copy if there is one; never asks the network."""
        if not isinstance(path, S3Object) and not is_remote(path):
            return Path(path) if Path(path).exists() else None
        url, _, etag = _parts(path)
        entry = self._hit(url, etag)
        return entry.path if entry else None

    @contextlib.contextmanager
    def lease(self, path: str | os.PathLike | S3Object, *, timeout: float | None = None) -> Iterator[Path]:
        """The local copy, which no process evicts inside the block."""
        if not isinstance(path, S3Object) and not is_remote(path):
            yield _local(path)
            return
        held = None
        while held is None:  # it may be evicted before it is held
            entry = self._entry(path, timeout)
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
        deadline = time.monotonic() + DEADLINE
        for attempt in itertools.count(1):
            try:
                return self._store().upload(path, url)
            except OSError as error:
                self._wait_to_try_again(error, attempt, deadline)

    def stats(self) -> Statistics:
        """What this process did so far."""
        with self._lock:
            return replace(self._statistics, failed_prefetches=dict(self._statistics.failed_prefetches))

    def file_system(self) -> Any:
        """The fsspec file system of S3 with these options, for all else: removing files, and reading parts of them."""
        store = self._store().s3()
        if store.session is None:
            store.connect()  # its session serves both: one of its own would read S3's description anew, 15 MiB
        arguments = s3fs_arguments(self.options) | {"session": store.session}
        return fsspec.filesystem("s3", use_listings_cache=False, **arguments)

    def list_objects(self, prefix: str) -> list[S3Object]:
        """Every object below a prefix, with size and ETag; a request a thousand."""
        return self._store().list(prefix)

    def clear_cache(self) -> None:
        """Remove all local copies but those being read."""
        with self._lock:
            self._known.clear()
            self._unread.clear()
            self._unread_bytes = 0
        self.cache.clear()

    def close(self) -> None:
        """Stop downloads; a folder of our own goes. Waiting callers get CancelledError."""
        self._closing.set()
        with self._lock:
            for job in self._jobs.values():
                if job.future is not None:
                    job.future.cancel()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(FAREWELL)
        if self.owner == os.getpid():
            shutil.rmtree(self.root, ignore_errors=True)

    def __reduce__(self) -> tuple:
        return _attach, (str(self.root), self.settings, self.persistent)

    def __repr__(self) -> str:
        return f"S3FileManager({str(self.root)!r}, {self.settings})"

    # Below: what a process has for itself

    def _start_process(self) -> None:
        """Threads, locks and connections of this process; in a forked child those of the parent are not used."""
        self._lock = threading.RLock()
        self._store_lock = threading.Lock()
        self._store_object: Store | None = None
        self._queue: queue.PriorityQueue[tuple[int, int, _Job]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._jobs: dict[str, _Job] = {}  # queued or running, by URL
        self._known: dict[str, tuple[Entry, str]] = {}  # entry and ETag, by URL: saves a look into the folder
        self._unread: dict[str, tuple[Entry, int]] = {}  # what was fetched ahead, and its time stamp then, by URL
        self._unread_bytes = 0
        self._coming: dict[str, int] = {}  # bytes of what is being fetched ahead; a guess where they are not known
        self._largest = 0  # bytes of the largest object so far: the guess
        self._threads: set[threading.Thread] = set()
        self._closing = threading.Event()
        self._worker = threading.local()
        self._bar: Any = None
        self._statistics = Statistics()

    def _store(self) -> Store:
        with self._store_lock:
            if self._store_object is None:
                self._store_object = Store(self.options, self.max_workers, self._closing.is_set)
            return self._store_object

    def _address(self, url: str) -> str:
        return f"{self.options.get('endpoint_url') or os.environ.get('AWS_ENDPOINT_URL', '')} {url}"

    def _hit(self, url: str, etag: str | None) -> Entry | None:
        known = self._known.get(url)
        if known is not None and (etag is None or known[1] == etag) and known[0].touch():
            return known[0]
        entry = self.cache.lookup(self._address(url), etag)
        if entry is not None and etag is not None:
            self._known[url] = entry, etag
        elif entry is not None:
            self._known[url] = entry, entry.tag
        return entry

    def _entry(self, path: str | S3Object, timeout: float | None) -> Entry:
        url, size, etag = _parts(path)
        if url.startswith("s3://"):
            parse_s3_url(url)
        if getattr(self._worker, "busy", False):
            raise RuntimeError(f"{url} was asked for by a thread that downloads; it would wait for itself")
        entry = self._hit(url, etag)
        if entry is not None:
            with self._lock:
                self._statistics.hits += 1
            self._was_read(url)
            return entry
        start = time.monotonic()
        with self._lock:
            job = self._jobs.get(url)
            if job is None or (etag is not None and job.etag != etag):
                job = _Job(url, size, etag, ahead=False)
                self._enqueue(job, BLOCKING)
            elif job.ahead:
                job.ahead = False
                if not job.started:
                    self._enqueue(job, BLOCKING)  # it is in the queue twice now; the later one finds it started
            future = job.future = job.future or Future()
        try:
            return future.result(timeout)
        except TimeoutError as error:
            if future.done():
                raise  # the download's own
            raise TimeoutError(f"{url} is not here after {timeout} s; it goes on being downloaded") from error
        finally:
            self._was_read(url)
            with self._lock:
                self._statistics.waited_seconds += time.monotonic() - start

    def _enqueue(self, job: _Job, priority: int) -> None:
        """Queue a job and see that a thread takes it; only while the lock is held."""
        if self._closing.is_set():
            raise RuntimeError("this file manager is closed")
        self._jobs[job.url] = job
        self._queue.put((priority, next(self._numbers), job))
        self._wake()

    def _wake(self) -> None:
        """See that a thread looks into the queue; only while the lock is held."""
        if len(self._threads) < self.max_workers and not self._queue.empty():
            # Daemons, as Python waits for an executor's threads, and so for all that is queued, before it lets us know
            # that the program ends.
            thread = threading.Thread(target=self._drain, name="files", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _drain(self) -> None:
        self._worker.busy = True
        while True:
            with self._lock:
                job = self._next_job()
                waits = job is None and len(self._threads) == 1 and not self._queue.empty()
                if self._closing.is_set() or (job is None and not waits):
                    self._threads.discard(threading.current_thread())
                    return
            if job is not None:
                self._run(job)
            else:
                self._closing.wait(GLANCE)  # for readers in other processes, of which nobody tells

    def _next_job(self) -> _Job | None:
        """What to download now, or None; only while the lock is held."""
        while not self._closing.is_set():
            try:
                place = self._queue.get_nowait()
            except queue.Empty:
                return None
            job = place[2]
            if job.started or (job.future is not None and job.future.cancelled()):
                continue
            if job.ahead:
                expected = job.size or self._largest
                if self._is_far_ahead(expected):
                    self._notice_readers()
                    if self._is_far_ahead(expected):
                        self._queue.put(place)  # until a file that was fetched ahead is asked for
                        return None
                self._coming[job.url] = expected
            job.started = True
            return job
        return None

    def _is_far_ahead(self, more: int) -> bool:
        """Whether so many bytes more would be too many that nobody has asked for yet."""
        ahead = self._unread_bytes + sum(self._coming.values())
        return ahead > 0 and ahead + more > PREFETCH_SHARE * self.max_bytes

    def _notice_readers(self) -> None:
        """Workers read what this process fetched ahead for them: their reading changes the time stamp."""
        for url in list(itertools.islice(self._unread, LOOKED_AT)):
            entry, stamp = self._unread[url]
            if _time_stamp(entry) != stamp:
                self._forget_unread(url)

    def _forget_unread(self, url: str) -> None:
        entry, _ = self._unread.pop(url)
        self._unread_bytes -= entry.size

    def _was_read(self, url: str) -> None:
        """A file has been asked for: if it was fetched ahead there is room for others."""
        if url in self._unread:
            with self._lock:
                if url in self._unread:
                    self._forget_unread(url)
                self._wake()

    def _run(self, job: _Job) -> None:
        entry, error = None, None
        try:
            entry = self._fetch(job)
        except BaseException as caught:
            error = caught
        with self._lock:
            if self._jobs.get(job.url) is job:
                del self._jobs[job.url]
            self._coming.pop(job.url, None)
            if entry is not None and job.ahead:
                self._unread[job.url] = entry, _time_stamp(entry)
                self._unread_bytes += entry.size
                self._largest = max(self._largest, entry.size)
            if error is not None and job.ahead:
                self._note_failure(job.url, error)
            if self._bar is not None:
                self._bar.update()
                if self._bar.n >= self._bar.total:
                    self._bar.close()
                    self._bar = None
            future = job.future
        if future is None or not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(entry)
        else:
            future.set_exception(error)

    def _note_failure(self, url: str, error: BaseException) -> None:
        if not self._statistics.failed_prefetches and not self._closing.is_set():
            logger.warning("could not fetch %s ahead: %s; it is tried again when it is asked for", url, error)
        self._statistics.failed_prefetches[url] = str(error)

    def _fetch(self, job: _Job) -> Entry:
        """The cached object: another one's download if there is one, else our own."""
        address = self._address(job.url)
        pause = 0.001
        while True:
            entry = self.cache.lookup(address, job.etag)
            if entry is not None:
                return entry
            part = self.cache.claim(address)
            if part is not None:
                break
            if self._closing.is_set():
                raise CancelledError
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        try:
            entry = self.cache.lookup(address, job.etag)  # published just before the claim
            if entry is not None:
                self.cache.abandon(part)
                return entry
            etag, size = self._download(job, part)
            entry = self.cache.publish(part, address, size, etag, _suffix(job.url))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                self.cache.abandon(part)
            raise
        with self._lock:
            self._known[job.url] = entry, etag
            self._statistics.downloads += 1
            self._statistics.downloaded_bytes += size
        return entry

    def _download(self, job: _Job, part: Part) -> tuple[str, int]:
        """Fill a part; gives ETag and size."""
        deadline = time.monotonic() + DEADLINE
        received = _Received()
        for attempt in itertools.count(1):
            try:
                return self._attempt(job, part, received)
            except CacheFull:
                raise
            except OSError as error:
                if error.errno == errno.ENOSPC and not received.made_room:
                    received.made_room = True
                    self.cache.evict(part.reserved)
                    received.restart()
                    continue
                if error.errno == errno.ENOSPC:
                    raise OSError(errno.ENOSPC, f"the disk is full, fetching {job.url}", str(self.root)) from error
                self._wait_to_try_again(error, attempt, deadline)
            if received.length < RESUME_FROM:
                received.restart()
        raise AssertionError

    def _wait_to_try_again(self, error: OSError, attempt: int, deadline: float) -> None:
        """Wait a while, longer each time; raises the error when it was the last try, or no other one can help."""
        if not may_help_to_try_again(error) or attempt >= self.tries or time.monotonic() > deadline:
            raise error
        with self._lock:
            self._statistics.retries += 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
        if self._closing.wait(random.uniform(0, longest)):
            raise CancelledError

    def _attempt(self, job: _Job, part: Part, received: "_Received") -> tuple[str, int]:
        """One GET of all that is missing, to its verified end."""
        body = self._store().open(job.url, job.etag or received.etag, received.length)
        try:
            if job.etag is not None and body.etag != job.etag:
                raise changed(job.url)
            if part.reserved != body.size:
                self.cache.resize(part, body.size, self._closing.is_set)
            received.etag = body.etag
            while block := body.read():
                if received.length + len(block) > body.size:
                    raise OSError(errno.EIO, f"more than the announced {body.size} bytes came", job.url)
                part.write(block, received.length)
                received.md5.update(block)
                received.length += len(block)
                if self._closing.is_set():
                    raise CancelledError
        finally:
            body.close()
        if received.length != body.size:
            raise OSError(errno.EIO, f"{received.length} of {body.size} bytes came", job.url)
        if body.etag_is_md5 and etag_of(received.md5) != body.etag:
            received.restart()
            raise OSError(errno.EIO, "came damaged: its MD5 is not its ETag", job.url)
        return body.etag, body.size


class _Received:
    """How far a download came."""

    def __init__(self) -> None:
        self.made_room = False
        self.restart()

    def restart(self) -> None:
        self.length, self.etag, self.md5 = 0, None, new_md5()


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


def _time_stamp(entry: Entry) -> int:
    """When a copy was last used, in ns; -1 when it is gone."""
    try:
        return os.stat(entry.path).st_mtime_ns
    except FileNotFoundError:
        return -1


def _suffix(url: str) -> str:
    """What a file's name ends in, which decoders look at."""
    suffix = PurePosixPath(url).suffix
    return suffix if len(suffix) <= 16 and suffix[1:].isascii() and suffix[1:].isalnum() else ""


def _own_folder() -> Path:
    """A new folder of this process, after those of processes that are no longer there were removed."""
    base = Path(tempfile.gettempdir()) / f"{FOLDER}{os.getuid()}"
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


_managers: weakref.WeakSet[S3FileManager] = weakref.WeakSet()
_owned_locks: list[int] = []  # held until this process and its forked workers end
os.register_at_fork(after_in_child=_restart_after_fork)

"""The downloads of one process: a queue by urgency, threads that process it, and verified fetches.

Requested files go before prefetched ones. Prefetched files that were not requested yet take up to PREFETCH_SHARE of
the cache; others stay in the queue.
"""

import contextlib
import errno
import itertools
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from tqdm import tqdm

from system.storage_cache import CacheFull, Entry, FileCache, Part
from system.storage_remote import Store, changed, etag_of, is_retryable, new_md5, parse_s3_url

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # s; upper limits of the random pause before the first retry and any retry
DEADLINE = 300.0  # s after which a failed try is not repeated
RESUME_FROM = 64 << 20  # bytes; a shorter object is read again from its start after an interruption
PREFETCH_SHARE = 0.5  # of the limit, for prefetched files that were not requested yet
BLOCKING, AHEAD = 0, 10  # priorities; smaller first
POLL_INTERVAL = 0.05  # s between two checks whether other processes have read prefetched files
FILES_PER_POLL = 64  # oldest files to check: files are read in about the order in which they were prefetched
JOIN_TIMEOUT = 2.0  # s that closing waits for each thread


@dataclass
class Statistics:
    """The work of a manager in this process."""

    hits: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0
    retries: int = 0
    damaged_copies: int = 0  # changed in a kept cache, and downloaded again
    waited_seconds: float = 0.0  # in blocking calls
    failed_prefetches: dict[str, str] = field(default_factory=dict)  # URL -> error


@dataclass(slots=True)
class _Job:
    url: str
    size: int | None
    etag: str | None
    ahead: bool  # prefetched, nobody waits for it yet
    future: Future | None = None  # created when somebody waits
    started: bool = False


class _Received:
    """The progress of a download."""

    def __init__(self) -> None:
        self.made_room = False
        self.restart()

    def restart(self) -> None:
        self.length, self.etag, self.md5 = 0, None, new_md5()


class Downloads:
    """Fetch objects into a cache, each at most once at a time.

    Holds threads, locks and connections, so every process creates its own, also after a fork.
    """

    def __init__(
        self, cache: FileCache, options: dict[str, Any], max_workers: int, tries: int, show_progress: bool
    ) -> None:
        self.cache, self.options, self.max_workers, self.tries = cache, options, max_workers, tries
        self.show_progress = show_progress
        self.closing = threading.Event()
        self._lock = threading.RLock()
        self._store_lock = threading.Lock()
        self._store: Store | None = None
        self._queue: queue.PriorityQueue[tuple[int, int, _Job]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._jobs: dict[str, _Job] = {}  # queued or running, by URL
        self._known: dict[str, tuple[Entry, str]] = {}  # URL -> entry and ETag; saves listing the folder
        self._unread: dict[str, tuple[Entry, int]] = {}  # URL -> prefetched entry and its time stamp then
        self._unread_bytes = 0
        self._coming: dict[str, int] = {}  # URL -> bytes being prefetched; estimated if the size is unknown
        self._largest = 0  # bytes of the largest object so far, the estimate
        self._threads: set[threading.Thread] = set()
        self._worker = threading.local()
        self._bar: Any = None
        self._statistics = Statistics()

    def store(self) -> Store:
        """Return the store, created at the first call."""
        with self._store_lock:
            if self._store is None:
                self._store = Store(self.options, self.max_workers, self.closing.is_set)
            return self._store

    def find(self, url: str, etag: str | None) -> Entry | None:
        """Return the cached object if it exists, without network access."""
        known = self._known.get(url)
        if known is not None and (etag is None or known[1] == etag) and known[0].touch():
            return known[0]
        entry = self._lookup(url, etag)
        if entry is not None:
            self._known[url] = entry, entry.tag if etag is None else etag
        return entry

    def _lookup(self, url: str, etag: str | None) -> Entry | None:
        """Return the cached object if it is undamaged."""
        entry = self.cache.lookup(self.address(url), etag)
        if entry is None:
            return None
        intact = self.cache.verify(entry)
        if intact is False:
            with self._lock:
                self._statistics.damaged_copies += 1
            logger.warning("%s: its copy %s was changed after the download. It is downloaded again.", url, entry.path)
        return entry if intact else None

    def get(self, url: str, size: int | None, etag: str | None, timeout: float | None) -> Entry:
        """Return the object once it is in the cache. Raise the error of its download."""
        if url.startswith("s3://"):
            parse_s3_url(url)
        if getattr(self._worker, "busy", False):
            raise RuntimeError(f"{url}: requested by a download thread, which would wait for itself.")
        entry = self.find(url, etag)
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
                    self._enqueue(job, BLOCKING)  # it is queued twice then; the second one finds it started
            future = job.future = job.future or Future()
        try:
            return future.result(timeout)
        except TimeoutError as error:
            if future.done():
                raise  # the download itself timed out
            raise TimeoutError(f"{url}: not downloaded within {timeout} s. The download continues.") from error
        finally:
            self._was_read(url)
            with self._lock:
                self._statistics.waited_seconds += time.monotonic() - start

    def prefetch(self, objects: Iterable[tuple[str, int | None, str | None]]) -> None:
        """Queue objects (URL, size, ETag) that are neither cached nor queued."""
        new = 0
        with self._lock:
            for url, size, etag in objects:
                if url in self._jobs or url in self._unread:
                    continue
                known = self._known.get(url)
                if known is None or etag not in (None, known[1]) or not known[0].touch():
                    self._enqueue(_Job(url, size, etag, ahead=True), AHEAD)
                    new += 1
            if self.show_progress and new:
                self._bar = self._bar or tqdm(total=0, desc="fetching", unit="file")
                self._bar.total += new
                self._bar.refresh()

    def wait_before_retry(self, error: OSError, attempt: int, deadline: float) -> None:
        """Wait, longer for each attempt. Raise the error instead if a retry cannot help or was the last one."""
        if not is_retryable(error) or attempt >= self.tries or time.monotonic() > deadline:
            raise error
        with self._lock:
            self._statistics.retries += 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
        if self.closing.wait(random.uniform(0, longest)):
            raise CancelledError

    def stats(self) -> Statistics:
        """Return a copy of the statistics so far."""
        with self._lock:
            return replace(self._statistics, failed_prefetches=dict(self._statistics.failed_prefetches))

    def forget(self) -> None:
        """Forget which objects are in the cache."""
        with self._lock:
            self._known.clear()
            self._unread.clear()
            self._unread_bytes = 0

    def close(self) -> None:
        """Stop all downloads. Waiting callers get CancelledError."""
        self.closing.set()
        with self._lock:
            for job in self._jobs.values():
                if job.future is not None:
                    job.future.cancel()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(JOIN_TIMEOUT)

    def address(self, url: str) -> str:
        """Return the key of an object in the cache."""
        return f"{self.options.get('endpoint_url') or os.environ.get('AWS_ENDPOINT_URL', '')} {url}"

    # The queue and its threads

    def _enqueue(self, job: _Job, priority: int) -> None:
        """Queue a job and start a thread for it if needed. Only while the lock is held."""
        if self.closing.is_set():
            raise RuntimeError("S3FileManager: closed. Create a new one.")
        self._jobs[job.url] = job
        self._queue.put((priority, next(self._numbers), job))
        self._wake()

    def _wake(self) -> None:
        """Start a thread if one is missing. Only while the lock is held."""
        if len(self._threads) < self.max_workers and not self._queue.empty():
            # Daemon threads, not an executor: Python would wait for an executor's whole queue before it runs the exit
            # handlers.
            thread = threading.Thread(target=self._drain, name="files", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _drain(self) -> None:
        self._worker.busy = True
        while True:
            with self._lock:
                job = self._next_job()
                waits = job is None and len(self._threads) == 1 and not self._queue.empty()
                if self.closing.is_set() or (job is None and not waits):
                    self._threads.discard(threading.current_thread())
                    return
            if job is not None:
                self._run(job)
            else:
                self.closing.wait(POLL_INTERVAL)  # readers in other processes cannot wake this thread

    def _next_job(self) -> _Job | None:
        """Return the next job, or None. Only while the lock is held."""
        while not self.closing.is_set():
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return None
            job = item[2]
            if job.started or (job.future is not None and job.future.cancelled()):
                continue
            if job.ahead:
                expected = job.size or self._largest
                if self._is_far_ahead(expected):
                    self._notice_readers()
                    if self._is_far_ahead(expected):
                        self._queue.put(item)  # wait until a prefetched file is requested
                        return None
                self._coming[job.url] = expected
            job.started = True
            return job
        return None

    def _is_far_ahead(self, more: int) -> bool:
        """Return whether `more` bytes would exceed the share of prefetched bytes that were not requested yet."""
        ahead = self._unread_bytes + sum(self._coming.values())
        return ahead > 0 and ahead + more > PREFETCH_SHARE * self.cache.max_bytes

    def _notice_readers(self) -> None:
        """Stop counting prefetched files that other processes have read: reading changes their time stamp."""
        for url in list(itertools.islice(self._unread, FILES_PER_POLL)):
            entry, stamp = self._unread[url]
            if _time_stamp(entry) != stamp:
                self._forget_unread(url)

    def _forget_unread(self, url: str) -> None:
        entry, _ = self._unread.pop(url)
        self._unread_bytes -= entry.size

    def _was_read(self, url: str) -> None:
        """Make room for other prefetched files if this one was prefetched."""
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
                self._unread[job.url] = entry, entry.stamp or _time_stamp(entry)
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
        if not self._statistics.failed_prefetches and not self.closing.is_set():
            logger.warning("%s: prefetch failed (%s). It is retried when the file is requested.", url, error)
        self._statistics.failed_prefetches[url] = str(error)

    # One object

    def _fetch(self, job: _Job) -> Entry:
        """Return the cached object, from another process's download or from our own."""
        address = self.address(job.url)
        pause = 0.001
        while True:
            entry = self._lookup(job.url, job.etag)
            if entry is not None:
                return entry
            part = self.cache.claim(address)
            if part is not None:
                break
            if self.closing.is_set():
                raise CancelledError
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        try:
            entry = self._lookup(job.url, job.etag)  # it may have been published just before the claim
            if entry is not None:
                self.cache.abandon(part)
                return entry
            etag, size, md5 = self._download(job, part)
            entry = self.cache.publish(part, address, size, md5, etag, _suffix(job.url))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                self.cache.abandon(part)
            raise
        with self._lock:
            self._known[job.url] = entry, etag
            self._statistics.downloads += 1
            self._statistics.downloaded_bytes += size
        return entry

    def _download(self, job: _Job, part: Part) -> tuple[str, int, str]:
        """Fill a part. Return ETag, size and MD5."""
        deadline = time.monotonic() + DEADLINE
        received = _Received()
        for attempt in itertools.count(1):
            try:
                return self._attempt(job, part, received)
            except CacheFull:
                raise
            except OSError as error:
                # Evict once more and retry: the disk may have been filled by other programs.
                if error.errno == errno.ENOSPC and not received.made_room:
                    received.made_room = True
                    self.cache.evict(part.reserved)
                    received.restart()
                    continue
                if error.errno == errno.ENOSPC:
                    message = f"disk full while downloading {job.url}"
                    raise OSError(errno.ENOSPC, message, str(self.cache.root)) from error
                self.wait_before_retry(error, attempt, deadline)
            if received.length < RESUME_FROM:
                received.restart()
        raise AssertionError

    def _attempt(self, job: _Job, part: Part, received: _Received) -> tuple[str, int, str]:
        """Send one request for all missing bytes, and read it to its verified end."""
        body = self.store().open(job.url, job.etag or received.etag, received.length)
        try:
            if job.etag is not None and body.etag != job.etag:
                raise changed(job.url)
            if part.reserved != body.size:
                self.cache.resize(part, body.size, self.closing.is_set)
            received.etag = body.etag
            while block := body.read():
                if received.length + len(block) > body.size:
                    raise OSError(errno.EIO, f"got more than the announced {body.size} bytes", job.url)
                part.write(block, received.length)
                received.md5.update(block)
                received.length += len(block)
                if self.closing.is_set():
                    raise CancelledError
        finally:
            body.close()
        if received.length != body.size:
            raise OSError(errno.EIO, f"got {received.length} of {body.size} bytes", job.url)
        if body.etag_is_md5 and etag_of(received.md5) != body.etag:
            received.restart()
            raise OSError(errno.EIO, "damaged: its MD5 differs from its ETag", job.url)
        return body.etag, body.size, received.md5.hexdigest()


def _time_stamp(entry: Entry) -> int:
    """Return when a copy was last used, in ns, or -1 if it is gone."""
    try:
        return os.stat(entry.path).st_mtime_ns
    except FileNotFoundError:
        return -1


def _suffix(url: str) -> str:
    """Return the file name's suffix, which decoders read. Empty for odd suffixes."""
    suffix = PurePosixPath(url).suffix
    return suffix if len(suffix) <= 16 and suffix[1:].isascii() and suffix[1:].isalnum() else ""

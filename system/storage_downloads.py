"""The downloads of one process: a queue in order of urgency, threads that work it off, and verified fetches.

What is waited for comes before what is fetched ahead. Files fetched ahead and not asked for yet take at most
PREFETCH_SHARE of the cache; the rest of them stay in the queue.
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
from system.storage_remote import Store, changed, etag_of, may_help_to_try_again, new_md5, parse_s3_url

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # s before another try, at most; the pause is random below it
DEADLINE = 300.0  # s after which a failed try is the last one
RESUME_FROM = 64 << 20  # bytes; a shorter object starts again when its body is cut
PREFETCH_SHARE = 0.5  # of the limit, for files that were fetched ahead and not asked for yet
BLOCKING, AHEAD = 0, 10  # priorities; the smaller first
GLANCE = 0.05  # s between two looks whether others have read what was fetched ahead
LOOKED_AT = 64  # files at such a look, the oldest: they are read in about the order in which they were asked for
FAREWELL = 2.0  # s that closing waits for each thread


@dataclass
class Statistics:
    """The work of a manager in this process."""

    hits: int = 0
    downloads: int = 0
    downloaded_bytes: int = 0
    retries: int = 0
    damaged_copies: int = 0  # of a kept cache, that were changed there and are fetched again
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


class _Received:
    """The progress of a download."""

    def __init__(self) -> None:
        self.made_room = False
        self.restart()

    def restart(self) -> None:
        self.length, self.etag, self.md5 = 0, None, new_md5()


class Downloads:
    """Fetches objects into a cache, each at most once at a time.

    It holds threads, locks and connections, so every process makes its own, also a forked one.
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
        self._known: dict[str, tuple[Entry, str]] = {}  # entry and ETag, by URL: saves a look into the folder
        self._unread: dict[str, tuple[Entry, int]] = {}  # fetched ahead, with the time stamp that it got then, by URL
        self._unread_bytes = 0
        self._coming: dict[str, int] = {}  # bytes of what is being fetched ahead; a guess where they are not known
        self._largest = 0  # bytes of the largest object so far: the guess
        self._threads: set[threading.Thread] = set()
        self._worker = threading.local()
        self._bar: Any = None
        self._statistics = Statistics()

    def store(self) -> Store:
        """Return the connections to the objects, made at the first call."""
        with self._store_lock:
            if self._store is None:
                self._store = Store(self.options, self.max_workers, self.closing.is_set)
            return self._store

    def find(self, url: str, etag: str | None) -> Entry | None:
        """Return the cached object if there is one, without asking the network."""
        known = self._known.get(url)
        if known is not None and (etag is None or known[1] == etag) and known[0].touch():
            return known[0]
        entry = self._lookup(url, etag)
        if entry is not None:
            self._known[url] = entry, entry.tag if etag is None else etag
        return entry

    def _lookup(self, url: str, etag: str | None) -> Entry | None:
        """Return the cached object if it is as it came."""
        entry = self.cache.lookup(self.address(url), etag)
        if entry is None:
            return None
        intact = self.cache.verify(entry)
        if intact is False:
            with self._lock:
                self._statistics.damaged_copies += 1
            logger.warning("%s: its copy %s was changed since it came; it is fetched again", url, entry.path)
        return entry if intact else None

    def get(self, url: str, size: int | None, etag: str | None, timeout: float | None) -> Entry:
        """Return the object when it is in the cache; raise the error of its download."""
        if url.startswith("s3://"):
            parse_s3_url(url)
        if getattr(self._worker, "busy", False):
            raise RuntimeError(f"{url} was asked for by a thread that downloads; it would wait for itself")
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

    def prefetch(self, objects: Iterable[tuple[str, int | None, str | None]]) -> None:
        """Queue objects (URL, size, ETag) that are neither here nor on their way."""
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

    def wait_to_try_again(self, error: OSError, attempt: int, deadline: float) -> None:
        """Wait a while, longer each time; raise the error if it was the last try, or no other one can help."""
        if not may_help_to_try_again(error) or attempt >= self.tries or time.monotonic() > deadline:
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
        """Forget what is in the cache."""
        with self._lock:
            self._known.clear()
            self._unread.clear()
            self._unread_bytes = 0

    def close(self) -> None:
        """Stop all downloads; waiting callers get CancelledError."""
        self.closing.set()
        with self._lock:
            for job in self._jobs.values():
                if job.future is not None:
                    job.future.cancel()
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(FAREWELL)

    def address(self, url: str) -> str:
        """Return the key of an object in the cache."""
        return f"{self.options.get('endpoint_url') or os.environ.get('AWS_ENDPOINT_URL', '')} {url}"

    # The queue and its threads

    def _enqueue(self, job: _Job, priority: int) -> None:
        """Queue a job and make sure that a thread takes it; only while the lock is held."""
        if self.closing.is_set():
            raise RuntimeError("this file manager is closed")
        self._jobs[job.url] = job
        self._queue.put((priority, next(self._numbers), job))
        self._wake()

    def _wake(self) -> None:
        """Make sure that a thread looks into the queue; only while the lock is held."""
        if len(self._threads) < self.max_workers and not self._queue.empty():
            # Daemons, because Python waits for an executor's threads, and thus for all that is queued, before it runs
            # the exit handlers.
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
                self.closing.wait(GLANCE)  # for readers in other processes, which send no signal

    def _next_job(self) -> _Job | None:
        """Return the job to do now, or None; only while the lock is held."""
        while not self.closing.is_set():
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
        """Return whether this many more bytes would be too many that nobody has asked for yet."""
        ahead = self._unread_bytes + sum(self._coming.values())
        return ahead > 0 and ahead + more > PREFETCH_SHARE * self.cache.max_bytes

    def _notice_readers(self) -> None:
        """Forget what workers have read of what this process fetched ahead: their reading changes the time stamp."""
        for url in list(itertools.islice(self._unread, LOOKED_AT)):
            entry, stamp = self._unread[url]
            if _time_stamp(entry) != stamp:
                self._forget_unread(url)

    def _forget_unread(self, url: str) -> None:
        entry, _ = self._unread.pop(url)
        self._unread_bytes -= entry.size

    def _was_read(self, url: str) -> None:
        """Make room for other files if this one was fetched ahead."""
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
            logger.warning("could not fetch %s ahead: %s; it is tried again when it is asked for", url, error)
        self._statistics.failed_prefetches[url] = str(error)

    # One object

    def _fetch(self, job: _Job) -> Entry:
        """Return the cached object: from the download of another process if there is one, else from our own."""
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
            entry = self._lookup(job.url, job.etag)  # published just before the claim
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
        """Fill a part and return ETag, size and MD5."""
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
                    message = f"the disk is full, fetching {job.url}"
                    raise OSError(errno.ENOSPC, message, str(self.cache.root)) from error
                self.wait_to_try_again(error, attempt, deadline)
            if received.length < RESUME_FROM:
                received.restart()
        raise AssertionError

    def _attempt(self, job: _Job, part: Part, received: _Received) -> tuple[str, int, str]:
        """Ask once for all that is missing and read it to its verified end."""
        body = self.store().open(job.url, job.etag or received.etag, received.length)
        try:
            if job.etag is not None and body.etag != job.etag:
                raise changed(job.url)
            if part.reserved != body.size:
                self.cache.resize(part, body.size, self.closing.is_set)
            received.etag = body.etag
            while block := body.read():
                if received.length + len(block) > body.size:
                    raise OSError(errno.EIO, f"more than the announced {body.size} bytes came", job.url)
                part.write(block, received.length)
                received.md5.update(block)
                received.length += len(block)
                if self.closing.is_set():
                    raise CancelledError
        finally:
            body.close()
        if received.length != body.size:
            raise OSError(errno.EIO, f"{received.length} of {body.size} bytes came", job.url)
        if body.etag_is_md5 and etag_of(received.md5) != body.etag:
            received.restart()
            raise OSError(errno.EIO, "came damaged: its MD5 is not its ETag", job.url)
        return body.etag, body.size, received.md5.hexdigest()


def _time_stamp(entry: Entry) -> int:
    """Return when a copy was last used, in ns; -1 when it is gone."""
    try:
        return os.stat(entry.path).st_mtime_ns
    except FileNotFoundError:
        return -1


def _suffix(url: str) -> str:
    """Return the end of a file's name, which decoders look at."""
    suffix = PurePosixPath(url).suffix
    return suffix if len(suffix) <= 16 and suffix[1:].isascii() and suffix[1:].isalnum() else ""

"""Forked, threaded and killed processes share the cache, and remove only their own files."""

import multiprocessing
import pickle
import signal
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from system import storage_cache, storage_remote
from system.storage import S3FileManager
from tests.helpers.s3_server import Call, Delay, Rule
from tests.helpers.stored_files import CONTENT, GET, URL, fill, start


def read_and_send(files: S3FileManager, url: str, pipe) -> None:
    pipe.send(files.read_bytes(url))


def test_a_forked_worker_shares_the_folder_and_does_not_remove_it(s3, make):
    contents = fill(s3, 6)
    s3.proxy.latency = 0.1
    files = make(max_workers=2)
    first, *others = contents
    files.download_file(first)
    files.prefetch_files(others)  # threads and locks are in use while the process forks
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe()
    for url in (first, others[-1]):
        child = context.Process(target=read_and_send, args=(files, url, send))
        child.start()
        assert receive.poll(600)
        assert receive.recv() == contents[url]
        child.join(600)
        assert child.exitcode == 0
    assert {url: files.read_bytes(url) for url in contents} == contents
    assert s3.proxy.count() == 6


def test_a_pickled_manager_uses_the_folder_without_owning_it_and_contains_no_secret(s3, make):
    s3.put(URL, CONTENT)
    files = make()
    files.download_file(URL)
    data = pickle.dumps(files)
    assert b"made-up" not in data
    assert "made-up" not in repr(files)
    other = pickle.loads(data)
    assert other.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 1
    other.close()
    assert files.read_bytes(URL) == CONTENT


def test_a_request_from_a_download_thread_is_refused(s3, make, monkeypatch):
    s3.put(URL, CONTENT)
    files = make()
    fetch = files._downloads._fetch
    monkeypatch.setattr(files._downloads, "_fetch", lambda job: fetch(job) and files.download_file("s3://songs/b"))
    with pytest.raises(RuntimeError, match="^s3://songs/b: "):
        files.download_file(URL)


def test_threads_that_start_together_share_one_client(s3, make, monkeypatch):
    connect, connections = storage_remote.fsspec.filesystem, []

    def connect_slowly(*arguments, **options):
        connections.append(options)
        time.sleep(0.1)
        return connect(*arguments, **options)

    contents = fill(s3, 8)
    monkeypatch.setattr(storage_remote.fsspec, "filesystem", connect_slowly)
    files = make(max_workers=4)
    files.prefetch_files(contents)
    assert {url: files.read_bytes(url) for url in contents} == contents
    assert len(connections) == 1


def test_a_timeout_ends_the_wait_but_not_the_download(s3, make):
    s3.put(URL, CONTENT)
    waited = threading.Event()
    s3.proxy.rules.append(Rule(GET, Call(lambda: waited.wait(600))))
    files = make()
    with pytest.raises(TimeoutError, match=f"^{URL}: .* 0.05 s"):
        files.download_file(URL, timeout=0.05)
    waited.set()
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 1


def test_closing_cancels_waiting_callers_and_removes_the_folder(s3, make):
    s3.put(URL, CONTENT)
    requested, ended = threading.Event(), threading.Event()
    s3.proxy.rules.append(Rule(GET, Call(lambda: requested.set() or ended.wait(600))))
    files = make()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(files.download_file, URL)
        waiting.add_done_callback(lambda _: ended.set())
        assert requested.wait(600)
        files.close()
        assert isinstance(waiting.exception(600), CancelledError)
    assert not files.root.exists()
    with pytest.raises(RuntimeError, match="closed"):
        files.download_file(URL)


LEAVE = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # SIGINT is ignored in a background process
from system.process import exit_on_sigterm
from system.storage import S3FileManager
exit_on_sigterm()
files = S3FileManager(min_free_bytes=0, max_workers=2)
files.download_file("s3://songs/a.mp3")
files.prefetch_files(f"s3://songs/{i}" for i in range(1000))
print(files.root, flush=True)
if sys.argv[1] == "wait":
    files.download_file("s3://songs/slow.mp3")
assert sys.argv[1] == "exit"
"""


@pytest.mark.parametrize("how", ["exit", "raise", signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_removes_its_folder_and_that_of_a_killed_one_is_removed_later(s3, make, tmp_path, how, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    s3.put(URL, CONTENT)
    s3.proxy.rules += [Rule(r"^GET /songs/\d", Delay(0.5)), Rule("^GET /songs/slow", Delay(60))]
    child = start(LEAVE, how if isinstance(how, str) else "wait")
    root = Path(child.stdout.readline().strip())
    assert root.parent.parent == tmp_path
    if not isinstance(how, str):
        assert root.is_dir()
        child.send_signal(how)
    code = child.wait(600)
    assert s3.proxy.count(r"^GET /songs/\d") < 1000, "the process waited for all queued files"
    assert code == {"exit": 0, "raise": 1, signal.SIGTERM: 143, signal.SIGINT: -2, signal.SIGKILL: -9}[how]
    assert root.exists() == (how == signal.SIGKILL)
    make()
    assert not root.exists()


def test_a_part_of_a_killed_process_is_taken_over_or_removed(s3, make, tmp_path):
    contents = fill(s3, 5, size=1000)
    cache = tmp_path / "cache"
    files = make(cache_dir=cache, max_bytes=3_000)
    urls = list(contents)
    for url in urls[:2]:
        part = cache / "parts" / storage_cache._name(files._downloads.address(url))
        part.write_bytes(b"left by a killed" * 62)
    (cache / "index.lock").write_text(f"{2 * 992:20d}")
    assert files.read_bytes(urls[0]) == contents[urls[0]]
    for url in urls[2:]:
        assert files.read_bytes(url) == contents[url]
    assert not list((cache / "parts").iterdir())

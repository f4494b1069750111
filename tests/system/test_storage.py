"""Files from object storage: one request each, whole or not there, within a hard limit, whatever breaks on the way."""

import errno
import fcntl
import hashlib
import multiprocessing
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system import storage, storage_cache, storage_remote
from system.storage import S3FileManager, S3ObjectChanged, list_objects, parse_s3_url, s3_download
from tests.helpers import s3_server
from tests.helpers.s3_server import Call, Corrupt, Cut, Delay, Reset, Rule, Stall, Status, Truncate, serve_s3

URL = "s3://songs/a.mp3"
CONTENT = bytes(range(256)) * 40  # 10,240 bytes
GET = "^GET /songs/a.mp3"


@pytest.fixture(scope="module")
def server():
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(server):
    """An empty store behind a proxy that breaks nothing yet."""
    server.proxy.rules.clear()
    server.proxy.latency = 0
    server.reset()
    server.proxy.forget()
    return server


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes managers in one folder for temporary ones, with short pauses, and closes them."""
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(storage.tempfile, "gettempdir", lambda: str(tmp_path))
    made = []

    def make(**settings) -> S3FileManager:
        made.append(S3FileManager(**{"min_free_bytes": 0, "max_workers": 4, **settings}))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


def fill(s3, count: int, size: int = 1000, bucket: str = "many") -> dict[str, bytes]:
    contents = {f"s3://{bucket}/{i:03d}.bin": i.to_bytes(2, "big") * (size // 2) for i in range(count)}
    for url, content in contents.items():
        s3.put(url, content)
    return contents


def left_over(root: Path) -> list[Path]:
    """Every file with an object's bytes, whole or not."""
    return [path for folder in ("objects", "parts") for path in (root / folder).rglob("*") if path.is_file()]


# Uploads


@pytest.mark.parametrize("size", [0, 10, storage_remote.BLOCK, 2 * storage_remote.BLOCK + 5])
def test_a_file_is_uploaded_in_one_piece_whose_etag_is_its_md5(s3, make, tmp_path, size):
    content = CONTENT * (size // len(CONTENT) + 1)
    (tmp_path / "file").write_bytes(content[:size])
    s3.put("s3://songs/other", b"")
    make().upload_file(tmp_path / "file", "s3://songs/new +#ä.bin")
    (found,) = (entry for entry in list_objects("s3://songs") if "new" in entry.url)
    assert found.url == "s3://songs/new +#ä.bin"
    assert found.etag == hashlib.md5(content[:size]).hexdigest()
    assert s3.proxy.count("^PUT ") == 1


@pytest.mark.parametrize("action", [Status(500), Status(503), Reset()])
def test_an_upload_that_breaks_begins_anew(s3, make, tmp_path, action):
    (tmp_path / "file").write_bytes(CONTENT * 300)
    s3.put(URL, b"old")
    s3.proxy.rules.append(Rule("^PUT", action, times=2))
    files = make()
    files.upload_file(tmp_path / "file", URL)
    assert files.read_bytes(URL) == CONTENT * 300
    assert files.stats().retries >= 1


def test_an_upload_that_stays_broken_says_so_and_leaves_the_old_object(s3, make, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    s3.put(URL, b"old")
    s3.proxy.rules.append(Rule("^PUT", Status(503)))
    with pytest.raises(OSError, match="cannot be written .SlowDown") as raised:
        make(tries=3).upload_file(tmp_path / "file", URL)
    assert raised.value.filename == URL
    assert s3.proxy.count("^PUT") == 3
    s3.proxy.rules[:] = [Rule("^PUT", Status(403))]
    with pytest.raises(PermissionError, match="AccessDenied"):
        make().upload_file(tmp_path / "file", URL)
    assert make().read_bytes(URL) == b"old"


def test_all_clients_of_a_process_share_the_sdks_session(s3, make):
    s3.put(URL, CONTENT)
    files = make()
    assert files.list_objects("s3://songs")
    assert files.file_system().isfile(URL)
    assert files.file_system().session is files._store().s3().session


# How many requests


def test_a_cold_pass_is_one_get_an_object_and_a_warm_one_is_no_request(s3, make):
    contents = fill(s3, 30)
    files = make()
    files.prefetch_files(contents)
    assert {url: files.read_bytes(url) for url in contents} == contents
    assert s3.proxy.count() == s3.proxy.count("^GET /many/") == 30
    files.prefetch_files(contents)
    assert {url: files.download_file(url).read_bytes() for url in contents} == contents
    assert s3.proxy.count() == 30
    assert files.stats().downloads == 30


def test_a_listing_gives_size_and_etag_and_then_a_file_is_one_get(s3, make):
    contents = fill(s3, 3)
    found = list_objects("s3://many")
    assert [(f.url, f.size) for f in found] == [(url, len(content)) for url, content in contents.items()]
    files = make()
    assert [files.read_bytes(file) for file in found] == list(contents.values())
    assert (s3.proxy.count("list-type=2"), s3.proxy.count("^GET /many/"), s3.proxy.count("^HEAD")) == (1, 3, 0)


def test_a_listing_turns_pages(s3, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # in place of a thousand
    contents = fill(s3, 25)
    assert [file.url for file in list_objects("s3://many")] == list(contents)
    assert s3.proxy.count("list-type=2") == 3


def test_a_listing_leaves_out_folder_marks_and_neighbours(s3):
    for key in ("songs/", "songs/1.mp3", "songs/x/2.mp3", "songs_old/3.mp3"):
        s3.put(f"s3://corpus/{key}", b"x")
    for prefix in ("s3://corpus/songs", "s3://corpus/songs/"):
        assert [file.url for file in list_objects(prefix)] == ["s3://corpus/songs/1.mp3", "s3://corpus/songs/x/2.mp3"]


def test_eight_threads_that_ask_for_one_object_share_one_get(s3, make):
    s3.put(URL, CONTENT)
    s3.proxy.latency = 0.1
    files = make()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(files.read_bytes, [URL] * 8)) == {CONTENT}
    assert s3.proxy.count() == 1


ONE_OF_FOUR = """
import sys
from system.storage import S3FileManager
files = S3FileManager(cache_dir=sys.argv[1], min_free_bytes=0)
urls = [f"s3://many/{i:03d}.bin" for i in range(20)]
files.prefetch_files(urls)
assert [files.read_bytes(url) for url in urls] == [i.to_bytes(2, "big") * 500 for i in range(20)]
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_four_processes_with_one_folder_get_each_object_once(s3, tmp_path):
    fill(s3, 20)
    s3.proxy.latency = 0.05
    children = [start(ONE_OF_FOUR, tmp_path / "cache") for _ in range(4)]
    assert [child.wait(60) for child in children] == [0] * 4
    assert s3.proxy.count() == 20


def test_no_more_requests_are_in_flight_than_there_are_workers(s3, make):
    s3.proxy.latency = 0.02
    contents = fill(s3, 40)
    files = make(max_workers=3)
    files.prefetch_files(contents)
    assert [files.read_bytes(url) for url in contents] == list(contents.values())
    assert s3.proxy.most_in_flight == 3


def test_a_blocking_download_overtakes_what_is_only_prefetched(s3, make):
    contents = fill(s3, 30)
    s3.proxy.latency = 0.03
    files = make(max_workers=1)
    files.prefetch_files(contents)
    last = list(contents)[-1]
    assert files.read_bytes(last) == contents[last]
    lines = [request.line for request in s3.proxy.requests]
    (place,) = [i for i, line in enumerate(lines) if "/many/029.bin" in line]
    assert place <= 2  # one was running
    for url in contents:
        files.download_file(url)
    assert s3.proxy.count() == 30


def test_a_long_prefetch_starts_no_thread_a_path_and_asks_once_a_path(s3, make):
    s3.proxy.rules.append(Rule("^GET", Delay(1)))
    files = make(max_workers=2)
    before = threading.active_count()
    files.prefetch_files(f"s3://many/{i % 50_000}" for i in range(100_000))
    assert threading.active_count() <= before + 2 + 1  # and the loop of s3fs
    assert len(files._jobs) == 50_000
    assert files.get_file("s3://many/1") is None


def test_a_bulk_prefetch_shows_a_bar_that_ends_with_it(s3, make, capsys):
    contents = fill(s3, 5)
    files = make(show_progress=True)
    files.prefetch_files(contents)
    for url in contents:
        files.download_file(url)
    while files._bar is not None:
        time.sleep(0.01)
    assert "fetching" in (shown := capsys.readouterr().err)
    assert "5/5" in shown


# What comes is right, or an error


@pytest.mark.parametrize(
    ("action", "times", "requests"),
    [
        (Status(500), 2, 3),
        (Status(503), 2, 3),
        (Status(429), 1, 2),
        (Reset(), 2, 3),
        (Cut(after=5000), 2, 3),
        (Corrupt(), 2, 3),
        (Corrupt(at=0), 1, 2),
        (Truncate(to=5000), 1, 2),
        (Stall(after=100, seconds=3), 1, 2),
        (Delay(3), 1, 2),
    ],
)
def test_what_breaks_for_a_while_is_asked_for_again(s3, make, action, times, requests):
    s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, action, times=times))
    files = make(storage_options={"read_timeout": 1})
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == requests
    if not isinstance(action, Reset):  # the HTTP client asks once more when a connection that it kept is gone
        assert files.stats().retries == requests - 1


@pytest.mark.parametrize("action", [Status(500), Status(503), Reset(), Cut(after=5000), Corrupt(), Truncate(to=5000)])
def test_what_stays_broken_is_an_error_after_so_many_tries_and_leaves_nothing(s3, make, action):
    s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, action))
    files = make(tries=3)
    with pytest.raises(OSError, match=re.escape(URL)):
        files.download_file(URL)
    assert s3.proxy.count() in ((3, 4, 5, 6) if isinstance(action, Reset) else (3,))
    assert not left_over(files.root)
    assert files.get_file(URL) is None


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (403, "ExpiredToken"), (403, "RequestTimeTooSkewed")]
)
def test_a_refusal_is_one_request_and_says_the_services_word(s3, make, monkeypatch, status, code):
    monkeypatch.setitem(s3_server.ERRORS, status, code)
    s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, Status(status)))
    with pytest.raises(PermissionError, match=code):
        make().download_file(URL)
    assert s3.proxy.count() == 1


def test_what_is_missing_is_one_request_and_found_once_it_is_there(s3, make):
    files = make()
    for url in ("s3://songs/none.mp3", "s3://no-such-bucket/a"):
        with pytest.raises(FileNotFoundError, match=re.escape(url)):
            files.download_file(url)
    assert s3.proxy.count() == 2
    s3.put("s3://songs/none.mp3", CONTENT)
    assert files.read_bytes("s3://songs/none.mp3") == CONTENT


def test_a_failed_prefetch_is_told_once_and_raised_when_the_file_is_asked_for(s3, make, caplog):
    files = make()
    urls = [f"s3://songs/{i}" for i in range(3)]
    files.prefetch_files(urls)
    while len(files.stats().failed_prefetches) < 3:
        time.sleep(0.01)
    assert len(caplog.records) == 1
    assert set(files.stats().failed_prefetches) == set(urls)
    with pytest.raises(FileNotFoundError, match="songs/1"):
        files.download_file(urls[1])


def test_without_credentials_the_error_says_what_to_do_and_open_buckets_need_none(s3, make, monkeypatch):
    s3.put(URL, CONTENT)
    s3.boto.put_object_acl(Bucket="songs", Key="a.mp3", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="no AWS credentials"):
        make().download_file(URL)
    assert make(storage_options={"anon": True}).read_bytes(URL) == CONTENT


# Objects that change


def test_an_object_that_changed_since_it_was_listed_is_refused(s3, make):
    s3.put(URL, CONTENT)
    (listed,) = list_objects("s3://songs")
    s3.put(URL, b"other" * 100)
    files = make()
    with pytest.raises(S3ObjectChanged, match="list it again"):
        files.download_file(listed)
    assert s3.proxy.count(GET) == 1
    assert not left_over(files.root)
    assert files.read_bytes(list_objects("s3://songs")[0]) == b"other" * 100


@pytest.mark.parametrize("resumed", [False, True])
def test_an_object_replaced_while_it_is_read_never_gives_a_mixed_file(s3, make, monkeypatch, resumed):
    monkeypatch.setattr(storage_remote, "BLOCK", 1000)
    monkeypatch.setattr(storage, "RESUME_FROM", 1 if resumed else 1 << 30)
    other = CONTENT[::-1]
    s3.put(URL, CONTENT)
    s3.proxy.rules += [
        Rule(GET, Cut(after=5000, seconds=0.3), times=1),
        Rule(GET, Call(lambda: s3.put(URL, other)), times=1),
    ]
    files = make()
    if resumed:
        with pytest.raises(S3ObjectChanged):
            files.read_bytes(URL)
        assert not left_over(files.root)
    else:
        assert files.read_bytes(URL) == other  # the whole new object


def test_a_long_object_goes_on_where_it_was_cut_if_it_is_still_the_same(s3, make, monkeypatch):
    monkeypatch.setattr(storage_remote, "BLOCK", 1000)
    monkeypatch.setattr(storage, "RESUME_FROM", 2000)
    etag = s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, Cut(after=5500, seconds=0.3), times=1))
    assert make().read_bytes(URL) == CONTENT
    first, second = s3.proxy.requests
    assert first.range is None
    assert second.if_match == f'"{etag}"'
    assert 2000 <= int(re.fullmatch(r"bytes=(\d+)-", second.range)[1]) <= 5500


def test_a_copy_is_valid_for_the_run_unless_it_is_to_be_checked(s3, make):
    s3.put(URL, CONTENT)
    files = make()
    files.download_file(URL)
    s3.put(URL, b"new")
    assert files.read_bytes(URL) == CONTENT
    assert files.download_file(URL, revalidate=True).read_bytes() == b"new"
    assert (s3.proxy.count("^GET"), s3.proxy.count("^HEAD")) == (2, 1)
    files.download_file(URL, revalidate=True)
    assert (s3.proxy.count("^GET"), s3.proxy.count("^HEAD")) == (2, 2)
    assert len(left_over(files.root)) == 1


def test_a_copy_that_was_cut_or_deleted_behind_our_back_is_fetched_again(s3, make):
    s3.put(URL, CONTENT)
    files = make()
    files.download_file(URL).write_bytes(CONTENT[:100])
    assert files.get_file(URL) is None
    assert files.read_bytes(URL) == CONTENT
    files.download_file(URL).unlink()
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 3


# Names


@pytest.mark.parametrize(
    "key", ["a b+c.wav", "ü/é 日本.wav", "100%25#1?x=y.mp3", "../../up.wav", "x" * 900, "a//b", "1. s/x"]
)
def test_odd_keys_and_empty_objects_work(s3, make, key):
    url = f"s3://corpus/{key}"
    for content in (CONTENT, b""):
        s3.put(url, content)
        files = make()
        path = files.download_file(url)
        assert path.read_bytes() == content
        assert path.is_relative_to(files.root)
        assert [file.url for file in list_objects("s3://corpus")] == [url]


@given(st.text(min_size=1).filter(lambda key: not key.startswith("/")))
def test_an_address_is_cut_into_bucket_and_key_and_nothing_else(key):
    assert parse_s3_url(f"s3://bucket/{key}") == ("bucket", key)


@pytest.mark.parametrize("url", ["", "s3://", "s3://b", "s3://b/", "s3:///key", "http://b/k", "b/k"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="it takes s3://bucket/key"):
        parse_s3_url(url)


def test_files_keep_the_ending_that_decoders_look_at(s3, make):
    s3.put(URL, CONTENT)
    assert make().download_file(URL).suffix == ".mp3"


def test_plain_paths_are_given_back_and_other_urls_work(make, tmp_path):
    import fsspec

    path = tmp_path / "a.wav"
    path.write_bytes(CONTENT)
    files = make()
    assert files.download_file(path) == files.get_file(str(path)) == path
    assert files.read_bytes(path) == CONTENT
    with pytest.raises(FileNotFoundError):
        files.download_file(tmp_path / "none.wav")
    fsspec.filesystem("memory").pipe("/songs/a.wav", CONTENT)
    assert files.read_bytes("memory://songs/a.wav") == CONTENT
    (listed,) = list_objects("memory://songs")
    assert files.read_bytes(listed) == CONTENT
    assert listed.size == len(CONTENT)
    with pytest.raises(FileNotFoundError):
        files.download_file("memory://songs/none.wav")


# The limit


class Watch(threading.Thread):
    """Looks at the size of a folder, from outside, until it is stopped; holding its index, or a file could be seen
    twice, under its old name and its new one."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self.root, self.most, self.looks, self.end = root, 0, 0, threading.Event()

    def run(self) -> None:
        while not self.end.is_set():
            with open(self.root / "index.lock", "a") as index:
                fcntl.flock(index, fcntl.LOCK_EX)
                total = sum(path.stat().st_size for path in left_over(self.root))
            self.most, self.looks = max(self.most, total), self.looks + 1

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end.set()
        self.join()


def test_the_limit_is_never_exceeded_and_everything_comes_right(s3, make):
    contents = fill(s3, 100, size=1000)
    files = make(max_bytes=10_500, max_workers=8)
    with Watch(files.root) as watch:
        for _ in range(2):
            files.prefetch_files(contents)
            assert [files.read_bytes(url) for url in contents] == list(contents.values())
    assert 5_000 < watch.most <= 10_500
    assert watch.looks > 10
    assert files.cache.used_bytes() <= 10_500


def test_what_was_used_longest_ago_goes_first(s3, make):
    contents = list(fill(s3, 12, size=1000))
    files = make(max_bytes=10_000)
    for url in contents[:10]:
        files.download_file(url)
        time.sleep(0.01)
    files.download_file(contents[0])
    files.download_file(contents[10])
    kept = [files.get_file(url) is not None for url in contents]
    assert kept[0]
    assert not kept[1]
    assert kept[9]
    assert kept[10]


def test_files_fetched_ahead_do_not_evict_one_another_before_they_are_read(s3, make):
    contents = fill(s3, 60, size=1000)
    files = make(max_bytes=10_000, max_workers=4)
    files.prefetch_files(list_objects("s3://many"))
    time.sleep(0.3)
    assert files.cache.used_bytes() <= 5_000
    assert [files.read_bytes(url) for url in contents] == list(contents.values())
    assert s3.proxy.count("^GET /many/") == 60


def read_slowly(files: S3FileManager, contents: dict[str, bytes]) -> None:
    for url, content in contents.items():
        assert files.read_bytes(url) == content
        time.sleep(0.02)


def test_fetching_ahead_goes_on_while_a_worker_reads(s3, make):
    contents = fill(s3, 60, size=1000)
    files = make(max_bytes=10_000)
    files.prefetch_files(contents)
    worker = multiprocessing.get_context("fork").Process(target=read_slowly, args=(files, contents))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert files.stats().downloads > 50  # all but a few were there before the worker asked


def test_a_leased_file_is_not_evicted_and_a_full_cache_says_so(s3, make, monkeypatch):
    monkeypatch.setattr(storage_cache, "PATIENCE", 0.2)
    contents = list(fill(s3, 12, size=1000).items())
    files = make(max_bytes=3_000)
    with files.lease(contents[0][0]) as path:
        for url, content in contents[1:]:
            assert files.read_bytes(url) == content
        assert path.read_bytes() == contents[0][1]
        with files.lease(contents[1][0]), files.lease(contents[2][0]), pytest.raises(OSError, match="larger limit"):
            files.download_file(contents[3][0])
        files.clear_cache()
        assert path.exists()
    files.clear_cache()
    assert not left_over(files.root)


def test_an_object_larger_than_the_limit_is_refused_with_both_sizes(s3, make):
    s3.put(URL, CONTENT)
    with pytest.raises(OSError, match=f"{len(CONTENT)} bytes is larger than the cache of 5000 bytes"):
        make(max_bytes=5000).download_file(URL)


def test_a_file_evicted_before_it_is_opened_is_fetched_again(s3, make, monkeypatch):
    s3.put(URL, CONTENT)
    files = make()
    lease = files.cache.lease

    def evicted_once(entry):
        monkeypatch.setattr(files.cache, "lease", lease)
        entry.path.unlink()
        return lease(entry)

    monkeypatch.setattr(files.cache, "lease", evicted_once)
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 2


@pytest.mark.parametrize("times", [1, 2])
def test_a_full_disk_evicts_and_tries_once_more(s3, make, monkeypatch, times):
    s3.put(URL, CONTENT)
    write, failures = storage_cache.Part.write, []

    def full(part, data, at):
        if len(failures) < times:
            failures.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(part, data, at)

    monkeypatch.setattr(storage_cache.Part, "write", full)
    files = make()
    if times == 1:
        assert files.read_bytes(URL) == CONTENT
    else:
        with pytest.raises(OSError, match="the disk is full") as caught:
            files.read_bytes(URL)
        assert caught.value.errno == errno.ENOSPC
        assert not left_over(files.root)


def test_some_of_the_disk_stays_free(s3, make, monkeypatch):
    monkeypatch.setattr(storage_cache, "PATIENCE", 0.1)
    s3.put(URL, CONTENT)
    files = make(min_free_bytes=1 << 60)
    with pytest.raises(OSError, match="the disk is full"):
        files.download_file(URL)


# Processes


def child_of_a_fork(files: S3FileManager, url: str, pipe) -> None:
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
        child = context.Process(target=child_of_a_fork, args=(files, url, send))
        child.start()
        assert receive.poll(20)
        assert receive.recv() == contents[url]
        child.join(20)
        assert child.exitcode == 0
    assert {url: files.read_bytes(url) for url in contents} == contents
    assert s3.proxy.count() == 6


def test_a_pickled_manager_uses_the_same_folder_without_owning_it_and_holds_no_secret(s3, make):
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


def test_asking_from_a_thread_that_downloads_is_refused(s3, make, monkeypatch):
    s3.put(URL, CONTENT)
    files = make()
    fetch = files._fetch
    monkeypatch.setattr(files, "_fetch", lambda job: fetch(job) and files.download_file("s3://songs/b"))
    with pytest.raises(RuntimeError, match="would wait for itself"):
        files.download_file(URL)


def test_a_timeout_ends_the_wait_and_not_the_download(s3, make):
    s3.put(URL, CONTENT)
    s3.proxy.latency = 0.3
    files = make()
    with pytest.raises(TimeoutError, match="goes on"):
        files.download_file(URL, timeout=0.05)
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 1


def test_closing_ends_those_who_wait_and_removes_the_folder(s3, make):
    s3.put(URL, CONTENT)
    s3.proxy.latency = 0.5
    files = make()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(files.download_file, URL)
        time.sleep(0.1)
        files.close()
        assert isinstance(waiting.exception(5), storage.CancelledError)
    assert not files.root.exists()
    with pytest.raises(RuntimeError, match="closed"):
        files.download_file(URL)


LEAVE = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background has it switched off
from system.storage import S3FileManager, exit_on_sigterm
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
def test_the_folder_goes_with_its_process_and_what_a_killed_one_left_is_removed_later(
    s3, make, tmp_path, how, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    s3.put(URL, CONTENT)
    s3.proxy.rules += [Rule(r"^GET /songs/\d", Delay(0.5)), Rule("^GET /songs/slow", Delay(60))]
    child = start(LEAVE, how if isinstance(how, str) else "wait")
    root = Path(child.stdout.readline().strip())
    assert root.parent.parent == tmp_path
    if not isinstance(how, str):
        assert root.is_dir()
        child.send_signal(how)
    began = time.monotonic()
    code = child.wait(100)
    assert time.monotonic() - began < 60, "a thousand queued files were waited for"  # which takes 250 s
    assert code == {"exit": 0, "raise": 1, signal.SIGTERM: 143, signal.SIGINT: -2, signal.SIGKILL: -9}[how]
    assert root.exists() == (how == signal.SIGKILL)
    make()
    assert not root.exists()


def test_a_part_of_a_killed_process_is_taken_over_or_cleared_away(s3, make, tmp_path):
    contents = fill(s3, 5, size=1000)
    cache = tmp_path / "cache"
    files = make(cache_dir=cache, max_bytes=3_000)
    urls = list(contents)
    for url in urls[:2]:
        part = cache / "parts" / storage_cache._name(files._address(url))
        part.write_bytes(b"left by the dead" * 62)
    (cache / "index.lock").write_text(f"{2 * 992:20d}")
    assert files.read_bytes(urls[0]) == contents[urls[0]]
    for url in urls[2:]:
        assert files.read_bytes(url) == contents[url]
    assert not list((cache / "parts").iterdir())


# Settings


def test_there_is_one_shared_manager_a_process(s3, monkeypatch, tmp_path):
    monkeypatch.setattr(S3FileManager, "_shared", None)
    s3.put(URL, CONTENT)
    files = S3FileManager.shared(max_workers=3, cache_dir=tmp_path / "kept")
    assert files is S3FileManager.shared() is S3FileManager.shared(max_workers=3)
    assert s3_download(URL).read_bytes() == CONTENT
    assert s3_download(URL).is_relative_to(tmp_path / "kept")
    with pytest.raises(ValueError, match="max_workers = 5"):
        S3FileManager.shared(max_workers=5)
    files.close()
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "x"}, "looks like a secret"),
        ({"aws_secret_access_key": "x"}, "looks like a secret"),
        ({"profile": "AKIAABCDEFGHIJKLMNOP"}, "looks like a secret"),
        ({"session_token": "x"}, "looks like a secret"),
        ({"endpoint_url": "http://me:word@host"}, "user or password"),
        ({"endpoint": "http://host"}, "it takes profile, endpoint_url, region, anon"),
    ],
)
def test_options_take_no_secret_and_nothing_unknown(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        S3FileManager(storage_options=options)
    assert "AKIA" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_no_secret_reaches_the_cache_an_error_or_a_log(s3, make, caplog, tmp_path):
    caplog.set_level("DEBUG", "media")
    s3.put(URL, CONTENT)
    files = make(tries=2)
    files.download_file(URL)
    s3.proxy.rules.append(Rule("^GET", Status(403), times=1))
    said = []
    for url in ("s3://songs/x", "s3://songs/y"):
        with pytest.raises(OSError) as caught:
            files.download_file(url)
        said.append(repr(caught.value))
    text = " ".join([*said, caplog.text, *map(str, tmp_path.rglob("*"))])
    assert "made-up-secret" not in text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"made-up-secret" in path.read_bytes()]

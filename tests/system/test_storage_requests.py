"""Each object costs one request, with any number of readers."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from system.storage import list_objects
from tests.helpers.efficientat import served
from tests.helpers.s3_server import Delay, Rule, Status
from tests.helpers.stored_files import CONTENT, URL, fill, start


def test_the_first_pass_costs_one_get_per_object_and_the_second_none(s3, make):
    contents = fill(s3, 30)
    files = make()
    files.prefetch_files(contents)
    assert {url: files.read_bytes(url) for url in contents} == contents
    assert s3.proxy.count() == s3.proxy.count("^GET /many/") == 30
    files.prefetch_files(contents)
    assert {url: files.download_file(url).read_bytes() for url in contents} == contents
    assert s3.proxy.count() == 30
    assert files.stats().downloads == 30


def test_a_file_from_a_listing_costs_one_get(s3, make):
    contents = fill(s3, 3)
    listed = list_objects("s3://many")
    assert [(f.url, f.size) for f in listed] == [(url, len(content)) for url, content in contents.items()]
    files = make()
    assert [files.read_bytes(file) for file in listed] == list(contents.values())
    assert (s3.proxy.count("list-type=2"), s3.proxy.count("^GET /many/"), s3.proxy.count("^HEAD")) == (1, 3, 0)


def test_a_listing_reads_all_pages(s3, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # instead of a thousand
    contents = fill(s3, 25)
    assert [file.url for file in list_objects("s3://many")] == list(contents)
    assert s3.proxy.count("list-type=2") == 3


@pytest.mark.parametrize(
    ("numbers", "requests"),
    [(range(0, 100, 2), 10), ([0, 50, 99], 3), ([0, 1, 2, 3], 1), ([50, 200], 2), ([200, 300], 1)],
)
def test_describing_files_costs_one_request_per_page(s3, make, monkeypatch, numbers, requests):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # instead of a thousand
    contents, files = fill(s3, 100), make()
    urls = [f"s3://many/{i:03d}.bin" for i in numbers]
    expected = {file.url: file for file in list_objects("s3://many") if file.url in urls}
    assert expected.keys() == contents.keys() & set(urls)
    s3.proxy.forget()
    for _ in range(2):
        assert files.describe_files(urls) == expected
    assert s3.proxy.count() == s3.proxy.count("list-type=2") == requests


def test_files_are_described_one_by_one_if_listing_is_not_allowed(s3, make):
    contents = fill(s3, 5)
    s3.proxy.rules.append(Rule("list-type=2", Status(403)))
    s3.proxy.rules.append(Rule("^HEAD /many/003", Status(503), times=1))
    s3.proxy.rules.append(Rule("^HEAD /many/004", Status(403)))
    described = make().describe_files([*contents, "s3://many/none.bin"])
    assert [(url, file.size) for url, file in sorted(described.items())] == [(url, 1000) for url in [*contents][:4]]
    assert (s3.proxy.count("^HEAD /many/"), s3.proxy.count("list-type=2")) == (7, 1)


def test_a_failed_page_of_a_listing_is_requested_again(s3, make, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    contents = fill(s3, 30)
    s3.proxy.rules.append(Rule("list-type=2", Status(503), times=1, skip=1))
    assert make().describe_files(contents).keys() == contents.keys()
    assert s3.proxy.count() == 4


def test_files_on_a_web_server_are_described_from_its_headers(make, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"1234")
    with served(tmp_path) as (address, requested):
        first = make().describe_files([f"{address}/a.wav", f"{address}/b.wav"])
        os.utime(tmp_path / "a.wav", (0, 0))
        second = make().describe_files([f"{address}/a.wav"])
    assert first.keys() == second.keys() == {f"{address}/a.wav"}
    (before,), (after,) = first.values(), second.values()
    assert (before.size, after.size) == (4, 4)
    assert before.etag != after.etag
    assert requested.count("/a.wav") == 2


def test_a_listing_leaves_out_folder_markers_and_folders_with_the_same_prefix(s3):
    for key in ("songs/", "songs/1.mp3", "songs/x/2.mp3", "songs_old/3.mp3"):
        s3.put(f"s3://corpus/{key}", b"x")
    for prefix in ("s3://corpus/songs", "s3://corpus/songs/"):
        assert [file.url for file in list_objects(prefix)] == ["s3://corpus/songs/1.mp3", "s3://corpus/songs/x/2.mp3"]


def test_eight_threads_that_request_one_object_share_one_get(s3, make):
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


def test_four_processes_with_one_folder_download_each_object_once(s3, tmp_path):
    fill(s3, 20)
    s3.proxy.latency = 0.05
    children = [start(ONE_OF_FOUR, tmp_path / "cache") for _ in range(4)]
    assert [child.wait(600) for child in children] == [0] * 4
    assert s3.proxy.count() == 20


def test_max_workers_limits_the_parallel_requests(s3, make):
    s3.proxy.latency = 0.02
    contents = fill(s3, 40)
    files = make(max_workers=3)
    files.prefetch_files(contents)
    assert [files.read_bytes(url) for url in contents] == list(contents.values())
    assert s3.proxy.most_in_flight == 3


def test_a_blocking_download_goes_before_prefetched_files(s3, make):
    contents = fill(s3, 30)
    s3.proxy.latency = 0.03
    files = make(max_workers=1)
    files.prefetch_files(contents)
    last = list(contents)[-1]
    assert files.read_bytes(last) == contents[last]
    lines = [request.line for request in s3.proxy.requests]
    (position,) = [i for i, line in enumerate(lines) if "/many/029.bin" in line]
    assert position <= 2  # one was running
    for url in contents:
        files.download_file(url)
    assert s3.proxy.count() == 30


def test_a_long_prefetch_starts_few_threads_and_one_job_per_path(s3, make):
    s3.proxy.rules.append(Rule("^GET", Delay(1)))
    files = make(max_workers=2)
    before = threading.active_count()
    files.prefetch_files(f"s3://many/{i % 50_000}" for i in range(100_000))
    assert threading.active_count() <= before + 2 + 1  # workers, and the loop of s3fs
    assert len(files._downloads._jobs) == 50_000
    assert files.get_file("s3://many/1") is None


def test_a_prefetch_shows_a_progress_bar_that_is_closed_at_the_end(s3, make, capsys):
    contents = fill(s3, 5)
    files = make(show_progress=True)
    files.prefetch_files(contents)
    for url in contents:
        files.download_file(url)
    end = time.monotonic() + 60
    while files._downloads._bar is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    output = capsys.readouterr().err
    assert "fetching" in output
    assert "5/5" in output

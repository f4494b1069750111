"""The cache stays within a hard limit, and gives right content however small it is."""

import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import pytest

from system import storage_cache
from system.storage import S3FileManager, list_objects
from tests.helpers.stored_files import CONTENT, GET, URL, Watch, fill, left_over


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


def read_those_there(files: S3FileManager, contents: dict[str, bytes]) -> None:
    for url, content in contents.items():
        while files.get_file(url) is None:  # else this process fetches what is not there yet
            time.sleep(0.001)
        assert files.read_bytes(url) == content


def test_fetching_ahead_goes_on_while_a_worker_reads(s3, make):
    contents = fill(s3, 60, size=1000)
    files = make(max_bytes=10_000)
    files.prefetch_files(contents)
    worker = multiprocessing.get_context("fork").Process(target=read_those_there, args=(files, contents), daemon=True)
    worker.start()
    worker.join(600)
    assert worker.exitcode == 0
    assert files.stats().downloads == 60


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


def damage(path: Path) -> None:
    """Change a byte of a file, and neither its size nor its time stamp."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("prefetched", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_kept_copy_that_was_changed_is_fetched_again(s3, make, tmp_path, parts, prefetched):
    s3.put("s3://songs/other", b"")
    content = os.urandom(5 << 20) + CONTENT  # the first part of an upload has 5 MiB or more
    if parts == 2:  # its ETag is not the MD5 of its content
        begun = s3.boto.create_multipart_upload(Bucket="songs", Key="a.mp3")
        names = {"Bucket": "songs", "Key": "a.mp3", "UploadId": begun["UploadId"]}
        sent = [
            {"PartNumber": n, "ETag": s3.boto.upload_part(**names, PartNumber=n, Body=body)["ETag"]}
            for n, body in ((1, content[: 5 << 20]), (2, content[5 << 20 :]))
        ]
        s3.boto.complete_multipart_upload(**names, MultipartUpload={"Parts": sent})
    else:
        s3.put(URL, content)
    kept = {"cache_dir": tmp_path / "kept"}
    first = make(**kept)
    damage(first.download_file(URL))
    s3.proxy.forget()
    again, (listed,) = make(**kept), [file for file in list_objects("s3://songs") if file.url == URL]
    if prefetched:
        again.prefetch_files([listed])
    assert again.read_bytes(listed) == again.read_bytes(URL) == content
    assert (again.stats().damaged_copies, again.stats().downloads) == (1, 1)
    assert s3.proxy.count(GET) == 1
    later = make(**kept)
    assert later.read_bytes(URL) == content
    assert (later.stats().damaged_copies, later.stats().downloads, later.stats().hits) == (0, 0, 1)


def test_a_kept_copy_is_read_for_its_digest_once_a_process(s3, make, tmp_path, monkeypatch):
    s3.put(URL, CONTENT)
    make(cache_dir=tmp_path / "kept").download_file(URL)
    read, digest = [], storage_cache.digest_of
    monkeypatch.setattr(storage_cache, "digest_of", lambda path: read.append(path) or digest(path))
    files = make(cache_dir=tmp_path / "kept")
    for _ in range(3):
        assert files.read_bytes(URL) == CONTENT
    assert len(read) == 1
    temporary = make()
    for _ in range(3):
        temporary.read_bytes(URL)
    pickle.loads(pickle.dumps(temporary)).read_bytes(URL)
    assert len(read) == 1

"""The cache never exceeds its limit, and returns the right content at any size."""

import errno
import multiprocessing
import os
import pickle
import re
import time
from pathlib import Path

import pytest

from system import storage_cache
from system.storage import S3FileManager, list_objects
from tests.helpers.stored_files import CONTENT, GET, URL, Watch, fill, left_over


def test_the_limit_is_never_exceeded_and_all_content_is_right(s3, make):
    contents = fill(s3, 100, size=1000)
    files = make(max_bytes=10_500, max_workers=8)
    with Watch(files.root) as watch:
        for _ in range(2):
            files.prefetch_files(contents)
            assert [files.read_bytes(url) for url in contents] == list(contents.values())
    assert 5_000 < watch.most <= 10_500
    assert watch.looks > 10
    assert files.cache.used_bytes() <= 10_500


def test_the_least_recently_used_object_is_evicted_first(s3, make):
    contents = list(fill(s3, 12, size=1000))
    files = make(max_bytes=10_000)
    for url in contents[:10]:
        files.download_file(url)
        time.sleep(0.01)
    files.download_file(contents[0])
    files.download_file(contents[10])
    cached = [files.get_file(url) is not None for url in contents]
    assert cached[0]
    assert not cached[1]
    assert cached[9]
    assert cached[10]


def test_prefetched_files_do_not_evict_each_other_before_they_are_read(s3, make):
    contents = fill(s3, 60, size=1000)
    files = make(max_bytes=10_000, max_workers=4)
    files.prefetch_files(list_objects("s3://many"))
    time.sleep(0.3)
    assert files.cache.used_bytes() <= 5_000
    assert [files.read_bytes(url) for url in contents] == list(contents.values())
    assert s3.proxy.count("^GET /many/") == 60


def read_when_cached(files: S3FileManager, contents: dict[str, bytes]) -> None:
    for url, content in contents.items():
        while files.get_file(url) is None:  # otherwise this process would download it
            time.sleep(0.001)
        assert files.read_bytes(url) == content


def test_prefetching_continues_while_a_worker_reads(s3, make):
    contents = fill(s3, 60, size=1000)
    files = make(max_bytes=10_000)
    files.prefetch_files(contents)
    worker = multiprocessing.get_context("fork").Process(target=read_when_cached, args=(files, contents), daemon=True)
    worker.start()
    worker.join(600)
    assert worker.exitcode == 0
    assert files.stats().downloads == 60


def test_a_leased_file_is_not_evicted_and_a_full_cache_raises(s3, make, monkeypatch):
    monkeypatch.setattr(storage_cache, "PATIENCE", 0.2)
    contents = list(fill(s3, 12, size=1000).items())
    files = make(max_bytes=3_000)
    with files.lease(contents[0][0]) as path:
        for url, content in contents[1:]:
            assert files.read_bytes(url) == content
        assert path.read_bytes() == contents[0][1]
        with files.lease(contents[1][0]), files.lease(contents[2][0]):
            with pytest.raises(OSError, match="1000 bytes .*max_bytes=3000"):
                files.download_file(contents[3][0])
        files.clear_cache()
        assert path.exists()
    files.clear_cache()
    assert not left_over(files.root)


def test_an_object_larger_than_the_limit_is_refused(s3, make):
    s3.put(URL, CONTENT)
    with pytest.raises(OSError, match=f"max_bytes=5000: .* {len(CONTENT)} bytes"):
        make(max_bytes=5000).download_file(URL)


def test_a_file_evicted_before_it_is_opened_is_downloaded_again(s3, make, monkeypatch):
    s3.put(URL, CONTENT)
    files = make()
    lease = files.cache.lease

    def evict_once(entry):
        monkeypatch.setattr(files.cache, "lease", lease)
        entry.path.unlink()
        return lease(entry)

    monkeypatch.setattr(files.cache, "lease", evict_once)
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 2


@pytest.mark.parametrize("times", [1, 2])
def test_a_full_disk_evicts_and_retries_once(s3, make, monkeypatch, times):
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
        with pytest.raises(OSError, match=re.escape(URL)) as caught:
            files.read_bytes(URL)
        assert caught.value.errno == errno.ENOSPC
        assert not left_over(files.root)


def test_min_free_bytes_stay_free_on_the_disk(s3, make, monkeypatch):
    monkeypatch.setattr(storage_cache, "PATIENCE", 0.1)
    s3.put(URL, CONTENT)
    files = make(min_free_bytes=1 << 60)
    with pytest.raises(OSError, match=f"{re.escape(str(files.root))}: .* {len(CONTENT)} bytes"):
        files.download_file(URL)


def damage(path: Path) -> None:
    """Change a byte of a file, but not its size and time stamp."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("prefetched", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_damaged_copy_in_a_kept_cache_is_downloaded_again(s3, make, tmp_path, parts, prefetched):
    s3.put("s3://songs/other", b"")
    content = os.urandom(5 << 20) + CONTENT  # the first part of an upload must have 5 MiB or more
    if parts == 2:  # then the ETag is not the MD5 of the content
        upload = s3.boto.create_multipart_upload(Bucket="songs", Key="a.mp3")
        names = {"Bucket": "songs", "Key": "a.mp3", "UploadId": upload["UploadId"]}
        uploaded = [
            {"PartNumber": n, "ETag": s3.boto.upload_part(**names, PartNumber=n, Body=body)["ETag"]}
            for n, body in ((1, content[: 5 << 20]), (2, content[5 << 20 :]))
        ]
        s3.boto.complete_multipart_upload(**names, MultipartUpload={"Parts": uploaded})
    else:
        s3.put(URL, content)
    settings = {"cache_dir": tmp_path / "kept"}
    first = make(**settings)
    damage(first.download_file(URL))
    s3.proxy.forget()
    second, (listed,) = make(**settings), [file for file in list_objects("s3://songs") if file.url == URL]
    if prefetched:
        second.prefetch_files([listed])
    assert second.read_bytes(listed) == second.read_bytes(URL) == content
    assert (second.stats().damaged_copies, second.stats().downloads) == (1, 1)
    assert s3.proxy.count(GET) == 1
    third = make(**settings)
    assert third.read_bytes(URL) == content
    assert (third.stats().damaged_copies, third.stats().downloads, third.stats().hits) == (0, 0, 1)


def test_the_digest_of_a_kept_copy_is_checked_once_per_process(s3, make, tmp_path, monkeypatch):
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

"""A download returns the right content or raises an error, for any fault and any change on the way."""

import re
import time

import pytest

from system import storage_downloads, storage_remote
from system.storage import S3ObjectChanged, list_objects
from tests.helpers import s3_server
from tests.helpers.s3_server import Call, Corrupt, Cut, Delay, Reset, Rule, Stall, Status, Truncate
from tests.helpers.stored_files import CONTENT, GET, URL, left_over

# Faults


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
def test_transient_faults_are_retried(s3, make, action, times, requests):
    s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, action, times=times))
    files = make(storage_options={"read_timeout": 1})
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == requests
    if not isinstance(action, Reset):  # the HTTP client itself retries when a kept connection is gone
        assert files.stats().retries == requests - 1


@pytest.mark.parametrize("action", [Status(500), Status(503), Reset(), Cut(after=5000), Corrupt(), Truncate(to=5000)])
def test_permanent_faults_raise_after_all_tries_and_leave_no_file(s3, make, action):
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
def test_a_refusal_costs_one_request_and_has_the_code_of_the_service(s3, make, monkeypatch, status, code):
    monkeypatch.setitem(s3_server.ERRORS, status, code)
    s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, Status(status)))
    with pytest.raises(PermissionError, match=code):
        make().download_file(URL)
    assert s3.proxy.count() == 1


def test_a_missing_object_costs_one_request_and_is_read_once_it_exists(s3, make):
    files = make()
    for url in ("s3://songs/none.mp3", "s3://no-such-bucket/a"):
        with pytest.raises(FileNotFoundError, match=re.escape(url)):
            files.download_file(url)
    assert s3.proxy.count() == 2
    s3.put("s3://songs/none.mp3", CONTENT)
    assert files.read_bytes("s3://songs/none.mp3") == CONTENT


def test_a_failed_prefetch_is_logged_once_and_raised_when_the_file_is_requested(s3, make, caplog):
    files = make()
    urls = [f"s3://songs/{i}" for i in range(3)]
    files.prefetch_files(urls)
    end = time.monotonic() + 60
    while len(files.stats().failed_prefetches) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [record.name for record in caplog.records].count("system.storage_downloads") == 1
    assert set(files.stats().failed_prefetches) == set(urls)
    with pytest.raises(FileNotFoundError, match="songs/1"):
        files.download_file(urls[1])


def test_missing_credentials_are_reported_and_public_buckets_need_none(s3, make, monkeypatch):
    s3.put(URL, CONTENT)
    s3.boto.put_object_acl(Bucket="songs", Key="a.mp3", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="NoCredentialsError.*`profile`.*`anon`") as caught:
        make().download_file(URL)
    assert caught.value.filename == URL
    assert make(storage_options={"anon": True}).read_bytes(URL) == CONTENT


# Objects that change


def test_an_object_that_changed_after_the_listing_is_refused(s3, make):
    s3.put(URL, CONTENT)
    (listed,) = list_objects("s3://songs")
    s3.put(URL, b"other" * 100)
    files = make()
    with pytest.raises(S3ObjectChanged, match=re.escape(URL)):
        files.download_file(listed)
    assert s3.proxy.count(GET) == 1
    assert not left_over(files.root)
    assert files.read_bytes(list_objects("s3://songs")[0]) == b"other" * 100


@pytest.mark.parametrize("resumed", [False, True])
def test_an_object_that_is_replaced_during_the_download_is_never_mixed(s3, make, monkeypatch, resumed):
    monkeypatch.setattr(storage_remote, "BLOCK", 1000)
    monkeypatch.setattr(storage_downloads, "RESUME_FROM", 1 if resumed else 1 << 30)
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
        assert files.read_bytes(URL) == other


def test_a_long_object_is_resumed_after_an_interruption_if_unchanged(s3, make, monkeypatch):
    monkeypatch.setattr(storage_remote, "BLOCK", 1000)
    monkeypatch.setattr(storage_downloads, "RESUME_FROM", 2000)
    etag = s3.put(URL, CONTENT)
    s3.proxy.rules.append(Rule(GET, Cut(after=5500, seconds=0.3), times=1))
    assert make().read_bytes(URL) == CONTENT
    first, second = s3.proxy.requests
    assert first.range is None
    assert second.if_match == f'"{etag}"'
    assert 2000 <= int(re.fullmatch(r"bytes=(\d+)-", second.range)[1]) <= 5500


def test_a_copy_is_valid_for_the_run_unless_revalidated(s3, make):
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


def test_a_truncated_or_deleted_copy_is_downloaded_again(s3, make):
    s3.put(URL, CONTENT)
    files = make()
    files.download_file(URL).write_bytes(CONTENT[:100])
    assert files.get_file(URL) is None
    assert files.read_bytes(URL) == CONTENT
    files.download_file(URL).unlink()
    assert files.read_bytes(URL) == CONTENT
    assert s3.proxy.count() == 3

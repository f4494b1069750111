"""Files in object storage: uploads, names, and the settings of a manager."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system import storage_remote
from system.storage import S3FileManager, list_objects, parse_s3_url, s3_download
from tests.helpers.s3_server import Reset, Rule, Status
from tests.helpers.stored_files import CONTENT, URL

# Uploads


@pytest.mark.parametrize("size", [0, 10, storage_remote.BLOCK, 2 * storage_remote.BLOCK + 5])
def test_a_file_is_uploaded_in_one_part_so_that_its_etag_is_its_md5(s3, make, tmp_path, size):
    content = CONTENT * (size // len(CONTENT) + 1)
    (tmp_path / "file").write_bytes(content[:size])
    s3.put("s3://songs/other", b"")
    make().upload_file(tmp_path / "file", "s3://songs/new +#ä.bin")
    (uploaded,) = (entry for entry in list_objects("s3://songs") if "new" in entry.url)
    assert uploaded.url == "s3://songs/new +#ä.bin"
    assert uploaded.etag == hashlib.md5(content[:size]).hexdigest()
    assert s3.proxy.count("^PUT ") == 1


@pytest.mark.parametrize("action", [Status(500), Status(503), Reset()])
def test_an_interrupted_upload_is_repeated(s3, make, tmp_path, action):
    (tmp_path / "file").write_bytes(CONTENT * 300)
    s3.put(URL, b"old")
    s3.proxy.rules.append(Rule("^PUT", action, times=2))
    files = make()
    files.upload_file(tmp_path / "file", URL)
    assert files.read_bytes(URL) == CONTENT * 300
    assert files.stats().retries >= 1


def test_a_failed_upload_raises_and_keeps_the_old_object(s3, make, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    s3.put(URL, b"old")
    s3.proxy.rules.append(Rule("^PUT", Status(503)))
    with pytest.raises(OSError, match="SlowDown") as raised:
        make(tries=3).upload_file(tmp_path / "file", URL)
    assert raised.value.filename == URL
    assert s3.proxy.count("^PUT") == 3
    s3.proxy.rules[:] = [Rule("^PUT", Status(403))]
    with pytest.raises(PermissionError, match="AccessDenied"):
        make().upload_file(tmp_path / "file", URL)
    assert make().read_bytes(URL) == b"old"


def test_all_clients_of_a_process_share_the_session_of_the_sdk(s3, make):
    s3.put(URL, CONTENT)
    files = make()
    assert files.list_objects("s3://songs")
    assert files.file_system().isfile(URL)
    assert files.file_system().session is files._downloads.store().s3().session


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
def test_an_s3_url_is_split_into_bucket_and_key(key):
    assert parse_s3_url(f"s3://bucket/{key}") == ("bucket", key)


@pytest.mark.parametrize("url", ["", "s3://", "s3://b", "s3://b/", "s3:///key", "http://b/k", "b/k"])
def test_a_url_without_bucket_or_key_is_refused(url):
    with pytest.raises(ValueError, match=f"^{re.escape(repr(url))}: .*s3://bucket/key"):
        parse_s3_url(url)


def test_local_copies_keep_the_suffix_for_decoders(s3, make):
    s3.put(URL, CONTENT)
    assert make().download_file(URL).suffix == ".mp3"


def test_local_paths_are_returned_unchanged_and_other_urls_work(make, tmp_path):
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


# Settings


def test_a_process_has_one_shared_manager(s3, monkeypatch, tmp_path):
    monkeypatch.setattr(S3FileManager, "_shared", None)
    s3.put(URL, CONTENT)
    files = S3FileManager.shared(max_workers=3, cache_dir=tmp_path / "kept")
    assert files is S3FileManager.shared() is S3FileManager.shared(max_workers=3)
    assert s3_download(URL).read_bytes() == CONTENT
    assert s3_download(URL).is_relative_to(tmp_path / "kept")
    with pytest.raises(ValueError, match="max_workers=5: .* 3"):
        S3FileManager.shared(max_workers=5)
    files.close()
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"key": "x"}, "key", "secret"),
        ({"aws_secret_access_key": "x"}, "aws_secret_access_key", "secret"),
        ({"profile": "AKIAABCDEFGHIJKLMNOP"}, "profile", "secret"),
        ({"session_token": "x"}, "session_token", "secret"),
        ({"endpoint_url": "http://me:word@host"}, "endpoint_url", "password"),
        ({"endpoint": "http://host"}, "endpoint", "profile, endpoint_url, region, anon"),
    ],
)
def test_secrets_and_unknown_options_are_refused_by_name(options, name, message):
    with pytest.raises(ValueError, match=f"'{name}' .*{message}") as caught:
        S3FileManager(storage_options=options)
    assert "AKIA" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_no_secret_is_in_the_cache_an_error_or_a_log(s3, make, caplog, tmp_path):
    caplog.set_level("DEBUG", "system")
    s3.put(URL, CONTENT)
    files = make(tries=2)
    files.download_file(URL)
    s3.proxy.rules.append(Rule("^GET", Status(403), times=1))
    errors = []
    for url in ("s3://songs/x", "s3://songs/y"):
        with pytest.raises(OSError) as caught:
            files.download_file(url)
        errors.append(repr(caught.value))
    text = " ".join([*errors, caplog.text, *map(str, tmp_path.rglob("*"))])
    assert "made-up-secret" not in text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"made-up-secret" in path.read_bytes()]

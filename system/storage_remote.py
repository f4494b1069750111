"""Remote objects: addresses, listings, and one verified read of an object.

s3fs provides credentials, endpoint and error types. Every request is sent once, without s3fs's retries, so that only
`storage.py` decides what is retried. Other fsspec URLs are read through their file systems.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import fsspec

from system.text import TOKEN

# Properties of an object: url, size (bytes), etag (a string that changes with the content)


BLOCK = 1 << 20  # bytes that are read, hashed and written at once
POLL_INTERVAL = 0.1  # s between two checks whether to stop
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 15  # s without an answer or a byte
OPTIONS = ("profile", "endpoint_url", "region", "anon", "requester_pays", "read_timeout")
SECRET_NAME = re.compile(r"key|secret|token|passw|credential", re.IGNORECASE)
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "Last-Modified")  # names in fsspec's file systems
MD5 = re.compile(r"[0-9a-f]{32}")
RETRYABLE_STATUSES = {429, 500, 502, 503, 504}
RETRYABLE_CODES = {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "ThrottlingException"}


@dataclass(frozen=True)
class S3Object:
    """An object as listed. Reading it returns this content or raises an error, never other content."""

    url: str
    size: int
    etag: str


class S3ObjectChanged(OSError):
    """The object has changed since it was listed, or since the download started."""


class Body(Protocol):
    """A response that is being read: `read` returns up to BLOCK bytes, and b"" at the verified end."""

    size: int
    etag: str

    def read(self) -> bytes: ...

    def close(self) -> None: ...


def is_remote(path: str) -> bool:
    """Return whether a path is a URL rather than a local path."""
    return "://" in str(path)


def refuse_web_address(key: str, location: str) -> None:
    """Raise ValueError for a folder at http(s)://, which cannot be listed. The message contains no password."""
    scheme, _, rest = location.partition("://")
    if scheme.lower() in ("http", "https"):
        host = rest.partition("/")[0].rpartition("@")[2]
        raise ValueError(
            f"{key}={scheme}://{host}/...: a web server does not list its files. Download them and give their folder, "
            "or give an s3:// URL."
        )


def parse_s3_url(url: str) -> tuple[str, str]:
    """Return bucket and key. The key keeps blanks, `+`, `#`, `?`, `%` and non-ASCII. ValueError for other URLs."""
    match = re.fullmatch(r"s3://([^/]+)/(.+)", url, re.DOTALL)
    if not match:
        raise ValueError(f"{url!r}: not an S3 object. Give s3://bucket/key.")
    return match[1], match[2]


def check_options(options: dict[str, Any], where: str = "storage options") -> dict[str, Any]:
    """Check the options of a store in a config. Secrets are refused: they belong in AWS's own chain."""
    for name, value in options.items():
        if SECRET_NAME.search(name) or (isinstance(value, str) and TOKEN.search(value)):
            raise ValueError(
                f"{where}: {name!r} looks like a secret. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
                "environment, name a `profile` of ~/.aws, or give the machine a role."
            )
        if name not in OPTIONS:
            raise ValueError(f"{where}: {name!r} is unknown. Give any of {', '.join(OPTIONS)}.")
        if isinstance(value, str) and re.search(r"://[^/]*@", value):
            raise ValueError(f"{where}: {name!r} contains a user or password. Give the address without them.")
    return dict(options)


def s3fs_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Rename options for s3fs."""
    given = {name: options[name] for name in ("profile", "endpoint_url", "anon", "requester_pays") if name in options}
    return given | ({"client_kwargs": {"region_name": options["region"]}} if "region" in options else {})


class Store:
    """Read and list objects. Holds connections and event loops, so every process creates its own."""

    def __init__(
        self, options: dict[str, Any], connections: int, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.options = check_options(options)
        self.connections, self.stopping = connections, stopping
        self._s3: Any = None
        self._lock = threading.Lock()  # many threads request the first object at once

    def open(self, url: str, etag: str | None = None, start: int = 0) -> Body:
        """Send one request for an object from byte `start` on. S3ObjectChanged if its ETag is not `etag`."""
        if url.startswith("s3://"):
            return _S3Body(self, url, etag, start)
        return _OtherBody(url, etag, start)

    def describe(self, url: str) -> S3Object:
        """Return the current size and ETag of an object, with one request."""
        with _named_errors(url):
            if not url.startswith("s3://"):
                fs, path = fsspec.core.url_to_fs(url)
                return S3Object(url, *_size_and_etag(fs, path))
            bucket, key = parse_s3_url(url)
            answer = self.call("head_object", Bucket=bucket, Key=key)
            return S3Object(url, answer["ContentLength"], answer["ETag"].strip('"'))

    def list_page(self, bucket: str, prefix: str, after: str) -> tuple[list[S3Object], bool]:
        """Return up to a thousand objects in order of their keys, after a key, and whether there are more."""
        with _named_errors(f"s3://{bucket}/{prefix}"):
            page = self.call("list_objects_v2", Bucket=bucket, Prefix=prefix, StartAfter=after)
        return [_listed(bucket, entry) for entry in page.get("Contents", [])], bool(page.get("IsTruncated"))

    def list(self, prefix: str) -> list[S3Object]:
        """List all objects below a prefix in order of their URLs. Objects that only mark folders are left out."""
        with _named_errors(prefix):
            return sorted(self._list(prefix), key=lambda file: file.url)

    def _list(self, prefix: str) -> Iterator[S3Object]:
        if not prefix.startswith("s3://"):
            fs, root = fsspec.core.url_to_fs(prefix)
            for path, info in fs.find(root, detail=True).items():
                yield S3Object(fs.unstrip_protocol(path), *_size_and_etag(fs, path, info))
            return
        bucket, _, key = prefix.removeprefix("s3://").partition("/")
        key = key.rstrip("/") + "/" if key.rstrip("/") else ""  # `songs` must not list `songs_old/`
        more: dict[str, str] = {}
        while True:
            page = self.call("list_objects_v2", Bucket=bucket, Prefix=key, **more)
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    yield _listed(bucket, entry)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def upload(self, path: str | os.PathLike, url: str) -> None:
        """Upload a local file in one part, block by block, with one request."""
        bucket, key = parse_s3_url(url)
        with open(path, "rb") as file, _named_errors(url, "written"):
            self.call("put_object", Bucket=bucket, Key=key, Body=_FileBody(file))

    def call(self, method: str, **arguments: Any) -> dict:
        """Send one request of the S3 API."""
        return self.wait_for(self.s3()._call_s3(method, **arguments))

    def wait_for(self, work: Coroutine) -> Any:
        """Return the result of a coroutine on s3fs's loop. CancelledError when this process stops meanwhile."""
        # Poll rather than wait, so that a stalled server cannot delay the end of a program.
        future = asyncio.run_coroutine_threadsafe(work, self.s3().loop)
        while True:
            try:
                return future.result(POLL_INTERVAL)
            except TimeoutError:
                if future.done():  # the timeout is the coroutine's own
                    raise
                if self.stopping():
                    future.cancel()
                    raise CancelledError from None

    def s3(self) -> Any:
        """Return the S3 file system with these options, one try per request and one connection per worker."""
        with self._lock:
            if self._s3 is None:
                self._s3 = fsspec.filesystem(
                    "s3",
                    skip_instance_cache=True,  # a shared instance has its own pool and retries
                    use_listings_cache=False,
                    **s3fs_arguments(self.options),
                    config_kwargs={
                        "max_pool_connections": self.connections,
                        "connect_timeout": CONNECT_TIMEOUT,
                        "read_timeout": self.options.get("read_timeout", READ_TIMEOUT),
                        "retries": {"mode": "standard", "total_max_attempts": 1},
                    },
                )
                self._s3.retries = 1
        return self._s3


class _S3Body:
    """One GET. The SDK checks the stored checksum at the end. The downloader checks the length, and the MD5 if the
    ETag is one.
    """

    def __init__(self, store: Store, url: str, etag: str | None, start: int) -> None:
        bucket, key = parse_s3_url(url)
        conditions = ({"IfMatch": f'"{etag}"'} if etag else {}) | ({"Range": f"bytes={start}-"} if start else {})
        self.url, self.store = url, store
        with _named_errors(url):
            answer = store.call("get_object", Bucket=bucket, Key=key, **conditions)
        self.etag = answer["ETag"].strip('"')
        self.size = start + answer["ContentLength"]
        # The ETag of an upload in parts, or with KMS or customer keys, is not the MD5 of the content.
        self.etag_is_md5 = bool(MD5.fullmatch(self.etag)) and not (
            answer.get("ServerSideEncryption", "").startswith("aws:kms") or "SSECustomerAlgorithm" in answer
        )
        self._body = answer["Body"]

    def read(self) -> bytes:
        with _named_errors(self.url):
            return self.store.wait_for(self._read())

    async def _read(self) -> bytes:
        parts, length = [], 0
        while length < BLOCK and (part := await self._body.read(BLOCK - length)):
            parts.append(part)
            length += len(part)
        return b"".join(parts)

    def close(self) -> None:
        self.store.s3().loop.call_soon_threadsafe(self._body.close)


class _FileBody:
    """A file for the SDK, which reads it to sign it, and for aiohttp, which sends it."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # aiohttp would read a plain file in a thread and in small pieces. It iterates over this in blocks.
        while block := self.read(BLOCK):
            yield block


class _OtherBody:
    """A file of another fsspec file system."""

    etag_is_md5 = False

    def __init__(self, url: str, etag: str | None, start: int) -> None:
        self.url = url
        with _named_errors(url):
            fs, path = fsspec.core.url_to_fs(url)
            self.size, self.etag = _size_and_etag(fs, path)
            if etag and etag != self.etag:
                raise changed(url)
            self._file = fs.open(path, "rb", cache_type="none")
            self._file.seek(start)

    def read(self) -> bytes:
        with _named_errors(self.url):
            return self._file.read(BLOCK)

    def close(self) -> None:
        self._file.close()


def _listed(bucket: str, entry: dict) -> S3Object:
    """Convert an entry of a listing."""
    return S3Object(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))


def _size_and_etag(fs: Any, path: str, info: dict | None = None) -> tuple[int, str]:
    info = fs.info(path) if info is None else info
    etag = next((str(info[name]) for name in ETAGS if info.get(name)), None)
    return info["size"], (etag or fs.ukey(path)).strip('"')


def etag_of(md5: Any) -> str:
    """Return the ETag of a plain S3 object whose content has this MD5."""
    return md5.hexdigest()


def new_md5() -> Any:
    """Create an MD5 for comparing contents, not for security."""
    return hashlib.md5(usedforsecurity=False)


def changed(url: str) -> S3ObjectChanged:
    """Create the error for an object that has changed."""
    return S3ObjectChanged(errno.ESTALE, f"{url}: changed since it was listed or read. List it again and start over.")


def is_retryable(error: BaseException) -> bool:
    """Return whether the same request may succeed later: a busy or broken server, or a damaged response."""
    if isinstance(error, FileNotFoundError | PermissionError | S3ObjectChanged | ValueError):
        return False
    answer = getattr(error.__cause__, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in RETRYABLE_STATUSES or answer["Error"].get("Code") in RETRYABLE_CODES
    return True  # no answer from the server: connection refused or reset, timeout, incomplete body, wrong checksum


@contextlib.contextmanager
def _named_errors(url: str, action: str = "read") -> Iterator[None]:
    """Convert errors of the libraries to errors that name the object and a remedy, without secrets."""
    try:
        yield
    except S3ObjectChanged:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "object or bucket does not exist", url) from error.__cause__
    except PermissionError as error:
        code = _code(error)
        # S3 answers AccessDenied for a missing object if the caller may not list the bucket.
        hint = ", or the object is missing and you may not list the bucket" if code == "AccessDenied" else ""
        raise PermissionError(errno.EACCES, f"access refused ({code}){hint}", url) from error.__cause__
    except (ValueError, CancelledError):
        raise
    except Exception as error:
        name = type(error).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"):
            raise PermissionError(
                errno.EACCES, f"no AWS credentials ({name}). Set them, a `profile`, or `anon` for public data", url
            ) from None
        if _code(error) in ("PreconditionFailed", "412"):
            raise changed(url) from error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = _code(error) or f"{name}: {error}"
        raise OSError(errno.EIO, f"cannot be {action} ({reason})", url) from (error.__cause__ or error)


def _code(error: BaseException) -> str:
    """Return the service's error code, for example AccessDenied or ExpiredToken."""
    answer = getattr(error.__cause__, "response", None)
    return str(answer["Error"].get("Code", "")) if isinstance(answer, dict) and "Error" in answer else ""

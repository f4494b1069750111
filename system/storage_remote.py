"""Objects where they are stored: their addresses, listing them, and one verified read of one of them.

s3fs brings credentials, endpoint and the names of errors; everything is asked for once, without its retries, so that
`storage.py` alone decides what is tried again. Any other fsspec URL is read through its file system.
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

# What is known of an object: url, size (bytes), etag (a string that changes when the content does)


BLOCK = 1 << 20  # bytes that are read, hashed and written at once
GLANCE = 0.1  # s between two looks whether to stop
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 15  # s without an answer or a byte
OPTIONS = ("profile", "endpoint_url", "region", "anon", "requester_pays", "read_timeout")
SECRET_NAME = re.compile(r"key|secret|token|passw|credential", re.IGNORECASE)
ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "Last-Modified")  # as fsspec's file systems name them
MD5 = re.compile(r"[0-9a-f]{32}")
AGAIN = {429, 500, 502, 503, 504}  # HTTP statuses that another try may not get
AGAIN_CODES = {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "ThrottlingException"}


@dataclass(frozen=True)
class S3Object:
    """An object as a listing describes it; whoever passes it on gets this content or an error, never another."""

    url: str
    size: int
    etag: str


class S3ObjectChanged(OSError):
    """The object is no longer the one that was listed, or that a download began with."""


class Body(Protocol):
    """An answer that is being read: `read` gives at most BLOCK bytes and b"" at its verified end."""

    size: int
    etag: str

    def read(self) -> bytes: ...

    def close(self) -> None: ...


def is_remote(path: str) -> bool:
    """Whether a path is a URL, as opposed to a place on this machine."""
    return "://" in str(path)


def refuse_web_address(key: str, location: str) -> None:
    """ValueError where a folder is given as http(s)://, which cannot be listed; it names no password or signature."""
    scheme, _, rest = location.partition("://")
    if scheme.lower() in ("http", "https"):
        host = rest.partition("/")[0].rpartition("@")[2]
        raise ValueError(
            f"{key}={scheme}://{host}/...: a web server does not list its files. Download them and give their folder, "
            "or give an s3:// URL."
        )


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and key, which keeps blanks, `+`, `#`, `?`, `%` and what is not ASCII; ValueError for anything else."""
    match = re.fullmatch(r"s3://([^/]+)/(.+)", url, re.DOTALL)
    if not match:
        raise ValueError(f"{url!r} is no address of an object; it takes s3://bucket/key")
    return match[1], match[2]


def check_options(options: dict[str, Any], where: str = "storage options") -> dict[str, Any]:
    """Options of a store as a config may name them: never a secret, whose place is AWS's own chain."""
    for name, value in options.items():
        if SECRET_NAME.search(name) or (isinstance(value, str) and TOKEN.search(value)):
            raise ValueError(
                f"{where}: {name!r} looks like a secret, which has no place here; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment, name a `profile` of ~/.aws, or give the machine a role"
            )
        if name not in OPTIONS:
            raise ValueError(f"{where}: {name!r} is not known; it takes {', '.join(OPTIONS)}")
        if isinstance(value, str) and re.search(r"://[^/]*@", value):
            raise ValueError(f"{where}: {name!r} holds a user or password; give the plain address")
    return dict(options)


def s3fs_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Options as s3fs names them."""
    given = {name: options[name] for name in ("profile", "endpoint_url", "anon", "requester_pays") if name in options}
    return given | ({"client_kwargs": {"region_name": options["region"]}} if "region" in options else {})


class Store:
    """Reads and lists objects. Holds connections and event loops, so it is made anew in every process."""

    def __init__(
        self, options: dict[str, Any], connections: int, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self.options = check_options(options)
        self.connections, self.stopping = connections, stopping
        self._s3: Any = None
        self._lock = threading.Lock()  # many threads ask for the first object at once

    def open(self, url: str, etag: str | None = None, start: int = 0) -> Body:
        """Ask for an object once, from byte `start` on; refused (S3ObjectChanged) when its ETag is not `etag`."""
        if url.startswith("s3://"):
            return _S3Body(self, url, etag, start)
        return _OtherBody(url, etag, start)

    def describe(self, url: str) -> S3Object:
        """Size and ETag of an object now; one request."""
        with _named_errors(url):
            if not url.startswith("s3://"):
                fs, path = fsspec.core.url_to_fs(url)
                return S3Object(url, *_size_and_etag(fs, path))
            bucket, key = parse_s3_url(url)
            answer = self.call("head_object", Bucket=bucket, Key=key)
            return S3Object(url, answer["ContentLength"], answer["ETag"].strip('"'))

    def list_page(self, bucket: str, prefix: str, after: str) -> tuple[list[S3Object], bool]:
        """Up to a thousand objects in order of their keys, from behind a key on, and whether there are more."""
        with _named_errors(f"s3://{bucket}/{prefix}"):
            page = self.call("list_objects_v2", Bucket=bucket, Prefix=prefix, StartAfter=after)
        return [_listed(bucket, entry) for entry in page.get("Contents", [])], bool(page.get("IsTruncated"))

    def list(self, prefix: str) -> list[S3Object]:
        """Every object below a prefix, in order of its URL; those that stand for folders are left out."""
        with _named_errors(prefix):
            return sorted(self._list(prefix), key=lambda found: found.url)

    def _list(self, prefix: str) -> Iterator[S3Object]:
        if not prefix.startswith("s3://"):
            fs, root = fsspec.core.url_to_fs(prefix)
            for path, info in fs.find(root, detail=True).items():
                yield S3Object(fs.unstrip_protocol(path), *_size_and_etag(fs, path, info))
            return
        bucket, _, key = prefix.removeprefix("s3://").partition("/")
        key = key.rstrip("/") + "/" if key.rstrip("/") else ""  # `songs` is not to list `songs_old/`
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
        """Put a file of this machine there, in one piece and block by block; one request."""
        bucket, key = parse_s3_url(url)
        with open(path, "rb") as file, _named_errors(url, "written"):
            self.call("put_object", Bucket=bucket, Key=key, Body=_FileBody(file))

    def call(self, method: str, **arguments: Any) -> dict:
        """One request of S3's own kind."""
        return self.wait_for(self.s3()._call_s3(method, **arguments))

    def wait_for(self, work: Coroutine) -> Any:
        """What a coroutine on s3fs's loop gives; CancelledError when this process stops meanwhile.

        A server that stalls does not hold up the end of a program.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.s3().loop)
        while True:
            try:
                return future.result(GLANCE)
            except TimeoutError:
                if future.done():
                    raise
                if self.stopping():
                    future.cancel()
                    raise CancelledError from None

    def s3(self) -> Any:
        """The file system of S3 as these options name it, with one try a request and a connection a worker."""
        with self._lock:
            if self._s3 is None:
                self._s3 = fsspec.filesystem(
                    "s3",
                    skip_instance_cache=True,  # another's instance has another's pool and retries
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
    """One GET: the SDK checks the stored checksum at the end, and we the length and, where it is one, the MD5."""

    def __init__(self, store: Store, url: str, etag: str | None, start: int) -> None:
        bucket, key = parse_s3_url(url)
        conditions = ({"IfMatch": f'"{etag}"'} if etag else {}) | ({"Range": f"bytes={start}-"} if start else {})
        self.url, self.store = url, store
        with _named_errors(url):
            answer = store.call("get_object", Bucket=bucket, Key=key, **conditions)
        self.etag = answer["ETag"].strip('"')
        self.size = start + answer["ContentLength"]
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
    """A file as the SDK reads it, to sign it, and as aiohttp sends it (which reads plain ones by threads, in bits)."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while block := self.read(BLOCK):
            yield block


class _OtherBody:
    """A file of any other fsspec file system."""

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
    """An object of a listing's page."""
    return S3Object(f"s3://{bucket}/{entry['Key']}", entry["Size"], entry["ETag"].strip('"'))


def _size_and_etag(fs: Any, path: str, info: dict | None = None) -> tuple[int, str]:
    info = fs.info(path) if info is None else info
    etag = next((str(info[name]) for name in ETAGS if info.get(name)), None)
    return info["size"], (etag or fs.ukey(path)).strip('"')


def etag_of(md5: Any) -> str:
    """The ETag that S3 gives a plain object whose content has this MD5."""
    return md5.hexdigest()


def new_md5() -> Any:
    """For comparing contents, not for security."""
    return hashlib.md5(usedforsecurity=False)


def changed(url: str) -> S3ObjectChanged:
    """The error for an object that is another one now."""
    return S3ObjectChanged(
        errno.ESTALE, f"{url} changed after it was listed or while it was read; list it again and start over"
    )


def may_help_to_try_again(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is busy or broken, or the answer came damaged."""
    if isinstance(error, FileNotFoundError | PermissionError | S3ObjectChanged | ValueError):
        return False
    answer = getattr(error.__cause__, "response", None)
    if isinstance(answer, dict) and "Error" in answer:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in AGAIN or answer["Error"].get("Code") in AGAIN_CODES
    return True  # no answer of the server: connection refused or reset, time-out, cut body, wrong checksum


@contextlib.contextmanager
def _named_errors(url: str, done: str = "read") -> Iterator[None]:
    """Errors of the libraries below as ours: they name the object and say what to do, and hold no secret."""
    try:
        yield
    except S3ObjectChanged:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", url) from error.__cause__
    except PermissionError as error:
        code = _code(error)
        hint = "; a missing object looks the same to who may not list the bucket" if code == "AccessDenied" else ""
        raise PermissionError(errno.EACCES, f"access refused ({code}){hint}", url) from error.__cause__
    except (ValueError, CancelledError):
        raise
    except Exception as error:
        name = type(error).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"):
            raise PermissionError(
                errno.EACCES, f"no AWS credentials ({name}); set them, name a `profile`, or `anon` for open data", url
            ) from None
        if _code(error) in ("PreconditionFailed", "412"):
            raise changed(url) from error
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        said = _code(error) or f"{name}: {error}"
        raise OSError(errno.EIO, f"cannot be {done} ({said})", url) from (error.__cause__ or error)


def _code(error: BaseException) -> str:
    """The service's own word for an error, such as AccessDenied or ExpiredToken."""
    answer = getattr(error.__cause__, "response", None)
    return str(answer["Error"].get("Code", "")) if isinstance(answer, dict) and "Error" in answer else ""

"""A local S3 for tests: moto's server, behind a proxy that adds latency and faults on request.

with serve_s3(Rule("^GET /songs/", Cut(after=1000), times=2)) as s3:
    s3.put("s3://songs/1.mp3", content)  # bypasses the proxy: not counted, no faults
    ...  # all clients use the proxy, through AWS_ENDPOINT_URL
    assert s3.proxy.count("^GET /songs/1.mp3") == 3
"""

import asyncio
import contextlib
import logging
import os
import random
import re
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from unittest import mock

import boto3
import fsspec
from botocore.config import Config
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

HEAD_LIMIT = 1 << 20  # bytes; largest head that asyncio buffers
ERRORS = {403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}
# Variables that could lead a client to a real account, or around the proxy.
FOREIGN = re.compile(r"AWS_|BOTO|FSSPEC_|(HTTP|HTTPS|ALL)_PROXY$", re.IGNORECASE)


@dataclass(frozen=True)
class Delay:
    """Delay the response."""

    seconds: float


@dataclass(frozen=True)
class Status:
    """Respond with an S3 error, without asking the server."""

    status: int


@dataclass(frozen=True)
class Reset:
    """Reset the connection instead of responding."""


@dataclass(frozen=True)
class Cut:
    """Reset the connection after this many bytes of the body and a pause."""

    after: int
    seconds: float = 0  # without a pause, the reset can discard bytes that the client has not read yet


@dataclass(frozen=True)
class Stall:
    """Send this many bytes of the body, nothing for a while, then the rest."""

    after: int
    seconds: float


@dataclass(frozen=True)
class Corrupt:
    """Flip one bit of the byte at this index of the body."""

    at: int = -1


@dataclass(frozen=True)
class Truncate:
    """Send only this many bytes of the body, with a matching Content-Length."""

    to: int


@dataclass(frozen=True)
class Call:
    """Call a function in a thread before the request is passed on, for example to change objects or to wait."""

    run: Callable[[], object]


Action = Delay | Status | Reset | Cut | Stall | Corrupt | Truncate | Call


@dataclass
class Rule:
    """An action for requests whose line (`GET /bucket/key?query HTTP/1.1`) matches a regular expression.

    The first rule that is due applies to a request: it has let `skip` matching requests pass, has acted fewer than
    `times` times (None: no limit), and is chosen with `probability`.
    """

    match: str
    action: Action
    times: int | None = None
    skip: int = 0
    probability: float = 1.0
    passed: int = field(default=0, init=False)
    acted: int = field(default=0, init=False)

    def is_due(self, line: str, dice: random.Random) -> bool:
        """Return whether the rule acts on this request, and count it."""
        if not re.search(self.match, line) or self.acted == self.times:
            return False
        if self.passed < self.skip:
            self.passed += 1
            return False
        if dice.random() >= self.probability:
            return False
        self.acted += 1
        return True


@dataclass(frozen=True)
class Request:
    """A received request, with its headers about ranges; None if not sent."""

    line: str
    range: str | None
    if_match: str | None


@dataclass
class Message:
    """A request or a response with its complete body."""

    first_line: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """Return the value of a header; `name` is in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def drop(self, *names: str) -> None:
        self.headers = [(key, value) for key, value in self.headers if key.lower() not in names]

    def head(self) -> bytes:
        """Return the encoded head."""
        lines = [self.first_line, *(f"{name}: {value}" for name, value in self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class FaultProxy:
    """Pass requests on to one server, with faults by rules. It runs in a thread with a separate event loop.

    Bodies are read completely before they are passed on, with a Content-Length, so that faults can use all of them.

    Attributes:
        rules: can be changed at any time; changes apply to the next request.
        latency: seconds before every response.
        requests: all requests, in the order in which they arrived.
        connections: number of opened connections.
        most_in_flight: largest number of requests at the same time.
    """

    def __init__(self, upstream: tuple[str, int], rules: Iterable[Rule] = (), latency: float = 0, seed: int = 0):
        self.upstream, self.rules, self.latency = upstream, list(rules), latency
        self.dice = random.Random(seed)
        self.forget()
        self._in_flight = 0
        self._failures: list[BaseException] = []
        self._tasks: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_LIMIT)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._failures:
            raise RuntimeError("the proxy itself failed; see the error above") from self._failures[0]

    def forget(self) -> None:
        """Reset all counts."""
        self.requests: list[Request] = []
        self.connections = self.most_in_flight = 0

    def count(self, match: str = "") -> int:
        """Return the number of requests whose line matches."""
        return sum(bool(re.search(match, request.line)) for request in list(self.requests))

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until one end closes it."""
        self._tasks.add(task := asyncio.current_task())
        self.connections += 1
        try:
            while (request := await _read_request(reader, writer)) is not None:
                self._in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self._in_flight)
                try:
                    await self._handle(request, writer)
                finally:
                    self._in_flight -= 1
        except ConnectionError:
            pass  # the client closed it, or a rule did
        except asyncio.CancelledError:
            writer.transport.abort()  # the proxy stops; not raised again, because asyncio would log it as an error
        except Exception as error:
            self._failures.append(error)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _handle(self, request: Message, writer: asyncio.StreamWriter) -> None:
        line = request.first_line
        self.requests.append(Request(line, request.get("range"), request.get("if-match")))
        rule = next((rule for rule in list(self.rules) if rule.is_due(line, self.dice)), None)
        action = rule.action if rule else None
        match action:
            case Reset():
                writer.transport.abort()
                raise ConnectionResetError
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Call(run):
                await self._loop.run_in_executor(None, run)
        answer = _error(action.status) if isinstance(action, Status) else await self._ask_server(request)
        await asyncio.sleep(self.latency)
        if line.startswith("HEAD ") or answer.first_line.split()[1] in ("204", "304"):
            writer.write(answer.head())  # its Content-Length may be of a body that does not follow
            await writer.drain()
        else:
            await _send(answer, action, writer)

    async def _ask_server(self, request: Message) -> Message:
        """Send a request to the server on a new connection; moto closes connections after each request anyway."""
        reader, writer = await asyncio.open_connection(*self.upstream, limit=HEAD_LIMIT)
        try:
            writer.write(request.head() + request.body)
            await writer.drain()
            answer = await _read_head(reader)
            if not (request.first_line.startswith("HEAD ") or answer.first_line.split()[1] in ("204", "304")):
                await _read_body(reader, answer, until_close=True)
            answer.drop("connection")
            return answer
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    return Message(first, [tuple(part.strip() for part in line.split(":", 1)) for line in lines])


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
    """Return the next request of a connection, None at its end."""
    try:
        request = await _read_head(reader)
        if request.get("expect"):
            request.drop("expect")
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await _read_body(reader, request)
    except asyncio.IncompleteReadError:
        return None
    return request


async def _read_body(reader: asyncio.StreamReader, message: Message, until_close: bool = False) -> None:
    """Read the body after a head, with any transfer encoding, and set its Content-Length."""
    length = message.get("content-length")
    if "chunked" in (message.get("transfer-encoding") or "").lower():
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            message.body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
    elif length is not None:
        message.body = await reader.readexactly(int(length))
    elif until_close:
        message.body = await reader.read()
    else:
        return
    _set_length(message)


def _set_length(message: Message) -> None:
    message.drop("content-length", "transfer-encoding")
    message.headers.append(("Content-Length", str(len(message.body))))


def _error(status: int) -> Message:
    code = ERRORS[status]
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>by a rule</Message></Error>'
    answer = Message(f"HTTP/1.1 {status} {ERRORS[status]}", [("Content-Type", "application/xml")], body.encode())
    _set_length(answer)
    return answer


async def _send(answer: Message, action: Action | None, writer: asyncio.StreamWriter) -> None:
    """Send a response with its body, changed by the action."""
    match action:
        case Corrupt(at):
            corrupted = bytearray(answer.body)
            corrupted[at] ^= 1
            answer.body = bytes(corrupted)
        case Truncate(to):
            answer.body = answer.body[:to]
            _set_length(answer)
    is_interrupted = isinstance(action, Cut | Stall)
    first = action.after if is_interrupted else len(answer.body)
    writer.write(answer.head() + answer.body[:first])
    await writer.drain()
    if isinstance(action, Cut):
        await _flush(writer)
        await asyncio.sleep(action.seconds)
        writer.transport.abort()
        raise ConnectionResetError
    if isinstance(action, Stall):
        await asyncio.sleep(action.seconds)
        writer.write(answer.body[first:])
        await writer.drain()


async def _flush(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernel has all written bytes, because abort() drops the others."""
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


@dataclass(frozen=True)
class FakeS3:
    """A running server: clients use `proxy`, `boto` bypasses it."""

    proxy: FaultProxy
    boto: Any

    def put(self, url: str, content: bytes) -> str:
        """Store an object, create its bucket if needed, and return the ETag."""
        bucket, key = url.removeprefix("s3://").split("/", 1)
        self.boto.create_bucket(Bucket=bucket)
        return self.boto.put_object(Bucket=bucket, Key=key, Body=content)["ETag"].strip('"')

    def put_folder(self, folder: Path, url: str) -> int:
        """Store all files of a folder and return their number."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        for path in paths:
            self.put(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return len(paths)

    def contents(self, url: str) -> dict[str, bytes]:
        """Return all objects of a folder by their path in it."""
        bucket, prefix = f"{url.removeprefix('s3://')}/".split("/", 1)
        pages = self.boto.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key.removeprefix(prefix): self.boto.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def reset(self) -> None:
        """Delete all buckets."""
        _reset(self.boto.meta.endpoint_url)


@contextlib.contextmanager
def serve_s3(*rules: Rule, latency: float = 0, seed: int = 0) -> Iterator[FakeS3]:
    """Serve an empty S3 inside the block; all clients created there use it, and cannot reach any other.

    Args:
        latency: seconds before every response.
        seed: for rules with a probability.
    """
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it logs every request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    address = moto.get_host_and_port()
    direct = "http://{}:{}".format(*address)
    _reset(direct)
    try:
        with FaultProxy(address, rules, latency, seed) as proxy, _only_account(proxy.url):
            config = Config(s3={"addressing_style": "path"})
            yield FakeS3(proxy, boto3.session.Session().client("s3", endpoint_url=direct, config=config))
    finally:
        moto.stop()


def _reset(direct: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{direct}/moto-api/reset", method="POST")).close()


@contextlib.contextmanager
def _only_account(endpoint: str) -> Iterator[None]:
    """Give clients an endpoint and fake keys, and hide the settings of the person who runs the tests."""
    others = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    fake = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "made-up-id",
        "AWS_SECRET_ACCESS_KEY": "made-up-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        # If unset, clients read the files in ~/.aws.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with (
        mock.patch.dict(os.environ, others | fake, clear=True),
        mock.patch.dict(fsspec.config.conf, clear=True),
        mock.patch.object(boto3, "DEFAULT_SESSION", None),
    ):
        S3FileSystem.clear_instance_cache()
        try:
            yield
        finally:
            S3FileSystem.clear_instance_cache()

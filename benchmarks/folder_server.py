"""Serve a folder like S3, with a latency: `python -m benchmarks.folder_server FOLDER 0.03`.

For timing clients only. Subfolders are buckets, and signatures are not checked. The ETag of a file is its MD5, cached
until the file changes. `/-/sent` returns the number of bytes that were sent in bodies. Prints its port.
"""

import asyncio
import hashlib
import re
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_etags: dict[Path, tuple[int, str]] = {}  # path -> time of the last change in ns, MD5
SENT = "/-/sent"


def etag(path: Path) -> str:
    changed = path.stat().st_mtime_ns
    if _etags.get(path, (0, ""))[0] != changed:
        _etags[path] = changed, hashlib.md5(path.read_bytes()).hexdigest()
    return _etags[path][1]


def listing(root: Path, bucket: str, query: dict[str, list[str]]) -> bytes:
    """Return the body of ListObjectsV2, on one page."""
    prefix = query.get("prefix", [""])[0]
    paths = sorted(path for path in (root / bucket).rglob("*") if path.is_file())
    by_key = {path.relative_to(root / bucket).as_posix(): path for path in paths}
    entries = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"{etag(path)}"</ETag><Size>{path.stat().st_size}</Size></Contents>'
        for key, path in by_key.items()
        if key.startswith(prefix)
    )
    return (
        f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
    )


def answer(root: Path, line: str, headers: str, received: bytes) -> tuple[bytes, bytes]:
    """Return head and body of the response to a request with this body."""
    method, target, _ = line.split()
    parts = urlsplit(target)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    path = root / bucket / key
    if method == "POST":  # DeleteObjects
        for name in re.findall(rb"<Key>(.*?)</Key>", received):
            (root / bucket / name.decode()).unlink(missing_ok=True)
        body = b"<DeleteResult></DeleteResult>"
    elif not key and method in ("GET", "HEAD"):
        body = listing(root, bucket, parse_qs(parts.query))
    elif method == "PUT":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(received)
        return f'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "{etag(path)}"\r\n\r\n'.encode(), b""
    elif not path.is_file():
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""
    else:
        size = path.stat().st_size
        span = re.search(r"range: bytes=(\d+)-(\d*)", headers, re.IGNORECASE)
        first, last = (int(span[1]), min(int(span[2] or size), size - 1)) if span else (0, size - 1)
        status = f"206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}" if span else "200 OK"
        with open(path, "rb") as file:
            file.seek(first)
            body = b"" if method == "HEAD" else file.read(last + 1 - first)
        head = (
            f'HTTP/1.1 {status}\r\nContent-Length: {last + 1 - first}\r\nETag: "{etag(path)}"\r\n'
            "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n\r\n"
        )
        return head.encode(), body
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode(), b"" if method == "HEAD" else body


async def serve(root: Path, latency: float) -> None:
    """Serve until the process ends."""

    sent_bytes = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent_bytes
        try:
            while True:
                line, _, headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
                if "100-continue" in headers.lower():
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                length = re.search(r"content-length: (\d+)", headers, re.IGNORECASE)
                received = await reader.readexactly(int(length[1])) if length else b""
                if line.split()[1] == SENT:
                    body = str(sent_bytes).encode()
                    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                else:
                    head, body = answer(root, line, headers, received)
                    sent_bytes += len(body)
                    await asyncio.sleep(latency)  # requests on other connections are served meanwhile
                writer.write(head)
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    for path in root.rglob("*"):  # compute MD5s beforehand: a real store has them, so they must not cost latency
        if path.is_file():
            etag(path)
    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2])))

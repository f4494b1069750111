"""Serve random objects like S3, with a latency: `python -m benchmarks.object_server 200 0.03`.

For timing clients only: one asyncio process that keeps connections open, has all objects in memory and checks no
signatures, so that the server is not the bottleneck. Prints its port.
"""

import asyncio
import hashlib
import random
import re
import sys
from urllib.parse import parse_qs, urlsplit

SMALLEST, LARGEST = 400_000, 600_000  # bytes of an object
BUCKET = "bench"


def make_objects(count: int) -> dict[str, bytes]:
    """Return random contents by key."""
    dice = random.Random(0)
    return {f"{i:04d}.wav": dice.randbytes(dice.randint(SMALLEST, LARGEST)) for i in range(count)}


def listing(objects: dict[str, bytes], prefix: str) -> bytes:
    """Return the body of ListObjectsV2, on one page."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"{hashlib.md5(content).hexdigest()}"</ETag><Size>{len(content)}</Size></Contents>'
        for key, content in objects.items()
        if key.startswith(prefix)
    )
    return (
        f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
    )


def answer(objects: dict[str, bytes], etags: dict[str, str], line: str, headers: str) -> tuple[bytes, bytes]:
    """Return head and body of the response to a request."""
    method, target, _ = line.split()
    parts = urlsplit(target)
    key = parts.path.removeprefix(f"/{BUCKET}").lstrip("/")
    if "list-type" in parts.query:
        body = listing(objects, parse_qs(parts.query).get("prefix", [""])[0])
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode(), body
    if key not in objects:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b""
    body, status = objects[key], "200 OK"
    if span := re.search(r"range: bytes=(\d+)-(\d*)", headers, re.IGNORECASE):
        body = body[int(span[1]) : int(span[2]) + 1 if span[2] else None]
        status = "206 Partial Content"
    head = (
        f'HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nETag: "{etags[key]}"\r\n'
        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nAccept-Ranges: bytes\r\n\r\n"
    )
    return head.encode(), b"" if method == "HEAD" else body


async def serve(count: int, latency: float) -> None:
    """Serve until the process ends."""
    objects = make_objects(count)
    etags = {key: hashlib.md5(content).hexdigest() for key, content in objects.items()}

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                line, _, headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
                head, body = answer(objects, etags, line, headers)
                await asyncio.sleep(latency)
                writer.write(head)
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))

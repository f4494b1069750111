"""A local Hub for tests: enough of its HTTP API for the real client to push, load and list.

with serve_hub(hook=lambda method, path, body: 503 if "/commit/" in path else None) as hub:
    subprocess.run(command, env=os.environ | hub.environment(cache))  # HF_ENDPOINT and the token point to it
    assert hub.files("models", "tester/model")["config.json"].startswith(b"{")
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_secretOfTheTests0123456789abcdef"
USER = "tester"
LFS_FROM = 100_000  # bytes; files of this size, and all files with weights or rows, use LFS
LFS_SUFFIXES = (".safetensors", ".parquet")
KINDS = {"model": "models", "dataset": "datasets"}  # type of a repository -> its name in API paths


@dataclass(frozen=True)
class Stored:
    """A file of a repository; `lfs` is its SHA-256 if it was uploaded through LFS."""

    content: bytes
    lfs: str | None = None

    @property
    def oid(self) -> str:
        """The SHA-1 of git."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content, usedforsecurity=False).hexdigest()

    def listed(self, path: str) -> dict[str, Any]:
        """Return the file as an entry of a tree."""
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.lfs, "size": len(self.content), "pointerSize": 134}
        return entry


@dataclass
class Repository:
    """Commits by SHA, each with all of its files; main is the last one."""

    private: bool = False
    commits: dict[str, dict[str, Stored]] = field(default_factory=dict)

    def at(self, revision: str) -> tuple[str, dict[str, Stored]] | None:
        """Return SHA and files of a revision."""
        sha = next(reversed(self.commits)) if revision == "main" else revision
        return (sha, self.commits[sha]) if sha in self.commits else None

    def add(self, files: dict[str, Stored]) -> str:
        """Add a commit to main and return its SHA."""
        sha = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        return sha


class Hub:
    """The repositories of the server, and the requests that it got."""

    def __init__(self, hook: Callable[[str, str, bytes], int | None]) -> None:
        self.hook = hook  # (method, path, body) -> error status to answer with, or None
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploads: dict[str, bytes] = {}  # by SHA-256
        self.requests: list[tuple[str, str, bool]] = []  # method, path, whether it had a token
        self.port = 0

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Return variables with which a process uses this Hub and no other, with its cache in `home`."""
        variables = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "no_proxy": "*", "HF_TOKEN": token or ""}
        return variables

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """Return the current files of a repository; kind is "models" or "datasets"."""
        _, files = self.repositories[kind, name].at("main")
        return {path: stored.content for path, stored in files.items()}


class Handler(BaseHTTPRequestHandler):
    """Handle one request; paths are those of huggingface.co."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing on stderr."""

    def do_GET(self) -> None:
        """Answer a request; also for HEAD, POST and PUT."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.hub.requests.append((self.command, parts.path, "Authorization" in self.headers))
        status = self.hub.hook(self.command, parts.path, self.body)
        if status:
            return self.error(status, f"error {status} from the hook of the test")
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, unquote(parts.path))
            if match and self.command in method.split():
                return answer(self, parse_qs(parts.query), **match.groupdict())
        self.error(404, f"no route: {self.command} {parts.path}")

    do_HEAD = do_POST = do_PUT = do_GET

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Send a complete response, for HEAD without its body."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        """Send a JSON response."""
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | headers)

    def error(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        """Send an error in the format of the Hub."""
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | headers
        self.json({"error": message}, status, **headers)

    def repository(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, Stored]] | None:
        """Return SHA and files of the requested commit, or None after an error response."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.private and not self.authorized):
            self.error(404 if self.authorized else 401, "Repository not found", "RepoNotFound")
            return None
        commit = repository.at(revision)
        if commit is None:
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self, query: dict) -> None:
        if not self.authorized:
            return self.error(401, "Invalid username or password.")
        access = {"displayName": "tests", "role": "write"}
        self.json({"type": "user", "id": "1", "name": USER, "auth": {"accessToken": access}, "orgs": []})

    def create(self, query: dict) -> None:
        body = json.loads(self.body)
        if not self.authorized:
            return self.error(401, "Invalid username or password.")
        if (body.get("organization") or USER) != USER:
            return self.error(403, f"You don't have the rights to create a model under {body['organization']}")
        kind, name = KINDS[body.get("type") or "model"], f"{USER}/{body['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if (kind, name) in self.hub.repositories:
            return self.json({"error": "You already created this repo", "url": url, "name": name}, 409)
        repository = self.hub.repositories[kind, name] = Repository(body.get("visibility") == "private")
        repository.add({".gitattributes": Stored(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")})
        self.json({"url": url, "name": name, "id": name})

    def validate(self, query: dict) -> None:
        self.json({"errors": [], "warnings": []})

    def preupload(self, query: dict, kind: str, name: str, revision: str) -> None:
        if not self.authorized:
            return self.error(401, "Invalid username or password.")
        if self.repository(kind, name, revision):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs"
                    if file["size"] >= LFS_FROM or file["path"].endswith(LFS_SUFFIXES)
                    else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(self.body)["files"]
            ]
            self.json({"files": files, "commitOid": next(reversed(self.hub.repositories[kind, name].commits))})

    def lfs_batch(self, query: dict, name: str, kind: str | None = None) -> None:
        if not self.authorized:
            return self.error(401, "Invalid username or password.")
        objects = [
            {**each, "actions": {"upload": {"href": f"http://localhost:{self.hub.port}/uploads/{each['oid']}"}}}
            for each in json.loads(self.body)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def lfs_put(self, query: dict, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "the SHA-256 of the content differs from its address")
        self.hub.uploads[oid] = self.body
        self.send(200, b"", {})

    def lfs_get(self, query: dict, oid: str) -> None:
        self.send(200, self.hub.uploads[oid], {"ETag": f'"{oid}"'})

    def commit(self, query: dict, kind: str, name: str, revision: str) -> None:
        if not self.authorized:
            return self.error(401, "Invalid username or password.")
        commit = self.repository(kind, name, revision)
        if not commit:
            return
        files = dict(commit[1])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]))
            elif operation["key"] == "lfsFile":
                files[value["path"]] = Stored(self.hub.uploads[value["oid"]], value["oid"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        sha = self.hub.repositories[kind, name].add(files)
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}/commit/{sha}"
        self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def info(self, query: dict, kind: str, name: str, revision: str | None = None) -> None:
        commit = self.repository(kind, name, revision or "main")
        if commit:
            sha, files = commit
            siblings = [{"rfilename": path} for path in sorted(files)]
            private = self.hub.repositories[kind, name].private
            self.json({"_id": "1", "id": name, "sha": sha, "private": private, "tags": [], "siblings": siblings})

    def tree(self, query: dict, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        commit = self.repository(kind, name, revision)
        if not commit:
            return
        files, start = commit[1], f"{folder}/" if folder else ""
        inside = {path: stored for path, stored in sorted(files.items()) if path.startswith(start)}
        if folder and not inside:
            return self.error(404, f"{folder} does not exist on {revision!r}", "EntryNotFound")
        levels = [path.removeprefix(start).split("/") for path in inside]
        deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {
            start + "/".join(each[:depth])
            for each in levels
            for depth in range(1, len(each) if deep else min(len(each), 2))
        }
        listed = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        listed += [
            stored.listed(path)
            for (path, stored), each in zip(inside.items(), levels, strict=True)
            if deep or len(each) == 1
        ]
        self.json(listed)

    def paths_info(self, query: dict, kind: str, name: str, revision: str) -> None:
        commit = self.repository(kind, name, revision)
        if not commit:
            return
        body = self.body.decode()
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body)["paths"]
        files = commit[1]
        listed = [files[path].listed(path) for path in paths if path in files]
        folders = [path for path in paths if any(file.startswith(f"{path.rstrip('/')}/") for file in files)]
        self.json(listed + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders])

    def resolve(self, query: dict, name: str, revision: str, path: str, kind: str | None = None) -> None:
        commit = self.repository("datasets" if kind else "models", name, revision)
        if not commit:
            return
        sha, files = commit
        if path not in files:
            return self.error(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        stored = files[path]
        if not stored.lfs:
            return self.send(200, stored.content, {"X-Repo-Commit": sha, "ETag": f'"{stored.oid}"'})
        headers = {"X-Repo-Commit": sha, "X-Linked-Size": str(len(stored.content))}
        headers |= {"X-Linked-Etag": f'"{stored.lfs}"'}
        # As on the real Hub, large files are on another host, which must not get the token.
        self.send(302, b"", headers | {"Location": f"http://localhost:{self.hub.port}/lfs/{stored.lfs}"})


API = r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
WEB = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)", Handler.commit),
    ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.tree),
    ("GET", rf"{API}(?:/revision/(?P<revision>[^/]+))?", Handler.info),
    ("PUT", r"/uploads/(?P<oid>\w+)", Handler.lfs_put),
    ("GET HEAD", r"/lfs/(?P<oid>\w+)", Handler.lfs_get),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("GET HEAD", rf"{WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
)


@contextlib.contextmanager
def serve_hub(hook: Callable[[str, str, bytes], int | None] = lambda *request: None) -> Iterator[Hub]:
    """Serve an empty Hub on a free port inside the block."""
    hub = Hub(hook)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

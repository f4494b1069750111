"""A store that breaks on demand, and managers that read from it."""

import pytest

from system import storage, storage_downloads
from system.storage import S3FileManager
from tests.helpers.s3_server import serve_s3


@pytest.fixture(scope="module")
def server():
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(server):
    """An empty store behind a proxy that breaks nothing yet."""
    server.proxy.rules.clear()
    server.proxy.latency = 0
    server.reset()
    server.proxy.forget()
    return server


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes managers in one folder for temporary ones, with short pauses, and closes them."""
    monkeypatch.setattr(storage_downloads, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(storage.tempfile, "gettempdir", lambda: str(tmp_path))
    made = []

    def make(**settings) -> S3FileManager:
        made.append(S3FileManager(**{"min_free_bytes": 0, "max_workers": 4, **settings}))
        return made[-1]

    yield make
    for manager in made:
        manager.close()

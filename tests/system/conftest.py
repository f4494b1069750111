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
    """An empty store behind a proxy without faults."""
    server.proxy.rules.clear()
    server.proxy.latency = 0
    server.reset()
    server.proxy.forget()
    return server


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Create managers with short pauses and temporary folders in one place, and close them at the end."""
    monkeypatch.setattr(storage_downloads, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(storage.tempfile, "gettempdir", lambda: str(tmp_path))
    managers = []

    def make(**settings) -> S3FileManager:
        managers.append(S3FileManager(**{"min_free_bytes": 0, "max_workers": 4, **settings}))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()

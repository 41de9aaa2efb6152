"""A server with archives."""

from collections.abc import Iterator

import pytest
from tests.bundle.archive_server import ArchiveServer

from unichoir.bundle import download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    """A running server, which this process fetches archives from, without delays between attempts."""
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.0)
    server = ArchiveServer()
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    with server.running():
        yield server

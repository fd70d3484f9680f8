"""The front end's tests: tiny models, for which a second thread only costs time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.frontend.servers import Servers


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    servers = Servers()
    yield servers
    for script in servers.running:
        script.over.set()
        script.shutdown()
        script.server_close()

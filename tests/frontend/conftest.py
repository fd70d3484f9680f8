"""The front end's tests: tiny models, for which a second thread only costs time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.frontend.servers import serve as serve
from tests.photographs import real_weights as real_weights


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

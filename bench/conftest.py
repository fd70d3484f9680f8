"""Options and shared inputs of the benchmarks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.workloads import VoteWorkload, vote_workload
from chorus.body import Body, load_body
from chorus.kernels.cpu import default_threads

QUICK: dict[str, list[Any]] = {
    "vote_shape": [(48, 1), (48, 64), (48, 1024)],
    "field_resolution": [48],
    "memory_resolution": [48],
    "store_images": [512],
}
FULL: dict[str, list[Any]] = {
    "vote_shape": [(resolution, images) for resolution in (48, 96, 128) for images in (1, 64, 1024)],
    "field_resolution": [48, 96],
    "memory_resolution": [48, 128],
    "store_images": [4096],
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="the smallest shapes and few rounds")
    parser.addoption("--threads", type=int, default=default_threads(), help="of every contender (default: all cores)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    shapes = QUICK if metafunc.config.getoption("--quick") else FULL
    for name, values in shapes.items():
        if name in metafunc.fixturenames:
            ids = ["x".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values]
            metafunc.parametrize(name, values, ids=ids)


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> Any:
    """Threads of every contender, PyTorch's among them."""
    threads, before = request.config.getoption("--threads"), torch.get_num_threads()
    torch.set_num_threads(threads)
    yield threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="session")
def votes_of_1024(body: Body) -> VoteWorkload:
    return vote_workload(body, 1024)

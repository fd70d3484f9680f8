"""Options and shared inputs of the benchmarks."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from bench.harness.cells import CELLS
from bench.harness.workloads import VoteWorkload, vote_workload
from chorus.body.model import Body, load_body
from chorus.kernels.threads import default_threads

PROFILES: dict[str, dict[str, list[Any]]] = {
    "quick": {
        "vote_cell": CELLS["quick"],
        "field_resolution": [48],
        "memory_resolution": [48],
        "store_images": [512],
        "pipeline_images": [2048],
        "ablation_images": [512],
    },
    "default": {
        "vote_cell": CELLS["default"],
        "field_resolution": [48, 96],
        "memory_resolution": [48, 128],
        "store_images": [4096],
        "pipeline_images": [8192],
        "ablation_images": [2048],
    },
    "full": {
        "vote_cell": CELLS["full"],
        "field_resolution": [48, 96],
        "memory_resolution": [48, 128],
        "store_images": [4096],
        "pipeline_images": [16384],
        "ablation_images": [4096],
    },
    "gpu": {
        "vote_cell": CELLS["gpu"],
        "field_resolution": [48],
        "memory_resolution": [48],
        "store_images": [4096],
        "pipeline_images": [65536],
        "ablation_images": [65536],
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="the smallest shapes and few rounds")
    parser.addoption("--profile-of-cells", choices=list(PROFILES), default="default", help="which shapes")
    parser.addoption("--resolutions", default="", help="only votes at these, as in 48,96")
    parser.addoption("--deadline", type=float, help="seconds after which no further benchmark is begun")
    parser.addoption("--cell-seconds", type=float, default=2.0, help="timed seconds of each contender in a cell, about")
    parser.addoption("--threads", type=int, default=default_threads(), help="of every contender (default: all cores)")


def profile(config: pytest.Config) -> str:
    return "quick" if config.getoption("--quick") else str(config.getoption("--profile-of-cells"))


_BEGAN = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    deadline = item.config.getoption("--deadline")
    if deadline is not None and time.monotonic() - _BEGAN > deadline:
        pytest.skip(f"not begun: {deadline:g} s were over")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = {int(n) for n in metafunc.config.getoption("--resolutions").split(",") if n}
    for name, values in PROFILES[profile(metafunc.config)].items():
        if name in metafunc.fixturenames:
            if name == "vote_cell" and wanted:
                values = [cell for cell in values if cell.resolution in wanted]
            metafunc.parametrize(name, values, ids=[str(v) for v in values])


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def cell_seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--cell-seconds"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the images lie: "cuda" in the GPU profile, else "cpu"."""
    if profile(request.config) != "gpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.fail("the GPU profile needs a CUDA device, and torch sees none")
    return "cuda"


@pytest.fixture(scope="session")
def crowd_size(request: pytest.FixtureRequest) -> int:
    """Images of the crowds: as many as the largest cell of the profile has."""
    return max(cell.images for cell in CELLS[profile(request.config)])


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

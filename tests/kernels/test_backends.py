"""Which backend is taken, what is said about it, and that choosing touches nothing it should not."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch

from chorus.kernels import backends
from chorus.kernels.backends import BackendUnavailableError, vote_backend, why_not_triton


@pytest.fixture(autouse=True)
def _fresh() -> None:
    backends._choose.cache_clear()


def test_auto_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO, "chorus.kernels.backends"):
        chosen = vote_backend("auto")
        assert vote_backend("auto") == chosen
    assert (chosen.name, chosen.device.type) == ("numba", "cpu")
    (line,) = caplog.messages  # once
    assert "numba" in line
    assert "PyTorch sees no GPU" in line


def test_triton_that_cannot_run_says_why_and_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailableError, match=r"triton cannot run here: PyTorch sees no GPU.*What can: numba"):
        vote_backend("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="the package triton is not installed"):
        vote_backend("triton")


def test_an_old_gpu_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old One")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object())
    assert why_not_triton() == "its kernels need compute capability 8.0 or more, and Old One has 7.5"
    assert vote_backend("auto").name == "numba"


def test_a_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    chosen = vote_backend("auto")
    assert (chosen.name, chosen.device) == ("triton", torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert vote_backend("auto").device == torch.device("cuda", 0)  # follows the current one
    backends._choose.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", None)  # an AMD device: by explicit choice only
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert vote_backend("auto").name == "numba"
    assert vote_backend("triton").name == "triton"


def test_names() -> None:
    with pytest.raises(ValueError, match="backend: expected auto, triton, numba, reference; got 'cuda'"):
        vote_backend("cuda")
    assert vote_backend("reference").device.type == "cpu"


def test_choosing_a_cpu_imports_no_triton() -> None:
    code = (
        "import sys, chorus; from chorus.kernels.backends import vote_backend; import torch\n"
        "torch.cuda.is_available = lambda: False\n"
        "vote_backend('auto'); print('triton' in sys.modules, torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

"""Which backend is taken, what is said about it, and that choosing touches nothing it should not."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from chorus.errors import InputError
from chorus.kernels import backends
from chorus.kernels.backends import (
    BACKENDS,
    BackendUnavailableError,
    Modules,
    choose_backend,
    register_backend,
    vote_backend,
    why_not_triton,
)
from chorus.kernels.reference import votes as reference_votes
from tests.kernels.random_inputs import random_field, random_images


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    backends._choose.cache_clear()
    backends._installed.cache_clear()
    yield
    backends._choose.cache_clear()
    backends._installed.cache_clear()


def test_auto_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO, "chorus.kernels.backends"):
        chosen = choose_backend("auto")
        assert choose_backend("auto") == chosen
    assert (chosen.name, chosen.device.type) == ("numba", "cpu")
    (line,) = caplog.messages  # once
    assert "numba" in line
    assert "PyTorch sees no GPU" in line


def test_triton_that_cannot_run_says_why_and_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailableError, match=r"triton cannot run here: PyTorch sees no GPU.*What can: numba"):
        choose_backend("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailableError, match="the package triton is not installed"):
        choose_backend("triton")


def test_an_old_gpu_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old One")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object())
    assert why_not_triton() == "its kernels need compute capability 8.0 or more, and Old One has 7.5"
    assert choose_backend("auto").name == "numba"


def test_a_gpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    chosen = choose_backend("auto")
    assert (chosen.name, chosen.device) == ("triton", torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_backend("auto").device == torch.device("cuda", 0)  # follows the current one
    backends._choose.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", None)  # an AMD device: by explicit choice only
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert choose_backend("auto").name == "numba"
    assert choose_backend("triton").name == "triton"


def test_names() -> None:
    with pytest.raises(InputError, match="backend: expected auto, triton, numba, reference; got 'cuda'"):
        choose_backend("cuda")
    assert choose_backend("reference").device.type == "cpu"
    assert vote_backend is choose_backend


def test_every_backend_of_ours_has_all_functions() -> None:
    for name in ("numba", "reference"):
        chosen = choose_backend(name)
        assert callable(chosen.count_votes)
        assert callable(chosen.touched_regions)
        for function in ("skinning_weights", "smooth", "sample_canonical", "posed_phi"):
            assert callable(getattr(chosen.skinning, function))


def toy_module() -> ModuleType:
    """Somebody's backend, which counts votes and nothing else."""
    module = ModuleType("toy_votes")

    def count_votes(field: Any, images: Any, group: Any, weight: Any = None, **options: Any) -> Any:
        return reference_votes.count_votes(field, images, group, weight, batch=3, **options)

    module.count_votes = count_votes  # type: ignore[attr-defined]
    return module


def test_a_backend_is_added_by_a_call(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(backends, "BACKENDS", dict(BACKENDS))
    modules = Modules(votes=toy_module())
    register_backend("toy", modules)
    register_backend("toy", modules)  # the same once more, as when a module is imported anew
    with caplog.at_level(logging.INFO, "chorus.kernels.backends"):
        toy = choose_backend("toy")
    assert caplog.messages == ["backend: toy (asked for)"]
    assert (toy.name, toy.device.type) == ("toy", "cpu")
    rng = np.random.default_rng(0)
    field = random_field(rng, (3, 4, 5), 3)
    images, group = random_images(rng, field, 10), torch.arange(10) % 2
    want = reference_votes.count_votes(field, images, group, num_groups=2)
    assert all(torch.equal(a, b) for a, b in zip(toy.count_votes(field, images, group, num_groups=2), want, strict=True))
    with pytest.raises(BackendUnavailableError, match=r"backend: toy finds no contacts\. What does: triton, numba, reference"):
        _ = toy.touched_regions
    with pytest.raises(BackendUnavailableError, match=r"backend: toy does no skinning\. What does: triton, numba, reference"):
        _ = toy.skinning
    assert choose_backend("auto").name != "toy"
    for name in ("auto", "numba", "toy"):
        with pytest.raises(InputError, match=rf"backend: expected a name other than auto, .*toy; got '{name}'"):
            register_backend(name, Modules(votes="elsewhere"))
    with pytest.raises(InputError, match="expected auto, triton, numba, reference, toy; got 'cuda'"):
        choose_backend("cuda")


def test_a_backend_that_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", dict(BACKENDS))
    register_backend("toy", Modules(votes=toy_module(), why_not=lambda: "it is Sunday"))
    with pytest.raises(BackendUnavailableError, match=r"toy cannot run here: it is Sunday\. What can: numba"):
        choose_backend("toy")


class Point:
    """An entry point of an installed package."""

    def __init__(self, name: str, value: object) -> None:
        self.name, self.value, self._loads = name, f"package:{name.upper()}", value

    def load(self) -> object:
        if isinstance(self._loads, Exception):
            raise self._loads
        return self._loads


def test_installed_packages_add_backends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    points = [
        Point("toy", Modules(votes=toy_module())),
        Point("numba", Modules(votes="elsewhere")),
        Point("broken", ImportError("no module named cupy")),
        Point("odd", "not modules"),
    ]
    asked: list[str] = []

    def entry_points(group: str) -> list[Point]:
        asked.append(group)
        return points

    monkeypatch.setattr(backends.importlib.metadata, "entry_points", entry_points)
    assert choose_backend("numba").modules is BACKENDS["numba"]  # ours keep their names
    assert asked == []  # and whoever asks for one of ours waits for nobody else's
    assert choose_backend("toy").modules is points[0].load()
    assert asked == ["chorus.backends"]
    with pytest.raises(InputError, match="expected auto, triton, numba, reference, toy; got 'broken'"):
        choose_backend("broken")
    assert any("broken (package:BROKEN) could not be loaded: no module named cupy" in line for line in caplog.messages)
    assert any("odd (package:ODD): expected chorus.kernels.backends.Modules" in line for line in caplog.messages)


def test_choosing_a_cpu_imports_no_triton() -> None:
    code = (
        "import sys, chorus; from chorus.kernels.backends import choose_backend; import torch\n"
        "torch.cuda.is_available = lambda: False\n"
        "choose_backend('auto'); print('triton' in sys.modules, torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

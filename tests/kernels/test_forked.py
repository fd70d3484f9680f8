"""Processes that were forked from one that has computed, and has threads, compute too, and to the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chorus.kernels import backends
from chorus.kernels.backends import BackendUnavailableError, choose_backend

ROOT = Path(__file__).parents[2]

TORCH = """
import multiprocessing as mp
import torch
import chorus.kernels.threads
numbers = torch.arange(2_000_000, dtype=torch.float64)
def work(_):
    return float(torch.sqrt(numbers).sum()), torch.get_num_threads()
if __name__ == "__main__":
    torch.set_num_threads(4)
    here = work(0)
    assert here[1] == 4
    with mp.get_context("fork").Pool(2) as pool:
        there = pool.map(work, [0, 1])
    assert [threads for _, threads in there] == [1, 1], there
    assert all(abs(total - here[0]) < 1e-9 * here[0] for total, _ in there)
    assert work(0)[1] == 4  # the parent keeps its threads
"""

COMPILING = """
import os, threading, time
import numba as nb
import chorus.kernels.threads
from numba.core.compiler_lock import global_compiler_lock

def compile_one(number):
    return nb.njit(lambda x: (x + number) ** 2)(3)

held = threading.Event()
def compile_slowly():
    with global_compiler_lock:  # as numba holds it in every compilation
        held.set()
        time.sleep(0.5)

compile_one(0)
thread = threading.Thread(target=compile_slowly)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if compile_one(1) == 16 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
thread.join()
assert compile_one(2) == 25
"""

LOADER = """
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
import chorus

body = chorus.load_body()
field = chorus.CanonicalField(body, 12, cache=False)

def images(seed):
    n, rng = 16, np.random.default_rng(seed)
    R, t = np.diag([1.0, -1, -1]), [0.0, 0, 3]
    cameras = chorus.Cameras([R] * n, [t] * n, [[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]] * n, [[32, 32]] * n)
    poses = rng.normal(0, 0.2, (n, 24, 3)).astype(np.float32)
    poses[:, 0] = 0
    return chorus.ImageBatch(rng.random((n, 32, 32)) < 0.5, cameras, poses)

class Votes(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        counts = [chorus.aggregate(images(index), field, backend=backend) for backend in ("numba", "reference")]
        return np.stack([c.num_counts.sum(0) for c in counts]).astype(np.int64)

if __name__ == "__main__":
    votes = Votes()
    torch.ones(3_000_000).exp()  # PyTorch's threads are there, as after votes of many images
    here = np.stack([votes[i] for i in range(4)])
    assert here.any()
    loader = DataLoader(votes, batch_size=1, num_workers=2, multiprocessing_context="fork")
    there = np.concatenate([batch.numpy() for batch in loader])
    assert (here == there).all()
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
@pytest.mark.parametrize("text", [TORCH, COMPILING, LOADER], ids=["torch", "while another thread compiles", "data loader"])
def test_forked_processes_compute(text: str, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["auto", "triton"])
def test_a_process_forked_from_one_with_a_gpu_is_told_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    monkeypatch.setattr(backends, "_choose", lambda _: pytest.fail("touches the GPU"))
    with pytest.raises(BackendUnavailableError, match=r"forked from one that had used the GPU.*spawn or forkserver.*numba"):
        choose_backend(name)


def test_the_cpu_is_there_for_processes_forked_from_one_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    assert choose_backend("numba").name == "numba"

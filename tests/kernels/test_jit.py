"""The cache of compiled code is never needed, and forked processes have pools of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = """
import logging, resource, sys
logging.basicConfig(format="%(message)s")
if len(sys.argv) > 1:  # a full disk: no file can grow beyond this
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from chorus.kernels.jit import compiled

@compiled()
def one_more(x):
    return x + 1

@compiled()
def two_more(x):
    return one_more(one_more(x))

print(two_more(1), one_more(2.5))
"""
SAID = "compiled code is not cached"


def _run(folder: Path, cache: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    script = folder / "kernel.py"
    if not script.exists():
        script.write_text(KERNEL)
    every = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run([sys.executable, str(script), *arguments], env=every, capture_output=True, text=True, timeout=120)


def _works(done: subprocess.CompletedProcess[str], said: int) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "3.5"]
    assert done.stderr.count(SAID) == said, done.stderr


def test_without_a_place(tmp_path: Path) -> None:
    for name in ("file", "__pycache__"):  # numba would take the script's own folder, then the user's
        (tmp_path / name).write_text("")
    nowhere = str(tmp_path / "file" / "home")
    _works(_run(tmp_path, tmp_path / "file" / "cache", HOME=nowhere, XDG_CACHE_HOME=nowhere), said=1)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("size", ["0", "600"])
def test_on_a_full_disk(size: str, tmp_path: Path) -> None:
    done = _run(tmp_path, tmp_path / "cache", size)
    _works(done, said=1)
    assert "could not be written" in done.stderr
    _works(_run(tmp_path, tmp_path / "cache"), said=0)  # with room again


@pytest.mark.parametrize(("suffix", "kept"), [(".nbi", 0), (".nbi", 200), (".nbc", 500)])
def test_damaged_files(suffix: str, kept: int, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    _works(_run(tmp_path, cache), said=0)
    files = list(cache.rglob(f"*{suffix}"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:kept])
    _works(_run(tmp_path, cache), said=1)
    _works(_run(tmp_path, cache), said=0)  # it has healed


def test_the_variable_that_turns_numba_off_is_named(tmp_path: Path) -> None:
    done = _run(tmp_path, tmp_path / "cache", NUMBA_DISABLE_JIT="1")
    assert done.returncode == 1
    assert "NUMBA_DISABLE_JIT: expected it to be unset" in done.stderr


FORK = """
import multiprocessing as mp, sys, threading, time
import numpy as np
import chorus
from chorus.kernels.threads import each

def count(_):
    done = []
    each(2, done.append, range(5))
    return len(done)

def votes(_):
    body = chorus.load_body()
    field = chorus.CanonicalField(body, 8)
    masks = np.ones((4, 32, 32), bool)
    R, t = np.diag([1.0, -1, -1]), [0.0, 0, 3]
    cameras = chorus.Cameras([R] * 4, [t] * 4, [[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]] * 4, [[32, 32]] * 4)
    images = chorus.ImageBatch(masks, cameras, np.zeros((4, 24, 3), np.float32))
    return int(chorus.aggregate(images, field).den_counts.sum())

if __name__ == "__main__":
    here = count(0), votes(0)
    busy = threading.Thread(target=each, args=(2, time.sleep, [1.0] * 4))
    busy.start()  # a fork in the middle of work
    with mp.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(count, [0, 1]) == [here[0]] * 2
        assert pool.map(votes, [0, 1]) == [here[1]] * 2
    busy.join()
    assert (count(0), votes(0)) == here
    print("same")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_process_that_has_voted(method: str, tmp_path: Path) -> None:
    if method not in __import__("multiprocessing").get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    (tmp_path / "work.py").write_text(FORK)
    done = subprocess.run([sys.executable, "work.py", method], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "same" in done.stdout

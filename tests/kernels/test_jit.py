"""The cache of compiled code: what was compiled from other sources is not run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
USE = """
import numpy as np
from chorus.kernels import spatial
assert sorted(spatial.spatial_order(np.random.default_rng(0).random((50, 3)), 4)) == list(range(50))
stats = spatial.spatial_order.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_a_change_in_any_file_of_the_kernels_is_noticed(tmp_path: Path) -> None:
    kernels = tmp_path / "chorus" / "kernels"
    (kernels / "cpu").mkdir(parents=True)
    (tmp_path / "chorus" / "__init__.py").touch()
    for name in ("__init__.py", "jit.py", "spatial.py", "cpu/simd.py"):
        shutil.copy(ROOT / "kernels" / name, kernels / name)

    def hits_and_misses() -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert hits_and_misses() == "0 1"
    assert hits_and_misses() == "1 0"
    (kernels / "spatial.py").touch()  # the time of a file says nothing: an installation sets it anew
    assert hits_and_misses() == "1 0"
    with (kernels / "cpu" / "simd.py").open("a") as other:
        other.write("\n")
    assert hits_and_misses() == "0 1"

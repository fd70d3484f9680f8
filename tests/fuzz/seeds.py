"""What rows of ``tests.fuzz.readers`` are, and the small body, field and images that their files are made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.field import CanonicalField
from chorus.images import ImageBatch

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Seed:
    """A valid case: the files of a folder, of which one, of a kind that ``mutations`` knows, is changed."""

    files: Files
    target: str
    kind: str = "bytes"


@dataclass(frozen=True)
class Reader:
    """A reader: ``read`` takes a folder with a seed's files, and may raise ``errors`` and nothing else."""

    seeds: Callable[[], list[Seed]]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (InputError,)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def made(make: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that ``make`` writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        return files_of(Path(folder))


@cache
def small_body(joints: int = 3) -> Body:
    """40 vertices; three joints, or SMPL's 24 at random places."""
    rng = np.random.default_rng(0)
    if joints == 3:
        names, parents = ["pelvis", "left_hip", "right_hip"], [-1, 0, 0]
    else:
        whole = load_body()
        names, parents = list(whole.joint_names), whole.parents.tolist()
    at = rng.normal(0, 0.3, (joints, 3))
    vertices = at[rng.integers(0, joints, 40)] + rng.normal(0, 0.25, (40, 3))
    weights = rng.dirichlet([0.3] * joints, 40)
    return Body("small", vertices, rng.integers(0, 40, (20, 3)), at, parents, weights, names)


@cache
def small_field() -> CanonicalField:
    return CanonicalField(small_body(), 4, k=3, cache=False)


def small_images(n: int = 5) -> ImageBatch:
    rng = np.random.default_rng(1)
    K = np.tile([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]], (n, 1, 1))
    cameras = Cameras(np.tile(np.eye(3), (n, 1, 1)), np.tile([0, 0, 3.0], (n, 1)), K, np.tile([16, 16], (n, 1)))
    poses = rng.normal(0, 0.1, (n, 3, 3))
    poses[:, 0] = 0
    return ImageBatch(rng.random((n, 16, 16)) < 0.5, cameras, poses, [f"k{i}" for i in range(n)])

"""Small stores with everything in them, and ways to damage them, for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from chorus.camera.cameras import Cameras
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks
from chorus.store import StoreWriter
from chorus.store.schema import digest, shard_digest

RNG = np.random.default_rng(7)


def corners(height: int, width: int) -> list[np.ndarray]:
    masks = []
    for v in (0, height - 1):
        for u in (0, width - 1):
            mask = np.zeros((height, width), bool)
            mask[v, u] = True
            masks.append(mask)
    return masks


def make_batch(masks: list[np.ndarray], first: int = 0, joints: int = 24, **kwargs: object) -> ImageBatch:
    n = len(masks)
    rng = np.random.default_rng(first)
    R = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    R *= np.sign(np.linalg.det(R))[:, None, None]
    K = np.tile([[600.0, 0, 32], [0, 600, 16], [0, 0, 1]], (n, 1, 1))
    poses = rng.normal(size=(n, joints, 3))
    poses[:, 0] = 0
    cameras = Cameras(R, rng.normal(size=(n, 3)), K, np.array([m.shape for m in masks]).reshape(n, 2))
    keys = [f"image-{first + i:03d}" for i in range(n)]
    return ImageBatch(masks, cameras, poses, keys, prompts=[f"prompt {i % 2}" for i in range(n)], **kwargs)


def random_masks(n: int, size: tuple[int, int] = (40, 50)) -> list[np.ndarray]:
    return [RNG.random(size) < RNG.random() ** 3 for _ in range(n)]


def write(path: Path, n: int = 10, shard_size: int = 4, **kwargs: object) -> list[np.ndarray]:
    """A store of n images with everything optional and two rejected ones, and the masks."""
    masks = random_masks(n)
    batch = make_batch(masks, weights=np.arange(1, n + 1, dtype=np.uint8))
    with StoreWriter(path, category="surfboard", shard_size=shard_size, person_masks=True, **kwargs) as writer:
        writer.append_rejected(["none-0", "none-1"], ["no person", "no object"], prompts="prompt 0", scores={"count": [0, 2]})
        writer.append(
            batch,
            views="from the left",
            seeds=np.arange(n) + 2**40,
            betas=RNG.normal(size=(n, 10)),
            residual_px=np.arange(n) / 8,
            estimators="made up",
            status=["overlap" if i == 3 else "complete" for i in range(n)],
            scores={"count": np.ones(n, int), "person_box": RNG.random((n, 4))},
            person_masks=PackedMasks.pack([~m for m in masks]),
        )
    return masks


def shards(path: Path) -> list[Path]:
    return sorted((path / "shards").glob("*.h5"))


def rewrite(shard: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change an array of a shard and all digests with it: damage that only a look at the contents shows."""
    with h5py.File(shard, "r+") as file:
        array = file[name][()]
        replaced = change(array)
        array = array if replaced is None else replaced
        del file[name]
        file.create_dataset(name, data=array).attrs["sha256"] = np.bytes_(digest(array))
        seal(file)


def arrays_of(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return [name for name in names if isinstance(file[name], h5py.Dataset)]


def seal(file: h5py.File) -> None:
    """Bring the shard's own digest up to date."""
    digests = {name: file[name].attrs["sha256"].decode() for name in arrays_of(file)}
    file.attrs["sha256"] = np.bytes_(shard_digest(bytes(file.attrs["header"]), digests))

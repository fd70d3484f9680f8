"""People with known poses and cameras, the masks of what they hold, and files of both, for tests of imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial.transform import Rotation

from chorus.body.model import load_body

BODY = load_body()
HEIGHT, WIDTH = 96, 128
FOCAL = 150.0


def people(n: int = 4, joints: int = 24) -> dict[str, Any]:
    """n upright people in front of their cameras, as arrays by the names of docs/imports.md."""
    rng = np.random.default_rng(5)
    pose = rng.normal(size=(n, joints, 3)) * 0.2
    about_y = np.column_stack([np.zeros(n), rng.uniform(-np.pi, np.pi, n), np.zeros(n)])
    turn = Rotation.from_rotvec([np.pi, 0, 0]) * Rotation.from_rotvec(about_y)
    pose[:, 0] = turn.as_rotvec()
    t = np.column_stack([rng.uniform(-0.3, 0.3, (n, 2)), rng.uniform(3.0, 4.0, n)])
    return {"keys": np.array([f"{i:04d}" for i in range(n)]), "pose": pose, "t": t, "focal": np.full(n, FOCAL)}


def square(seed: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """A mask of a box near the middle of the image, and a hole in it."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    y, x = rng.integers(20, 40), rng.integers(30, 60)
    mask[y : y + 22, x : x + 31] = True
    mask[y + 3 : y + 9, x + 17 : x + 20] = False
    return mask


def write_mask(path: Path, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return mask


def write_masks(folder: Path, keys: Any) -> dict[str, NDArray[np.bool_]]:
    """A mask for each key; key -> mask."""
    return {str(key): write_mask(folder / f"{key}.png", square(i)) for i, key in enumerate(keys)}

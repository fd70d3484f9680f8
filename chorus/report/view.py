"""What the interactive view of a distribution is drawn from: phi, bodies and cameras, small enough for a page."""

from __future__ import annotations

import base64
import gzip
import importlib.util
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from chorus.body.model import Body
from chorus.errors import InputError
from chorus.figures.shells import SHARES, SKIN, Posed, seen_colours, shell_colours, shell_opacities

LARGEST = 64
"""Voxels along an edge, at most: a finer phi is averaged down."""
START = SHARES[0]
"""Share of the largest phi at which the view begins: its four shells are then those of the figures (``choose_thresholds``)."""
MOST_CAMERAS = 400
RADIUS = 1.7
"""Metres of the sphere that cameras are drawn on."""


def script() -> str:
    """The view's program, JavaScript."""
    return (files("chorus.data") / "view3d.js").read_text(encoding="utf-8")


def packed(array: NDArray[Any]) -> str:
    """The bytes of an array, little-endian, compressed by gzip, as base64 text."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(gzip.compress(little.tobytes(), 9, mtime=0)).decode("ascii")


def averaged_down(phi: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """phi (N, N, N) as float32, averaged down to at most LARGEST voxels along an edge."""
    values = np.asarray(phi, np.float32)
    N = len(values)
    if N <= LARGEST:
        return values
    fold = -(-N // LARGEST)
    if N % fold == 0:
        mean: NDArray[np.float32] = values.reshape(N // fold, fold, N // fold, fold, N // fold, fold).mean((1, 3, 5))
        return mean
    smaller: NDArray[np.float32] = zoom(values, LARGEST / N, order=1, grid_mode=True, mode="nearest")
    return smaller


def view_data(
    poses: Sequence[Posed], body: Body, extent: float, directions: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """The data of ``chorusView`` of chorus/data/view3d.js, for JSON.

    poses       the distribution in one or more poses; the first is shown at the start
    extent      side of phi's cube, metres
    directions  (I, 3) unit vectors to the cameras, of which up to MOST_CAMERAS are drawn; None: no cameras

    phi is kept in 65,536 steps from 0 to its largest, vertices in steps of under 0.1 mm. Raises InputError where phi is 0.
    """
    top = max(float(np.max(posed.phi)) for posed in poses)
    if not top > 0:
        raise InputError("phi: expected some of it to be positive, got 0 everywhere")
    reach = max(float(np.abs(posed.vertices).max()) for posed in poses)
    shown = [averaged_down(posed.phi) for posed in poses]
    low, high = body.rest_vertices.min(0), body.rest_vertices.max(0)
    centre = (low + high) / 2
    cameras = None
    if directions is not None and len(directions):
        chosen = np.unique(np.linspace(0, len(directions) - 1, min(len(directions), MOST_CAMERAS)).astype(int))
        cameras = packed(directions[chosen].astype(np.float32))
    return {
        "extent": extent,
        "resolution": len(shown[0]),
        "top": top,
        "threshold": START * top,
        "reach": reach,
        "centre": [round(float(c), 4) for c in centre],
        "distance": 3.5,
        "outside": 6.2,
        "radius": RADIUS,
        "skin": list(SKIN),
        "palettes": {count: _palette(count) for count in (1, 4)},
        "faces": packed(np.asarray(body.faces, np.uint32)),
        "cameras": cameras,
        "poses": [
            {
                "name": posed.label,
                "phi": packed(np.rint(np.clip(phi / top, 0, 1) * 65535).astype(np.uint16).transpose(2, 1, 0)),  # x fastest
                "vertices": packed(np.rint(posed.vertices / reach * 32767).astype(np.int16)),
                "shade": _shade(posed, body),
            }
            for posed, phi in zip(poses, shown, strict=True)
        ],
    }


def _palette(count: int) -> dict[str, Any]:
    return {
        "colours": [list(c) for c in shell_colours(count)],
        "opacities": [float(o) for o in shell_opacities(count)],
        "seen": seen_colours(count).tolist(),
    }


def _shade(posed: Posed, body: Body) -> str | None:
    """How much of the half sphere over each vertex the body blocks, in 255 steps; None without the extra ``figures3d``."""
    if importlib.util.find_spec("embreex") is None:
        return None
    from chorus.figures.rays import Scene
    from chorus.figures.shells import body_layer

    blocked = Scene([body_layer(posed.vertices, body.faces)]).vertex_shade(0)
    return packed(np.rint(255 * np.clip(blocked, 0, 1)).astype(np.uint8))

"""How evenly cameras surround the person: the entropy of their directions (Table 1), on equal-area cells of the sphere.

The cells are those of HEALPix (Gorski et al. 2005), numbered ring by ring from the north pole. Only their centres are needed:
with nside = n the 12 n^2 cells lie on 4 n - 1 rings of constant z; ring i has 4 i cells in the polar cap (i < n), at
z = 1 - i^2 / (3 n^2), and 4 n cells around the equator (n <= i <= 3 n), at z = 4/3 - 2 i / (3 n), every other ring turned by
half a cell; the south mirrors the north.
"""
# mypy: allow-untyped-decorators

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array
from chorus.kernels.jit import compiled

NSIDE = 128
"""196,608 cells."""
SIGMA = 0.01
"""Standard deviation of the Gaussian around each camera's direction, in radians along the sphere."""
TRUNCATION = 6.0
"""Gaussians are truncated at this many standard deviations; the exp(-18) = 1.5e-8 lost changes the entropy by < 1e-6 bits."""


def ring_layout(nside: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """The rings from north to south: z (4 nside - 1,), cells on each (4 nside - 1,), azimuth of their first cell in radians.

    Cells of a ring are spaced evenly, eastwards. Raises InputError for an nside below 1.
    """
    if type(nside) is not int or nside < 1:
        raise InputError(f"nside: expected a positive integer, got {nside!r}")
    i = np.arange(1, 4 * nside)
    from_pole = np.minimum(i, 4 * nside - i)
    polar = from_pole < nside
    count = 4 * np.where(polar, from_pole, nside)
    cap = 1 - from_pole**2 / (3 * nside**2)
    z = np.where(polar, np.where(i < 2 * nside, cap, -cap), 4 / 3 - 2 * i / (3 * nside))
    # Polar rings begin half a cell east of azimuth 0; around the equator every other ring begins at 0.
    turned = polar | ((i - nside) % 2 == 0)
    return z, count.astype(np.int64), np.where(turned, np.pi / count, 0.0)


def cell_centres(nside: int = NSIDE) -> NDArray[np.float64]:
    """Unit vectors to the centres of the 12 nside^2 cells of equal area 4 pi / (12 nside^2), in ring order, (C, 3)."""
    z, count, first = ring_layout(nside)
    ring = np.repeat(np.arange(len(z)), count)
    number = np.arange(len(ring)) - np.repeat(np.cumsum(count) - count, count)
    azimuth = first[ring] + number * (2 * np.pi / count[ring])
    sine = np.sqrt((1 - z) * (1 + z))[ring]
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), z[ring]], axis=1)


@compiled()
def _add_gaussians(
    directions: Any, z: Any, count: Any, first: Any, start: Any, sigma: float, radius: float, density: Any
) -> None:
    """Add exp(-d^2 / (2 sigma^2)) of each direction (I, 3) to the cells at a geodesic distance d <= radius, ring by ring."""
    for direction in directions:
        x0, y0, z0 = direction
        sine0 = math.hypot(x0, y0)
        polar_angle, azimuth = math.atan2(sine0, z0), math.atan2(y0, x0)
        for ring in range(len(z)):
            sine = math.sqrt((1.0 - z[ring]) * (1.0 + z[ring]))
            if abs(math.atan2(sine, z[ring]) - polar_angle) > radius:
                continue
            # cos d = z z0 + sine sine0 cos(azimuth difference) >= cos(radius) bounds the difference.
            reach = (math.cos(radius) - z[ring] * z0) / max(sine * sine0, 1e-300)
            half = math.pi if reach <= -1.0 else math.acos(min(reach, 1.0))
            step = 2.0 * math.pi / count[ring]
            low = math.ceil((azimuth - half - first[ring]) / step - 1e-9)
            high = math.floor((azimuth + half - first[ring]) / step + 1e-9)
            high = min(high, low + count[ring] - 1)  # once around
            for number in range(low, high + 1):
                angle = first[ring] + number * step
                dx, dy, dz = sine * math.cos(angle) - x0, sine * math.sin(angle) - y0, z[ring] - z0
                d = 2.0 * math.asin(min(1.0, 0.5 * math.sqrt(dx * dx + dy * dy + dz * dz)))
                if d <= radius:
                    density[start[ring] + number % count[ring]] += math.exp(-0.5 * (d / sigma) ** 2)


def direction_density(
    directions: Any, sigma: float = SIGMA, nside: int = NSIDE, truncation: float = TRUNCATION
) -> NDArray[np.float64]:
    """Share of each cell in an equal mixture of Gaussians around directions, (12 nside^2,) float64, sum 1.

    directions  (I, 3) unit vectors     sigma       radians, geodesic
    truncation  of the Gaussians, in sigmas; the mixture is then normalised

    Raises InputError for no directions, vectors that are not of unit length, and a sigma that the cells cannot resolve (below
    half the square root of a cell's area) or that is wider than the sphere (truncation sigma > pi).
    """
    points = check_array("directions", directions, ("I", 3), np.float64)
    if not len(points):
        raise InputError("directions: expected at least one, got none")
    length = np.linalg.norm(points, axis=1)
    off = np.abs(length - 1)
    if off.max() > 1e-9:
        raise InputError(f"directions: expected unit vectors, got one of length {length[off.argmax()]:g} in row {off.argmax()}")
    z, count, first = ring_layout(nside)
    cell = math.sqrt(4 * math.pi / (12 * nside**2))
    if not (sigma >= cell / 2 and truncation > 0 and truncation * sigma <= math.pi):
        raise InputError(
            f"sigma: expected {cell / 2:.3g} (half a cell) to pi / truncation ({truncation:g}), got {sigma:g} radians"
        )
    density = np.zeros(12 * nside**2)
    _add_gaussians(points, z, count, first, np.cumsum(count) - count, sigma, truncation * sigma, density)
    return np.asarray(density / density.sum())


def camera_directions(cameras: Cameras) -> NDArray[np.float64]:
    """Unit vectors from the person's origin to the camera centres, (I, 3), in the person's frame.

    Raises InputError for a camera at the origin, which has no direction.
    """
    centres = cameras.centres
    length = np.linalg.norm(centres, axis=1)
    bad = np.flatnonzero(length < 1e-9)
    if bad.size:
        raise InputError(f"cameras: expected centres away from the person's origin, got {centres[bad[0]]} in row {bad[0]}")
    unit: NDArray[np.float64] = centres / length[:, None]
    return unit


def camera_entropy(cameras: Cameras, sigma: float = SIGMA, nside: int = NSIDE, truncation: float = TRUNCATION) -> float:
    """Entropy in bits of the camera directions seen from the person (Table 1): -sum p log2 p over equal-area cells.

    log2(12 nside^2) = 17.58 for cameras all around; log2(2 pi e sigma^2 / cell area) = 4.74 for one; n cameras give at most
    log2 n more than one. Arguments and errors as of ``direction_density`` and ``camera_directions``.
    """
    share = direction_density(camera_directions(cameras), sigma, nside, truncation)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())

"""View directions of images: azimuth and elevation bins, grouping of images by them, and view weights (A.6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.errors import InputError

AZIMUTH_BINS = 12
ELEVATION_BINS = 6
FOLDS = 10
"""Parts into which images are divided by a hash of their key, for jackknife errors and held-out images."""
SHRUNK = "-shrunk"
WEIGHTINGS = ("azimuth", "azimuth-elevation", "azimuth-shrunk", "azimuth-elevation-shrunk", "none")
SCHEMES = ("azimuth", "azimuth-elevation", "azimuth+folds", "azimuth-elevation+folds")


def azimuth(cameras: Cameras) -> NDArray[np.float64]:
    """atan2(c_z, c_x) of each camera centre c in the person's frame, (I,) radians in [-pi, pi]."""
    c = cameras.centres
    return np.arctan2(c[:, 2], c[:, 0])


def azimuth_bin(cameras: Cameras) -> NDArray[np.int64]:
    """Azimuth a in 12 bins of pi/6, (I,) int64: floor(a / (pi/6)) mod 12 (A.6)."""
    # The modulus after the floor sends an azimuth of -1e-17 to bin 11, where it belongs, and never to 12.
    return np.asarray(np.floor(azimuth(cameras) / (2 * np.pi / AZIMUTH_BINS)) % AZIMUTH_BINS, np.int64)


def elevation_bin(cameras: Cameras) -> NDArray[np.int64]:
    """Elevation in 6 bands of equal area on the sphere, (I,) int64, 0 for the lowest."""
    c = cameras.centres
    length = np.linalg.norm(c, axis=1)
    sine = np.divide(c[:, 1], length, out=np.zeros(len(c)), where=length > 0)
    return np.asarray(np.clip(np.floor((sine + 1) * (ELEVATION_BINS / 2)), 0, ELEVATION_BINS - 1), np.int64)


def key_hash(keys: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """64-bit hash of each key (FNV-1a over its bytes, then the murmur3 finaliser), (I,) uint64; the same on every machine."""
    width = keys.dtype.itemsize
    table = np.frombuffer(np.ascontiguousarray(keys).tobytes(), np.uint8).reshape(len(keys), width)
    value = np.full(len(keys), 0xCBF29CE484222325, np.uint64)
    for column in range(width):
        byte = table[:, column].astype(np.uint64)
        # Keys are padded with zero bytes to the widest of the array, which must not change their hash.
        value = np.where(byte != 0, (value ^ byte) * np.uint64(0x100000001B3), value)
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value ^= value >> np.uint64(33)
        value *= np.uint64(multiplier)
    hashed: NDArray[np.uint64] = value ^ (value >> np.uint64(33))
    return hashed


def fold_of_hash(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Fold 0 .. 9 of images whose keys have these hashes, (I,)."""
    return (hashes % np.uint64(FOLDS)).astype(np.int64)


def weighs_by_cell(weighting: str) -> bool:
    """Whether a weighting counts images by azimuth and elevation, which needs a scheme that keeps both."""
    return weighting.startswith("azimuth-elevation")


@dataclass(frozen=True)
class Scheme:
    """A partition of images into groups whose votes are counted separately.

    ``azimuth`` (12 bins), ``azimuth-elevation`` (12 x 6 cells of equal area), each also with ``+folds`` (times 10). Group
    index: (fold * 12 + azimuth) * E + elevation. Raises InputError for another name.
    """

    name: str = "azimuth"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in SCHEMES:
            raise InputError(f"scheme: expected one of {', '.join(SCHEMES)}; got {self.name!r}")

    @property
    def has_elevation(self) -> bool:
        return self.name.startswith("azimuth-elevation")

    @property
    def has_folds(self) -> bool:
        return self.name.endswith("+folds")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Folds, azimuth bins, elevation bands: the groups as an array."""
        return (FOLDS if self.has_folds else 1, AZIMUTH_BINS, ELEVATION_BINS if self.has_elevation else 1)

    @property
    def num_groups(self) -> int:
        return int(np.prod(self.shape))

    def groups(self, cameras: Cameras, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Group of each image, (I,) int64."""
        f = fold_of_hash(key_hash(keys)) if self.has_folds else 0
        e = elevation_bin(cameras) if self.has_elevation else 0
        group: NDArray[np.int64] = (f * AZIMUTH_BINS + azimuth_bin(cameras)) * self.shape[2] + e
        return group

    def weights(self, weighting: str, totals: NDArray[np.int64]) -> NDArray[np.float64]:
        """View weight r of each group (A.6), (G,) float64; 0 where a bin has no images.

        totals  (G,) int64 number of images (integer weights summed) of each group

        With n_b images in the bin (an azimuth bin, or a cell of azimuth and elevation), n in all and B bins (12, or 72)::

            azimuth, azimuth-elevation                r_b = 1 / n_b              the first is the paper's
            azimuth-shrunk, azimuth-elevation-shrunk  r_b = 1 / (n_b + n / B)
            none                                      r_b = 1

        The shrunk ones stand between the paper's weights and none: a bin with the mean number of images n / B counts half of
        what it would, one with hardly any no longer counts as much as a full one, and none weighs more than B / n. Where all
        bins have as many images, they give the phi of the others.

        Raises InputError for another name, and for weights by cell with a scheme without elevation.
        """
        if not isinstance(weighting, str) or weighting not in WEIGHTINGS:
            raise InputError(f"weighting: expected one of {', '.join(WEIGHTINGS)}; got {weighting!r}")
        by_cell = weighs_by_cell(weighting)
        if by_cell and not self.has_elevation:
            raise InputError(
                f"weighting: {weighting} needs counts by cell; they were kept by {self.name!r} "
                "(aggregate with scheme='azimuth-elevation')"
            )
        grid = totals.reshape(self.shape).astype(np.float64)
        if weighting == "none":
            r = np.ones(self.shape)
        else:
            n = grid.sum(0, keepdims=True) if by_cell else grid.sum((0, 2), keepdims=True)
            extra = n.mean() if weighting.endswith(SHRUNK) else 0.0
            r = np.divide(1.0, n + extra, out=np.zeros_like(n), where=n > 0)
        return np.broadcast_to(r, self.shape).ravel()

"""How a simulated scene is seen: cameras, errors of the segmenter, and of pose estimates that keypoints reveal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from chorus.errors import InputError
from chorus.render.rasterize import displace


@dataclass(frozen=True)
class CameraDistribution:
    """Random cameras around the middle of the posed body.

    sector_share  share of the cameras within a sector of azimuth (the rest are uniform outside it); None: uniform azimuth
    sector        its middle and width in radians of azimuth, atan2(c_z, c_x): pi/2 is in front of the person
    elevation     mean and sigma in radians, clipped to +- ``elevation_limit``
    fill          range of the person's height as a share of the image's (uniform; to first order in 1/distance)
    closest       least distance in metres, whatever ``fill``
    look_at       sigma in metres on each axis of the point looked at, around the middle of the body
    roll          sigma in radians
    focal         fx = fy as a multiple of the image's width; 1.167 is 46.4 degrees across
    """

    sector_share: float | None = None
    sector: tuple[float, float] = (math.pi / 2, math.pi / 3)
    elevation: tuple[float, float] = (0.1, 0.2)
    elevation_limit: float = 1.2
    fill: tuple[float, float] = (0.4, 0.9)
    closest: float = 2.0
    look_at: float = 0.08
    roll: float = 0.05
    focal: float = 1.167

    def __post_init__(self) -> None:
        if self.sector_share is not None and not 0 <= self.sector_share <= 1:
            raise InputError(f"sector_share: expected a share in 0..1 or None, got {self.sector_share}")
        if not 0 < self.sector[1] < 2 * math.pi:
            raise InputError(f"sector: expected a width in 0..2 pi, got {self.sector[1]}")
        if not 0 < self.fill[0] <= self.fill[1]:
            raise InputError(f"fill: expected 0 < least <= most, got {self.fill}")
        if not (self.focal > 0 and self.closest > 0 and 0 <= self.elevation_limit < math.pi / 2):
            raise InputError(
                f"focal, closest, elevation_limit: expected two positive numbers and one in 0..pi/2, "
                f"got {self.focal}, {self.closest}, {self.elevation_limit}"
            )

    def draw(
        self, rng: np.random.Generator, vertices: NDArray[np.float64], size: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """A camera for a posed body (V, 3) and an image size (H, W): R (3, 3), t (3,), K (3, 3), rounded to float32."""
        height, width = size
        if self.sector_share is None:
            azimuth = rng.uniform(0, 2 * math.pi)
        else:
            middle, span = self.sector
            if rng.random() >= self.sector_share:
                middle, span = middle + math.pi, 2 * math.pi - span
            azimuth = middle + span * rng.uniform(-0.5, 0.5)
        elevation = float(np.clip(rng.normal(*self.elevation), -self.elevation_limit, self.elevation_limit))
        away = np.array([math.cos(elevation) * math.cos(azimuth), math.sin(elevation), math.cos(elevation) * math.sin(azimuth)])
        focal = self.focal * width
        heights, downs = np.einsum("vc,kc->kv", vertices, np.stack([[0, 1, 0], _look_along(-away)[1]]))
        middle_height = np.array([0, (heights.min() + heights.max()) / 2, 0])
        distance = max(focal * np.ptp(downs) / (rng.uniform(*self.fill) * height), self.closest)
        # The jitter moves the point looked at, not the camera, so that the azimuth is exactly the one drawn.
        target = middle_height + rng.normal(0, self.look_at, 3)
        centre = middle_height + distance * away
        R = Rotation.from_euler("z", rng.normal(0, self.roll)).as_matrix() @ _look_along(target - centre)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return _rounded(R), _rounded(-R @ centre), _rounded(K)


def _look_along(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation to OpenCV axes of an upright camera that looks along a direction (not along y)."""
    forward = direction / np.linalg.norm(direction)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class MaskNoise:
    """Errors of a segmenter in the object's mask; lengths in pixels. The default has none.

    boundary    sigma of a smooth random displacement of the mask (given on a lattice of 16 px, linear in between)
    morph       the mask is dilated or eroded by a random number of pixels up to this
    drop        probability that a round piece of the mask is missing
    drop_size   range of that piece's radius as a share of the square root of the mask's area
    """

    boundary: float = 0.0
    morph: int = 0
    drop: float = 0.0
    drop_size: tuple[float, float] = (0.1, 0.4)

    def __post_init__(self) -> None:
        if not (self.boundary >= 0 and self.morph >= 0 and 0 <= self.drop <= 1 and self.drop_size[0] >= 0):
            raise InputError(f"mask_noise: expected sizes >= 0 and a probability in 0..1, got {self}")

    def apply(self, mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
        """A (H, W) mask with errors; an empty mask stays empty, and others may become empty."""
        if self == MaskNoise() or not mask.any():
            return mask
        margin = self.morph + math.ceil(4 * self.boundary)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        window = (
            slice(max(rows[0] - margin, 0), rows[-1] + margin + 1),
            slice(max(columns[0] - margin, 0), columns[-1] + margin + 1),
        )
        part = mask[window]
        height, width = part.shape
        if self.boundary > 0:
            steps = rng.normal(0, self.boundary, (2, height // 16 + 2, width // 16 + 2))
            part = displace(np.ascontiguousarray(part), steps, 16)
        if self.morph > 0:
            by = int(rng.integers(-self.morph, self.morph + 1))
            filtered = ndimage.maximum_filter if by > 0 else ndimage.minimum_filter
            part = filtered(part, 2 * abs(by) + 1)
        if rng.random() < self.drop and part.any():
            y, x = np.argwhere(part)[rng.integers(np.count_nonzero(part))]
            radius = rng.uniform(*self.drop_size) * math.sqrt(np.count_nonzero(part))
            down, right = np.ogrid[-y : height - y, -x : width - x]
            part = part & (down**2 + right**2 >= radius**2)
        noisy = np.zeros_like(mask)
        noisy[window] = part
        return noisy


@dataclass(frozen=True)
class PoseEstimation:
    """Errors of a 3D pose estimator, and how the confidence of keypoints reveals them. The default has none.

    share       probability that the stored pose is a bad estimate; masks and camera are those of the true pose
    sigma       radians, of normal noise on every axis of every joint except the global orientation in a bad estimate
    confidence  range of the upper bounds of the keypoints' confidence in an image with a bad estimate
    doubted     probability that a well estimated pose has keypoints of as little confidence
    """

    share: float = 0.0
    sigma: float = 0.6
    confidence: tuple[float, float] = (0.3, 0.8)
    doubted: float = 0.05

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.doubted <= 1 and self.sigma >= 0):
            raise InputError(f"estimation: expected two probabilities in 0..1 and a sigma >= 0, got {self}")
        if not 0 <= self.confidence[0] <= self.confidence[1] <= 1:
            raise InputError(f"estimation: expected confidence as 0 <= least <= most <= 1, got {self.confidence}")

    def apply(
        self, pose: NDArray[np.float32], confidence: Mapping[str, float], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        """The pose (J, 3) as it is stored, and the confidence of keypoints by name."""
        if self.share == 0:
            return pose, dict(confidence)
        bad, doubted = rng.random() < self.share, rng.random() < self.doubted
        off = rng.normal(0, self.sigma, (len(pose) - 1, 3))
        ceilings = rng.uniform(*self.confidence, len(confidence))
        if bad:
            pose = pose.copy()
            pose[1:] += off.astype(np.float32)
        if bad or doubted:
            return pose, {name: min(c, float(most)) for (name, c), most in zip(confidence.items(), ceilings, strict=True)}
        return pose, dict(confidence)

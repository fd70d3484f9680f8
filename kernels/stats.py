"""What the kernels did with the pairs of images and bricks they were given: filled where a caller asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CullingStats:
    """What ``count_votes`` did with its brick-image pairs."""

    pairs: int = 0
    decided: int = 0
    """without projecting a voxel: all inside or outside the image and all off or on the mask"""
    outside: int = 0
    """of those, outside the image or behind the camera"""
    lookups: int = 0
    """voxels whose mask bit was read"""


@dataclass
class ContactStats:
    """What ``touched_regions`` did with the pairs of an image and a brick that holds region voxels."""

    pairs: int = 0
    known: int = 0
    """left out, as the image was known to touch all the brick's regions"""
    off: int = 0
    """decided by the bound: off the mask, outside the image or behind the camera"""
    on: int = 0
    """decided by the bound: all of the brick on the mask"""
    projected: int = 0
    """the rest: pairs whose voxels were projected"""
    lookups: int = 0
    """voxels whose mask bit was read"""

"""Contacts: which interaction regions the mask of each image touches. The contract.

The contract, the same for every backend::

    touched_regions(field, regions, images) -> (I,) int32

``regions`` (V,) int32 holds up to 32 regions of the field's voxels: bit r of voxel v is set where v lies in region r. Bit r of
image k is set where any voxel of region r is in front of the camera (z > 0), inside the image, and its pixel on the mask: the
indicator 1(1 in M_k(Pi_k(W(I_a)))) of Eq. 13. Voxels, projection and pixels are those of the votes (``chorus.kernels.arrays``),
and within one backend a region is touched exactly if one of its voxels would be counted in ``num``.

A float32 backend may decide votes near a pixel edge otherwise; ``reference.contacts.touched_bounds`` says what follows for
the regions. Within one backend the bits are the same for every order, batch, split and number of threads, and with culling on
or off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chorus.kernels.arrays import VoteImages, VoxelField, check_images

MAX_REGIONS = 32


def check_contacts(field: VoxelField, regions: Tensor, images: VoteImages) -> None:
    """Raise ValueError where the arguments of a ``touched_regions`` call do not fit together."""
    check_images(field, images)
    if regions.dtype != torch.int32 or regions.shape != (field.num_voxels,):
        raise ValueError(
            f"regions: expected int32 of shape ({field.num_voxels},), a bit set for each of the field's voxels; "
            f"got {regions.dtype} of shape {tuple(regions.shape)}"
        )

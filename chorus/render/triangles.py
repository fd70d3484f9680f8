"""A z-buffer of many images at once in PyTorch, on any device: by the rule of ``rasterize``, for small triangles."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus.render.rasterize import _POSITIVE, _STEPS

PIXELS = 1 << 22
"""Pixels of triangles' bounding boxes that are tried at a time: bounds the working memory, some 100 bytes each."""


def draw_many(uvz: Tensor, faces: Tensor, sizes: Tensor, shape: tuple[int, int], near: float, outside: int = 0) -> Tensor:
    """Inverse depth 1/z of the nearest triangle in each pixel, (I, H, W) float32 in 1/m; 0 where there is none.

    uvz    (I, V, 3) float64 homogeneous points (u z, v z, z): pixels and metres, a mesh of V vertices in each image
    faces  (F, 3) int64, the same in all                   sizes  (I, 2) int64 height, width of each image
    shape  (H, W), no smaller than any image               near   triangles with a vertex at z <= near metres are dropped
    outside  1 to draw those alone that run clockwise in the image, -1 counterclockwise, 0 all

    A pixel belongs to a triangle if its centre lies in it, a centre on an edge to one of the two that share it (``rasterize``).
    """
    z = uvz[..., 2]
    in_front = z > near
    inverse = torch.where(in_front, 1.0 / torch.where(in_front, z, 1.0), 0.0)
    at = torch.round(uvz[..., :2] * inverse[..., None] * _STEPS) / _STEPS
    keys = torch.zeros(len(uvz), shape[0] * shape[1], dtype=torch.float32, device=uvz.device)
    corners, height, width = at[:, faces], sizes[:, :1], sizes[:, 1:]  # (I, F, 3, 2)
    zero = torch.zeros_like(height)
    low, high = torch.ceil(corners.amin(2) - 0.5), torch.floor(corners.amax(2) - 0.5)
    x0, y0 = torch.maximum(low[..., 0].clamp(max=2**30).long(), zero), torch.maximum(low[..., 1].clamp(max=2**30).long(), zero)
    x1 = torch.minimum(high[..., 0].clamp(min=-(2**30)).long(), width - 1)
    y1 = torch.minimum(high[..., 1].clamp(min=-(2**30)).long(), height - 1)
    first, second = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    area = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    drawn = in_front[:, faces].all(2) & (x1 >= x0) & (y1 >= y0) & (area * outside > 0 if outside else area != 0)
    image, face = torch.nonzero(drawn, as_tuple=True)
    wide = (x1 - x0 + 1)[image, face]
    pixels = wide * (y1 - y0 + 1)[image, face]
    ends = torch.cumsum(pixels, 0)
    begin = 0
    while begin < len(image):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(torch.searchsorted(ends, done + PIXELS, right=True)))
        part = torch.arange(begin, end, device=uvz.device).repeat_interleave(pixels[begin:end])
        offset = torch.arange(len(part), device=uvz.device) - (ends[part] - pixels[part] - done)
        i, f = image[part], face[part]
        column, row = x0[i, f] + offset % wide[part], y0[i, f] + offset // wide[part]
        key, covered = _inside(corners[i, f], inverse[i[:, None], faces[f]], area[i, f], column + 0.5, row + 0.5)
        index = i * keys.shape[1] + row * shape[1] + column
        keys.view(-1).scatter_reduce_(0, index[covered], key[covered], "amax")
        begin = end
    return keys.reshape(-1, *shape)


def _inside(corner: Tensor, inverse: Tensor, area: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """1/z of triangles (P, 3, 2) at points u, v (P,), float32, and whether these lie in them, by the rule of ``rasterize``."""
    turn = torch.where(area > 0, 1.0, -1.0).double()
    total, covered = torch.zeros_like(u, dtype=torch.float64), torch.ones_like(u, dtype=torch.bool)
    for opposite, start, stop in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        du = turn * (corner[:, stop, 0] - corner[:, start, 0])
        dv = turn * (corner[:, stop, 1] - corner[:, start, 1])
        least = torch.where((dv > 0) | ((dv == 0) & (du > 0)), 0.0, _POSITIVE)
        edge = du * (v - corner[:, start, 1]) - dv * (u - corner[:, start, 0])
        covered &= edge >= least
        total += edge * inverse[:, opposite]
    return (total * (turn / area)).float(), covered

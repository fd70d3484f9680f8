"""Pictures of meshes by ray casting: opaque bodies, nested translucent shells in the right order, soft shade.

Rays are cast by Intel's Embree (the package embreex), on the CPU: no display, no OpenGL, no graphics driver. Needs the extra
``figures3d``; importing this module does not.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array

Array = NDArray[np.float64]

STEP = 1e-5
"""Metres by which a ray that went through a surface starts behind it."""
DEEPEST = 64
"""Surfaces that a ray goes through, at most."""
OPAQUE = 0.995
"""A pixel as opaque as this is done."""
OCCLUSION_RAYS = 96
OCCLUSION_REACH = 0.5
"""Metres within which something darkens a surface."""
FLOOR_CELL = 0.02
"""Metres between the points at which the floor's shadow is known."""
SHADOW = 0.4
"""Opacity of the floor's deepest shadow."""
LIGHT = (-0.45, -0.75, -0.6)
"""Direction towards the main light in the camera's axes (x right, y down, z away): above, to the left, behind the camera."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A mesh to draw.

    vertices (V, 3) metres   faces (F, 3), outward   colour (3,) RGB in 0..1   opacity 0..1 of the surface seen face on
    rim      added opacity where the surface is seen from its edge, so that the outline of a faint shell shows
    """

    vertices: Array
    faces: NDArray[np.integer[Any]]
    colour: tuple[float, float, float]
    opacity: float = 1.0
    rim: float = 0.0

    @property
    def opaque(self) -> bool:
        """Whether nothing shows through it."""
        return self.opacity >= 1


@dataclass(frozen=True, eq=False)
class Rays:
    """A ray for each sample of a picture, in the frame of the meshes.

    origins, directions  (P, 3); unit directions      size      (H, W) of the picture; P = H W samples^2
    axes                 (3, 3) rotation from the meshes' frame to the camera's axes (x right, y down, z away)
    samples              along a pixel's edge
    """

    origins: Array
    directions: Array
    size: tuple[int, int]
    axes: Array
    samples: int


def _sample_places(height: int, width: int, samples: int) -> tuple[Array, Array]:
    """u, v in pixels of all samples, each (P,), row by row."""
    v, u = np.meshgrid(
        (np.arange(height * samples) + 0.5) / samples, (np.arange(width * samples) + 0.5) / samples, indexing="ij"
    )
    return u.ravel(), v.ravel()


def orthographic(axes: Array, centre: Any, metres: tuple[float, float], height: int, samples: int = 2) -> Rays:
    """Parallel rays. axes (3, 3) as in ``Rays``; ``centre`` (3,) metres falls on the middle of the picture.

    metres  (up and down, across) that the picture shows         height  of the picture in pixels; its width follows
    """
    width = max(1, round(height * metres[1] / metres[0]))
    u, v = _sample_places(height, width, samples)
    scale = metres[0] / height
    start = np.stack([(u - width / 2) * scale, (v - height / 2) * scale, np.full(len(u), -50.0)], 1)
    return Rays(start @ axes + np.asarray(centre), np.broadcast_to(axes[2], (len(u), 3)), (height, width), axes, samples)


def perspective(cameras: Cameras, row: int = 0, samples: int = 2) -> Rays:
    """The rays of camera ``row``, for a picture of its size."""
    height, width = (int(c) for c in cameras.image_size[row])
    K, R, t = (np.asarray(a[row], np.float64) for a in (cameras.K, cameras.R, cameras.t))
    u, v = _sample_places(height, width, samples)
    directions = np.stack([u, v, np.ones(len(u))], 1) @ np.linalg.inv(K).T @ R
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Rays(np.broadcast_to(-R.T @ t, directions.shape), directions, (height, width), R, samples)


def turned_view(azimuth: float, elevation: float) -> Array:
    """The axes of a camera that looks at the person from ``azimuth`` degrees (0 their front, 90 their left) and from
    ``elevation`` degrees above: (3, 3) rotation from the person's frame to x right, y down, z away."""
    a, e = np.radians(azimuth), np.radians(elevation)
    away = -np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(away, right), away])


class Scene:
    """Meshes made ready to be drawn, from as many sides as wanted.

    floor  height (y, metres) of a floor on which opaque meshes cast a soft shadow; None: none. The floor itself is invisible.

    Raises ImportError without the extra ``figures3d``, InputError for meshes that are none.
    """

    def __init__(self, layers: Sequence[Layer], floor: float | None = None) -> None:
        self.layers, self.floor = list(layers), floor
        self._normals = [_vertex_normals(layer.vertices, layer.faces) for layer in self.layers]
        opaque = [layer for layer in self.layers if layer.opaque]
        self._all, self._blocking = _embree(self.layers), _embree(opaque)
        # Soft shade does not depend on the view: it is found at vertices, and at points of the floor, and interpolated.
        self._shade_at = [
            self._occlusion(layer.vertices + 1e-3 * normals, normals) if layer.opaque else np.zeros(0)
            for layer, normals in zip(self.layers, self._normals, strict=True)
        ]
        self._floor = None if floor is None or not opaque else self._shaded_floor(opaque, floor)

    def vertex_shade(self, number: int) -> Array:
        """Share of the half sphere over each vertex of layer ``number`` that opaque meshes block, (V,) in 0..1."""
        return self._shade_at[number]

    def render(self, rays: Rays) -> Array:
        """(H, W, 4) RGBA in 0..1, colours not multiplied by their opacity."""
        P = len(rays.origins)
        colour, light = np.zeros((P, 3)), np.ones(P)
        reached = np.zeros(P)
        open_ = np.arange(P)
        for _ in range(DEEPEST):
            if not open_.size or not self.layers:
                break
            hit = _cast(self._all, rays.origins[open_] + reached[open_, None] * rays.directions[open_], rays.directions[open_])
            found = hit["geomID"] >= 0
            open_ = open_[found]
            if not open_.size:
                break
            hit = {name: values[found] for name, values in hit.items()}
            reached[open_] += hit["tfar"] + STEP
            rgb, alpha = self._shade(rays, open_, hit)
            colour[open_] += (light[open_] * alpha)[:, None] * rgb
            light[open_] *= 1 - alpha
            open_ = open_[light[open_] > 1 - OPAQUE]
        if self._floor is not None:
            light *= 1 - self._shadow(rays)  # everything stands on the floor, so it comes last
        return _averaged(colour, 1 - light, rays)

    def _shade(self, rays: Rays, which: NDArray[np.intp], hit: dict[str, Any]) -> tuple[Array, Array]:
        rgb, alpha = np.empty((len(which), 3)), np.empty(len(which))
        directions, towards = rays.directions[which], np.asarray(LIGHT) @ rays.axes / np.linalg.norm(LIGHT)
        for number, (layer, normals) in enumerate(zip(self.layers, self._normals, strict=True)):
            on = np.flatnonzero(hit["geomID"] == number)
            if not on.size:
                continue
            corners = layer.faces[hit["primID"][on]]
            u, v = hit["u"][on, None].astype(np.float64), hit["v"][on, None].astype(np.float64)
            normal = normals[corners[:, 0]] * (1 - u - v) + normals[corners[:, 1]] * u + normals[corners[:, 2]] * v
            normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
            facing = -np.einsum("pa,pa->p", normal, directions[on])
            normal, facing = normal * np.where(facing < 0, -1.0, 1.0)[:, None], np.abs(facing)
            wrapped = 0.5 + 0.5 * normal @ towards
            lit = 0.42 + 0.62 * wrapped
            if layer.opaque:
                shade = self._shade_at[number][corners]
                shade = shade[:, 0] * (1 - u - v)[:, 0] + shade[:, 1] * u[:, 0] + shade[:, 2] * v[:, 0]
                lit = lit * (1 - 0.55 * shade) + 0.04 * facing
                alpha[on] = 1.0
            else:
                gloss = 0.16 * np.maximum(wrapped, 0) ** 24
                lit = lit * 1.02 + gloss
                alpha[on] = np.minimum(layer.opacity + layer.rim * (1 - facing) ** 2.5, 0.97)
            rgb[on] = np.clip(np.asarray(layer.colour) * lit[:, None], 0, 1)
        return rgb, alpha

    def _occlusion(self, points: Array, normals: Array) -> Array:
        """Share of the half sphere over points, by cosine, that opaque meshes block within OCCLUSION_REACH: (P,) in 0..1."""
        if self._blocking is None or not len(points):
            return np.zeros(len(points))
        k = np.arange(OCCLUSION_RAYS)
        radius, angle = np.sqrt((k + 0.5) / OCCLUSION_RAYS), k * np.pi * (3 - np.sqrt(5))  # a sunflower: cosine-weighted
        flat = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1 - radius**2)], 1)
        helper = np.where(np.abs(normals[:, :1]) < 0.7, [[1.0, 0, 0]], [[0, 1.0, 0]])
        side = np.cross(normals, helper)
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        frame = np.stack([side, np.cross(normals, side), normals], 1)
        blocked = np.zeros(len(points))
        for direction in flat:
            hit = _cast(self._blocking, points, direction @ frame)
            near = hit["geomID"] >= 0
            blocked[near] += np.maximum(1 - hit["tfar"][near] / OCCLUSION_REACH, 0)
        return blocked / OCCLUSION_RAYS

    def _shaded_floor(self, opaque: Sequence[Layer], floor: float) -> tuple[Array, Array]:
        """Where the grid of the floor's shade begins, (x, z) metres, and its opacity (X, Z)."""
        vertices = np.concatenate([layer.vertices for layer in opaque])
        low, high = vertices.min(0)[[0, 2]] - OCCLUSION_REACH, vertices.max(0)[[0, 2]] + OCCLUSION_REACH
        x, z = (np.arange(a, b + FLOOR_CELL, FLOOR_CELL) for a, b in zip(low, high, strict=True))
        points = np.stack([*np.meshgrid(x, [floor + 1e-3], z, indexing="ij")], -1).reshape(-1, 3)
        shade = self._occlusion(points, np.broadcast_to([0.0, 1.0, 0.0], points.shape)).reshape(len(x), len(z))
        return low, SHADOW * np.minimum(1.8 * gaussian_filter(shade, 0.8), 1)

    def _shadow(self, rays: Rays) -> Array:
        """Opacity of the floor's shadow at each ray that comes down on the floor, (P,)."""
        if self._floor is None or self.floor is None:
            return np.zeros(len(rays.origins))
        down = rays.directions[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            far = (self.floor - rays.origins[:, 1]) / down
        shade, meets = np.zeros(len(far)), np.flatnonzero((down < -1e-3) & (far > 0))
        points = rays.origins[meets][:, [0, 2]] + far[meets, None] * rays.directions[meets][:, [0, 2]]
        start, opacity = self._floor
        shade[meets] = map_coordinates(opacity, ((points - start) / FLOOR_CELL).T, order=1, mode="constant")
        return shade


def over_white(picture: Array) -> Array:
    """(H, W, 4) RGBA over white: (H, W, 3)."""
    return over(picture, np.ones(3))


def over(picture: Array, background: Any) -> Array:
    """(H, W, 4) RGBA over a background, (3,) or (H, W, 3) in 0..1: (H, W, 3)."""
    alpha = picture[..., 3:]
    mixed: Array = alpha * picture[..., :3] + (1 - alpha) * background
    return mixed


def _averaged(colour: Array, alpha: Array, rays: Rays) -> Array:
    """The mean over each pixel's samples of colours that are multiplied by their opacity: (H, W, 4), not multiplied."""
    (H, W), s = rays.size, rays.samples
    mean = np.column_stack([colour, alpha]).reshape(H, s, W, s, 4).mean((1, 3))
    mean[..., :3] /= np.maximum(mean[..., 3:], 1e-6)
    clipped: Array = np.clip(mean, 0, 1)
    return clipped


def _vertex_normals(vertices: Array, faces: NDArray[np.integer[Any]]) -> Array:
    """Unit normals (V, 3): those of the faces around, by their area."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    area = np.cross(b - a, c - a)
    normals = np.zeros(vertices.shape)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], area)
    unit: Array = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return unit


def _embree(layers: Sequence[Layer]) -> Any:
    """The layers as Embree's scene; None without any."""
    if not layers:
        return None
    scene = _package("embreex.rtcore_scene").EmbreeScene(robust=True)
    for layer in layers:
        vertices = check_array("vertices", layer.vertices, ("V", 3), np.float32)
        faces = check_array("faces", layer.faces, ("F", 3), np.int64)
        if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices):
            raise InputError(f"faces: expected at least one, of vertices 0..{len(vertices) - 1}, got {len(faces)}")
        _package("embreex.mesh_construction").TriangleMesh(scene, vertices[faces])
    return scene


def _cast(scene: Any, origins: Array, directions: Array) -> dict[str, Any]:
    """The first surface of each ray: geomID and primID (-1: none), u, v, tfar in metres."""
    found: dict[str, Any] = scene.run(
        np.ascontiguousarray(origins, np.float32), np.ascontiguousarray(directions, np.float32), output=1
    )
    return found


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            "3D figures need embreex, trimesh and scikit-image, the extra `figures3d` "
            f"(pip install '.[figures3d]' in a checkout): {error}"
        ) from error

"""Pictures of meshes by ray casting: opaque bodies, nested translucent shells in the right order, soft shade.

Rays are cast by Intel's Embree (the package embreex), on the CPU: no display, no OpenGL, no graphics driver. Needs the extra
``figures3d``; importing this module does not.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from chorus.camera.cameras import Cameras
from chorus.errors import InputError, check_array

Array = NDArray[np.float64]

NEAR = 0.05
BACK = 20.0
"""Metres before the middle of the meshes at which parallel rays start."""
CHUNK = 1 << 18
"""Rays that are followed together."""
STEP = 2e-5
"""Metres by which a ray that went through a surface starts behind it."""
DEEPEST = 64
"""Surfaces that a ray goes through, at most."""
OPAQUE = 0.995
"""A pixel as opaque as this is done."""
OCCLUSION_RAYS = 64
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
class View:
    """A camera and the size of its picture: a ray for each sample of a pixel.

    matrix   (3, 4) from the meshes' frame to (u, v, w): pixels u / w, v / w, or u, v themselves where rays are parallel
    size     (H, W) of the picture in pixels      axes     (3, 3) rotation from the meshes' frame to x right, y down, z away
    samples  along a pixel's edge                 parallel whether rays are
    """

    matrix: Array
    size: tuple[int, int]
    axes: Array
    samples: int
    parallel: bool

    def window(self, points: Array) -> tuple[int, int, int, int]:
        """The pixels (top, bottom, left, right), half open, outside of which points (P, 3) and what is between are not seen."""
        (H, W), uvw = self.size, points @ self.matrix[:, :3].T + self.matrix[:, 3]
        if not len(points) or (not self.parallel and uvw[:, 2].min() < NEAR):
            return 0, H, 0, W
        uv = uvw[:, :2] if self.parallel else uvw[:, :2] / uvw[:, 2:]
        (left, top), (right, bottom) = np.floor(uv.min(0)) - 1, np.ceil(uv.max(0)) + 1
        return (*(int(c) for c in np.clip([top, bottom], 0, H)), *(int(c) for c in np.clip([left, right], 0, W)))  # type: ignore[return-value]

    def rays(self, top: int, bottom: int, left: int, right: int) -> tuple[Array, Array]:
        """Origins and unit directions, (P, 3) each, of the samples of these pixels, row by row."""
        s = self.samples
        v, u = np.meshgrid(
            (np.arange(top * s, bottom * s) + 0.5) / s, (np.arange(left * s, right * s) + 0.5) / s, indexing="ij"
        )
        to_world = np.linalg.inv(np.vstack([self.matrix, [0, 0, 0, 1]]))
        places = np.stack([u.ravel(), v.ravel()], 1)
        if self.parallel:
            origins = places @ to_world[:3, :2].T + (to_world[:3, 2] * -BACK + to_world[:3, 3])
            return origins, np.broadcast_to(self.axes[2], origins.shape)
        directions = places @ to_world[:3, :2].T + to_world[:3, 2]
        directions /= np.sqrt(np.einsum("pa,pa->p", directions, directions))[:, None]
        return np.broadcast_to(to_world[:3, 3], directions.shape), directions


def orthographic(axes: Array, centre: Any, metres: tuple[float, float], height: int, samples: int = 2) -> View:
    """Parallel rays. axes (3, 3) as in ``View``; ``centre`` (3,) metres falls on the middle of the picture.

    metres  (up and down, across) that the picture shows         height  of the picture in pixels; its width follows
    """
    width = max(1, round(height * metres[1] / metres[0]))
    matrix = np.column_stack([axes, -axes @ np.asarray(centre)])
    matrix[:2] *= height / metres[0]
    matrix[:2, 3] += [width / 2, height / 2]
    return View(matrix, (height, width), axes, samples, True)


def perspective(cameras: Cameras, row: int = 0, samples: int = 2) -> View:
    """The rays of camera ``row``, for a picture of its size."""
    height, width = (int(c) for c in cameras.image_size[row])
    K, R, t = (np.asarray(a[row], np.float64) for a in (cameras.K, cameras.R, cameras.t))
    return View(K @ np.column_stack([R, t]), (height, width), R, samples, False)


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
        opaque = [layer for layer in self.layers if layer.opaque]
        self._all, self._blocking = _embree(self.layers), _embree(opaque)
        self._normals = [_vertex_normals(layer.vertices, layer.faces) for layer in self.layers]
        # Soft shade does not depend on the view: it is found at vertices, and at points of the floor, and interpolated.
        scene = _digest(opaque)
        self._shade_at = [
            _remembered(
                (scene, number),
                lambda at=layer.vertices, out=normals: self._occlusion(at + 1e-3 * out, out),  # type: ignore[misc]
            )
            if layer.opaque
            else np.zeros(0)
            for number, (layer, normals) in enumerate(zip(self.layers, self._normals, strict=True))
        ]
        self._floor = None if floor is None or not opaque else self._shaded_floor(opaque, floor)

    def vertex_shade(self, number: int) -> Array:
        """Share of the half sphere over each vertex of layer ``number`` that opaque meshes block, (V,) in 0..1."""
        return self._shade_at[number]

    def render(self, view: View, *, only_opaque: bool = False) -> Array:
        """(H, W, 4) RGBA in 0..1, colours not multiplied by their opacity. only_opaque: without the translucent layers."""
        chosen = [i for i, layer in enumerate(self.layers) if layer.opaque or not only_opaque]
        scene = self._blocking if only_opaque else self._all
        points = [self.layers[i].vertices for i in chosen] + ([] if self._floor is None else [self._floor[2]])
        picture = np.zeros((*view.size, 4))
        top, bottom, left, right = view.window(np.concatenate(points) if points else np.zeros((0, 3)))
        rows = max(1, CHUNK // max(1, (right - left) * view.samples**2))
        for first in range(top, bottom, rows):
            last = min(bottom, first + rows)
            if left < right:
                seen = self._trace(scene, chosen, *view.rays(first, last, left, right), view.axes)
                picture[first:last, left:right] = _averaged(seen, last - first, right - left, view.samples)
        return picture

    def _trace(self, scene: Any, chosen: Sequence[int], origins: Array, directions: Array, axes: Array) -> Array:
        """(P, 4) of rays: colours multiplied by their opacity, and opacity. chosen: the layers that ``scene`` has."""
        P = len(origins)
        colour, light, reached, open_ = np.zeros((P, 3)), np.ones(P), np.zeros(P), np.arange(P)
        towards = np.asarray(LIGHT) @ axes / np.linalg.norm(LIGHT)
        for _ in range(DEEPEST):
            if not open_.size or scene is None:
                break
            hit = _cast(scene, origins[open_] + reached[open_, None] * directions[open_], directions[open_])
            found = hit["geomID"] >= 0
            open_ = open_[found]
            if not open_.size:
                break
            hit = {name: values[found] for name, values in hit.items()}
            reached[open_] += hit["tfar"] + STEP
            rgb, alpha = self._shade(chosen, hit, directions[open_], towards)
            colour[open_] += (light[open_] * alpha)[:, None] * rgb
            light[open_] *= 1 - alpha
            open_ = open_[light[open_] > 1 - OPAQUE]
        if self._floor is not None:
            light *= 1 - self._shadow(origins, directions)  # everything stands on the floor, so it comes last
        return np.column_stack([colour, 1 - light])

    def _shade(self, chosen: Sequence[int], hit: dict[str, Any], directions: Array, towards: Array) -> tuple[Array, Array]:
        """Colour (P, 3) and opacity (P,) of surfaces that rays hit; towards (3,) the light."""
        rgb, alpha = np.empty((len(directions), 3)), np.empty(len(directions))
        for place, number in enumerate(chosen):
            layer, normals = self.layers[number], self._normals[number]
            on = np.flatnonzero(hit["geomID"] == place)
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

    def _shaded_floor(self, opaque: Sequence[Layer], floor: float) -> tuple[Array, Array, Array]:
        """Where the grid of the floor's shade begins, (x, z) metres, its opacity (X, Z), and its corners (4, 3) metres."""
        vertices = np.concatenate([layer.vertices for layer in opaque])
        low, high = vertices.min(0)[[0, 2]] - OCCLUSION_REACH, vertices.max(0)[[0, 2]] + OCCLUSION_REACH
        x, z = (np.arange(a, b + FLOOR_CELL, FLOOR_CELL) for a, b in zip(low, high, strict=True))
        points = np.stack([*np.meshgrid(x, [floor + 1e-3], z, indexing="ij")], -1).reshape(-1, 3)
        shade = self._occlusion(points, np.broadcast_to([0.0, 1.0, 0.0], points.shape)).reshape(len(x), len(z))
        corners = np.array([(a, floor, b) for a in (low[0], high[0]) for b in (low[1], high[1])])
        return low, SHADOW * np.minimum(1.8 * gaussian_filter(shade, 0.8), 1), corners

    def _shadow(self, origins: Array, directions: Array) -> Array:
        """Opacity of the floor's shadow at each ray that comes down on the floor, (P,)."""
        assert self._floor is not None
        assert self.floor is not None
        down = directions[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            far = (self.floor - origins[:, 1]) / down
        shade, meets = np.zeros(len(far)), np.flatnonzero((down < -1e-3) & (far > 0))
        points = origins[meets][:, [0, 2]] + far[meets, None] * directions[meets][:, [0, 2]]
        start, opacity, _ = self._floor
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


def _averaged(seen: Array, height: int, width: int, samples: int) -> Array:
    """The mean of each pixel's samples (P, 4), colours multiplied by their opacity: (H, W, 4), not multiplied."""
    mean = seen.reshape(height, samples, width, samples, 4).mean((1, 3))
    mean[..., :3] /= np.maximum(mean[..., 3:], 1e-6)
    clipped: Array = np.clip(mean, 0, 1)
    return clipped


_shades: OrderedDict[tuple[str, int], Array] = OrderedDict()


def _remembered(key: tuple[str, int], make: Callable[[], Array]) -> Array:
    """Shade at vertices, which the pictures of one body share; that of the last 16."""
    if key not in _shades:
        _shades[key] = make()
    _shades.move_to_end(key)
    while len(_shades) > 16:
        _shades.popitem(last=False)
    return _shades[key]


def _digest(layers: Sequence[Layer]) -> str:
    """What tells meshes apart."""
    made = hashlib.blake2b()
    for layer in layers:
        for array in (layer.vertices, layer.faces):
            made.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


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
            got = f"{len(faces)} of {faces.min(initial=0)}..{faces.max(initial=0)}"
            raise InputError(f"faces: expected at least one, of vertices 0..{len(vertices) - 1}, got {got}")
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

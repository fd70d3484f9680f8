"""Summary of an occupancy: three lines of text, and HTML for notebooks with three projections of phi and a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus.camera.views import Scheme
from chorus.canonicalization import LBS, NONE
from chorus.field import FieldParameters

if TYPE_CHECKING:
    from chorus.body.model import Body

PIXELS = 168
"""Side of each projection in the picture."""
OPACITY = 4.5
"""What the highest phi takes of the light, as an exponent; of lower phi, its cube."""
LONGEST_NAME = 40
"""Longer category names are cut, so that they fit on a line."""

SIDES = {
    "from the front": ((0, 1), (2, -1), (1, -1)),
    "from the person's left": ((2, -1), (0, -1), (1, -1)),
    "from above": ((0, -1), (1, -1), (2, -1)),
}
"""Side -> (axis, sign) of the picture's x (to the right), of the line of sight (away from the viewer), of its y (down)."""


class Placed(Protocol):
    """phi and where its voxels are."""

    @property
    def centres(self) -> NDArray[np.float32]: ...
    @property
    def probability(self) -> NDArray[np.float32]: ...


class Summarised(Placed, Protocol):
    """The properties of an ``Occupancy`` that a summary needs."""

    @property
    def category(self) -> str: ...
    @property
    def num_images(self) -> int: ...
    @property
    def scheme(self) -> Scheme: ...
    @property
    def weighting(self) -> str: ...
    @property
    def parameters(self) -> FieldParameters: ...
    @property
    def body_hash(self) -> str: ...
    @property
    def field_hash(self) -> str: ...
    @property
    def support(self) -> NDArray[np.int64]: ...


def text(occupancy: Summarised) -> str:
    """Three lines for ``repr``: category and images, grid and body, largest phi."""
    return (
        f"Occupancy({_short(occupancy.category)!r}, {occupancy.num_images:,} images, scheme {occupancy.scheme.name!r}, "
        f"weighting {occupancy.weighting!r},\n"
        f"          {_grid(occupancy)}, body {occupancy.body_hash[:12] or 'not known'},\n"
        f"          probability at most {occupancy.probability.max():.3f})"
    )


def most_probable(occupancy: Placed) -> tuple[float, list[float]]:
    """The highest phi, and the centre of its voxel: x, y, z in metres from the pelvis."""
    phi, centres = occupancy.probability, occupancy.centres
    at = centres[np.unravel_index(int(phi.argmax()), phi.shape)]
    return float(phi.max()), [float(value) for value in at]


def peak(occupancy: Placed) -> tuple[float, list[float]]:
    """``most_probable`` for people: to three digits and to a centimetre."""
    phi, at = most_probable(occupancy)
    return round(phi, 3), [round(value, 2) for value in at]


def place_text(at: Sequence[float]) -> str:
    """A place x, y, z in metres from the pelvis, in words."""
    x, y, z = at
    sides = f"{abs(x):.2f} m {'left' if x >= 0 else 'right'}, {abs(y):.2f} {'up' if y >= 0 else 'down'}"
    return f"{sides}, {abs(z):.2f} {'forward' if z >= 0 else 'back'} of the pelvis"


def peak_text(phi: float, at: Sequence[float]) -> str:
    """The highest phi and where it is, in words."""
    return f"{phi:.3f}, {place_text(at)}"


def html(occupancy: Summarised) -> str:
    """One self-contained ``<div>`` for a notebook, with the picture embedded as a PNG."""
    support = occupancy.support
    facts = {
        "category": _short(occupancy.category) or "not named",
        "images": f"{occupancy.num_images:,}",
        "grid": _grid(occupancy),
        "scheme": f"{occupancy.scheme.name}, {occupancy.scheme.num_groups} groups",
        "weighting": occupancy.weighting,
        "highest probability": peak_text(*peak(occupancy)),
        "images that saw a voxel": f"{support.min():,} to {support.max():,}",
        "body": occupancy.body_hash[:12] or "not known",
        "field": occupancy.field_hash[:12],
    }
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    picture = base64.b64encode(png(occupancy)).decode()
    sides = ", ".join(SIDES)
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1em;align-items:center">'
        f'<figure style="margin:0"><img alt="phi {sides}" src="data:image/png;base64,{picture}">'
        f"<figcaption>highest probability {sides}; {occupancy.parameters.extent:g} m across</figcaption></figure>"
        f"<table><caption>Occupancy</caption>{rows}</table></div>"
    )


def png(occupancy: Summarised) -> bytes:
    """The three projections side by side as a PNG of (PIXELS, 3 PIXELS), with the body where it is the built-in one.

    A pixel has the largest phi along its line of sight, brighter for more, scaled to the occupancy's own maximum; lines of
    sight are those of SIDES. The body does not hide what is behind it.
    """
    import matplotlib
    from PIL import Image

    phi, body = occupancy.probability, _built_in(occupancy.body_hash)
    top = float(phi.max()) or 1.0
    panels = []
    for (right, right_sign), (along, along_sign), (down, down_sign) in SIDES.values():
        projection = phi.max(along).astype(np.float64)  # the two remaining axes are in ascending order
        projection = projection if down < right else projection.T
        projection = projection[::down_sign, ::right_sign]  # (row, column)
        value = np.asarray(
            Image.fromarray((projection / top).astype(np.float32)).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
        )
        rotation = np.zeros((3, 3))
        rotation[0, right], rotation[1, down], rotation[2, along] = right_sign, down_sign, along_sign
        background = _shaded(body, rotation, occupancy.parameters.extent)
        # As in `chorus.figures.three_sides`: low phi, which some chance votes give everywhere, is almost transparent.
        alpha = 1 - np.exp(-OPACITY * np.clip(value, 0, 1)[..., None] ** 3)
        panels.append((1 - alpha) * background + alpha * matplotlib.colormaps["plasma"](value)[..., :3])
    picture = np.concatenate(panels, axis=1)
    picture[:, [PIXELS, 2 * PIXELS]] = 0.8  # a line between two panels
    file = io.BytesIO()
    Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)).save(file, format="PNG", optimize=True)
    return file.getvalue()


def _grid(occupancy: Summarised) -> str:
    parameters = occupancy.parameters
    name = parameters.canonicalization
    kind = "" if name == LBS else ", not canonicalized" if name == NONE else f", {name}"
    return f"{parameters.resolution}^3 voxels in a cube of {parameters.extent:g} m{kind}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _built_in(body_hash: str) -> Body | None:
    """The built-in body if it has this hash; other bodies cannot be loaded from a hash, so the picture goes without."""
    from chorus.body.model import load_body

    body = load_body()
    return body if body.hash == body_hash else None


def _shaded(body: Body | None, rotation: NDArray[np.float64], extent: float) -> NDArray[Any]:
    """The rest-pose body seen by a rotation (3, 3) from person frame to viewer: (PIXELS, PIXELS, 3) in 0..1; white if None."""
    if body is None:
        return np.ones((PIXELS, PIXELS, 3))
    from chorus.render.rasterize import face_normals, render_orthographic, shade

    vertices = body.rest_vertices
    _, face = render_orthographic(vertices, body.faces, rotation, PIXELS, PIXELS, extent / PIXELS)
    normals = face_normals(vertices, body.faces) @ rotation.T * [1, -1, -1]
    shaded: NDArray[Any] = shade(face, normals).astype(np.float64) / 255
    return shaded

"""The interactive view by itself: for notebooks, which show it as it is, and as a file. The public name is ``chorus.show``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chorus.errors import InputError, check_array, check_kind, check_whole
from chorus.files import check_output_file, write_text

# The drawing's libraries load when something is shown: this module is a public name's, and those are cheap to look up.
if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.occupancy.distribution import Distribution
    from chorus.store import Store

HEIGHT = 620
"""Pixels of the frame in a notebook."""
LEAST_HEIGHT = 200
"""Less would hold the controls alone."""


@dataclass(frozen=True)
class View:
    """An interactive view. As a cell's last value Jupyter shows it: ``_repr_html_`` is a frame that holds the whole page.

    page   HTML, complete: it loads nothing and needs no network      title   of the page
    height of the frame in pixels
    """

    page: str = field(repr=False)
    title: str
    height: int = HEIGHT

    def _repr_html_(self) -> str:
        # In a frame of its own the page's styles, ids and errors stay apart from the notebook's, and so do those of two
        # views. The sandbox lets it run and save a picture, and keeps it from the notebook's page.
        frame = (
            f'<iframe title="{escape(self.title)}" srcdoc="{escape(self.page)}" sandbox="allow-scripts allow-downloads" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )
        # ASCII: an exported notebook's page may be read in any encoding.
        return frame.encode("ascii", "xmlcharrefreplace").decode("ascii")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, complete or not at all; returns its path. InputError for a name not ending in .html or .htm."""
        path = Path(path)
        check_output_file("path", path, (".html", ".htm"))
        write_text(path, self.page)
        return path


def show(
    occupancy: Distribution,
    poses: Any = (),
    body: Body | None = None,
    *,
    store: Store | None = None,
    height: int = HEIGHT,
) -> View:
    """The view to turn, with a threshold to move: of an occupancy around the canonical person, and around posed ones.

    poses   further ones to choose from: (J, 3) axis-angle in radians, row 0 zero; (n, J, 3); or name -> (J, 3)
    body    the one that it was made with; None for the built-in one
    store   whose images it was learned from: their cameras can be shown around the person
    height  of the frame in a notebook, pixels

    Raises InputError for poses of another shape and where phi is 0 everywhere; MismatchError for another body or store.
    """
    from chorus.figures.shells import Posed
    from chorus.occupancy.distribution import Distribution
    from chorus.occupancy.posed import body_of
    from chorus.report import page, view
    from chorus.report.report import Report, sample_directions, title_of

    check_kind("occupancy", occupancy, Distribution)
    height = check_whole("height", height, LEAST_HEIGHT)
    body = body_of(occupancy.body_hash, body)
    report = Report(occupancy, body, store)
    drawn = [Posed("canonical", occupancy.probability, body.rest_vertices)]
    for name, pose in _named(poses, body).items():
        phi = occupancy.posed(pose, body, interpolation="trilinear")
        drawn.append(Posed(name, phi, body.posed_vertices(pose[None])[0]))
    directions = None if store is None else sample_directions(report)
    data = view.view_data(drawn, body, occupancy.parameters.extent, directions)
    return View(page.view_page(title_of(report), data, view.script()), title_of(report), height)


def _named(poses: Any, body: Body) -> dict[str, Any]:
    """Name -> pose (J, 3) float64, checked."""
    J = body.num_joints
    if isinstance(poses, Mapping):
        if not all(isinstance(name, str) for name in poses):
            raise InputError(f"poses: expected names that are text, got {list(poses)}")
        return {name: check_array(f"poses[{name!r}]", pose, (J, 3), float) for name, pose in poses.items()}
    if isinstance(poses, (tuple, list)) and not poses:
        return {}
    one = len(np.shape(poses)) == 2
    array = check_array("poses", poses, (J, 3) if one else ("n", J, 3), float)
    return {f"pose {i + 1}": pose for i, pose in enumerate(array.reshape(-1, J, 3))}

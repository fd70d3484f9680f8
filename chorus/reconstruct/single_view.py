"""Human and object in 3D from one photograph (4.5): a pose, a camera, and the learned distribution that explains the object.

The distributions of the object's category, one for each prompt and touched part (3.4), are posed like the person (Eq. 11) and
projected into the photograph. The one that agrees best with the object's mask is chosen (the paper chooses by eye, 4.4), and
marching cubes extracts its surface. How the choices are made and how good they are: docs/reconstruction.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from chorus.body.model import Body, load_body
from chorus.errors import InputError
from chorus.files import write_atomically
from chorus.occupancy import surfaces
from chorus.occupancy.counts import load_occupancy
from chorus.reconstruct.distributions import (
    choose_category,
    choose_distribution,
    compare,
    occupancy_files,
)
from chorus.reconstruct.object_surface import best_threshold, pieces_on_object, silhouette_iou, surface_of
from chorus.reconstruct.posing import Posing
from chorus.reconstruct.result import Reconstruction
from chorus.reconstruct.scene import Scene
from chorus.reconstruct.view import View

MIN_IMAGES = 30
"""Least number of images of a distribution that may be chosen."""
MIN_SUPPORT = 5
"""Least number of images that must have seen a voxel; with fewer it counts as empty."""
ROUND_TRIP = 0.2
"""Largest distance in metres from a posed voxel to where Eq. 5 carries the canonical voxel that Eq. 11 assigns to it."""
GLB, OVERLAY, REPORT = "reconstruction.glb", "overlay.png", "reconstruction.json"


def reconstruct(
    scene: Scene,
    occupancies: Sequence[str | os.PathLike[str]],
    body: Body | None = None,
    *,
    category: str | None = None,
    threshold: float | None = None,
    mass: float | None = None,
    min_images: int = MIN_IMAGES,
    min_support: int = MIN_SUPPORT,
    round_trip: float = ROUND_TRIP,
    inverse: str = "blend_of_inverses",
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Reconstruction:
    """Reconstruct human and object of a scene from the stored distribution that explains the object best.

    occupancies   files or folders of distributions, as for ``occupancy_files``
    body          the one that distributions and scene were made with; None for the built-in one
    category      used instead of the scene's
    threshold     on phi, of the surface; or ``mass``, the share of the sum of phi inside it. By default the threshold whose
                  surface agrees best with the object's mask
    min_images    least number of images of a distribution that may be chosen
    min_support   least number of images that must have seen a voxel, else it is empty
    round_trip    a posed voxel is empty if Eq. 5 carries the canonical voxel that Eq. 11 assigns to it farther from it than
                  this, in metres; inf for plain Eq. 11
    inverse       of Eq. 11, "blend_of_inverses" or "inverse_of_blend"
    backend       "auto", "triton", "numba", "reference"
    progress      called with the number of distributions compared and of all

    Raises InputError where nothing can be chosen, MismatchError for distributions of another body.
    """
    body = load_body() if body is None else body
    if threshold is not None and mass is not None:
        raise InputError("threshold, mass: expected at most one of them, got both")
    wanted = category or scene.category
    vertices = body.posed_vertices(scene.pose[None])[0]
    view, posing = View(scene, vertices, body.faces), Posing(scene.pose, body, inverse, backend, min_support, round_trip)
    files = occupancy_files(occupancies)
    found = []
    for done, (file, prompt, part) in enumerate(files):
        found.append(compare(file, prompt, part, view, posing, wanted, min_images))
        if progress is not None:
            progress(done + 1, len(files))
    of_category, category_from = choose_category(view, found, wanted)
    if scene.estimators and scene.category and category is None:
        category_from = "found in the photograph: of those stored, its box overlaps the person's most"
    chosen, cluster_from = choose_distribution(view, of_category)
    phi, parameters = posing(load_occupancy(chosen.file))
    if threshold is not None or mass is not None:
        value = surfaces.choose_threshold(phi, parameters.extent, threshold, mass)
        value_from = "given" if mass is None else f"the surface holds {mass:g} of the sum of phi"
    else:
        value, value_from = best_threshold(view, phi, parameters.extent, chosen)
    inside, left_out = pieces_on_object(view, phi, parameters.extent, value)
    mesh = surface_of(phi, inside, parameters.extent, value)
    return Reconstruction(
        scene,
        tuple(found),
        chosen,
        category_from,
        cluster_from,
        value,
        value_from,
        phi,
        inside,
        left_out,
        parameters,
        body.hash,
        surfaces.body_mesh(vertices, body.faces),
        mesh,
        silhouette_iou(view, mesh),
    )


def write_reconstruction(folder: str | os.PathLike[str], reconstruction: Reconstruction) -> list[Path]:
    """Write reconstruction.glb (nodes "person" and "object"), overlay.png and reconstruction.json; returns their paths.

    The folder is created; its parent must exist.
    """
    from chorus.reconstruct.overlay import save_overlay

    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in (GLB, OVERLAY, REPORT)]
    surfaces.write_meshes(paths[0], {surfaces.PERSON: reconstruction.human, surfaces.OBJECT: reconstruction.object})
    write_atomically(paths[1], lambda part: save_overlay(part, reconstruction))
    text = json.dumps(reconstruction.to_json(), indent=1, allow_nan=False) + "\n"
    write_atomically(paths[2], lambda part: part.write_text(text, encoding="utf-8"))
    return paths

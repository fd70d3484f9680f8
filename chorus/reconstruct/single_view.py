"""Human and object in 3D from one photograph (4.5): a pose, a camera, and the learned distribution that explains the object.

The distributions stored for the object's category, one for each prompt and touched part (3.4), are posed like the person
(Eq. 11) and projected into the photograph; the one that agrees best with the object's mask is taken (what 4.4 does by eye), and
marching cubes makes a surface of it. How the choices are made, and what they are worth: docs/reconstruction.md.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from chorus.body.model import Body, load_body
from chorus.errors import InputError, MismatchError
from chorus.field import FieldParameters, voxel_centres
from chorus.files import write_atomically
from chorus.occupancy import surfaces
from chorus.occupancy.counts import load_occupancy
from chorus.provenance import provenance
from chorus.reconstruct.scene import THRESHOLDS, Posing, Scene, View, box_ious, mask_ious

if TYPE_CHECKING:
    from trimesh import Trimesh

MIN_IMAGES = 30
"""Distributions of fewer images are not candidates."""
MIN_SUPPORT = 5
"""A voxel seen by fewer images counts as empty."""
ROUND_TRIP = 0.2
"""Metres that a posed voxel may be from where the canonical voxel it shows is carried to."""
TIE = 0.04
"""IoUs within this share of the best are a tie: so much do a few pixels at the border of a small mask change."""
SURFACE_STEPS = 16
"""Thresholds at which the surface's own silhouette is compared with the mask."""
GLB, OVERLAY, REPORT = "reconstruction.glb", "overlay.png", "reconstruction.json"


@dataclass(frozen=True)
class Candidate:
    """One stored distribution, and how it agrees with the photograph.

    file, category, prompt, part, images   as stored; prompt None: of any, part None: of any or none
    box_iou, box_threshold    best IoU over THRESHOLDS of the box of the projected {phi >= threshold} and the object's box
    mask_iou, mask_threshold  the same of the projection itself and the object's mask, pixels hidden by the person left out
    skipped                   why it was not considered; "" where it was
    """

    file: Path
    category: str
    prompt: str | None
    part: str | None
    images: int
    box_iou: float | None = None
    box_threshold: float | None = None
    mask_iou: float | None = None
    mask_threshold: float | None = None
    skipped: str = ""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Human and object around one photograph's person, in the person's frame (metres, y up).

    scene, candidates, chosen   with ``category_from``, ``cluster_from`` and ``threshold_from`` saying why, in words
    threshold        on phi, of the surface          phi  (N, N, N) float32, posed, on the cube of ``parameters``
    inside           (N, N, N) bool, voxels of the object: phi >= threshold, without ``left_out`` pieces that do not project
                     on the object's mask or box (nothing contradicts what the person hides)
    human, object    meshes                          silhouette_iou  of the object's surface and the mask; None without one
    body_hash        of the body; ``parameters`` are the field's
    """

    scene: Scene
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    category_from: str
    cluster_from: str
    threshold: float
    threshold_from: str
    phi: NDArray[np.float32]
    inside: NDArray[np.bool_]
    left_out: int
    parameters: FieldParameters
    body_hash: str
    human: Trimesh
    object: Trimesh
    silhouette_iou: float | None

    def to_json(self) -> dict[str, Any]:
        """All but the arrays, as JSON can hold it; lengths in metres in the person's frame."""
        camera, residual = self.scene.camera, self.scene.residual_px
        return {
            "record": self.scene.name,
            "estimators": dict(self.scene.estimators),
            "chosen": {**_row(self.chosen), "category_from": self.category_from, "cluster_from": self.cluster_from},
            "threshold": {"value": self.threshold, "from": self.threshold_from},
            "object": {
                **asdict(surfaces.describe(self.object)),
                "centre": _centre(self.phi, self.inside, self.parameters.extent),
                "pieces_left_out": self.left_out,
                "largest_phi": float(self.phi.max()),
                "silhouette_iou": self.silhouette_iou,
            },
            "camera": {
                "from": self.scene.camera_from,
                "residual_px": None if math.isnan(residual) else residual,
                "R": camera.R[0].tolist(),
                "t": camera.t[0].tolist(),
                "K": camera.K[0].tolist(),
                "image_size": list(self.scene.image_size),
            },
            "candidates": [_row(c) for c in self.candidates],
            "body_hash": self.body_hash,
            "field": asdict(self.parameters),
            "provenance": provenance(),
        }


def _row(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "file": str(candidate.file)}


def _centre(phi: NDArray[np.float32], inside: NDArray[np.bool_], extent: float) -> list[float]:
    """Mean of the voxels inside, weighted by phi."""
    weight = np.where(inside, phi, 0).astype(np.float64)
    axis = (np.arange(len(phi)) + 0.5) * (extent / len(phi)) - extent / 2
    total = weight.sum()
    return [float((weight.sum(tuple({0, 1, 2} - {a})) * axis).sum() / total) for a in range(3)]


def occupancy_files(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, str | None, str | None]]:
    """Occupancy files with their prompt and part: files, folders of ``chorus aggregate --all``, or folders of such folders.

    Raises InputError for a path that has none, and for a clusters.json that is damaged or names files outside its folder.
    """
    found: list[tuple[Path, str | None, str | None]] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append((path, None, None))
            continue
        tables = [path / "clusters.json"] if (path / "clusters.json").is_file() else sorted(path.glob("*/clusters.json"))
        if not tables:
            raise InputError(f"occupancies: expected an occupancy file or a folder with clusters.json, got {str(path)!r}")
        for table in tables:
            try:
                rows = [(row["file"], row["prompt"], row["part"]) for row in json.loads(table.read_text(encoding="utf-8"))]
                bad = next((r for r in rows if not isinstance(r[0], str) or Path(r[0]).name != r[0]), None)
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{table}: expected rows with file, prompt and part: {error}") from None
            if bad is not None:
                raise InputError(f"{table}: expected names of files beside it, got {bad[0]!r}")
            found += [(table.parent / file, prompt, part) for file, prompt, part in rows]
    if not found:
        raise InputError("occupancies: expected at least one, got none")
    return list({place.resolve(): (place, prompt, part) for place, prompt, part in found}.values())


def stored_categories(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The categories of the occupancies that paths hold, as for ``occupancy_files``: those of a folder are of one."""
    files = [file for file, _, _ in occupancy_files(paths)]
    one_each = {file.parent if (file.parent / "clusters.json").is_file() else file: file for file in files}
    return list(dict.fromkeys(load_occupancy(file).category for file in one_each.values()))


def _compare(
    file: Path, prompt: str | None, part: str | None, view: View, posing: Posing, wanted: str | None, min_images: int
) -> Candidate:
    occupancy = load_occupancy(file)
    if occupancy.body_hash != posing.body.hash:
        raise MismatchError(
            f"{file}: expected an occupancy of body {posing.body.name} {posing.body.hash[:12]}, got {occupancy.body_hash[:12]}"
        )
    candidate = Candidate(file, occupancy.category, prompt, part, occupancy.num_images)
    if wanted is not None and occupancy.category.casefold() != wanted.casefold():
        return replace(candidate, skipped="another category")
    if occupancy.num_images < min_images:
        return replace(candidate, skipped=f"fewer than {min_images} images")
    if view.box is None:
        return candidate
    phi, parameters = posing(occupancy)
    levels = view.project(phi, parameters.extent)
    boxes = box_ious(levels, view.box)
    at = int(boxes.argmax())
    candidate = replace(candidate, box_iou=float(boxes[at]), box_threshold=float(THRESHOLDS[at]))
    if view.mask is None:
        return candidate
    masks = mask_ious(levels, view.mask, view.hidden)
    at = int(masks.argmax())
    return replace(candidate, mask_iou=float(masks[at]), mask_threshold=float(THRESHOLDS[at]))


def _choose_category(view: View, found: Sequence[Candidate], wanted: str | None) -> tuple[list[Candidate], str]:
    """The candidates of the object's category, and why it is that one."""
    stored = list(dict.fromkeys(c.category for c in found))
    names = ", ".join(map(repr, stored))
    if wanted is not None and wanted.casefold() not in [c.casefold() for c in stored]:
        raise InputError(f"category: expected one of the stored ones, {names}; got {wanted!r}")
    considered = [c for c in found if not c.skipped]
    if not considered:
        most = max(c.images for c in found if c.skipped != "another category")
        raise InputError(f"min_images: expected distributions of enough images, the largest has {most}")
    if wanted is not None:
        return considered, "given"
    if len(stored) == 1:
        return considered, "the only one stored"
    if view.box is None:
        raise InputError(f"record: expected a category, an object mask or an object_box to choose among {names}")
    best = _first(considered, [c.box_iou or 0.0 for c in considered])
    why = f"of those stored, its projected box agrees best with the object's (IoU {best.box_iou:.2f})"
    return [c for c in considered if c.category == best.category], why


def _choose_cluster(view: View, considered: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The candidate that agrees best, and why."""
    if view.box is None:
        most = max(considered, key=lambda c: (c.images, c.prompt is not None, c.part is not None, str(c.file)))
        return most, "it has the most images: no object mask or box is given"
    masked = view.mask is not None
    scores = [(c.mask_iou if masked else c.box_iou) or 0.0 for c in considered]
    best = _first(considered, scores)
    if max(scores) == 0:
        raise InputError(
            f"occupancies: expected one that projects on the object; of the {len(considered)} of {best.category!r} none does "
            "(is the camera right?)"
        )
    score, tied = scores[considered.index(best)], sum(score >= (1 - TIE) * max(scores) for score in scores) - 1
    what = "projection agrees best with the object's mask" if masked else "projected box agrees best with the object's"
    also = "" if tied == 0 else f"; {tied} more are within {TIE:.0%} of the best: of a prompt, and most images, go first"
    return best, f"its {what} (IoU {score:.2f}{also})"


def _first(considered: Sequence[Candidate], scores: Sequence[float]) -> Candidate:
    """The best; of those tied with it one of a prompt rather than of any, then of the most images, then the better."""
    tied = [(c, s) for c, s in zip(considered, scores, strict=True) if s >= (1 - TIE) * max(scores)]
    return max(tied, key=lambda pair: (pair[0].prompt is not None, pair[0].images, pair[1], str(pair[0].file)))[0]


def _silhouette_iou(view: View, mesh: Trimesh) -> float | None:
    if view.mask is None:
        return None
    covered = view.silhouette(mesh.vertices, mesh.faces)
    return float(mask_ious(np.where(covered, len(THRESHOLDS), 0).astype(np.int32), view.mask, view.hidden)[0])


def _on_object(view: View, phi: NDArray[np.float32], extent: float, threshold: float) -> tuple[NDArray[np.bool_], int]:
    """Voxels of {phi >= threshold} in the connected pieces that project on the object, and the number of other pieces."""
    inside = phi >= np.float32(threshold)
    labels, count = ndimage.label(inside, np.ones((3, 3, 3)))
    if view.box is None:
        return inside, 0
    (uv,), (z,) = view.camera.project(voxel_centres(len(phi), extent)[inside])
    u0, v0, u1, v1 = view.box
    hits = (z > 0) & (uv >= [u0, v0]).all(1) & (uv < [u1, v1]).all(1)
    if view.mask is not None:
        column, row = uv[hits].astype(np.intp).T
        hits[hits] = view.mask[row, column]
    kept = np.unique(labels[inside][hits])
    if not kept.size:
        return inside, 0
    return np.isin(labels, kept), count - kept.size


def _surface_of(phi: NDArray[np.float32], inside: NDArray[np.bool_], extent: float, threshold: float) -> Trimesh:
    """The surface of the pieces of {phi >= threshold} that are ``inside``."""
    return surfaces.surface(np.where(inside | (phi < np.float32(threshold)), phi, 0), extent, threshold)


def _best_threshold(view: View, phi: NDArray[np.float32], extent: float, chosen: Candidate) -> tuple[float, str]:
    """The threshold of the surface, and why it is that one."""
    if view.box is None or chosen.box_threshold is None:
        return float(phi.max()) / 2, "half of the largest phi: no object mask or box is given"
    if view.mask is None:
        return chosen.box_threshold, "the projected box agrees best with the object's"
    ious = mask_ious(view.project(phi, extent), view.mask, view.hidden)
    near = THRESHOLDS[ious >= (1 - TIE) * ious.max()]
    # The projection shows voxels whole, the surface passes between their centres: it takes a lower threshold to be as large.
    tried = {float(t): 0.0 for t in np.linspace(0.5 * near[0], near[-1], SURFACE_STEPS, dtype=np.float32)}
    for value in tried:
        inside, _ = _on_object(view, phi, extent, value)
        tried[value] = _silhouette_iou(view, _surface_of(phi, inside, extent, value)) or 0.0
    best = max(tried, key=lambda value: (tried[value], value))
    return best, f"the surface's silhouette agrees best with the object's mask (IoU {tried[best]:.2f})"


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
    """Choose the distribution that explains the object of a scene, and make human and object of it.

    occupancies   as for ``occupancy_files``          body  that they and the scene were made with; None: the built-in one
    category      instead of the scene's              threshold, mass  of the surface, instead of the best agreeing one
    min_images    of a distribution to be a candidate; min_support  images that must have seen a voxel, else it is empty
    round_trip    metres that a posed voxel may be from where the canonical voxel it shows is carried to, else it is empty;
                  inf for Eq. 11 as it is
    progress      called with distributions compared and in all

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
        found.append(_compare(file, prompt, part, view, posing, wanted, min_images))
        if progress is not None:
            progress(done + 1, len(files))
    of_category, category_from = _choose_category(view, found, wanted)
    if scene.estimators and category is None:
        category_from = "found in the photograph: of those stored, its box overlaps the person's most"
    chosen, cluster_from = _choose_cluster(view, of_category)
    phi, parameters = posing(load_occupancy(chosen.file))
    if threshold is not None or mass is not None:
        value = surfaces.choose_threshold(phi, parameters.extent, threshold, mass)
        value_from = "given" if mass is None else f"the surface holds {mass:g} of the sum of phi"
    else:
        value, value_from = _best_threshold(view, phi, parameters.extent, chosen)
    inside, left_out = _on_object(view, phi, parameters.extent, value)
    mesh = _surface_of(phi, inside, parameters.extent, value)
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
        _silhouette_iou(view, mesh),
    )


def write_reconstruction(folder: str | os.PathLike[str], reconstruction: Reconstruction) -> list[Path]:
    """Write reconstruction.glb (nodes "person" and "object"), overlay.png, reconstruction.json; the folder is made."""
    from chorus.reconstruct.overlay import save_overlay

    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in (GLB, OVERLAY, REPORT)]
    surfaces.write_meshes(paths[0], {surfaces.PERSON: reconstruction.human, surfaces.OBJECT: reconstruction.object})
    write_atomically(paths[1], lambda part: save_overlay(part, reconstruction))
    text = json.dumps(reconstruction.to_json(), indent=1, allow_nan=False) + "\n"
    write_atomically(paths[2], lambda part: part.write_text(text, encoding="utf-8"))
    return paths

"""The extended COCO-EFT test set (B.1, Table 5): test stores from COCO annotations and EFT fits (docs/coco-eft.md)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from chorus.body.model import Body
from chorus.camera.fit import METHODS, CameraFit, check_budget, fit_cameras
from chorus.errors import InputError, StoreError, check_array, check_whole
from chorus.files import write_atomically
from chorus.images import ImageBatch
from chorus.ingest.coco import (
    CocoAnnotations,
    EftFits,
    EftRecord,
    crop_to_image,
    read_annotations,
    read_eft,
    weak_projection,
)
from chorus.ingest.coco_eft_rules import PERSON, REASONS, Verdicts, judge
from chorus.kernels.masks import PackedMasks
from chorus.names import file_stems
from chorus.provenance import with_given
from chorus.store import StoreWriter
from chorus.units import UnitCheck

__all__ = ["REASONS", "SMPL_PELVIS", "CategoryReport", "CocoEftReport", "eft_targets", "ingest_coco_eft"]

SMPL_PELVIS = (-0.0018, -0.2233, 0.0282)
"""The pelvis of SMPL's neutral template relative to SMPL's model origin, in metres: EFT's cameras refer to that origin."""


@dataclass(frozen=True)
class CategoryReport:
    """The outcome for one category. Each annotation is kept or counted under one of REASONS.

    name               of the category
    annotations        number of its annotations; images: number of images that have one
    kept               images (each with one annotation) in the test set
    rejected           reason -> annotations
    failures           (key, reason, message) of images with one person and one object that are not in the set
    polygons           (key, message) of unusable polygons that were left out of masks
    residual_px        (kept,) mean reprojection distance of the cameras kept, pixels
    store              path of the test store; None where fewer than ``min_images`` images were kept
    """

    name: str
    annotations: int
    images: int
    kept: int
    rejected: dict[str, int]
    failures: list[tuple[str, str, str]]
    polygons: list[tuple[str, str]]
    residual_px: list[float]
    store: Path | None


@dataclass(frozen=True)
class CocoEftReport:
    """What ``ingest_coco_eft`` did.

    categories      a CategoryReport for each category
    min_images      images that a category needs to get a store
    eft_records     number of usable fits in the files; eft_broken, eft_duplicates, eft_nameless: see ``EftFits``
    eft_differing   annotation ids whose further fits are other than the first, which is used
    eft_unknown     number of usable fits whose person is not in the annotation file
    coco_repeated, coco_unknown_categories, coco_unknown_images  see ``CocoAnnotations``
    unit_warnings   what can hardly be in pixels or metres, a sentence a field; also warned of (``UnitsWarning``)
    """

    categories: list[CategoryReport]
    min_images: int
    eft_records: int
    eft_broken: int
    eft_duplicates: int
    eft_nameless: int
    eft_unknown: int
    eft_differing: tuple[int, ...] = ()
    coco_repeated: int = 0
    coco_unknown_categories: dict[int, int] = field(default_factory=dict)
    coco_unknown_images: dict[int, int] = field(default_factory=dict)
    unit_warnings: list[str] = field(default_factory=list)

    def table(self) -> list[tuple[str, int]]:
        """Table 5: (category, images) of the categories with at least ``min_images`` images."""
        return [(c.name, c.kept) for c in self.categories if c.kept >= self.min_images]

    def as_dict(self) -> dict[str, Any]:
        """The report as a dictionary for JSON."""
        categories = []
        for c in self.categories:
            residual = np.array(c.residual_px)
            facts: dict[str, Any] = {
                "name": c.name,
                "annotations": c.annotations,
                "images": c.images,
                "kept": c.kept,
                "rejected": c.rejected,
                "failures": [list(failure) for failure in c.failures],
                "polygons_left_out": [list(polygon) for polygon in c.polygons],
                "store": None if c.store is None else str(c.store),
            }
            facts["residual_px"] = (
                {"median": float(np.median(residual)), "max": float(residual.max())} if len(residual) else None
            )
            categories.append(facts)
        names = ("min_images", "eft_records", "eft_broken", "eft_duplicates", "eft_nameless", "eft_unknown")
        return {
            "categories": categories,
            "table": self.table(),
            **{name: getattr(self, name) for name in names},
            "eft_differing": list(self.eft_differing),
            "coco_repeated": self.coco_repeated,
            "coco_unknown_categories": self.coco_unknown_categories,
            "coco_unknown_images": self.coco_unknown_images,
            "unit_warnings": self.unit_warnings,
        }

    def warnings(self) -> list[str]:
        """One sentence for each kind of thing in the files that was left out."""
        found = []
        if self.coco_repeated:
            found.append(f"{self.coco_repeated} images, categories or annotations were given again, word for word: taken once")
        for what, unknown in (("category", self.coco_unknown_categories), ("image", self.coco_unknown_images)):
            if unknown:
                ids = ", ".join(map(str, list(unknown)[:5])) + (", ..." if len(unknown) > 5 else "")
                found.append(f"{sum(unknown.values())} annotations of an unknown {what} were left out: {what} ids {ids}")
        if self.eft_differing:
            ids = ", ".join(map(str, self.eft_differing[:5])) + (", ..." if len(self.eft_differing) > 5 else "")
            found.append(f"{len(self.eft_differing)} people have several fits that differ, of which the first is used: {ids}")
        for c in self.categories:
            if c.polygons:
                key, words = c.polygons[0]
                found.append(f"{c.name}: {len(c.polygons)} unusable polygons were left out of masks; image {key}: {words}")
        return found


@dataclass(frozen=True)
class _Options:
    min_overlap: float
    iterations: int
    stop_px: float
    reject_px: float
    method: str
    use_betas: bool
    pelvis: NDArray[np.float64]


def eft_targets(
    records: Sequence[EftRecord], body: Body, *, use_betas: bool = False, pelvis: Any = SMPL_PELVIS
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Input of the camera fit (Eq. 8) from EFT's fits: poses, joints, targets and initial rotations.

    poses    (n, 24, 3) axis-angle in radians, row 0 zero        joints  (n, 24, 3) metres in the person's frame
    targets  (n, 24, 2) pixels of the image: the joints projected by EFT's weak-perspective camera
    R0       (n, 3, 3) EFT's global orientation

    use_betas  whether joints and targets are of the body with EFT's shape coefficients; by default of the template
    pelvis     (3,) metres, the template's pelvis relative to the model origin that EFT's cameras refer to

    Raises InputError for a body with other than 24 joints, and for ``use_betas`` with a body without shape coefficients.
    """
    if body.num_joints != 24:
        raise InputError(f"body: expected SMPL's 24 joints, as EFT's fits have, got {body.num_joints}")
    origin = check_array("pelvis", pelvis, (3,), np.float64)
    n = len(records)
    R = np.array([r.pose for r in records]).reshape(n, 24, 3, 3)
    poses = Rotation.from_matrix(R.reshape(-1, 3, 3)).as_rotvec().reshape(n, 24, 3)
    poses[:, 0] = 0
    betas = None
    if use_betas:
        most = 0 if body.shapedirs is None else body.shapedirs.shape[2]
        if most == 0:
            raise InputError(f"use_betas: expected a body with shape coefficients, got {body.name!r}, which has none")
        betas = np.array([r.betas[:most] for r in records]).reshape(n, min(most, 10))
    joints = body.posed_joints(poses, betas)
    # SMPL rotates the body about its pelvis, which keeps its place in the shaped template.
    turned = (joints - joints[:, :1]) @ R[:, 0].swapaxes(1, 2) + joints[:, :1] + origin
    camera = np.array([r.camera for r in records]).reshape(n, 3)
    scale = np.array([r.box_scale for r in records])
    centre = np.array([r.box_centre for r in records]).reshape(n, 2)
    return poses, joints, crop_to_image(weak_projection(turned, camera), scale, centre), R[:, 0]


def ingest_coco_eft(
    annotations: str | os.PathLike[str],
    eft: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    body: Body,
    *,
    categories: Iterable[str] | None = None,
    min_images: int = 30,
    min_overlap: float = 0.5,
    iterations: int = 3000,
    stop_px: float = 0.5,
    reject_px: float = 1.0,
    method: str = "adam",
    use_betas: bool = False,
    pelvis: Any = SMPL_PELVIS,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CocoEftReport:
    """Test stores of the extended COCO-EFT set (B.1): one folder ``<category>.chorus`` in ``output`` for each category.

    annotations  COCO's instances file, with the annotations of people
    eft          one or several EFT fit files
    categories   by COCO's names; None: all but "person"
    min_images   images that a category needs to get a store (Table 5: 30); with fewer it is only reported
    min_overlap  intersection over the smaller of the two boxes, 0..1
    iterations, stop_px, method  of the camera fit, as in ``fit_cameras``
    reject_px    largest mean reprojection distance of an image in the set
    use_betas, pelvis  as in ``eft_targets``
    provenance   kept in the stores; the options above are added to it
    progress     called with the number of categories done and of all

    A store has a row for each image with an annotation of the category. Rejected images have the reason as their status; those
    with one person and one object still have mask, pose, camera and scores. Person masks, betas (used or not) and the score
    ``overlap`` are stored.

    Raises InputError for files of another form, unknown categories and options out of range, StoreError where a store
    exists already, ImportError without pycocotools. Stores are written atomically.
    """
    check_budget(iterations, stop_px)
    for name, value, most in (("min_overlap", min_overlap, 1.0), ("reject_px", reject_px, math.inf)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= most:
            raise InputError(f"{name}: expected a number from 0 to {most:g}, got {value!r}")
    check_whole("min_images", min_images, 1)
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}; got {method!r}")
    options = _Options(
        float(min_overlap),
        int(iterations),
        float(stop_px),
        float(reject_px),
        method,
        bool(use_betas),
        check_array("pelvis", pelvis, (3,), np.float64),
    )
    eft_targets([], body, use_betas=use_betas, pelvis=pelvis)  # so that a body that cannot be used is refused before the work
    eft_paths = [eft] if isinstance(eft, str | os.PathLike) else list(eft)
    coco, fits = read_annotations(annotations), read_eft(eft_paths)
    if PERSON not in coco.categories:
        raise InputError(f"annotations: expected COCO's category {PERSON!r}, got {sorted(coco.categories)[:5]}")
    names = _chosen(coco, categories)
    paths = {name: Path(output) / f"{stem}.chorus" for name, stem in file_stems(names).items()}
    existing = [path for path in paths.values() if path.exists()]
    if existing:
        raise StoreError(f"output: expected no store of the category there, got {str(existing[0])!r}")
    made_with = {
        "annotations": os.fspath(annotations),
        "eft": [os.fspath(path) for path in eft_paths],
        "min_images": int(min_images),
        "min_overlap": options.min_overlap,
        "iterations": options.iterations,
        "stop_px": options.stop_px,
        "reject_px": options.reject_px,
        "method": method,
        "use_betas": options.use_betas,
        "pelvis": options.pelvis.tolist(),
    }
    origin = with_given({"coco_eft": made_with}, provenance)
    reports, units = [], UnitCheck()
    units.lengths("pelvis", options.pelvis[None], ["the option"])
    units.warn()
    for done, name in enumerate(names):
        reports.append(_category(name, coco, fits, paths[name], body, int(min_images), options, origin, units))
        if progress is not None:
            progress(done + 1, len(names))
    units.warn(again=True)
    people = {a["id"] for rows in coco.by_image.values() for a in rows if a["category_id"] == coco.categories[PERSON]}
    return CocoEftReport(
        reports,
        int(min_images),
        len(fits.records),
        len(fits.broken),
        fits.duplicates,
        fits.nameless,
        len(fits.records.keys() - people),
        fits.differing,
        coco.repeated,
        coco.unknown_categories,
        coco.unknown_images,
        units.sentences(),
    )


def _chosen(coco: CocoAnnotations, categories: Iterable[str] | None) -> list[str]:
    if categories is None:
        return sorted(coco.categories.keys() - {PERSON})
    names = list(dict.fromkeys(categories))
    for name in names:
        if name not in coco.categories or name == PERSON:
            known = ", ".join(sorted(coco.categories.keys() - {PERSON}))
            raise InputError(f"categories: expected one of {known}; got {name!r}")
    return names


def _category(
    name: str,
    coco: CocoAnnotations,
    fits: EftFits,
    path: Path,
    body: Body,
    min_images: int,
    options: _Options,
    provenance: Mapping[str, Any],
    units: UnitCheck,
) -> CategoryReport:
    number = coco.categories[name]
    rows = {image: [a for a in found if a["category_id"] == number] for image, found in coco.by_image.items()}
    rows = {image: found for image, found in sorted(rows.items()) if found}
    verdicts = Verdicts()
    for image, objects in rows.items():
        judge(image, objects, coco, fits, verdicts)
    units.add(verdicts.units)
    units.warn()
    poses, joints, targets, R0 = eft_targets(
        [c.record for c in verdicts.candidates], body, use_betas=options.use_betas, pelvis=options.pelvis
    )
    fit = fit_cameras(
        joints,
        targets,
        None,
        np.array([c.size for c in verdicts.candidates], np.int32).reshape(-1, 2),
        R0=R0,
        iterations=options.iterations,
        stop_px=options.stop_px,
        method=options.method,
        strict=False,
    )
    status = []
    for c, residual, reason in zip(verdicts.candidates, fit.residual_px.tolist(), fit.reasons, strict=True):
        why = ""
        if c.overlap < options.min_overlap:
            why, words = "overlap", f"{c.overlap:.3f} of the smaller box, below {options.min_overlap:g}"
        elif not residual <= options.reject_px:
            why, words = "camera", f"mean distance {residual:.2f} px, above {options.reject_px:g}: {reason}"
        if why:
            verdicts.counted[why] += 1
            verdicts.failures.append((c.key, why, words))
        status.append(why or "complete")
    kept = status.count("complete")
    residuals = fit.residual_px[[s == "complete" for s in status]].tolist()
    written = None
    if kept >= min_images:
        _write(path, name, verdicts, poses, fit, status, body, provenance)
        written = path
    counted = {reason: verdicts.counted[reason] for reason in REASONS if verdicts.counted[reason]}
    return CategoryReport(
        name, sum(map(len, rows.values())), len(rows), kept, counted, verdicts.failures, verdicts.polygons, residuals, written
    )


def _write(
    path: Path,
    name: str,
    verdicts: Verdicts,
    poses: NDArray[np.float64],
    fit: CameraFit,
    status: list[str],
    body: Body,
    provenance: Mapping[str, Any],
) -> None:
    """Write the test set's store atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = verdicts.candidates

    def write(part: Path) -> None:
        with StoreWriter(
            part, category=name, num_joints=24, body_hash=body.hash, person_masks=True, provenance=provenance
        ) as writer:
            objects, people = (PackedMasks.pack(c.masks[i] for c in found) for i in range(2))
            batch = ImageBatch(objects, fit.cameras, poses, [c.key for c in found], prompts=[name] * len(found), warn=False)
            writer.append(
                batch,
                scores={"overlap": np.array([c.overlap for c in found])},
                status=status,
                betas=np.array([c.record.betas for c in found]),
                residual_px=fit.residual_px,
                estimators="EFT",
                person_masks=people,
            )
            if verdicts.rejected:
                keys, sizes, reasons = zip(*verdicts.rejected, strict=True)
                writer.append_rejected(list(keys), list(reasons), sizes=np.array(sizes), prompts=name, estimators="EFT")

    write_atomically(path, write)

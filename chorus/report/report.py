"""A report: everything about a distribution that a newcomer asks, on one page that works from a file."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus._version import __version__
from chorus.body.model import Body
from chorus.errors import check_array
from chorus.figures.shells import Posed, choose_thresholds
from chorus.files import check_output_file, write_text
from chorus.occupancy.joins import learned_from
from chorus.occupancy.posed import body_of
from chorus.occupancy.shown_images import shown_images
from chorus.occupancy.summary import most_probable
from chorus.report import page, pictures, statistics, view
from chorus.texts import counted

if TYPE_CHECKING:
    from chorus.images import ImageBatch
    from chorus.occupancy.distribution import Distribution
    from chorus.store import Store

POSES = 3
"""Poses of images that the interactive view offers, at most, beside the canonical one."""
LARGEST_FILE = 10_000_000
"""Bytes that a page should not reach."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a report is made of.

    occupancy  with or without counts       body   that it was made with, None for the built-in one
    store      of its images, or None: then there are no sample images and no cameras
    images     how many sample images       selection  of them: prompt, part, filter, as for ``chorus.occupancy.joins.join``
    source     what the occupancy is called, such as its file's name
    truth      (N, N, N) in [0, 1], where the object really is, on the occupancy's grid, or None: the view can show it
    notes      sentences below the first ones
    """

    occupancy: Distribution
    body: Body
    store: Store | None = None
    images: int = 4
    selection: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    title: str = ""
    truth: NDArray[np.floating[Any]] | None = None
    notes: tuple[str, ...] = ()


def write_report(
    path: str | os.PathLike[str],
    occupancy: Distribution,
    store: Store | None = None,
    body: Body | None = None,
    *,
    images: int = 4,
    source: str = "",
    title: str = "",
    truth: NDArray[np.floating[Any]] | None = None,
    notes: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
    **selection: Any,
) -> Path:
    """Write a report of an occupancy: one HTML file, complete or not at all, that needs no network; returns its path.

    store      whose images it was learned from: sample images and cameras come from it; None: without
    images     number of sample images, of the occupancy's own prompts and parts, or of ``selection``: prompt, part, filter
    source     what the occupancy is called        title  of the page; "": its prompts, or its category
    truth      (N, N, N) in [0, 1], where the object really is, on the occupancy's grid, for the view; None: not known
    notes      sentences below the first ones           progress  called with (stage, done, total)

    Raises InputError for a path that cannot be written and where phi is 0 everywhere; MismatchError for another body or store.
    """
    path = Path(path)
    check_output_file("path", path, (".html", ".htm"))
    if truth is not None:
        truth = check_array("truth", truth, occupancy.probability.shape, np.float32)
    body = body_of(occupancy.body_hash, body)
    report = Report(occupancy, body, store, images, selection, source, title, truth, tuple(notes))
    tell = progress or (lambda stage, done, total: None)
    write_text(path, _page(report, tell))
    return path


def _page(report: Report, tell: Callable[[str, int, int], None]) -> str:
    occupancy, body = report.occupancy, report.body
    thresholds = choose_thresholds(float(occupancy.probability.max()))
    batch = _sample(report)
    posed = [Posed("canonical", occupancy.probability, body.rest_vertices)]
    for row in range(0 if batch is None else min(POSES, len(batch))):
        assert batch is not None
        pose = batch.poses[row]
        phi = occupancy.posed(pose, body, interpolation="trilinear")
        posed.append(Posed(f"as in image {row + 1}", phi, body.posed_vertices(np.asarray(pose)[None])[0]))
    shown = list(posed)
    if report.truth is not None:  # no higher than phi, so that it does not move the shells
        shown.append(Posed("canonical: the truth", np.minimum(report.truth, occupancy.probability.max()), body.rest_vertices))
    directions = None if report.store is None else sample_directions(report)
    rows = statistics.shell_rows(occupancy, body, thresholds)
    sections = [
        _figures(report, posed, thresholds, lambda done, total: tell("draw views", done, total)),
        _statistics(report, rows),
        *_uncertainty(report, rows),
        *_images(report, batch, thresholds, lambda done, total: tell("draw images", done, total)),
        _provenance(report),
    ]
    names = title_of(report)
    cameras = "" if directions is None else f" Cameras: those of {counted(len(directions), 'image')}, all at one distance."
    return page.page(
        names,
        _lead(report, rows),
        sections,
        view.view_data(shown, body, occupancy.parameters.extent, directions),
        view.script(),
        cameras=cameras,
        footer=page.text(
            f"Written by CHORUS engine {__version__} on {datetime.date.today().isoformat()}. This file is all of it: it "
            "needs no network."
        ),
    )


def title_of(report: Report) -> str:
    """The title given, else the prompts of the occupancy, else its category."""
    prompts = learned_from(report.occupancy).prompts
    return report.title or (", ".join(prompts) if prompts else "") or report.occupancy.category or "an object"


def _lead(report: Report, rows: list[statistics.ShellRow]) -> str:
    """What it is, in three sentences."""
    occupancy = report.occupancy
    category = f"a {occupancy.category}" if occupancy.category else "an object"
    first = f"Where {category} is around a person, learned from {counted(occupancy.num_images, 'image')}."
    x, y, z = occupancy.centres[np.unravel_index(int(occupancy.probability.argmax()), occupancy.probability.shape)]
    top = float(occupancy.probability.max())
    second = (
        f"It is most likely {_places(x, y, z)} the middle of the body, where the probability that a place is the object, phi, "
        f"is {top:.2f}."
    )
    third = ""
    if rows:
        row = rows[len(rows) // 2]
        joint, distance = row.nearest
        third = (
            f"The places where it is at least {row.threshold:g} measure {row.litres:.3g} litres; their middle is "
            f"{100 * distance:.0f} cm from the skin of the {joint.replace('_', ' ')}."
        )
    notes = [page.paragraph(page.text(note), kind="soft") for note in report.notes]
    return "\n".join([page.paragraph(*(page.text(t) for t in (first, second, third)), kind="lead"), *notes])


def _places(x: float, y: float, z: float) -> str:
    """A place as distances from the body's middle, as in "78 cm to the right of, 28 cm above and 3 cm in front of"."""
    words = [
        f"{100 * abs(v):.0f} cm {more if v > 0 else less}"
        for v, more, less in ((x, "to the left of", "to the right of"), (y, "above", "below"), (z, "in front of", "behind"))
        if abs(v) >= 0.01
    ]
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1] if words else "in"


def _figures(report: Report, posed: list[Posed], thresholds: tuple[float, ...], progress: Callable[[int, int], None]) -> str:
    address = pictures.shells_picture(posed[:2], report.body, report.occupancy.parameters.extent, thresholds, progress)
    around = "" if len(posed) == 1 else " Below, the same around a person in the pose of the first sample image."
    caption = (
        "Nested surfaces around the places where the object is found with at least the probability phi in the legend, with the "
        f"body in its rest pose.{around} Left and right are the person's."
    )
    return page.section("figures", "From fixed sides", page.figure(address, caption))


def _statistics(report: Report, rows: list[statistics.ShellRow]) -> str:
    occupancy = report.occupancy
    p, counts = occupancy.parameters, statistics.counts_of(occupancy)
    top, at = most_probable(occupancy)
    pairs: dict[str, object] = {
        "category": occupancy.category or "not named",
        "prompts": ", ".join(learned_from(occupancy).prompts or ()) or "any",
        "body part": learned_from(occupancy).part or "whatever it touches",
        "images": f"{occupancy.num_images:,}",
        "largest phi": f"{top:.3f}, at {_centimetres(at)} cm",
        "grid": f"{p.resolution}^3 voxels of {100 * p.spacing:.1f} cm, in a cube of {p.extent:g} m",
        "canonicalization": _choice(occupancy),
        "view weights": occupancy.weighting,
    }
    parts = []
    if counts is not None:
        pairs["hidden votes"] = (
            "not told apart" if counts.num_hidden is None else f"weigh {counts.hidden_weight:g} where the body hides the voxel"
        )
        pairs["images that saw a voxel"] = f"{counts.support.min():,} to {counts.support.max():,}"
        azimuths = statistics.images_by_azimuth(counts)
        caption = (
            f"Images by where the camera stood around the person: {azimuths.min():,} to {azimuths.max():,} in a bin of 30°."
        )
        parts.append(page.figure(pictures.azimuth_picture(azimuths), caption, width="22rem"))
    columns = ["phi at least", "litres", "pieces", "middle: x, y, z (cm)", "nearest to it", "cm away"]
    body = [
        [
            f"{row.threshold:g}",
            f"{row.litres:.3g}" + ("" if row.error is None else f" ± {row.error:.2g}"),
            row.pieces,
            _centimetres(row.centre),
            row.nearest[0].replace("_", " "),
            f"{100 * row.nearest[1]:.0f}",
        ]
        for row in rows
    ]
    if counts is not None:
        columns += ["seen by, least", "median"]
        body = [[*cells, *(f"{n:,}" for n in row.support or (0, 0))] for cells, row in zip(body, rows, strict=True)]
    caption = (
        "The surfaces in numbers. Middle: of the space that a surface encloses, which need not be where phi is largest. x is "
        "to the person's left, y up, z to the front, from the body's middle."
    )
    if counts is not None:
        caption += " Seen by: how many images saw a voxel of it, at least and in the median."
    if any(row.error is not None for row in rows):
        caption += " ±: standard error, by leaving out a tenth of the images at a time."
    return page.section("numbers", "In numbers", page.facts(pairs), page.table(columns, body, caption, words=(3, 4)), *parts)


def _centimetres(at: Iterable[float]) -> str:
    return ", ".join(f"{round(100 * c)}" for c in at)


def _choice(occupancy: Distribution) -> str:
    """The canonicalization, and how it was chosen where the provenance says so."""
    name = occupancy.parameters.canonicalization
    chosen = [e.get("canonicalization") for e in occupancy.provenance if isinstance(e, dict)]
    asked = [c for c in chosen if isinstance(c, dict) and c.get("asked") == "auto"]
    if not asked:
        return name
    return f"{name}, chosen from {asked[0].get('images', 'the')} images" if asked[0].get("images") else f"{name}, chosen"


def _uncertainty(report: Report, rows: list[statistics.ShellRow]) -> list[str]:
    counts = statistics.counts_of(report.occupancy)
    heading = "How sure is it?"
    if counts is None or not counts.scheme.has_folds:
        told = "The counts were kept without folds of images (scheme …+folds), so that there are no error bars."
        return [page.section("uncertainty", heading, page.paragraph(page.text(told), kind="soft"))]
    error = counts.jackknife_error()
    phi = counts.probability
    at = np.unravel_index(int(phi.argmax()), phi.shape)
    inner = error[phi >= 0.5 * phi[at]]
    told = (
        f"Leaving out a tenth of the images at a time (jackknife), the largest phi is {phi[at]:.3f} ± {error[at]:.3f}; where "
        f"phi is at least {0.5 * phi[at]:.2f} the standard error is {np.median(inner):.3f} in the median and {inner.max():.3f} "
        "at most."
    )
    address = pictures.uncertainty_picture(phi, error, report.body, counts.parameters.extent)
    caption = "Slices through the place where phi is largest, with the outline of the body."
    return [page.section("uncertainty", heading, page.paragraph(page.text(told)), page.figure(address, caption))]


def _sample(report: Report) -> ImageBatch | None:
    """The sample images, or None without a store."""
    if report.store is None or report.images < 1:
        return None
    rows, _ = shown_images(report.occupancy, report.store, report.body, report.images, **report.selection)
    return report.store.batch(rows)


def sample_directions(report: Report) -> Any:
    """Unit vectors (n, 3) to the cameras of up to MOST_CAMERAS images of the report's store."""
    from chorus.figures.camera_sphere import directions

    assert report.store is not None
    rows, _ = shown_images(report.occupancy, report.store, report.body, view.MOST_CAMERAS, **report.selection)
    return directions(report.store.batch(rows).cameras)


def _images(
    report: Report, batch: ImageBatch | None, thresholds: tuple[float, ...], progress: Callable[[int, int], None]
) -> list[str]:
    if batch is None or report.store is None:
        return []
    from chorus.field import CanonicalField
    from chorus.figures.overlays import save_masks, save_posed_back
    from chorus.figures.photo_beside import save_photo_beside

    photos = [report.store.picture(key) for key in batch.keys]
    names = [f"{i + 1}: {key.decode()}" for i, key in enumerate(batch.keys)]
    occupancy, body = report.occupancy, report.body
    if pictures.has_3d():
        addresses = [
            pictures.embedded(
                lambda path: save_photo_beside(
                    path, occupancy, body, batch, photos, titles=names, thresholds=thresholds, progress=progress
                )
            )
        ]
    else:
        addresses = [pictures.embedded(lambda path: save_masks(path, batch, body, names))]
        counts = statistics.counts_of(occupancy)
        if counts is not None:
            its = CanonicalField.from_parameters(body, counts.parameters)
            for i, photo in enumerate(photos):
                draw = partial(save_posed_back, occupancy=counts, field=its, images=batch, row=i, title=names[i], photo=photo)
                addresses.append(pictures.embedded(draw))
    caption = (
        f"{counted(len(batch), 'image')} of the store, spread evenly: its object's mask, and the distribution put back into "
        "the pose of its person."
    )
    shown = [page.figure(address, caption if i == 0 else names[i - 1]) for i, address in enumerate(addresses)]
    return [page.section("images", "Images behind it", *shown)]


def _provenance(report: Report) -> str:
    occupancy = report.occupancy
    entries: list[Any] = [entry for entry in occupancy.provenance if isinstance(entry, dict)]  # of files, so of any kind
    parts = []
    for entry in entries:
        command = entry.get("command")
        if isinstance(command, list) and command:
            parts.append(page.code(shlex.join([_program(str(command[0])), *map(str, command[1:])])))
    pairs: dict[str, object] = {
        "file": report.source or "not given",
        "body": f"{report.body.name}, hash {occupancy.body_hash[:16]}",
        "field": f"hash {occupancy.field_hash[:16]}",
    }
    if report.store is not None:
        pairs["store"] = f"{report.store.path.name}, {counted(len(report.store), 'row')}, id {report.store.id[:16]}"
    versions = {
        name: ", ".join(sorted({str(e[name]) for e in entries if name in e}))
        for name in ("chorus", "python", "numpy", "torch", "backend")
    }
    pairs.update({name: value for name, value in versions.items() if value})
    told = page.paragraph("The command that made it:", kind="soft") if parts else ""
    record = page.folded("everything on record", occupancy.provenance)
    return page.section("provenance", "How it was made", told, *dict.fromkeys(parts), page.facts(pairs), record)


def _program(path: str) -> str:
    """A program's name, without where it lies; that of this package is ``chorus`` however it was started."""
    return "chorus" if path.endswith("__main__.py") else Path(path).name

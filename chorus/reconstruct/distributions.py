"""Which of the stored distributions explains the object in a photograph best (4.4, 4.5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chorus.errors import InputError, MismatchError
from chorus.files import json_value
from chorus.names import is_file_name
from chorus.occupancy.counts import load_occupancy
from chorus.reconstruct.posing import Posing
from chorus.reconstruct.view import THRESHOLDS, View, box_ious, mask_ious

TIE = 0.04
"""IoUs at most this share below the best are a tie: a few pixels at the border of a small mask change as much."""


@dataclass(frozen=True)
class ComparedDistribution:
    """One stored distribution, and how it agrees with the photograph.

    file, category, prompt, part, images   as stored; prompt None: images of any prompt, part None: whatever they touch
    box_iou, box_threshold    best IoU over THRESHOLDS of the box of the projected {phi >= threshold} and the object's box
    mask_iou, mask_threshold  likewise of the projection and the object's mask, without the pixels that the person hides
    skipped                   why it is no candidate; "" for candidates
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


def occupancy_files(paths: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, str | None, str | None]]:
    """Occupancy files with their prompt and part (None for any), each file once.

    paths  occupancy files, folders written by ``chorus aggregate --all``, or folders of such folders

    Raises InputError for a path without occupancies, and for a clusters.json that is damaged or names files outside its folder.
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
                rows = [(row["file"], row["prompt"], row["part"]) for row in json_value(table.read_bytes())]
                bad = next((r for r in rows if not is_file_name(r[0])), None)
                if any(not isinstance(text, (str, type(None))) for row in rows for text in row[1:]):
                    raise ValueError("a prompt or part that is no text")
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{table}: expected rows with file, prompt and part: {error}") from None
            if bad is not None:
                raise InputError(f"{table}: expected names of files beside it, got {bad[0]!r}")
            found += [(table.parent / file, prompt, part) for file, prompt, part in rows]
    if not found:
        raise InputError("occupancies: expected at least one, got none")
    return list({place.resolve(): (place, prompt, part) for place, prompt, part in found}.values())


def stored_categories(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The categories of the occupancies at ``paths`` (as for ``occupancy_files``); one file of each folder is read."""
    files = [file for file, _, _ in occupancy_files(paths)]
    one_of_each = {file.parent if (file.parent / "clusters.json").is_file() else file: file for file in files}
    return list(dict.fromkeys(load_occupancy(file).category for file in one_of_each.values()))


def compare(
    file: Path, prompt: str | None, part: str | None, view: View, posing: Posing, wanted: str | None, min_images: int
) -> ComparedDistribution:
    """How well a stored distribution agrees with a photograph.

    file, prompt, part  from ``occupancy_files``      view, posing  of the photograph and its person
    wanted              category or None; distributions of another one, or of fewer than ``min_images`` images, are skipped

    Raises MismatchError for an occupancy of another body.
    """
    occupancy = load_occupancy(file)
    if occupancy.body_hash != posing.body.hash:
        raise MismatchError(
            f"{file}: expected an occupancy of body {posing.body.name} {posing.body.hash[:12]}, got {occupancy.body_hash[:12]}"
        )
    found = ComparedDistribution(file, occupancy.category, prompt, part, occupancy.num_images)
    if wanted is not None and occupancy.category.casefold() != wanted.casefold():
        return replace(found, skipped="another category")
    if occupancy.num_images < min_images:
        return replace(found, skipped=f"fewer than {min_images} images")
    if view.box is None:
        return found
    phi, parameters = posing(occupancy)
    levels = view.project(phi, parameters.extent)
    boxes = box_ious(levels, view.box)
    at = int(boxes.argmax())
    found = replace(found, box_iou=float(boxes[at]), box_threshold=float(THRESHOLDS[at]))
    if view.mask is None:
        return found
    masks = mask_ious(levels, view.mask, view.hidden)
    at = int(masks.argmax())
    return replace(found, mask_iou=float(masks[at]), mask_threshold=float(THRESHOLDS[at]))


def choose_category(
    view: View, found: Sequence[ComparedDistribution], wanted: str | None
) -> tuple[list[ComparedDistribution], str]:
    """The candidates of the object's category, and the reason for the category in words.

    The category is the one wanted, the only one stored, or that of the distribution whose projected box agrees best with the
    object's box. Raises InputError where there are no candidates.
    """
    stored = list(dict.fromkeys(c.category for c in found))
    names = ", ".join(map(repr, stored))
    if wanted is not None and wanted.casefold() not in [c.casefold() for c in stored]:
        raise InputError(f"category: expected one of the stored ones, {names}; got {wanted!r}")
    considered = [c for c in found if not c.skipped]
    if not considered:
        most = max(c.images for c in found if c.skipped != "another category")
        raise InputError(f"min_images: expected at most the {most} images of the largest distribution, got more")
    if wanted is not None:
        return considered, "given"
    if len(stored) == 1:
        return considered, "the only one stored"
    if view.box is None:
        raise InputError(f"record: expected a category, an object mask or an object_box to choose among {names}, got none")
    best = best_of_ties(considered, [c.box_iou or 0.0 for c in considered])
    why = f"of those stored, its projected box agrees best with the object's (IoU {best.box_iou:.2f})"
    return [c for c in considered if c.category == best.category], why


def choose_distribution(view: View, considered: Sequence[ComparedDistribution]) -> tuple[ComparedDistribution, str]:
    """The candidate that agrees best with the object's mask (or box, without a mask), and the reason in words.

    Without mask and box it is the one of the most images. Raises InputError where none projects onto the object.
    """
    if view.box is None:
        most = max(considered, key=lambda c: (c.images, c.prompt is not None, c.part is not None, str(c.file)))
        return most, "it has the most images: no object mask or box is given"
    masked = view.mask is not None
    scores = [(c.mask_iou if masked else c.box_iou) or 0.0 for c in considered]
    best = best_of_ties(considered, scores)
    if max(scores) == 0:
        raise InputError(
            f"occupancies: expected one that projects on the object; of the {len(considered)} of {best.category!r} none does "
            "(is the camera right?)"
        )
    score, tied = scores[considered.index(best)], sum(score >= (1 - TIE) * max(scores) for score in scores) - 1
    what = "projection agrees best with the object's mask" if masked else "projected box agrees best with the object's"
    also = "" if tied == 0 else f"; {tied} more are within {TIE:.0%} of the best: of a prompt, and most images, go first"
    return best, f"its {what} (IoU {score:.2f}{also})"


def best_of_ties(considered: Sequence[ComparedDistribution], scores: Sequence[float]) -> ComparedDistribution:
    """Of the candidates within TIE of the best score: one of a single prompt first, then the most images, then the score."""
    tied = [(c, s) for c, s in zip(considered, scores, strict=True) if s >= (1 - TIE) * max(scores)]
    return max(tied, key=lambda pair: (pair[0].prompt is not None, pair[0].images, pair[1], str(pair[0].file)))[0]

"""A body with its shells that turns once around: an animated GIF or WebP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from chorus.body.model import Body
from chorus.errors import check_whole
from chorus.figures.rays import Scene, orthographic, over_white, turned_view
from chorus.figures.shells import MARGIN, Posed, choose_thresholds, frame_of, make_scene, seen_colours
from chorus.files import check_output_file, write_atomically

FORMATS = (".gif", ".webp")
ELEVATION = 12.0
MILLISECONDS = 80
STRIP = 26
"""Pixels of the legend below."""


def turntable_frames(
    scene: Scene, frames: int, height: int, progress: Callable[[int, int], None] | None = None
) -> list[NDArray[np.uint8]]:
    """A scene seen from ``frames`` places around it, from the front on towards the person's left: (H, W, 3) each."""
    points = frame_of([scene]).points
    low, high = points.min(0), points.max(0)
    centre, half = (low + high) / 2, (high - low) / 2
    radius = float(np.hypot(points[:, 0] - centre[0], points[:, 2] - centre[2]).max())
    e = np.radians(ELEVATION)
    metres = (2 * (half[1] * np.cos(e) + radius * np.sin(e) + MARGIN), 2 * (radius + MARGIN))
    drawn = []
    for i in range(frames):
        picture = over_white(scene.render(orthographic(turned_view(360 * i / frames, ELEVATION), centre, metres, height)))
        drawn.append((255 * picture).round().astype(np.uint8))
        if progress is not None:
            progress(i + 1, frames)
    return drawn


def save_turntable(
    path: str | Path,
    posed: Posed,
    body: Body,
    extent: float,
    *,
    thresholds: Sequence[float] = (),
    frames: int = 36,
    height: int = 420,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, ...]:
    """An animation, by the path's ending a GIF or a WebP, that repeats for ever; returns the thresholds of the shells.

    extent  side of phi's cube, metres     height  of a frame in pixels, without the legend     progress  (done, total) frames

    Raises InputError for another ending, and for fewer than 2 frames; ImportError without the extra ``figures3d``.
    """
    path = Path(path)
    check_output_file("path", path, FORMATS)
    frames, height = check_whole("frames", frames, 2), check_whole("height", height, 16)
    thresholds = choose_thresholds(float(np.max(posed.phi)), thresholds)
    drawn = turntable_frames(make_scene(posed, body, extent, thresholds), frames, height, progress)
    pictures = [with_legend(frame, thresholds) for frame in drawn]
    how: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "duration": MILLISECONDS, "loop": 0}
    if path.suffix.lower() == ".webp":
        write_atomically(path, lambda part: pictures[0].save(part, format="WEBP", quality=80, method=4, **how))
        return thresholds
    # Swatches of what must keep its colour, so that the palette has it: white, and the legend.
    kept = np.vstack([np.ones(3), seen_colours(len(thresholds))])
    swatches = np.repeat((255 * kept).round().astype(np.uint8), 16, 0)[:, None].repeat(pictures[0].width, 1)
    palette = Image.fromarray(np.concatenate([swatches, *(np.asarray(p) for p in pictures[:: max(1, frames // 6)])])).quantize(
        256
    )
    few = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    how["append_images"] = few[1:]
    write_atomically(path, lambda part: few[0].save(part, format="GIF", optimize=True, **how))
    return thresholds


def with_legend(frame: NDArray[np.uint8], thresholds: Sequence[float]) -> Image.Image:
    """A frame (H, W, 3) with the shells' thresholds below it."""
    height, width = frame.shape[:2]
    picture = Image.new("RGB", (width, height + STRIP), "white")
    picture.paste(Image.fromarray(frame), (0, 0))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    texts = [f"{t:g}" for t in thresholds]
    lead = "phi at least"
    total = pen.textlength(lead, font) + sum(28 + pen.textlength(text, font) for text in texts)
    x, y = (width - total) / 2, height + 4
    pen.text((x, y), lead, (60, 60, 60), font)
    x += pen.textlength(lead, font) + 10
    for text, colour in zip(texts, seen_colours(len(texts)), strict=True):
        pen.rectangle((x, y + 2, x + 12, y + 12), tuple(round(255 * c) for c in colour), (90, 90, 90))
        pen.text((x + 16, y), text, (60, 60, 60), font)
        x += 28 + pen.textlength(text, font)
    return picture

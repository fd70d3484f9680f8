"""Projective average precision: cases computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.evaluate.pap import (
    METRICS,
    PapImage,
    PapProtocol,
    PixelCounts,
    average_precision,
    body_pixels,
    downscale_mask,
    downscaled_size,
    interpolated_precision,
    render_levels,
    score_image,
)

FOOTPRINT = PapProtocol(splat="footprint")


def looking_along_z(depth: float, size: tuple[int, int] = (32, 32), focal: float = 32.0) -> Cameras:
    """A camera ``depth`` metres from the origin with R = 1: u = W / 2 + f x / (depth + z), v = H / 2 + f y / (depth + z)."""
    height, width = size
    K = [[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]]
    return Cameras(np.eye(3)[None], [[0, 0, depth]], K, [size])


def voxels(values: dict[tuple[int, int, int], float], N: int = 2) -> np.ndarray:
    """phi with these values and 0 elsewhere. With N = 2 in a cube of 2 m centres lie at -0.5 and 0.5 m."""
    phi = np.zeros((N, N, N), np.float32)
    for place, value in values.items():
        phi[place] = value
    return phi


def mask_of(pixels: list[tuple[int, int]], size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """(row, column) set."""
    mask = np.zeros(size, bool)
    for row, column in pixels:
        mask[row, column] = True
    return mask


def counts(predicted: list[int], hits: list[int], target: int) -> PixelCounts:
    return PixelCounts(np.array(predicted), np.array(hits), target)


# --- average precision by hand ---------------------------------------------------------------------------------------------


def test_a_render_that_becomes_empty_by_hand() -> None:
    c = counts([8, 4, 2, 0], [4, 3, 2, 0], 4)
    assert c.precision.tolist() == [0.5, 0.75, 1.0, 0.0]
    assert c.recall.tolist() == [1.0, 0.75, 0.5, 0.0]
    # (1 - 0.75) 0.5 + (0.75 - 0.5) 0.75 + (0.5 - 0) 1 = 0.125 + 0.1875 + 0.5; strict drops the last term.
    assert average_precision(c) == 0.8125
    assert average_precision(c, strict=True) == 0.3125
    # Recall 0 .. 0.5: 1 (six levels); 0.6 and 0.7: 0.75; 0.8 .. 1: 0.5. (6 + 1.5 + 1.5) / 11; strict drops the six.
    assert average_precision(c, interpolation="11-point") == pytest.approx(9 / 11)
    assert average_precision(c, strict=True, interpolation="11-point") == pytest.approx(3 / 11)


def test_a_render_that_never_becomes_empty_by_hand() -> None:
    c = counts([8, 4], [4, 3], 4)
    # (1 - 0.75) 0.5 + what is left of the recall at the last threshold, 0.75, at the best precision 0.75.
    assert average_precision(c) == average_precision(c, strict=True) == 0.125 + 0.5625
    # Recall 0 .. 0.7: 0.75 (eight levels); 0.8 .. 1: 0.5.
    assert average_precision(c, interpolation="11-point") == pytest.approx((8 * 0.75 + 3 * 0.5) / 11)
    assert average_precision(c, True, "11-point") == average_precision(c, False, "11-point")


def test_precision_that_falls_is_interpolated_by_hand() -> None:
    # P = 1/2, 1/4, R = 1, 1/3: a precision that fell stands in with the best of the lower thresholds.
    # (1 - 1/3) 1/2 + 1/3 max(1/2, 1/4) = 1/2.
    assert average_precision(counts([6, 4], [3, 1], 3)) == pytest.approx(0.5)


def test_recall_that_is_lost_before_the_render_is_empty_by_hand() -> None:
    # The hits go while something is still drawn: (1 - 0) 0.25 comes at a threshold that draws, strict drops nothing.
    c = counts([4, 2, 0], [1, 0, 0], 1)
    for interpolation in ("all-point", "11-point"):
        assert average_precision(c, False, interpolation) == average_precision(c, True, interpolation) == 0.25


def test_what_is_never_reached_by_hand() -> None:
    # Half of the target is never drawn: recall 0.5 at precision 1 for both thresholds. 0 + 0.5 * 1.
    c = counts([2, 2], [2, 2], 4)
    assert average_precision(c) == 0.5
    assert average_precision(c, interpolation="11-point") == pytest.approx(6 / 11)  # recall 0, 0.1, .. 0.5


def test_empty_renders_and_empty_targets_by_hand() -> None:
    nothing_drawn = counts([0, 0, 0], [0, 0, 0], 5)
    nothing_there = counts([7, 3, 0], [0, 0, 0], 0)
    for strict in (False, True):
        for interpolation in ("all-point", "11-point"):
            assert average_precision(nothing_drawn, strict, interpolation) == 0.0
            assert average_precision(nothing_there, strict, interpolation) is None
    with pytest.raises(InputError, match="target: expected some pixels"):
        interpolated_precision(nothing_there, [0.5])


# --- sizes, masks and cameras by hand --------------------------------------------------------------------------------------


def test_downscaled_sizes_by_hand() -> None:
    assert downscaled_size(512, 512) == (32, 32)
    assert downscaled_size(427, 640) == (32, 47)  # landscape: 640 * 32 / 427 = 47.96
    assert downscaled_size(640, 427) == (47, 32)  # portrait
    assert downscaled_size(20, 30) == (32, 48)  # smaller than 32: enlarged
    assert downscaled_size(427, 640, 64) == (64, 95)


def test_more_than_half_covered_is_object_by_hand() -> None:
    mask = np.zeros((64, 64), bool)
    mask[0, 0:2] = True  # half of cell (0, 0)
    mask[0, 2:4] = mask[1, 2] = True  # three quarters of cell (0, 1)
    assert np.argwhere(downscale_mask(mask, (32, 32))).tolist() == [[0, 1]]
    # 48 -> 32: cells of 1.5 px. Row 0 covers 2/3 of the first cells; row 1 a third of the first and a third of the second.
    rows = np.zeros((48, 48), bool)
    rows[0] = True
    assert downscale_mask(rows, (32, 32)).sum(1).tolist() == [32] + [0] * 31
    rows[0], rows[1] = False, True
    assert not downscale_mask(rows, (32, 32)).any()
    # 427 x 640 -> 32 x 47: a cell is 13.34375 px high and 13.617 px wide. Columns 0 .. 6 cover 7 / 13.617 = 0.514 of the first
    # cell, 0 .. 5 only 0.441.
    wide = np.zeros((427, 640), bool)
    wide[:, :7] = True
    assert np.argwhere(downscale_mask(wide, (32, 47)).any(0)).ravel().tolist() == [0]
    assert not downscale_mask(wide & (np.arange(640) < 6), (32, 47)).any()


def test_area_average_is_the_definition() -> None:
    rng = np.random.default_rng(1)
    for height, width, h, w in ((45, 61, 32, 43), (33, 32, 33, 32), (20, 30, 32, 48), (7, 5, 3, 2)):
        mask = rng.random((height, width)) < 0.5
        fine = np.repeat(np.repeat(mask, h, 0), w, 1).reshape(h, height, w, width)  # h w small pixels a pixel
        assert (downscale_mask(mask, (h, w)) == (fine.mean((1, 3)) > 0.5)).all()


def test_portrait_and_landscape_pixels_by_hand() -> None:
    # Voxel (0.5, -0.5, 0.5) m at depth 8.5; f = 64 px: offsets +- 64 * 0.5 / 8.5 = 3.765 px in the full image.
    phi = voxels({(1, 0, 1): 1.0})
    # Portrait, 128 x 64 px: (u, v) = (32 + 3.765, 64 - 3.765), by half (17.88, 30.12).
    levels = render_levels(phi, 2.0, looking_along_z(8, (128, 64), 64.0), downscaled_size(128, 64))
    assert levels.shape == (64, 32)
    assert np.argwhere(levels).tolist() == [[30, 17]]
    # Landscape, 64 x 130 px -> 32 x 65: (65 + 3.765, 32 - 3.765) by half: (34.38, 14.12).
    levels = render_levels(phi, 2.0, looking_along_z(8, (64, 130), 64.0), downscaled_size(64, 130))
    assert np.argwhere(levels).tolist() == [[14, 34]]
    # 427 x 640 -> 32 x 47, f = 640: offsets 37.647 px; u = 357.647 * 47/640 = 26.26, v = 175.853 * 32/427 = 13.18.
    levels = render_levels(phi, 2.0, looking_along_z(8, (427, 640), 640.0), downscaled_size(427, 640))
    assert np.argwhere(levels).tolist() == [[13, 26]]
    # Each axis by its own factor: with fx = 5100, u = 320 + 300 = 620 falls on 620 * 47/640 = 45.53; by 32/427 on 46.46.
    wide = Cameras(np.eye(3)[None], [[0, 0, 8]], [[[5100, 0, 320], [0, 640, 213.5], [0, 0, 1]]], [[427, 640]])
    assert np.argwhere(render_levels(phi, 2.0, wide, (32, 47))).tolist() == [[13, 45]]
    assert levels.max() == 100  # phi = 1 reaches every threshold


# --- whole images by hand --------------------------------------------------------------------------------------------------

# At depth 8 with f = 32 the 8 voxels of the 2 m cube fall on these (row, column): nearer ones (z = -0.5, depth 7.5) 2.13 px
# from the middle, 16 + 2.13 = 18.13 or 13.87; farther ones (z = 0.5, depth 8.5) 1.88 px, 17.88 or 14.12.
NEAR_LEFT, NEAR_RIGHT = (13, 13), (13, 18)  # y = -0.5: above the middle
FAR_LEFT, FAR_RIGHT = (14, 14), (14, 17)


def test_two_voxels_by_hand_vanilla_and_strict() -> None:
    # The wrong voxel has 0.8, the right one 0.5. Thresholds 0.01 .. 0.5: both, P = 1/2, R = 1; 0.51 .. 0.8: the wrong one,
    # P = 0, R = 0; from 0.81 on nothing. Vanilla: (1 - 0) 1/2 at 0.51, where something is drawn: strict is the same.
    image = PapImage(voxels({(0, 0, 0): 0.5, (1, 0, 0): 0.8}), 2.0, looking_along_z(8), mask_of([NEAR_LEFT]))
    result = score_image(image)
    assert result.counts.predicted.tolist() == [2] * 50 + [1] * 30 + [0] * 20
    assert result.counts.hits.tolist() == [1] * 50 + [0] * 50
    assert (result.vanilla, result.strict) == (0.5, 0.5)
    # The other way round: the right voxel alone from 0.51 to 0.8, P = 1; then nothing, R falls from 1 to 0 at best P 1.
    # Vanilla 1; strict drops that only term.
    swapped = score_image(replace(image, mask=mask_of([NEAR_RIGHT])))
    assert (swapped.vanilla, swapped.strict) == (1.0, 0.0)
    # The right voxel has 1 and is drawn at the last threshold: both rules give 1.
    sure = score_image(replace(image, phi=voxels({(0, 0, 0): 0.5, (1, 0, 0): 1.0}), mask=mask_of([NEAR_RIGHT])))
    assert (sure.vanilla, sure.strict) == (1.0, 1.0)


def test_an_empty_render_and_an_empty_target() -> None:
    image = PapImage(np.zeros((2, 2, 2)), 2.0, looking_along_z(8), mask_of([NEAR_LEFT]), body_vertices=[[9.0, 0, 0]])
    result = score_image(image)
    assert [result.scores[s] for s in METRICS] == [0.0] * 4
    below = score_image(replace(image, phi=np.full((2, 2, 2), 0.00999)))  # under the first threshold
    assert not below.counts.predicted.any()
    nothing = score_image(replace(image, phi=np.ones((2, 2, 2)), mask=mask_of([])))
    assert [nothing.scores[s] for s in METRICS] == [None] * 4


def test_occlusion_by_hand() -> None:
    # Both pixels are target and drawn, the left one at all thresholds, the right one up to 0.4; also a wrong pixel up to 0.4.
    phi = voxels({(0, 0, 0): 1.0, (1, 0, 0): 0.4, (1, 0, 1): 0.4})
    image = PapImage(phi, 2.0, looking_along_z(8), mask_of([NEAR_LEFT, NEAR_RIGHT]))
    # P = 2/3, R = 1 up to 0.4; then P = 1, R = 1/2: (1 - 1/2) 2/3 + 1/2 * 1 = 5/6.
    seen = score_image(image)
    assert seen.vanilla == pytest.approx(5 / 6)
    assert seen.aware_vanilla is None
    assert seen.aware_counts is None
    # A vertex on the right pixel removes it from both: P = 1/2, R = 1; then P = 1, R = 1, and so to the end: 1 * 1.
    on_right = [0.5, -0.5, -0.5]
    hidden = score_image(replace(image, body_vertices=[on_right]))
    assert hidden.vanilla == seen.vanilla
    assert hidden.aware_counts is not None
    assert hidden.aware_counts.target == 1
    assert hidden.aware_counts.predicted.tolist() == [2] * 40 + [1] * 60
    assert hidden.aware_vanilla == hidden.aware_strict == 1.0
    # One on the left pixel leaves the right one: P = 1/2, R = 1 up to 0.4, then nothing: vanilla 1 * 1/2, strict 0.
    other = score_image(replace(image, body_vertices=[[-0.5, -0.5, -0.5]]))
    assert (other.aware_vanilla, other.aware_strict) == (0.5, 0.0)
    # Both: the target is all occluded; not scored, while the plain score is.
    both = score_image(replace(image, body_vertices=[on_right, [-0.5, -0.5, -0.5]]))
    assert (both.aware_vanilla, both.aware_strict) == (None, None)
    assert both.vanilla == seen.vanilla
    # Vertices behind the camera and outside the image hide nothing: x / z would put the first on the left pixel.
    behind_and_outside = [[0.5, 0.5, -8 - 7.5], [100.0, 0, 0]]
    away = score_image(replace(image, body_vertices=behind_and_outside))
    assert away.aware_vanilla == seen.vanilla
    assert not body_pixels(behind_and_outside, image.camera, (32, 32)).any()
    assert np.argwhere(body_pixels([on_right], image.camera, (32, 32))).tolist() == [list(NEAR_RIGHT)]


def test_a_voxel_behind_the_camera_is_not_drawn() -> None:
    # The camera stands in the origin: the voxels at z = -0.5 are behind it. f = 8: with the sign of z ignored they would fall
    # on 16 + 8 = 24 and 16 - 8 = 8, where those at z = 0.5 fall.
    camera = looking_along_z(0, focal=8.0)
    for protocol in (PapProtocol(), FOOTPRINT):
        assert not render_levels(voxels({(0, 0, 0): 1.0, (1, 1, 0): 1.0}), 2.0, camera, (32, 32), protocol).any()
    front = render_levels(voxels({(0, 0, 1): 1.0, (1, 1, 0): 1.0}), 2.0, camera, (32, 32))
    assert np.argwhere(front).tolist() == [[8, 8]]
    # The plane of the camera touches the voxel (z from 0 to 1): no bounded footprint, so its centre's pixel.
    assert (render_levels(voxels({(0, 0, 1): 1.0}), 2.0, camera, (32, 32), FOOTPRINT) == front).all()


def test_the_splats_by_hand() -> None:
    # One voxel of 1 m at depth 4, f = 32: its centre falls on pixel (16, 16); its front face, 3.5 m away, reaches
    # 32 * 0.5 / 3.5 = 4.57 px to each side: columns floor(11.43) = 11 to floor(20.57) = 20, ten by ten pixels.
    phi, camera = np.ones((1, 1, 1)), looking_along_z(4)
    assert np.argwhere(render_levels(phi, 1.0, camera, (32, 32))).tolist() == [[16, 16]]
    square = np.zeros((32, 32), bool)
    square[11:21, 11:21] = True
    assert ((render_levels(phi, 1.0, camera, (32, 32), FOOTPRINT) > 0) == square).all()
    # Against that square as target: P = 1 at all thresholds; R = 1/100 and 1.
    image = PapImage(phi, 1.0, camera, square)
    assert score_image(image).vanilla == pytest.approx(0.01)
    assert score_image(image, FOOTPRINT).vanilla == 1.0
    # Nearer, at depth 1: the front face, 0.5 m away, reaches 32 px to each side, beyond the image.
    assert (render_levels(phi, 1.0, looking_along_z(1), (32, 32), FOOTPRINT) == 100).all()


def test_thresholds_are_float32() -> None:
    t = PapProtocol().thresholds
    assert t.dtype == np.float32
    assert (len(t), t[-1]) == (100, 1.0)
    assert float(np.float32(0.7)) < 0.7  # what a comparison in float64 would make of a phi of 0.7
    # Voxels of i / 100 reach i thresholds, the next smaller float32 one less.
    for i in range(1, 101):
        for value, level in ((np.float32(i / 100), i), (np.nextafter(np.float32(i / 100), np.float32(0)), i - 1)):
            levels = render_levels(np.full((1, 1, 1), value), 1.0, looking_along_z(4), (32, 32))
            assert levels.max() == level == (t <= value).sum()

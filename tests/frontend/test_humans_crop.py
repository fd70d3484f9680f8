"""The square that a regressor sees: its plane, and that the resampling agrees with it."""

from __future__ import annotations

import numpy as np
import pytest

from chorus.errors import InputError
from chorus.frontend.humans.crop import Crop


def test_crops_and_images_are_one_plane():
    rng = np.random.default_rng(0)
    crop = Crop((130.3, 77.9), 311.7)
    points = rng.uniform(-500, 900, (1000, 2))
    assert np.abs(crop.to_image(crop.to_crop(points)) - points).max() < 1e-9
    assert np.abs(crop.from_normalised(crop.to_crop(points) / 112 - 1) - points).max() < 1e-9
    around = Crop.around([10, 20, 50, 120], 1.2)
    np.testing.assert_allclose(around.to_crop([[30, 70], [-30, 10], [90, 130]]), [[112, 112], [0, 0], [224, 224]], atol=1e-12)
    for box in ([10, 20, 10, 120], [50, 20, 10, 120], [0, 0, np.nan, 1]):
        with pytest.raises(InputError):
            Crop.around(box)


@pytest.mark.parametrize(
    ("centre", "size"), [((150.0, 100.0), 224.0), ((160.37, 90.81), 83.4), ((120.2, 101.7), 611.3), ((20.0, 180.0), 150.5)]
)
def test_a_dot_lands_where_the_crop_says(centre, size):
    crop = Crop(centre, size)
    for column, row in ((150, 100), (131, 117), (30, 170), (0, 199)):
        pixels = np.zeros((200, 300, 3), np.uint8)
        pixels[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5] = 250  # large enough not to vanish when shrunk
        rows, columns = np.nonzero(pixels[..., 0])
        expected = crop.to_crop([columns.mean() + 0.5, rows.mean() + 0.5])
        if not ((expected > 20 * 224 / size) & (expected < 224 - 20 * 224 / size)).all():
            continue
        cut = crop.cut(pixels)[..., 0].astype(np.float64)
        y, x = np.mgrid[:224, :224] + 0.5
        found = np.array([(x * cut).sum(), (y * cut).sum()]) / cut.sum()
        assert np.abs(found - expected).max() < 0.25
        assert abs(cut.sum() / 250 / (len(rows) * (224 / size) ** 2) - 1) < 0.05  # all of it, once
        break
    else:
        pytest.fail("no dot in this crop")


def test_crops_are_black_outside_and_do_not_alias():
    white = np.full((200, 300, 3), 255, np.uint8)
    cut = Crop((0.0, 0.0), 100.0).cut(white)
    assert cut.shape == (224, 224, 3)
    assert cut.dtype == np.uint8
    assert not cut[:110].any()
    assert not cut[:, :110].any()
    assert (cut[115:, 115:] == 255).all()
    assert not Crop((-500.0, 100.0), 100.0).cut(white).any()
    ramp = np.repeat(np.arange(250, dtype=np.uint8)[None, :, None], 250, 0).repeat(3, 2)
    crop = Crop((125.0, 125.0), 192.0, 16)  # 12 pixels to 1: the filter reaches beyond the crop's edge, where the ramp goes on
    x = crop.to_image(np.stack([np.arange(16) + 0.5] * 2, 1))[:, 0]
    np.testing.assert_allclose(crop.cut(ramp)[8, :, 0], x - 0.5, atol=0.6)
    board = np.zeros((1000, 1000, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    grey = Crop((500.0, 500.0), 800.0).cut(board)
    assert np.abs(grey.astype(int) - 127).max() < 30
    colour = np.zeros((50, 50, 3), np.uint8)
    colour[..., 0] = 200
    assert (Crop((25.0, 25.0), 20.0).cut(colour) == [200, 0, 0]).all()

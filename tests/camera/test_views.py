"""Azimuth bins, elevation bands, folds, groups and view weights (A.6)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.camera.cameras import Cameras
from chorus.camera.views import (
    AZIMUTH_BINS,
    ELEVATION_BINS,
    FOLDS,
    SCHEMES,
    WEIGHTINGS,
    Scheme,
    azimuth,
    azimuth_bin,
    elevation_bin,
    fold_of_hash,
    key_hash,
)
from chorus.errors import InputError


def cameras_at(centres: np.ndarray) -> Cameras:
    """Cameras with these centres, (I, 3) metres; with R = 1 the centre is -t to the bit."""
    n = len(centres)
    K = np.tile([[500.0, 0, 32], [0, 500, 32], [0, 0, 1]], (n, 1, 1))
    return Cameras(np.tile(np.eye(3), (n, 1, 1)), -np.asarray(centres, float), K, np.full((n, 2), 64))


def around(angles: np.ndarray | list[float], y: float = 0.0) -> Cameras:
    a = np.asarray(angles, float)
    return cameras_at(np.stack([3 * np.cos(a), np.full_like(a, y), 3 * np.sin(a)], -1))


def test_azimuth_by_hand() -> None:
    # +x is the person's left, +z in front: bin 0 begins at the left and bins turn to the front.
    centres = np.array([[1.0, 0, 0], [1, 0, 1], [0, 5, 2], [-1, 0, 1], [-1, 0, 0], [-1, 0, -1], [0, -3, -1], [1, 0, -1]])
    cameras = cameras_at(centres)
    expected = np.pi * np.array([0, 0.25, 0.5, 0.75, 1, -0.75, -0.5, -0.25])
    assert np.allclose(np.exp(1j * azimuth(cameras)), np.exp(1j * expected))
    assert azimuth(cameras).dtype == np.float64
    assert azimuth_bin(cameras).tolist() == [0, 1, 3, 4, 6, 7, 9, 10]


def test_azimuth_comes_from_the_centre_not_from_t() -> None:
    R = np.array([[[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]])  # x_cam = R x + t, centre -R^T t
    cameras = Cameras(R, [[0, 0, 2.0]], [[[9.0, 0, 4], [0, 9, 4], [0, 0, 1]]], [[8, 8]])
    assert np.allclose(cameras.centres, [[2, 0, 0]])
    assert azimuth(cameras) == pytest.approx(0)


def test_a_hair_below_zero_is_the_last_bin() -> None:
    centres = np.array([[1, 0, -1e-17], [1, 0, -5e-324], [1, 0, -0.0], [1, 0, 0.0], [1, 0, 1e-17]])
    # -0.0 is an azimuth of -0.0, which is zero; -1e-17 modulo 2 pi rounds to 2 pi, and must not become bin 12.
    assert azimuth_bin(cameras_at(centres)).tolist() == [11, 11, 0, 0, 0]


def test_at_plus_and_minus_pi() -> None:
    behind = cameras_at(np.array([[-1, 0, 0.0], [-1, 0, -0.0], [-1, 0, 1e-17], [-1, 0, -1e-17]]))
    # -t turns the signs of zeros: what comes out is atan2(+-0, -1) = +-pi, one direction, so one bin.
    assert set(np.abs(azimuth(behind))) == {np.pi}
    assert azimuth_bin(behind).tolist() == [6, 6, 6, 6]


def test_exact_edges_belong_to_the_bin_above() -> None:
    for k in range(1, AZIMUTH_BINS):
        edge = (k if k <= 6 else k - 12) * np.pi / 6
        below, above = azimuth_bin(around([edge - 1e-9, edge + 1e-9])).tolist()
        assert (below, above) == ((k - 1) % 12, k)
    quarter = azimuth_bin(cameras_at(np.array([[0, 0, 1.0], [-1, 0, 0], [0, 0, -1], [1, 0, 0]])))
    assert quarter.tolist() == [3, 6, 9, 0]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(-10, 10, allow_subnormal=True), min_size=3, max_size=3))
def test_every_centre_has_a_bin(centre: list[float]) -> None:
    cameras = cameras_at(np.array([centre]))
    assert 0 <= azimuth_bin(cameras)[0] < AZIMUTH_BINS
    assert 0 <= elevation_bin(cameras)[0] < ELEVATION_BINS


def test_bins_and_bands_are_equal_in_area() -> None:
    rng = np.random.default_rng(0)
    n = 120_000
    directions = rng.normal(size=(n, 3)) * rng.uniform(0.1, 9, (n, 1))  # at any distance
    cameras = cameras_at(directions)
    cell = azimuth_bin(cameras) * ELEVATION_BINS + elevation_bin(cameras)
    counts = np.bincount(cell, minlength=72)
    expected = n / 72
    # chi^2 with 71 degrees of freedom: mean 71, sigma 12.
    assert ((counts - expected) ** 2 / expected).sum() < 71 + 5 * 12
    order = np.argsort(directions[:, 1] / np.linalg.norm(directions, axis=1))
    assert (np.diff(elevation_bin(cameras)[order]) >= 0).all()  # 0 is lowest
    assert elevation_bin(cameras_at(np.array([[0, -1.0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]))).tolist() == [0, 5, 3, 3]


def reference_hash(key: bytes) -> int:
    """FNV-1a, 64 bits, then murmur3's finaliser, in Python's integers."""
    value = 0xCBF29CE484222325
    for byte in key:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * multiplier % 2**64
    return value ^ value >> 33


GOLDEN = {b"a": 0x82A2A958A9BECE5B, b"image-0": 0x8E590A603A37173F, b"surfboard/000123.png": 0xAF38BB063679867A}


@settings(deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"x")), min_size=1, max_size=8))
def test_key_hash_is_fnv_and_murmur(keys: list[bytes]) -> None:
    assert key_hash(np.array(keys, "S")).tolist() == [reference_hash(k) for k in keys]


def test_folds_never_change() -> None:
    """Numbers that stores and results made today are compared with tomorrow."""
    keys = np.array(list(GOLDEN), "S")
    assert key_hash(keys).tolist() == list(GOLDEN.values())
    assert key_hash(keys).dtype == np.uint64
    assert key_hash(keys.astype("S64")).tolist() == list(GOLDEN.values())  # padding counts for nothing
    assert [int(key_hash(np.array([k]))[0]) for k in GOLDEN] == list(GOLDEN.values())
    assert key_hash(keys[::-1]).tolist() == list(GOLDEN.values())[::-1]  # not contiguous
    assert key_hash(np.zeros(0, "S5")).shape == (0,)
    assert fold_of_hash(key_hash(keys)).tolist() == [v % 10 for v in GOLDEN.values()]


def test_folds_are_even_and_independent_of_the_order_of_keys() -> None:
    keys = np.array([f"image-{i}" for i in range(20_000)], "S")
    folds = fold_of_hash(key_hash(keys))
    counts = np.bincount(folds, minlength=FOLDS)
    assert len(counts) == FOLDS
    assert ((counts - 2000) ** 2 / 2000).sum() < 9 + 5 * np.sqrt(18)
    assert abs(np.corrcoef(folds[1:], folds[:-1])[0, 1]) < 0.03
    assert np.unique(key_hash(keys)).size == len(keys)


@pytest.mark.parametrize("name", SCHEMES)
def test_group_is_fold_times_azimuth_times_elevation(name: str) -> None:
    rng = np.random.default_rng(1)
    cameras, keys = cameras_at(rng.normal(size=(500, 3))), np.array([f"k{i}" for i in range(500)], "S")
    scheme = Scheme(name)
    folds, bins, bands = scheme.shape
    assert (folds, bins, bands) == (10 if "folds" in name else 1, 12, 6 if "elevation" in name else 1)
    assert scheme.num_groups == folds * 12 * bands
    f, a, e = np.unravel_index(scheme.groups(cameras, keys), scheme.shape)
    assert np.array_equal(a, azimuth_bin(cameras))
    assert np.array_equal(f, fold_of_hash(key_hash(keys)) if scheme.has_folds else np.zeros(500))
    assert np.array_equal(e, elevation_bin(cameras) if scheme.has_elevation else np.zeros(500))


@pytest.mark.parametrize(("name", "weighting"), list(itertools.product(SCHEMES, WEIGHTINGS)))
def test_weights_are_one_over_the_images_of_the_bin(name: str, weighting: str) -> None:
    scheme = Scheme(name)
    rng = np.random.default_rng(2)
    totals = rng.integers(0, 5, scheme.num_groups) * (rng.random(scheme.num_groups) < 0.6)
    totals.reshape(scheme.shape)[:, 4] = 0  # a bin without images
    if "elevation" in weighting and not scheme.has_elevation:
        with pytest.raises(InputError, match=f"{weighting} needs counts by cell"):
            scheme.weights(weighting, totals)
        return
    r = scheme.weights(weighting, totals)
    assert r.shape == (scheme.num_groups,)
    assert r.dtype == np.float64
    assert np.isfinite(r).all()
    for g in range(scheme.num_groups):
        _, a, e = np.unravel_index(g, scheme.shape)
        same = [
            h
            for h in range(scheme.num_groups)
            if (at := np.unravel_index(h, scheme.shape))[1] == a and ("elevation" not in weighting or at[2] == e)
        ]
        images = sum(int(totals[h]) for h in same)
        extra = totals.sum() / (72 if "elevation" in weighting else 12) if "shrunk" in weighting else 0
        assert r[g] == (1 if weighting == "none" else 0 if images == 0 else pytest.approx(1 / (images + extra), rel=1e-15))
    if weighting == "azimuth":  # every bin that has images counts as one
        bins = (r * totals).reshape(scheme.shape).sum((0, 2))
        assert np.allclose(bins, totals.reshape(scheme.shape).sum((0, 2)) > 0)


def test_shrunk_weights_by_hand() -> None:
    totals = np.zeros(12, np.int64)
    totals[[0, 3, 5]] = 90, 9, 21  # 120 images, 10 a bin
    r = Scheme().weights("azimuth-shrunk", totals)
    assert r[[0, 3, 5]].tolist() == [1 / 100, 1 / 19, 1 / 31]
    assert (np.delete(r, [0, 3, 5]) == 0).all()
    cells = np.zeros((12, 6), np.int64)
    cells[0, :2], cells[3, 5] = (100, 26), 18  # 144 images: 12 a bin of azimuth, 2 a cell
    scheme = Scheme("azimuth-elevation")
    by_cell = scheme.weights("azimuth-elevation-shrunk", cells.ravel()).reshape(12, 6)
    assert by_cell[0, :2].tolist() == [1 / 102, 1 / 28]
    assert by_cell[3, 5] == 1 / 20
    assert np.count_nonzero(by_cell) == 3
    by_azimuth = scheme.weights("azimuth-shrunk", cells.ravel()).reshape(12, 6)
    assert (by_azimuth[0] == 1 / 138).all()
    assert (by_azimuth[3] == 1 / 30).all()
    assert (Scheme().weights("azimuth-shrunk", np.zeros(12, np.int64)) == 0).all()


def test_names_are_checked() -> None:
    with pytest.raises(InputError, match=r"scheme: expected one of azimuth, .*; got 'elevation'"):
        Scheme("elevation")
    with pytest.raises(InputError, match=r"weighting: expected one of azimuth, .*; got 'folds'"):
        Scheme().weights("folds", np.zeros(12, np.int64))

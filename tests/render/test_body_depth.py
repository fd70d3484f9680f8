"""The posed body's depth in many images: that of the rasteriser, by numba and PyTorch alike, and near the full mesh's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from bench.harness.crowds import people
from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError
from chorus.kernels.depth import MARGIN, BodyDepth, limits_of
from chorus.kernels.kinematics import relative_transforms
from chorus.render import body_depth as module
from chorus.render.body_depth import body_depth, coarse_body, shifts_of
from chorus.render.rasterize import render_mesh, skin

IMAGES = 12


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def crowd(body: Body) -> tuple[Cameras, Any]:
    found = people(body, IMAGES)
    return found.cameras, found.poses


def same(a: BodyDepth, b: BodyDepth) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("shift", "box", "near", "start", "values"))


def surfaces(depth: BodyDepth, size: int = 512) -> Any:
    """Depth of the body by pixel, (I, size, size) metres, inf where there is none."""
    return np.stack([limits_of(depth, i, size, size).numpy() - depth.margin for i in range(len(depth))])


def test_numba_and_pytorch_draw_the_same_bits(body: Body, crowd: tuple[Cameras, Any]) -> None:
    cameras, poses = crowd
    for options in ({}, {"cells": 300, "merge": 0.1}, {"cells": 16}):  # type: dict[str, Any]
        drawn = body_depth(body, cameras, poses, threads=2, **options)
        assert drawn.problem() is None
        assert drawn.margin == MARGIN
        assert same(drawn, body_depth(body, cameras, poses, device="cpu", **options))


def test_the_full_mesh_gives_what_the_rasteriser_gives(body: Body, crowd: tuple[Cameras, Any]) -> None:
    cameras, poses = (x[:3] for x in crowd)
    drawn = surfaces(body_depth(body, cameras, poses, merge=0, cells=512))
    for i in range(3):
        # Without pose blend shapes: transforms from the zero pose.
        bones = relative_transforms(torch.from_numpy(poses[i]).double()[None], torch.tensor(body.joints), body.parents.tolist())
        want, _ = render_mesh(skin(body.vertices, body.weights, bones[0].numpy()), body.faces, cameras, i)
        seen = np.isfinite(want)
        assert (np.isfinite(drawn[i]) != seen).mean() < 1e-4  # weights below a thousandth are left out
        both = seen & np.isfinite(drawn[i])
        assert np.quantile(np.abs(drawn[i][both] - want[both]), 0.99) < 2e-3


def test_the_coarse_body_is_near_the_full_one(body: Body, crowd: tuple[Cameras, Any]) -> None:
    cameras, poses = crowd
    assert len(coarse_body(body).vertices) < 0.1 * len(body.vertices)
    coarse, full = (surfaces(body_depth(body, cameras, poses, merge=m)) for m in (module.MERGE, 0))
    seen = np.isfinite(full)
    both = seen & np.isfinite(coarse)
    assert both.sum() > 0.92 * seen.sum()
    assert (np.isfinite(coarse) & ~seen).sum() < 0.02 * seen.sum()
    off = np.abs(coarse[both] - full[both])
    assert (off < MARGIN / 2).mean() > 0.97


def test_faces_that_look_away_are_hidden_anyway(
    body: Body, crowd: tuple[Cameras, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras, poses = crowd
    for merge in (module.MERGE, 0.0):
        mesh = coarse_body(body, merge)
        assert mesh.outside == -1
        drawn = surfaces(body_depth(body, cameras, poses, merge=merge))
        monkeypatch.setitem(module._coarse[body], merge, dataclasses.replace(mesh, outside=0))
        every = surfaces(body_depth(body, cameras, poses, merge=merge))
        assert np.array_equal(np.isfinite(drawn), np.isfinite(every))
        seen = np.isfinite(every)
        assert (np.abs(drawn[seen] - every[seen]) > 0.01).mean() < 1e-3


def test_which_side_is_outside() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    assert module._outside(corners, faces) == -1
    assert module._outside(corners, faces[:, ::-1]) == 1
    assert module._outside(corners, faces[:3]) == 0  # a hole
    assert module._outside(corners, np.concatenate([faces[:3], faces[3:, ::-1]])) == 0  # one face the other way round
    doubled = np.concatenate([faces, faces[:2, [1, 2, 0]], [[0, 1, 2]]])  # two again; and one back, which takes its like away
    assert sorted(map(tuple, module._once(faces[:, [1, 2, 0]]))) == sorted(map(tuple, module._once(faces)))
    assert len(module._once(doubled)) == 4
    assert len(module._once(np.concatenate([faces, faces[:1, ::-1]]))) == 3


def test_images_without_a_body_and_of_other_sizes(body: Body, crowd: tuple[Cameras, Any]) -> None:
    cameras, poses = (x[:6] for x in crowd)
    t = np.array(cameras.t)
    t[1] = [0, 0, -50]  # behind the camera
    t[4] = [900, 0, 3]  # beside the image
    size = np.array(cameras.image_size)
    size[2] = 130, 511
    size[3] = 1, 1
    found = Cameras(cameras.R, t, cameras.K, size)
    drawn = body_depth(body, found, poses)
    assert drawn.problem() is None
    assert not drawn.box[[1, 4]].any()
    assert drawn.box[[0, 2, 5]].any(1).all()
    assert same(drawn, body_depth(body, found, poses, device="cpu"))
    assert drawn.shift.tolist() == shifts_of(size).tolist() == [2, 2, 2, 0, 2, 2]
    parts = [body_depth(body, found[rows], poses[rows], threads=1) for rows in (slice(0, 2), slice(2, 6))]
    assert same(BodyDepth.join(parts), drawn)
    none = body_depth(body, found[:0], poses[:0])
    assert (len(none), len(none.values)) == (0, 0)


def test_arguments(body: Body, crowd: tuple[Cameras, Any]) -> None:
    cameras, poses = crowd
    for change, words in (
        ({"cells": 0}, "cells: expected a number 1"),
        ({"merge": -1.0}, "merge: expected a length"),
        ({"margin": np.nan}, "margin: expected a length"),
    ):
        with pytest.raises(InputError, match=words):
            body_depth(body, cameras, poses, **change)
    with pytest.raises(InputError, match="poses: expected"):
        body_depth(body, cameras, poses[:3])

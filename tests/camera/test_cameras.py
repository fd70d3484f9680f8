"""Cameras: what they check, where they stand, what they see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from chorus.camera.cameras import ROTATION_TOLERANCE, Cameras
from chorus.errors import InputError


def arguments(n: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "R": Rotation.random(n, random_state=rng).as_matrix(),
        "t": rng.normal([0.0, 0, 4], 1, (n, 3)),
        "K": np.tile([[500.0, 1.5, 320], [0, 510, 240], [0, 0, 1]], (n, 1, 1)),
        "image_size": np.tile([480, 640], (n, 1)),
    }


def test_projection_by_hand() -> None:
    # x_cam = (1, 2, 4) + (0.5, 0, 1) = (1.5, 2, 5): u = (100 * 1.5 + 2 * 2) / 5 + 50, v = 200 * 2 / 5 + 40.
    cameras = Cameras(np.eye(3)[None], [[0.5, 0, 1]], [[[100, 2, 50], [0, 200, 40], [0, 0, 1]]], [[80, 100]])
    uv, z = cameras.project(np.array([[1.0, 2, 4]]))
    assert uv.tolist() == [[[80.8, 120.0]]]
    assert z.tolist() == [[5.0]]


def test_projection_is_that_of_homogeneous_matrices() -> None:
    a = arguments(5)
    cameras = Cameras(**a)
    points = np.random.default_rng(1).normal(0, 1, (7, 3))
    uv, z = cameras.project(points)
    for i in range(5):
        for p, point in enumerate(points):
            x = a["K"][i] @ np.hstack([a["R"][i], a["t"][i][:, None]]) @ [*point, 1]
            assert np.allclose(uv[i, p], x[:2] / x[2])
            assert np.isclose(z[i, p], x[2])
    each, _ = cameras.project(np.broadcast_to(points, (5, 7, 3)))
    assert np.allclose(each, uv)


def test_centres_project_to_the_camera_itself() -> None:
    cameras = Cameras(**arguments(20))
    x_cam = np.einsum("iab,ib->ia", cameras.R, cameras.centres) + cameras.t
    assert np.allclose(x_cam, 0)


def test_selection_keeps_the_rows() -> None:
    cameras = Cameras(**arguments(5))
    assert len(cameras) == 5
    for rows in (slice(1, 4), np.array([4, 0, 0]), np.array([True, False, True, False, False])):
        chosen = cameras[rows]
        for name in ("R", "t", "K", "image_size"):
            assert np.array_equal(getattr(chosen, name), getattr(cameras, name)[rows])
    assert len(cameras[np.zeros(0, np.intp)]) == 0


def test_no_cameras() -> None:
    none = Cameras(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 2), int))
    assert len(none) == 0
    assert none.centres.shape == (0, 3)


def test_dtypes_and_torch_and_dlpack() -> None:
    class OnlyDLPack:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **kwargs: Any) -> Any:
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    a = arguments()
    want = Cameras(**a)
    for change in (
        lambda x: x.tolist(),
        torch.from_numpy,
        lambda x: torch.from_numpy(x.astype(float)).requires_grad_(),
        OnlyDLPack,
        np.asfortranarray,
    ):
        got = Cameras(**{name: change(value) for name, value in a.items()})
        for name in a:
            value = getattr(got, name)
            assert type(value) is np.ndarray
            assert value.flags.c_contiguous
            assert value.dtype == (np.int32 if name == "image_size" else np.float64)
            assert np.array_equal(value, getattr(want, name))
    single = Cameras(**{name: value.astype(np.float32) for name, value in a.items()})
    assert np.allclose(single.R, want.R, atol=1e-6)


def test_rounded_rotations_pass_and_worse_do_not() -> None:
    a = arguments(50)
    Cameras(**{**a, "R": a["R"].astype(np.float32)})
    Cameras(**{**a, "R": a["R"].astype(np.float16)})  # 5e-4 an element
    for scale in (1 + ROTATION_TOLERANCE, 1 - ROTATION_TOLERANCE):
        with pytest.raises(InputError, match=r"cameras.R: expected rotations"):
            Cameras(**{**a, "R": a["R"] * scale})


def _put(name: str, index: Any, value: Any) -> Any:
    def change(a: dict[str, Any]) -> None:
        a[name] = np.array(a[name], float)
        a[name][index] = value

    return change


def _set(name: str, value: Any) -> Any:
    return lambda a: a.update({name: value})


BAD = [
    (_put("R", (1, 0, 0), np.nan), r"cameras.R: expected finite numbers, got nan at index \(1, 0, 0\)"),
    (_put("t", (2, 1), np.inf), r"cameras.t: expected finite numbers, got inf at index \(2, 1\)"),
    (_put("K", (0, 0, 2), -np.inf), r"cameras.K: expected finite numbers, got -inf at index \(0, 0, 2\)"),
    (_put("R", 1, np.diag([1.0, 1, -1])), "cameras.R: expected rotations .* row 1 is off by 2"),  # a reflection
    (_put("R", 2, 2 * np.eye(3)), "cameras.R: expected rotations .* row 2 is off by 7"),  # det 8
    (_put("R", 0, np.zeros((3, 3))), "cameras.R: expected rotations .* row 0 is off by 1"),
    (_put("R", 0, np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])), "cameras.R: .* row 0 is off by 0.1"),  # shear, det 1
    (_put("K", (1, 0, 0), 0.0), "cameras.K: expected positive focal lengths, got fx=0, fy=510 in row 1"),
    (_put("K", (1, 1, 1), -5.0), "cameras.K: expected positive focal lengths, got fx=500, fy=-5 in row 1"),
    (_put("K", (2, 2, 2), 2.0), "cameras.K: expected .*0, 0, 1.* in row 2"),
    (_put("K", (2, 2, 0), 1e-3), "cameras.K: expected .* in row 2"),
    (_put("K", (2, 1, 0), 1.0), "cameras.K: expected .* in row 2"),
    (_set("image_size", [[480, 640], [480, 0], [480, 640]]), r"cameras.image_size: .*got \[480, 0\] in row 1"),
    (_set("image_size", [[480, 640], [480, 640], [-1, 640]]), r"cameras.image_size: .*got \[-1, 640\] in row 2"),
    (_set("image_size", [[480, 640]]), r"cameras.image_size: expected shape \(3, 2\), got \(1, 2\)"),
    (_set("t", np.zeros((2, 3))), r"cameras.t: expected shape \(3, 3\), got \(2, 3\)"),
    (_set("t", np.zeros((3, 3, 1))), r"cameras.t: expected shape \(3, 3\), got \(3, 3, 1\)"),
    (_set("R", np.eye(3)), r"cameras.R: expected shape \(I, 3, 3\), got \(3, 3\)"),
    (_set("K", np.full((3, 3, 3), "a")), "cameras.K: expected real numbers .* got dtype <U1"),
    (_set("R", None), "cameras.R: expected real numbers"),
    (_set("t", np.full((3, 3), 1 + 2j)), "cameras.t: expected real numbers"),
    (_set("image_size", [[480.5, 640], [480, 640], [480, 640]]), r"cameras.image_size: expected whole numbers"),
    (_set("image_size", [[2**40, 640]] * 3), r"cameras.image_size: .* fit int32, got 1099511627776 at index \(0, 0\)"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_cameras_are_named(change: Any, words: str) -> None:
    a = arguments()
    change(a)
    with pytest.raises(InputError, match=words):
        Cameras(**a)

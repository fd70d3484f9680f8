"""Input that must not get in: images, poses, masks and keys that are wrong, and arrays of every kind that are right."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from chorus.body.model import load_body
from chorus.camera.cameras import Cameras
from chorus.errors import InputError, MismatchError, StoreError, check_array, to_numpy
from chorus.field import CanonicalField
from chorus.images import ImageBatch
from chorus.kernels.masks import PackedMasks
from chorus.occupancy.aggregation import aggregate

n = 3


def arguments() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    K = np.tile([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]], (n, 1, 1))
    poses = rng.normal(0, 0.2, (n, 24, 3))
    poses[:, 0] = 0
    return {
        "masks": rng.random((n, 48, 64)) < 0.3,
        "cameras": Cameras(np.tile(np.eye(3), (n, 1, 1)), np.tile([0.0, 0, 3], (n, 1)), K, np.tile([48, 64], (n, 1))),
        "poses": poses,
        "keys": ["a", "b", "c"],
        "weights": np.array([1, 2, 255], np.uint8),
        "prompts": ["x", "y", "x"],
    }


def same(a: ImageBatch, b: ImageBatch) -> bool:
    return (
        all(np.array_equal(a.masks.unpack(i), b.masks.unpack(i)) for i in range(len(a)))
        and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("poses", "keys", "weights", "prompts"))
        and np.array_equal(a.masks.box, b.masks.box)
    )


class OnlyDLPack:
    """An array that offers DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("kind", ["torch", "torch with gradients", "dlpack", "fortran", "list", "float16", "strided"])
def test_every_kind_of_array_is_taken(kind: str) -> None:
    a = arguments()
    a["poses"] = a["poses"].astype(np.float16).astype(float)
    expected = ImageBatch(**a)
    convert: Any = {
        "torch": torch.from_numpy,
        "torch with gradients": lambda x: torch.from_numpy(x).requires_grad_(x.dtype == float),
        "dlpack": OnlyDLPack,
        "fortran": np.asfortranarray,
        "list": lambda x: x if x.dtype in (bool, np.uint8) else x.tolist(),
        "float16": lambda x: x.astype(np.float16) if x.dtype == float else x,
        "strided": lambda x: np.repeat(x, 2, 0)[::2],
    }[kind]
    for name in ("poses", "weights"):
        a[name] = convert(a[name])
    a["masks"] = [convert(m) for m in a["masks"]] if kind == "dlpack" else convert(a["masks"])
    got = ImageBatch(**a)
    assert same(got, expected)
    assert got.poses.dtype == np.float32
    assert got.poses.flags.c_contiguous
    assert got.keys.dtype.kind == "S"


def test_sizes_may_differ_and_optional_things_may_be_missing() -> None:
    a = arguments()
    sizes = [(48, 64), (1, 1), (17, 300)]
    masks = [np.ones(s, bool) for s in sizes]
    c = a["cameras"]
    images = ImageBatch(masks, Cameras(c.R, c.t, c.K, sizes), a["poses"])
    assert [m.tolist() for m in images.masks.size] == [list(s) for s in sizes]
    assert images.keys.tolist() == [b"image-0", b"image-1", b"image-2"]
    assert images.weights is None
    assert images.prompts is None
    assert images[1:].weights is None
    assert len(images[1:]) == 2
    packed = PackedMasks.pack(masks)
    assert ImageBatch(packed, Cameras(c.R, c.t, c.K, sizes), a["poses"]).masks is packed


def test_selection() -> None:
    images = ImageBatch(**arguments())
    for rows in (slice(1, None), np.array([2, 0]), np.array([True, False, True])):
        chosen = images[rows]
        index = np.arange(n)[rows]
        assert chosen.keys.tolist() == [[b"a", b"b", b"c"][i] for i in index]
        assert chosen.weights is not None
        assert chosen.weights.tolist() == [[1, 2, 255][i] for i in index]
        assert all(np.array_equal(chosen.masks.unpack(k), images.masks.unpack(int(i))) for k, i in enumerate(index))


def test_no_images() -> None:
    none = Cameras(np.zeros((0, 3, 3)), np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 2), int))
    assert len(ImageBatch([], none, np.zeros((0, 24, 3)))) == 0
    assert len(ImageBatch([], none, np.zeros((0, 24, 3)), [], np.zeros(0, np.uint8), [])) == 0


def _put(name: str, index: Any, value: Any) -> Any:
    def change(a: dict[str, Any]) -> None:
        a[name] = np.array(a[name])
        a[name][index] = value

    return change


def _set(name: str, value: Any) -> Any:
    return lambda a: a.update({name: value(a[name]) if callable(value) else value})


def _packed(**change: Any) -> Any:
    def apply(a: dict[str, Any]) -> None:
        packed = PackedMasks.pack(a["masks"])
        arrays = {name: getattr(packed, name).copy() for name in ("size", "box", "start", "words")}
        for name, (index, value) in change.items():
            arrays[name][index] = value
        a["masks"] = PackedMasks(**arrays)

    return apply


BAD = [
    (_put("poses", (1, 5, 2), np.nan), r"poses: expected finite numbers, got nan at index \(1, 5, 2\)"),
    (_put("poses", (2, 1, 0), -np.inf), "poses: expected finite numbers, got -inf"),
    (_put("poses", (0, 1, 0), 1e300), "poses: expected numbers that fit float32, got 1e.300"),
    (_put("poses", (1, 0, 1), 0.1), r"poses: expected a zero global orientation .*0.1.* in row 1"),
    (_put("poses", (2, 0, 1), 1e-30), "poses: expected a zero global orientation .* in row 2"),
    (_set("poses", lambda p: p[:2]), r"poses: expected shape \(3, J, 3\), got \(2, 24, 3\)"),
    (_set("poses", lambda p: p.reshape(n, 72)), r"poses: expected shape \(3, J, 3\), got \(3, 72\)"),
    (_set("poses", lambda p: p[:, :, :2]), r"poses: expected shape \(3, J, 3\)"),
    (_set("poses", lambda p: p.astype(complex)), "poses: expected real numbers"),
    (_set("poses", lambda p: p.astype(object)), "poses: expected real numbers .* got dtype object"),
    (_set("poses", np.zeros((n, 0, 3))), "poses: expected at least one joint"),
    (_set("masks", lambda m: m[:2]), "masks: expected 3, one for each camera, got 2"),
    (_set("masks", lambda m: m.astype(np.uint8)), r"masks: expected \(H, W\) bool each, got uint8 of shape .* in row 0"),
    (_set("masks", lambda m: m.astype(float)), r"masks: expected \(H, W\) bool each, got float64"),
    (_set("masks", lambda m: m[..., None]), r"masks: expected \(H, W\) bool each, got bool of shape \(48, 64, 1\)"),
    (_set("masks", lambda m: m[0]), r"masks: expected \(H, W\) bool each, got bool of shape \(64,\)"),
    (_set("masks", lambda m: [m[0], m[1], m[2][:, :63]]), r"masks: expected the size .*\[48, 64\], got \[48, 63\] in row 2"),
    (_set("masks", lambda m: m.transpose(0, 2, 1)), r"masks: expected the size .*\[48, 64\], got \[64, 48\] in row 0"),
    (_set("masks", lambda m: [m[0], m[1], m[2][:0]]), "masks.size: expected a positive height and width"),
    (_set("masks", None), "masks: expected"),
    (_set("masks", 5), "masks: expected"),
    (_packed(size=(1, [47, 64])), "masks: expected the size .* in row 1|masks.box: .* in row 1"),
    (_packed(box=(0, [0, 0, 65, 48])), "masks.box: expected .* in row 0"),
    (_packed(box=(2, [-16, 0, 64, 48])), "masks.box: expected .* in row 2"),
    (_packed(box=(1, [40, 0, 20, 48])), "masks.box: expected .* in row 1"),
    (_packed(start=(1, 10**6)), "masks.start: row 1 reaches words 1000000"),
    (_packed(start=(2, -8)), "masks.start: row 2 reaches words -8"),
    (_packed(start=(2, 2**63 - 1)), "masks.start: row 2 reaches"),
    (_set("weights", np.ones(n, int)), r"weights: expected uint8 of shape \(3,\), got int64"),
    (_set("weights", np.ones(n)), "weights: expected uint8 .* got float64"),
    (_set("weights", np.ones(2, np.uint8)), r"weights: .* got uint8 of shape \(2,\)"),
    (_set("keys", ["a", "b"]), r"keys: expected 3 strings, got .* of shape \(2,\)"),
    (_set("keys", [1, 2, 3]), "keys: expected 3 strings, got int64"),
    (_set("keys", ["a", "b", "a"]), "keys: expected unique keys, got .*b'a'.* in rows 0 and 2"),
    (_set("keys", "abc"), "keys: expected 3 strings"),
    (_set("prompts", ["x"]), r"prompts: expected 3 strings, got shape \(1,\)"),
    (_set("cameras", lambda c: c[:2]), "masks: expected 2, one for each camera, got 3"),
    (_set("cameras", np.eye(3)), "cameras: expected Cameras, got a ndarray"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_images_are_named(change: Any, words: str) -> None:
    a = arguments()
    ImageBatch(**a)
    change(a)
    with pytest.raises(InputError, match=words):
        ImageBatch(**a)


def test_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(StoreError, InputError)
    assert issubclass(MismatchError, InputError)


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        ([[1, 2, 3]], np.float64, r"x: expected shape \(I, 2\), got \(1, 3\)"),
        (5.0, np.float64, r"x: expected shape \(I, 2\), got \(\)"),
        ([["a", "b"]], np.float64, "x: expected real numbers .* dtype <U1"),
        ([[b"a", b"b"]], np.float64, "x: expected real numbers .* dtype .S1"),
        ([[1, None]], np.float64, "x: expected real numbers .* dtype object"),
        ([[1, 2], [3]], np.float64, r"x: expected real numbers of shape \(I, 2\), got rows of different lengths"),
        (np.zeros((1, 2), "M8[s]"), np.float64, "x: expected real numbers .* dtype datetime64"),
        (np.zeros(2, [("a", float)]), np.float64, "x: expected real numbers"),
        ([[0.5, 1]], np.int32, r"x: expected whole numbers that fit int32, got 0.5 at index \(0, 0\)"),
        ([[1, 2**31]], np.int32, r"x: expected whole numbers that fit int32, got 2147483648 at index \(0, 1\)"),
        ([[1, -1]], np.uint8, r"x: expected whole numbers that fit uint8, got -1 at index \(0, 1\)"),
        ([[1, np.nan]], np.int32, "x: expected finite numbers, got nan"),
        ([[1e39, 0]], np.float32, "x: expected numbers that fit float32, got 1e.39"),
    ],
)
def test_numbers_are_never_changed_in_silence(value: Any, dtype: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_array("x", value, ("I", 2), dtype)


def test_checked_arrays() -> None:
    assert check_array("x", [[1.0, 2.0]], ("I", 2), np.int32).dtype == np.int32
    assert check_array("x", np.zeros((0, 2)), ("I", 2), np.int64).shape == (0, 2)
    assert np.isnan(check_array("x", [np.nan], ("I",), np.float32, finite=False)).all()
    with pytest.raises(InputError, match="x: expected whole numbers"):
        check_array("x", [np.nan], ("I",), np.int32, finite=False)
    check_array("x", np.zeros((4, 4, 2)), ("N", "N", 2), np.float64)
    with pytest.raises(InputError, match=r"expected shape \(N, N, 2\), got \(4, 3, 2\)"):
        check_array("x", np.zeros((4, 3, 2)), ("N", "N", 2), np.float64)
    array = np.arange(4.0)
    assert np.shares_memory(array, check_array("x", array, (4,), np.float64))  # nothing to do: nothing copied
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_poses_and_cameras_at_the_edge_of_the_possible_vote_or_not_but_never_crash() -> None:
    """Finite input that is absurd: votes are cast for nobody, in either backend, without an error or a number out of place."""
    field = CanonicalField(load_body(), 6, cache=False)
    a = arguments()
    c = a["cameras"]
    for change in (
        {"t": np.full((n, 3), 1e30)},
        {"t": np.full((n, 3), -1e30)},
        {"t": np.tile([1e30, 0, 1e-30], (n, 1))},
        {"K": np.tile([[1e30, 0, 1e30], [0, 1e-30, -1e30], [0, 0, 1]], (n, 1, 1))},
        {"K": np.tile([[1e-30, 0, 5], [0, 1e-30, 5], [0, 0, 1]], (n, 1, 1))},
        {"t": np.zeros((n, 3))},
    ):
        cameras = Cameras(**{"R": c.R, "t": c.t, "K": c.K, "image_size": c.image_size, **change})
        images = ImageBatch(a["masks"], cameras, a["poses"] * 1000)
        results = [aggregate(images, field, backend=backend) for backend in ("numba", "reference")]
        for result in results:
            assert (result.num_counts >= 0).all()
            assert (result.num_counts <= result.den_counts).all()
            assert (result.den_counts.sum(0) <= n).all()
            assert np.isfinite(result.probability).all()
        if "t" in change and change["t"].any():
            assert not results[0].den_counts.any() or abs(change["t"]).max() < 1e29
    one = Cameras(c.R, c.t, np.tile([[1e-30, 0, 5], [0, 1e-30, 5], [0, 0, 1]], (n, 1, 1)), c.image_size)
    everything = aggregate(ImageBatch(np.ones((n, 48, 64), bool), one, a["poses"]), field)
    assert (everything.num_counts.sum(0) == n).all()  # all voxels fall on one pixel


def test_checks_survive_python_without_assertions() -> None:
    """python -O removes assert statements; what guards the kernels is none."""
    code = "import numpy; from chorus.camera import Cameras as C; i = numpy.eye(3)[None]; C(2 * i, i[:, 2], i, [[1, 1]])"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "InputError: cameras.R: expected rotations" in done.stderr

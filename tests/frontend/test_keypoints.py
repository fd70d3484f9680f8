"""ViTPose: keypoints arrive in COCO's order, on our plane, in pixels of the whole image, whatever the picture's size."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chorus.errors import InputError
from chorus.frontend.batching import BatchLimit
from chorus.frontend.keypoints import vitpose
from chorus.frontend.keypoints.order import check_order, keypoints_of
from chorus.frontend.registry import make, stages
from chorus.frontend.stages import ImageRequest, Picture, Runtime
from chorus.keypoints import COCO_KEYPOINTS
from tests.frontend.tiny_vision import pictures_of_many_kinds, tiny_vitpose


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vitpose(tmp_path_factory.mktemp("vitpose"))


def picture(pixels: NDArray[np.uint8], key: str = "a") -> Picture:
    return Picture(ImageRequest(key, "A person holds a ball"), pixels)


class Follower:
    """In the place of the network: every keypoint's heat map peaks where the crop is brightest in one of three colours.

    Heat maps span crops as in the training of ViTPose (unbiased data processing): the first and last pixel centres of a heat
    map lie on those of the crop.
    """

    def __init__(self, mean: NDArray[np.float32], std: NDArray[np.float32]) -> None:
        self.config = SimpleNamespace(id2label=dict(enumerate(COCO_KEYPOINTS)), backbone_config=SimpleNamespace(num_experts=1))
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._mean, self._std = mean[:, None, None], std[:, None, None]

    def __call__(self, pixels: torch.Tensor) -> Any:
        heat = np.zeros((len(pixels), 17, 64, 48), np.float32)
        row, column = np.mgrid[:64, :48]
        for i, crop in enumerate(pixels.numpy()):
            light = crop * self._std + self._mean
            light[light < 0.02] = 0
            height, width = light.shape[1:]
            y, x = np.mgrid[:height, :width]
            for k in range(17):
                weight = light[k % 3] / light[k % 3].sum()
                at = (weight * x).sum() * 47 / (width - 1), (weight * y).sum() * 63 / (height - 1)
                heat[i, k] = (0.5 + k / 20) * np.exp(-((column - at[0]) ** 2 + (row - at[1]) ** 2) / (2 * 2.0**2))
        return SimpleNamespace(heatmaps=torch.from_numpy(heat))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 60), (80, 200)])
def test_where_something_is_seen_is_where_it_is_said_to_be(folder: Path, height: int, width: int) -> None:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    network = Follower(np.array(processor.image_mean, np.float32), np.array(processor.image_std, np.float32))
    # Squares of 4 x 4, one a colour, so centres on our plane are 2 beyond their first pixel: x 22, y 32 for red.
    corners = {0: (20, 30), 1: (31, 25), 2: (36, 47)}
    pixels = np.zeros((height, width, 3), np.uint8)
    for colour, (x, y) in corners.items():
        pixels[y : y + 4, x : x + 4, colour] = 250
    stage = vitpose.VitPose(network, processor, BatchLimit(2))
    boxes = np.array([[10, 8, 50, 60], [4.5, 3.25, 58, 62], [2, 20, 58, 59]], np.float32)
    found = stage.keypoints([picture(pixels)] * 3, boxes)
    assert found.shape == (3, 17, 3)
    assert found.dtype == np.float32
    expected = np.array([np.add(corners[k % 3], 2) for k in range(17)], np.float64)
    # Without the half pixel the mean over boxes and keypoints would be off by it.
    error = found[..., :2] - expected
    assert np.abs(error).max() < 0.25
    assert np.abs(error.mean((0, 1))).max() < 0.08
    # Confidence is the height of the peak, cut at 1; the peak lies between the pixels of the heat map.
    heights = np.minimum(0.5 + np.arange(17) / 20, 1)
    assert found[..., 2].max() <= 1
    assert (found[..., 2] <= heights + 1e-6).all()
    assert (found[..., 2] > heights * 0.9).all()


def test_tiny_model_stands_in_the_box(folder: Path) -> None:
    stage = make("keypoints", f"vitpose={folder}", Runtime(batch_size=3))
    pictures = [picture(p) for p in pictures_of_many_kinds(7)] + [picture(pictures_of_many_kinds(1, 160)[0][:, :120])]
    boxes = np.array([[18, 5, 47, 57]] * 7 + [[30, 20, 80, 120]], np.float32)
    found = stage.keypoints(pictures, boxes)
    assert found.shape == (8, 17, 3)
    assert (found[..., 2] > 0.7).all()
    x, y = found[..., 0], found[..., 1]
    inside = (x > boxes[:, :1]) & (x < boxes[:, 2:3]) & (y > boxes[:, 1:2]) & (y < boxes[:, 3:])
    assert inside.all()
    # The person's left is at the right of the picture; the head above the hips above the ankles.
    at = {name: i for i, name in enumerate(COCO_KEYPOINTS)}
    assert (x[:, at["left_shoulder"]] > x[:, at["right_shoulder"]]).all()
    assert (y[:, at["nose"]] < y[:, at["left_hip"]]).all()
    assert (y[:, at["left_hip"]] < y[:, at["left_ankle"]]).all()


def test_batches_do_not_matter(folder: Path) -> None:
    pictures = [picture(p) for p in pictures_of_many_kinds(5)]
    boxes = np.array([[18, 5, 47, 57], [0, 0, 64, 64], [10, 10, 20, 50], [3, 4, 60, 61], [30, 0, 64, 40]], np.float32)
    one, all_ = (make("keypoints", f"vitpose={folder}", Runtime(batch_size=n)).keypoints(pictures, boxes) for n in (1, 5))
    np.testing.assert_allclose(one, all_, atol=1e-3)
    assert make("keypoints", f"vitpose={folder}", Runtime()).keypoints([], np.zeros((0, 4), np.float32)).shape == (0, 17, 3)


def test_half_precision(folder: Path) -> None:
    pictures, boxes = [picture(pictures_of_many_kinds(1)[0])], np.array([[18, 5, 47, 57]], np.float32)
    exact, half = (
        make("keypoints", f"vitpose={folder}", Runtime(dtype=dtype)).keypoints(pictures, boxes)
        for dtype in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(half[..., :2], exact[..., :2], atol=1.5)


def test_mixture_of_experts(tmp_path: Path) -> None:
    folder = tiny_vitpose(tmp_path, experts=3)
    pictures, boxes = [picture(p) for p in pictures_of_many_kinds(2)], np.array([[18, 5, 47, 57]] * 2, np.float32)
    coco = make("keypoints", f"vitpose={folder}", Runtime()).keypoints(pictures, boxes)
    assert (coco[..., 2] > 0.7).all()
    other = make("keypoints", f"vitpose={folder}", Runtime(options={"dataset": "2"})).keypoints(pictures, boxes)
    assert np.abs(other - coco).max() > 0.01
    with pytest.raises(InputError, match="expected a number below 3"):
        make("keypoints", f"vitpose={folder}", Runtime(options={"dataset": "3"}))


def test_boxes_are_checked(folder: Path) -> None:
    stage = make("keypoints", f"vitpose={folder}", Runtime())
    with pytest.raises(InputError, match="x0 < x1"):
        stage.keypoints([picture(pictures_of_many_kinds(1)[0])], np.array([[5, 5, 5, 9]], np.float32))
    with pytest.raises(InputError, match="boxes: expected shape"):
        stage.keypoints([picture(pictures_of_many_kinds(1)[0])], np.zeros((2, 4), np.float32))


def test_order_of_names() -> None:
    ours = dict(enumerate(COCO_KEYPOINTS))
    check_order(ours, "model")
    short = {"left": "L", "right": "R"}
    check_order({i: "_".join(short.get(w, w.title()) for w in name.split("_")) for i, name in ours.items()}, "model")
    check_order({i: f"LABEL_{i}" for i in ours}, "model")
    with pytest.raises(InputError, match=r"keypoint 1 to be 'left_eye'.*'right_eye'"):
        check_order({**ours, 1: "right_eye", 2: "left_eye"}, "model")
    with pytest.raises(InputError, match="expected the 17 keypoints of COCO, got 16"):
        check_order({i: name for i, name in ours.items() if i < 16}, "model")


def test_what_is_not_finite_is_not_trusted() -> None:
    points, scores = np.full((17, 2), 3.0), np.full(17, 0.9)
    points[2] = np.nan
    scores[4], scores[5], scores[6] = np.nan, 1.7, -0.2
    found = keypoints_of([points], [scores])[0]
    assert found[2].tolist() == [0, 0, 0]
    assert found[4].tolist() == [0, 0, 0]
    assert found[0].tolist() == pytest.approx([3.5, 3.5, 0.9])
    assert found[5, 2] == 1
    assert found[6, 2] == 0


def test_models_of_another_kind_and_missing_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--keypoints: expected a folder that holds config\.json"):
        make("keypoints", f"vitpose={tmp_path}", Runtime())
    with pytest.raises(InputError, match="--keypoints: expected a hub id, or a folder"):
        make("keypoints", f"vitpose={tmp_path / 'missing'}", Runtime())
    with pytest.raises(InputError, match="expected a model of type 'mask2former'"):
        make("detector", f"mask2former={folder}", Runtime())
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    with pytest.raises(InputError, match="expected a model that can be loaded"):
        make("keypoints", f"vitpose={tmp_path}", Runtime())


def test_weights_that_are_missing_are_no_random_numbers(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["head.conv.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 are missing, as head\.conv\.weight"):
        make("keypoints", f"vitpose={tmp_path}", Runtime())


def test_every_stage_says_where_it_comes_from() -> None:
    for info in (*stages("keypoints"), *stages("detector")):
        assert info.licence
        assert info.what
        assert info.weights or info.model is None

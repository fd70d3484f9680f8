"""The adapter of mmpose, against modules of its documented types: BGR and xyxy boxes in, keypoints on our plane out."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chorus.errors import InputError
from chorus.frontend.keypoints.mmpose import CONFIG
from chorus.frontend.registry import make
from chorus.frontend.stages import ImageRequest, Picture, Runtime
from chorus.keypoints import COCO_KEYPOINTS
from tests.frontend.fake_libraries import install


class FakeMmpose:
    """The two functions of mmpose.apis that are used; ``init_model`` and ``inference_topdown`` keep what they are given."""

    def __init__(self, folder: Path, names: dict[int, str]) -> None:
        self.names = names
        self.loaded: list[tuple[str, str, str]] = []
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        shipped = folder / "mmpose/.mim/configs/body_2d_keypoint/topdown_heatmap/coco" / CONFIG
        shipped.parent.mkdir(parents=True)
        shipped.touch()
        self.shipped, self.file = shipped, folder / "mmpose/__init__.py"

    def init_model(self, config: str, checkpoint: str, device: str) -> Any:
        if "missing" in checkpoint:
            raise FileNotFoundError(f"{checkpoint} can not be found.")
        self.loaded.append((config, checkpoint, device))
        return SimpleNamespace(dataset_meta={"keypoint_id2name": self.names})

    def inference_topdown(self, model: Any, img: np.ndarray, bboxes: np.ndarray, bbox_format: str = "xyxy") -> list[Any]:
        assert bbox_format == "xyxy"
        assert bboxes.shape == (1, 4)
        assert img.flags.c_contiguous
        self.seen.append((img, bboxes))
        # Pixel centres have whole numbers here: the k-th keypoint is the centre of pixel (x0 + k, y0 + 2 k).
        k = np.arange(17)
        points = np.stack([bboxes[0, 0] + k, bboxes[0, 1] + 2 * k], -1)[None].astype(np.float32)
        scores = np.where(k == 3, 1.2, k / 20)[None].astype(np.float32)
        return [SimpleNamespace(pred_instances=SimpleNamespace(keypoints=points, keypoint_scores=scores))]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMmpose:
    fake = FakeMmpose(tmp_path, dict(enumerate(COCO_KEYPOINTS)))
    apis = {"init_model": fake.init_model, "inference_topdown": fake.inference_topdown}
    install(monkeypatch, {"mmpose": {"__file__": str(fake.file)}, "mmpose.apis": apis})
    monkeypatch.chdir(tmp_path)
    for name in ("hrnet.pth", "mine.py", "mine.pth", "wholebody.py", "wholebody.pth"):
        Path(name).touch()
    return fake


def picture(height: int, width: int) -> Picture:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[...] = 200, 100, 50
    return Picture(ImageRequest("a", "p"), pixels)


def test_types_units_and_order(library: FakeMmpose) -> None:
    stage = make("keypoints", "mmpose=hrnet.pth", Runtime(device="cpu"))
    assert library.loaded == [(str(library.shipped), "hrnet.pth", "cpu")]
    boxes = np.array([[3, 4, 20, 30], [0.5, 1.5, 60, 39]], np.float32)
    found = stage.keypoints([picture(40, 24), picture(40, 64)], boxes)
    assert found.shape == (2, 17, 3)
    assert found.dtype == np.float32
    assert found[0, 5].tolist() == pytest.approx([3 + 5 + 0.5, 4 + 10 + 0.5, 0.25])
    assert found[1, 16].tolist() == pytest.approx([17, 34, 0.8])
    assert found[0, 3, 2] == 1  # a peak above 1 is cut
    assert [image[0, 0].tolist() for image, _ in library.seen] == [[50, 100, 200]] * 2  # blue first
    assert [image.shape for image, _ in library.seen] == [(40, 24, 3), (40, 64, 3)]
    assert [box.tolist() for _, box in library.seen] == [[boxes[0].tolist()], [boxes[1].tolist()]]
    assert stage.keypoints([], np.zeros((0, 4), np.float32)).shape == (0, 17, 3)


def test_another_configuration(library: FakeMmpose) -> None:
    make("keypoints", "mmpose=mine.py,mine.pth", Runtime(device="cpu"))
    assert library.loaded == [("mine.py", "mine.pth", "cpu")]


def test_other_keypoints_are_refused(library: FakeMmpose) -> None:
    library.names = {**library.names, 5: "right_shoulder", 6: "left_shoulder"}
    with pytest.raises(InputError, match="expected keypoint 5 to be 'left_shoulder', as in COCO, got 'right_shoulder'"):
        make("keypoints", "mmpose=hrnet.pth", Runtime())
    library.names = {i: str(i) for i in range(133)}
    with pytest.raises(InputError, match="expected the 17 keypoints of COCO, got 133"):
        make("keypoints", "mmpose=wholebody.py,wholebody.pth", Runtime())


def test_what_cannot_be_loaded(library: FakeMmpose) -> None:
    with pytest.raises(InputError, match=r"expected mmpose=.*; a checkpoint of td-hm_hrnet-w48_dark"):
        make("keypoints", "mmpose", Runtime())
    with pytest.raises(InputError, match=r"expected CHECKPOINT or CONFIG,CHECKPOINT of mmpose, got 'https://a/missing\.pth'"):
        make("keypoints", "mmpose=https://a/missing.pth", Runtime())
    with pytest.raises(InputError, match=r"expected CHECKPOINT or CONFIG,CHECKPOINT, files that exist; got 'none\.pth'"):
        make("keypoints", "mmpose=mine.py,none.pth", Runtime())
    library.shipped.unlink()
    with pytest.raises(InputError, match="beside mmpose, there is none: give CONFIG,CHECKPOINT"):
        make("keypoints", "mmpose=hrnet.pth", Runtime())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mmpose", "mmpose.apis"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"the module mmpose, which is not installed: pip install .mmpose"):
        make("keypoints", "mmpose=hrnet.pth", Runtime())

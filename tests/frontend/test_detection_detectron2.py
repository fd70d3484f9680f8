"""The adapter of detectron2, against modules of its documented types: BGR in, boxes, scores, classes and masks out."""

import sys
from pathlib import Path

import numpy as np
import pytest

from chorus.errors import InputError
from chorus.frontend.registry import make
from chorus.frontend.stages import ImageRequest, Picture, Runtime
from tests.frontend.fake_libraries import LVIS, FakeDetectron2
from tests.frontend.tiny_vision import COCO_NAMES

BALL, BABY = COCO_NAMES.index("sports ball"), LVIS.index("baby")
ZOO, LVIS_ZOO = "COCO/mask_rcnn.yaml", "LVIS/mask_rcnn.yaml"


def rows(weights: str, image: np.ndarray) -> list[tuple[list[float], float, int]]:
    """What the fake detectors find, by their weights."""
    if "LVIS" in weights:
        return [
            ([1, 1, 9, 9], 0.85, LVIS.index("soccer_ball")),
            ([2, 1, 9, 9], 0.75, LVIS.index("soccer_ball")),
            ([0, 0, 20, 30], 0.95, BABY),
        ]
    return [([4.25, 2, 12, 30], 0.6, 0), ([10, 3.5, 18, 8.75], 0.9, BALL), ([0, 0, 9, 9], 0.99, 5), ([3, 3, 9, 9], 0.4, 0)]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDetectron2:
    for name, dataset in ((ZOO, "coco_2017_val"), (LVIS_ZOO, "lvis_v0.5_val")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"DATASETS.TEST: {dataset}\n")
    fake = FakeDetectron2(rows, tmp_path)
    fake.install(monkeypatch, COCO_NAMES)
    return fake


def picture(height: int = 40, width: int = 24) -> Picture:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[...] = 200, 100, 50
    return Picture(ImageRequest("a", "p"), pixels)


def test_types_units_and_order(library: FakeDetectron2) -> None:
    stage = make("detector", f"detectron2={ZOO}", Runtime(device="cpu"))
    first, second = stage.detect([picture(), picture(30, 50)], "Sports Ball")
    assert library.seen[0].shape == (40, 24, 3)
    assert library.seen[0][0, 0].tolist() == [50, 100, 200]  # blue first
    assert first.labels == second.labels == ("Sports Ball", "person")
    assert first.boxes.tolist() == [[10, 3.5, 18, 8.75], [4.25, 2, 12, 30]]
    assert first.scores.tolist() == pytest.approx([0.9, 0.6])
    assert first.masks.shape == (2, 40, 24)
    assert first.masks[1].sum() == 28 * 8
    assert second.masks.shape == (2, 30, 50)
    (settings,) = library.configurations
    assert settings.MODEL.DEVICE == "cpu"
    assert vars(settings.MODEL)["WEIGHTS"] == f"https://zoo/{ZOO}.pkl"
    assert settings.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.5
    assert library.point_rend == 0


def test_nothing_found_boxes_outside_and_empty_masks(library: FakeDetectron2) -> None:
    stage = make("detector", f"detectron2={ZOO}", Runtime())
    library.says = lambda weights, image: []
    (found,) = stage.detect([picture()], "kite")
    assert found.masks.shape == (0, 40, 24)
    library.says = lambda weights, image: [([-3, -2, 30, 50], 0.9, 0), ([5.2, 5.2, 5.8, 5.8], 0.95, 0)]
    (found,) = stage.detect([picture()], "kite")
    assert found.boxes.tolist() == [[0, 0, 24, 40]]  # cut to the picture; the other one has no pixel


def test_people_of_one_model_and_objects_of_another(library: FakeDetectron2) -> None:
    stage = make("detector", f"detectron2={ZOO}", Runtime(options={"objects": f"{LVIS_ZOO},https://zoo/LVIS.pkl"}))
    stage.check("soccer ball")
    with pytest.raises(
        InputError, match=r"expected one of the 1230 of lvis_v0\.5_val, got 'soccer bal'; did you mean 'soccer ball'"
    ):
        stage.check("soccer bal")
    (found,) = stage.detect([picture()], "soccer ball")
    assert found.labels == ("soccer ball", "person")
    # 0.8 for LVIS, so the second ball is none; the person is that of COCO.
    assert found.scores.tolist() == pytest.approx([0.85, 0.6])
    assert [c.MODEL.ROI_HEADS.SCORE_THRESH_TEST for c in library.configurations] == [0.5, 0.8]


def test_people_are_called_baby_in_lvis(library: FakeDetectron2) -> None:
    stage = make("detector", f"detectron2={LVIS_ZOO}", Runtime(options={"threshold": "0.7"}))
    (found,) = stage.detect([picture()], "soccer_ball")
    assert found.labels == ("person", "soccer_ball", "soccer_ball")
    with pytest.raises(InputError, match="expected a kind of object"):
        stage.check("person")


def test_point_rend_by_path(library: FakeDetectron2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pointrend.yaml"
    file.write_text("MODEL.POINT_HEAD.NAME: StandardPointHead\nMODEL.WEIGHTS: detectron2://ImageNetPretrained/FAIR/X.pkl\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"--detector detectron2: expected a file that exists, got '~/weights\.pkl'"):
        make("detector", f"detectron2={file},~/weights.pkl", Runtime())
    (tmp_path / "weights.pkl").touch()
    stage = make("detector", f"detectron2={file},~/weights.pkl", Runtime())
    stage.check("surfboard")
    assert library.point_rend == 1
    (settings,) = library.configurations
    assert settings.MODEL.POINT_HEAD.NAME == "StandardPointHead"
    assert vars(settings.MODEL)["WEIGHTS"] == str(Path("~/weights.pkl").expanduser())
    with pytest.raises(InputError, match="it names no weights of a detector; give them as CONFIG,WEIGHTS"):
        make("detector", f"detectron2={file}", Runtime())


def test_what_cannot_be_loaded(library: FakeDetectron2, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model zoo or a YAML file, got 'nope\.yaml': nope\.yaml not available in Model Zoo"):
        make("detector", "detectron2=nope.yaml", Runtime())
    with pytest.raises(InputError, match=r"expected weights that can be loaded, got .*missing"):
        make("detector", f"detectron2={ZOO},https://zoo/missing.pkl", Runtime())
    with pytest.raises(InputError, match=r"expected a file that exists, got 'none\.pkl'"):
        make("detector", f"detectron2={ZOO},none.pkl", Runtime())
    with pytest.raises(InputError, match=r"expected a file that exists, got '/none\.yaml'"):
        make("detector", f"detectron2={ZOO}", Runtime(options={"objects": "/none.yaml"}))
    (tmp_path / "odd.yaml").write_text("DATASETS.TEST: my_val\n")
    with pytest.raises(InputError, match="expected a dataset whose classes detectron2 knows, got 'my_val'"):
        make("detector", f"detectron2={tmp_path / 'odd.yaml'},https://zoo/w.pkl", Runtime())


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(
        ImportError, match=r"not on PyPI: install torch first, then build it from source with .*facebookresearch"
    ):
        make("detector", "detectron2", Runtime())

"""Units of what stages give: one warning when a batch shows it first, one at the end with the number of images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chorus.camera.cameras import Cameras
from chorus.frontend.humans.pose_files import PosesFromFiles
from chorus.frontend.simulated import SimulatedDetector, SimulatedHumans, SimulatedImages, SimulatedKeypoints
from chorus.frontend.stages import Human, Instances, Picture
from chorus.units import UnitsWarning
from tests.frontend.test_humans_pose_files import camera, joints, weak, write
from tests.frontend.test_pipeline import BODY, run, stages

SIZE = (128, 160)  # height, width: large enough to tell pixels from shares of the image


class Changed(SimulatedHumans):
    """Humans of the oracle, changed."""

    def __init__(self, change: Callable[[Human, Picture], Human]) -> None:
        super().__init__(BODY)
        self.change = change

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Any]:
        found = super().humans(pictures, boxes)
        return [self.change(human, picture) for human, picture in zip(found, pictures, strict=True)]


class SharesDetector(SimulatedDetector):
    """Boxes in shares of the image's size."""

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        found = super().detect(pictures, category)
        return [replace(f, boxes=f.boxes / np.float32([SIZE[1], SIZE[0]] * 2)) for f in found]


class SharesKeypoints(SimulatedKeypoints):
    """Keypoints in shares of the image's size."""

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(super().keypoints(pictures, boxes) / np.float32([SIZE[1], SIZE[0], 1]))


def far(human: Human, picture: Picture) -> Human:
    height, width = picture.size
    K = [[[200.0, 0, width / 2], [0, 200, height / 2], [0, 0, 1]]]
    return replace(human, joints=None, camera=Cameras([np.diag([1, -1, -1])], [[0, 0, 3000]], K, [picture.size]))


def degrees(human: Human, _: Picture) -> Human:
    return replace(human, pose=np.rad2deg(human.pose))


def shares(human: Human, picture: Picture) -> Human:
    assert human.camera is not None
    projected = human.camera.project(BODY.posed_joints(human.pose[None]))[0][0]
    return replace(human, camera=None, joints=projected / picture.size[::-1])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"humans": Changed(far)}, "humans: camera.t: expected the person at most 100 metres away, got 3000 m for 'image-0"),
        ({"humans": Changed(degrees)}, "humans: pose: expected axis-angle in radians"),
        ({"humans": Changed(shares)}, "humans: joints: expected pixels"),
        ({"detector": SharesDetector(BODY)}, "detector: boxes: expected pixels"),
        ({"keypoints": SharesKeypoints(BODY)}, "keypoints: expected pixels"),
    ],
)
def test_a_run_says_it_at_once_and_counts_it(made: dict[str, Any], words: str, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report, _ = run(tmp_path / "s", stages(images=SimulatedImages(BODY, SIZE), **made))
    said = [str(w.message) for w in caught if w.category is UnitsWarning and str(w.message).startswith(words)]
    assert len(said) == 2, [str(w.message) for w in caught]
    (line,) = [line for line in report.warnings if line.startswith(words)]
    assert said[1] == line
    assert "more: " in line


def test_a_sound_run_says_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitsWarning)
        report, store = run(tmp_path / "s", stages(images=SimulatedImages(BODY, SIZE)))
    assert report.warnings == []
    assert len(store) == 12


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (weak() | {"pose": np.full((3, 24, 3), 40.0)}, "pose"),
        (joints() | {"orientation": np.full((3, 3), 90.0), "pose": np.zeros((3, 24, 3))}, "orientation"),
        (camera() | {"t": np.tile([0.0, 0, 4000], (3, 1)), "origin": np.array([-1.8, -223.3, 28.2])}, "origin"),
    ],
)
def test_files_of_poses(content: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.warns(UnitsWarning) as caught:
        PosesFromFiles(write(tmp_path / "x.npz", content), BODY)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"{field}: expected")
    assert "and 2 more: " in str(caught[0].message)


def test_a_person_given_again_is_taken_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.npz", weak())
    write(tmp_path / "b.json", {name: value[:2] for name, value in weak().items()})
    assert len(PosesFromFiles(tmp_path, BODY)) == 3
    assert "2 people were given again, number for number: taken once" in caplog.text

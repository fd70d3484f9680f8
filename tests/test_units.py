"""Numbers in other units are said aloud: once, with their value, and wherever they enter."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import chorus
from chorus.body.model import Body, load_body
from chorus.camera.cameras import Cameras
from chorus.cli import main
from chorus.images import ImageBatch
from chorus.store import StoreWriter
from chorus.units import UnitWarning, Watch
from tests.commands.test_ingest_records import FACTS, make

R = np.diag([1.0, -1.0, -1.0])
K = np.array([[500.0, 0, 32], [0, 500, 24], [0, 0, 1]])


def batch(n: int = 3, t: Any = (0, 0, 3), K: Any = K, pose: float = 0.0) -> ImageBatch:
    masks = np.zeros((n, 48, 64), bool)
    masks[:, 20:30, 40:50] = True
    cameras = Cameras(np.tile(R, (n, 1, 1)), np.tile(np.asarray(t, float), (n, 1)), np.tile(K, (n, 1, 1)), [[48, 64]] * n)
    poses = np.zeros((n, 24, 3), np.float32)
    poses[:, 1, 0] = pose
    return ImageBatch(masks, cameras, poses)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (batch(t=(0, 0, 3000)), r"camera\.t: expected metres.*got 3000 for 'image-0', and the like in 3 of 3 images"),
        (batch(t=(300, -250, 10)), r"camera\.t: expected metres.*got 390\.6"),
        (
            batch(K=np.array([[1.2, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]])),
            r"camera\.K: expected a focal length in pixels.*got 1\.2",
        ),
        (batch(pose=90), r"pose: expected axis-angle in radians, less than two turns; got 90"),
    ],
)
def test_other_units_are_named_once(images: ImageBatch, words: str) -> None:
    watch = Watch("ball")
    with pytest.warns(UnitWarning, match=f"ball: {words}"):
        watch.look(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(images)


def test_sound_numbers_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Watch("ball").look(batch(t=(0, 0, 99), pose=2 * np.pi))


def test_a_store_that_is_written_and_images_that_are_aggregated(tmp_path: Path) -> None:
    images = batch(t=(0, 0, 3000))
    with (
        StoreWriter(tmp_path / "s.chorus", category="ball") as writer,
        pytest.warns(UnitWarning, match=r"s\.chorus: camera\.t"),
    ):
        writer.append(images)
    field = chorus.CanonicalField(load_body(), 8)
    with pytest.warns(UnitWarning, match=r"images: camera\.t"):
        chorus.aggregate(images, field)
    with pytest.warns(UnitWarning, match=r"camera\.t"):
        chorus.aggregate(tmp_path / "s.chorus", field)


@pytest.mark.parametrize(("scale", "warned"), [(1000, True), (100, True), (1, False), (0.01, True)])
def test_a_body_in_other_units(scale: float, warned: bool, tmp_path: Path) -> None:
    body = load_body()
    names = [field.name for field in dataclasses.fields(Body)] if dataclasses.is_dataclass(Body) else []
    facts = {name: getattr(body, name) for name in names if hasattr(body, name)}
    facts.update(vertices=body.vertices * scale, joints=body.joints * scale)
    Body(**facts).save(tmp_path / "body.npz")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        load_body(tmp_path / "body.npz")
    assert [w.category for w in found] == [UnitWarning] * warned
    assert (
        not warned or f"got {1.7 * scale:.2g}"[:6] in str(found[0].message)[:200] or "expected metres" in str(found[0].message)
    )


def test_the_command_says_so(tmp_path: Path) -> None:
    camera = {**FACTS["camera"], "t": [0, 0, 3000]}  # type: ignore[dict-item]
    make(tmp_path / "r").joinpath("record.json").write_text(json.dumps({**FACTS, "camera": camera}))
    result = CliRunner().invoke(main, ["ingest", "records", str(tmp_path / "r"), "-o", str(tmp_path / "s.chorus")])
    assert result.exit_code == 0
    assert "chorus: warning: s.chorus: camera.t: expected metres" in result.stderr
    assert "got 3000 for 'r'" in result.stderr

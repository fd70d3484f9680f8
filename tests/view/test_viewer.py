"""The viewer in a headless Chromium: what is moved on its panel changes what is seen, and its console stays quiet."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from chorus.body.model import load_body
from chorus.errors import InputError
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import open_store
from chorus.view.poses import preset
from chorus.view.session import Question, Session
from chorus.view.viewer import Viewer, viser_package
from tests.browser import chromium as chromium
from tests.browser import quiet_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("viser")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("viewer") / "balls.chorus"
    write_world(path, [WORLDS["ball-held"], WORLDS["ball-kicked"]], num_images=60)
    return path


@pytest.fixture
def viewer(store: Path) -> Iterator[Viewer]:
    asked = Question(canonicalization="lbs-nearest")
    made = Viewer(Session(None, load_body(), store=open_store(store), resolution=16, question=asked))
    yield made
    made.stop()


def seen(page: Page) -> Any:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def changed(page: Page, before: Any, at_least: int = 200) -> Any:
    """A later picture of the page, when it differs in so many pixels; fails after a while."""
    for _ in range(60):
        after = seen(page)
        if (np.abs(after - before).max(-1) > 12).sum() >= at_least:
            return after
        page.wait_for_timeout(250)
    raise AssertionError("nothing changed")


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what a thread of the viewer does."""
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last
        time.sleep(0.05)


def still(page: Page) -> Any:
    """A picture of the page when two in a row are the same."""
    before = seen(page)
    for _ in range(40):
        page.wait_for_timeout(400)
        after = seen(page)
        if (np.abs(after - before).max(-1) > 12).sum() < 50:
            return after
        before = after
    raise AssertionError("it never came to rest")


def test_what_is_moved_is_seen(chromium: Browser, viewer: Viewer) -> None:
    viewer.wait()
    with quiet_page(chromium, offline=False) as page:
        page.goto(viewer.url)
        page.wait_for_selector("canvas")
        page.get_by_text("threshold").first.wait_for()
        shown = still(page)
        picture = os.environ.get("CHORUS_VIEWER_PICTURE")
        if picture:
            page.screenshot(path=picture)

        def move(change: Callable[[], None]) -> None:
            nonlocal shown
            change()
            changed(page, shown)
            viewer.wait()
            shown = still(page)

        body, controls = viewer.session.body, viewer.controls
        move(lambda: setattr(controls["threshold"], "value", round(0.8 * viewer.session.largest, 2)))
        assert viewer.session.threshold == controls["threshold"].value
        move(lambda: setattr(controls["preset"], "value", "sitting"))
        hip = body.joint_names.index("left_hip")
        assert controls[f"joint:{hip}:0"].value == -85
        assert np.array_equal(viewer.session.pose, preset(body, "sitting"))
        elbow = body.joint_names.index("left_elbow")
        move(lambda: setattr(controls[f"joint:{elbow}:1"], "value", -90))
        assert viewer.session.pose[elbow, 1] == pytest.approx(-np.pi / 2)
        assert viewer.session.pose[hip, 0] == pytest.approx(np.radians(-85))
        kicked = next(p for p in viewer.session.prompts() if "kick" in p)
        move(lambda: setattr(controls["prompt"], "value", kicked))
        assert viewer.session.question.prompt == kicked
        assert viewer.session.distribution.num_images == 30
        move(lambda: setattr(controls["cameras"], "value", True))
        move(lambda: viewer._click("camera", 3))  # what a click on a frustum does
        assert controls["image"].visible


def test_a_click_on_the_object_shows_the_images_behind_it(chromium: Browser, viewer: Viewer) -> None:
    viewer.wait()
    with quiet_page(chromium, offline=False) as page:
        page.goto(viewer.url)
        page.wait_for_selector("canvas")
        page.get_by_text("threshold").first.wait_for()
        shown = still(page)[:, :560]  # left of the panel
        orange = np.argwhere((shown[..., 0] - shown[..., 2] > 60) & (np.arange(560) > 320))
        y, x = orange[len(orange) // 2]
        page.mouse.move(float(x), float(y))
        page.wait_for_timeout(300)
        page.mouse.click(float(x), float(y))
        content = viewer.controls["voxel"]
        until(lambda: "on the mask" in content.content)
        found = re.search(r"\*\*(\d+)\*\* images have it on the mask", content.content)
        assert found is not None
        assert int(found[1]) > 0
        until(lambda: viewer.controls["voxel images"].visible)


def test_picture_and_surface_are_saved_from_the_page(chromium: Browser, viewer: Viewer, tmp_path: Path) -> None:
    viewer.wait()
    with quiet_page(chromium, offline=False) as page:
        page.goto(viewer.url)
        page.wait_for_selector("canvas")
        page.get_by_text("Save", exact=True).click()
        still(page)
        for button, name in (("picture (PNG)", "chorus-view.png"), ("surface and body (GLB)", "chorus-view.glb")):
            with page.expect_download(timeout=60_000) as download:
                page.get_by_text(button).click()
            assert download.value.suggested_filename == name
            download.value.save_as(tmp_path / name)
    with Image.open(tmp_path / "chorus-view.png") as picture:
        assert picture.size == (1440, 1080)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert 1000 < (pixels[..., 0] - pixels[..., 2] > 60).sum() < 500_000  # the object, and not everywhere
    assert set(trimesh.load(tmp_path / "chorus-view.glb").geometry) == {"object", "person"}


def test_what_cannot_be_answered_is_said(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> None:
        raise InputError("part: expected an image that touches the face, got none")

    viewer.wait()
    monkeypatch.setattr(viewer.session, "_aggregated", nothing)
    said, part = viewer.controls["said"], viewer.controls["part"]
    part.value = "face"
    until(lambda: said.visible)
    assert "touches the face" in said.content
    until(lambda: part.value == "any")
    assert part.value == viewer.session.question.part == "any"
    viewer.controls["threshold"].value = 1.0
    until(lambda: "nothing reaches 1.00" in viewer.controls["facts"].content)


def test_a_port_that_is_taken_is_refused(viewer: Viewer) -> None:
    with pytest.raises(InputError, match="--port: expected one that is free"):
        Viewer(viewer.session, viewer.server.get_port())


def test_the_command_serves_this_machine_alone_until_it_is_stopped(store: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chorus", "view", str(store), "--no-browser", "--resolution", "8"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in a shell's background ignore it
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        found = None
        while found is None:
            line = process.stdout.readline()
            assert line, lines
            lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        with socket.create_connection(("127.0.0.1", int(found[1])), 10):
            pass
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stdout.read()
    finally:
        process.kill()


def test_without_viser_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(InputError, match=r"expected viser, the extra `viewer` \(pip install"):
        viser_package()

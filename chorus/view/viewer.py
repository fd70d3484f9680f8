"""The viewer itself: a ``Session`` in the browser, by viser, on 127.0.0.1. It asks nothing of any other machine."""

from __future__ import annotations

import importlib
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chorus.errors import InputError
from chorus.view.poses import PRESETS, groups_of, preset
from chorus.view.session import Session

HOST = "127.0.0.1"
PERSON_COLOUR = (158, 168, 184)
SHELL_COLOURS = ((250, 180, 70), (225, 95, 30), (140, 20, 20))
"""Of the nested surfaces, from the outermost in: light to dark, apart for the colour-blind too."""
SHELL_OPACITIES = (0.3, 0.5, None)
VOTES_COLOUR = (60, 110, 200)
_MOST_DEGREES = 150


def viser_package() -> Any:
    """viser; InputError where it is not installed."""
    try:
        return importlib.import_module("viser")
    except ImportError as error:
        raise InputError(f"view: expected viser, the extra `viewer` (pip install '.[viewer]' in a checkout): {error}") from None


class Viewer:
    """A session, shown at ``url`` until ``stop``.

    session  what is shown            port  0: any that is free

    What is moved in the browser is asked of one worker, which always takes the newest state: while it works, movements are left
    out, not queued. Raises InputError for a port that is taken, and without viser.
    """

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        logging.getLogger("websockets").setLevel(logging.ERROR)  # which logs every client that hangs up
        viser = viser_package()
        with redirect_stdout(StringIO()):  # it greets
            self.server: Any = viser.ViserServer(host=HOST, port=port, label="CHORUS engine", verbose=False)
        if port not in (0, self.server.get_port()):
            self._close()
            raise InputError(f"--port: expected one that is free, got {port} (0 picks one)")
        self.seconds: dict[str, float] = {}
        """How long the last work of each kind took: "shape" (of a threshold), "take" and "pose" (of a pose), "question", ..."""
        self._wanted: set[str] = set()
        self._changed, self._stopped, self._ready = threading.Condition(), False, True
        self._shells: list[Any] = []
        self._clicked: tuple[str, Any] | None = None
        self._taken = session.pose
        self.controls: dict[str, Any] = {}
        """The controls by name: threshold, preset, weighting, ..., and joint:NAME."""
        self._scene()
        self._panel()
        self._thread = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._thread.start()
        self._want("shape")

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server.get_port()}"

    def stop(self) -> None:
        """End the server and the worker."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(10)
        self._close()

    def _close(self) -> None:
        with redirect_stdout(StringIO()):
            self.server.stop()

    def wait(self, seconds: float = 60) -> None:
        """Until everything that was asked for is shown. TimeoutError after so many seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ready and not self._wanted, seconds):
                raise TimeoutError(f"the viewer is busy after {seconds} s")

    # ---- what is in the browser

    def _scene(self) -> None:
        scene, gui = self.server.scene, self.server.gui
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
        scene.set_up_direction("+y")
        scene.configure_environment_map(hdri=None)
        scene.add_light_hemisphere("/lights/sky", intensity=0.9)
        scene.add_light_directional("/lights/sun", intensity=1.1, position=(2.0, 3.0, 3.0))
        lowest = float(self.session.body.rest_vertices[:, 1].min())
        scene.add_grid("/floor", width=4, height=4, plane="xz", position=(0, lowest, 0), cell_size=0.5)
        camera = self.server.initial_camera
        camera.position, camera.look_at, camera.up = (1.3, 0.5, 2.5), (0.25, -0.15, 0.0), (0.0, 1.0, 0.0)

    def _panel(self) -> None:
        gui, session = self.server.gui, self.session
        self.controls["facts"] = gui.add_markdown("")
        most = max(session.largest, 0.01)
        threshold = gui.add_slider(
            "threshold", min=0.01, max=1.0, step=0.01, initial_value=min(1.0, max(0.01, session.threshold))
        )
        self.controls["threshold"] = threshold
        threshold.hint = f"the outermost surface is around voxels of this probability or more; the largest is {most:.2f}"
        threshold.on_update(lambda _: self._want("shape"))
        self._question_folder()
        with gui.add_folder("Pose"):
            chosen = self.controls["preset"] = gui.add_dropdown("pose", PRESETS)
            chosen.on_update(lambda _: self._take_pose(preset(session.body, chosen.value)))
            for name, joints in groups_of(session.body).items():
                with gui.add_folder(name, expand_by_default=False):
                    for joint in joints:
                        self._joint(joint)
        if session.store is not None:
            self._image_folder()
        with gui.add_folder("Save", expand_by_default=False):
            gui.add_button("picture (PNG)").on_click(self._save_picture)
            gui.add_button("surface and body (GLB)").on_click(self._save_glb)

    def _question_folder(self) -> None:
        gui, session = self.server.gui, self.session
        asked: dict[str, list[str]] = {"weighting": session.weightings()}
        if session.store is not None:
            asked = {"prompt": session.prompts(), "part": session.parts(), **asked}
            asked["canonicalization"] = session.canonicalizations()
        with gui.add_folder("Images"):
            for name, options in asked.items():
                control = gui.add_dropdown(name, options, initial_value=getattr(session.question, name))
                control.on_update(lambda _: self._want("question"))
                self.controls[name] = control
            self.controls["progress"] = gui.add_progress_bar(0, visible=False)
            self.controls["said"] = gui.add_markdown("", visible=False)

    def _joint(self, joint: int) -> None:
        body, most = self.session.body, _MOST_DEGREES
        degrees = self._degrees(joint)
        for axis, letter in enumerate("xyz"):
            name = f"{body.joint_names[joint]} {letter}"
            control = self.server.gui.add_slider(
                name, min=-most, max=most, step=1, initial_value=degrees[axis], hint="degrees about the axis"
            )
            control.on_update(lambda _: self._want("pose"))
            self.controls[f"joint:{joint}:{axis}"] = control

    def _image_folder(self) -> None:
        gui = self.server.gui
        with gui.add_folder("Cameras", expand_by_default=False):
            shown = self.controls["cameras"] = gui.add_checkbox("show some", initial_value=False)
            shown.on_update(lambda _: self._want("cameras"))
            take = gui.add_button("take the image's pose", hint="of the camera clicked last")
            take.on_click(lambda _: self._take_image_pose())
            self.controls["image"] = gui.add_image(np.full((8, 8, 3), 225, np.uint8), label="click a camera", visible=False)
        with gui.add_folder("Voxel", expand_by_default=False):
            self.controls["voxel"] = gui.add_markdown("Click the outermost surface: which images voted for the object there.")
            self.controls["voxel images"] = gui.add_image(np.full((8, 8, 3), 225, np.uint8), visible=False)

    # ---- what is moved in the browser

    def _want(self, *kinds: str) -> None:
        with self._changed:
            self._wanted |= set(kinds)
            self._changed.notify_all()

    def _take_pose(self, pose: NDArray[np.float64]) -> None:
        self._taken = pose
        self._want("take")

    def _degrees(self, joint: int) -> list[int]:
        """What the sliders of a joint are at in the pose that is shown."""
        turned = np.degrees(self.session.pose[joint]).round().clip(-_MOST_DEGREES, _MOST_DEGREES)
        return [int(value) for value in turned]

    def _take_image_pose(self) -> None:
        if self._clicked is not None and self._clicked[0] == "camera":
            self._take_pose(np.array(self.session.cameras().poses[self._clicked[1]], np.float64))
            self._want("image")

    def _click(self, kind: str, what: Any) -> None:
        self._clicked = kind, what
        self._want("image" if kind == "camera" else "voxel")

    # ---- the worker

    def _work(self) -> None:
        steps: dict[str, Callable[[], None]] = {
            "question": self._ask,
            "take": self._show_taken,
            "pose": self._read_pose,
            "shape": self._show_shape,
            "cameras": self._show_cameras,
            "image": self._show_image,
            "voxel": self._show_voxel,
        }
        while True:
            with self._changed:
                self._ready = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._wanted or self._stopped)
                if self._stopped:
                    return
                wanted, self._wanted, self._ready = self._wanted, set(), False
            for kind, step in steps.items():
                if kind not in wanted:
                    continue
                start = time.perf_counter()
                try:
                    step()
                except InputError as error:
                    self._say(str(error))
                except Exception as error:  # the window outlives what goes wrong in it
                    logging.getLogger(__name__).exception("viewer: %s", kind)
                    self._say(f"{type(error).__name__}: {error}")
                self.seconds[kind] = time.perf_counter() - start

    def _say(self, text: str) -> None:
        said = self.controls["said"]
        said.content, said.visible = f"**{text}**" if text else "", bool(text)

    def _show_taken(self) -> None:
        """Show a pose, joints without a slider included, and set the sliders to it. Here alone: they change one by one."""
        self.session.set_pose(self._taken)
        for joints in groups_of(self.session.body).values():
            for joint in joints:
                for axis, value in enumerate(self._degrees(joint)):
                    self.controls[f"joint:{joint}:{axis}"].value = value
        self._show_shape()

    def _read_pose(self) -> None:
        """Take what the sliders are at, joint by joint where they were moved: the others keep what degrees would round."""
        pose = self.session.pose.copy()
        for joints in groups_of(self.session.body).values():
            for joint in joints:
                degrees = [self.controls[f"joint:{joint}:{axis}"].value for axis in range(3)]
                if degrees != self._degrees(joint):
                    pose[joint] = np.radians(degrees)
        if not np.array_equal(pose, self.session.pose):
            self.session.set_pose(pose)
            self._show_shape()

    def _ask(self) -> None:
        bar = self.controls["progress"]
        names = [name for name in ("prompt", "part", "weighting", "canonicalization") if name in self.controls]
        question = replace(self.session.question, **{name: self.controls[name].value for name in names})
        if question == self.session.question:  # a control was set back to it
            return
        self._say("")
        bar.value, bar.visible = 0, True
        try:
            self.session.ask(question, lambda done, total: setattr(bar, "value", 100 * done / total if total else 50))
        except InputError:
            for name in names:
                self.controls[name].value = getattr(self.session.question, name)
            raise
        finally:
            bar.visible = False
        if self.controls["threshold"].value > self.session.largest:
            self.controls["threshold"].value = max(0.01, self.session.suggested_threshold())
        self._want("cameras")
        self._show_shape()

    def _show_shape(self) -> None:
        session, scene = self.session, self.server.scene
        session.threshold = float(self.controls["threshold"].value)
        shells, person = session.shells(), session.person()
        with self.server.atomic():
            if "person" not in self.controls:
                faces = np.asarray(session.body.faces, np.uint32)
                self.controls["person"] = scene.add_mesh_simple("/person", person, faces, color=PERSON_COLOUR, side="double")
            self.controls["person"].vertices = person
            for handle in self._shells[len(shells) :]:
                handle.remove()
            self._shells = [self._shell(i, shell.vertices, shell.faces) for i, shell in enumerate(shells)]
        images = f"{session.distribution.num_images:,} images"
        if shells:
            levels = ", ".join(f"{shell.level:.2f}" for shell in shells)
            shown = f"surfaces at {levels} of at most {session.largest:.2f}"
        else:
            shown = f"nothing reaches {session.threshold:.2f}; the largest is {session.largest:.2f}"
        self.controls["facts"].content = f"**{session.distribution.category or 'object'}**, {images}: {shown}"

    def _shell(self, index: int, vertices: NDArray[np.float32], faces: NDArray[np.uint32]) -> Any:
        handle = self.server.scene.add_mesh_simple(
            f"/object/{index}",
            vertices,
            faces,
            color=SHELL_COLOURS[index],
            opacity=SHELL_OPACITIES[index],
            side="double" if index else "front",
            cast_shadow=False,
            receive_shadow=False,
        )
        if self.session.store is not None and index == 0:
            handle.on_click(lambda event: self._click("ray", (event.ray_origin, event.ray_direction)))
        return handle

    def _show_cameras(self) -> None:
        scene = self.server.scene
        if "frusta" in self.controls:
            for handle in self.controls.pop("frusta"):
                handle.remove()
        if "cameras" not in self.controls or not self.controls["cameras"].value:
            return
        cameras, made = self.session.cameras().cameras, []
        rotation_to_quaternion = importlib.import_module("viser.transforms").SO3.from_matrix
        for i, (R, centre, K, size) in enumerate(zip(cameras.R, cameras.centres, cameras.K, cameras.image_size, strict=True)):
            height, width = (float(n) for n in size)
            frustum = scene.add_camera_frustum(
                f"/cameras/{i}",
                fov=2 * math.atan2(height / 2, float(K[1, 1])),
                aspect=width / height,
                scale=0.1,
                thickness=0.006,
                color=(60, 60, 60),
                wxyz=rotation_to_quaternion(np.asarray(R, np.float64).T).wxyz,
                position=np.asarray(centre, np.float64),
            )
            frustum.on_click(lambda _, row=i: self._click("camera", row))
            made.append(frustum)
        self.controls["frusta"] = made

    def _show_image(self) -> None:
        if self._clicked is None or self._clicked[0] != "camera":
            return
        row, scene = self._clicked[1], self.server.scene
        key, image = self.session.cameras().keys[row].decode(), self.controls["image"]
        image.image, image.label, image.visible = self.session.picture(row), key, True
        votes = self.session.votes(row)
        if "votes" in self.controls:
            self.controls.pop("votes").remove()
        if votes is not None:
            self.controls["votes"] = scene.add_mesh_simple(
                "/votes", votes.vertices, votes.faces, color=VOTES_COLOUR, opacity=0.2, side="double", cast_shadow=False
            )

    def _show_voxel(self) -> None:
        if self._clicked is None or self._clicked[0] != "ray":
            return
        point = self.session.hit(*self._clicked[1])
        if point is None:
            return
        self.controls["voxel"].content = "asking the images ..."
        found = self.session.behind(point)
        sphere = self.server.scene.add_icosphere("/voxel", radius=0.025, color=(20, 20, 20), position=point)
        self.controls["sphere"] = sphere
        some = "\n".join(f"- {key.decode()}" for key in found.on_mask[:8])
        self.controls["voxel"].content = (
            f"Voxel {found.voxel}: **{len(found.on_mask):,}** images have it on the mask, {len(found.off_mask):,} beside it, "
            f"{found.unseen:,} do not see it (phi {found.probability:.2f} unweighted).\n\n{some}"
        )
        sheet = self.session.contact_sheet(found.on_mask[:6])
        if sheet is not None:
            self.controls["voxel images"].image, self.controls["voxel images"].visible = sheet, True

    # ---- what is saved

    def _save_picture(self, event: Any) -> None:
        client = event.client
        if client is None:
            return
        out = BytesIO()
        Image.fromarray(client.get_render(height=1080, width=1440, transport_format="png")).save(out, "PNG")
        client.send_file_download("chorus-view.png", out.getvalue(), save_immediately=True)

    def _save_glb(self, event: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "chorus-view.glb"
            try:
                self.session.write(path)
            except InputError as error:
                self._say(str(error))
                return
            (event.client or self.server).send_file_download(path.name, path.read_bytes(), save_immediately=True)

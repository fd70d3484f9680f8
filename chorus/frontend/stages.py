"""The interfaces of the front end's stages: a protocol for each, and the plain data that they exchange.

Conventions of all of them: I images, J joints of the body in use. Images are RGB. Boxes are x0, y0, x1, y1 in pixels, half
open, on a plane where pixel (column c, row r) covers [c, c + 1) x [r, r + 1), so that the box of a mask is (least column,
least row, greatest column + 1, greatest row + 1) and the centre of a pixel lies at + 0.5. Points are on the same plane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus.errors import InputError, check_array

if TYPE_CHECKING:
    from chorus.body.model import Body
    from chorus.camera.cameras import Cameras
    from chorus.frontend.prompting.parsing import Dropped

PERSON = "person"
"""The label of people among a detector's instances; the object's is the category that was asked for."""


@dataclass(frozen=True)
class ImageRequest:
    """One image to make or to read.

    key     its unique name in the store, also the name of its picture: no leading slash, no ``..``
    prompt  the interaction, as in "A person carries a surfboard"
    view    the view augmentation of A.1, as in "side view"; "" for none
    seed    of its initial noise; 0 .. 2^63 - 1, or -1 where the image is not generated
    """

    key: str
    prompt: str
    view: str = ""
    seed: int = -1

    @property
    def text(self) -> str:
        """The prompt with its view augmentation, which is what the image is made from."""
        return f"{self.prompt}, {self.view}" if self.view else self.prompt


@dataclass(frozen=True)
class Picture:
    """An image on its way through the stages: ``pixels`` (H, W, 3) uint8 RGB and what was asked for."""

    request: ImageRequest
    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        p = self.pixels
        if p.ndim != 3 or p.shape[2] != 3 or p.dtype != np.uint8 or 0 in p.shape:
            raise InputError(f"pixels: expected (H, W, 3) uint8 RGB, got {p.dtype} of shape {p.shape}")

    @property
    def key(self) -> str:
        return self.request.key

    @property
    def size(self) -> tuple[int, int]:
        """Height, width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class Refusal:
    """A stage's result for an image that it cannot use: the reason, in a few words that become the row's status."""

    reason: str

    def __post_init__(self) -> None:
        if not self.reason or self.reason == "complete":
            raise InputError(f"reason: expected a few words other than 'complete', got {self.reason!r}")


@dataclass(frozen=True)
class Instances:
    """N people and objects found in one image, most confident first.

    boxes   (N, 4) float32 x0, y0, x1, y1 pixels      scores  (N,) float32 in 0..1
    labels  N str: "person" or the category           masks   (N, H, W) bool
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    masks: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.labels)
        for name, value, shape, dtype in (
            ("boxes", self.boxes, (n, 4), np.float32),
            ("scores", self.scores, (n,), np.float32),
            ("masks", self.masks, (n, "H", "W"), np.bool_),
        ):
            object.__setattr__(self, name, check_array(f"instances.{name}", value, shape, dtype))
        bad = np.flatnonzero((self.boxes[:, 2:] < self.boxes[:, :2]).any(1))
        if bad.size:
            raise InputError(f"instances.boxes: expected x0 <= x1 and y0 <= y1, got {self.boxes[bad[0]].tolist()}")
        bad = np.flatnonzero((self.scores < 0) | (self.scores > 1))
        if bad.size:
            raise InputError(f"instances.scores: expected 0 .. 1, got {self.scores[bad[0]]:g}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Instances:
        """Some of the instances, by indices (M,) or by (N,) bool."""
        chosen = np.arange(len(self))[rows]
        labels = tuple(self.labels[i] for i in chosen.tolist())
        return Instances(self.boxes[chosen], self.scores[chosen], labels, self.masks[chosen])

    def of(self, label: str) -> Instances:
        """The instances with this label."""
        return self[np.array([found == label for found in self.labels], np.bool_)]


@dataclass(frozen=True)
class Human:
    """One person's 3D pose and what is known of the camera.

    pose         (J, 3) float64 axis-angle in radians, SMPL joint order; row 0 zero
    orientation  (3,) float64 axis-angle: the person's frame (+x the person's left, +y up, +z forward) to the camera's axes (x
                 right, y down, z forward); the global orientation that the pose lacks
    joints       (J, 2) float64 projected joints in pixels of the whole image, the targets of Eq. 8; they may lie outside of
                 it, NaN where there is none; None where the camera is known
    betas        (B,) float64 shape coefficients, or None
    camera       one camera in the person's frame where it is known; then nothing is fitted
    estimator    name of the method that found the pose, kept in the store; "" stands for the stage's name
    crop_camera  (3,) float64 s, tx, ty of the regressor in its square crop of the person, x in -1..1 across it = s (X + tx),
                 X in metres from the pelvis, in the camera's axes; or None. What the paper's camera fit starts from (A.4)
    joint_std    (J,) float64 radians, how uncertain each joint's rotation is (row 0: the orientation's), NaN where that is not
                 known; or None
    limbs_seen   (4,) bool, whether left arm, left leg, right arm and right leg were seen, rather than posed by what is usual;
                 or None where the estimator does not say
    """

    pose: NDArray[np.float64]
    orientation: NDArray[np.float64]
    joints: NDArray[np.float64] | None
    betas: NDArray[np.float64] | None = None
    camera: Cameras | None = None
    estimator: str = ""
    crop_camera: NDArray[np.float64] | None = None
    joint_std: NDArray[np.float64] | None = None
    limbs_seen: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        pose = check_array("human.pose", self.pose, ("J", 3), np.float64)
        if len(pose) == 0 or pose[0].any():
            raise InputError(
                f"human.pose: expected a row for each joint, row 0 zero, got {len(pose)} rows, the first {pose[:1].tolist()}"
            )
        object.__setattr__(self, "pose", pose)
        object.__setattr__(self, "orientation", check_array("human.orientation", self.orientation, (3,), np.float64))
        if self.joints is not None:
            joints = check_array("human.joints", self.joints, (len(pose), 2), np.float64, finite=False)
            object.__setattr__(self, "joints", joints)
        if self.betas is not None:
            object.__setattr__(self, "betas", check_array("human.betas", self.betas, ("B",), np.float64))
        if self.crop_camera is not None:
            object.__setattr__(self, "crop_camera", check_array("human.crop_camera", self.crop_camera, (3,), np.float64))
        if self.joint_std is not None:
            std = check_array("human.joint_std", self.joint_std, (len(pose),), np.float64, finite=False)
            object.__setattr__(self, "joint_std", std)
        if self.limbs_seen is not None:
            object.__setattr__(self, "limbs_seen", check_array("human.limbs_seen", self.limbs_seen, (4,), np.bool_))
        if (self.joints is None) == (self.camera is None):
            raise InputError(
                "human: expected either projected joints or a camera, got " + ("neither" if self.joints is None else "both")
            )


class PromptSource(Protocol):
    """Gives interactions of people with a category of object.

    It may also have ``provenance()``, a dict of JSON's types that says where the prompts of the last call come from, and
    ``dropped``, those that the last call left out: texts and reasons as ``chorus.frontend.prompting.parsing.Dropped``.
    ``prompt_provenance`` and ``dropped_prompts`` stand for them where they are missing.
    """

    def prompts(self, category: str, count: int) -> list[str]:
        """At most ``count`` different prompts, at least one. InputError where none can be had."""
        ...


class ImageSource(Protocol):
    """Makes images, or reads them. The same request gives the same pixels, whatever else is asked for with it."""

    def images(self, requests: Sequence[ImageRequest]) -> Sequence[Picture | Refusal]:
        """A picture (H, W, 3) or a refusal for each request, in order."""
        ...


class Detector(Protocol):
    """Finds people and objects of a category, with boxes and masks.

    It may also have ``check(category)``, which raises InputError, naming what can be found, where the category is not among
    it. ``check_category`` calls it, once, before the work.
    """

    def detect(self, pictures: Sequence[Picture], category: str) -> Sequence[Instances]:
        """Instances labelled "person" or ``category`` in each picture, by the stage's confidence threshold; with duplicates."""
        ...


class KeypointEstimator(Protocol):
    """Finds the 17 keypoints of COCO of one person an image."""

    def keypoints(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(I, 17, 3) float32 x, y in pixels of the whole image and confidence in 0..1, from the persons' boxes (I, 4)."""
        ...


class HumanEstimator(Protocol):
    """Finds the 3D pose of one person an image."""

    def humans(self, pictures: Sequence[Picture], boxes: NDArray[np.float32]) -> Sequence[Human | Refusal]:
        """The person of each picture, or a refusal, from the persons' boxes (I, 4) float32 x0, y0, x1, y1 pixels."""
        ...


def prompt_provenance(source: PromptSource, spec: str) -> dict[str, Any]:
    """Where the prompts of a source's last call come from, in JSON's types; without ``provenance`` only ``spec``."""
    provenance = getattr(source, "provenance", None)
    found: dict[str, Any] = {"stage": spec} if provenance is None else provenance()
    return found


def dropped_prompts(source: PromptSource) -> list[Dropped]:
    """What a source's last call left out, with reasons; nothing for a source that does not keep it."""
    return list(getattr(source, "dropped", ()))


def check_category(detector: Detector, category: str) -> None:
    """InputError where a detector does not know a category. A detector without ``check`` is taken to know all."""
    check = getattr(detector, "check", None)
    if check is not None:
        check(category)


@dataclass(frozen=True)
class Runtime:
    """Where and how a stage runs.

    device      a torch device, as in "cuda" or "cpu"
    dtype       "float32", "float16" or "bfloat16" of the models
    batch_size  most images that a model is given at a time; None: as many as its memory holds
    options     the stage's own settings, name -> text
    body        the body that poses belong to; None where a stage needs none
    kind        the stage's kind, for messages about its options
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    kind: str = ""

    def option_name(self, name: str) -> str:
        """An option as the command line has it."""
        return f"--set {self.kind}.{name}" if self.kind else f"--set {name}"

    def check_options(self, known: Sequence[str]) -> None:
        """InputError for an option that the stage does not have."""
        for name in self.options:
            if name not in known:
                listed = ", ".join(known) if known else "none"
                raise InputError(f"{self.option_name(name)}: expected one of this stage's options ({listed}), got {name!r}")

    def number(self, name: str, default: float, least: float = 0.0, most: float = 1.0) -> float:
        """An option as a number, ``default`` where it is not set. InputError outside ``least`` .. ``most``."""
        text = self.options.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise InputError(f"{self.option_name(name)}: expected a number from {least:g} to {most:g}, got {text!r}")
        return value

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        """An option as a whole number, ``default`` where it is not set. InputError for other texts and outside the bounds."""
        value = self.number(name, default, least, most)
        if value != int(value):
            raise InputError(f"{self.option_name(name)}: expected a whole number, got {self.options[name]!r}")
        return int(value)

    def one_of(self, name: str, known: Sequence[str]) -> str:
        """An option with few choices, the first of which is the default. InputError for any other text."""
        value = self.options.get(name, known[0])
        if value not in known:
            raise InputError(f"{self.option_name(name)}: expected {' or '.join(known)}, got {value!r}")
        return value

"""What a viewer shows, without a viewer: from a distribution, a pose and a threshold to surfaces, and back to the images.

Everything is in the posed person's frame (metres, +x the person's left, +y up, +z forward), which is the rest pose's person
frame where the pose is the rest pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from chorus.body.model import Body
from chorus.camera.views import WEIGHTINGS
from chorus.canonicalization import AUTO, PER_VOXEL
from chorus.errors import InputError, check_array, check_number
from chorus.field import CanonicalField
from chorus.images import ImageBatch, vote_images
from chorus.kernels.backends import choose_backend
from chorus.occupancy.aggregation import aggregate
from chorus.occupancy.counts import Occupancy
from chorus.occupancy.distribution import Distribution
from chorus.occupancy.posed import body_of, posed_occupancy, sample_trilinear
from chorus.occupancy.query import canonical_point
from chorus.occupancy.surfaces import OBJECT, PERSON, body_mesh, surface, write_meshes
from chorus.provenance import provenance
from chorus.store import Store
from chorus.store.filters import filter_rows
from chorus.votes.explain import Explanation, explain
from chorus.votes.parts import PARTS

LEVELS = (0.0, 0.4, 0.75)
"""Where the nested surfaces lie between the threshold and the largest phi, as shares of the way."""
MOST_CAMERAS = 48
ANY = "any"
"""The prompt and the body part that exclude nothing."""
_RAY_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Shell:
    """A closed surface: vertices (V, 3) float32 metres, faces (F, 3) uint32, and the phi that it is at."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.uint32]
    level: float


@dataclass(frozen=True)
class Question:
    """What is asked of a store: the arguments of ``chorus.aggregate``. ANY: of every prompt, whatever the object touches."""

    prompt: str = ANY
    part: str = ANY
    weighting: str = "azimuth"
    canonicalization: str = "lbs"


class Session:
    """A distribution as it is being looked at.

    distribution  what is shown           body       it is around       store  the images it is made of, or None
    pose          (J, 3) radians, row 0 zero           threshold  of the outermost surface

    A store is aggregated at once, as ``question`` says. Not for several threads at a time. Raises InputError and MismatchError
    for a body or a store that does not fit.
    """

    def __init__(
        self,
        distribution: Distribution | None,
        body: Body | None = None,
        *,
        store: Store | None = None,
        resolution: int = 48,
        question: Question | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.store, self.question = store, question or Question()
        self._fields: dict[str, CanonicalField] = {}
        if distribution is None:
            if store is None or body is None:
                raise InputError("distribution: expected one, or a store and its body, got neither")
            self.body, self.resolution = body, resolution
            distribution = self._aggregated(self.question, progress)
        else:
            shown = distribution.parameters.canonicalization
            self.question = replace(self.question, weighting=distribution.weighting, canonicalization=shown)
        self.body = body_of(distribution.body_hash, body)
        self.resolution = distribution.parameters.resolution
        self.distribution: Distribution = distribution
        self.threshold = self.suggested_threshold()
        self.pose = np.array(self.body.rest_pose)
        self._posed: tuple[bytes, NDArray[np.float32]] | None = None
        self._cameras: ImageBatch | None = None

    # ---- what is shown

    @property
    def largest(self) -> float:
        """The largest phi."""
        return float(self.distribution.probability.max())

    def suggested_threshold(self) -> float:
        """Half of the largest phi, to two digits; 0.5 where there is none."""
        return round(self.largest / 2, 2) or self.largest / 2 or 0.5

    def set_pose(self, pose: Any) -> None:
        """Take a pose (J, 3), axis-angle in radians; its row 0 is set to zero. InputError for another shape."""
        self.pose = check_array("pose", pose, (self.body.num_joints, 3), np.float64).copy()
        self.pose[0] = 0

    def phi(self) -> NDArray[np.float32]:
        """phi around the posed person, (N, N, N); kept until pose or distribution change."""
        key = self.pose.tobytes()
        if self._posed is None or self._posed[0] != key:
            self._posed = key, self.carried(self.distribution.probability)
        return self._posed[1]

    def carried(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (N, N, N) of the rest pose's grid around the posed person; themselves in the rest pose."""
        if np.array_equal(self.pose, self.body.rest_pose):
            return values
        d = self.distribution
        return posed_occupancy(values, self.pose, d.parameters, d.body_hash, self.body)

    def shells(self) -> list[Shell]:
        """Nested surfaces from the threshold inwards, the outermost first; none where phi is lower everywhere."""
        phi, most = self.phi(), self.largest
        if not 0 < self.threshold <= float(phi.max()):
            return []
        levels = [self.threshold + share * (most - self.threshold) for share in LEVELS]
        return [_shell(phi, self.distribution.parameters.extent, level) for level in levels if level <= float(phi.max())]

    def person(self) -> NDArray[np.float32]:
        """Vertices of the posed body, (V, 3) float32 metres; its faces are ``body.faces``."""
        vertices: NDArray[np.float32] = self.body.posed_vertices(self.pose[None])[0].astype(np.float32)
        return vertices

    def write(self, path: Path) -> None:
        """Write the outermost surface and the posed body to a .glb, .ply or .obj. InputError where there is no surface."""
        extent = self.distribution.parameters.extent
        meshes = {
            OBJECT: surface(self.phi(), extent, self.threshold),
            PERSON: body_mesh(self.body.posed_vertices(self.pose[None])[0], self.body.faces),
        }
        made_of = {"threshold": self.threshold, "pose": self.pose.tolist(), "made_of": self.distribution.provenance}
        write_meshes(path, meshes, {**provenance(), **made_of})

    # ---- other questions

    def weightings(self) -> list[str]:
        """View weightings that can be had without the images."""
        occupancy = self.distribution
        if not isinstance(occupancy, Occupancy):
            return [occupancy.weighting]
        found = []
        for name in WEIGHTINGS:
            try:
                occupancy.scheme.weights(name, occupancy.group_totals)
            except InputError:
                continue
            found.append(name)
        return found

    def prompts(self) -> list[str]:
        """Prompts of the store's images, ANY first."""
        return [ANY, *(self.store.prompts if self.store is not None else [])]

    def parts(self) -> list[str]:
        """Body parts that the object may touch, ANY first."""
        return [ANY, *PARTS]

    def canonicalizations(self) -> list[str]:
        """Names of canonicalizations of this body."""
        return ["lbs", "lbs-nearest", "none", AUTO, PER_VOXEL, *(f"joint:{name}" for name in self.body.joint_names[1:])]

    def ask(self, question: Question, progress: Callable[[int, int | None], None] | None = None) -> None:
        """Show the answer to another question: by weighting alone at once, otherwise by a pass over the store's images.

        InputError where it cannot be answered; what is shown is then as before. The threshold is kept where it is below the
        largest phi.
        """
        occupancy, changed = self.distribution, question != self.question
        others = (question.prompt, question.part, question.canonicalization)
        if others == (self.question.prompt, self.question.part, self.question.canonicalization):
            if question.weighting != occupancy.weighting and isinstance(occupancy, Occupancy):
                occupancy = occupancy.reweight(question.weighting)
        elif changed:
            occupancy = self._aggregated(question, progress)
        if question.prompt != self.question.prompt:
            self._cameras = None
        self.distribution, self.question, self._posed = occupancy, question, None
        if self.threshold > self.largest:
            self.threshold = self.suggested_threshold()

    def _aggregated(self, question: Question, progress: Callable[[int, int | None], None] | None) -> Occupancy:
        if self.store is None:
            raise InputError("prompt, part, canonicalization: expected a store to ask, got an occupancy alone")
        derived = question.canonicalization in (AUTO, PER_VOXEL)
        field = self._field("lbs" if derived else question.canonicalization)
        return aggregate(
            self.store,
            field,
            question.weighting,
            prompt=None if question.prompt == ANY else question.prompt,
            part=None if question.part == ANY else question.part,
            scheme="azimuth-elevation",  # of which every weighting can be made
            canonicalization=question.canonicalization if derived else None,
            progress=progress,
        )

    def _field(self, name: str) -> CanonicalField:
        if name not in self._fields:
            self._fields[name] = CanonicalField(self.body, self.resolution, canonicalization=name)
        return self._fields[name]

    @property
    def field(self) -> CanonicalField:
        """The field of what is shown."""
        p = self.distribution.parameters
        if self._fields.get("shown") is None or self._fields["shown"].parameters != p:
            known = [field for field in self._fields.values() if field.parameters == p]
            self._fields["shown"] = known[0] if known else CanonicalField.from_parameters(self.body, p)
        return self._fields["shown"]

    # ---- the images

    def cameras(self, most: int = MOST_CAMERAS) -> ImageBatch:
        """Some of the prompt's images that count, spread over the store's rows, with cameras; InputError without a store."""
        if self.store is None:
            raise InputError("cameras: expected a store, got an occupancy alone")
        if self._cameras is None:
            prompt = None if self.question.prompt == ANY else self.question.prompt
            rows, _, _ = filter_rows(self.store, self.store.select(prompt=prompt), "store")
            if len(rows) == 0:
                raise InputError("store: expected an image that counts, got none")
            self._cameras = self.store.batch(rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))])
        return self._cameras

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Image ``row`` of ``cameras()`` with its mask, (H, W, 3): the photograph where the store has it, else grey."""
        return self._tinted(self.cameras(), row)

    def _tinted(self, batch: ImageBatch, row: int) -> NDArray[np.uint8]:
        mask = batch.masks.unpack(row)
        photo = None if self.store is None else self.store.picture(batch.keys[row])
        base = np.full((*mask.shape, 3), 225, np.uint8) if photo is None or photo.shape[:2] != mask.shape else photo[..., :3]
        tinted = base.astype(np.float32)
        tinted[mask] = 0.4 * tinted[mask] + 0.6 * np.array([237.0, 107, 33])
        return tinted.round().astype(np.uint8)

    def votes(self, row: int) -> Shell | None:
        """The surface around the voxels that image ``row`` of ``cameras()`` votes for, in the pose shown; None: for none."""
        one = self.cameras()[np.array([row])]
        backend = choose_backend("auto")
        num, _ = backend.count_votes(self.field.arrays, vote_images(one), torch.zeros(1, dtype=torch.int64), num_groups=1)
        values = num.cpu().numpy().reshape((self.resolution,) * 3).astype(np.float32)
        carried = self.carried(values)
        return _shell(carried, self.field.extent, 0.5) if carried.any() else None

    def hit(self, origin: Any, direction: Any) -> NDArray[np.float64] | None:
        """Where a ray (3,), (3,) first meets the outermost surface, (3,) metres; None where it misses."""
        start, along = np.asarray(origin, np.float64), np.asarray(direction, np.float64)
        along = along / np.linalg.norm(along)
        extent = self.distribution.parameters.extent
        away = np.linalg.norm(start) + extent
        points = start + np.linspace(0, away + extent, _RAY_STEPS)[:, None] * along
        inside = np.flatnonzero(sample_trilinear(self.phi(), points, extent) >= self.threshold)
        return None if not inside.size else points[inside[0]]

    def behind(self, point: Any) -> Explanation:
        """How the store's images voted on the voxel that is now at a point (3,) around the posed person (Eq. 11 backwards)."""
        if self.store is None:
            raise InputError("voxel: expected a store whose images voted, got an occupancy alone")
        check_number("point", float(np.asarray(point)[0]))
        d = self.distribution
        back = np.asarray(point, np.float64)
        if not np.array_equal(self.pose, self.body.rest_pose):
            back = canonical_point(d.probability, point, self.pose, d.parameters, self.body).numpy()
        half = d.parameters.extent / 2 - 1e-9
        asked: dict[str, Any] = {} if self.question.prompt == ANY else {"prompt": self.question.prompt}
        asked |= {} if self.question.part == ANY else {"part": self.question.part}
        return explain(np.clip(back, -half, half), self.store, self.field, **asked)

    def contact_sheet(self, keys: Sequence[bytes] | NDArray[np.bytes_], side: int = 160) -> NDArray[np.uint8] | None:
        """Masked pictures of the store's images with these keys, three a row, (H, W, 3) uint8; None for no keys."""
        if self.store is None or len(keys) == 0:
            return None
        rows = np.flatnonzero(np.isin(self.store.rows["key"], np.asarray(keys)))
        batch = self.store.batch(rows)
        sheet = np.full((-(-len(rows) // 3) * side, 3 * side, 3), 255, np.uint8)
        for i in range(len(rows)):
            small = Image.fromarray(self._tinted(batch, i))
            small.thumbnail((side - 4, side - 4))
            y, x = i // 3 * side, i % 3 * side
            sheet[y : y + small.height, x : x + small.width] = np.asarray(small)
        return sheet


def _shell(values: NDArray[np.float32], extent: float, level: float) -> Shell:
    mesh = surface(values, extent, level)
    return Shell(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32), level)

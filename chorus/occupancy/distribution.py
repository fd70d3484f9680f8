"""What all distributions around the canonical person have: a probability on a field's grid, to pose and to mesh."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chorus.field import FieldParameters, voxel_centres

if TYPE_CHECKING:
    from torch import Tensor
    from trimesh import Trimesh

    from chorus.body.model import Body
    from chorus.report.interactive import View
    from chorus.store import Store


class Distribution:
    """Where an object is around the canonical person: the base of ``Occupancy``, and of what else can be posed and scored.

    parameters  of the field          body_hash   of the body that the field is around
    category    of the object         weighting   of views
    provenance  versions, sources, command lines
    """

    parameters: FieldParameters
    body_hash: str
    category: str
    weighting: str
    provenance: list[dict[str, Any]]
    if TYPE_CHECKING:  # each kind has its own: computed, or kept

        @property
        def probability(self) -> NDArray[np.float32]:
            """(N, N, N) float32 in [0, 1], indexed [ix, iy, iz]."""

        @property
        def num_images(self) -> int:
            """Number of images that it was made from."""

    @property
    def field_hash(self) -> str:
        """Hash of the field that the votes were cast through."""
        return self.parameters.hash(self.body_hash)

    @cached_property
    def centres(self) -> NDArray[np.float32]:
        """Voxel centres in the rest pose's person frame, (N, N, N, 3) float32 metres."""
        return voxel_centres(self.parameters.resolution, self.parameters.extent).astype(np.float32)

    def posed(
        self,
        pose: Any,
        body: Body | None = None,
        *,
        betas: Any = None,
        inverse: str = "blend_of_inverses",
        interpolation: str = "nearest",
        backend: str = "auto",
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """phi around a posed person (Eq. 11), (N, N, N) float32 on the same grid in the posed person frame.

        pose           (J, 3) axis-angle in radians, row 0 zero; or (n, J, 3), for (n, N, N, N)
        body           the one that the votes were cast with; None for the built-in one. MismatchError for another
        betas          the person's shape coefficients, (b,) or (n, b); None for the template's shape
        inverse        "blend_of_inverses" (the paper) or "inverse_of_blend" (the published code)
        interpolation  "nearest" (the paper) or "trilinear"
        backend        "auto", "triton", "numba", "reference"
        progress       called with (done, total) after each pose

        Raises as ``chorus.occupancy.posed.posed_occupancy`` does.
        """
        from chorus.occupancy.posed import posed_occupancy

        return posed_occupancy(
            self.probability,
            pose,
            self.parameters,
            self.body_hash,
            body,
            betas=betas,
            inverse=inverse,
            interpolation=interpolation,
            backend=backend,
            progress=progress,
        )

    def query(
        self, points: Any, poses: Any, body: Body | None = None, *, betas: Any = None, inverse: str = "blend_of_inverses"
    ) -> Tensor:
        """phi at points around posed people (Eq. 11, trilinear), (B, P), on the device of the tensors; differentiable in both.

        points   (B, P, 3) float32 or float64 tensor, metres in each posed person's frame; or (P, 3) and poses (J, 3), for (P,)
        poses    (B, J, 3) tensor on the same device, axis-angle in radians; row 0 zero, and its gradient too
        body     the one that the votes were cast with; None for the built-in one. MismatchError for another
        betas    the people's shape coefficients, (b,) or (B, b); None for the template's shape. No gradient
        inverse  "blend_of_inverses" (the paper) or "inverse_of_blend" (the published code)

        At voxel centres it is ``posed`` with trilinear interpolation, up to rounding. Between them, and what gradients are,
        says ``chorus.occupancy.query``. Raises InputError for arguments that cannot be used.
        """
        from chorus.occupancy.query import query

        return query(self.probability, points, poses, self.parameters, self.body_hash, body, betas=betas, inverse=inverse)

    def mesh(self, threshold: float | None = None, *, mass: float | None = None, volume: float | None = None) -> Trimesh:
        """The closed surface around the voxels with phi >= threshold, in metres in the rest pose's person frame.

        Give one of three: the threshold itself; ``mass``, the share of the sum of phi inside the surface, 0 to 1; or
        ``volume``, the volume inside the surface in m^3. See ``chorus.occupancy.surfaces``. InputError where nothing is inside,
        ImportError without the extra ``mesh``.
        """
        from chorus.occupancy.surfaces import choose_threshold, surface

        phi, extent = self.probability, self.parameters.extent
        return surface(phi, extent, choose_threshold(phi, extent, threshold, mass, volume))

    def show(self, poses: Any = (), body: Body | None = None, *, store: Store | None = None, height: int = 620) -> View:
        """``chorus.show``: the interactive view, which Jupyter shows as a cell's value, and which ``.save("view.html")`` keeps.

        poses   further ones to choose from: (J, 3) axis-angle in radians, (n, J, 3), or name -> (J, 3)
        body    the one that it was made with; None for the built-in one
        store   whose images it was learned from: their cameras can be shown      height  of the frame, pixels
        """
        import chorus  # the view is drawn in rooms above this one; the public name leads there

        return chorus.show(self, poses, body, store=store, height=height)

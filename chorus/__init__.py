"""CHORUS engine: where an object is around a canonical human, learned from very many images."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from chorus import _moved
from chorus._version import __version__

if TYPE_CHECKING:
    from chorus.body.model import Body as Body
    from chorus.body.model import load_body as load_body
    from chorus.camera.cameras import Cameras as Cameras
    from chorus.field import CanonicalField as CanonicalField
    from chorus.images import ImageBatch as ImageBatch
    from chorus.occupancy.aggregation import aggregate as aggregate
    from chorus.occupancy.counts import Occupancy as Occupancy
    from chorus.occupancy.counts import load_occupancy as load_occupancy
    from chorus.occupancy.derived import per_voxel_field as per_voxel_field
    from chorus.report.interactive import show as show
    from chorus.store import Store as Store
    from chorus.store import StoreWriter as StoreWriter
    from chorus.store import open_store as open_store

_HOME = {
    "Body": "body.model",
    "CanonicalField": "field",
    "Cameras": "camera.cameras",
    "ImageBatch": "images",
    "Occupancy": "occupancy.counts",
    "Store": "store",
    "StoreWriter": "store",
    "aggregate": "occupancy.aggregation",
    "load_body": "body.model",
    "load_occupancy": "occupancy.counts",
    "open_store": "store",
    "per_voxel_field": "occupancy.derived",
    "show": "report.interactive",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    """Load a public name on first use: ``import chorus`` alone costs nothing."""
    if name in _HOME:
        return getattr(importlib.import_module(f"chorus.{_HOME[name]}"), name)
    raise AttributeError(f"module 'chorus' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_moved.install()

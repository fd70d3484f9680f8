"""Units of the numbers in a record, judged as they are written in record.json (docs/records.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chorus.camera.cameras import Cameras
from chorus.units import UnitCheck


def check_units(content: Mapping[str, Any], camera: Cameras | None, size: tuple[int, int], key: str, units: UnitCheck) -> None:
    """Add what can hardly be in metres, radians and pixels to ``units``.

    content  the fields of record.json, which have been checked for shape      key   the record's name in warnings
    camera   the record's, in the person's frame, or None                      size  height, width of the image in pixels
    """

    def numbers(name: str) -> Any:
        return np.asarray(content[name], np.float64)[None]

    keys, sizes = [key], np.array([size])
    units.poses("pose_axis_angle", numbers("pose_axis_angle"), keys)
    if content.get("global_orient_axis_angle") is not None:
        units.poses("global_orient_axis_angle", numbers("global_orient_axis_angle")[:, None], keys)
    if camera is not None:
        units.cameras("camera", camera.t, camera.K, sizes, keys)
        origin = content["camera"].get("origin")
        if origin is not None:
            units.lengths("camera.origin", [origin], keys)
    if content.get("keypoints_openpose25") is not None:
        units.pixels("keypoints_openpose25", numbers("keypoints_openpose25")[..., :2], sizes, keys)
    if content.get("object_box") is not None:
        units.pixels("object_box", numbers("object_box").reshape(1, 2, 2), sizes, keys)

"""Poses of a body from landmarks of a person in an image: a batched least-squares fit (docs/humans.md)."""

from chorus.keypoints import LAYOUTS
from chorus.pose_fit.fit import FitOptions, PoseFit, fit_poses

__all__ = ["LAYOUTS", "FitOptions", "PoseFit", "fit_poses"]

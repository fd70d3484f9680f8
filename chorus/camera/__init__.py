"""Perspective cameras in the person's frame: what they see, the views they make, and their fit to joints (Eq. 8)."""

from chorus.camera.cameras import Cameras

__all__ = ["Cameras"]

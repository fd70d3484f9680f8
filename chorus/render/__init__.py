"""Rendering: triangles by z-buffer, voxels by splatting."""

from chorus.render.rasterize import face_normals, render_mesh, render_orthographic, shade

__all__ = ["face_normals", "render_mesh", "render_orthographic", "shade"]

"""From 3D to pixels on the CPU: triangles by z-buffer, voxels by splatting."""

"""3D poses and cameras of people found by other software: their files, layouts and frames (docs/imports.md)."""

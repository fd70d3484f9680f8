"""Human and object in 3D from one photograph (4.5)."""

from chorus.reconstruct.single_view import reconstruct, write_reconstruction

__all__ = ["reconstruct", "write_reconstruction"]

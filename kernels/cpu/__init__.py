"""The CPU backend: numba with 16-lane vectors."""

"""The GPU backend: Triton kernels and what launches them. Importing this package alone imports nothing."""

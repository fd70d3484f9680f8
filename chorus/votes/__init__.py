"""Which images vote, how they reach the kernels (parts, contacts, selection, prefetch), and which images voted for a voxel."""

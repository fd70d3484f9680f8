"""Which images vote and how they get to the kernels: body parts, contacts, selection, prefetch; and who voted for a voxel."""

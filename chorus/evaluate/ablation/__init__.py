"""Ablations (Table 2 and beyond): rows, scores on the same test images, simulated stores to ablate on, tables."""

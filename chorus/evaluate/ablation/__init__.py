"""Ablations (Table 2 and beyond): rows, scores on the same test images, simulated stores, tables."""

from chorus.evaluate.ablation.rows import SECTIONS, AblationOptions, Sample, Setting, keypoint_filter, settings
from chorus.evaluate.ablation.run import AblationRow, AblationTable, ablate, ablate_share

__all__ = [
    "SECTIONS",
    "AblationOptions",
    "AblationRow",
    "AblationTable",
    "Sample",
    "Setting",
    "ablate",
    "ablate_share",
    "keypoint_filter",
    "settings",
]

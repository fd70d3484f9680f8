"""Projective average precision (4.2, B.2): pixel counts, scores of one image, and scores by category from test stores."""

from chorus.evaluate.pap.categories import CategoryPap, PapReport, evaluate_pap, evaluate_pap_share
from chorus.evaluate.pap.metric import METRICS, ImagePap, Metric, average_precision, interpolated_precision, pap, score_image
from chorus.evaluate.pap.pixels import (
    PAPER,
    PapImage,
    PapProtocol,
    PixelCounts,
    body_pixels,
    count_pixels,
    downscale_mask,
    downscaled_size,
    render_levels,
    render_levels_on,
)

__all__ = [
    "METRICS",
    "PAPER",
    "CategoryPap",
    "ImagePap",
    "Metric",
    "PapImage",
    "PapProtocol",
    "PapReport",
    "PixelCounts",
    "average_precision",
    "body_pixels",
    "count_pixels",
    "downscale_mask",
    "downscaled_size",
    "evaluate_pap",
    "evaluate_pap_share",
    "interpolated_precision",
    "pap",
    "render_levels",
    "render_levels_on",
    "score_image",
]

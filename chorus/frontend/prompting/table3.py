"""The categories and numbers of Table 3, and the view augmentations of A.1."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from chorus.errors import InputError

VIEWS = (
    "", "side view", "back view", "front view", "top view", "bottom view", "realistic photo", "seen from side",
    "seen from back", "seen from various views", "seen from close view", "seen from far away", "scenic view",
    "full body photo", "hand photo", "face photo", "photo taken close to hand", "photo taken close to face", "selfie",
    "close-up photo", "hand only", "face only",
)  # fmt: skip
"""The 22 view augmentations of A.1, in its order; the first one adds nothing."""


@dataclass(frozen=True)
class Preset:
    """How many images the paper made of a category (Table 3).

    prompts   different prompts
    images    all images, evenly over prompts and views
    per_view  images a prompt and view: images / prompts / 22
    """

    prompts: int
    images: int
    per_view: int


# Prompts and images of each category. In every row the images are a whole number a prompt and view.
_TABLE = {
    "motorcycle": (12, 47520), "bench": (12, 31680), "backpack": (20, 42240), "handbag": (4, 23760), "tie": (10, 31680),
    "frisbee": (3, 21780), "skis": (12, 34848), "snowboard": (4, 7920), "sports ball": (8, 19008),
    "baseball glove": (5, 11880), "skateboard": (16, 50688), "surfboard": (16, 73920), "tennis racket": (15, 47520),
    "cell phone": (20, 84480), "bicycle": (18, 42768), "umbrella": (7, 16632), "chair": (17, 47124), "bed": (5, 11880),
    "laptop": (17, 53856), "hat": (10, 31680), "sweater": (3, 5940), "sunglasses": (3, 5940), "soccer ball": (5, 15840),
    "scarf": (5, 15840),
}  # fmt: skip

PRESETS = {name: Preset(m, images, images // (m * len(VIEWS))) for name, (m, images) in _TABLE.items()}
"""The 24 categories of Table 3 by their names in COCO and LVIS."""

_MEDIAN = 10


def category_name(text: str) -> str:
    """A category's name in the form used here: lower case, words separated by one space. InputError where no word is left."""
    name = re.sub(r"[\s_]+", " ", text).strip().lower()
    if not any(c.isalpha() for c in name) or not name.isprintable() or len(name) > 60:
        raise InputError(f"category: expected the name of an object, at most 60 characters, got {text[:80]!r}")
    return name


def preset(category: str) -> Preset:
    """The numbers of Table 3 for one of its categories. InputError, naming the categories, for another."""
    name = category_name(category)
    if name not in PRESETS:
        raise InputError(f"category: expected one of Table 3 ({', '.join(PRESETS)}), got {name!r}")
    return PRESETS[name]


def usual_count(category: str, source: str) -> int:
    """How many prompts to take by default from ``source``, such as "builtin" or "file=PATH".

    Table 3's number for the category, its median (10) for another category; all prompts of a file.
    """
    if source.partition("=")[0] == "file":
        return sys.maxsize
    name = category_name(category)
    return PRESETS[name].prompts if name in PRESETS else _MEDIAN

"""Which views each view augmentation of A.1 is mistaken for: what an image of that view should not show."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

OPPOSITES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "": (),
        "side view": ("front view", "back view"),
        "back view": ("front view", "face"),
        "front view": ("back view", "side view"),
        "top view": ("bottom view", "front view"),
        "bottom view": ("top view", "front view"),
        "realistic photo": (),
        "seen from side": ("seen from front", "seen from back"),
        "seen from back": ("seen from front", "face"),
        "seen from various views": (),
        "seen from close view": ("seen from far away",),
        "seen from far away": ("seen from close view", "close-up photo"),
        "scenic view": ("close-up photo", "face photo"),
        "full body photo": ("close-up photo", "face photo"),
        "hand photo": ("full body photo", "face photo"),
        "face photo": ("full body photo", "back view"),
        "photo taken close to hand": ("seen from far away", "face photo"),
        "photo taken close to face": ("seen from far away", "back view"),
        "selfie": ("seen from far away", "back view"),
        "close-up photo": ("seen from far away", "full body photo"),
        "hand only": ("full body photo", "face photo"),
        "face only": ("full body photo", "hand photo"),
    }
)
"""The 22 augmentations of A.1, each with its opposites. Those that ask for no view in particular have none.

The choice is this project's: text-to-image models show people from the front and as a whole unless they are kept from it, so
views of the side and the back have the front as an opposite, close views the far ones, and far views the close ones.
"""


def opposites(view: str) -> tuple[str, ...]:
    """The opposites of a view; none for a view that is not of A.1."""
    return OPPOSITES.get(view, ())


def negative_prompt(view: str, general: str = "") -> str:
    """One negative prompt of what no image should show and of the view's opposites; "" where there is neither."""
    return ", ".join([*([general] if general else []), *opposites(view)])

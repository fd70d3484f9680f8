"""Which images a run makes: prompts x views x numbers, with keys and seeds that depend on nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chorus.errors import InputError, StoreError
from chorus.files import json_value, write_atomically
from chorus.frontend.stages import ImageRequest

FRONTEND_JSON = "frontend.json"
"""The file in a store that says what the front end made its rows with."""
_FORMAT, _VERSION = "chorus-frontend", 1
_SLUG = 60  # characters of a prompt that a key shows


@dataclass(frozen=True)
class Plan:
    """``images`` images of a category, spread evenly over prompts x views.

    They take turns: image i is number i // (P V) of prompt i mod P and view (i // P) mod V. So a run that stops early has
    about as many images of each prompt and view, and a larger ``images`` only adds at the end.

    prompts  P different texts         views  V different view augmentations, "" for none (A.1)
    seed     of the whole run; an image's own seed is derived from it, the category, and the image's prompt, view and number
    """

    category: str
    prompts: tuple[str, ...]
    views: tuple[str, ...]
    images: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("prompts", self.prompts), ("views", self.views)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"{name}: expected different texts, at least one, got {list(values)}")
        for prompt in self.prompts:
            if not prompt.strip():
                raise InputError("prompts: expected texts, got an empty one")
        for name, value in (("images", self.images), ("seed", self.seed)):
            if value < 0:
                raise InputError(f"{name}: expected at least 0, got {value}")
        stems = {_stem(prompt) for prompt in self.prompts}
        slugs = {_slug(view) for view in self.views}
        if len(stems) < len(self.prompts) or len(slugs) < len(self.views):
            raise InputError("prompts, views: expected texts that differ in more than punctuation, got two that do not")

    def __len__(self) -> int:
        return self.images

    def request(self, i: int) -> ImageRequest:
        """Image ``i`` of the plan, 0 .. images - 1."""
        if not 0 <= i < self.images:
            raise InputError(f"i: expected 0 .. {self.images - 1}, got {i}")
        cell, prompt = divmod(i, len(self.prompts))
        number, view = divmod(cell, len(self.views))
        return self.numbered(self.prompts[prompt], self.views[view], number)

    def numbered(self, prompt: str, view: str, number: int) -> ImageRequest:
        """Image ``number`` of a prompt and view."""
        key = f"{_stem(prompt)}.{_slug(view)}.{number:06d}"
        return ImageRequest(key, prompt, view, image_seed(self.seed, self.category, prompt, view, number))

    def __iter__(self) -> Iterator[ImageRequest]:
        return (self.request(i) for i in range(self.images))


def image_seed(seed: int, category: str, prompt: str, view: str, number: int) -> int:
    """The seed of one image, 0 .. 2^63 - 1: the first bytes of a sha256 of what it is made from."""
    text = json.dumps([seed, category, prompt, view, number], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "plain"


def _stem(prompt: str) -> str:
    return f"{_slug(prompt)[:_SLUG].rstrip('-')}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Description:
    """What the rows of a store were made with; kept in the store as ``frontend.json``.

    stages     kind -> "NAME" or "NAME=MODEL"        options  "KIND.NAME" -> text, of the stages
    prompts    the prompts that the run has settled on; none for pictures from a folder
    views      the view augmentations                seed     of the run
    settings   what else decides how rows come out: dtype, the camera fit, the duplicate rule, ...
    """

    category: str
    stages: dict[str, str]
    options: dict[str, str] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def difference(self, other: Description) -> str | None:
        """The first difference in words; None where rows made by both descriptions may share a store."""
        mine, others = asdict(self), asdict(other)
        for name in ("prompts", "views"):  # more may be added later: existing rows stay as they are
            mine.pop(name), others.pop(name)
        for name, value in mine.items():
            if isinstance(value, dict):
                for key in sorted({*value, *others[name]}):
                    if value.get(key) != others[name].get(key):
                        return f"{name}.{key}: expected {value.get(key)!r}, as the store's, got {others[name].get(key)!r}"
            elif value != others[name]:
                return f"{name}: expected {value!r}, as the store's, got {others[name]!r}"
        return None

    def save(self, store: Path) -> None:
        """Write it into the store's folder, whole or not at all."""
        text = json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        write_atomically(store / FRONTEND_JSON, lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, store: Path) -> Description | None:
        """The description in a store's folder; None where there is none. StoreError for a damaged one or another version."""
        path = store / FRONTEND_JSON
        try:
            content = json_value(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: expected what the front end wrote, got {error}") from None
        found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (None, None)
        if found != (_FORMAT, _VERSION):
            raise StoreError(f"{path}: expected format {_FORMAT!r} of version {_VERSION}, got {found[0]!r} of {found[1]!r}")
        try:
            return cls(
                content["category"],
                dict(content["stages"]),
                dict(content["options"]),
                tuple(content["prompts"]),
                tuple(content["views"]),
                int(content["seed"]),
                dict(content["settings"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"{path}: expected what the front end wrote, got one with {error!r}") from None


def batches(requests: Sequence[ImageRequest], size: int) -> list[list[ImageRequest]]:
    """Requests in batches of ``size``, the last one shorter."""
    if size < 1:
        raise InputError(f"size: expected at least 1, got {size}")
    return [list(requests[first : first + size]) for first in range(0, len(requests), size)]

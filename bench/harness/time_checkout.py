"""Times the CPU kernels of one checkout; started by ``bench.compare`` as a script, in a process of its own.

    python bench/harness/time_checkout.py CHECKOUT INPUTS.npz REQUEST

What it times is imported from CHECKOUT, which may be older than this file and need not be installed. The arguments are made by
``bench.compare``: ``INPUTS.npz`` holds the images, their groups and the bit sets of the regions; ``REQUEST`` is JSON,

    {"groups": ["votes", ...], "resolution": N, "images": [I, ...], "contact_images": I, "threads": T}

When everything has run once, it prints a line of JSON: name of each contender -> digest of its result. From then on every line
of its input is the name of a contender, which is run again; its seconds are printed.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

NUM_GROUPS = 12
IMAGE_ARRAYS = ("poses", "R", "t", "K", "size", "box", "start", "words")


def kernels() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``count_votes`` and ``touched_regions`` for the CPU, wherever the checkout has them."""
    votes = importlib.import_module("chorus.kernels.cpu")
    if hasattr(votes, "__path__"):
        votes = importlib.import_module("chorus.kernels.cpu.votes")
        contacts = importlib.import_module("chorus.kernels.cpu.contacts")
    else:  # version 0.1: cpu.py and cpu_contacts.py side by side
        contacts = importlib.import_module("chorus.kernels.cpu_contacts")
    return votes.count_votes, contacts.touched_regions


def contenders(request: dict[str, Any], inputs: dict[str, torch.Tensor]) -> dict[str, Callable[[], Any]]:
    """Name -> call, of what the request asks for; the calls return tensors or arrays."""
    import chorus

    VoteImages = importlib.import_module("chorus.kernels.arrays").VoteImages
    count_votes, touched_regions = kernels()
    N, threads = request["resolution"], request["threads"]
    body = chorus.load_body()
    arrays = chorus.CanonicalField(body, N, cache=False).arrays

    def first_images(count: int) -> Any:
        return VoteImages(**{name: inputs[name] if name == "words" else inputs[name][:count] for name in IMAGE_ARRAYS})

    def votes_of(count: int) -> Callable[[], Any]:
        images, group = first_images(count), inputs["group"][:count]
        return lambda: count_votes(arrays, images, group, num_groups=NUM_GROUPS, threads=threads)

    found: dict[str, Callable[[], Any]] = {}
    if "votes" in request["groups"]:
        found |= {f"votes, {count:,} images": votes_of(count) for count in request["images"]}
    if "contacts" in request["groups"]:
        count = request["contact_images"]
        images = first_images(count)
        found[f"contacts, {count:,} images"] = lambda: touched_regions(arrays, inputs["regions"], images, threads=threads)
    if "field" in request["groups"]:
        found["field, no cache"] = lambda: chorus.CanonicalField(body, N, cache=False)
    return found


def digest(result: Any) -> str:
    """SHA-256 of the bytes of an array, of several, or of a field's dense weights."""
    arrays = result if isinstance(result, tuple) else (getattr(result, "weights", result),)
    together = hashlib.sha256()
    for array in arrays:
        together.update(np.ascontiguousarray(array).tobytes())
    return together.hexdigest()


def main(checkout: str, inputs: str, request: str) -> None:
    """Prepare, then answer on standard output what is asked for on standard input, until that ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    sys.path[0] = checkout  # instead of this file's folder
    import chorus

    where = Path(chorus.__file__).resolve()
    if not where.is_relative_to(Path(checkout).resolve()):
        raise SystemExit(f"chorus: expected to be imported from {checkout}, got {where}")
    asked = json.loads(request)
    torch.set_num_threads(asked["threads"])
    with np.load(inputs) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    calls = contenders(asked, tensors)
    # These first calls compile, or load what was compiled before.
    print(json.dumps({name: digest(call()) for name, call in calls.items()}), file=answers, flush=True)
    for line in sys.stdin:
        call = calls[line.rstrip("\n")]
        began = time.perf_counter()
        call()
        print(time.perf_counter() - began, file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Every backend is held to the contracts of the votes and the contacts, by the same checks (``tests/kernels/contract.py``).

Triton's interpreter takes its turn in a process of its own (``test_interpreter.py``), and a GPU where there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from chorus.kernels import backends
from chorus.kernels.backends import BACKENDS, CountVotes, TouchedRegions
from tests.kernels.contract import CONTACT_CHECKS, VOTE_CHECKS, contacts_are_those_of_the_votes
from tests.kernels.hidden_contract import HIDDEN_CHECKS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NO_GPU = "needs a CUDA device, or TRITON_INTERPRET=1: test_interpreter.py runs these so"
NAMES = ["triton"] if INTERPRETED else list(BACKENDS)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> backends.Backend:
    name = request.param
    if name == "triton" and not INTERPRETED and not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    return backends.Backend(name, torch.device("cpu"), BACKENDS[name])  # the interpreter is refused where one chooses


@pytest.mark.parametrize("check", VOTE_CHECKS)
def test_votes(backend: backends.Backend, check: Callable[[CountVotes], None]) -> None:
    check(backend.count_votes)


@pytest.mark.parametrize("check", HIDDEN_CHECKS)
def test_hidden_votes(backend: backends.Backend, check: Callable[[CountVotes], None]) -> None:
    check(backend.count_votes)


@pytest.mark.parametrize("check", CONTACT_CHECKS)
def test_contacts(backend: backends.Backend, check: Callable[[TouchedRegions], None]) -> None:
    check(backend.touched_regions)


def test_contacts_are_those_of_the_votes(backend: backends.Backend) -> None:
    contacts_are_those_of_the_votes(backend.touched_regions, backend.count_votes)

"""What results say they were made with."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch

import chorus
from chorus import evaluate
from chorus.errors import InputError
from chorus.provenance import PACKAGES, installed_versions, machine, provenance, versions, with_given


def test_versions_and_command_line_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["chorus", "aggregate", "a b"])
    facts = provenance()
    assert list(facts) == ["chorus", "python", "numpy", "torch", "command"]
    assert (facts["chorus"], facts["numpy"], facts["torch"]) == (chorus.__version__, np.__version__, torch.__version__)
    assert facts["command"] == ["chorus", "aggregate", "a b"]
    assert json.loads(json.dumps(facts)) == facts
    assert list(versions()) == ["chorus", "python", *PACKAGES]
    assert versions()["numpy"] == np.__version__
    assert installed_versions(("numpy", "a-package-that-is-not-installed")) == {"numpy": np.__version__}


def test_the_machine() -> None:
    facts = machine()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert evaluate.machine is machine
    assert evaluate.versions is versions


def test_what_users_give_goes_first_and_must_be_json() -> None:
    facts = {"software": "chorus", "n": 1}
    assert with_given(facts, None) == facts
    assert with_given(facts, {"n": 2, "x": [None]}) == {"software": "chorus", "n": 2, "x": [None]}
    assert facts["n"] == 1
    for bad in ({"x": object()}, {"x": math.nan}, {"x": {1, 2}}):
        with pytest.raises(InputError, match=r"provenance: expected what JSON can hold, got \{'x'"):
            with_given(facts, bad)

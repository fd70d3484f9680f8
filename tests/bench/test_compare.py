"""Two checkouts compared: the same results, as fast? (``python -m bench.compare``)"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import compare
from bench.compare import Times, differences, table

ROOT = Path(__file__).parents[2]
TINY = ["--resolution", "10", "--images", "6", "9", "--rounds", "1", "--seconds", "0.01", "--threads", "1"]
NAMES = ("votes, 6 images", "votes, 9 images", "contacts, 9 images", "field, no cache")


def planted_checkout(folder: Path, total: str) -> Path:
    """A stand-in for a checkout of version 0.1, whose kernels lie side by side and count ``total``."""
    kernels = folder / "chorus" / "kernels"
    kernels.mkdir(parents=True)
    (folder / "chorus" / "__init__.py").write_text(
        "class CanonicalField:\n"
        "    def __init__(self, body, resolution, cache):\n"
        "        import numpy as np\n"
        "        self.arrays, self.weights = resolution, np.ones((resolution, 3), np.float32)\n"
        "def load_body():\n"
        "    return None\n"
    )
    (kernels / "__init__.py").write_text("")
    (kernels / "arrays.py").write_text(
        "class VoteImages:\n    def __init__(self, **arrays):\n        vars(self).update(arrays)\n"
    )
    (kernels / "cpu.py").write_text(
        "import torch\n"
        "def count_votes(field, images, group, *, num_groups, threads):\n"
        f"    return torch.full((num_groups, field), {total}), group\n"
    )
    (kernels / "cpu_contacts.py").write_text(
        "def touched_regions(field, regions, images, *, threads):\n    return images.box[:, 0] + regions[0]\n"
    )
    return folder


def test_a_checkout_has_the_results_of_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(ROOT), *TINY, "--tolerance", "1000"]) == 0
    out = capfd.readouterr().out
    for name in NAMES:
        assert f"\n{name} " in out
    assert "equal results; least times within" in out


def test_kernels_are_found_in_either_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    this, other = (
        planted_checkout(tmp_path / "this", "len(images.poses)"),
        planted_checkout(tmp_path / "other", "len(images.t)"),
    )
    votes = this / "chorus" / "kernels" / "cpu"
    votes.mkdir()
    (this / "chorus" / "kernels" / "cpu.py").rename(votes / "votes.py")
    (this / "chorus" / "kernels" / "cpu_contacts.py").rename(votes / "contacts.py")
    (votes / "__init__.py").write_text("")
    monkeypatch.setattr(compare, "ROOT", this)
    assert compare.main([str(other), *TINY, "--tolerance", "1e9"]) == 0
    assert "contacts, 9 images " in capfd.readouterr().out


def test_other_counts_and_slow_calls_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    this, other = planted_checkout(tmp_path / "this", "7"), planted_checkout(tmp_path / "other", "8")
    slow = this / "chorus" / "kernels" / "cpu.py"
    slow.write_text("import time\n" + slow.read_text().replace("    return", "    time.sleep(0.02)\n    return"))
    monkeypatch.setattr(compare, "ROOT", this)
    assert compare.main([str(other), *TINY, "--only", "votes", "--only", "field"]) == 1
    out = capfd.readouterr().out
    for name in NAMES[:2]:
        assert f"{name}: the results are not equal" in out
        assert f"{name}: this checkout takes" in out
    assert "field, no cache: the results" not in out
    assert "contacts" not in out


def test_only_what_differs_by_more_than_the_tolerance_is_told() -> None:
    this = {name: Times([1.0, least], {"a"}) for name, least in (("equal", 0.5), ("slower", 0.52), ("faster", 0.48))}
    other = {name: Times([0.5, 9.0], {"a"}) for name in this}
    assert differences(this, other, 0.05) == []
    assert differences(this, other, 0.03) == [
        "slower: this checkout takes 4.0% longer, more than 3.0%",
        "faster: the other takes 4.2% longer, more than 3.0%",
    ]
    other["equal"].digests.add("b")
    assert differences(this, other, 0.05) == ["equal: the results are not equal"]
    assert differences({"x": Times([1.0], {"a", "b"})}, {"x": Times([1.0], {"a"})}, 0.05) == ["x: the results are not equal"]
    lines = table(this, other).splitlines()
    assert lines[3].split() == ["slower", "520", "ms", "500", "ms", "1.040", "760", "ms", "4.75", "s", "2"]


def test_what_cannot_be_compared_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        compare.main([str(tmp_path)])
    assert refused.value.code == 2
    assert f"expected a folder with chorus/__init__.py in it, got {tmp_path}" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        compare.main([str(ROOT), "--rounds", "0"])
    assert "--rounds: expected a positive number, got 0" in capfd.readouterr().err
    broken = planted_checkout(tmp_path / "broken", "1 / 0")
    assert compare.main([str(broken), *TINY, "--only", "votes"]) == 2
    err = capfd.readouterr().err
    assert "ZeroDivisionError" in err
    assert f"compare: the process that timed {broken} ended, exit code 1" in err

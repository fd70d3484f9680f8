"""The notebooks: stored without outputs, run from their first cell to their last, and what they find."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, folder: Path, names: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """A notebook as it is after its run, and values of it: name -> an expression, whose value JSON can hold."""
    book = nbformat.read(path, as_version=4)
    pairs = ", ".join(f"{name!r}: {expression}" for name, expression in names.items())
    book.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{pairs}}}, default=float))"))
    client = NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return book, json.loads(book.cells.pop().outputs[0]["text"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a notebook runs: it finds this checkout's library, and leaves nothing in anybody's home or in /tmp."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def outputs(book: Any, kind: str) -> list[str]:
    """What the cells of a notebook show in a kind of their outputs, such as "text/html"."""
    return [o["data"][kind] for c in book.cells if c.cell_type == "code" for o in c.outputs if kind in o.get("data", {})]


def test_there_are_two_and_pages_lead_to_them() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["benchmark_kernels", "first_steps"]
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    for path in NOTEBOOKS:
        assert any(f"](../notebooks/{path.name})" in page for page in pages), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert {cell.execution_count for cell in code} == {None}
    assert book.metadata.kernelspec.name == "python3"
    assert set(book.metadata) == {"kernelspec", "language_info"}  # nothing of whoever ran it last


def test_first_steps(folder: Path) -> None:
    book, found = executed(
        FOLDER / "first_steps.ipynb",
        folder,
        {
            "images": "occ.num_images",
            "prompts": "store.prompts",
            "overlap": "overlaps.max()",
            "off": "off",
            "peak": "peak.tolist()",
            "canonical": "middle(phi).tolist()",
            "posed": "middle(posed).tolist()",
            "for": "len(why.on_mask)",
            "against": "len(why.off_mask)",
            "unseen": "why.unseen",
            "files": "sorted(path.name for path in folder.iterdir())",
        },
    )
    assert 100 <= found["images"] <= 120
    assert len(found["prompts"]) == 2
    assert found["overlap"] > 0.4
    assert found["off"] < 0.12  # metres
    assert found["peak"][0] < -0.5  # the right hand is at negative x
    assert found["posed"][1] > found["canonical"][1] + 0.3  # the arm went up, and the ball with it
    assert found["for"] + found["against"] + found["unseen"] == found["images"]
    assert found["for"] > 0.6 * found["images"]
    assert found["files"] == ["ball.h5", "ball.html", "balls.chorus"]
    assert len(outputs(book, "image/png")) == 2  # masks, overlaps
    summary, view = outputs(book, "text/html")
    assert "<caption>Occupancy</caption>" in summary
    assert view.startswith("<iframe ")
    assert "arm raised" in view


def test_benchmark_kernels(folder: Path) -> None:
    book, found = executed(
        FOLDER / "benchmark_kernels.ipynb",
        folder,
        {"gates": "gates", "caught": "caught", "rates": "rates", "ratios": "ratios", "images": "len(images)"},
    )
    sizes = ["16", "24", "32"]
    assert list(found["gates"]) == sizes
    for N, gate in found["gates"].items():
        assert int(N) ** 3 * found["images"] * 0.3 < gate["counted"] <= int(N) ** 3 * found["images"]
        assert gate["differ"] <= 2 * gate["band"] < 0.05 * gate["counted"]
    assert found["caught"].startswith("counts differ by ")
    assert list(found["rates"]) == ["PyTorch, float64", "PyTorch, float32", "numba"]
    assert all(list(by_size) == sizes and min(by_size.values()) > 0 for by_size in found["rates"].values())
    assert found["ratios"]["32"] > 2  # tens of times on a machine at rest
    assert len(outputs(book, "image/png")) == 1


def test_a_notebook_that_fails_is_found(folder: Path) -> None:
    path = folder / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2, 'not so'")]), path)
    with pytest.raises(CellExecutionError, match="not so"):
        executed(path, folder, {})

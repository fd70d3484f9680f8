"""Pictures of data with any texts: nothing is cut off, read as a formula, or drawn as a control character."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import chorus
from chorus.evaluate.pap.categories import CategoryPap, PapReport
from chorus.evaluate.statistics.stores import StoreStatistics, store_statistics
from chorus.figures import saving, three_sides
from chorus.figures.azimuths import save_view_distribution
from chorus.figures.precision_recall import save_curves
from chorus.figures.saving import LONGEST, save_figure
from chorus.figures.store_statistics import save_statistics, save_views
from chorus.figures.three_sides import save_three_sides
from chorus.occupancy.counts import Occupancy
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS

BODY = chorus.load_body()
TEXTS = [
    "hat",
    "a person in a very long red coat holds a striped ball that costs $5 and $10 in the right hand " * 3,
    "x" * 500,
    "W" * 120,
    "a\x1b[31mred\x07 ball\nwith a tail",
    "\u4e00\u4e2a\u4eba\u8e22\u7403 \u0447\u0435\u043b\u043e\u0432\u0435\u043a $x_1^2$",
]


@pytest.fixture(scope="module")
def occupancy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Occupancy, StoreStatistics]:
    path = tmp_path_factory.mktemp("figures") / "a.chorus"
    write_world(path, [WORLDS["ball-held"]], 12, 0, body=BODY)
    return chorus.aggregate(path, chorus.CanonicalField(BODY, 8)), store_statistics(path, by_view=True)


@pytest.fixture(autouse=True)
def _no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies take seconds to draw, and are looked at elsewhere."""
    monkeypatch.setattr(three_sides, "render_side", lambda *_, **__: np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are written in a test, laid out but not drawn. A warning of matplotlib fails it."""
    written: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figure.draw_without_rendering()
        path.touch()
        written.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield written


def check(figure: Figure) -> None:
    """All texts lie inside of the figure, are no formulas and hold no control characters; axes have room for data."""
    for text in figure.findobj(Text):
        if not text.get_text() or not text.get_visible():
            continue
        if text.get_text().strip("0123456789.\u2212-\u00b0") == "":
            continue  # a number at a tick, perhaps beyond what is shown
        assert not text.get_parse_math()
        assert all(c.isprintable() or c == "\n" for c in text.get_text()), text
        box = text.get_window_extent()
        assert box.x0 >= -2, text
        assert box.y0 >= -2, text
        assert box.x1 <= figure.bbox.x1 + 2, text
        assert box.y1 <= figure.bbox.y1 + 2, text
    for ax in figure.axes:
        if ax.get_label() != "<colorbar>":
            assert ax.bbox.width > 60, ax
            assert ax.bbox.height > 40, ax


def test_three_sides(tmp_path: Path, occupancy: tuple[Occupancy, StoreStatistics], figures: list[Figure]) -> None:
    phi = occupancy[0].probability
    save_three_sides(tmp_path / "one.png", [("phi", phi)], 3.0, BODY, TEXTS[1])
    save_three_sides(tmp_path / "rows.png", [(text, phi) for text in TEXTS], 3.0, BODY, TEXTS[2])
    assert [ax.get_ylabel() for ax in figures[0].axes[:3]] == ["", "", ""]  # one row needs no name
    for figure in figures:
        check(figure)


def test_views(tmp_path: Path, occupancy: tuple[Occupancy, StoreStatistics], figures: list[Figure]) -> None:
    save_view_distribution(tmp_path / "v.png", [(text, occupancy[0]) for text in TEXTS])
    check(figures[0])


def test_statistics(tmp_path: Path, occupancy: tuple[Occupancy, StoreStatistics], figures: list[Figure]) -> None:
    found = replace(occupancy[1], rejected=dict.fromkeys(TEXTS, 3))
    views = tuple(replace(occupancy[1].views[0], view=text) for text in TEXTS)
    stores = [replace(found, name=text, views=views) for text in (TEXTS[1], TEXTS[3])]
    save_statistics(tmp_path / "s.png", stores)
    save_views(tmp_path / "v.png", stores)
    for figure in figures:
        check(figure)


def test_precision_and_recall(tmp_path: Path, figures: list[Figure]) -> None:
    categories = tuple(CategoryPap(text, ()) for text in TEXTS)
    save_curves(tmp_path / "one.png", PapReport(categories[1:2]))
    save_curves(tmp_path / "all.png", PapReport(categories))
    for figure in figures:
        check(figure)


def test_two_stores_of_one_category_are_told_apart(
    tmp_path: Path, occupancy: tuple[Occupancy, StoreStatistics], figures: list[Figure]
) -> None:
    found = occupancy[1]
    save_statistics(tmp_path / "s.png", [replace(found, path="x/a.chorus"), replace(found, path="x/b.chorus")])
    titles = " ".join(ax.get_title() for ax in figures[0].axes)
    assert "a.chorus" in titles
    assert "b.chorus" in titles


def test_what_is_cut_keeps_both_ends(tmp_path: Path, figures: list[Figure]) -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    ax.set_yticks([0, 1], ["first " + "word " * 40 + "last", "short"])
    ax.plot([0, 1], label="begin " + "word " * 40 + "end")
    ax.legend()
    figure.suptitle("Begin " + "word " * 200 + "end")
    save_figure(tmp_path / "a.png", figure)
    first = ax.get_yticklabels()[0].get_text()
    assert len(first) == LONGEST
    assert (first[:5], first[-4:]) == ("first", "last")
    title = figure.get_suptitle()
    assert title.startswith("Begin word")
    assert "..." in title
    assert title.endswith("end")
    assert figure.get_figheight() > 3  # it grew by the title's lines


def test_letters_that_no_font_has_are_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(saving, "_reported", set())
    monkeypatch.setattr(saving, "_fonts", lambda: ())
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a.png", "b.svg"):
            figure = Figure()
            figure.suptitle("\U00012000 and \u4eba \u4eba")
            save_figure(tmp_path / name, figure)
    assert [record.getMessage() for record in caplog.records] == [
        "no font of this machine has the letters \u4eba\U00012000: they are drawn as boxes"
    ]


def test_letters_are_taken_from_another_font(tmp_path: Path) -> None:
    figure = Figure()
    title = figure.suptitle("plain")
    title.set_fontfamily(["cmr10"])  # it has no Cyrillic letters
    title.set_text("\u0447\u0435\u043b\u043e\u0432\u0435\u043a")
    save_figure(tmp_path / "a.png", figure)
    assert any(name.startswith("DejaVu") for name in title.get_fontfamily())


def test_a_reconstructions_title_is_no_formula(tmp_path: Path) -> None:
    """A dollar sign in a prompt: half of a formula would raise, a whole one be drawn as one."""
    figure = Figure()
    figure.suptitle("costs $5_{")
    save_figure(tmp_path / "a.pdf", figure)
    assert (tmp_path / "a.pdf").stat().st_size > 1000
    assert np.isfinite(figure.get_figheight())

"""Writing a drawn figure to a file, its texts made to fit: they hold prompts, keys and categories of any length and script."""

from __future__ import annotations

import logging
import textwrap
import warnings
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from chorus.files import check_output_file, write_atomically
from chorus.texts import printable, shortened

FORMATS = (".png", ".pdf", ".svg")
MOST_LINES = 4
"""Most lines of a title; what is longer is cut in its middle."""
LONGEST = 40
"""Most characters of a legend's entry or a tick's label, which are not folded."""

_log = logging.getLogger(__name__)
_reported: set[str] = set()


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure, atomically, in the format of the path's ending (FORMATS); InputError where it cannot be.

    Its texts are finished by ``finish_texts``.
    """
    path = Path(path)
    check_output_file("path", path, FORMATS)
    # The setting is for the labels of ticks, which are made while they are drawn.
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # once for each letter; see _use_fonts
        finish_texts(figure)
        write_atomically(path, figure.savefig)


def finish_texts(figure: Figure) -> None:
    """Make a figure's texts plain, legible and no wider than their place. Called once, before it is written.

    A dollar sign is no formula, control characters are escapes, and letters that the font lacks are taken from another one of
    this machine (a warning names those that none has). Titles are folded to the width of the figure or of their axes, and the
    figure grows by the lines that this takes; labels of axes are folded to these. Entries of legends and labels of ticks are
    not folded: those of more than LONGEST characters are cut in their middle.
    """
    titles = _titles(figure)
    labels = [label for ax in figure.axes for label in (ax.xaxis.label, ax.yaxis.label)]
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            _shorten_ticks(axis)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        folded = text in titles or text in labels
        text.set_text(printable(text.get_text()).replace("\t", " ") if folded else _entry(text.get_text()))
    _use_fonts(figure)
    figure.draw_without_rendering()  # lays it out: before that no text or axes has a width
    for ax in figure.axes:
        _fold(ax.xaxis.label, ax.bbox.width, 2)
        _fold(ax.yaxis.label, ax.bbox.height, 2, upright=True)
    lines = sum(
        _fold(title, 0.97 * (figure.bbox.width if ax is None else _slot(ax)), MOST_LINES) for title, ax in titles.items()
    )
    if lines:
        figure.set_figheight(figure.get_figheight() + lines * 0.2)
        figure.draw_without_rendering()  # axes are placed by the sizes of a drawing before


def _shorten_ticks(axis: Axis) -> None:
    """Shorten the labels that were given to ticks. They are written again whenever ticks are drawn, so by their formatter."""
    given = axis.get_major_formatter()
    if isinstance(given, (FixedFormatter, FuncFormatter)):
        axis.set_major_formatter(FuncFormatter(lambda value, place: _entry(given(value, place))))


def _entry(text: str) -> str:
    """A text that is not folded, each of its lines cut in the middle where it is too long."""
    return "\n".join(shortened(line, LONGEST) for line in printable(text).split("\n"))


def _titles(figure: Figure) -> dict[Text, Axes | None]:
    """The titles of a figure with something in them, and the axes that each stands over; None for the figure's own."""
    found: dict[Text, Axes | None] = {}
    for text in figure.findobj(Text):
        axes = next((ax for ax in figure.axes if text is ax.title), None)
        if text.get_text() and (axes is not None or text is getattr(figure, "_suptitle", None)):
            found[text] = axes
    return found


def _slot(axes: Axes) -> float:
    """The width in pixels that a title over axes may have: theirs, or that of the grid's cell where they are round."""
    place = axes.get_subplotspec()
    if axes.name == "rectilinear" or place is None or axes.figure is None:
        return float(axes.bbox.width)
    return float(axes.figure.bbox.width) / place.get_gridspec().ncols * len(place.colspan)


def _fold(text: Text, room: float, most_lines: int, *, upright: bool = False) -> int:
    """Fold a text to a width in pixels, a height where it is upright. Returns how many lines it has more than before."""

    def taken() -> float:
        box = text.get_window_extent()
        return float(box.height if upright else box.width)

    before = text.get_text().split("\n")
    if not text.get_text() or taken() <= room:
        return 0
    characters = max(int(max(map(len, before)) * room / taken()), 8)
    while True:
        # Lines end between words, so that fewer letters than lines x characters have room.
        folded = [textwrap.wrap(shortened(line, int(0.85 * most_lines * characters)), characters) or [""] for line in before]
        text.set_text("\n".join(line for lines in folded for line in lines))
        if characters == 8 or taken() <= room:
            return sum(map(len, folded)) - len(before)
        characters = max(8, characters * 9 // 10)  # wide letters stand together


def _use_fonts(figure: Figure) -> None:
    """Give texts with letters that their font lacks further fonts that have them."""
    for text in figure.findobj(Text):
        letters = {c for c in text.get_text() if not c.isspace()}
        own = _letters(font_manager.findfont(text.get_fontproperties()))
        lacking = letters - own
        if not lacking:
            continue
        families = []
        for name, path in _fonts():
            covered = lacking & _letters(path)
            if covered:
                families.append(name)
                lacking -= covered
            if not lacking:
                break
        text.set_fontfamily([*text.get_fontfamily(), *families])
        new = "".join(sorted(lacking - _reported))
        if new:
            _reported.update(new)
            _log.warning("no font of this machine has the letters %s: they are drawn as boxes", shortened(new, 40))


@lru_cache(maxsize=1)
def _fonts() -> tuple[tuple[str, str], ...]:
    """(name, path) of this machine's fonts, but for those that draw every letter as a box or are for formulas."""
    passed = ("Last Resort", "STIX", "cm")
    fonts = {f.name: f.fname for f in font_manager.fontManager.ttflist if f.style == "normal" and not f.name.startswith(passed)}
    return tuple(sorted(fonts.items()))


@lru_cache(maxsize=256)
def _letters(path: str) -> frozenset[str]:
    """The letters that a font has."""
    try:
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # a damaged font, or one of another format
        return frozenset()

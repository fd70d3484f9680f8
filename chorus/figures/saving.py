"""Writing a drawn figure to a file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.text import Text

from chorus.files import check_output_file, write_atomically


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure, atomically, in the format of the path's ending (.png, .pdf, .svg); InputError where it cannot be."""
    path = Path(path)
    check_output_file("path", path, (".png", ".pdf", ".svg"))
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # titles hold prompts and keys, in which a dollar sign is no formula
    write_atomically(path, figure.savefig)

"""How an occupancy shows itself: three lines of text, and in a notebook a picture whose places are right and facts."""

from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from chorus.body.model import load_body
from chorus.camera.views import Scheme
from chorus.field import FieldParameters
from chorus.occupancy import summary
from chorus.occupancy.counts import Occupancy

N, EXTENT = 24, 3.0
RIGHT_HAND = (5, 13, 11)  # a voxel at (-0.8, 0.2, -0.1) m


def one_voxel(voxel: tuple[int, int, int] = RIGHT_HAND, body_hash: str = "b" * 64, **facts: object) -> Occupancy:
    """Forty images that saw every voxel, ten of them with the object on one voxel: phi is 1/4 there and 0 elsewhere."""
    num, den = (np.zeros((12, N, N, N), np.int32) for _ in range(2))
    num[3][voxel], den[3] = 10, 40
    totals = np.zeros(12, np.int64)
    totals[3] = 40
    occupancy = Occupancy(num, den, totals, totals, Scheme(), "azimuth", FieldParameters(N, EXTENT), body_hash, "cup")
    return dataclasses.replace(occupancy, **facts)


def test_repr_is_three_lines() -> None:
    assert repr(one_voxel()) == (
        "Occupancy('cup', 40 images, scheme 'azimuth', weighting 'azimuth',\n"
        "          24^3 voxels in a cube of 3 m, body bbbbbbbbbbbb,\n"
        "          probability at most 0.250)"
    )


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"category": " + ".join(f"category {i}" for i in range(99))}, "Occupancy('category 0 + category 1 + "),
        ({"category": "two\nlines"}, r"'two\nlines'"),
        ({"category": "", "body_hash": ""}, "body not known"),
        ({"parameters": FieldParameters(N, EXTENT, canonicalize=False)}, "3 m, not canonicalized"),
        ({name: one_voxel().num_counts * 0 for name in ("num_counts", "den_counts")}, "probability at most 0.000"),
    ],
)
def test_repr_stays_three_lines_for_all_there_is(facts: dict[str, object], words: str) -> None:
    lines = repr(one_voxel(**facts)).split("\n")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 120
    assert words in "\n".join(lines)


class Elements(HTMLParser):
    """Tags in order and text by the tag that it stands in; AssertionError where an element is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.setdefault(self.open[-1], []).append(data)


def picture(occupancy: Occupancy) -> NDArray[np.float64]:
    """The picture inside the HTML, (3 panels, PIXELS, PIXELS, 3) in 0..1."""
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', occupancy._repr_html_())
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), np.float64) / 255
    assert image.shape == (summary.PIXELS, 3 * summary.PIXELS, 3)
    return np.stack(np.split(image, 3, axis=1))


def test_html_is_whole_and_needs_nothing_from_elsewhere() -> None:
    found = Elements(one_voxel(category="<b>cup & saucer</b>")._repr_html_())
    facts = dict(zip(found.words["th"], found.words["td"], strict=True))
    assert facts["category"] == "<b>cup & saucer</b>"  # as text, not as an element
    assert facts["images"] == "40"
    assert facts["grid"] == "24^3 voxels in a cube of 3 m"
    assert facts["highest probability"] == "0.250, 0.81 m right, 0.19 up, 0.06 back of the pelvis"
    assert facts["images that saw a voxel"] == "40 to 40"
    assert facts["body"] == "b" * 12
    assert facts["field"] == one_voxel().field_hash[:12]
    sources = [value for name, value in found.attributes if name in ("src", "href")]
    assert len(sources) == 1
    assert str(sources[0]).startswith("data:image/png;base64,")


def test_picture_has_the_voxel_where_the_viewer_would_see_it() -> None:
    """From the front the person's right hand is at the left; from the left the front is at the left; from above it is up."""
    panels = picture(one_voxel())
    i, j, k = ((np.array(RIGHT_HAND) + 0.5) / N * summary.PIXELS).astype(int)
    last = summary.PIXELS - 1
    for panel, (row, column) in zip(panels, [(last - j, i), (last - j, last - k), (last - k, last - i)], strict=True):
        blue = panel[..., 2] + np.where(np.arange(summary.PIXELS) == 0, 1, 0)  # not the line between two panels
        found = np.argwhere(blue == blue.min()).mean(0)
        assert np.abs(found - [row, column]).max() < 2
        assert (panel[:, 1:] == 1).all(-1).mean() > 0.95  # white but for the spot: the body is not at hand


def test_picture_shows_the_built_in_body_and_an_empty_distribution_alone() -> None:
    body = load_body()
    empty = one_voxel(body_hash=body.hash, num_counts=one_voxel().num_counts * 0)
    for panel, (across, up) in zip(picture(empty), [(0, 1), (2, 1), (0, 2)], strict=True):
        drawn = np.argwhere((panel[:, 1:] < 0.99).all(-1)) * EXTENT / summary.PIXELS
        assert np.ptp(drawn[:, 1]) == pytest.approx(np.ptp(body.rest_vertices[:, across]), abs=0.06)
        assert np.ptp(drawn[:, 0]) == pytest.approx(np.ptp(body.rest_vertices[:, up]), abs=0.06)

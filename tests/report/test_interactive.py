"""The view by itself: in a notebook's frame, driven in a browser, and as a file; what it is given and what it refuses."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chorus
from chorus.body.model import Body, load_body
from chorus.errors import InputError, MismatchError
from chorus.occupancy.counts import Occupancy
from chorus.report.interactive import View
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store
from tests.browser import chromium as chromium
from tests.browser import quiet_page

RAISED = np.zeros((24, 3))
RAISED[17] = 0, 0, -1.0


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("show") / "balls.chorus"
    write_world(path, [WORLDS["ball-held"]], num_images=40)
    return open_store(path)


@pytest.fixture(scope="module")
def occupancy(store: Store, body: Body) -> Occupancy:
    return chorus.aggregate(store, chorus.CanonicalField(body, 24, canonicalization="joint:right_hand"))


@pytest.fixture(scope="module")
def view(occupancy: Occupancy, store: Store) -> View:
    return occupancy.show({"raised <arm> & 'hand'": RAISED}, store=store)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def data_of(view: View) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.findall(r'id="chorus-data">(.*?)</script>', view.page)[0])
    return found


def test_the_frame_holds_the_page_and_nothing_else(view: View) -> None:
    shown = view._repr_html_()
    assert shown.isascii()
    ((tag, attributes),) = Tags(shown).tags
    assert tag == "iframe"
    assert attributes["srcdoc"] == view.page
    assert attributes["sandbox"] == "allow-scripts allow-downloads"  # not the notebook's own page
    assert "height:620px" in str(attributes["style"])
    assert repr(view) == "View(title='sports ball', height=620)"  # not half a megabyte


def test_the_page_has_no_part_of_a_report_and_loads_nothing(view: View) -> None:
    tags = Tags(view.page).tags
    assert {"header", "h1", "h2", "footer", "img", "table"}.isdisjoint(tag for tag, _ in tags)
    assert ("body", {"class": "alone"}) in tags
    assert "$" not in view.page.split("<script")[0]  # every place of the template is filled
    assert [attributes["href"] for _, attributes in tags if "href" in attributes] == ["data:,"]
    assert not [attributes for _, attributes in tags if "src" in attributes]


def test_it_shows_phi_canonical_and_posed(view: View, occupancy: Occupancy, body: Body) -> None:
    data = data_of(view)
    assert [pose["name"] for pose in data["poses"]] == ["canonical", "raised <arm> & 'hand'"]
    assert data["cameras"] is not None
    expected = (occupancy.probability, occupancy.posed(RAISED, body, interpolation="trilinear"))
    for pose, phi in zip(data["poses"], expected, strict=True):
        kept = np.frombuffer(gzip.decompress(base64.b64decode(pose["phi"])), "<u2").reshape(24, 24, 24).transpose(2, 1, 0)
        np.testing.assert_allclose(kept / 65535 * data["top"], phi, atol=1e-5)
    kept = np.frombuffer(gzip.decompress(base64.b64decode(data["poses"][1]["vertices"])), "<i2").reshape(-1, 3)
    np.testing.assert_allclose(kept / 32767 * data["reach"], body.posed_vertices(RAISED[None])[0], atol=1e-4)


def test_poses_are_given_in_three_ways(occupancy: Occupancy) -> None:
    def names(*arguments: Any) -> list[str]:
        return [pose["name"] for pose in data_of(chorus.show(occupancy, *arguments))["poses"]]

    assert names() == ["canonical"]
    assert names(RAISED) == ["canonical", "pose 1"]
    assert names(RAISED.tolist()) == ["canonical", "pose 1"]
    assert names([RAISED, -RAISED]) == ["canonical", "pose 1", "pose 2"]
    assert data_of(chorus.show(occupancy))["cameras"] is None


def test_it_is_kept_as_a_file(view: View, tmp_path: Path) -> None:
    assert view.save(str(tmp_path / "view.html")) == tmp_path / "view.html"
    assert (tmp_path / "view.html").read_text(encoding="utf-8") == view.page
    with pytest.raises(InputError, match=r"path: expected a name ending in \.html or \.htm"):
        view.save(tmp_path / "view.png")


def test_what_cannot_be_shown_is_refused(occupancy: Occupancy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"poses: expected shape \(n, 24, 3\), got \(1, 22, 3\)"):
        occupancy.show(np.zeros((1, 22, 3)))
    with pytest.raises(InputError, match=r"poses\['bowed'\]: expected shape \(24, 3\)"):
        occupancy.show({"bowed": np.zeros(72)})
    with pytest.raises(InputError, match="poses: expected names that are text"):
        occupancy.show({1: RAISED})
    with pytest.raises(InputError, match="height: expected"):
        occupancy.show(height=20)
    with pytest.raises(InputError, match="occupancy: expected"):
        chorus.show(str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got 0 everywhere"):
        Occupancy(**{**vars_of(occupancy), "num_counts": np.zeros_like(occupancy.num_counts)}).show()
    write_world(tmp_path / "other.chorus", [WORLDS["backpack"]], num_images=4)
    with pytest.raises(MismatchError, match="category"):
        occupancy.show(store=open_store(tmp_path / "other.chorus"))


def vars_of(occupancy: Occupancy) -> dict[str, Any]:
    import dataclasses

    return {f.name: getattr(occupancy, f.name) for f in dataclasses.fields(occupancy)}


def test_two_views_in_one_notebook_work_side_by_side(view: View, occupancy: Occupancy, tmp_path: Path, chromium: Any) -> None:
    """As a notebook has them: two frames on a page of another encoding, each with controls of its own."""
    host = tmp_path / "notebook.html"
    host.write_text(f"<!doctype html><p>above</p>{view._repr_html_()}{occupancy.show(height=300)._repr_html_()}")
    with quiet_page(chromium) as page:
        page.goto(host.as_uri())
        first, second = (page.frame_locator("iframe").nth(i) for i in range(2))
        for frame in (first, second):
            frame.locator("#chorus-view[data-still]").wait_for()
            size, inner = frame.locator("body").evaluate("b => [b.scrollHeight, innerHeight]")
            assert size <= inner  # nothing of it has to be scrolled to
            assert frame.locator("canvas").bounding_box()["height"] > 90
        assert second.locator("[data-view=pose]").is_hidden()
        assert second.locator("[data-view=cameras]").is_hidden()
        told = second.locator("[data-view=value]").text_content()
        first.locator("[data-view=threshold]").fill("800")
        first.locator("[data-view=pose]").select_option("1")
        first.locator("[data-view=cameras]").check()
        assert first.locator("[data-view=value]").text_content() != told
        assert first.locator("[data-view=value]").text_content().startswith("phi ≥ ")
        assert second.locator("[data-view=value]").text_content() == told
        with page.expect_download() as download:
            first.locator("[data-view=save]").click()
        assert Path(download.value.path()).stat().st_size > 1000

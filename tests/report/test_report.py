"""The report: what the page says, what it never does, and the view on it, driven in a browser with the network off."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import chorus
from chorus.body.model import Body, load_body
from chorus.cli import main
from chorus.errors import InputError, MismatchError
from chorus.figures.shells import Posed, choose_thresholds
from chorus.occupancy.counts import Occupancy
from chorus.report import page, pictures
from chorus.report.report import write_report
from chorus.report.statistics import images_by_azimuth, shell_rows
from chorus.report.view import averaged_down, packed, view_data
from chorus.simulate.images import write_world
from chorus.simulate.worlds import WORLDS
from chorus.store import Store, open_store
from tests.browser import chromium as chromium
from tests.browser import quiet_page

PROMPT = WORLDS["ball-held"].prompt


@pytest.fixture(scope="module")
def body() -> Body:
    return load_body()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("report") / "balls.chorus"
    write_world(path, [WORLDS["ball-held"]], num_images=80)
    return open_store(path)


@pytest.fixture(scope="module")
def occupancy(store: Store, body: Body) -> Occupancy:
    field = chorus.CanonicalField(body, 24)
    return chorus.aggregate(store, field, scheme="azimuth+folds", prompt=PROMPT, canonicalization="joint:right_hand")


@pytest.fixture(scope="module")
def report(store: Store, occupancy: Occupancy) -> Path:
    occupancy.save(store.path.parent / "ball.h5")
    path = store.path.parent / "ball.html"
    done = CliRunner().invoke(main, ["report", str(path.with_suffix(".h5")), str(store.path), "-o", str(path), "--images", "1"])
    assert done.exit_code == 0, done.output
    assert done.stdout.rstrip().endswith(f"wrote {path}")
    return path


class Addresses(HTMLParser):
    """Everything that a page would load, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_is_small(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    found = Addresses(text)
    assert found.open == []  # every element is closed
    assert len(found.loaded) >= 4
    assert all(address.startswith("data:") for address in found.loaded)
    assert not re.findall(r"(?:https?|wss?|file)://|url\(|@import|\bfetch\(|XMLHttpRequest|\bimport\(", text)
    assert report.stat().st_size < 10_000_000
    assert "default-src 'none'" in text


def test_the_page_says_what_it_is_of(report: Path, occupancy: Occupancy, store: Store, body: Body) -> None:
    text = report.read_text(encoding="utf-8")
    assert f"<h1>{PROMPT}</h1>" in text
    assert f"learned from {occupancy.num_images} images." in text
    assert f"{occupancy.probability.max():.3f}" in text
    assert f"{occupancy.probability.max():.3f} ± " in text.split("How sure is it?")[1]
    for word in ("joint:right_hand", "24^3 voxels", "azimuth", "ball.h5", "balls.chorus", store.id[:16], body.hash[:16]):
        assert word in text, word
    sections = re.findall(r'<h2 id="(\w+)">', text)
    assert sections == ["view", "figures", "numbers", "uncertainty", "images", "provenance"]


def test_rows_of_numbers(occupancy: Occupancy, body: Body) -> None:
    low, high = shell_rows(occupancy, body, (0.2, 0.5))
    inside = occupancy.probability >= 0.5
    assert high.litres == pytest.approx(1000 * inside.sum() * (3 / 24) ** 3)
    assert low.litres > high.litres
    np.testing.assert_allclose(high.centre, occupancy.centres[inside].mean(0), atol=1e-6)
    assert high.nearest[0] in ("right_hand", "right_wrist")
    assert high.nearest[1] == pytest.approx(np.linalg.norm(body.rest_vertices - high.centre, axis=1).min())
    assert high.support == (occupancy.support[inside].min(), int(np.median(occupancy.support[inside])))
    assert high.error is not None
    left_out = [(occupancy.of_folds([g for g in range(10) if g != f]).probability >= 0.5).sum() for f in range(10)]
    expected = 1000 * (3 / 24) ** 3 * np.sqrt(9 / 10 * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    assert high.error == pytest.approx(expected)
    assert shell_rows(occupancy.with_scheme("azimuth"), body, (0.2,))[0].error is None
    assert shell_rows(occupancy, body, (1.0,)) == []
    assert images_by_azimuth(occupancy).sum() == occupancy.num_images


def test_without_store_and_folds_there_are_no_such_parts(occupancy: Occupancy, tmp_path: Path) -> None:
    path = write_report(tmp_path / "alone.html", occupancy.with_scheme("azimuth"), title="</script><b>$data & $script")
    text = path.read_text(encoding="utf-8")
    assert "there are no error bars" in text
    assert 'id="images"' not in text
    assert "<h1>&lt;/script&gt;&lt;b&gt;&#36;data &amp; &#36;script</h1>" in text
    assert Addresses(text).open == []
    assert text.count("async function chorusView") == 1
    data = json.loads(re.findall(r'<script type="application/json" id="chorus-data">(.*?)</script>', text)[0])
    assert data["cameras"] is None
    assert [pose["name"] for pose in data["poses"]] == ["canonical"]


def test_the_truth_is_shown_where_it_is_known(occupancy: Occupancy, store: Store, tmp_path: Path) -> None:
    truth = np.zeros_like(occupancy.probability)
    truth[3:6, 12:15, 10:14] = 1
    path = tmp_path / "t.html"
    write_report(path, occupancy, store, images=1, truth=truth, notes=("The <first> note.", "A second one."))
    text = path.read_text(encoding="utf-8")
    assert "The &lt;first&gt; note." in text
    assert "A second one." in text
    data = json.loads(re.search(r'id="chorus-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert [pose["name"] for pose in data["poses"]] == ["canonical", "as in image 1", "canonical: the truth"]
    assert data["top"] == pytest.approx(float(occupancy.probability.max()))  # the truth, which has 1, does not move the shells
    with pytest.raises(InputError, match="truth: expected"):
        write_report(path, occupancy, store, truth=truth[:-1])


def test_the_view_begins_with_the_shells_of_the_figures(occupancy: Occupancy, body: Body) -> None:
    top = float(occupancy.probability.max())
    data = view_data([Posed("canonical", occupancy.probability, body.rest_vertices)], body, 3.0)
    steps = np.arange(4) / 4  # as view3d.js divides what is above the threshold
    np.testing.assert_allclose(
        data["threshold"] + (data["top"] - data["threshold"]) * steps, choose_thresholds(top), atol=0.006
    )


def test_without_the_extra_figures_are_flat(
    occupancy: Occupancy, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "has_3d", lambda: False)
    text = write_report(tmp_path / "flat.html", occupancy, store, images=1).read_text(encoding="utf-8")
    assert text.count("data:image/png") == 4  # projections, slices, masks, posed back


def test_what_cannot_be_written_is_refused_before_the_work(occupancy: Occupancy, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path: expected a name ending in \.html or \.htm"):
        write_report(tmp_path / "report.pdf", occupancy)
    other = tmp_path / "other.chorus"
    write_world(other, [WORLDS["backpack"]], num_images=4)
    with pytest.raises(MismatchError, match="category"):
        write_report(tmp_path / "report.html", occupancy, open_store(other))
    assert not (tmp_path / "report.html").exists()


def test_the_view_gets_what_it_needs(occupancy: Occupancy, body: Body) -> None:
    import base64
    import gzip

    from chorus.figures.shells import Posed

    data = view_data([Posed("canonical", occupancy.probability, body.rest_vertices)], body, 3.0)
    phi = np.frombuffer(gzip.decompress(base64.b64decode(data["poses"][0]["phi"])), "<u2").reshape(24, 24, 24)
    np.testing.assert_allclose(phi.transpose(2, 1, 0) / 65535 * data["top"], occupancy.probability, atol=1e-5)  # x fastest
    vertices = np.frombuffer(gzip.decompress(base64.b64decode(data["poses"][0]["vertices"])), "<i2").reshape(-1, 3)
    np.testing.assert_allclose(vertices / 32767 * data["reach"], body.rest_vertices, atol=1e-4)
    assert packed(np.arange(3, dtype=">u2")) == packed(np.arange(3, dtype="<u2"))
    fine = np.random.default_rng(0).random((96, 96, 96)).astype(np.float32)
    assert averaged_down(fine).shape == (48, 48, 48)
    assert averaged_down(fine)[0, 0, 0] == pytest.approx(fine[:2, :2, :2].mean())
    assert averaged_down(fine[:70, :70, :70]).shape == (35, 35, 35)
    with pytest.raises(InputError, match="got 0 everywhere"):
        view_data([Posed("canonical", np.zeros((8, 8, 8)), body.rest_vertices)], body, 3.0)


def test_tables_say_what_they_are_given() -> None:
    made = page.table(["a", "<b>"], [[1, "x & y"]], words=(1,))
    assert "<th scope=col class=number>a</th>" in made
    assert "<td>x &amp; y</td>" in made
    assert page.text("a\x1b[0m") == "a\\x1b[0m"


@pytest.fixture(scope="module")
def shown(report: Path, chromium: Any) -> Iterator[Any]:
    """The report in a browser without network; its console and its requests are checked when all is done."""
    with quiet_page(chromium) as opened:
        opened.goto(report.as_uri())
        opened.wait_for_selector("#chorus-view[data-ready=yes]")
        opened.wait_for_selector("#chorus-view[data-still]")
        yield opened


def seen(shown: Any) -> np.ndarray:
    """The view's picture, (H, W, 3) uint8, drawn anew."""
    import base64
    import io

    address = shown.evaluate("(chorusShown.draw(0.6), document.querySelector('[data-view=canvas]').toDataURL())")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"), np.float64)


def coloured(picture: np.ndarray) -> np.ndarray:
    """The pixels of shells: not grey, and warm."""
    return (picture[..., 0] - picture[..., 2] > 25) & (picture[..., 0] > picture[..., 1] + 4)


def blue(picture: np.ndarray) -> np.ndarray:
    return picture[..., 2] - picture[..., 0] > 60


def test_the_view_shows_body_and_shells_where_they_are(shown: Any) -> None:
    shown.evaluate("chorusShown.change({azimuth: 0, elevation: 0})")
    picture = seen(shown)
    shells = coloured(picture)
    assert shells.sum() > 100
    columns = np.nonzero(shells)[1] / picture.shape[1]
    assert columns.max() < 0.5  # the right hand is on the left of a picture from the front
    body = (picture.max(2) - picture.min(2) < 20) & (picture.mean(2) < 235)
    assert 0.02 < body.mean() < 0.4
    shown.evaluate("chorusShown.change({azimuth: 180})")
    assert np.nonzero(coloured(seen(shown)))[1].min() / picture.shape[1] > 0.5
    assert shown.locator("[data-view=place]").text_content() == "from 180° to their left, 0° above"
    shown.locator("[data-view=home]").click()


def test_the_threshold_moves(shown: Any) -> None:
    def at(value: int) -> tuple[int, str]:
        shown.locator("[data-view=threshold]").fill(str(value))
        return int(coloured(seen(shown)).sum()), shown.locator("[data-view=value]").text_content()

    sizes, told = zip(*(at(value) for value in (200, 500, 800)), strict=True)
    assert sizes[0] > 1.3 * sizes[1] > 1.5 * sizes[2] > 0
    litres = [float(re.findall(r": (\S+) litres", words)[0]) for words in told]
    assert litres == sorted(litres, reverse=True)
    assert len(set(litres)) == 3
    shown.locator("[data-view=threshold]").fill("350")


def test_what_is_in_the_view_can_be_chosen(shown: Any) -> None:
    def changes(act: Callable[[], object]) -> tuple[np.ndarray, np.ndarray]:
        before = seen(shown)
        act()
        return before, seen(shown)

    cameras = shown.locator("[data-view=cameras]")
    before, after = changes(cameras.check)
    assert blue(before).sum() == 0
    assert blue(after).sum() > 50
    cameras.uncheck()
    assert blue(seen(shown)).sum() == 0

    before, after = changes(shown.locator("[data-view=body]").uncheck)
    grey = [((p.max(2) - p.min(2) < 20) & (p.mean(2) < 235)).mean() for p in (before, after)]
    assert grey[0] > 0.02
    assert grey[1] < 0.1 * grey[0]
    shown.locator("[data-view=body]").check()

    before, after = changes(shown.locator("[data-view=shells]").uncheck)
    assert (np.abs(before - after).max(2) > 8).sum() > 50
    assert shown.locator("[data-view=key] span").count() == 1
    shown.locator("[data-view=shells]").check()
    assert shown.locator("[data-view=key] span").count() == 4

    before, after = changes(lambda: shown.locator("[data-view=pose]").select_option("1"))
    assert (np.abs(before - after).max(2) > 8).mean() > 0.01
    shown.locator("[data-view=pose]").select_option("0")


def test_the_body_turns_and_grows_by_mouse_and_keys(shown: Any) -> None:
    shown.locator("[data-view=home]").click()
    canvas = shown.locator("[data-view=canvas]")
    box = canvas.bounding_box()
    state = "(({azimuth, elevation, distance}) => ({azimuth, elevation, distance}))(chorusShown.state)"
    start, before = shown.evaluate(state), seen(shown)
    shown.mouse.move(box["x"] + 200, box["y"] + 200)
    shown.mouse.down()
    shown.mouse.move(box["x"] + 260, box["y"] + 220, steps=3)
    shown.mouse.up()
    turned = shown.evaluate(state)
    assert turned["azimuth"] == pytest.approx(start["azimuth"] - 27)
    assert turned["elevation"] == pytest.approx(start["elevation"] + 9)
    assert (np.abs(seen(shown) - before).max(2) > 8).mean() > 0.01
    shown.mouse.wheel(0, 300)
    shown.wait_for_timeout(100)
    assert shown.evaluate(state)["distance"] > 1.2 * start["distance"]
    canvas.focus()
    shown.keyboard.press("ArrowRight")
    shown.keyboard.press("+")
    assert shown.evaluate(state)["azimuth"] == pytest.approx(turned["azimuth"] + 10)
    shown.locator("[data-view=home]").click()
    assert shown.evaluate(state) == start


def test_a_picture_of_the_view_can_be_saved(shown: Any) -> None:
    with shown.expect_download() as download:
        shown.locator("[data-view=save]").click()
    with Image.open(download.value.path()) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 5


def test_a_browser_without_webgl_says_so(report: Path, chromium: Any) -> None:
    with quiet_page(chromium, width=390) as opened:
        opened.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
        opened.goto(report.as_uri())
        opened.wait_for_selector("[data-view=message]:not([hidden])")
        assert "no WebGL2" in opened.locator("[data-view=message]").text_content()
        assert opened.locator("figure img").first.evaluate("image => image.naturalWidth") > 300
        assert opened.evaluate("document.documentElement.scrollWidth") == 390  # a telephone's, of which nothing sticks out

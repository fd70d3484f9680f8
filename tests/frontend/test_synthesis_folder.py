"""Pictures of a folder: modes, orientation, resize and crop (B.1), and files that are no pictures."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chorus.errors import InputError
from chorus.frontend.registry import make
from chorus.frontend.stages import ImageRequest, Picture, Refusal, Runtime
from chorus.frontend.synthesis import folder_requests
from chorus.frontend.synthesis.folder import LARGE, MISSING, OUTSIDE, SMALL, TRUNCATED, UNREADABLE, FolderImages
from chorus.picture_files import SUFFIXES


def flat(mode: str, colour: object, size: tuple[int, int] = (80, 80)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def read(folder: Path, name: str, size: int = 64) -> Picture | Refusal:
    return FolderImages(folder, size).images([ImageRequest(name, "A person")])[0]


def pixels(made: Picture | Refusal) -> np.ndarray:
    assert isinstance(made, Picture), made
    return made.pixels


def colour(made: Picture | Refusal) -> list[int]:
    """Of a flat picture."""
    found = np.unique(pixels(made).reshape(-1, 3), axis=0)
    assert len(found) == 1, found
    return found[0].tolist()


def scene(width: int, height: int) -> Image.Image:
    """Smooth and without symmetry, so that any shift, turn or mirroring shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = (255 * x, 255 * y, 127 + 127 * np.sin(9 * x + 5 * y * y))
    return Image.fromarray(np.stack(channels, 2).astype(np.uint8))


# Colours


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    image = scene(80, 80)
    exact = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}
    image.save(tmp_path / f"a.{suffix}", **exact.get(suffix, {}))
    found = pixels(read(tmp_path, f"a.{suffix}", 80)).astype(int)
    assert np.abs(found - np.asarray(image)).max() <= (12 if suffix == "jpg" else 0)


@pytest.mark.parametrize(
    ("mode", "value", "name", "expected"),
    [
        ("RGB", (10, 20, 30), "a.png", [10, 20, 30]),
        ("RGBA", (200, 0, 0, 255), "a.png", [200, 0, 0]),
        ("RGBA", (200, 0, 0, 0), "a.png", [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), "a.png", [204, 204, 204]),
        ("LA", (0, 51), "a.png", [204, 204, 204]),
        ("L", 77, "a.png", [77, 77, 77]),
        ("1", 1, "a.png", [255, 255, 255]),
        ("CMYK", (0, 0, 0, 0), "a.jpg", [255, 255, 255]),
        ("CMYK", (0, 0, 0, 255), "a.jpg", [0, 0, 0]),
        ("CMYK", (0, 255, 255, 0), "a.jpg", [254, 0, 0]),
        ("I;16", 77 * 256 + 200, "a.png", [77, 77, 77]),
        ("I;16", 65535, "a.png", [255, 255, 255]),
    ],
)
def test_modes(tmp_path: Path, mode: str, value: object, name: str, expected: list[int]) -> None:
    flat(mode, value).save(tmp_path / name)
    assert colour(read(tmp_path, name)) == pytest.approx(expected, abs=1)


def test_palettes_with_a_transparent_colour(tmp_path: Path) -> None:
    image = flat("P", 1)
    image.putpalette([9, 9, 9, 0, 120, 0])
    image.save(tmp_path / "solid.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert colour(read(tmp_path, "solid.png")) == [0, 120, 0]
    assert colour(read(tmp_path, "clear.png")) == [255, 255, 255]


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """Written by hand: Pillow writes no such PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + struct.pack(">3H", 77 * 256, 200 * 256, 5 * 256) * 80) * 80
    header = struct.pack(">IIBBBBB", 80, 80, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert colour(read(tmp_path, "a.png")) == [77, 200, 5]


def test_a_camera_with_two_pictures_in_a_file(tmp_path: Path) -> None:
    flat("RGB", (0, 120, 0)).save(tmp_path / "a.mpo", save_all=True, append_images=[flat("RGB", (120, 0, 0))])
    (tmp_path / "a.mpo").rename(tmp_path / "a.jpg")
    assert colour(read(tmp_path, "a.jpg")) == pytest.approx([0, 120, 0], abs=1)


# Geometry


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    """What a camera held so writes: the pixels turned, and the tag that turns them back."""
    T = Image.Transpose
    turns = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_90,
        7: T.TRANSVERSE,
        8: T.ROTATE_270,
    }
    upright = scene(96, 72)
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.save(tmp_path / "upright.png")
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(read(tmp_path, "a.png")), pixels(read(tmp_path, "upright.png")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason(tmp_path: Path) -> None:
    scene(96, 72).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xee" * 40, quality=95)
    scene(96, 72).save(tmp_path / "b.jpg", quality=95)
    assert np.array_equal(pixels(read(tmp_path, "a.jpg")), pixels(read(tmp_path, "b.jpg")))


@pytest.mark.parametrize("shape", [(200, 150), (150, 200), (333, 100), (128, 128), (70, 75)])
def test_resize_and_crop_as_in_two_steps(tmp_path: Path, shape: tuple[int, int]) -> None:
    """The paper resizes the shorter side, then crops; the one step of ours differs by less than a pixel's rounding."""
    size = 64
    image = scene(*shape)
    image.save(tmp_path / "a.png")
    scale = size / min(shape)
    resized = image.resize((round(shape[0] * scale), round(shape[1] * scale)), Image.Resampling.LANCZOS)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    expected = np.asarray(resized.crop((left, top, left + size, top + size))).astype(int)
    found = pixels(read(tmp_path, "a.png", size)).astype(int)
    assert found.shape == (64, 64, 3)
    # Half a pixel is the rounding of the two-step way; one pixel is 255 / 64 levels of red and green, 12 of blue.
    assert np.abs(found - expected).mean() < 4
    assert np.abs(found - expected)[:, :, :2].max() <= 3


def test_the_centre_is_kept(tmp_path: Path) -> None:
    """A picture three times as wide as high: red, green, blue; what is left is green, but for the border of the filter."""
    image = Image.new("RGB", (300, 100))
    for i, name in enumerate(("red", "lime", "blue")):
        image.paste(name, (100 * i, 0, 100 * i + 100, 100))
    image.save(tmp_path / "a.png")
    found = pixels(read(tmp_path, "a.png"))
    assert np.unique(found[:, 3:-3].reshape(-1, 3), axis=0).tolist() == [[0, 255, 0]]
    # As in the resized whole: its neighbours reach a little into the centre.
    assert found[32, 0].tolist() == [11, 244, 0]
    assert found[32, -1].tolist() == [0, 244, 11]


def test_fine_stripes_are_averaged(tmp_path: Path) -> None:
    """Without antialiasing, a quarter of the size would keep some stripes and lose others."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    found = pixels(read(tmp_path, "a.png", 128)).astype(int)
    assert np.abs(found[:, 3:-3] - 127).max() <= 2
    assert np.abs(found - 127).max() <= 12


def test_a_long_panorama_needs_no_more_memory(tmp_path: Path) -> None:
    """Resized as a whole, it would be 512 x 262144."""
    flat("RGB", (1, 2, 3), (32768, 64)).save(tmp_path / "a.png")
    assert colour(read(tmp_path, "a.png", 512)) == [1, 2, 3]


# What cannot be used


def test_refusals(tmp_path: Path) -> None:
    scene(200, 200).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("<html>404</html>")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.png").write_bytes(whole[:60] + bytes(b ^ 0xFF for b in whole[60:90]) + whole[90:])
    flat("RGB", 0, (63, 500)).save(tmp_path / "thin.png")
    flat("1", 0, (9000, 9000)).save(tmp_path / "large.png")
    flat("1", 0, (20000, 20000)).save(tmp_path / "bomb.png")
    flat("RGB", 0).save(tmp_path / "really.ppm", "PPM")
    (tmp_path / "really.ppm").rename(tmp_path / "ppm.png")
    (tmp_path / "folder.png").mkdir()
    expected = {
        "empty.jpg": UNREADABLE,
        "text.png": UNREADABLE,
        "cut.png": TRUNCATED,
        "flipped.png": UNREADABLE,
        "thin.png": SMALL,
        "large.png": LARGE,
        "bomb.png": LARGE,
        "ppm.png": UNREADABLE,
        "folder.png": MISSING,
        "nowhere.png": MISSING,
        "nul\0.png": MISSING,
        "x" * 5000: MISSING,
    }
    requests = [ImageRequest(name, "A person") for name in ["good.png", *expected]]
    made = FolderImages(tmp_path).images(requests)
    assert isinstance(made[0], Picture)
    assert made[0].request is requests[0]
    assert dict(zip(expected, made[1:], strict=True)) == expected


def test_every_truncation_is_a_refusal(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp", "bmp", "gif", "tif"):
        scene(64, 64).save(tmp_path / f"whole.{suffix}")
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        for part in range(0, len(whole) - 64, max(1, len(whole) // 25)):
            (tmp_path / f"cut.{suffix}").write_bytes(whole[:part])
            expected = TRUNCATED if part >= 16 else UNREADABLE  # of fewer bytes nobody can say what they were to become
            assert read(tmp_path, f"cut.{suffix}") == expected, (suffix, part)


def test_nothing_outside_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    scene(80, 80).save(tmp_path / "secret.png")
    scene(80, 80).save(inside / "mine.png")
    (inside / "leaves.png").symlink_to(tmp_path / "secret.png")
    (inside / "stays.png").symlink_to("mine.png")
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "folders").symlink_to(tmp_path)
    names = ["leaves.png", "../secret.png", str(tmp_path / "secret.png"), "folders/secret.png", "sub/../../secret.png"]
    assert [read(inside, name) for name in names] == [OUTSIDE] * len(names)
    assert read(inside, "loop.png") == MISSING
    assert np.array_equal(pixels(read(inside, "stays.png")), pixels(read(inside, "mine.png")))
    # All that are listed get a row; a link to a folder is not followed.
    assert [r.key for r in folder_requests(inside, "p")] == ["leaves.png", "loop.png", "mine.png", "stays.png"]


def test_a_link_to_the_folder_itself(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    scene(80, 80).save(tmp_path / "real" / "a.png")
    (tmp_path / "link").symlink_to("real")
    assert [r.key for r in folder_requests(tmp_path / "link", "p")] == ["a.png"]
    assert isinstance(read(tmp_path / "link", "a.png"), Picture)


# Requests


def test_requests(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "sub folder/c.jpeg", "sub folder/deep/d.webp", "Z/e.bmp", "f.TIF"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = folder_requests(tmp_path, "A person rides a bicycle")
    assert [r.key for r in found] == ["Z/e.bmp", "a.jpg", "b.PNG", "f.TIF", "sub folder/c.jpeg", "sub folder/deep/d.webp"]
    assert {(r.prompt, r.view, r.seed) for r in found} == {("A person rides a bicycle", "", -1)}


def test_all_endings_are_listed_and_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """JPEGs are called .jfif and .jpe as well, by Windows and by image searches."""
    forms = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF"}
    for suffix in SUFFIXES:
        flat("RGB", (0, 120, 0)).save(tmp_path / f"a{suffix}", forms.get(suffix, "JPEG"))
    found = folder_requests(tmp_path, "p")
    assert [r.key for r in found] == sorted(f"a{suffix}" for suffix in SUFFIXES)
    for made in FolderImages(tmp_path).images(found):
        assert isinstance(made, Picture), made
    assert caplog.records == []


def test_pictures_that_are_left_out_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("notes.txt", "b.heic", "sub/c.CR2", "d.avif", "e.psd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"got 4 other pictures \('b.heic', 'd.avif', 'e.psd', ...\)"):
        folder_requests(tmp_path, "p")
    assert caplog.records == []  # the error says it
    scene(80, 80).save(tmp_path / "a.png")
    scene(80, 80).save(tmp_path / "a name without an ending", "JPEG")
    assert [r.key for r in folder_requests(tmp_path, "p")] == ["a.png"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "left out" in record.message
    assert ".jfif" in record.message
    assert "5 other pictures ('a name without an ending', 'b.heic', 'd.avif', ...)" in record.message


def test_prompts_of_the_folders(tmp_path: Path) -> None:
    root = tmp_path / "bicycles"
    names = {
        "a.jpg": ("bicycles", ""),
        "A_person_rides_a_bicycle/b.jpg": ("A person rides a bicycle", ""),
        "A person rides a bicycle/side_view/c.jpg": ("A person rides a bicycle", "side view"),
        "A person rides a bicycle/2019/d.jpg": ("2019", ""),
        "front view/e.jpg": ("bicycles", "front view"),
    }
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for prompt in (None, "from-folders"):
        assert {r.key: (r.prompt, r.view) for r in folder_requests(root, prompt)} == names
    assert folder_requests(root)[0].key == "A person rides a bicycle/2019/d.jpg"


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file.png").touch()
    for wrong in (tmp_path / "nowhere", tmp_path / "file.png"):
        with pytest.raises(InputError, match="folder: expected a folder of pictures"):
            folder_requests(wrong, "p")
        with pytest.raises(InputError, match=r"folder: expected (a folder of pictures|a path that exists)"):
            make("images", f"folder={wrong}", Runtime())
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="folder: expected pictures"):
        folder_requests(tmp_path / "bare", "p")
    with pytest.raises(InputError, match="expected folder=MODEL"):
        make("images", "folder", Runtime())


def test_names_that_are_no_text(tmp_path: Path) -> None:
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    with pytest.raises(InputError, match="file names in UTF-8"):
        folder_requests(tmp_path, "p")


def test_by_name_with_options(tmp_path: Path) -> None:
    scene(60, 90).save(tmp_path / "a.png")
    asked = [ImageRequest("a.png", "A person")]
    assert make("images", f"folder={tmp_path}", Runtime()).images(asked) == [SMALL]
    source = make("images", f"folder={tmp_path}", Runtime(options={"least": "60", "size": "32"}))
    assert pixels(source.images(asked)[0]).shape == (32, 32, 3)
    assert source.images([]) == []
    with pytest.raises(InputError, match="size: expected a whole number"):
        make("images", f"folder={tmp_path}", Runtime(options={"size": "32.5"}))

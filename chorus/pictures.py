"""Pictures and masks from outside, read in one way wherever they enter: photographs, folders of pictures, masks of records.

The content of a file decides what it is, not its name. A picture becomes upright 8-bit RGB (``rgb_image``, ``read_picture``), a
mask (H, W) bool (``read_mask``). What cannot be used raises a PictureError, whose ``reason`` callers turn into their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from chorus.picture_files import PictureError, Source, brief, damage, opened

if TYPE_CHECKING:
    from PIL import Image, ImageFile

T = TypeVar("T")

MAX_PIXELS = 80_000_000
"""Most pixels of a picture, checked before it is decoded: a small file can claim any size. Below Pillow's own limit."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's names of the formats that are read. Its JPEG includes files with a second picture, as of some cameras."""
_ORIENTATION = 0x0112  # the EXIF tag, 1 to 8; 5 to 8 exchange width and height
_PHOTOMETRIC = 262  # the TIFF tag; 0: zero is white, which Pillow knows of samples up to 8 bits alone


@dataclass(frozen=True)
class _Decoded:
    """A picture in memory, upright, its samples as the file has them but for colours of 16 bits, which Pillow cuts to 8.

    kind     Pillow's name of the format
    rawmode  Pillow's name of the samples' form in the file, as in "RGB;16B" and "L;4"
    """

    name: str
    image: Image.Image
    kind: str
    rawmode: str

    @property
    def sixteen_bits(self) -> bool:
        return ";16" in self.rawmode


def read_picture(
    source: Source, *, name: str | None = None, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB, as ``rgb_image`` makes it."""
    return np.array(rgb_image(source, name=name, size=size, max_pixels=max_pixels))


def picture_header(source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """What a picture's header says, without decoding it: Pillow's name of the format ("JPEG"), width and height as stored.

    source, name, max_pixels  as in ``rgb_image``. Raises PictureError as it does.
    """
    from PIL import Image

    with opened(source, name) as (file, name):
        image = None
        try:
            with Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
                kind = image.format or ""
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(name, max_pixels, error) from None
        except Exception as error:  # as in ``_read``
            raise damage(name, file, image, error) from None
    if width * height > max_pixels:
        raise PictureError(f"{name}: expected at most {max_pixels} pixels, got {width} x {height}", "too large")
    return kind, width, height


def rgb_image(
    source: Source,
    *,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    min_side: int = 1,
) -> Image.Image:
    """A JPEG, PNG, WebP, BMP, GIF or TIFF as Pillow's 8-bit RGB image, upright.

    source      a path, or a file open for reading bytes, whose position can be set
    name        what errors call it; default: the path's last part
    size        (height, width) in pixels that the upright picture must have
    max_pixels  more are refused before they are decoded; ``min_side``: so are pictures with a shorter side below it

    Turned as its EXIF orientation says (also where other EXIF data is damaged). 16 bits keep their high byte. Whole samples of
    32 bits count as 8 bits where none is above 255, else as 16; floats go from 0, black, to 1, white; what lies beyond is
    refused. What is transparent (alpha, a transparent colour) becomes white. CMYK is converted without its profile; other
    profiles are ignored. Of several frames or pages it is the first.

    Raises PictureError, which names the file, what was expected and what came.
    """
    return _read(source, name, size, max_pixels, min_side, _over_white)


def read_mask(
    source: Source, *, name: str | None = None, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """A mask as (H, W) bool, from any picture with two values: 0 (black) outside, and one other value or colour inside.

    source, name, size, max_pixels  as in ``rgb_image``

    Grey of any depth, 1 bit, palette (its colours count, not its indices) and colour are read alike: 1, 255 and red mean the
    same. Where some pixels are transparent (alpha, a transparent colour) and others are not, these are outside and inside,
    whatever their colours. It is turned as its EXIF orientation says, as its photograph is.

    Raises PictureError as ``rgb_image`` does; with the reason "ambiguous" for more than two values (soft masks, the blurred
    edges of a JPEG, label maps), for two without a 0, and where transparency says one thing and black another.
    """
    return _read(source, name, size, max_pixels, 1, _inside)


def _read(
    source: Source,
    name: str | None,
    size: tuple[int, int] | None,
    max_pixels: int,
    min_side: int,
    use: Callable[[_Decoded], T],
) -> T:
    """What ``use`` makes of the decoded picture. All pictures pass through here, and whatever fails becomes a PictureError."""
    from PIL import Image

    with opened(source, name) as (file, name):
        image = None
        try:
            with Image.open(file, formats=_FORMATS) as image:
                return use(_decode(name, image, size, max_pixels, min_side))
        except PictureError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(name, max_pixels, error) from None
        except Exception as error:  # decoders raise nearly anything on damaged data: OSError, SyntaxError, struct.error, ...
            raise damage(name, file, image, error) from None


def _too_large(name: str, max_pixels: int, error: Exception) -> PictureError:
    return PictureError(f"{name}: expected at most {max_pixels} pixels, got more: {brief(error)}", "too large")


def _decode(name: str, image: ImageFile.ImageFile, size: tuple[int, int] | None, max_pixels: int, min_side: int) -> _Decoded:
    """The pixels in memory, upright, of an image that Pillow has opened, that is, whose header it has read."""
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(f"{name}: expected at most {max_pixels} pixels, got {width} x {height}", "too large")
    if min(width, height) < min_side:
        raise PictureError(
            f"{name}: expected a shorter side of at least {min_side} pixels, got {width} x {height}", "too small"
        )
    if image.mode in ("I;16", "F") and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        raise PictureError(f"{name}: expected a TIFF of {image.mode} samples whose 0 is black, got one whose 0 is white")
    kind, rawmode = image.format or "", _rawmode(image)
    # Newer versions of Pillow turn a TIFF as they load it, and forget. Asked before, a PNG is loaded, and its errors are lost.
    said = _orientation(image) if kind == "TIFF" else 1
    image.load()
    to_do = _orientation(image)
    upright = image.transpose(_turn(to_do)) if to_do > 1 else image
    _check_size(name, upright.size, size, max(said, to_do))
    return _Decoded(name, upright, kind, rawmode)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
        value = value[0] if isinstance(value, (bytes, tuple)) else value
        return int(value) if 1 <= value <= 8 else 1
    except Exception:  # the parser raises on damaged data as decoders do
        return 1


def _turn(orientation: int) -> Image.Transpose:
    """What makes a picture of the orientation 2 to 8 upright. Pillow's rotations are counter-clockwise."""
    from PIL.Image import Transpose

    names = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
    return Transpose[names[orientation - 2]]


def _rawmode(image: ImageFile.ImageFile) -> str:
    """Pillow's name of the samples' form in the file, known until it is decoded; "" where there is none."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _check_size(name: str, got: tuple[int, int], size: tuple[int, int] | None, orientation: int) -> None:
    """Raise PictureError where ``got``, the (width, height) of the upright picture, is not ``size``, (height, width)."""
    if size is None or got == size[::-1]:
        return
    message = f"{name}: expected the image_size, width, height {size[1]}, {size[0]}, got {got[0]}, {got[1]}"
    if orientation > 1:
        stored = got[::-1] if orientation >= 5 else got
        message += f", turned as the EXIF orientation {orientation} says; the file has {stored[0]}, {stored[1]}"
    raise PictureError(message, "wrong size")


def _with_alpha(decoded: _Decoded) -> tuple[Image.Image, Image.Image | None]:
    """The picture without its transparency, and its opacity as an 8-bit grey image, or None where all of it is opaque.

    The picture keeps its grey samples; palettes become RGB, since transparency of a palette belongs to its colours.
    """
    from PIL import Image

    image = decoded.image
    clear = image.info.get("transparency")
    if image.mode in ("La", "RGBa"):  # multiplied by alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        alpha = image.getchannel("A")
        bare = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
        return bare, None if alpha.getextrema() == (255, 255) else alpha
    if clear is None:
        return image, None
    # One colour or grey of a PNG is transparent. Pillow gives its samples as the file has them, the picture's as 8 bits.
    samples = np.asarray(image)
    if samples.ndim == 3:
        key = np.asarray(clear) >> (8 if decoded.sixteen_bits else 0)
        opaque = (samples != key).any(-1)
    else:
        scale = {"L;2": 85, "L;4": 17}.get(decoded.rawmode, 1)
        opaque = samples.astype(np.int64) != (bool(clear) if image.mode == "1" else int(clear) * scale)
    image = image.copy()
    del image.info["transparency"]  # conversions would apply it once more
    return image, None if opaque.all() else Image.fromarray(opaque.astype(np.uint8) * 255)


def _over_white(decoded: _Decoded) -> Image.Image:
    from PIL import Image

    image, alpha = _with_alpha(decoded)
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own conversion clips at 255
        image = Image.fromarray(_eight_bits(decoded, np.asarray(image)))
    if alpha is None:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=alpha)
    return white


def _eight_bits(decoded: _Decoded, samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey samples of 16 or 32 bits as 8 bits."""
    low, high = samples.min(), samples.max()
    white = 1 if samples.dtype.kind == "f" else 65535
    if not (low >= 0 and high <= white):  # nor where one is NaN
        raise PictureError(
            f"{decoded.name}: expected grey samples of 0 (black) to {white} (white), got {low:g} to {high:g}", "ambiguous"
        )
    if white == 1:
        return np.asarray(np.rint(samples * 255), np.uint8)
    if samples.dtype.itemsize > 2 and decoded.kind != "PNG" and high <= 255:
        return samples.astype(np.uint8)
    return (samples >> 8).astype(np.uint8)


def _inside(decoded: _Decoded) -> NDArray[np.bool_]:
    """The pixels inside a mask."""
    image, alpha = _with_alpha(decoded)
    grey = image.mode in ("1", "L", "F") or image.mode.startswith("I")
    values = np.asarray(image) if grey else _packed(image)
    if alpha is not None and (extrema := alpha.getextrema())[0] != extrema[1]:  # the same everywhere, it says nothing
        inside = _not_zero(decoded, np.asarray(alpha))
        shown = values[inside]
        if not shown.all() and _one_value(shown[shown != 0]):
            raise PictureError(
                f"{decoded.name}: expected a mask in transparency or in colours, got both: black and one colour are opaque",
                "ambiguous",
            )
        return inside
    if decoded.sixteen_bits and not grey and not values.any():
        raise PictureError(f"{decoded.name}: expected colours of 8 bits, or of 256 and more, got less of 16 bits", "ambiguous")
    return _not_zero(decoded, values)


def _packed(image: Image.Image) -> NDArray[np.uint32]:
    """Each pixel's colour as one number, 0 for black."""
    return np.asarray(np.asarray(image.convert("RGB").convert("RGBX")).view("<u4")[..., 0] & 0xFFFFFF, np.uint32)


def _one_value(values: NDArray[Any]) -> bool:
    return bool(values.size and (values == values[0]).all())  # NaN equals nothing


def _not_zero(decoded: _Decoded, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are not 0. PictureError where these are not all equal."""
    inside: NDArray[np.bool_] = values != 0
    if inside.any() and not _one_value(values[inside]):
        advice = "a JPEG blurs edges, save the mask as PNG" if decoded.kind == "JPEG" else "threshold soft masks first"
        raise PictureError(
            f"{decoded.name}: expected 0 (black) and one other value, got {len(np.unique(values))} values; {advice}",
            "ambiguous",
        )
    return inside

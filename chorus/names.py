"""Names of files made from data: prompts, parts, keys and categories, which may hold any character and be of any length."""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable

MOST_BYTES = 80
"""Most bytes of a stem: with a second one, a digest and an ending, a name still fits the 255 that file systems take."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
"""Names that Windows gives to devices, with any ending."""


def file_stem(text: str, most_bytes: int = MOST_BYTES) -> str:
    """A readable name for a file, without ending: the text's letters and digits, of any script, and dashes for the rest.

    Never empty, hidden, longer than ``most_bytes`` in UTF-8, or a name that Windows reserves. Different texts may give the
    same one; ``file_stems`` keeps them apart.
    """
    plain = unicodedata.normalize("NFC", text)
    # Marks (M) belong to letters: without them Hindi or Thai could not be read.
    plain = "".join(c if unicodedata.category(c)[0] in "LNM" and _in_file_system(c) else "-" for c in plain)
    words = "-".join(word for word in plain.split("-") if word)
    stem = words.encode()[:most_bytes].decode(errors="ignore").strip("-") or "unnamed"
    return f"{stem}-file" if _RESERVED.fullmatch(stem) else stem


def file_stems(texts: Iterable[str], most_bytes: int = MOST_BYTES, taken: Collection[str] = ()) -> dict[str, str]:
    """text -> its ``file_stem``, all different, also where a file system ignores case or the form of accents.

    Texts that would have the same name, or one of ``taken``, get the first digits of their SHA-256 behind it. A text's name
    does not depend on the order of the texts.
    """
    names = {text: file_stem(text, most_bytes) for text in texts}
    used = Counter(map(_compared, taken))
    for digits in (8, 64):
        uses = Counter(map(_compared, names.values())) + used
        names = {
            text: name if uses[_compared(name)] == 1 else f"{file_stem(text, most_bytes)}-{digest(text)[:digits]}"
            for text, name in names.items()
        }
    return names


def is_file_name(name: object) -> bool:
    """Whether a value, from a file that others may have written, names a file of a folder and nothing outside it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0") and _in_file_system(name)


def _in_file_system(text: str) -> bool:
    """Whether names of files can hold a text: not every one in a C locale, whose encoding is ASCII."""
    try:
        text.encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        return False
    return True


def digest(text: str) -> str:
    """SHA-256 of a text in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _compared(name: str) -> str:
    """A name as file systems that ignore case and forms of accents compare it."""
    return unicodedata.normalize("NFKC", name).casefold()

"""Texts for people: numbers with their nouns, long texts cut short, control characters as escapes."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 prompt", "2,000 prompts"; ``plural`` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def sized(size: float) -> str:
    """A number of bytes for people: "640 B", "4.1 kB", "8.2 MB"; units are powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def shortened(text: str, most: int = 300) -> str:
    """A text on one line and of at most ``most`` characters: what is cut out of its middle is shown as "..."."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    head = (most - 3 + 1) // 2
    tail = most - 3 - head
    return f"{line[:head]}...{line[len(line) - tail :]}"


def printable(text: str) -> str:
    """A text without control characters but tab and newline: the others as backslash escapes (a terminal would obey them)."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _is_control(c) else c.encode("unicode_escape").decode() for c in text)


def _is_control(character: str) -> bool:
    # C0, delete, C1, marks that change the direction of writing, and halves of surrogate pairs, which cannot be encoded.
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069 or 0xD800 <= code < 0xE000

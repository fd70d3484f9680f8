"""Texts for people: numbers with their nouns, long texts cut short."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun: "1 prompt", "2,000 prompts"; ``plural`` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def shortened(text: str, most: int = 300) -> str:
    """A text on one line and of at most ``most`` characters: what is cut out of its middle is shown as "..."."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    head = (most - 3 + 1) // 2
    tail = most - 3 - head
    return f"{line[:head]}...{line[len(line) - tail :]}"

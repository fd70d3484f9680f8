"""Finds the prompts in a language model's answer: lists of any form, JSON, Markdown, with chatter around them.

An answer is cut into candidates, sentence by sentence; a candidate is stripped of numbers, bullets, quotes and emphasis and
kept if it can be a prompt: 3 to 20 words, at most 120 characters, the category is in it, the subject is no pronoun, and it
is not a repetition. What is dropped is recorded with the reason.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

LEAST_WORDS, MOST_WORDS, MOST_CHARACTERS = 3, 20, 120
"""The bounds of a prompt. CLIP reads 75 tokens, and a view augmentation is added to the prompt."""

MOST_ANSWER = 50_000
"""Characters of an answer that are read; the rest is ignored."""

# First words of sentences that have no noun as their subject.
_PRONOUNS = frozenset(
    (
        "i",
        "you",
        "he",
        "she",
        "it",
        "we",
        "they",
        "this",
        "that",
        "these",
        "those",
        "who",
        "one",
        "someone",
        "somebody",
        "anyone",
        "anybody",
        "everyone",
        "everybody",
        "nobody",
    )
)
# First words of chatter: "Sure, here are ...".
_TALK = frozenset(
    (
        "sure",
        "certainly",
        "absolutely",
        "okay",
        "ok",
        "here",
        "note",
        "let",
        "please",
        "hello",
        "hi",
        "sorry",
        "feel",
        "as",
        "unfortunately",
        "no",
        "not",
        "yes",
        "great",
        "thanks",
    )
)
_ABOUT_PROMPTS = re.compile(r"\b(prompts?|sentences?|subject-verb|svo|examples?|json|list of)\b", re.I)

# "1.", "(2)", "3)", "4:", "5 -", "a)", "-", "*", "•", "#6", "7 A ..."; "Prompt 8:".
_MARKER = re.compile(
    r"^\s*(?:(?:[-+*>•‣◦–—▪●○·✓]|#?\(?\d{1,3}\s*[.):\]]|\d{1,3}\s*[-–—]\s|#\d{1,3}|\(?[a-z][.)])\s*(?=\D)"
    r"|\d{1,3}\s+(?=(?:An?|The)\s)|\[[ xX]?\]\s*)"
)
_LABEL = re.compile(r"^\s*(?:prompt|sentence|example|caption)\s*(?:#?\d{1,3}|[a-z])?\s*[:.)-]\s*", re.I)
_LABELLED = re.compile(r"subject\W+(.+?)[,;|]?\s+verb\W+(.+?)[,;|]?\s+object\W+(.+)", re.I)
_NUMBER_INSIDE = re.compile(r"(?<=[a-z.!?;:,\"'])\s+(?=\(?\d{1,3}[.)]\s*[\"'*_]*[A-Za-z])", re.I)
_SENTENCE_END = re.compile(r"(?<=[a-z][.!?])[\"'*_]*\s+(?=[\"'*_]*[A-Z])|;\s*|,\s+(?=(?:An?|The)\s)")
_QUOTED = re.compile(r'"([^"]+)"')
_ARROWS = re.compile(r"\s*(?:->|=>|→|\|)\s*|\s+[-–—]+\s+")
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(?:</\1>|\Z)|\A.*</think>", re.S | re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_SAME_GLYPH = str.maketrans({"“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "’": "'", "‘": "'", "`": "", "\u00a0": " "})


@dataclass(frozen=True)
class Dropped:
    """A text of an answer that cannot be used as a prompt, and the reason."""

    text: str
    reason: str


@dataclass
class Collected:
    """Prompts found so far, all different, and what was dropped on the way."""

    category: str
    prompts: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen = {same_words(prompt) for prompt in self.prompts}

    def add(self, answer: str, most: int, cut: bool = False) -> int:
        """Take the prompts of an answer, up to ``most`` in all. Returns how many were new.

        ``cut``: the answer was stopped at its greatest length, so that its last line may be incomplete and is not taken.
        """
        candidates = list(_candidates(answer))
        before = len(self.prompts)
        for place, candidate in enumerate(candidates):
            # Ten times the length of a prompt is too long whatever is tidied away.
            text = _tidy(candidate) if len(candidate) <= 10 * MOST_CHARACTERS else candidate
            if not same_words(text):
                continue
            reason = why_not(text, self.category)
            if cut and place == len(candidates) - 1:
                reason = "cut off"
            elif reason is None and same_words(text) in self._seen:
                reason = "said already"
            elif reason is None and len(self.prompts) >= most:
                reason = f"more than the {most} asked for"
            if reason is None:
                self._seen.add(same_words(text))
                self.prompts.append(text[0].upper() + text[1:])
            else:
                self.dropped.append(Dropped(text, reason))
        return len(self.prompts) - before


def why_not(text: str, category: str) -> str | None:
    """Why a text cannot be a prompt of the category; None where it can."""
    words = _words(text)
    first = words[0] if words else ""
    if text.endswith(":") or first in _TALK or _ABOUT_PROMPTS.search(text):
        return "not a prompt"
    if len(words) > MOST_WORDS or len(text) > MOST_CHARACTERS:
        return f"longer than {MOST_WORDS} words or {MOST_CHARACTERS} characters"
    if min(len(words), len(text.split())) < LEAST_WORDS:  # "0:0## motorcycle" has three words, joined by marks
        return f"shorter than {LEAST_WORDS} words"
    if first.partition("'")[0] in _PRONOUNS:
        return "its subject is a pronoun"
    if not mentions(text, category):
        return f"without {category!r}"
    return None


def mentions(text: str, category: str) -> bool:
    """Whether the category occurs as words of its own: in full, in one word, or its last word; singular or plural.

    So "cell phone" is found in "two cellphones" and in "a phone", and "skis" in "one ski"; "tie" is not found in "unties".
    """
    wanted = _words(category)
    known = _singular_and_plural("".join(wanted)) | _singular_and_plural(wanted[-1])
    return any(word in known for word in _words(text.replace("'s", "")))


def _singular_and_plural(noun: str) -> set[str]:
    """Singular and plural of a noun given in either; a few wrong forms among them do no harm."""
    forms = {noun, noun + "s", noun + "es"}
    if noun.endswith("s"):
        forms.add(noun[:-1])
    if noun.endswith("es"):
        forms.add(noun[:-2])
    if noun.endswith("y"):
        forms.add(noun[:-1] + "ies")
    if noun.endswith("ies"):
        forms.add(noun[:-3] + "y")
    if noun.endswith(("f", "fe")):
        forms.add(noun.rstrip("fe") + "ves")
    if noun.endswith("ves"):
        forms |= {noun[:-3] + "f", noun[:-3] + "fe"}
    return {form for form in forms if len(form) > 1} | {noun}


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())


def same_words(text: str) -> str:
    """A form that is equal for texts which differ only in case, punctuation and spaces."""
    return " ".join(_words(text))


def _tidy(text: str) -> str:
    """The text without control characters, list markers, quotes, emphasis and punctuation at its end."""
    text = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    before = None
    while text != before:  # one wraps the other, as in **1.** "A person ..."
        before = text
        text = text.strip(" \t*_")
        text = _LABEL.sub("", _MARKER.sub("", text, count=1), count=1)
        text = re.sub(r"^[\"']+\s*|\s*[\"']+$", "", text)
        text = text.rstrip(" .,;!")
    text = re.sub(r"(\*\*|__|\*|\b_|_\b)", "", text)
    labelled = _LABELLED.fullmatch(text)
    said = text.rpartition(": ")[2].strip(" \"'")
    if labelled:
        text = " ".join(labelled.groups())
    elif ": " in text and len(_words(said)) >= LEAST_WORDS:  # "Riding: A person rides a bicycle"
        text = said
    return re.sub(r"\s+", " ", text).strip()


def _candidates(answer: str) -> Iterator[str]:
    """The answer's texts that may be prompts, in order."""
    answer = answer[:MOST_ANSWER].replace("\r\n", "\n").replace("\r", "\n").translate(_SAME_GLYPH)
    answer = _TAG.sub("\n", _THOUGHT.sub("", answer))
    value = _embedded_json(answer)
    for text in [answer] if value is None else _strings(value):
        for line in text.split("\n"):
            line = re.sub(r"\s+", " ", line).strip()
            if re.fullmatch(r"\W*", line) or re.match(r"#{1,6}\s", line) or re.fullmatch(r"\W*(json|text|python)\W*", line):
                continue  # rules, fences, brackets, headings
            yield from _sentences(line)


def _sentences(line: str) -> Iterator[str]:
    """The sentences of a line; only those in quotes, where there are any."""
    quoted = [q for q in _QUOTED.findall(line) if len(_words(q)) >= LEAST_WORDS]
    if quoted:
        yield from quoted  # and not the words around them
        return
    if len(line) <= 10 * MOST_CHARACTERS and _LABELLED.search(line):
        yield line
        return
    for item in _NUMBER_INSIDE.split(line):
        for sentence in _SENTENCE_END.split(item):
            yield _joined(sentence)


def _joined(text: str) -> str:
    """A row of a table, "A person -> rides -> a bicycle" as a sentence; of "A person rides a bicycle - fast" the first part."""
    body = text.lstrip("| ")
    marker = _MARKER.match(body)
    parts = _ARROWS.split(body[marker.end() :] if marker else body)
    cells = [part.strip() for part in parts if part.strip() and not part.strip().isdigit()]
    if len(cells) == 3 and all(len(_words(cell)) <= 4 for cell in cells):
        return " ".join(cells)
    whole = [cell for cell in cells if len(_words(cell)) >= LEAST_WORDS]
    return whole[0] if len(parts) > 1 and whole else text


def _embedded_json(text: str) -> Any:
    """The first JSON array or object in a text, or a Python list; None where there is none that holds texts."""
    decoder = json.JSONDecoder()
    for match in itertools.islice(re.finditer(r"[\[{]", text), 20):
        rest = text[match.start() :]
        try:
            value, _ = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            try:  # ['A person ...', 'A person ...']
                value = ast.literal_eval(rest[: rest.rindex("]") + 1])
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
        if any(len(_words(s)) >= LEAST_WORDS for s in _strings(value)):
            return value
    return None


def _strings(value: Any) -> Iterable[str]:
    """The texts in JSON, in order; of {"subject": ..., "verb": ..., "object": ...} the sentence."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        named = {str(key).lower(): item for key, item in value.items()}
        parts = [named.get(key) for key in ("subject", "verb", "object")]
        if all(isinstance(part, str) for part in parts):
            yield " ".join(str(part) for part in parts)
            return
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)

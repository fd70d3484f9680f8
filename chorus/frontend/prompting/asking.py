"""Asks a language model for prompts, and again while some are missing: what servers and local models share."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chorus._version import __version__
from chorus.errors import InputError
from chorus.frontend.prompting.fixed import check_count
from chorus.frontend.prompting.parsing import Collected, Dropped
from chorus.frontend.prompting.table3 import category_name
from chorus.frontend.stages import Runtime
from chorus.texts import shortened

logger = logging.getLogger(__name__)

TEMPLATE = (
    "Generate at most {m} simple subject-verb-object prompt where subject's {subject} and object's category is {category}. "
    "You should use diverse and general word but no pronoun for subject. Generated prompt must align with common sense. "
    "Verb must depict physical interaction between subject and object. Simple verb preferred."
)
"""The question of A.1."""

SUBJECTS = {"category": "category is person", "word": 'word is "A person"'}
"""The two ways in which the question describes the subject."""

_MOST = 1000  # prompts; far beyond the paper's 20, and a bound on what is asked for


@dataclass(frozen=True)
class Question:
    """The question: a text with ``{m}`` and ``{category}``, perhaps ``{subject}``; other braces stay as they are."""

    template: str = TEMPLATE
    subject: str = "category"

    def __post_init__(self) -> None:
        for name in ("{m}", "{category}"):
            if name not in self.template:
                raise InputError(f"template: expected a text with {{m}} and {{category}}, got one without {name}")
        if self.subject not in SUBJECTS:
            raise InputError(f"subject: expected one of {', '.join(SUBJECTS)}; got {self.subject!r}")

    def text(self, category: str, count: int, had: list[str]) -> str:
        """The text that asks for ``count`` prompts other than those in ``had``."""
        values = {"{m}": str(count), "{category}": category, "{subject}": SUBJECTS[self.subject]}
        text = self.template
        for name, value in values.items():
            text = text.replace(name, value)
        if had:
            text += "\nDo not repeat any of these:\n" + "\n".join(f"- {prompt}" for prompt in had)
        return text

    @classmethod
    def of(cls, runtime: Runtime) -> Question:
        """The question that the options ``template`` (a file) and ``subject`` describe. InputError for an unreadable file."""
        subject = runtime.options.get("subject", "category")
        path = runtime.options.get("template")
        if path is None:
            return cls(subject=subject)
        try:
            template = Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"template: expected a text file in UTF-8, got {path!r}: {error}") from None
        return cls(template, subject)


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    cut      whether it was stopped at its greatest length      refusal  why the model refused; "" where it did not
    """

    text: str
    cut: bool = False
    refusal: str = ""


class Asking(ABC):
    """A model that is asked up to 1 + ``retries`` times, until there are as many prompts as wanted. A PromptSource.

    dropped  what the last call of ``prompts`` could not use, and why
    asked    how often it asked
    """

    def __init__(self, question: Question, retries: int) -> None:
        self.question, self.retries = question, retries
        self.dropped: list[Dropped] = []
        self.asked = 0

    @abstractmethod
    def answer(self, question: str, turn: int) -> Answer:
        """The model's answer to question number ``turn`` = 0, 1, ... of a list. InputError where there is none."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Which model this is and how it is run, for the record."""

    def provenance(self) -> dict[str, Any]:
        """Where the prompts of the last call come from, in JSON's types."""
        return {
            **self.facts(),
            "template": self.question.template,
            "subject": self.question.subject,
            "asked": self.asked,
            "chorus": __version__,
        }

    def prompts(self, category: str, count: int) -> list[str]:
        """At most ``count`` prompts, at least one; fewer with a warning. InputError, showing what came, where there is none."""
        check_count(count)
        if count > _MOST:
            raise InputError(f"count: expected at most {_MOST}, got {count}")
        found = Collected(category_name(category))
        self.dropped, self.asked = found.dropped, 0
        last, why = "", ""
        for turn in range(1 + self.retries):
            missing = count - len(found.prompts)
            if not missing:
                break
            try:
                said = self.answer(self.question.text(found.category, missing, found.prompts), turn)
            except InputError as error:
                if not found.prompts:
                    raise
                why = f": {error}"  # the prompts found before are kept
                break
            self.asked += 1
            last = said.text or said.refusal
            found.add(said.text, count, said.cut)
        if not found.prompts:
            raise InputError(
                f"prompts: expected sentences about a person and {found.category!r}, got none in {self.asked} answers; "
                f"the last one: {shortened(last)!r}"
            )
        if len(found.prompts) < count:
            logger.warning("%d of %d prompts for %r%s", len(found.prompts), count, found.category, why)
        return found.prompts

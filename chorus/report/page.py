"""The page: texts, tables and figures put into chorus/data/report.html. Everything from outside is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from chorus.texts import printable


def text(value: object) -> str:
    """A value as text of a page: control characters as escapes, nothing of it read as markup."""
    # A dollar sign in front of a name is a place of the template.
    return escape(printable(str(value))).replace("$", "&#36;")


def paragraph(*sentences: str, kind: str = "") -> str:
    """Sentences, already text of a page, as a paragraph."""
    return f"<p{f' class={kind}' if kind else ''}>{' '.join(sentences)}</p>"


def section(name: str, heading: str, *parts: str) -> str:
    """A section with a heading, of parts that are HTML."""
    return "\n".join([f'<h2 id="{name}">{text(heading)}</h2>', *parts])


def figure(address: str, caption: str, width: str = "") -> str:
    """A figure of a ``data:`` address, with a caption that also stands for it where pictures are not seen."""
    style = f' style="width:{width}"' if width else ""
    return f'<figure><img src="{address}" alt="{text(caption)}"{style}><figcaption>{text(caption)}</figcaption></figure>'


def facts(pairs: Mapping[str, object]) -> str:
    """A table of names and values."""
    rows = "".join(f"<tr><th scope=row>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in pairs.items())
    return f'<div class="wide"><table class="facts">{rows}</table></div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", words: Sequence[int] = ()) -> str:
    """A table; the columns whose numbers are in ``words`` hold words, the others numbers."""
    kinds = ["" if i in words else " class=number" for i in range(len(columns))]
    head = "".join(f"<th scope=col{kind}>{text(c)}</th>" for c, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{text(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    told = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{told}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def code(value: str) -> str:
    """A command line or the like."""
    return f'<pre class="wrapped">{text(value)}</pre>'


def folded(summary: str, value: Any) -> str:
    """A value as JSON that opens when asked for."""
    shown = text(json.dumps(value, indent=1, ensure_ascii=True, default=str))
    return f"<details><summary>{text(summary)}</summary><pre>{shown}</pre></details>"


def page(
    title: str, lead: str, sections: Sequence[str], data: Mapping[str, Any], script: str, *, cameras: str, footer: str
) -> str:
    """The whole file. lead, sections and footer are HTML; data goes to the script, which is JavaScript."""
    header = f"<header>\n<h1>{text(title)}</h1>\n{lead}\n</header>\n"
    return _filled(
        data,
        script,
        kind="",
        title=text(title),
        header=header,
        heading='<h2 id="view">Turn it</h2>\n',
        sections="\n".join(sections),
        footer=f"<footer>{footer}</footer>\n",
        cameras=cameras,
    )


def view_page(title: str, data: Mapping[str, Any], script: str) -> str:
    """A file of the interactive view alone, which fills its window."""
    parts = dict.fromkeys(("header", "heading", "sections", "footer", "cameras"), "")
    return _filled(data, script, kind=' class="alone"', title=text(title), **parts)


def _filled(data: Mapping[str, Any], script: str, **parts: str) -> str:
    template = Template((files("chorus.data") / "report.html").read_text(encoding="utf-8"))
    # No text of the data may end the element that it stands in.
    told = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    # Not by the template, in which dollar signs of the script would be names.
    filled = template.safe_substitute(parts)
    return filled.replace("$script", script, 1).replace("$data", told, 1)

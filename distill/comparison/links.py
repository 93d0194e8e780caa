"""Numbers as links, and tables of them: the page's address holds which items are shown, so each number leads to its own."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from urllib.parse import urlencode

from distill.comparison.report import Report

COLOURS = 6  # in page.css; more systems share them


def href(hashed: Mapping[str, str]) -> str:
    return f'href="#{escape(urlencode(hashed))}"'


def link(text: str, hashed: Mapping[str, str], *, label: str = "", kind: str = "", title: str = "") -> str:
    """`text` is plain, and so is `label`, which a screen reader says in its place."""
    about = {"class": kind, "aria-label": label, "title": title}
    told = "".join(f' {name}="{escape(value)}"' for name, value in about.items() if value)
    return f"<a {href(hashed)}{told}>{escape(text)}</a>"


def colour(report: Report, system: str) -> str:
    """A class that gives a system the same colour everywhere."""
    return f"s{report.systems.index(system) % COLOURS}"


def named(report: Report, system: str) -> str:
    """A system's name beside its colour."""
    return f'<i class="swatch {colour(report, system)}"></i>{escape(system)}'


def framed(caption: str, head: str, bodies: str, *, label: str = "", kind: str = "") -> str:
    """A table that scrolls sideways by itself, also by keyboard. `head`: its cells; `bodies`: <tr>s or <tbody>s."""
    look = f' class="{kind}"' if kind else ""
    inside = bodies if bodies.startswith("<tbody") else f"<tbody>{bodies}</tbody>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label or caption)}"><table{look}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>{inside}</table></div>"
    )


def heads(*titles: str, numbers_from: int) -> str:
    """Cells of a table's head; from `numbers_from` on aligned as numbers. `titles` are HTML."""
    return "".join(
        f'<th scope="col"{" class=n" if at >= numbers_from else ""}>{title}</th>' for at, title in enumerate(titles)
    )

"""The page's headline and tables. Each number in them is a link to the items behind it: the page's address holds which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from distill.comparison.links import framed, heads, link, named
from distill.comparison.records import Figure, Measure
from distill.comparison.report import IN_WORDS, Report, interval, is_cost, lasted, shown, verdict
from distill.comparison.sentences import figure_hash, sentences
from distill.teaching.dataset.charts import table

UNKNOWN = "unknown"
SPOKEN = {"★": "best", "☆": "not significantly worse than the best"}
ARROWS = {"higher": "↑", "lower": "↓", "neither": "↕"}
NONE_YET = (
    '<p class="none">None counted yet: <a href="#view=blind">listen blind and vote</a>, then give the saved file to '
    "<code>attune compare --votes</code>.</p>"
)


# --- headline


def headline(report: Report) -> str:
    data, timings, items = report.data, report.data["timings"], report.data["items"]
    count = link(f"{items['count']:,} items", {"at": "items"})
    tasks = ", ".join(escape(task) + " " + link(f"{n:,}", {"task": task}) for task, n in items["tasks"].items())
    said = "".join(f"<li>{_sentence(sentence)}</li>" for sentence in sentences(report))
    made = f"Attune {data['attune']}, commit {data['commit'] or 'unknown'}, seed {data['seed']}"
    ran = f"{timings['created_at']} on {timings['machine']}, in {lasted(timings['wall_s'])}"
    return (
        f"<h1>{len(report.systems)} systems on {escape(items['name'])}</h1>"
        f"<p>{count}, the same sound for every system: {tasks}.{_overlaps(items)}</p>"
        f'<ul class="said">{said}</ul>{_systems(report)}'
        f'<p class="small">Made with <code>{escape(data["command"])}</code><br/>{escape(ran)}. {escape(made)}. '
        f"Items sha256 <code>{escape(items['sha256'])}</code></p>"
    )


def _overlaps(items: Mapping[str, Any]) -> str:
    return "".join(f" Of them {escape(told)} of {escape(name)}." for name, told in items.get("overlaps", {}).items())


def _sentence(parts: Sequence[str | tuple[str, dict[str, str]]]) -> str:
    return "".join(escape(part) if isinstance(part, str) else link(*part) for part in parts)


def _systems(report: Report) -> str:
    rows = "".join(_system(report, system) for system in report.data["systems"])
    head = heads("system", "what it is", "answered", "failed", numbers_from=2)
    return framed("What was compared", head, rows, kind="systems")


def _system(report: Report, system: Mapping[str, Any]) -> str:
    name, failed = system["name"], system["failed"]
    label = f"{failed} failed answers of {name}"
    told = link(f"{failed:,}", {"failed": name}, label=label) if failed else "0"
    settings = (f"{key} {value}" for key, value in system["settings"].items())
    engines = (f"{stage} {engine}" for stage, engine in system["engines"].items())
    more = " · ".join(filter(None, (", ".join(settings), ", ".join(engines))))
    note = " <small>reference</small>" if name == report.reference else ""
    return (
        f'<tr><th scope="row">{named(report, name)}{note}</th><td>{escape(system["about"])}<small class="block">'
        f'{escape(more)}</small></td><td class="n">{system["answered"]:,}</td><td class="n">{told}</td></tr>'
    )


# --- summary


def summary(report: Report) -> str:
    measured = report.measured()
    groups = {
        "How good": "".join(_measure(report, one) for one in measured if not is_cost(one)),
        "What it takes": "".join(_measure(report, one) for one in measured if is_cost(one)),
        "Not measured": "".join(_unmeasured(report, one) for one in report.unmeasured()),
    }
    wide = 1 + len(report.systems)
    bodies = "".join(
        f'<tbody><tr><th colspan="{wide}" scope="rowgroup" class="group">{title}</th></tr>{rows}</tbody>'
        for title, rows in groups.items()
        if rows
    )
    head = heads("measure", *(named(report, name) for name in report.systems), numbers_from=1)
    return (
        '<p class="small">Each value with its 95 % bootstrap interval. A click, or Enter, on any number of this page shows the '
        f"items behind it.</p>{framed('Summary over all items', head, bodies, kind='summary')}"
        '<p class="small"><b>★</b> best of its row · <b>☆</b> not significantly worse than the best · <b>▲</b> significantly '
        f"better, <b>▼</b> worse than {escape(report.reference)} on the same items</p>{_sources(report)}"
    )


def _measure(report: Report, measure: Measure) -> str:
    best, near = report.best(measure)
    marks = dict.fromkeys(near, "☆") | dict.fromkeys(best, "★")
    cells = "".join(_cell(report, measure, system, marks.get(system, "")) for system in report.systems)
    return (
        f'<tr><th scope="row">{escape(measure.title)}<small class="block">{ARROWS[measure.better]} <span class="words">'
        f"{IN_WORDS[measure.better]} · </span>{_counted(report, measure)}</small></th>{cells}</tr>"
    )


def _counted(report: Report, measure: Measure) -> str:
    """How many items its figures rest on."""
    counts = {figure.items for name in report.systems if (figure := report.figure(measure.name, name))}
    if counts == {0}:
        return "whole system"
    return f"{max(counts):,} items" if len(counts) == 1 else f"{min(counts):,}–{max(counts):,} items"


def _cell(report: Report, measure: Measure, system: str, mark: str) -> str:
    figure = report.figure(measure.name, system)
    if figure is None:
        return '<td class="n none">–</td>'
    said = f'<span aria-hidden="true">{mark}</span><span class="sr">{SPOKEN[mark]}</span>' if mark else ""
    sign = f'<span class="mark" title="{SPOKEN[mark]}">{said}</span>' if mark else ""
    value = shown(figure.value, measure.unit)
    label = f"{measure.title} of {system}: {value}"
    number = link(value, figure_hash(figure), label=label, kind="best" if mark == "★" else "")
    span = interval(figure, measure.unit)
    ends = f'<small class="block">{span}</small>' if span else ""
    return f'<td class="n">{sign}{number}{_difference(figure, measure)}{ends}</td>'


def _difference(figure: Figure, measure: Measure) -> str:
    gap, word = figure.difference, verdict(figure, measure)
    if gap is None or word == "same":
        return ""
    label = f"significantly {word} than {gap.to}: {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    sign = "▲" if word == "better" else "▼"
    return " " + link(sign, figure_hash(figure, paired=True), label=label, kind=word, title=label)


def _unmeasured(report: Report, measure: Measure) -> str:
    why = escape(measure.unmeasured or "no answer had it")
    wide = len(report.systems)
    return f'<tr><th scope="row">{escape(measure.title)}</th><td colspan="{wide}" class="none">not measured: {why}</td></tr>'


def _sources(report: Report) -> str:
    rows = [(one.title, one.about, one.source, one.name) for one in report.measures.values()]
    head = ("measure", "what it is", "source", "key")
    told = table(head, rows, numbers_from=len(head), caption="Measures and their sources")
    return f"<details><summary>What each measure is, and where it comes from</summary>{told}</details>"


# --- cues


def confusions(report: Report) -> str:
    tables = [one for one in report.data["confusions"] if one["counts"]]
    if not tables:
        return '<p class="none">no system told a cue</p>'
    parts = []
    for cue in dict.fromkeys(one["cue"] for one in tables):
        found = "".join(_confusion(one) for one in tables if one["cue"] == cue)
        parts.append(f'<h3>{escape(cue.capitalize())}</h3><div class="columns">{found}</div>')
    note = "A row: what was meant; a column: what the system told. The stronger its colour, the larger its share of the row."
    return f'{"".join(parts)}<p class="small">{note}</p>'


def _confusion(one: Mapping[str, Any]) -> str:
    counts = one["counts"]
    columns = sorted(one["labels"], key=lambda label: label == UNKNOWN)
    rows = "".join(
        f'<tr><th scope="row">{escape(truth)}</th>{"".join(_heat(one, truth, told) for told in columns)}</tr>'
        for truth in sorted(counts, key=columns.index)
    )
    head = heads("meant ↓ told →", *map(escape, columns), numbers_from=1)
    return framed(one["system"], head, rows, label=f"{one['cue']}, {one['system']}", kind="heat")


def _heat(one: Mapping[str, Any], truth: str, told: str) -> str:
    row = one["counts"][truth]
    count, total = row.get(told, 0), sum(row.values())
    right = " right" if truth == told else ""
    if not count:
        return f'<td class="n none{right}">·</td>'
    hashed = {"cue": one["cue"], "system": one["system"], "truth": truth, "told": told}
    number = link(f"{count:,}", hashed, label=f"{truth} told as {told}: {count} of {total}, {one['system']}")
    return f'<td class="n{right}" style="--heat:{100 * count / total:.0f}%">{number}</td>'


# --- votes


def votes(report: Report) -> str:
    told = report.data.get("votes") or {}
    pairs: Iterable[Mapping[str, Any]] = told.get("pairs", ())
    rows = "".join(_pair(report, one) for one in pairs)
    if not rows:
        return NONE_YET
    head = heads("A", "B", "A better", "B better", "alike", "share of A", "95 %", numbers_from=2)
    caption = "Whose reply fits better, told blind; alike counts half"
    return f'{framed(caption, head, rows)}<p class="small">From {escape(", ".join(told["files"]))}</p>'


def _pair(report: Report, one: Mapping[str, Any]) -> str:
    a, b = one["a"], one["b"]
    behind = {"votes": f"{a} {b}"}
    cells = "".join(
        f'<td class="n">{link(f"{one[key]:,}", {**behind, "won": who}) if one[key] else "0"}</td>'
        for key, who in (("a_wins", a), ("b_wins", b), ("ties", "tie"))
    )
    span = "" if one["low"] is None else f"{100 * one['low']:.1f}–{100 * one['high']:.1f}"
    share = f'<td class="n">{link(shown(one["share_a"], "share"), behind)}</td><td class="n">{span}</td>'
    return f"<tr><td>{named(report, a)}</td><td>{named(report, b)}</td>{cells}{share}</tr>"

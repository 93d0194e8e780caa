"""Charts as rows and plots that follow the page's width; each bar is a link to the items behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any, get_args

from cascade.turn import STAGES
from distill.comparison.links import colour, href, link
from distill.comparison.records import Figure, Measure
from distill.comparison.report import ALL, IN_WORDS, Report, interval, shown
from distill.comparison.sentences import figure_hash
from graphs.state import Listening

SIDE, LEFT, TOP = 200, 26, 10  # of a reliability diagram, in SVG units; the page scales it
HEARING: tuple[str, ...] = get_args(Listening)  # stages that run side by side
FIRST_SOUND = "first sound"
FIRST_SHOWN = ("contrast_fit", "empathy")  # of the task profiles, if it is there
WATERFALL = (
    "Median seconds of each stage, warm, one answer at a time, all charts on one scale. Stages of hearing run side by side from "
    "the start; the rest is drawn one after the other, though a reply sounds before its last word is made. ◆ first sound, the "
    "median of the same answers."
)
RELIABILITY = (
    "How often the best label was right (height) by how sure the system was (from left to right); the number in a bar counts its "
    "answers. On the diagonal, confidence is what it says. ECE: the mean distance from it, weighted by answers."
)
Span = tuple[str, float, float]  # stage, from, to


def row(name: str, shapes: str, value: str, hashed: Mapping[str, str], *, kind: str, label: str) -> str:
    """One line of a chart: its name, its shapes on a track, its value; all of it is the link."""
    return (
        f'<a class="row" {href(hashed)} aria-label="{escape(label)}" title="{escape(label)}"><span>{escape(name)}</span>'
        f'<svg class="track {kind}" aria-hidden="true">{shapes}</svg><b>{escape(value)}</b></a>'
    )


# --- latency


def waterfall(report: Report) -> str:
    stages = report.data["timings"]["stages"]
    spans = {name: _spans(stages.get(name, {})) for name in report.systems}
    firsts = {name: _first_sound(report, name) for name in report.systems}
    end = max([0.0, *(stop for found in spans.values() for _, _, stop in found), *filter(None, firsts.values())])
    if not end:
        return '<p class="none">not measured</p>'
    charts = "".join(_one_waterfall(report, name, spans[name], firsts[name], end) for name in report.systems)
    return f'<div class="columns">{charts}</div><p class="small">{WATERFALL}</p>'


def _spans(stages: Mapping[str, float]) -> list[Span]:
    """Those of hearing from 0 on, each other one after all before it."""
    known: tuple[str, ...] = STAGES
    order = sorted(stages, key=lambda stage: known.index(stage) if stage in known else len(known))
    at = max((stages[stage] for stage in order if stage in HEARING), default=0.0)
    told: list[Span] = [(stage, 0.0, stages[stage]) for stage in order if stage in HEARING]
    for stage in (stage for stage in order if stage not in HEARING):
        told.append((stage, at, at + stages[stage]))
        at += stages[stage]
    return told


def _first_sound(report: Report, system: str) -> float | None:
    answers = (one["answers"].get(system, {}).get("timings", {}) for one in report.data["rows"])
    values = (answer.get("values", {}).get("first_sound_s") for answer in answers)
    found = [top / bottom for top, bottom in filter(None, values) if bottom]
    return median(found) if found else None


def _one_waterfall(report: Report, system: str, spans: Sequence[Span], first: float | None, end: float) -> str:
    def x(seconds: float) -> str:
        return f"{100 * seconds / end:.2f}%"

    kind = colour(report, system)
    mark = f'<line class="first" x1="{x(first)}" x2="{x(first)}" y1="0" y2="100%"/>' if first else ""
    lines = []
    for stage, begin, stop in spans:
        bar = f'<rect x="{x(begin)}" width="{x(max(0.004 * end, stop - begin))}" y="15%" height="70%" rx="2"/>'
        label, told = f"{stage} of {system}: {stop - begin:.2f} s", f"{stop - begin:.2f}"
        lines.append(row(stage, mark + bar, told, {"stage": stage, "system": system}, kind=kind, label=label))
    if first:
        sign = f'{mark}<text x="{x(first)}" y="75%">◆</text>'
        label, hashed = f"{FIRST_SOUND} of {system}: {first:.2f} s", {"stage": FIRST_SOUND, "system": system}
        lines.append(row(FIRST_SOUND, sign, f"{first:.2f}", hashed, kind=kind, label=label))
    inside = "".join(lines) or '<p class="none">not measured</p>'
    return f"<figure><figcaption>{escape(system)}, seconds</figcaption>{inside}</figure>"


# --- tasks


def profile(report: Report) -> str:
    """For each measure with figures of several tasks a panel; the page shows one of them at a time."""
    chosen = [one for one in report.measured() if sum(_has(report, one, task) for task in report.tasks) > 1]
    if not chosen:
        return '<p class="none">no measure with figures of several tasks</p>'
    first = next((one.name for one in chosen if one.name in FIRST_SHOWN), chosen[0].name)
    options = "".join(
        f'<option value="{escape(one.name)}"{" selected" if one.name == first else ""}>{escape(one.title)}</option>'
        for one in chosen
    )
    panels = "".join(_panel(report, one, hidden=one.name != first) for one in chosen)
    return f'<p><label>Measure <select id="profile" autocomplete="off">{options}</select></label></p>{panels}'


def _has(report: Report, measure: Measure, task: str) -> bool:
    return any(report.figure(measure.name, system, task) for system in report.systems)


def _panel(report: Report, measure: Measure, *, hidden: bool) -> str:
    tasks = [task for task in (*report.tasks, ALL) if _has(report, measure, task)]
    found = [f for task in tasks for name in report.systems if (f := report.figure(measure.name, name, task))]
    tallest = max((f.value if f.high is None else f.high for f in found), default=0.0)
    end = 1.0 if measure.unit == "share" else tallest or 1.0
    groups = "".join(_task(report, measure, task, end) for task in tasks)
    said = f"{measure.title}: {IN_WORDS[measure.better]}; bars from 0 to {shown(end, measure.unit)}, lines are 95 % intervals."
    return (
        f'<div class="panel" data-measure="{escape(measure.name)}"{" hidden" if hidden else ""}><div class="columns tasks">'
        f'{groups}</div><p class="small">{escape(said)}</p></div>'
    )


def _task(report: Report, measure: Measure, task: str, end: float) -> str:
    figures = (report.figure(measure.name, system, task) for system in report.systems)
    lines = "".join(_bar(report, figure, measure, end) for figure in figures if figure)
    return f"<figure><figcaption>{escape('all tasks' if task == ALL else task)}</figcaption>{lines}</figure>"


def _bar(report: Report, figure: Figure, measure: Measure, end: float) -> str:
    def x(value: float) -> str:
        return f"{max(0.0, min(100.0, 100 * value / end)):.2f}%"

    span, value = interval(figure, measure.unit), shown(figure.value, measure.unit)
    shapes = f'<rect x="0" width="{x(figure.value)}" y="20%" height="60%" rx="2"/>'
    if figure.low is not None and figure.high is not None:
        shapes += f'<line class="span" x1="{x(figure.low)}" x2="{x(figure.high)}" y1="50%" y2="50%"/>'
    about = f"{measure.title} of {figure.system}, {figure.task}: {value}"
    label = f"{about}, {span or 'no interval'}, {figure.items} items"
    return row(figure.system, shapes, value, figure_hash(figure), kind=colour(report, figure.system), label=label)


# --- calibration


def calibration(report: Report) -> str:
    found = report.data["calibration"]
    if not found:
        return '<p class="none">no system told how sure it was</p>'
    parts = []
    for cue in dict.fromkeys(one["cue"] for one in found):
        charts = "".join(_reliability(report, one) for one in found if one["cue"] == cue)
        parts.append(f'<h3>{escape(cue.capitalize())}</h3><div class="plots">{charts}</div>')
    return f'{"".join(parts)}<p class="small">{RELIABILITY}</p>'


def _reliability(report: Report, one: Mapping[str, Any]) -> str:
    system, cue, count = one["system"], one["cue"], sum(found["count"] for found in one["bins"])
    span = f" ({one['low']:.3f}–{one['high']:.3f})" if one.get("low") is not None else ""
    hashed = {"cue": cue, "system": system, "sure": "0-1"}
    ece = link(f"{one['ece']:.3f}", hashed, label=f"ECE of {system}, {cue}: {one['ece']:.3f}")
    bars = "".join(_bin(one, found) for found in one["bins"] if found["count"])
    return (
        f'<figure><figcaption>{escape(system)}<small class="block">ECE {ece}{span}<br/>{count:,} answers</small></figcaption>'
        f'<svg viewBox="0 0 {LEFT + SIDE + 4} {TOP + SIDE + 20}" class="{colour(report, system)}" role="group" '
        f'aria-label="{escape(f"Reliability of {cue}, {system}")}">{_axes()}{bars}</svg></figure>'
    )


def _axes() -> str:
    low, high = TOP + SIDE, LEFT + SIDE
    ticks = "".join(
        f'<text class="mid" x="{LEFT + SIDE * share:.0f}" y="{low + 16}">{share:g}</text>'
        f'<text class="end" x="{LEFT - 5}" y="{TOP + 4 + SIDE * (1 - share):.0f}">{share:g}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    frame = f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>'
    return f'{frame}<line class="diagonal" x1="{LEFT}" y1="{low}" x2="{high}" y2="{TOP}"/>{ticks}'


def _bin(one: Mapping[str, Any], found: Mapping[str, float]) -> str:
    low, high, right, count = found["low"], found["high"], found["accuracy"], found["count"]
    hashed = {"cue": one["cue"], "system": one["system"], "sure": f"{low:g}-{high:g}"}
    label = f"{count} answers with confidence {low:g} to {high:g}, mean {found['confidence']:.2f}: {right:.0%} right"
    x, y, width = LEFT + SIDE * low + 1, TOP + SIDE * (1 - right), SIDE * (high - low) - 2
    return (
        f'<a {href(hashed)} aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<rect class="hit" x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{SIDE}"/>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(1.5, SIDE * right):.1f}"/>'
        f'<text class="mid" x="{x + width / 2:.1f}" y="{TOP + SIDE - 4}">{count:,}</text>'
        f'<circle cx="{LEFT + SIDE * found["confidence"]:.1f}" cy="{y:.1f}" r="3"/></a>'
    )

"""A comparison as Markdown, for a README: the command, the main measures of all systems, each task, and what was not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.comparison.records import Measure
from distill.comparison.report import ALL, IN_WORDS, Report, interval, lasted, shown, verdict

BY_TASK = ("contrast_fit", "empathy", "emotion_accuracy", "judge_task")  # the first of them that differs by task


def markdown(comparison: Mapping[str, Any]) -> str:
    """Raises InputError: not of the schema."""
    report = Report(comparison)
    items, timings = comparison["items"], comparison["timings"]
    parts = [
        f"```sh\n{comparison['command']}\n```",
        f"{items['count']:,} items of {_cell(items['name'])} (sha256 `{items['sha256'][:12]}`), {_cell(timings['machine'])}, "
        f"{lasted(timings['wall_s'])}; Attune {comparison['attune']}, commit {comparison['commit'] or 'unknown'}.",
        *(f"Of these items {_cell(told)} of {_cell(name)}." for name, told in items.get("overlaps", {}).items()),
        _main(report),
        "95 % bootstrap intervals. **Bold**: the best, and those not significantly worse than it. "
        f"▲ ▼: significantly better or worse than {_cell(report.reference)} on the same items.",
        *_tasks(report),
        *_not_measured(report),
    ]
    return "\n\n".join(parts) + "\n"


def _main(report: Report) -> str:
    rows = [
        (
            f"{measure.title} ({IN_WORDS[measure.better]}{_of(report, measure)})",
            *(_value(report, measure, name) for name in report.systems),
        )
        for measure in report.main()
    ]
    failed = [f"{system['failed']:,} of {report.data['items']['count']:,}" for system in report.data["systems"]]
    return _table(("", *report.systems), [*rows, ("answers that failed", *failed)])


def _of(report: Report, measure: Measure) -> str:
    """How many items it rests on, where that is not all of them."""
    counts = {figure.items for name in report.systems if (figure := report.figure(measure.name, name))}
    most = max(counts, default=0)
    return f"; {most:,} item{'s' if most > 1 else ''}" if 0 < most < report.data["items"]["count"] else ""


def _value(report: Report, measure: Measure, system: str, task: str = ALL) -> str:
    figure = report.figure(measure.name, system, task)
    if figure is None:
        return "–"
    value = shown(figure.value, measure.unit)
    best, near = report.best(measure) if task == ALL else ((), ())
    value = f"**{value}**" if system in (*best, *near) else value
    sign = {"better": " ▲", "worse": " ▼", "same": ""}[verdict(figure, measure)]
    span = interval(figure, measure.unit)
    return f"{value}{sign} ({span})" if span else f"{value}{sign}"


def _tasks(report: Report) -> Iterable[str]:
    """One measure by task: the first of those wanted of which several tasks have figures."""
    for name in BY_TASK:
        measure = report.measures.get(name)
        tasks = [task for task in report.tasks if any(report.figure(name, system, task) for system in report.systems)]
        if measure and len(tasks) > 1:
            rows = ((task, *(_value(report, measure, system, task) for system in report.systems)) for task in tasks)
            yield f"{_cell(measure.title)} by task:"
            yield _table(("", *report.systems), rows)
            return


def _not_measured(report: Report) -> Iterable[str]:
    told = [f"- {_cell(one.title)}: {_cell(one.unmeasured or 'no answer had it')}" for one in report.unmeasured()]
    if told:
        yield "Not measured:\n\n" + "\n".join(told)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line, without what Markdown or HTML would take for its own."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")

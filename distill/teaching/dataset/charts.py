"""Charts as SVG and tables as HTML, by themselves: colours come from the page's CSS variables, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.teaching.dataset.facts import Histogram

WIDTH, HEIGHT = 640, 200  # in SVG units; the page scales them
LEFT, BOTTOM, TOP = 44, 34, 8


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers_from: int = 1, caption: str = "") -> str:
    """A table that scrolls sideways on a narrow screen. Columns from `numbers_from` on are aligned as numbers."""
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    titles = "".join(f"<th{_aligned(at, numbers_from)}>{escape(title)}</th>" for at, title in enumerate(head))
    lines = "".join(
        "<tr>"
        + "".join(f"<td{_aligned(at, numbers_from)}>{escape(str(cell))}</td>" for at, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{said}<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _aligned(at: int, numbers_from: int) -> str:
    return ' class="n"' if at >= numbers_from else ""


def heat_table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, int]]) -> str:
    """Counts, the larger the stronger their colour; within a column, for columns are of very different size."""
    most = {column: max((row.get(column, 0) for row in rows.values()), default=0) for column in columns}
    head = "".join(f'<th class="n">{escape(column)}</th>' for column in columns)
    lines = []
    for name, row in rows.items():
        cells = "".join(_heat_cell(row.get(column, 0), most[column]) for column in columns)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="heat"><thead><tr><th>{escape(corner)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _heat_cell(count: int, most: int) -> str:
    share = count / most if most else 0.0
    return f'<td class="n" style="--heat:{100 * share:.0f}%">{f"{count:,}" if count else "·"}</td>'


def bars(rows: Mapping[str, int], *, of: int, notes: Mapping[str, str] | None = None) -> str:
    """Horizontal bars, one a line, as shares of `of`, with the count and a note."""
    most = max(rows.values(), default=0) or 1
    lines = [
        f'<li><span>{escape(name)}</span><i style="width:{100 * count / most:.1f}%"></i>'
        f"<b>{count:,} ({count / of if of else 0:.1%})</b><small>{escape((notes or {}).get(name, ''))}</small></li>"
        for name, count in rows.items()
    ]
    return f'<ul class="bars">{"".join(lines)}</ul>'


def histogram(values: Histogram, *, unit: str, title: str) -> str:
    """Counts by value. Values far out on the right (the last 0.5 %) share the last bar."""
    if not values.count:
        return '<p class="none">not measured</p>'
    low, high = min(values.bins), _end(values)
    counts = [values.bins[number] for number in range(low, high)] + [
        sum(c for n, c in values.bins.items() if n >= high)
    ]
    most, step = max(counts), (WIDTH - LEFT) / len(counts)
    shapes = [
        f'<rect x="{LEFT + at * step:.1f}" y="{_y(count / most):.1f}" width="{max(0.5, step - 1):.1f}" '
        f'height="{_y(0) - _y(count / most):.1f}"><title>{_range(low + at, values.width)} {unit}: {count}</title></rect>'
        for at, count in enumerate(counts)
    ]
    every = max(1, -(-len(counts) // 8))
    marks = [
        f'<text x="{LEFT + at * step:.1f}" y="{HEIGHT - 14}">{(low + at) * values.width:g}</text>'
        for at in range(0, len(counts), every)
    ]
    return _svg(title, HEIGHT, [*shapes, *marks, *_frame(most, unit)])


def _end(values: Histogram) -> int:
    """The bin behind which only the last 0.5 % lie."""
    return max(min(values.bins) + 1, round(values.quantile(0.995) / values.width - 0.5))


def _range(number: int, width: float) -> str:
    return f"{number * width:g}–{(number + 1) * width:g}"


def _y(share: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)


def _frame(most: int, unit: str) -> list[str]:
    return [
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{_y(0):.1f}" y2="{_y(0):.1f}"/>',
        f'<text class="end" x="{LEFT - 6}" y="{_y(1) + 12:.1f}">{most}</text>',
        f'<text class="end" x="{LEFT - 6}" y="{_y(0):.1f}">0</text>',
        f'<text class="end" x="{WIDTH}" y="{HEIGHT - 1}">{escape(unit)}</text>',
    ]


def boxes(rows: Mapping[str, Histogram], *, unit: str, title: str) -> str:
    """For each label a line from the 10th to the 90th percentile, a box from the 25th to the 75th, and the median."""
    if not rows:
        return '<p class="none">not measured</p>'
    spans = {name: [values.quantile(q) for q in (0.1, 0.25, 0.5, 0.75, 0.9)] for name, values in rows.items()}
    low = min(span[0] for span in spans.values())
    high = max(max(span[-1] for span in spans.values()), low + 1)
    left, line = 150, 24

    def x(value: float) -> float:
        return left + (WIDTH - left - 24) * (value - low) / (high - low)

    shapes = []
    for at, (name, (a, b, middle, c, d)) in enumerate(spans.items()):
        y = TOP + at * line + line / 2
        shapes += [
            f'<text class="end" x="{left - 8}" y="{y + 4:.1f}">{escape(name)} ({rows[name].count})</text>',
            f'<line x1="{x(a):.1f}" x2="{x(d):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<rect x="{x(b):.1f}" y="{y - 7:.1f}" width="{max(1, x(c) - x(b)):.1f}" height="14">'
            f"<title>{escape(name)}: median {middle:.0f} {unit}</title></rect>",
            f'<line class="mid" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{y - 7:.1f}" y2="{y + 7:.1f}"/>',
        ]
    bottom = TOP + len(spans) * line + 16
    shapes += [
        f'<text x="{x(low + (high - low) * k / 4):.1f}" y="{bottom}" class="mark">{low + (high - low) * k / 4:.0f}</text>'
        for k in range(5)
    ]
    return _svg(f"{title} ({unit})", bottom + 6, shapes)


def _svg(title: str, height: float, shapes: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title>{''.join(shapes)}</svg>"
    )

"""comparison.html: everything in comparison.json to read, to see and to hear, in one file that needs nothing else.

Tables and charts are written here, each number a link whose address says which items are behind it; page.js, items.js and
blind.js show those items and ask for blind votes. A security policy in the page keeps it from reaching anywhere, and lets no
script run but these three, so that no text of a model or a manifest can become more than text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from cascade.errors import InputError
from distill import look
from distill.comparison import plots, sections, sounds
from distill.comparison.report import Report, fingerprint, read
from distill.files import whole_file

PAGE = "comparison.html"
MAX_SOUND_MB = 60.0  # of MP3; in the page a third more. Some four hours
SCRIPTS = ("page.js", "items.js", "blind.js")
SOUNDS_HERE = "<!--sounds-->"


def write_page(run: Path, *, max_sound_mb: float = MAX_SOUND_MB) -> Path:
    """RUN/comparison.html. Raises InputError: no comparison.json, a broken one, or a disk that cannot be written."""
    comparison = read(run)
    carried = sounds.collect(run, comparison, max_bytes=round(max_sound_mb * 1e6))
    before, after = page_of(comparison, carried).split(SOUNDS_HERE)
    with whole_file(run / PAGE) as file:
        file.write(before.encode())
        for number, sound in enumerate(carried.mp3):
            file.write(
                f'<script type="text/plain" id="sound-{number}">'.encode() + base64.b64encode(sound) + b"</script>\n"
            )
        file.write(after.encode())
    return run / PAGE


def page_of(comparison: Mapping[str, Any], carried: sounds.Sounds) -> str:
    """The page, with a mark where its sounds belong."""
    report = Report(comparison)
    scripts = {name: _beside(name) for name in SCRIPTS}
    judged = fingerprint(comparison)
    data = {"comparison": comparison, "sounds": carried.index, "sha256": judged}
    return Template(_beside("page.html")).substitute(
        title=escape(f"Attune: {len(report.systems)} systems on {comparison['items']['name']}"),
        css=look.CSS + _beside("page.css"),
        scripts=" ".join(_allowed(script) for script in scripts.values()),
        headline=sections.headline(report),
        summary=sections.summary(report),
        waterfall=plots.waterfall(report),
        profile=plots.profile(report),
        confusions=sections.confusions(report),
        calibration=plots.calibration(report),
        votes=sections.votes(report),
        size=escape(carried.note),
        sha256=judged,
        data=embedded(data),
        page_js=scripts["page.js"],
        items_js=scripts["items.js"],
        blind_js=scripts["blind.js"],
    )


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _allowed(script: str) -> str:
    """A source of the security policy: the script with these very bytes."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def embedded(data: Any) -> str:
    """JSON that no HTML parser takes for markup: within strings, the signs of markup are written as escapes."""
    try:
        told = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InputError(f"comparison.json: {error}; run attune compare again") from error
    return told.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")

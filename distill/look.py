"""What every page of Attune shares: its look in light and dark, and sound small enough to be carried in a page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import soundfile
import soxr

MP3 = {
    "format": "MP3",
    "bitrate_mode": "VARIABLE",
    "compression_level": 0.6,
}  # some 30 kbit/s: FLAC would be ten times that
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def mp3(sound: Path | BinaryIO) -> tuple[bytes, float]:
    """A sound file as MP3, and its seconds; at a rate that MP3 does not know, resampled to one that it does."""
    samples, rate = soundfile.read(sound, dtype="float32")
    seconds = len(samples) / rate
    if rate not in MP3_RATES:
        legal = max((one for one in MP3_RATES if one <= rate), default=MP3_RATES[0])
        samples, rate = soxr.resample(samples, rate, legal), legal
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **MP3)
    return file.getvalue(), seconds


CSS = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#63686e;--page:#fbfaf8;--card:#fff;--line:#dcd9d3;--hue:#2b6cb0;--bad:#b3372c}
@media(prefers-color-scheme:dark){:root{--ink:#e7e5e0;--soft:#a3a19b;--page:#17181a;--card:#202225;--line:#3a3d41;--hue:#6aa9e9;
--bad:#f08a7e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
main{max-width:1080px;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
.small,small,figcaption{color:var(--soft);font-size:.85rem}code{overflow-wrap:anywhere}
article{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1rem;align-items:start}
.columns>*{min-width:0;margin:0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.88rem;width:100%}
th,td{text-align:left;padding:.2rem .5rem;border-bottom:1px solid var(--line);font-weight:400;vertical-align:top}
thead th{color:var(--soft);white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums}
.heat td{background:color-mix(in srgb,var(--hue) calc(var(--heat)*.45),transparent)}
svg{width:100%;height:auto;display:block}svg rect{fill:var(--hue)}svg line{stroke:var(--soft);stroke-width:1}
svg text{fill:var(--soft);font-size:13px}
article p{margin:.25rem 0}audio{width:100%;height:2.4rem}.bad{color:var(--bad)}.none{color:var(--soft)}
.think{border-left:3px solid var(--line);padding-left:.6rem;color:var(--soft);font-size:.9rem}
"""

"""The figures as bars, one panel a workload, in SVG by hand."""

from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.arms import OURS
from benchmarks.figures import Figures, figures
from benchmarks.job import WORKLOADS

_WIDTH, _LEFT, _BAR, _GAP, _HEAD = 860, 260, 16, 5, 40
_OURS, _RAW, _PEER = "#1b6ac9", "#8a8f98", "#c9a227"


def svg(results: dict[str, Any]) -> str:
    """Draw CPU a row of each arm; the longest bar of a panel is its largest value."""
    parts, y = [], 10
    for name in WORKLOADS:
        given = figures(results[name]) if name in results and name != "C1" else {}
        shown = {arm: of for arm, of in given.items() if of.least_s > 0}
        if shown:
            parts += _panel(f"{name}: CPU µs per {WORKLOADS[name].unit}", shown, y)
            y += _HEAD + len(shown) * (_BAR + _GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 10}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>", ""])


def _panel(title: str, given: dict[str, Figures], top: int) -> list[str]:
    most = max(of.least_s for of in given.values())
    parts = [f'<text x="10" y="{top + 22}" font-size="14" font-weight="bold" fill="#1f2328">{escape(title)}</text>']
    for i, (name, of) in enumerate(given.items()):
        y = top + 32 + i * (_BAR + _GAP)
        colour = _OURS if name in OURS else _RAW if name.startswith("raw") else _PEER
        width = max(1, round((_WIDTH - _LEFT - 90) * of.least_s / most))
        value = of.least_s * 1e6
        label = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
        text = f'font-size="12" fill="#1f2328" y="{y + 12}"'
        parts += [
            f'<text x="{_LEFT - 8}" text-anchor="end" {text}>{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 6}" {text}>{label}</text>',
        ]
    return parts

"""The picture of the distances: one panel per component of the layers, one line per model."""

from collections.abc import Mapping, Sequence
from html import escape

from evomerge.hand_over.distances import MERGE, Distances

_WIDTH, _HEIGHT = 360, 170
_LEFT, _TOP, _RIGHT, _BOTTOM = 46, 28, 10, 30
_COLOURS = ("#2b8cd6", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by the colour-blind (after Okabe and Ito 2008; the blue lighter, for the dark)."""

_STYLE = """\
<style>
svg { background: #fff; --ink: #1f2328; --faint: #d1d9e0; }
text { font: 11px system-ui, sans-serif; fill: var(--ink); }
.frame { fill: none; stroke: var(--faint); }
.line { fill: none; stroke-width: 1.3; }
.merge { stroke: var(--ink); stroke-width: 2.6; }
@media (prefers-color-scheme: dark) { svg { background: #0d1117; --ink: #e6edf3; --faint: #3d444d; } }
</style>"""

Series = Mapping[str, Sequence[tuple[int, float]]]


def picture(distances: Distances, base: str | None) -> str:
    """An SVG of the distances by layer: whole layers, then each component.

    Args:
        distances: of a merge.
        base: left out, for it lies at 0; None: there is none.
    """
    panels = {"whole layer": distances.layers}
    kinds = dict.fromkeys(part.component for part in distances.parts if part.layer is not None)
    for kind in kinds:
        panels[kind] = tuple(
            p for p in distances.parts if p.component == kind and p.layer is not None
        )
    names = [n for n in distances.whole if n not in (MERGE, base)] + [MERGE]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names[:-1])}
    drawn: list[str] = []
    for number, (title, parts) in enumerate(panels.items()):
        series = {
            name: [(p.layer or 0, p.distances[name]) for p in parts if name in p.distances]
            for name in names
        }
        x, y = (number % 2) * _WIDTH, (number // 2) * _HEIGHT
        drawn.append(f'<g transform="translate({x},{y})">{_panel(title, series, colours)}</g>')
    width = min(2, len(panels)) * _WIDTH
    height = -(-len(panels) // 2) * _HEIGHT
    legend, rows = _legend(names, colours, width - _LEFT)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 10 + 18 * rows}" '
        f'width="{width}" role="img">\n<title>Relative distance from '
        f"{escape(distances.reference)}, by layer</title>\n{_STYLE}\n"
        + "\n".join(drawn)
        + f'\n<g transform="translate({_LEFT},{height + 12})">{legend}</g>\n</svg>\n'
    )


def _panel(title: str, series: Series, colours: Mapping[str, str]) -> str:
    points = [point for line in series.values() for point in line if point[1] < float("inf")]
    last = max((layer for layer, _ in points), default=0) or 1
    top = max((value for _, value in points), default=0.0) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def at(layer: int, value: float) -> str:
        return f"{_LEFT + wide * layer / last:.1f},{_TOP + high * (1 - min(value, top) / top):.1f}"

    lines: list[str] = []
    for name, line in series.items():
        look = 'class="line merge"' if name == MERGE else f'class="line" stroke="{colours[name]}"'
        path = " ".join(at(*point) for point in line)
        lines.append(f'<polyline {look} points="{path}"><title>{escape(name)}</title></polyline>')
    floor = _TOP + high
    return (
        f'<text x="{_LEFT}" y="{_TOP - 8}">{escape(title)}</text>'
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{wide}" height="{high}"/>'
        f'<text x="{_LEFT - 5}" y="{_TOP + 9}" text-anchor="end">{top:.2g}</text>'
        f'<text x="{_LEFT - 5}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{floor + 14}">layer 0</text>'
        f'<text x="{_LEFT + wide}" y="{floor + 14}" text-anchor="end">{last}</text>'
        + "".join(lines)
    )


def _legend(names: Sequence[str], colours: Mapping[str, str], width: int) -> tuple[str, int]:
    """The legend, and how many rows it has."""
    drawn: list[str] = []
    x = y = 0
    for name in names:
        wide = 34 + 7 * len(name)
        if x and x + wide > width:
            x, y = 0, y + 18
        look = 'class="line merge"' if name == MERGE else f'class="line" stroke="{colours[name]}"'
        drawn.append(f'<line {look} x1="{x}" y1="{y - 4}" x2="{x + 16}" y2="{y - 4}"/>')
        drawn.append(f'<text x="{x + 21}" y="{y}">{escape(name)}</text>')
        x += wide
    return "".join(drawn), 1 + y // 18

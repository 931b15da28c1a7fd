"""A section of the report, and the few pieces of HTML that sections are made of.

Whatever comes from a run (names of tasks, sources, objectives; reasons; recipes) goes through `esc`
into the page and through `lettering` into figures.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Figure = Mapping[str, Any]
"""A plotly figure as plain data: `data` and `layout`. Colours are CSS variables (`var(--winner)`),
looked up when the page is drawn, so that one figure serves both themes."""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        id: its anchor.
        title: its heading, plain text.
        html: what stands below the heading.
    """

    id: str
    title: str
    html: str


def esc(text: object) -> str:
    """`text` for HTML."""
    return escape(str(text), quote=True)


def lettering(text: object) -> str:
    """`text` for labels of figures, where plotly reads tags and knows few entities."""
    return escape(str(text), quote=False)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` is a class: `note`, `warning`."""
    named = f' class="{kind}"' if kind else ""
    return f"<p{named}>{esc(text)}</p>"


def bullets(sentences: Iterable[str]) -> str:
    """A list of plain sentences; nothing if there are none."""
    rows = "".join(f"<li>{esc(text)}</li>" for text in sentences)
    return f"<ul>{rows}</ul>" if rows else ""


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str,
    *,
    marked: Sequence[int] = (),
    words: int = 1,
) -> str:
    """A table of plain texts that scrolls inside its box.

    Args:
        head: of each column.
        rows: cells; the first is the row's heading.
        caption: what the table shows.
        marked: rows (0-based) to set off.
        words: columns at the left that hold words; the others hold numbers and stand at the right.
    """
    top = "".join(
        f'<th scope="col"{_side(i, words)}>{esc(name)}</th>' for i, name in enumerate(head)
    )
    body: list[str] = []
    for number, cells in enumerate(rows):
        first, *rest = cells
        others = "".join(f"<td{_side(i, words)}>{esc(cell)}</td>" for i, cell in enumerate(rest, 1))
        kind = ' class="marked"' if number in marked else ""
        body.append(f'<tr{kind}><th scope="row">{esc(first)}</th>{others}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table>'
        f"<caption><span>{esc(caption)}</span></caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _side(column: int, words: int) -> str:
    return "" if column < words else ' class="number"'


def folded(title: str, inside: str) -> str:
    """`inside` (HTML) behind a line that opens it."""
    return f"<details><summary>{esc(title)}</summary>{inside}</details>"


def figure(name: str, spec: Figure, says: str, *, height: int = 420, switches: str = "") -> str:
    """A figure with its caption.

    Args:
        name: its id on the page.
        spec: what plotly draws.
        says: what it shows, for the caption and for screen readers.
        height: pixels.
        switches: HTML of `switch`es above it.
    """
    return (
        f'<figure>{switches}<div class="plot" id="{name}" style="height:{height}px" role="img" '
        f'aria-label="{esc(says)}"></div><figcaption>{esc(says)}</figcaption>'
        f"{data(f'{name}-spec', spec)}</figure>"
    )


def switch(plot: str, axis: str, label: str, options: Sequence[str], chosen: int = 0) -> str:
    """A select that changes what a figure's axis shows: every trace's `meta.values[option]`.

    Args:
        plot: the figure's id.
        axis: `x` or `y`.
        label: what it chooses.
        options: plain texts, keys of `meta.values`.
        chosen: which is shown first.
    """
    rows = "".join(
        f'<option value="{esc(o)}"{" selected" if i == chosen else ""}>{esc(o)}</option>'
        for i, o in enumerate(options)
    )
    return (
        f'<label class="switch">{esc(label)} '
        f'<select data-plot="{plot}" data-axis="{axis}">{rows}</select></label>'
    )


def copyable(text: str, name: str) -> str:
    """Preformatted text with a button that copies it; `name` is its id."""
    return (
        f'<div class="copy"><button type="button" data-copy="{name}">Copy</button>'
        f'<pre id="{name}" tabindex="0">{esc(text)}</pre></div>'
    )


def data(name: str, content: Any) -> str:
    """Data for the page's script: numbers of five digits, and nothing that could end the element."""
    text = json.dumps(_short(content), separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _short(content: Any) -> Any:
    match content:
        case float():
            return float(f"{content:.5g}") if math.isfinite(content) else None
        case Mapping():
            return {key: _short(value) for key, value in content.items()}
        case list() | tuple():
            return [_short(value) for value in content]
        case _:
            return content

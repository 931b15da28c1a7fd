"""Groups of aligned lines, and quantities in words: how `evomerge check` writes."""

import shutil
import textwrap
from collections.abc import Iterable

LABEL = 22
"""Characters of the column of labels."""


def width() -> int:
    """Columns to write in: the terminal's, 100 where there is none."""
    return max(60, min(120, shutil.get_terminal_size((100, 24)).columns))


def group(title: str, lines: Iterable[str]) -> str:
    """A heading and its lines; nothing if there are none."""
    body = list(lines)
    return "\n".join([title, *body, ""]) if body else ""


def line(label: str, value: str, indent: int = 2) -> str:
    """A label and its value, wrapped into the column beside it."""
    start = " " * indent + f"{label:<{LABEL}} "
    if len(start) > indent + LABEL + 1:
        start = " " * indent + label + "  "
    inside = " " * (indent + LABEL + 1)
    return textwrap.fill(
        value, width(), initial_indent=start, subsequent_indent=inside, break_long_words=False
    )


def seconds_text(seconds: float) -> str:
    """Milliseconds, seconds, or what `hours_text` says."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 600 else hours_text(seconds / 3600)


def hours_text(hours: float) -> str:
    """Seconds, minutes, hours or days."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def count_text(count: int) -> str:
    """Thousands apart, or millions (M), or billions (B)."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if count >= size / 10:
            return f"{count / size:.2f}{unit}"
    return f"{count:,}"


def bytes_text(count: int) -> str:
    """Bytes in the largest unit that fits."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"

"""The page: every section in one file that needs nothing else, written whole or not at all."""

import os
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from evomerge.report.html.failures import failures
from evomerge.report.html.front import front
from evomerge.report.html.gains import gains
from evomerge.report.html.importance import importance
from evomerge.report.html.lineage import lineage
from evomerge.report.html.luck_section import luck
from evomerge.report.html.overview import headline, overview
from evomerge.report.html.progress import progress
from evomerge.report.html.reproduce import reproduce
from evomerge.report.html.section import Section, esc
from evomerge.report.html.story import Story, read_story
from evomerge.report.html.timing import timing
from evomerge.report.html.winner import winner
from evomerge.runs.folder import RunFolder
from search_spaces.errors import InputError

SECTIONS: Sequence[Callable[[Story], Section]] = (
    overview, front, winner, gains, luck, progress, importance, timing, failures, lineage, reproduce,
)  # fmt: skip
"""In the order of the page."""

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:;"
    " base-uri 'none'; form-action 'none'"
)
"""What the browser lets the page do: nothing is fetched from anywhere."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>{title}: evomerge report</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#overview">Skip to the report</a>
<header>
<div class="bar"><span class="brand">evomerge report</span>
<button type="button" id="theme" aria-label="Theme: as the system">Theme: auto</button></div>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<p class="note"><span class="status {status}">{status}</span> {made}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{sections}
</main>
<footer><p>Made by evomerge {version} from run.db; it opens offline and asks nobody for anything.</p>
</footer>
<noscript><p class="noscript">Figures need JavaScript; every one has a table beside it.</p></noscript>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run; works on running, dead, empty and finished ones.

    Args:
        folder: of the run.
        out: the HTML file; None: `report.html` in the folder. One that is there is replaced.

    Returns:
        The file.

    Raises:
        InputError: no run there, a damaged one, or the file cannot be written.
    """
    target = out or folder / "report.html"
    try:
        with closing(RunFolder.open(folder)) as run:
            text = render(read_story(run, str(folder)))
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"run.db ({error})",
            "it cannot be read",
            str(folder / "run.db"),
            "restore it from a copy",
        ) from None
    _write(target, text)
    return target


def render(story: Story) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    sections = [make(story) for make in SECTIONS]
    here = files("evomerge.report.html")
    assert story.config.frozen is not None
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    # no `format` on what is long: the script has braces of its own, and is inserted last
    head = PAGE.format(
        policy=esc(POLICY),
        title=esc(story.name),
        lead=esc(headline(story)),
        status=esc(story.summary["status"]),
        made=f"Read {made}; begun {esc(story.config.frozen.created[:16].replace('T', ' '))}.",
        links="".join(f'<li><a href="#{s.id}">{esc(s.title)}</a></li>' for s in sections),
        sections="\n".join(map(_placed, sections)),
        version=esc(story.config.frozen.packages.get("evomerge", "")),
        style=here.joinpath("style.css").read_text(),
        script=here.joinpath("page.js").read_text(),
        plotly="@plotly@",
    )
    before, after = head.rsplit("@plotly@", 1)
    return before + get_plotlyjs() + after


def _placed(section: Section) -> str:
    return (
        f'<section id="{section.id}" aria-labelledby="{section.id}-title">'
        f'<h2 id="{section.id}-title">{esc(section.title)}</h2>{section.html}</section>'
    )


def _write(target: Path, text: str) -> None:
    """Beside its place and renamed: a reader finds the old file or the new one, whole."""
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"'{target}'",
            f"it cannot be written ({error.strerror or error})",
            "--out",
            "choose a file on a disk with space and write permission",
        ) from None

"""The documentation's pages taken apart: code blocks, their marks, links, anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

FOLDERS = {"docs": "*.md", "examples": "**/README.md", "docker": "**/*.md"}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        page
        for folder, files in FOLDERS.items()
        for page in (ROOT / folder).glob(files)
        if "models" not in page.parts  # where peft leaves cards
    ),
]
MARK = re.compile(r"<!-- not run(?: \(([^)]*)\))?: (.+?) -->", re.DOTALL)
"""`<!-- not run: why -->` before a block, or `<!-- not run (command): why -->` of one of its lines."""


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        page: where it stands.
        line: the number of the fence's line.
        kind: what stands behind the fence, such as `sh` or `python class`.
        text: what is in it.
        marks: what the comments directly above say is not run: beginnings of lines, "" for all.
    """

    page: Path
    line: int
    kind: str
    text: str
    marks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The page's fenced blocks, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start, indent, kind, above = None, 0, "", ""
    for number, line in enumerate(lines):
        fence = re.match(r"^( *)```(.*)$", line)
        if start is None and fence:
            start, indent, kind = number, len(fence[1]), fence[2].strip()
        elif start is not None and fence and not fence[2].strip():
            text = "\n".join(row[indent:] for row in lines[start + 1 : number]) + "\n"
            yield Block(page, start + 1, kind, text, _marks(above))
            start, above = None, ""
        elif start is None:
            # Comments count while nothing but blank lines and comments stands between.
            inside = above.count("<!--") > above.count("-->")
            keep = inside or line.lstrip().startswith("<!--") or not line.strip()
            above = above + "\n" + line if keep else ""
    assert start is None, f"{page}: a fence is not closed"


def _marks(above: str) -> tuple[str, ...]:
    return tuple(command or "" for command, _ in MARK.findall(above))


@dataclass(frozen=True)
class Command:
    """A command line of a block, comments and continuation lines taken out.

    Attributes:
        block: where it stands.
        text: the line.
        marked: whether the page says that it is not run, and why.
    """

    block: Block
    text: str
    marked: bool


def commands(page: Path) -> list[Command]:
    """The command lines of the page's shell blocks."""
    found: list[Command] = []
    for block in blocks(page):
        if block.kind not in ("sh", "bash", "shell", "console"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            text = re.sub(r"(^|\s)#.*$", "", line)
            text = " ".join(text.split())
            if text:
                marked = any(text.startswith(mark) for mark in block.marks)
                found.append(Command(block, text, marked))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks and comments."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"<!--.*?-->", "", text, flags=re.S)


def links(page: Path) -> list[str]:
    """Targets of the page's links, those by reference too."""
    text = prose(page)
    named = dict(re.findall(r"^\[([^\]]+)\]: (\S+)", text, re.M))
    used = {key for key in re.findall(r"\]\[([^\]]+)\]", text)}
    assert used <= set(named), f"{page.name}: no target for {sorted(used - set(named))}"
    return re.findall(r"\]\(([^)\s]+)\)", text) + list(named.values())


def anchors(page: Path) -> set[str]:
    """What may stand behind `#` in a link to the page, as GitHub makes it of headings."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", prose(page), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        while slug in found:
            slug += "-1"
        found.add(slug)
    return found


def paths(page: Path) -> set[str]:
    """Files and folders of the repository that the page names in code quotes."""
    rooms = "evomerge|fitness|search_spaces|docs|examples|tests|benchmarks|docker|constraints"
    found = re.findall(rf"`((?:{rooms})/[\w./*-]+)`", prose(page))
    return {path.rstrip(".") for path in found}

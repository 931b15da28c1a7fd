"""Links lead somewhere, and files that the pages name exist."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.pages import PAGES, anchors, links, paths

every = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in links(page):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.exists(), f"{page.name}: no {target}"
        assert ROOT in (found, *found.parents), (
            f"{page.name}: {target} is outside of the repository"
        )
        if anchor:
            assert anchor in anchors(found), f"{page.name}: {found.name} has no #{anchor}"


@every
def test_files_that_the_page_names_exist(page: Path) -> None:
    for path in paths(page):
        assert list(ROOT.glob(path)), f"{page.name} names {path}"


def test_every_page_is_in_the_index() -> None:
    index = {
        ROOT / "docs" / target.partition("#")[0] for target in links(ROOT / "docs" / "README.md")
    }
    ours = {page for page in PAGES if page.parent == ROOT / "docs"} - {ROOT / "docs" / "README.md"}
    assert ours <= index


def test_the_way_of_one_candidate_names_a_file_at_each_step() -> None:
    text = (ROOT / "docs" / "how_it_works.md").read_text()
    section = text.split("## The way of one candidate")[1].split("\n## ")[0]
    steps = re.split(r"^\d+\. ", section, flags=re.M)[1:]
    assert len(steps) == 10
    assert all(re.search(r"`(evomerge|fitness|search_spaces)/[\w/.]+`", step) for step in steps)


def test_every_claim_about_a_rival_has_a_source() -> None:
    """Each filled cell of another tool in the comparison's tables, but the plainest, has a link."""
    text = (ROOT / "docs" / "comparison.md").read_text()
    rows = re.findall(r"^\| (?!\|)(.+) \|$", text, re.M)
    said = [cell for row in rows for cell in row.split(" | ")[2:] if "---" not in cell]
    plain = {"–", "front", "CMA-ES", "stock folder", "Weights & Biases", "evalscope's"}
    bare = [
        cell
        for cell in said
        if "[" not in cell and cell.strip() not in plain and not _is_heading(cell, text)
    ]
    assert len(said) > 40
    assert not bare


def _is_heading(cell: str, text: str) -> bool:
    """Whether it is a cell of a table's first row."""
    heads = re.findall(r"^\|(.+)\|\n\|---", text, re.M)
    return any(cell.strip() in head for head in heads)


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("## `space` of kind `path`", "space-of-kind-path"),
        ("## What happens when ...", "what-happens-when-"),
        ("## Where we differ from mergekit 0.1.5", "where-we-differ-from-mergekit-015"),
    ],
)
def test_anchors_are_githubs(title: str, slug: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n{title}\n\n```sh\n# no heading\n```\n")
    assert anchors(page) == {"page", slug}


def test_a_broken_link_a_missing_file_and_a_missing_target_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](other.md#x), `evomerge/nothing.py`, [b][c]\n")
    with pytest.raises(AssertionError, match="no target"):
        links(page)
    page.write_text("[a](other.md#x), `evomerge/nothing.py`\n")
    assert links(page) == ["other.md#x"]
    assert paths(page) == {"evomerge/nothing.py"}
    with pytest.raises(AssertionError, match=r"no other\.md#x"):
        test_links_lead_to_files_and_headings(page)

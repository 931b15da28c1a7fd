"""Run files, recipes and Python of the documentation: they are read, and run."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml

from benchmarks.irt import simulated
from evomerge.config import RunFile
from evomerge.run_file import parse_run_file
from search_spaces import parse_recipe
from search_spaces.errors import InputError
from tests.conftest import ROOT
from tests.docs.pages import PAGES, Block, blocks
from tests.docs.small import whole
from tests.test_docs import generator

ALL = [block for page in PAGES for block in blocks(page)]
YAML = [block for block in ALL if block.kind.split()[:1] in (["yaml"], ["yml"])]
PYTHON = [block for block in ALL if block.kind.split()[:1] == ["python"]]
OTHERS = {"", "sh", "yaml", "python", "json", "toml", "sql", "text"}
SECTIONS = set(RunFile.model_fields) - {"frozen"}


def named(found: list[Block]) -> Any:
    return pytest.mark.parametrize("block", found, ids=[block.name for block in found])


def test_every_block_says_what_it_is() -> None:
    assert {block.kind.split(" ")[0] for block in ALL} <= OTHERS
    assert len(YAML) >= 20


@named(YAML)
def test_run_files_and_recipes_are_valid(block: Block) -> None:
    """Whole ones, and parts of run files with what they take for granted added."""
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict)
    if {"merge_method", "slices"} & set(content):
        assert parse_recipe(block.text, block.name).depth(28) >= 1
    elif set(content) <= SECTIONS:
        parse_run_file(whole(content), block.name)
    else:  # of Kubernetes and the like: their own tests
        assert {"apiVersion", "services", "task", "genome"} & set(content), block.name


def test_a_wrong_key_in_a_part_of_a_run_file_is_found() -> None:
    with pytest.raises(InputError, match=r"fitness\.racing\.rung"):
        parse_run_file(whole({"fitness": {"racing": {"rung": [1]}}}), "page")
    with pytest.raises(InputError, match="flips"):
        parse_run_file(whole({"models": {"experts": {"a": "b"}},
                              "fitness": {"objectives": [{"flips": "chat"}]}}), "page")  # fmt: skip


BANK = simulated(3, 41, 120)
PAIRED = np.random.default_rng(0).integers(0, 2, (4, 60)).astype(float)
GIVEN: dict[str, dict[str, Any]] = {
    "estimators.md": {"responses": BANK[:40], "answers": BANK[40]},
    "honest_winner.md": {
        "gsm8k_a": PAIRED[0], "gsm8k_b": PAIRED[1], "mgsm_a": PAIRED[2], "mgsm_b": PAIRED[3],
        "gsm8k": BANK[:12],
    },
}  # fmt: skip
"""What a page's Python takes for granted."""


@named(PYTHON)
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.name, "exec")


@pytest.mark.parametrize("page", GIVEN)
def test_python_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = dict(GIVEN[page])
    for block in PYTHON:
        if block.page.name == page:
            exec(block.text, names)
    if page == "estimators.md":
        assert "+-" in capsys.readouterr().out
        assert abs(names["estimate"].value - BANK[40].mean()) < 0.2


def test_python_blocks_are_run_here_or_by_their_page_s_own_test() -> None:
    """Those with a name behind `python` are carried out by a test that reads the page."""
    for block in PYTHON:
        if block.page.name in GIVEN:
            continue
        assert len(block.kind.split()) == 2, (
            f"{block.name}: give it a name, and a test that runs it"
        )
        tests = (ROOT / "tests").glob("**/test_adding_*.py")
        assert any(block.page.name in file.read_text() for file in tests), block.name


def run_files() -> list[Path]:
    """The run files of the examples, and docker's."""
    found = [*(ROOT / "examples").glob("**/*.yaml"), *(ROOT / "docker").glob("**/*.yaml")]
    return [path for path in found if set(yaml_mapping(path)) & {"fitness"}]


def yaml_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError:  # several documents
        return {}
    return content if isinstance(content, dict) else {}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    content = json.loads((ROOT / "docs" / "run_file.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_schema_accepts_every_run_file_that_we_have(schema: Any) -> None:
    files = run_files()
    assert len(files) >= 16
    for path in files:
        errors = [error.message for error in schema.iter_errors(yaml_mapping(path))]
        assert not errors, f"{path.relative_to(ROOT)}: {errors}"
    for block in YAML:
        content = yaml.safe_load(block.text)
        if set(content) <= SECTIONS:
            errors = [error.message for error in schema.iter_errors(whole(content))]
            assert not errors, f"{block.name}: {errors}"


MODELS = {"base": "b", "experts": {"a": "x"}}


@pytest.mark.parametrize(
    "broken",
    [
        {"models": MODELS},
        {"models": MODELS | {"expert": {}}, "fitness": {"tasks": {"t": {}}}},
        {"models": MODELS, "fitness": {"tasks": {"t": {"items": 1}}}},
        {"models": MODELS, "fitness": {"tasks": {"t": {}}}, "space": {"kind": "paths"}},
        {"models": MODELS, "fitness": {"tasks": {"t": {}}}, "space": {"weigth": [0, 1]}},
        {"models": MODELS, "fitness": {"tasks": {"t": {}}}, "engine": {"kind": "tgi"}},
        {"models": MODELS, "fitness": {"tasks": {"t": {}}}, "search": {"budget": {"evals": 3}}},
    ],
)
def test_the_schema_refuses_what_the_run_file_refuses(schema: Any, broken: dict[str, Any]) -> None:
    assert list(schema.iter_errors(broken))
    with pytest.raises(InputError):
        parse_run_file(broken, "here")


def test_the_reference_has_an_example_of_every_section_and_a_type_for_every_key() -> None:
    reference = generator().run_file_reference
    page = (ROOT / "docs" / "run_file.md").read_text()
    wanted = {name for name in SECTIONS if name != "space"}
    wanted |= {f"space of kind {kind}" for kind in reference.KINDS}
    assert set(reference.EXAMPLES) == wanted
    for text in reference.EXAMPLES.values():
        assert text.strip() in page
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    types = [row.split(" | ")[1] for row in rows if row.count(" | ") >= 3]
    assert len(types) > 70
    assert "anything" not in types
    assert "whole number ≥ 1, or `auto`" in types


def sources_text() -> str:
    """The packages' source, literals that stand one after the other joined."""
    files = [
        p for room in ("evomerge", "fitness", "search_spaces") for p in (ROOT / room).rglob("*.py")
    ]
    text = "\n".join(path.read_text() for path in files)
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def test_the_messages_that_getting_started_explains_are_ours() -> None:
    page = (ROOT / "docs" / "getting_started.md").read_text()
    table = page.split("| message or sight |")[1]
    source = sources_text()
    quoted = re.findall(r"^\| `([^`]+)`", table, re.M)
    assert len(quoted) >= 7
    for message in quoted:
        for part in re.split(r"\.\.\.|\bN\b|\bM\b", message):
            assert part.strip(" ,") in source, f"no message says '{part.strip()}'"


def test_the_report_has_the_sections_that_its_page_explains() -> None:
    page = (ROOT / "docs" / "reading_a_run.md").read_text()
    rows = re.findall(r"^\| ([^|`]+) \|", page.split("## The report")[1].split("\n## ")[0], re.M)
    said = [row for row in rows if row not in {"section", "---"}]
    code = "\n".join(p.read_text() for p in (ROOT / "evomerge/report/html").glob("*.py"))
    assert len(said) >= 10
    for title in said:
        assert f'"{title}' in code, title

"""The reference pages are what their declarations say, and the README's names exist."""

import importlib.util
import re

import pytest
import yaml

from evomerge.run_file import parse_run_file
from search_spaces import parse_recipe
from tests.conftest import ROOT


def _generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["run_file.md", "merge_rules.md", "algorithms.md", "templates.md"])
def test_page_is_current(page):
    made = _generator().PAGES[page]()
    assert (ROOT / "docs" / page).read_text() == made, "run: python docs/generate.py"


def test_the_readme_s_run_file_is_valid():
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    config = parse_run_file(yaml.safe_load(text.group(1)), "README.md")
    assert config.search.budget.evaluations == 2000


def test_the_run_file_and_the_recipe_of_the_data_flow_page_are_valid():
    text = (ROOT / "docs" / "data_flow.md").read_text()
    run_file, recipe = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[:2]
    config = parse_run_file(yaml.safe_load(run_file), "data_flow.md")
    assert (config.space.kind, config.space.depth) == ("path", (24, 40))
    assert parse_recipe(recipe, "data_flow.md").depth(28) == 32


def test_paths_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:evomerge|docs|examples|search_spaces|fitness)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / path).exists(), path

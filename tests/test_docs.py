"""The reference pages are what their declarations say. Links, commands, examples: `tests/docs`."""

import importlib.util
import re

import pytest
import yaml

from evomerge.run_file import parse_run_file
from search_spaces import parse_recipe
from tests.conftest import ROOT


def generator():
    """`docs/generate.py` as a module; `run_file_reference` is the part of the run file."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = ("run_file.md", "run_file.schema.json", "merge_rules.md", "algorithms.md", "templates.md")


@pytest.mark.parametrize("page", PAGES)
def test_page_is_current(page):
    assert set(generator().PAGES) == set(PAGES)
    made = generator().PAGES[page]()
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

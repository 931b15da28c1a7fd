"""The cookbook: real run files are valid, small ones run on models that its script makes."""

import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.run_file import load_run_file
from evomerge.spaces import build_space
from tests.conftest import QUICKSTART, ROOT

FOLDER = ROOT / "examples" / "cookbook"
RECIPES = ("mathematics", "chat_vector", "recycling", "lora_soup", "short_answers")
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
EVALUATIONS = {"recycling": 24}  # beyond its seventeen known points
each = pytest.mark.parametrize("recipe", RECIPES)


@each
def test_the_real_recipe_is_valid_and_says_that_it_was_not_run(recipe: str) -> None:
    file = FOLDER / f"{recipe}.yaml"
    config = load_run_file(file)
    assert config.engine.kind == "vllm"
    assert config.search.budget.hours is not None, "a night has an end"
    for source in config.models.sources.values():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", source.model), "a model of the Hub"
    head = file.read_text().split("models:")[0].replace("\n# ", " ")
    assert "Not run here: needs these models" in head
    assert "GPU" in head
    assert f"evomerge search examples/cookbook/{recipe}.yaml" in head


def test_their_tasks_are_lm_evals() -> None:
    from lm_eval.tasks import TaskManager

    known = set(TaskManager().all_tasks)
    for recipe in RECIPES:
        assert set(load_run_file(FOLDER / f"{recipe}.yaml").fitness.tasks) <= known, recipe


def test_the_recipes_are_what_the_page_says_they_are() -> None:
    configs = {name: load_run_file(FOLDER / f"{name}.yaml") for name in RECIPES}
    assert configs["mathematics"].space.merging.rules == ["dare_ties"]
    assert set(configs["chat_vector"].models.experts) == {"chat", "ko"}
    revisions = {s.revision for s in configs["recycling"].models.experts.values()}
    assert len(revisions) == 16
    assert all(s.lora for s in configs["lora_soup"].models.experts.values())
    costs = {o.cost: o.at_most for o in configs["short_answers"].fitness.objectives if o.cost}
    assert costs == {"tokens": None, "truncated": 0.05}


LAYERS = {
    "mathematics": 32,
    "chat_vector": 32,
    "recycling": 24,
    "lora_soup": 32,
    "short_answers": 28,
}
TENSORS = [
    "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
    "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight",
]  # fmt: skip


@pytest.mark.parametrize("size", ["", "_small"])
@each
def test_its_space_is_as_large_as_its_file_says(recipe: str, size: str) -> None:
    """The space over models of the real depth, whose headers nobody has to download for that."""
    file = FOLDER / f"{recipe}{size}.yaml"
    shape = SimpleNamespace(layers=4 if size else LAYERS[recipe], names_of=lambda _: TENSORS)
    space = build_space(load_run_file(file), shape)
    said = re.search(r"(?:= |# )(\w+) (?:weights|variables)", file.read_text())
    count = {"two": 2}.get(said[1]) or int(said[1]) if said else 6  # (rest, embed, lm_head) x 2
    assert len(space.variables) == count
    assert "uniform" in space.seeds()


def test_the_index_names_every_file() -> None:
    readme = (FOLDER / "README.md").read_text()
    files = {path.name for path in FOLDER.glob("*.yaml")}
    runs = {f"{name}{size}.yaml" for name in RECIPES for size in ("", "_small")}
    assert files == runs | {"chat_vector_published.yaml"}
    for name in files:
        assert f"`{name}`" in readme
        assert f"(../examples/cookbook/{name})" in PAGE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples in a folder of their own, with the cookbook's models made by its script."""
    pytest.importorskip("peft")
    examples = tmp_path_factory.mktemp("examples")
    ignored = shutil.ignore_patterns("__pycache__", "banks", "models")
    shutil.copytree(FOLDER, examples / "cookbook", ignore=ignored)
    (examples / "quickstart").symlink_to(QUICKSTART)
    # A fraction of the steps: enough for models that differ, too little for the page's figures.
    command = [sys.executable, str(examples / "cookbook" / "train.py"), "--steps-scale", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return examples / "cookbook"


def test_the_script_makes_every_model_that_a_small_recipe_names(trained: Path) -> None:
    wanted = {
        Path(place).name
        for recipe in RECIPES
        for source in load_run_file(trained / f"{recipe}_small.yaml").models.sources.values()
        for place in (source.model, source.lora)
        if place is not None and place.startswith("models/")
    }
    made = {path.name for path in (trained / "models").iterdir()}
    assert made == wanted
    assert len(made) == 16 + 3 + 2
    weights = {path.read_bytes() for path in (trained / "models").glob("*/*.safetensors")}
    assert len(weights) == len(made), "no two are the same model"


def test_sums_in_steps_are_right(trained: Path) -> None:
    """What `slow` learns: every step of every item holds, and the last number is the answer."""
    script = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import runpy\n"
        "module = runpy.run_path(sys.argv[1] + '/train.py')\n"
        "items = module['build_world']()['sums']\n"
        "print(json.dumps([[i.answer, module['in_steps'](i).answer] for i in items]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(trained)], capture_output=True, text=True, check=True
    )
    pairs = json.loads(done.stdout)
    assert len(pairs) == 400
    for answer, steps in pairs:
        sums = steps.split("=")
        assert sums[-1] == answer
        for left, right in pairwise(sums):
            assert sum(map(int, left.split("+"))) == int(right.split("+")[0]), steps
    tasks = (FOLDER / "tasks" / "sums_in_steps.jsonl").read_text()
    assert tasks == (QUICKSTART / "tasks" / "sums.jsonl").read_text()


def with_fewer_items(file: Path) -> Path:
    """The small recipe with fewer items yet, beside it, so that its relative paths hold."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    for task in content["fitness"]["tasks"].values():
        task.update(items=12, selection=8, test=16)
    content["search"]["finalists"] = 4
    target = file.with_name(f"tiny_{file.name}")
    target.write_text(yaml.safe_dump(content, sort_keys=False))
    return target


@each
def test_the_small_recipe_runs(recipe: str, trained: Path, tmp_path: Path) -> None:

    file = with_fewer_items(trained / f"{recipe}_small.yaml")
    evaluations = EVALUATIONS.get(recipe, 16)
    budget = ["--evaluations", str(evaluations), "--json"]
    done = CliRunner().invoke(app, ["search", str(file), "--dir", str(tmp_path / "run"), *budget])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    summary = json.loads(done.stdout)
    assert summary["status"] == "done"
    assert summary["budget"]["done"] == evaluations
    assert summary["budget"]["failed"] == 0
    assert {"uniform", "random_search", "winner"} <= set(summary["baselines"])
    objectives = {o["name"]: o["direction"] for o in summary["objectives"]}
    if recipe == "short_answers":
        tokens = {name: found["tokens"]["value"] for name, found in summary["baselines"].items()}
        assert objectives["tokens"] == "minimize"
        assert tokens["slow"] > 2 * tokens["quick"], "the two answer in different ways"
    if recipe == "recycling":
        assert len(summary["candidates"][0]["genome"]) == 16


@each
def test_the_page_s_figures_are_of_the_models_it_names(recipe: str) -> None:
    """Each recipe has a table whose rows are sources of its small run file, and baselines."""
    anchor = PAGE.index(f"runs/{recipe}_small")
    table = re.findall(r"^\| ([^|]+?) \|", PAGE[anchor:].split("\n## ")[0], re.M)
    sources = load_run_file(FOLDER / f"{recipe}_small.yaml").models.sources
    rows = {row.split(" (")[0] for row in table if row and "---" not in row}
    assert any(row.startswith("winner") for row in rows)
    baselines = {"uniform merge", "greedy soup", "random search, same budget", "winner"}
    assert "uniform merge" in rows
    rest = {"weights", "best checkpoint", "winner, which is `quick`"}
    assert rows <= baselines | set(sources) | rest

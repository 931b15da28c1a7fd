"""Searches over stacks of layers, the whole way: search, kill -9, resume, show, export, load."""

import copy
from contextlib import closing
from io import StringIO
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from evomerge.budgets import Limits
from evomerge.evaluator import EvaluatorFactory
from evomerge.export import export_candidate, first_winner, recipe_of
from evomerge.report.summary import summarise
from evomerge.report.tables import print_summary
from evomerge.run_sources import frozen_locations, open_run_sources
from evomerge.runs.folder import RunFolder
from evomerge.scoring import score_model
from evomerge.search.goals import plain
from evomerge.search.view import SilentView
from evomerge.session import reopen, resume, start
from tests.cli.test_kill import assert_equal_runs, kill_at, paid

EVALUATIONS = 12
KINDS = {
    "path": {"kind": "path", "depth": [3, 6], "first": 1, "last": 1, "input_scale": [0.7, 1.4]},
    "indicator": {"kind": "indicator", "depth": [2, 6]},
    "template": {"kind": "template", "templates": ["up_scaling", "layer_drop", "interleave"]},
    "hybrid": {"kind": "hybrid", "rule": "linear", "weights": "per_slot", "depth": [3, 6]},
    "staged": {
        "kind": "path",
        "depth": [3, 6],
        "merged": {"rule": "task_arithmetic", "weight": [0, 1.5], "share": 0.5},
    },
}
"""Two experts of four layers, and their base."""

KILLED_AT = {kind: 9 for kind in KINDS} | {"staged": 16}
"""Evaluations on record: those of three sources come first; 16 is in the second stage."""


def run_file_of(kind, folder, quickstart):
    content = copy.deepcopy(quickstart)
    content["models"]["experts"].pop("tovek")
    content["space"] = KINDS[kind]
    task = {"items": 8, "selection": 6, "test": 12}
    content["fitness"] |= {"tasks": {"lunari_words": task, "sums": task}, "objectives": []}
    content["search"] |= {"population": 6, "budget": {"evaluations": EVALUATIONS}, "finalists": 3}
    content["cluster"] = {"executor": "serial"}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def summary_of(folder):
    with closing(RunFolder.open(folder)) as run:
        return summarise(run)


@pytest.fixture(scope="module", params=KINDS)
def night(request, tmp_path_factory, quickstart):
    """A run from start to end, and one that was killed on its way and continued."""
    kind = request.param
    root = tmp_path_factory.mktemp(kind)
    run_file = run_file_of(kind, root, quickstart)
    start(run_file, root / "whole", None, SilentView())
    kill_at(run_file, root / "killed", KILLED_AT[kind])
    before = paid(root / "killed")
    resume(root / "killed", None, SilentView())
    return SimpleNamespace(kind=kind, root=root, run_file=run_file, before=before)


def test_killed_and_resumed_equals_undisturbed(night):
    whole, killed = night.root / "whole", night.root / "killed"
    assert KILLED_AT[night.kind] <= len(night.before) < len(paid(whole))
    assert paid(killed)[: len(night.before)] == night.before
    one, other = summary_of(killed), summary_of(whole)
    assert_equal_runs(one, other)
    assert one["stacks"] == other["stacks"]


def test_what_show_tells(night):
    summary = summary_of(night.root / "whole")
    staged = night.kind == "staged"
    assert summary["budget"]["done"] == summary["budget"]["evaluations"] == EVALUATIONS
    assert len(summary["candidates"]) == (EVALUATIONS // 2 if staged else EVALUATIONS)
    names = [*["base", "lunari", "abacus"], "uniform", "greedy_soup"]
    names += ["merged"] if staged else []
    assert list(summary["baselines"]) == [*names, "best_start", "random_search", "winner"]
    found = summary["stacks"]
    assert found["best_start"]
    assert set(found["paths"]) == {"best_start", "random_search", "winner"}
    assert found["first_stage"] == (
        {"candidates": 6, "chosen": found["first_stage"]["chosen"]} if staged else None
    )
    of = {name: share["of"] for name, share in found["alive"].items()}
    searched = len(summary["candidates"])
    assert of == {"first_generation": 6, "run": searched, "random": searched}
    assert found["alive"]["first_generation"]["alive"] >= 3, "it begins with the sources"
    console = Console(width=200, record=True, file=StringIO())
    print_summary(summary, console)
    text = console.export_text()
    assert f"layers of winner: {found['paths']['winner']}" in text
    assert "alive (half the best source's score or more" in text
    assert ("first stage: 6 merges, winner" in text) == staged


def test_the_deepest_candidate_is_exported_and_scores_what_it_did(night):
    folder = night.root / "whole"
    summary = summary_of(folder)
    with closing(RunFolder.open(folder)) as run:
        config, first = run.config, first_winner(run)
    sources = open_run_sources(config, frozen_locations(config))
    recipes = {
        c["id"]: recipe_of(c, config, sources, first)
        for c in summary["candidates"]
        if c["outcome"] == "scored"
    }
    deepest = max(recipes, key=lambda number: recipes[number].depth(4))
    depth = recipes[deepest].depth(4)
    assert depth > 4
    out = night.root / "deepest"
    export_candidate(folder, out, str(deepest))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.num_hidden_layers == len(model.model.layers) == depth
    assert "Layers: " in (out / "README.md").read_text()
    prepared = reopen(config, {})
    factory = EvaluatorFactory(config, prepared.folder, prepared.folders, layers=prepared.layers)
    with closing(factory()) as evaluator:
        running = evaluator.evaluate(recipes[deepest], "test")
    assert score_model(str(out), night.run_file, full=False)["objectives"] == plain(
        running.objectives
    )


@pytest.mark.parametrize("night", ["staged"], indirect=True)
def test_a_larger_budget_is_the_second_stage_s(night):
    before = summary_of(night.root / "whole")
    resume(night.root / "killed", Limits(evaluations=EVALUATIONS + 6), SilentView())
    after = summary_of(night.root / "killed")
    assert after["stacks"]["first_stage"] == before["stacks"]["first_stage"]
    assert after["budget"]["done"] == EVALUATIONS + 6
    keep = ("genome", "recipe_hash", "objectives")
    old = [{k: c[k] for k in keep} for c in before["candidates"]]
    assert [{k: c[k] for k in keep} for c in after["candidates"][: len(old)]] == old

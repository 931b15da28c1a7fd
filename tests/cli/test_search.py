"""The whole way as a user goes it: search, show, export, load, merge again, evaluate."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quickstart):
    """A small finished run, searched with two Ray evaluators."""
    import copy
    import subprocess
    import sys

    import yaml

    folder = tmp_path_factory.mktemp("night")
    content = copy.deepcopy(quickstart)
    for task in content["fitness"]["tasks"].values():
        task.update(items=12, selection=12, test=40)
    content["search"] |= {"population": 12, "budget": {"evaluations": 36}, "finalists": 6}
    content["cluster"] = {"evaluators": 2}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "evomerge.cli", "search", "run.yaml", "--dir", "run", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), done.stderr


def test_stdout_is_one_json_object_and_stderr_says_what_goes_on(finished):
    _, summary, stderr = finished
    assert summary["status"] == "done"
    for word in ("generation", "evaluations", "best", "hv", "ETA"):
        assert word.replace("generation", "gen") in stderr
    assert "Traceback" not in stderr


def test_candidates_come_in_the_order_of_ask_with_scores_and_errors(finished):
    _, summary, _ = finished
    names = {o["name"] for o in summary["objectives"]}
    assert [c["id"] for c in summary["candidates"]] == list(range(36))
    assert summary["budget"] == {
        "evaluations": 36, "done": 36, "failed": 0,
        "cached": sum(c["cached"] for c in summary["candidates"]),
    }  # fmt: skip
    for candidate in summary["candidates"]:
        assert candidate["outcome"] == "scored"
        assert set(candidate["objectives"]) == names
        assert all(e["se"] > 0 for e in candidate["objectives"].values())


def test_both_evaluators_work(finished):
    _, summary, _ = finished
    assert len({c["worker"] for c in summary["candidates"]}) == 2


def test_front_is_what_brute_force_says(finished):
    _, summary, _ = finished
    signs = [1 if o["direction"] == "maximize" else -1 for o in summary["objectives"]]
    names = [o["name"] for o in summary["objectives"]]
    points = {
        c["id"]: [s * c["objectives"][n]["value"] for s, n in zip(signs, names, strict=True)]
        for c in summary["candidates"]
    }

    def beaten(p):
        return any(
            all(a >= b for a, b in zip(q, p, strict=True)) and q != p for q in points.values()
        )

    front = [c["id"] for c in summary["candidates"] if c["on_front"]]
    assert front
    assert {tuple(points[i]) for i in front} == {tuple(p) for p in points.values() if not beaten(p)}


def test_baselines_are_all_there_and_only_the_finalists_saw_selection_items(finished):
    _, summary, _ = finished
    experts = set(summary["baselines"]) - {
        "base", "uniform", "greedy_soup", "random_search", "winner",
    }  # fmt: skip
    assert len(experts) >= 3
    assert next(iter(summary["baselines"])) == "base"
    assert list(summary["baselines"])[-1] == "winner"
    again = [c for c in summary["candidates"] if c["selection"]]
    assert 1 <= len({c["recipe_hash"] for c in again}) <= 6
    assert summary["chosen"] in {c["id"] for c in again}


def test_splits_are_disjoint(finished):
    import sqlite3

    folder, _, _ = finished
    rows = sqlite3.connect(folder / "run" / "run.db").execute(
        "SELECT task, item, count(*) FROM items GROUP BY task, item HAVING count(*) > 1"
    )
    assert rows.fetchall() == []


def test_export_loads_with_plain_transformers_and_merge_gives_the_same_bytes(finished, evomerge):
    folder, _, _ = finished
    done = evomerge("export", "run", "export", cwd=folder)
    assert done.returncode == 0, done.stderr
    export = folder / "export"
    model = AutoModelForCausalLM.from_pretrained(export)
    tokenizer = AutoTokenizer.from_pretrained(export)
    ids = tokenizer("a", return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()
    card = (export / "README.md").read_text()
    for name in ("base", "winner", "uniform"):
        assert name in card
    done = evomerge("merge", export / "recipe.yaml", folder / "again")
    assert done.returncode == 0, done.stderr
    assert _hashes(folder / "again") == _hashes(export)
    assert _hashes(export)


def test_the_exported_winner_scores_what_the_run_says(finished, evomerge):
    folder, summary, _ = finished
    if not (folder / "export").exists():
        assert evomerge("export", "run", "export", cwd=folder).returncode == 0
    done = evomerge("evaluate", "export", "run.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["objectives"] == summary["baselines"]["winner"]


def test_export_refuses_a_folder_that_holds_something(finished, evomerge):
    folder, _, _ = finished
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("mine")
    done = evomerge("export", "run", "full", cwd=folder)
    assert done.returncode == 2
    assert "full" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "full" / "thesis.txt").read_text() == "mine"


def test_pick_by_objective_and_id(finished, evomerge):
    folder, summary, _ = finished
    name = summary["objectives"][0]["name"]
    done = evomerge("export", "run", "best", "--pick", f"best:{name}", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    picked = json.loads(done.stdout)["candidate"]
    again = [c["selection"][name]["value"] for c in summary["candidates"] if c["selection"]]
    assert picked["selection"][name]["value"] == max(again)
    done = evomerge("export", "run", "none", "--pick", "99999", cwd=folder)
    assert done.returncode == 2
    assert "front" in done.stderr


def test_resume_of_a_finished_run_pays_for_nothing_and_a_larger_budget_goes_on(finished, evomerge):
    folder, summary, _ = finished
    done = evomerge("resume", "run", "--evaluations", "48", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    larger = json.loads(done.stdout)
    assert larger["budget"]["done"] == 48
    keep = ("genome", "recipe_hash", "objectives", "outcome", "seconds")
    before = [{k: c[k] for k in keep} for c in summary["candidates"]]
    after = [{k: c[k] for k in keep} for c in larger["candidates"][:36]]
    assert before == after


def _hashes(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.glob("*")
        if p.suffix in {".safetensors", ".json"}
    }

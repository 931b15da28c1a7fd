"""Costs of the model in whole runs: checked, raced, measured once, resumed, calibrated, evaluated."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evomerge.runs.database import Database

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
OBJECTIVES = [
    "sums",
    {"cost": "layers", "at_most": 4},
    {"cost": "parameters", "weight": 1e-7},
    {"cost": "kv_bytes"},
    {"cost": "tokens_per_second", "name": "speed"},
]
CHANGES = {
    "fitness.tasks": {"sums": {"items": 8, "selection": 4, "test": 8}},
    "fitness.objectives": OBJECTIVES,
    "fitness.racing": {"rungs": [3, 6]},
    "search.algorithm": "nsga2",
    "search.budget": {"evaluations": 16},
    "search.random_baseline": False,
}
LAYERS, PARAMETERS, KV_BYTES = 4.0, 962080.0, 5120.0
"""Of every model of the quickstart."""


@pytest.fixture
def run_file(write_run):
    return write_run(CHANGES)


def test_check_says_what_the_sources_cost(run_file, write_run, evomerge):
    said = " ".join(evomerge("check", run_file).stdout.split())
    assert "layers 4, parameters 962,080, kv_bytes 5,120" in said
    assert "answers are not shared with other runs" in said
    assert "layers, parameters, kv_bytes, tokens_per_second go together" in said
    run_file = write_run({"fitness.objectives": ["sums"]}, "bare.yaml")
    bare = evomerge("check", run_file, "--no-dry-run").stdout
    assert "costs of" not in bare
    assert "not shared" not in bare


def test_a_run_measures_once_and_replays_what_it_measured(run_file, evomerge, tmp_path):
    folder = tmp_path / "run"
    done = evomerge("search", run_file, "--dir", folder, "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    assert not (tmp_path / "answers.db").exists(), "what others answered cannot be timed"
    for found in (*first["baselines"].values(), *(c["objectives"] for c in first["candidates"])):
        exact = [found[name] for name in ("layers", "parameters", "kv_bytes")]
        values = zip((LAYERS, PARAMETERS, KV_BYTES), exact, strict=True)
        assert all(e == {"value": value, "se": 0.0} for value, e in values)
        assert found["speed"]["value"] > 0 < found["speed"]["se"]
    assert {c["items"] for c in first["candidates"]} & {3, 6}, "some ended on an early rung"
    with_parts = Database(folder / "run.db")
    again = [p for p in with_parts.parts("search").values() if len(p) > 1]
    with_parts.close()
    for parts in again:
        last, before = parts[-1].objectives["speed"], parts[0].objectives["speed"]
        assert last.se < before.se, "two measures are known better than one"
    # The searcher would ask for others if speeds were measured anew.
    more = evomerge("resume", folder, "--evaluations", 24, "--json")
    assert more.returncode == 0, more.stderr
    resumed = json.loads(more.stdout)["candidates"]
    assert len(resumed) == 24
    keys = ("id", "genome", "recipe_hash")
    assert [[c[k] for k in keys] for c in resumed[:16]] == [
        [c[k] for k in keys] for c in first["candidates"]
    ]


def test_a_model_and_calibration_models_have_costs_too(run_file, evomerge):
    done = evomerge("evaluate", QUICKSTART / "models" / "abacus", run_file, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["objectives"]
    assert [found[n]["value"] for n in ("layers", "parameters")] == [LAYERS, PARAMETERS]
    assert found["speed"]["se"] > 0
    done = evomerge("calibrate", run_file, "--models", 7, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["evaluated"] == 7


def test_a_cost_that_cannot_be_told_is_found_by_check(write_run, evomerge, tmp_path):
    models = {}
    for name in ("base", "abacus"):
        models[name] = tmp_path / name
        shutil.copytree(QUICKSTART / "models" / name, models[name])
        weights = load_file(models[name] / "model.safetensors")
        renamed = {key.replace("k_proj", "key"): tensor for key, tensor in weights.items()}
        save_file(renamed, models[name] / "model.safetensors", metadata={"format": "pt"})
    changes = {
        "models": {"base": str(models["base"]), "experts": {"abacus": str(models["abacus"])}},
        "fitness.objectives": ["sums", {"cost": "kv_bytes"}],
    }
    done = evomerge("check", write_run(changes))
    assert done.returncode == 2
    assert "kv_bytes of model_type 'llama': what a layer keeps of a token cannot be" in done.stderr

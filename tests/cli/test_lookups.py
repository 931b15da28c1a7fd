"""What a search looks up in tables, and what it costs the model that is exported."""

import json

import pytest
from safetensors.torch import load_file


@pytest.mark.parametrize("rule", ["ties", "task_arithmetic"])
def test_the_cost_of_tables_is_measured_where_there_is_one(tmp_path, write_run, evomerge, rule):
    changes = {"space.rule": rule, "space.granularity": None, "search.random_baseline": False}
    run_file = write_run(changes | {"search.budget": {"evaluations": 12}})
    done = evomerge("search", run_file, "--dir", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    looked_up = set(summary["as_searched"])
    assert looked_up == ({"words", "arithmetic"} if rule == "ties" else set())
    text = evomerge("show", tmp_path / "run").stdout
    assert ("looked-up thresholds" in text) is (rule == "ties")
    for name in looked_up:  # some tensors are small enough for tables to be exact; none is far off
        gap = summary["as_searched"][name]["value"] - summary["baselines"]["winner"][name]["value"]
        assert abs(gap) < 0.2
    # Raising the budget brings another winner, perhaps; its tables' cost is measured, too.
    more = evomerge("resume", tmp_path / "run", "--evaluations", "16", "--json")
    assert more.returncode == 0, more.stderr
    assert set(json.loads(more.stdout)["as_searched"]) == looked_up


def test_an_export_has_exact_thresholds(tmp_path, write_run, evomerge):
    """The exported model scores exactly what `show` says of it; tables on disk change nothing."""
    run_file = write_run({"space.rule": "ties", "search.budget": {"evaluations": 12}})
    assert evomerge("search", run_file, "--dir", tmp_path / "run").returncode == 0
    assert evomerge("export", tmp_path / "run", tmp_path / "out").returncode == 0
    again = evomerge("merge", tmp_path / "out" / "recipe.yaml", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("out", "again"))
    assert all(first[name].equal(second[name]) for name in first)
    scored = json.loads(evomerge("evaluate", tmp_path / "out", run_file, "--json").stdout)
    shown = json.loads(evomerge("show", tmp_path / "run", "--json").stdout)["baselines"]["winner"]
    for name, estimate in scored["objectives"].items():
        assert estimate["value"] == shown[name]["value"]


def test_a_recipes_check_says_what_has_no_effect(tmp_path, evomerge, quickstart):
    models = quickstart["models"]["experts"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: linear\nparameters: {int8_mask: true}\nmodels:\n"
        f"- model: {models['lunari']}\n"
        "  parameters: {weight: [{filter: self_atn, value: 1}, {value: 2}]}\n"
        f"- {{model: {models['tovek']}, parameters: {{weight: 1}}}}\n"
    )
    done = evomerge("check", recipe)
    assert done.returncode == 0, done.stderr
    assert "filter 'self_atn' selects no tensor" in done.stdout
    assert "int8_mask: no number depends on it" in done.stdout
    recipe.write_text(recipe.read_text().replace("weight: 1", "lambda: 1"))
    done = evomerge("check", recipe)
    assert done.returncode == 2
    assert "recipe.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_limit_on_files_is_a_full_disk(tmp_path, evomerge, quickstart):
    import resource

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "merge_method: linear\nmodels:\n"
        f"- {{model: {quickstart['models']['base']}, parameters: {{weight: 1}}}}\n"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    done = evomerge("merge", recipe, tmp_path / "out", preexec_fn=limited)
    assert done.returncode == 2
    assert "the disk filled up while writing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()

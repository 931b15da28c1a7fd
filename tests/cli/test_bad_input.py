"""What users get wrong: exit 2, one line that says what, the rule, where, and what to do; no traceback."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import QUICKSTART


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"serch": {}}, ["serch", "did you mean 'search'"]),
        ({"search.populaton": 8}, ["search.populaton", "did you mean 'population'"]),
        ({"search.algorithm": "nsga22"}, ["'nsga22'", "did you mean 'nsga2'", "search.algorithm"]),
        ({"space.rule": "tie"}, ["'tie'", "did you mean 'ties'"]),
        ({"space.weight": [0, float("inf")]}, ["weight"]),
        ({"space.density": [0, 1.5]}, ["density"]),
        ({"space.weight": [1, 0]}, ["weight"]),
        ({"space.granularity": {"components": ["attention"]}}, ["attention", "attn"]),
        ({"space.granularity": {"layers": 99}}, ["99", "layers"]),
        ({"models.base": "no/such/folder"}, ["no/such/folder"]),
        ({"fitness.include": "nowhere"}, ["nowhere"]),
        ({"fitness.tasks": {"no_such_task": {}}, "fitness.objectives": []}, ["no_such_task"]),
        ({"fitness.constraints": ["speed >= 1"]}, ["speed"]),
        ({"fitness.objectives": [{"function": "nothing.py:f"}]}, ["nothing.py"]),
        ({"search.population": 2}, ["population", "2"]),
        ({"export.pick": "best:nothing"}, ["export.pick"]),
        ({"engine.kind": "vlm"}, ["engine.kind"]),
        ({"models.experts": {"winner": "x"}}, ["winner", "reserved"]),
        ({"models.experts": {"a+b": "x"}}, ["a+b", "letters"]),
        ({"space.weight": 0.5}, ["nothing is searched", "range"]),
        ({"fitness.constraints": ["words >= 2"]}, ["words >= 2", "[0, 1]"]),
    ],
)
def test_run_file(changes, words, write_run, refused):
    error = refused("check", write_run(changes))
    for word in words:
        assert word in error


def test_a_search_is_refused_before_anything_is_written(write_run, refused, tmp_path):
    refused("search", write_run({"space.rule": "tie"}), "--dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_run_file_that_is_not_yaml_or_not_there(tmp_path, refused):
    (tmp_path / "bad.yaml").write_text("models: [\n")
    assert "line" in refused("check", tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert "mapping" in refused("check", tmp_path / "list.yaml")
    assert "missing.yaml" in refused("check", tmp_path / "missing.yaml")


def test_fewer_items_than_asked(write_run, refused, quickstart):
    task = next(iter(quickstart["fitness"]["tasks"]))
    error = refused("check", write_run({f"fitness.tasks.{task}.items": 100_000}))
    assert task in error
    assert "100000" in error


def test_a_task_without_items(write_run, refused, tmp_path, quickstart):
    name = next(iter(quickstart["fitness"]["tasks"]))
    shutil.copytree(QUICKSTART / "tasks", tmp_path / "tasks")
    for data in (tmp_path / "tasks").glob("*.jsonl"):
        data.write_text("")
    error = refused("check", write_run({"fitness.include": "tasks"}))
    assert name in error


@pytest.fixture
def expert(tmp_path, quickstart):
    """A copy of an expert to spoil, and the dotted key that makes the run use it."""
    name = next(iter(quickstart["models"]["experts"]))
    folder = tmp_path / "spoilt"
    shutil.copytree(quickstart["models"]["experts"][name], folder)
    return folder, {f"models.experts.{name}": str(folder)}


def edit(folder: Path, change) -> None:
    """Rewrite a model's weights."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_truncated_weights(expert, write_run, refused):
    folder, change = expert
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "model.safetensors" in refused("check", write_run(change))


def test_corrupted_header(expert, write_run, refused):
    folder, change = expert
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    assert "model.safetensors" in refused("check", write_run(change))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite(expert, write_run, refused, value):
    folder, change = expert

    def spoil(tensors):
        first = sorted(tensors)[0]
        tensors[first].view(-1)[3] = value

    edit(folder, spoil)
    error = refused("check", write_run(change))
    assert sorted(load_file(folder / "model.safetensors"))[0] in error


def test_another_vocabulary(expert, write_run, refused):
    folder, change = expert

    def grow(tensors):
        for name, tensor in tensors.items():
            if "embed" in name or "lm_head" in name:
                tensors[name] = torch.cat([tensor, tensor[:2]])

    edit(folder, grow)
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] += 2
    (folder / "config.json").write_text(json.dumps(config))
    assert "vocabular" in refused("check", write_run(change))


def test_another_depth(expert, write_run, refused):
    folder, change = expert
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    last = f"layers.{config['num_hidden_layers']}."

    def cut(tensors):
        for name in [n for n in tensors if last in n]:
            del tensors[name]

    edit(folder, cut)
    assert "layer" in refused("check", write_run(change))


def test_a_pickle_is_refused_with_the_way_out(expert, write_run, refused):
    folder, change = expert
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    error = refused("check", write_run(change))
    assert "save_pretrained" in error or "safetensors" in error


def test_run_folders(write_run, refused, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    assert "taken" in refused("search", write_run(), "--dir", taken)
    assert "holds no run" in refused("resume", tmp_path / "nowhere")
    assert "holds no run" in refused("show", taken)
    assert (taken / "thesis.txt").read_text() == "mine"


@pytest.fixture
def tiny_run(write_run, evomerge, tmp_path):
    """A finished run of a few candidates."""
    folder = tmp_path / "tiny"
    run_file = write_run({"search.budget.evaluations": 8, "search.random_baseline": False})
    done = evomerge("search", run_file, "--dir", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_an_existing_run_another_version_and_two_drivers(tiny_run, write_run, refused):
    from evomerge.runs.database import Database
    from evomerge.runs.folder import RunFolder

    error = refused("search", write_run(), "--dir", tiny_run)
    assert "evomerge resume" in error

    other = RunFolder.open(tiny_run)
    other.lock()
    assert "another evomerge" in refused("resume", tiny_run, "--evaluations", 9)
    other.close()

    assert "already" in refused("resume", tiny_run, "--evaluations", 3)

    database = Database(tiny_run / "run.db")
    database.set_meta("schema_version", 99)
    database.close()
    assert "99" in refused("resume", tiny_run)
    assert "99" in refused("show", tiny_run)


def test_sources_that_changed_since(tiny_run, refused, evomerge, write_run, expert, tmp_path):
    folder, change = expert
    run = tmp_path / "changing"
    run_file = write_run(
        {**change, "search.budget.evaluations": 8, "search.random_baseline": False}
    )
    assert evomerge("search", run_file, "--dir", run).returncode == 0
    edit(folder, lambda tensors: tensors[sorted(tensors)[0]].mul_(1.01))
    error = refused("resume", run, "--evaluations", 16)
    assert "model.safetensors" in error
    assert str(folder) in error


def test_recipes(tmp_path, refused, quickstart):
    base = quickstart["models"]["base"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: tes\nbase_model: {base}\nmodels:\n- model: {base}\n")
    assert "did you mean 'ties'" in refused("merge", recipe, tmp_path / "out")
    recipe.write_text(
        "merge_method: linear\nmodels:\n- model: nowhere\n  parameters: {weight: 1}\n"
    )
    assert "nowhere" in refused("merge", recipe, tmp_path / "out")
    recipe.write_text(
        f"merge_method: ties\nbase_model: {base}\nmodels:\n- model: {base}2\n"
        "  parameters: {weight: 1, density: 2}\n"
    )
    assert "density" in refused("merge", recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


OBJECTIVE = """
def right(responses):
    found = [r.score for group in responses.values() for r in group]
    return sum(found) / len(found)
"""


def test_a_custom_objective_that_changed_since_or_fails(write_run, refused, evomerge, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OBJECTIVE)
    changes = {
        "fitness.objectives": [{"function": "mine.py:right"}],
        "search.budget.evaluations": 8,
        "search.random_baseline": False,
    }
    run_file = write_run(changes)
    done = evomerge("search", run_file, "--dir", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["candidates"][0]["objectives"]["right"]
    assert 0 < found["value"] < 1
    assert found["se"] > 0
    file.write_text(OBJECTIVE.replace("found) /", "found) / 2 /"))
    assert "custom objectives" in refused("resume", tmp_path / "run", "--evaluations", 16)
    file.write_text("def right(responses):\n    return responses['no such task']\n")
    assert "no such task" in refused("check", run_file)


def test_a_cost_without_anything_to_count_and_numbers_that_are_none(write_run, refused):
    mc = {"lunari_words_mc": {"items": 8, "selection": 8}}
    error = refused(
        "check", write_run({"fitness.tasks": mc, "fitness.objectives": [{"cost": "tokens"}]})
    )
    assert "tokens" in error
    assert "nan" in refused("check", write_run({"fitness.constraints": ["words >= nan"]}))
    objective = {"cost": "tokens", "at_most": float("nan")}
    assert "at_most" in refused("check", write_run({"fitness.objectives": [objective]}))


def test_another_tokenizer(expert, write_run, refused):
    folder, change = expert
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = sorted(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert repr(first) in refused("check", write_run(change))


def test_a_search_in_which_nothing_keeps_the_constraints(write_run, refused, evomerge, tmp_path):
    changes = {
        "fitness.constraints": ["words >= 1"],
        "search.budget.evaluations": 8,
        "search.random_baseline": False,
    }
    folder = tmp_path / "run"
    assert "no winner" in refused("search", write_run(changes), "--dir", folder)
    shown = evomerge("show", folder)
    assert "constraint words >= 1: broken by" in shown.stdout
    summary = json.loads(evomerge("show", folder, "--json").stdout)
    assert summary["status"] == "done"
    assert "winner" not in summary["baselines"]
    assert "uniform" in summary["baselines"]
    assert "no winner" in refused("export", folder, tmp_path / "out")
    assert evomerge("export", folder, tmp_path / "out", "--pick", 0).returncode == 0

"""The data-flow example: small stock models that its script makes, run files that check, honest figures."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.dataflow_search import EXAMPLE, WAYS, figures, kept, run_file
from evomerge.preflight import check_searcher, prepare
from evomerge.run_file import parse_run_file
from tests.conftest import QUICKSTART

MODELS = ("base", "lunari", "abacus")
TRAIN = EXAMPLE / "train.py"


def test_the_zoo_is_small_deep_and_ordinary():
    files = list((EXAMPLE / "models").glob("*/*.safetensors"))
    assert {f.parent.name for f in files} == set(MODELS)
    assert all(f.stat().st_size <= 1_000_000 for f in files)
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(EXAMPLE / "models" / name)
        assert type(model).__name__ == "LlamaForCausalLM"
        assert model.config.num_hidden_layers == 8
        AutoTokenizer.from_pretrained(EXAMPLE / "models" / name)


def test_the_task_is_the_quickstart_s():
    for file in ("lunari_sums.jsonl", "lunari_sums.yaml"):
        ours, theirs = EXAMPLE / "tasks" / file, QUICKSTART / "tasks" / file
        assert ours.read_text() == theirs.read_text()


def test_the_script_writes_models_of_the_committed_form(tmp_path):
    command = [sys.executable, str(TRAIN), "--out", str(tmp_path), "--steps-scale", "0.002"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    data = "tasks/lunari_sums.jsonl"
    assert (tmp_path / data).read_text() == (EXAMPLE / data).read_text()
    for name in MODELS:
        for file in ("config.json", "tokenizer.json"):
            made = tmp_path / "models" / name / file
            kept_file = EXAMPLE / "models" / name / file
            assert unversioned(made) == unversioned(kept_file)


def unversioned(file: Path) -> dict[str, object]:
    """A JSON file without the version of transformers that wrote it."""
    return json.loads(file.read_text()) | {"transformers_version": ""}


PATHS = """
import json, random, sys
sys.path.insert(0, sys.argv[1])
import train
rng = random.Random(0)
paths = [train.random_path(8, rng) for _ in range(4000)]
model = train.build_model(train.build_tokenizer(train.vocabulary()), 0)
before = [id(layer) for layer in model.model.layers]
depths = set()
with train.random_depth(model, 3):
    for _ in range(40):
        model.model(input_ids=train.torch.tensor([[3, 4, 5]]))
        depths.add(len(model.model.layers))
after = [id(layer) for layer in model.model.layers]
print(json.dumps([paths, sorted(depths), before == after, model.config.num_hidden_layers,
                  model.config.use_cache, len(model.model._forward_pre_hooks)]))
"""


@pytest.fixture(scope="module")
def paths():
    done = subprocess.run(
        [sys.executable, "-c", PATHS, str(EXAMPLE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_training_paths_leave_out_and_repeat_as_often_as_said(paths):
    drawn = paths[0]
    places = 8 * len(drawn)
    left_out = sum(layer not in path for path in drawn for layer in range(8)) / places
    twice = sum(path.count(layer) == 2 for path in drawn for layer in range(8)) / places
    assert left_out == pytest.approx(0.03, abs=0.005)
    assert twice == pytest.approx(0.05, abs=0.006)
    assert all(path == sorted(path) for path in drawn)


def test_a_model_has_its_own_depth_again_after_training(paths):
    _, depths, same, layers, cached, hooks = paths
    assert len(depths) > 1  # it did run at other depths
    assert (same, layers, cached, hooks) == (True, 8, True, 0)


@pytest.mark.parametrize("way", WAYS)
def test_each_run_file_checks(way):
    content = yaml.safe_load((EXAMPLE / f"{way}.yaml").read_text())
    prepared = prepare(parse_run_file(content, f"{way}.yaml"), EXAMPLE)
    check_searcher(prepared)
    assert prepared.config.search.budget.evaluations == 240  # all ways have the same
    assert (prepared.first is not None) == (way == "staged")


def test_the_benchmark_changes_items_and_seed_but_not_the_space():
    for way in WAYS:
        ours = run_file(way, seed=7, evaluations=30)
        theirs = yaml.safe_load((EXAMPLE / f"{way}.yaml").read_text())
        assert ours["space"] == theirs["space"]
        assert ours["fitness"]["seed"] == ours["search"]["seed"] == 7
        assert ours["search"]["budget"] == {"evaluations": 30}


def test_a_result_is_made_once(tmp_path):
    made: list[int] = []

    def make():
        made.append(1)
        return {"value": random.Random(1).random()}

    first = kept(tmp_path / "seed_1" / "path.json", make)
    assert kept(tmp_path / "seed_1" / "path.json", make) == first
    assert len(made) == 1
    assert list((tmp_path / "seed_1").iterdir()) == [tmp_path / "seed_1" / "path.json"]


def test_figures_are_paired_by_seed():
    """Worked by hand: the path is 0.1 and 0.3 above the best source, which differs by seed."""
    found = [_seed(base=0.3, expert=0.2, path=0.4), _seed(base=0.1, expert=0.5, path=0.8)]
    told = figures(found, ("parameter", "path"))
    assert told["test"]["best source of each seed"] == {"mean": 0.4, "se": 0.1}
    assert told["differences"]["path - best source"] == {"mean": 0.2, "se": 0.1, "ahead": 2}
    assert told["differences"]["path - parameter"]["mean"] == pytest.approx(0.3)
    assert told["differences"]["path - its best start"]["mean"] == pytest.approx(0.2)
    assert told["alive"]["path"] == {"first_generation": 0.5, "run": 0.75}
    assert told["alive"]["uniform stacks"] == 0.05


def _seed(base, expert, path):
    sources = {"base": base, "expert": expert, "uniform": 0.25, "greedy_soup": 0.25}
    alive = {"first_generation": {"share": 0.5}, "run": {"share": 0.75}}
    return {
        "parameter": {"test": sources | {"winner": 0.3}},
        "path": {
            "test": sources | {"best_start": 0.4, "winner": path},
            "alive": alive,
            "paths": {"winner": "base 0-7"},
        },
        "uniform stacks": {"share": 0.05},
    }

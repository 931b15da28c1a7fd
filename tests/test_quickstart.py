"""The quickstart: small real models, reproducible by their script, searched as `make demo` does it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.report.tables import mean_of
from tests.conftest import QUICKSTART

MODELS = ("base", "lunari", "tovek", "abacus")


def test_the_zoo_is_small_and_ordinary():
    files = list((QUICKSTART / "models").glob("*/*.safetensors"))
    assert {f.parent.name for f in files} == set(MODELS)
    assert sum(f.stat().st_size for f in files) <= 8_000_000
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(QUICKSTART / "models" / name)
        assert type(model).__name__ == "LlamaForCausalLM"
        assert model.num_parameters() <= 1_000_000
        AutoTokenizer.from_pretrained(QUICKSTART / "models" / name)


def unversioned(file: Path) -> dict[str, Any]:
    """A JSON file without the version of transformers that wrote it."""
    return json.loads(file.read_text()) | {"transformers_version": ""}


def test_the_script_writes_the_data_that_is_committed_and_models_of_the_same_form(tmp_path):
    command = [
        sys.executable, str(QUICKSTART / "train.py"), "--out", str(tmp_path), "--steps-scale", "0.005",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for made in (tmp_path / "tasks").glob("*.jsonl"):
        assert made.read_text() == (QUICKSTART / "tasks" / made.name).read_text()
    assert len(list((tmp_path / "tasks").glob("*.jsonl"))) >= 4
    for name in MODELS:
        for file in ("config.json", "tokenizer.json"):
            made, kept = tmp_path / "models" / name / file, QUICKSTART / "models" / name / file
            assert unversioned(made) == unversioned(kept)


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Each source on every item of every task."""
    run_file = tmp_path_factory.mktemp("each") / "run.yaml"
    text = (QUICKSTART / "run.yaml").read_text()
    tasks = [f"    {name}: {{items: 10, selection: 10}}" for name in _tasks()]
    head = text[: text.index("fitness:")].replace("models/", f"{QUICKSTART}/models/")
    run_file.write_text(
        head + f"fitness:\n  include: {QUICKSTART}/tasks\n  tasks:\n" + "\n".join(tasks) + "\n"
    )
    found = {}
    for name in MODELS:
        command = [
            sys.executable, "-m", "evomerge.cli", "evaluate", str(QUICKSTART / "models" / name),
            str(run_file), "--full", "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout)["objectives"]
    return found


def _tasks():
    return ("lunari_words", "tovek_words", "sums", "lunari_sums")


def test_the_base_is_able_and_each_expert_clearly_better_at_its_own(scores):
    own = {"lunari": "lunari_words", "tovek": "tovek_words", "abacus": "sums"}
    for expert, task in own.items():
        base = scores["base"][task]["value"]
        assert 0.3 < base < 0.7
        assert scores[expert][task]["value"] > base + 0.25
        for other in set(own.values()) - {task}:  # and not useless on others
            assert scores[expert][other]["value"] > scores["base"][other]["value"] - 0.1


def test_no_source_does_the_composite_task_well(scores):
    assert max(scores[name]["lunari_sums"]["value"] for name in MODELS) < 0.5


def test_the_demo_s_search_beats_uniform_and_every_source(tmp_path):
    """The promise of the quickstart, on items the search never saw; its figures are in the README."""
    command = [
        sys.executable, "-m", "evomerge.cli", "search", str(QUICKSTART / "run.yaml"), "--dir",
        str(tmp_path / "run"), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    means = {
        name: mean_of(list(found.values()))["value"] for name, found in summary["baselines"].items()
    }
    assert means["winner"] >= means["uniform"] + 0.05
    for name in MODELS:
        assert means["winner"] >= means[name] + 0.10
    front = {
        tuple(e["value"] for e in c["objectives"].values())
        for c in summary["candidates"]
        if c["on_front"]
    }
    assert len(front) >= 5

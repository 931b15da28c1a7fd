"""The blocks of docs/adding_an_engine.md, carried out: the page's engine against the embedded one."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge import engines
from evomerge.config import RunFile
from evomerge.engines import EngineKind, Running
from evomerge.evaluator import EvaluatorFactory
from evomerge.merge.search_weights import search_weights
from evomerge.preflight import prepare
from evomerge.run_file import folder_of, load_run_file
from evomerge.search.baselines import average
from fitness.engines.decoding import Decoding, answer_text, not_finite
from fitness.engines.lengths import prompt_lengths
from fitness.items import Reply, Request
from search_spaces.errors import InputError
from tests.conftest import ROOT, WriteRun

PAGE = (ROOT / "docs" / "adding_an_engine.md").read_text()
BLOCKS = dict(re.findall(r"^```python (\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
TASKS = {
    "lunari_words": {"items": 8, "selection": 4, "test": 4},
    "lunari_words_mc": {"items": 8, "selection": 4, "test": 4},
    "lunari_sums": {"items": 8, "selection": 4, "test": 4},
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> EngineKind:
    """The page's engine, in the table for this test."""
    names: dict[str, object] = {
        "torch": torch, "AutoConfig": AutoConfig, "AutoModelForCausalLM": AutoModelForCausalLM,
        "prompt_lengths": prompt_lengths, "Decoding": Decoding, "answer_text": answer_text,
        "not_finite": not_finite, "Reply": Reply, "InputError": InputError, "Running": Running,
        "EngineKind": EngineKind, "search_weights": search_weights,
    }  # fmt: skip
    exec(BLOCKS["engine"], names)
    exec(BLOCKS["line"], names)
    kind = names["PLAIN"]
    assert isinstance(kind, EngineKind)
    monkeypatch.setattr(engines, "ENGINES", engines.ENGINES | {kind.name: kind})
    monkeypatch.setattr("evomerge.evaluator.ENGINES", engines.ENGINES)
    return kind


def with_engine(config: RunFile, name: str) -> RunFile:
    """The run file with another engine, past the list of names that it may say."""
    return config.model_copy(update={"engine": config.engine.model_copy(update={"kind": name})})


@pytest.fixture
def run_file(write_run: WriteRun) -> Path:
    return write_run({"fitness.tasks": TASKS, "fitness.objectives": list(TASKS)})


def test_the_page_s_engine_answers_what_the_embedded_one_answers(
    plain: EngineKind, run_file: Path
) -> None:
    config = load_run_file(run_file)
    prepared = prepare(config, folder_of(config, run_file), thorough=False)
    found = {}
    for name in ("transformers", plain.name):
        factory = EvaluatorFactory(with_engine(config, name), prepared.folder, prepared.folders)
        evaluator = factory()
        recipes = [average(["lunari", "abacus"], None), average(["tovek"], None)]
        found[name] = [evaluator.evaluate(recipe, "search") for recipe in (*recipes, recipes[0])]
        evaluator.close()
    assert all(e.scored for each in found.values() for e in each), [
        e.reason for e in found["plain"]
    ]
    for ours, theirs in zip(found[plain.name], found["transformers"], strict=True):
        assert ours.objectives == theirs.objectives
        assert ours.responses == theirs.responses
    first, other, again = found[plain.name]
    assert first.responses == again.responses != other.responses


def test_it_refuses_to_answer_before_a_load_and_stacks(plain: EngineKind, run_file: Path) -> None:
    config = load_run_file(run_file)
    model = Path(config.models.sources["base"].model)
    names = {"space": config.space.model_copy(update={"kind": "path"})}
    with pytest.raises(InputError, match="one depth"):
        plain.check(config.model_copy(update=names), model, None)  # pyright: ignore[reportArgumentType]
    assert plain.check(config, model, None).max_model_len == 64  # pyright: ignore[reportArgumentType]


def test_a_load_that_fails_leaves_it_refusing(plain: EngineKind, run_file: Path) -> None:
    config = load_run_file(run_file)
    prepared = prepare(config, folder_of(config, run_file), thorough=False)
    factory = EvaluatorFactory(with_engine(config, plain.name), prepared.folder, prepared.folders)
    evaluator = factory()
    engine = evaluator._engine
    asked = [Request("loglikelihood", "lunari cow:", "ba")]
    engine.load(average(["tovek"], None))
    before = engine.answer(asked)
    with pytest.raises(InputError):
        engine.load(average(["nobody"], None))
    with pytest.raises(RuntimeError, match=r"answer\(\) before a load"):
        engine.answer(asked)
    engine.load(average(["tovek"], None))
    assert engine.answer(asked) == before
    evaluator.close()

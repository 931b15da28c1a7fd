"""Costs of the model in a trial: exact ones from the recipe, and the speed of its answers."""

import time
from dataclasses import replace

import numpy as np
import pytest

from evomerge.asking import Asking, Bar, Beliefs, Prior
from evomerge.evaluator import CandidateEvaluator
from evomerge.objectives import recipe_costs
from evomerge.run_file import load_run_file
from evomerge.search.baselines import average
from evomerge.trial import Trial
from fitness.errors import FitnessError
from fitness.estimate import Estimate
from search_spaces.recipe import Input, Recipe, Slice
from tests.test_trial import CHANGES, RUNGS, Counted, opened

COSTS = ["layers", "parameters", "kv_bytes", "tokens_per_second"]
OBJECTIVES = ["sums", *({"cost": cost} for cost in COSTS)]


@pytest.fixture(scope="module")
def quickstart_run(tmp_path_factory, quickstart):
    import yaml

    content = yaml.safe_load(yaml.safe_dump(quickstart))
    for key, value in CHANGES.items():
        section, name = key.split(".")
        content[section][name] = value
    content["fitness"]["objectives"] = OBJECTIVES
    content["cluster"] = {"executor": "serial"}
    path = tmp_path_factory.mktemp("costs") / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def running(quickstart_run):
    evaluator, recipe = opened(quickstart_run)
    yield Counted(evaluator._engine), evaluator, recipe
    evaluator.close()


def trial(running, recipe, asking, split="search"):
    engine, evaluator, _ = running
    return Trial(engine, evaluator._judge, recipe, split, asking, evaluator._costs).run()


def test_exact_costs_are_the_recipes(running, quickstart_run):
    from evomerge.run_sources import locate_sources, open_run_sources

    config = load_run_file(quickstart_run)
    sources = open_run_sources(config, locate_sources(config, quickstart_run.parent))
    expected = recipe_costs(config, sources).of(running[2])
    found = trial(running, running[2], Asking(RUNGS)).objectives
    for name in COSTS[:3]:
        assert found[name] == Estimate(expected[name], 0.0)
    assert expected["layers"] == sources.layers
    assert expected["parameters"] == sources.parameters()
    assert expected["kv_bytes"] > 0


def test_they_are_known_on_the_first_rung_and_decide_there(running):
    """A bound on layers: whoever is too deep answers one rung and no more."""
    engine, _, recipe = running
    signs = {"sums": 1, "layers": -1, "parameters": -1, "kv_bytes": -1, "tokens_per_second": 1}
    prior = Prior(np.full(5, 0.5), np.full(5, 1.0))
    nobody = Beliefs(np.empty((0, 5)), np.empty((0, 5)))
    layers = trial(running, recipe, Asking(RUNGS[:1])).objectives["layers"].value
    for most, rungs in ((layers, 3), (layers - 1, 1)):
        engine.answered.clear()
        bar = Bar(signs, prior, nobody, ((1, 1, -most),), 0.5)
        trial(running, recipe, Asking(RUNGS, bar))
        assert len(engine.answered) == rungs


def test_speed_is_that_of_the_answers(running):
    engine, evaluator, recipe = running
    judge = evaluator._judge
    began = time.perf_counter()
    found = trial(running, recipe, Asking()).objectives["tokens_per_second"]
    seconds = time.perf_counter() - began
    requests = judge.requests("search", range(16))
    replies = engine.answer(requests)
    bare = [replace(r, generation={"max_gen_toks": 1}) for r in requests]
    tokens = sum(engine.token_lengths(bare)) + sum(reply.tokens - 1 for reply in replies)
    # The trial took longer than its answers, and its answers most of it.
    assert tokens / seconds < found.value < 20 * tokens / seconds
    assert found.se == pytest.approx(0.1 * found.value)


def test_every_rung_is_timed(running):
    class Slow(Counted):
        """Takes a hundredth of a second more for every token."""

        def answer(self, requests):
            replies = super().answer(requests)
            tokens = sum(self._engine.token_lengths(requests))
            time.sleep(0.01 * tokens)
            return replies

    slow = (Slow(running[0]._engine), *running[1:])
    fast = trial(running, running[2], Asking(RUNGS)).objectives["tokens_per_second"]
    found = trial(slow, running[2], Asking(RUNGS)).objectives["tokens_per_second"]
    assert found.value < fast.value / 2
    assert 0 < found.se < 0.2 * found.value


def test_known_answers_are_not_timed_again(running):
    whole = trial(running, running[2], Asking())
    known = dict(zip(whole.positions, whole.responses, strict=True))
    before = {"tokens_per_second": Estimate(123.0, 4.0)}
    again = trial(running, running[2], Asking(RUNGS, known=known, before=before))
    assert again.objectives["tokens_per_second"] == before["tokens_per_second"]
    few = {position: known[position] for position in RUNGS[0]}
    part = trial(running, running[2], Asking(RUNGS, known=few, before=before))
    found = part.objectives["tokens_per_second"]
    assert found.se < 4
    assert found != before["tokens_per_second"]
    with pytest.raises(FitnessError, match="nothing was timed"):
        trial(running, running[2], Asking(RUNGS, known=known))


def test_a_recipe_without_costs_is_an_invalid_one(running):
    _, evaluator, _ = running
    deep = Recipe("passthrough", (Slice((Input("abacus", (2, 9)),)),))
    found = evaluator.evaluate(deep, "search")
    assert found.outcome.value == "invalid recipe"
    assert "the sources have layers 0 to" in found.reason


def test_a_judge_that_wants_costs_has_to_be_told_them(running):
    engine, evaluator, _ = running
    silent = CandidateEvaluator(engine, evaluator._judge)
    found = silent.evaluate(average(["abacus"], None), "search")
    assert found.outcome.value == "scoring failed"
    assert "cost 'layers': no answer tells it" in found.reason

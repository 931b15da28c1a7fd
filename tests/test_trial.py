"""One candidate answering rung after rung, with the quickstart's models and a real engine."""

from dataclasses import replace

import numpy as np
import pytest

from evomerge.asking import Asking, Bar, Beliefs, Prior
from evomerge.evaluation import Outcome
from evomerge.evaluator import EvaluatorFactory
from evomerge.preflight import prepare
from evomerge.run_file import folder_of, load_run_file
from evomerge.search.baselines import average
from evomerge.trial import Trial
from fitness.estimate import Estimate
from search_spaces.neighbours import neighbours
from search_spaces.space import from_unit

TASKS = {
    "lunari_words": {"items": 8, "selection": 8, "test": 16},
    "sums": {"items": 8, "selection": 8, "test": 16},
}
CHANGES = {"fitness.tasks": TASKS, "fitness.objectives": None}
RUNGS = ((0, 3, 9, 11), (1, 2, 8, 15), (4, 5, 6, 7, 10, 12, 13, 14))


class Counted:
    """An engine, and what it was told to load and to answer."""

    def __init__(self, engine):
        self._engine = engine
        self.loaded = []
        self.answered = []

    def load(self, recipe):
        self.loaded.append(recipe)
        self._engine.load(recipe)

    def answer(self, requests):
        self.answered.append(len(requests))
        return self._engine.answer(requests)

    def token_lengths(self, requests):
        return self._engine.token_lengths(requests)


def opened(run_file):
    """A running engine, its judge, and a recipe of the run's space."""
    config = load_run_file(run_file)
    prepared = prepare(config, folder_of(config, run_file), thorough=False)
    evaluator = EvaluatorFactory(config, prepared.folder, prepared.folders)()
    genome = from_unit(prepared.space, np.full(len(prepared.space.variables), 0.4))
    return evaluator, prepared.space.decode(genome)


@pytest.fixture
def running(write_run):
    evaluator, recipe = opened(write_run(CHANGES))
    yield Counted(evaluator._engine), evaluator._judge, recipe
    evaluator.close()


def trial(running, asking, split="search"):
    engine, judge, recipe = running
    return Trial(engine, judge, recipe, split, asking).run()


def bar_at(score):
    """Passed by who may be better than that in everything."""
    names = ("lunari_words", "sums")
    prior = Prior(np.full(2, 0.5), np.full(2, 10.0))
    front = Beliefs(np.full((1, 2), score), np.zeros((1, 2)))
    return Bar(dict.fromkeys(names, 1), prior, front, (), 0.5)


def test_rung_after_rung_is_everything_at_once(running):
    engine = running[0]
    whole = trial(running, Asking())
    assert (engine.answered, len(engine.loaded)) == ([16], 1)
    raced = trial(running, Asking(RUNGS))
    assert engine.answered[1:] == [4, 4, 8]
    assert len(engine.loaded) == 2, "the weights stay in place from rung to rung"
    assert raced.responses == whole.responses
    assert raced.objectives == whole.objectives
    assert raced.positions == whole.positions == tuple(range(16))
    assert (raced.items, raced.answers) == (16, 16)
    assert raced.outcome is Outcome.SCORED


def test_the_bar_ends_it(running):
    engine = running[0]
    few = trial(running, Asking(RUNGS, bar_at(2.0)))
    assert engine.answered == [4]
    assert few.positions == RUNGS[0]
    assert (few.items, few.answers) == (4, 4)
    assert [(r.task, r.index) for r in few.responses] == [
        (item.task, item.index) for item in (running[1].items["search"][p] for p in few.positions)
    ]
    assert all(e.se > 0 for e in few.objectives.values())
    every = trial(running, Asking(RUNGS, bar_at(-1.0)))
    assert engine.answered == [4, 4, 4, 8]
    assert every.responses == trial(running, Asking()).responses


def test_known_answers_cost_nothing_not_even_a_merge(running):
    engine = running[0]
    whole = trial(running, Asking())
    known = dict(zip(whole.positions, whole.responses, strict=True))
    engine.loaded.clear()
    engine.answered.clear()
    again = trial(running, Asking(RUNGS, known=known))
    assert (engine.loaded, engine.answered) == ([], [])
    assert again.responses == whole.responses
    assert again.objectives == whole.objectives
    assert (again.items, again.answers) == (16, 0)
    assert (again.merge_seconds, again.score_seconds) == (0, 0)
    two = {position: known[position] for position in (0, 8)}
    part = trial(running, Asking(RUNGS, known=two))
    assert engine.answered == [3, 3, 8]
    assert len(engine.loaded) == 1
    assert (part.items, part.answers) == (16, 14)
    assert part.responses == whole.responses


def test_known_answers_beyond_the_rungs_do_not_count(running):
    """What another run asked this candidate must not change what this run finds."""
    whole = trial(running, Asking())
    known = dict(zip(whole.positions, whole.responses, strict=True))
    first = trial(running, Asking(RUNGS[:1]))
    cached = trial(running, Asking(RUNGS[:1], known=known))
    assert (cached.positions, cached.objectives) == (first.positions, first.objectives)


def test_known_answers_are_believed(running):
    whole = trial(running, Asking())
    wrong = {
        p: replace(r, score=0.25) for p, r in zip(whole.positions, whole.responses, strict=True)
    }
    found = trial(running, Asking(known=wrong))
    assert {e.value for e in found.objectives.values()} == {0.25}


def test_test_items_are_answered_by_models_merged_exactly(running):
    from evomerge.merge.weights import Exactly

    engine, _, recipe = running
    trial(running, Asking(), "test")
    assert isinstance(engine.loaded[0], Exactly)
    trial(running, Asking(), "as_searched")
    trial(running, Asking(), "selection")
    assert engine.loaded[1:] == [recipe, recipe]


def test_what_fails_while_merging_and_while_answering(running):
    engine, judge, recipe = running

    class Broken(Counted):
        def answer(self, requests):
            raise OSError("answering")

    broken = Trial(Broken(engine._engine), judge, recipe, "search", Asking(RUNGS))
    with pytest.raises(OSError, match="answering"):
        broken.run()
    assert not broken.merging


def test_consistency_asks_the_neighbours(write_run):
    consistency = {"consistency": {"step": 0.1}, "name": "steady"}
    changes = CHANGES | {"fitness.objectives": ["sums", consistency]}
    evaluator, recipe = opened(write_run(changes))
    engine, judge = Counted(evaluator._engine), evaluator._judge
    found = Trial(engine, judge, recipe, "search", Asking()).run()
    assert engine.loaded == [recipe, *neighbours(recipe, 0.1)]
    assert engine.answered == [16, 16, 16]
    texts = []
    for one in tuple(engine.loaded):
        engine.load(one)
        texts.append([reply.text for reply in engine.answer(judge.requests("search", range(16)))])
    mine, less, more = texts
    agreed = [((m == a) + (m == b)) / 2 for m, a, b in zip(mine, less, more, strict=True)]
    assert 0 < found.objectives["steady"].value <= 1
    weights = [len(judge.tasks.items(task)) for task in judge.tasks.names]
    by_task = [np.mean(agreed[:8]), np.mean(agreed[8:])]
    assert found.objectives["steady"].value == pytest.approx(np.average(by_task, weights=weights))
    assert (found.items, found.answers) == (16, 16)
    alone = average(["abacus"], None)
    engine.loaded.clear()
    source = Trial(engine, judge, alone, "search", Asking()).run()
    assert source.objectives["steady"] == Estimate(1.0, source.objectives["steady"].se)
    evaluator.close()

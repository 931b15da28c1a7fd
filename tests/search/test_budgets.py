"""Budgets: each limit ends a search, the end is replayed exactly, and it can be raised afterwards."""

import pytest

from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.driver import Driver
from evomerge.search.plan import Plan, ended_key
from evomerge.search.view import SilentView
from fitness.estimate import Estimate
from fitness.items import Response
from tests.runs.planted import Planted, goals, space
from tests.search.test_asynchronous import Clockwork

SCHEDULES = ("asynchronous", "generational")

TOKENS = 7
"""Of each answer; a candidate gives two."""


class Talkative(Planted):
    """Answers of so many tokens."""

    def evaluate(self, recipe, split, asking):
        found = super().evaluate(recipe, split, asking)
        told = tuple(Response(r.task, r.index, r.score, TOKENS) for r in found.responses)
        return Evaluation(
            found.outcome, "", found.objectives, told, 0.01, 0.02, "here", items=2, answers=2
        )


class Flat(Planted):
    """Everybody scores alike: there is nothing to gain."""

    def evaluate(self, recipe, split, asking):
        super().evaluate(recipe, split, asking)
        alike = {name: Estimate(0.5, 0.01) for name in ("first", "second")}
        return Evaluation(Outcome.SCORED, "", alike, (Response("task", 0, 0.5),), 0.01, 0.02, "x")


def search(path, plan, evaluator, workers=3, dies_after=None):
    """The candidates, and the limit that ended the search."""
    database = Database(path, create=not path.exists())
    executor = Clockwork(evaluator, workers, 1, dies_after)
    ledger = Ledger(database, executor, lambda evaluation, paid: None)
    try:
        found = Driver(space(), goals(), ledger, database, SilentView()).search(plan)
        return found, database.meta(ended_key(plan.phase))
    finally:
        database.close()


def plan(schedule, evaluations=400, **limits):
    return Plan("search", "nsga2", 8, 3, evaluations, schedule=schedule, **limits)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("limits", "raised", "reason"),
    [
        ({"tokens": 40 * 2 * TOKENS}, {"tokens": 80 * 2 * TOKENS}, "tokens"),
        ({"answers": 40 * 2}, {"answers": 80 * 2}, "answers"),
        ({"patience": 24}, {"patience": 60}, "patience"),
        ({"hours": 1e-9}, {"hours": 1.0}, "hours"),
        ({}, {}, "evaluations"),
    ],
)
def test_each_limit_ends_the_search_replays_and_is_raised(
    schedule, limits, raised, reason, tmp_path
):
    evaluator = Flat() if reason == "patience" else Talkative()
    most = 40 if reason == "evaluations" else 400
    began = plan(schedule, most, **limits)
    first, ended = search(tmp_path / "run.db", began, evaluator)
    assert ended == {"asked": len(first), "reason": reason}
    if reason in ("tokens", "answers", "evaluations"):
        # what is under way when the limit is reached is still finished
        assert 40 <= len(first) < 40 + 8
    paid = len(evaluator.asked)
    again, ended = search(tmp_path / "run.db", began, evaluator)
    assert [c.genome for c in again] == [c.genome for c in first]
    assert ended == {"asked": len(first), "reason": reason}
    assert len(evaluator.asked) == paid, "a replay pays nothing"
    more = plan(schedule, 80 if reason in ("hours", "evaluations") else most, **raised)
    longer, _ = search(tmp_path / "run.db", more, evaluator)
    assert len(longer) > len(first)
    assert [c.genome for c in longer[: len(first)]] == [c.genome for c in first]
    assert len(evaluator.asked) == len(set(evaluator.asked)), "nothing was paid for twice"


@pytest.mark.parametrize("limits", [{"tokens": 64 * 2 * TOKENS}, {"answers": 64 * 2}])
def test_raised_by_generations_it_is_as_if_it_had_been_so_from_the_start(limits, tmp_path):
    [[kind, limit]] = limits.items()
    search(tmp_path / "parts.db", plan("generational", **{kind: limit // 2}), Talkative())
    parts, _ = search(tmp_path / "parts.db", plan("generational", **limits), Talkative())
    whole, _ = search(tmp_path / "whole.db", plan("generational", **limits), Talkative())
    assert [c.genome for c in parts] == [c.genome for c in whole]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tokens_spent_are_known_after_a_crash(schedule, tmp_path):
    """Counted from the record, they end the resumed search where they would have ended it."""
    limit = plan(schedule, tokens=40 * 2 * TOKENS)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "run.db", limit, Talkative(), dies_after=21)
    found, ended = search(tmp_path / "run.db", limit, Talkative())
    assert ended["reason"] == "tokens"
    assert 40 <= len(found) < 48
    database = Database(tmp_path / "run.db")
    assert sum(e.tokens for e in database.evaluations("search").values()) == 14 * len(found)


@pytest.mark.parametrize("patience", [8, 12, 16])
def test_patience_is_the_candidates_without_a_gain(patience, tmp_path):
    """Looked at after each generation of 8; nothing is gained after the first."""
    found, ended = search(tmp_path / "run.db", plan("generational", patience=patience), Flat())
    assert ended["reason"] == "patience"
    assert len(found) == 8 + 8 * -(-patience // 8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_plateau_is_no_gain_beyond_the_error(schedule, tmp_path):
    """Gains there are, but smaller than the front's error: patience runs out all the same."""

    class Creeping(Planted):
        def evaluate(self, recipe, split, asking):
            super().evaluate(recipe, split, asking)
            value = 0.5 + 1e-5 * len(self.asked)
            found = {name: Estimate(value, 0.05) for name in ("first", "second")}
            answers = (Response("task", 0, value),)
            return Evaluation(Outcome.SCORED, "", found, answers, 0.01, 0.02, "x")

    found, ended = search(tmp_path / "run.db", plan(schedule, patience=24), Creeping())
    assert ended["reason"] == "patience"
    assert 24 < len(found) <= 24 + 3 * 8

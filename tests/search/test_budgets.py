"""Budgets: each limit ends a search, the end is replayed exactly, and it can be raised afterwards."""

import pytest

from evomerge.budgets import Limits, budget_state, ended_by, is_finished
from evomerge.evaluation import Evaluation, Outcome
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.runs.ledger import Ledger
from evomerge.search.driver import Driver
from evomerge.search.plan import Plan, ended_key
from evomerge.search.view import SilentView
from evomerge.session import resume, start
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.errors import InputError
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


@pytest.fixture
def small(write_run):
    """A run file for a real run of seconds."""
    return write_run(
        {
            "fitness.tasks": {"sums": {"items": 4, "selection": 4, "test": 4}},
            "fitness.objectives": ["sums"],
            "search.algorithm": "random",
            "search.population": 6,
            "search.random_baseline": False,
            "search.finalists": 2,
        }
    )


def asked(folder):
    run = RunFolder.open(folder)
    try:
        state = budget_state(run)
        return len(run.database.candidates("search")), ended_by(run), is_finished(run), state
    finally:
        run.close()


def test_the_command_line_sets_and_raises_limits(small, tmp_path, evomerge):
    folder = tmp_path / "run"
    done = evomerge("search", small, "--dir", folder, "--tokens", 40, "--json")
    assert done.returncode == 0, done.stderr
    count, reason, finished, state = asked(folder)
    assert reason == "tokens"
    assert finished
    assert state["tokens"]["limit"] == 40 <= state["tokens"]["spent"]
    assert state["evaluations"] == {"limit": 20, "spent": count}
    assert count < 20
    shown = evomerge("show", folder).stdout
    assert "ended by its budget of tokens" in shown
    again = evomerge("resume", folder)
    assert again.returncode == 0
    assert "has finished" in again.stderr
    assert "--tokens N" in again.stderr
    done = evomerge("resume", folder, "--tokens", 10_000, "--hours", 2.5)
    assert done.returncode == 0, done.stderr
    count, reason, finished, state = asked(folder)
    assert (count, reason, finished) == (20, "evaluations", True)
    assert state["hours"]["limit"] == 2.5
    assert 0 < state["hours"]["spent"] < 1
    assert state["answers"]["spent"] == 4 * 20


def test_less_than_is_spent_is_refused_and_says_what_is(small, tmp_path):
    start(small, tmp_path / "run", None, SilentView())
    spent = asked(tmp_path / "run")[3]
    for limits, said in (
        (Limits(evaluations=5), "--evaluations 5: 20 candidates were evaluated already"),
        (Limits(answers=7), "--answers 7: 80 items were answered already"),
        (Limits(tokens=1), f"--tokens 1: {spent['tokens']['spent']:,} tokens were generated"),
        (Limits(hours=1e-7), "--hours 1e-07: .* hours were searched already"),
    ):
        with pytest.raises(InputError, match=said):
            resume(tmp_path / "run", limits, SilentView())
    assert asked(tmp_path / "run")[3] == spent, "a refusal changes nothing"


def test_tokens_where_no_text_is_generated_are_refused(write_run, tmp_path):
    """The bound would never be reached, and the run go on all night."""
    task = {"lunari_words_mc": {"items": 4, "selection": 4, "test": 4}}
    run_file = write_run({"fitness.tasks": task, "fitness.objectives": ["lunari_words_mc"]})
    said = "tokens 500: no task has text generated"
    with pytest.raises(InputError, match=said):
        start(run_file, tmp_path / "run", Limits(tokens=500), SilentView())
    assert not (tmp_path / "run").exists()


def test_patience_is_raised_after_a_plateau(small, tmp_path):
    start(small, tmp_path / "run", Limits(60, patience=4), SilentView())
    count, reason, finished, _ = asked(tmp_path / "run")
    assert (reason, finished) == ("patience", True)
    assert count < 60
    resume(tmp_path / "run", Limits(patience=50), SilentView())
    more, _, finished, _ = asked(tmp_path / "run")
    assert more > count
    assert finished


def test_what_is_added_is_the_second_stages(tmp_path, write_run, quickstart):
    """The first stage is what it was begun as, or the second would stand on another model."""
    import copy

    experts = copy.deepcopy(quickstart["models"]["experts"])
    experts.pop("tovek")
    run_file = write_run(
        {
            "models.experts": experts,
            "space": {
                "kind": "path",
                "depth": [3, 6],
                "merged": {"rule": "task_arithmetic", "weight": [0, 1.5], "share": 0.5},
            },
            "fitness.tasks": {"sums": {"items": 2, "selection": 2, "test": 2}},
            "fitness.objectives": ["sums"],
            "search.population": 6,
            "search.budget": {"evaluations": 60, "answers": 24},
            "search.random_baseline": False,
        }
    )
    folder = tmp_path / "run"
    start(run_file, folder, None, SilentView())
    run = RunFolder.open(folder)
    before = [run.database.candidates(phase) for phase in ("merged", "search")]
    run.close()
    with pytest.raises(InputError, match="the first stage takes 12"):
        resume(folder, Limits(answers=12), SilentView())
    resume(folder, Limits(answers=40), SilentView())
    run = RunFolder.open(folder)
    after = [run.database.candidates(phase) for phase in ("merged", "search")]
    run.close()
    assert after[0] == before[0]
    assert len(after[1]) > len(before[1])
    assert {number: after[1][number] for number in before[1]} == before[1]

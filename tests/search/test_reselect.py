"""Items chosen anew where the search lives: the first rung stays, and a replay chooses the same."""

import numpy as np
import pytest

from evomerge.evaluation import Evaluation, Outcome
from evomerge.race_rules import rules_of
from evomerge.run_file import load_run_file
from evomerge.search.plan import Plan
from fitness.banks import ItemBank
from fitness.items import Item, Response
from tests.search.noisy import ITEMS, TASKS, InTurn, Noisy, driver_on, open_database
from tests.search.test_race import paid_once, parts_of, record, responses_of

ITEMS_OF = [Item(task, index, (), "x") for task in TASKS for index in range(ITEMS)]


def bank_of(seed):
    """Thirty models of unlike skill on items of unlike difficulty."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (30, 1)) - rng.normal(0, 1.5, ITEMS)
    return (rng.random((30, ITEMS)) < 1 / (1 + np.exp(-logits))).astype(float)


@pytest.fixture
def rules_on(write_run):
    """The rules of a run file with banks, on the record at a path."""
    racing = {"rungs": [6, 20, 40], "reselect": 2, "again": 1.0}
    config = load_run_file(write_run({"fitness.bank": "banks", "fitness.racing": racing}))
    banks = {task: ItemBank.of(bank_of(n), task=task) for n, task in enumerate(TASKS)}
    return lambda path: rules_of(config, banks, ITEMS_OF, open_database(path))


def answered_by(skill):
    """Whoever is so good: right in the items that `skill` and more of the models get right."""
    responses = []
    for n, task in enumerate(TASKS):
        solved = bank_of(n).mean(axis=0) > 1 - skill
        responses += [Response(task, i, float(right)) for i, right in enumerate(solved)]
    return Evaluation(Outcome.SCORED, responses=tuple(responses), items=2 * ITEMS)


def test_the_first_rung_stays_and_the_others_grow_from_it(rules_on, tmp_path):
    path = tmp_path / "run.db"
    rules = rules_on(path)
    database = open_database(path)
    for name, skill in (("weak", 0.15), ("strong", 0.9)):
        database.record(name, "search", answered_by(skill))
    chosen = {name: rules.reselect([(name, 1)]) for name in ("weak", "strong")}
    for rungs in (rules.rungs, *chosen.values()):
        assert [len(rung) for rung in rungs] == [12, 28, 40]
        assert len(set(sum(rungs, ()))) == 80
        assert rungs[0] == rules.rungs[0]
        for rung in rungs:
            assert sum(position < ITEMS for position in rung) == len(rung) / 2
    assert chosen["weak"] != chosen["strong"]
    assert rules.reselect([("weak", 1)]) == chosen["weak"]

    def easiness(rung):
        return np.mean([bank_of(p // ITEMS)[:, p % ITEMS].mean() for p in rung])

    assert easiness(chosen["weak"][1]) > easiness(chosen["strong"][1]), "near who is asked"


@pytest.mark.parametrize("schedule", ["generational", "asynchronous"])
def test_a_race_with_items_chosen_anew(schedule, rules_on, tmp_path):
    path, evaluator = tmp_path / "run.db", Noisy()
    rules = rules_on(path)
    driver_on(path, InTurn(evaluator), rules).search(
        Plan("search", "nsga2", 8, 1, 48, schedule=schedule)
    )
    assert paid_once(evaluator)
    asked = {asking.rungs[1] for _, asking in evaluator.asked if len(asking.rungs) > 1}
    assert len(asked) > 1, "items were chosen anew"
    for _, asking in evaluator.asked:
        assert set(rules.rungs[0]) <= set(sum(asking.rungs, ()))


def test_killed_and_continued_chooses_the_same_items(rules_on, tmp_path):
    """A replay knew what was answered later, and chose other items by it."""
    plan = Plan("search", "nsga2", 8, 1, 64, schedule="generational")
    whole, path = tmp_path / "whole.db", tmp_path / "run.db"
    driver_on(whole, InTurn(Noisy()), rules_on(whole)).search(plan)
    deaths = 0
    for dies_after in (21, 9, 8, 11, 5, 7):
        try:
            driver_on(path, InTurn(Noisy(), dies_after), rules_on(path)).search(plan)
        except KeyboardInterrupt:
            deaths += 1
    assert deaths >= 5
    driver_on(path, InTurn(Noisy()), rules_on(path)).search(plan)
    assert parts_of(path) == parts_of(whole)
    assert responses_of(path) == responses_of(whole)
    assert record(path) == record(whole)

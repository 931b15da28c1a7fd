"""Racing on a planted problem of luck: who answers what, what is paid, what a replay does."""

from collections import Counter

import numpy as np
import pytest

from evomerge.runs.database import Database
from evomerge.search import asynchronous
from evomerge.search.beliefs import believe
from evomerge.search.plan import Plan
from evomerge.search.race import Rules, rungs_of
from evomerge.search.standing import Standing
from tests.search.noisy import ITEMS, RUNGS, TASKS, InTurn, Noisy, driver_on, truth
from tests.search.test_asynchronous import Clockwork

FIRST = len(RUNGS[0])
ALGORITHMS = ("nsga2", "cmaes", "de", "tpe", "random")
SCHEDULES = ("generational", "asynchronous")


def parts_of(path):
    """By recipe, what each part recorded: outcome, objectives, items and answers."""
    return {
        digest: [(p.outcome, p.objectives, p.items, p.answers) for p in parts]
        for digest, parts in Database(path).parts("search").items()
    }


def responses_of(path):
    """By recipe and part, the recorded positions and scores."""
    rows = Database(path)._connection.execute(
        "SELECT recipe_hash, part, positions, scores FROM evaluations"
        " JOIN responses ON evaluation = evaluations.id"
    )
    return {(digest, part): (positions, scores) for digest, part, positions, scores in rows}


def record(path):
    """All that a run came to, but for when and where."""
    return Database(path).candidates("search"), parts_of(path), responses_of(path)


def paid_once(evaluator):
    answered = evaluator.engine.answered
    return len(answered) == len(set(answered))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_races_and_pays_once(algorithm, schedule, tmp_path):
    evaluator = Noisy()
    driver = driver_on(tmp_path / "run.db", Clockwork(evaluator, 3))
    found = driver.search(Plan("search", algorithm, 8, 1, 64, schedule=schedule))
    assert [c.id for c in found] == list(range(64))
    assert paid_once(evaluator)
    asked = {c.recipe_hash: c.evaluation.items for c in found}
    assert set(asked.values()) <= {FIRST, 40, 120}
    assert FIRST in asked.values()
    assert max(asked.values()) > FIRST
    assert sum(asked.values()) == len(evaluator.engine.answered)
    assert sum(asked.values()) < 0.5 * len(asked) * len(TASKS) * ITEMS


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_who_is_clearly_bad_answers_the_first_rung_only(schedule, tmp_path):
    driver = driver_on(tmp_path / "run.db", Clockwork(Noisy(), 3))
    found = driver.search(Plan("search", "random", 8, 1, 80, schedule=schedule))
    worth = np.array([truth(driver.recipe(c)) for c in found])
    bad = [c for c, w in zip(found, worth, strict=True) if (worth >= w + 0.45).all(axis=1).any()]
    assert len(bad) >= 10
    assert {c.evaluation.items for c in bad} == {FIRST}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_front_is_measured_again(schedule, tmp_path):
    driver = driver_on(tmp_path / "run.db", Clockwork(Noisy(), 3), Rules(RUNGS, again=5.0))
    found = driver.search(Plan("search", "nsga2", 8, 1, 64, schedule=schedule))
    standing = Standing(driver.goals)
    standing.add(found)
    front = {member.key for member in standing.archive.front()}
    items = {c.recipe_hash: c.evaluation.items for c in found}
    assert np.mean([items[key] > FIRST for key in front]) > 0.9


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_measuring_again_keeps_its_budget(share, schedule, tmp_path):
    path = tmp_path / "run.db"
    rules = Rules(RUNGS, again=share)
    driver_on(path, Clockwork(Noisy(), 3), rules).search(
        Plan("search", "nsga2", 8, 1, 64, schedule=schedule)
    )
    found = parts_of(path).values()
    first = sum(parts[0][3] for parts in found)
    again = sum(part[3] for parts in found for part in parts[1:])
    assert again <= share * first + (len(TASKS) * ITEMS if share else 0)
    assert again >= 0.5 * share * first, "and it is used"


def test_positions_are_nested_and_known_answers_are_not_asked_for(tmp_path):
    path, evaluator = tmp_path / "run.db", Noisy()
    driver_on(path, InTurn(evaluator), Rules(RUNGS, again=2.0)).search(
        Plan("search", "nsga2", 8, 2, 48, schedule="generational")
    )
    database = Database(path)
    measured = {digest: len(parts) for digest, parts in database.parts("search").items()}
    assert max(measured.values()) == 3
    prefix = [set(sum(RUNGS[: n + 1], ())) for n in range(len(RUNGS))]
    for digest, parts in measured.items():
        before: set[int] = set()
        for count in range(1, parts + 1):
            now = set(database.answers(digest, "search", count))
            assert now > before
            assert now in prefix
            before = now
    for digest, asking in evaluator.asked:
        assert set(asking.known) < set(sum(asking.rungs, ())), digest
    assert paid_once(evaluator)


def test_without_rungs_everybody_answers_everything(tmp_path):
    driver = driver_on(tmp_path / "run.db", InTurn(Noisy()), Rules())
    found = driver.search(Plan("search", "nsga2", 8, 1, 24))
    assert {c.evaluation.items for c in found} == {len(TASKS) * ITEMS}
    assert {len(parts) for parts in parts_of(tmp_path / "run.db").values()} == {1}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generations_give_the_same_records_whoever_was_faster(algorithm, tmp_path):
    plan = Plan("search", algorithm, 8, 1, 48, schedule="generational")
    for n in range(2):
        executor = Clockwork(Noisy(), workers=1 + 3 * n, seed=n)
        driver_on(tmp_path / f"{n}.db", executor).search(plan)
    assert record(tmp_path / "0.db") == record(tmp_path / "1.db")


@pytest.mark.parametrize("algorithm", ["nsga2", "cmaes", "tpe"])
def test_killed_generations_go_on_as_if_nothing_had_happened(algorithm, tmp_path):
    plan = Plan("search", algorithm, 8, 1, 48, schedule="generational")
    undisturbed = Noisy()
    whole = driver_on(tmp_path / "whole.db", InTurn(undisturbed)).search(plan)
    killed = Noisy()
    deaths = 0
    for dies_after in (3, 1, 7, 9, 1, 2, 13):  # in generations, and while some are measured again
        try:
            driver_on(tmp_path / "run.db", InTurn(killed, dies_after)).search(plan)
        except KeyboardInterrupt:
            deaths += 1
    assert deaths == 7
    found = driver_on(tmp_path / "run.db", InTurn(killed)).search(plan)
    assert [(c.genome, c.evaluation.objectives) for c in found] == [
        (c.genome, c.evaluation.objectives) for c in whole
    ]
    assert record(tmp_path / "run.db") == record(tmp_path / "whole.db")
    assert Counter(killed.engine.answered) == Counter(undisturbed.engine.answered)


def asks_of(monkeypatch, asked):
    """Note every genome the searcher is asked for, recorded or not."""
    original = asynchronous.Asynchronous._ask

    def noting(self):
        number = original(self)
        asked.append(self._genomes[number])
        return number

    monkeypatch.setattr(asynchronous.Asynchronous, "_ask", noting)


@pytest.mark.parametrize("algorithm", ["nsga2", "cmaes", "tpe"])
def test_a_killed_asynchronous_race_asks_on_exactly(algorithm, tmp_path, monkeypatch):
    path, evaluator = tmp_path / "run.db", Noisy()
    plan = Plan("search", algorithm, 8, 1, 56)
    asked: list = []
    asks_of(monkeypatch, asked)
    for n, dies_after in enumerate((5, 1, 11, 16, 9)):
        before = asked.copy()
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            driver_on(path, Clockwork(evaluator, 4, n, dies_after)).search(plan)
        assert asked[: len(before)] == before
    recorded = record(path)
    before = asked.copy()
    asked.clear()
    found = driver_on(path, Clockwork(evaluator, 4, 9)).search(plan)
    assert asked[: len(before)] == before
    assert [c.genome for c in found] == asked
    after = record(path)
    for then, now in zip(recorded, after, strict=True):
        for key, value in then.items():
            assert now[key] == value or now[key][: len(value)] == value
    assert any(len(parts) > 1 for parts in recorded[1].values())
    assert paid_once(evaluator)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("algorithm", ["nsga2", "cmaes", "tpe"])
def test_a_larger_budget_continues(algorithm, schedule, tmp_path):
    """The smaller one ends within a generation, and its end is used to measure again."""

    def search(name, budget, evaluator):
        plan = Plan("search", algorithm, 8, 1, budget, schedule=schedule)
        return driver_on(tmp_path / name, InTurn(evaluator)).search(plan)

    evaluator = Noisy()
    search("parts.db", 21, evaluator)
    parts = search("parts.db", 50, evaluator)
    assert [c.id for c in parts] == list(range(50))
    assert paid_once(evaluator)
    if schedule == "generational":
        whole = search("whole.db", 50, Noisy())
        assert [c.genome for c in parts] == [c.genome for c in whole]
        first = {key: found[0] for key, found in parts_of(tmp_path / "whole.db").items()}
        assert first == {key: found[0] for key, found in parts_of(tmp_path / "parts.db").items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_candidate_that_cannot_be_measured_again_stays_as_it_was(schedule, tmp_path):
    path = tmp_path / "run.db"
    evaluator = Noisy(fails=lambda recipe, asking: bool(asking.known))
    driver = driver_on(path, Clockwork(evaluator, 3))
    plan = Plan("search", "nsga2", 8, 1, 40, schedule=schedule)
    found = driver.search(plan)
    assert all(c.evaluation.scored for c in found)
    parts = parts_of(path)
    assert max(map(len, parts.values())) > 1
    assert max(map(len, parts.values())) <= 2 + len(RUNGS) + 1, "it is left alone some day"
    for c in found:
        outcome, objectives, *_ = parts[c.recipe_hash][0]
        assert (c.evaluation.outcome, c.evaluation.objectives) == (outcome, objectives)
    again = driver_on(path, Clockwork(Noisy(), 3)).search(plan)
    if schedule == "generational":
        assert again == found


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_failures_neither_stop_the_race_nor_win_it(schedule, tmp_path):
    evaluator = Noisy(fails=lambda recipe, asking: int(recipe.hash, 16) % 3 == 0)
    driver = driver_on(tmp_path / "run.db", Clockwork(evaluator, 3))
    found = driver.search(Plan("search", "nsga2", 8, 1, 48, schedule=schedule))
    failed = {c.recipe_hash for c in found if not c.evaluation.scored}
    assert 4 < len(failed) < 40
    assert not any(len(parts_of(tmp_path / "run.db")[key]) > 1 for key in failed)
    assert len(found) == 48


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_candidate_failing_is_survived(schedule, tmp_path):
    evaluator = Noisy(fails=lambda recipe, asking: True)
    driver = driver_on(tmp_path / "run.db", Clockwork(evaluator, 3))
    assert len(driver.search(Plan("search", "nsga2", 8, 1, 20, schedule=schedule))) == 20


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_answers_run_out_once_stay_so_and_can_be_raised(schedule, tmp_path):
    path, evaluator = tmp_path / "run.db", Noisy()

    def search(answers, budget=200):
        plan = Plan("search", "nsga2", 8, 1, budget, answers=answers, schedule=schedule)
        return driver_on(path, InTurn(evaluator)).search(plan)

    first = search(600)
    spent = len(evaluator.engine.answered)
    assert 8 <= len(first) < 200
    assert 600 <= spent <= 600 + 8 * len(TASKS) * ITEMS * 2
    again = search(600)
    assert [c.genome for c in again] == [c.genome for c in first]
    assert len(evaluator.engine.answered) == spent
    assert len(search(600, 400)) == len(first), "more candidates do not buy answers"
    more = search(1500)
    assert [c.genome for c in more[: len(first)]] == [c.genome for c in first]
    assert len(more) > len(first)
    assert paid_once(evaluator)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_patience_runs_out_once_stays_so_and_can_be_raised(schedule, tmp_path):
    path = tmp_path / "run.db"

    def search(patience):
        plan = Plan("search", "nsga2", 8, 1, 160, patience=patience, schedule=schedule)
        return driver_on(path, InTurn(Noisy())).search(plan)

    first = search(16)
    assert 16 < len(first) < 160
    assert [c.genome for c in search(16)] == [c.genome for c in first]
    more = search(100)
    assert len(more) > len(first)
    assert [c.genome for c in more[: len(first)]] == [c.genome for c in first]


@pytest.mark.parametrize("schedule", ["generational"])
def test_two_phases_that_meet_in_a_small_space(schedule, tmp_path):
    """What the search measured again, the random baseline may ask for too."""
    from search_spaces.parameter import ParameterSpace

    few = ParameterSpace(
        "task_arithmetic",
        "base",
        ["one", "two"],
        2,
        ranges={"weight": 0.5, "consensus": ["none", "sum"], "sparsify": ["none", "magnitude"]},
    )
    evaluator = Noisy()
    rules = Rules(RUNGS, again=10.0)
    driver = driver_on(tmp_path / "run.db", Clockwork(evaluator, 2), rules, searched=few)
    driver.search(Plan("search", "nsga2", 4, 0, 24, schedule=schedule))
    again = Plan("random", "random", 4, 1, 24, seeded=False, schedule=schedule)
    assert len(driver.search(again)) == 24
    assert paid_once(evaluator)


def test_rungs_are_the_positions_that_are_new():
    alike = [{"a": [0, 1], "b": [0, 1]}] * 2
    assert rungs_of(alike, {"a": 2, "b": 2}) == ((0, 1, 2, 3),), "an empty rung is none"
    chosen = [{"a": [1], "b": [0]}, {"a": [1, 0], "b": [0, 2]}]
    assert rungs_of(chosen, {"a": 2, "b": 3}) == ((1, 2), (0, 4))
    assert sorted(sum(RUNGS, ())) == list(range(len(TASKS) * ITEMS))


def test_who_is_believed_best_is_about_as_good_as_if_everything_were_answered(tmp_path):
    found: dict[str, list[float]] = {"race": [], "full": []}
    spent: Counter[str] = Counter()
    for seed in range(4):
        for name, rules in (("race", Rules(RUNGS)), ("full", Rules())):
            evaluator = Noisy()
            driver = driver_on(tmp_path / f"{name}{seed}.db", InTurn(evaluator), rules)
            asked = driver.search(Plan("search", "nsga2", 12, seed, 72, schedule="generational"))
            believed = believe(list({c.recipe_hash: c for c in asked}.values()), driver.goals)
            best = believed.candidates[int(believed.beliefs.means.mean(axis=1).argmax())]
            found[name].append(truth(driver.recipe(best)).mean())
            spent[name] += len(evaluator.engine.answered)
    assert np.mean(found["race"]) > np.mean(found["full"]) - 0.05
    assert spent["race"] < 0.4 * spent["full"]

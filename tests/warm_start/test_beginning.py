"""A search that begins with another run's candidates: which, what they cost, and that it can be resumed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from evomerge.preflight import plan_of
from evomerge.report.summary import summarise
from evomerge.runs.database import Database
from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.cmaes import Distribution
from evomerge.search.driver import problem_of
from evomerge.search.view import SilentView
from evomerge.session import resume
from evomerge.warm_start import kept
from search_spaces import InputError, from_unit
from tests.cli.test_kill import kill_at, paid
from tests.conftest import show
from tests.warm_start.runs import MODELS, TASK, WARM, RunFolderOf, candidates, prepared, run


@pytest.fixture(scope="module")
def same(other, write, folder):
    """The same search, warm."""
    return run(write("same.yaml", WARM), folder / "same")


def test_the_same_search_begins_with_the_other_s_best_and_pays_nothing_for_them(same, other):
    rows, evaluations = candidates(same)
    before = {row.recipe_hash for row in candidates(other)[0]}
    database = Database(same / "run.db")
    warm = kept(database)
    database.close()
    number = len(warm.search.genomes)
    assert number == 16
    first = rows[:number]
    assert tuple(row.genome for row in first) == warm.search.genomes
    assert {row.recipe_hash for row in first} <= before
    for row in first:
        assert (
            evaluations[row.recipe_hash].answers == 0
        )  # the other run's answers are known by content
        assert evaluations[row.recipe_hash].items == 16
    found = candidates(other)[1]
    for row in first:
        assert evaluations[row.recipe_hash].objectives == found[row.recipe_hash].objectives
    # and the search goes on from there
    assert any(evaluations[row.recipe_hash].answers for row in rows[number:])


def test_the_best_come_first(same, other):
    with RunFolderOf(other) as old:
        summary = summarise(old)
    front = {c["recipe_hash"] for c in summary["candidates"] if c["on_front"]}
    first = [row.recipe_hash for row in candidates(same)[0]]
    assert set(first[: len(front)]) == front
    values = {
        c["recipe_hash"]: sum(o["value"] for o in c["objectives"].values())
        for c in summary["candidates"]
        if c["outcome"] == "scored"
    }
    rest = [values[digest] for digest in first[len(front) : 16]]
    assert rest == sorted(rest, reverse=True)


def test_other_items_are_answered_anew(other, write, folder):
    """Scores of other items would be another scale: nothing of them is taken over."""
    changes = WARM | {"fitness.seed": 3, "search.budget.evaluations": 4}
    made = run(write("items.yaml", changes), folder / "items")
    rows, evaluations = candidates(made)
    before = candidates(other)[1]
    for row in rows:
        assert row.recipe_hash in before
        # the split is drawn anew, so some items were answered and some were not
        assert 0 < evaluations[row.recipe_hash].answers <= 16
    assert any(
        evaluations[row.recipe_hash].objectives != before[row.recipe_hash].objectives
        for row in rows
    )


def test_resumed_after_kill_9_without_the_other_run(other, write, folder):
    """What was taken over stands in the run's own folder: the other's may have gone or changed."""
    alone = folder / "alone"
    alone.mkdir()
    shutil.copytree(other, alone / "other")
    file = write("alone/run.yaml", WARM)
    undisturbed = run(file, alone / "undisturbed")
    (alone / "answers.db").unlink()
    assert len(kill_then_list(file, alone / "killed")) >= 9
    shutil.rmtree(alone / "other")
    before = paid(alone / "killed")
    resume(alone / "killed", None, SilentView())
    first, second = show(undisturbed), show(alone / "killed")
    keep = ("id", "genome", "recipe_hash", "objectives", "on_front", "selection")
    for one, two in zip(first["candidates"], second["candidates"], strict=True):
        assert [one[k] for k in keep] == [two[k] for k in keep]
    assert first["chosen"] == second["chosen"]
    assert set(before) <= set(paid(alone / "killed"))


def kill_then_list(file, folder):
    kill_at(file, folder, 9)
    return paid(folder)


def test_a_run_s_own_run_file_begins_as_that_run_began(same, other, folder, evomerge):
    """`search DIR/run.yaml`: the same run once more, warm start included, in another folder."""
    again = run(same / "run.yaml", folder / "again")
    one, two = candidates(same)[0], candidates(again)[0]
    assert [row.genome for row in two[:16]] == [row.genome for row in one[:16]]
    kept_in = [Database(path / "run.db") for path in (same, again)]
    first, second = (kept(database) for database in kept_in)
    for database in kept_in:
        database.close()
    assert second == first
    checked = evomerge("check", "--no-dry-run", same / "run.yaml")
    assert "16 candidates of" in checked.stdout


def test_without_the_other_run_it_cannot_be_begun_again(same, write, folder):
    """Only a resumed run knows by itself what it began with."""
    frozen = yaml.safe_load((same / "run.yaml").read_text())
    frozen["search"]["warm_start"]["run"] = str(folder / "gone")
    file = folder / "frozen.yaml"
    file.write_text(yaml.safe_dump(frozen))
    with pytest.raises(InputError) as refused:
        run(file, folder / "never")
    assert refused.value.where == "search.warm_start"
    assert "there is no run in" in refused.value.rule
    assert "leave warm_start out" in refused.value.remedy
    assert not (folder / "never").exists()


def test_a_run_that_is_being_driven_can_be_read(other, write):
    with RunFolderOf(other) as driven:
        driven.lock()
        assert len(prepared(write("locked.yaml", WARM)).warm.search.genomes) == 16


def test_check_prints_what_is_taken_over(other, write, evomerge):
    done = evomerge("check", "--no-dry-run", write("printed.yaml", WARM))
    assert done.returncode == 0, done.stderr
    assert "16 candidates of" in done.stdout


def test_as_many_as_the_population_has_places_for(other, write):
    # five starting points: uniform, base and three experts
    assert len(prepared(write("p.yaml", WARM | {"search.population": 9})).warm.search.genomes) == 4
    few = {"run": "other", "candidates": 3}
    assert (
        len(prepared(write("p.yaml", WARM | {"search.warm_start": few})).warm.search.genomes) == 3
    )
    free = prepared(write("p.yaml", WARM | {"search.population": None}))
    assert len(free.warm.search.genomes) == 16


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
@pytest.mark.parametrize("schedule", ["asynchronous", "generational"])
def test_every_algorithm_asks_for_them_first(algorithm, schedule, other, write):
    known = prepared(write("every.yaml", WARM | {"search.schedule": schedule}))
    plan = replace(plan_of(known, known.config.search.budget), algorithm=algorithm)
    problem = problem_of(plan, known.space, known.goals)
    searcher = build_searcher(algorithm, problem)
    asked = [from_unit(known.space, searcher.ask()) for _ in range(4)]
    assert tuple(asked) == known.warm.search.genomes[:4]


def test_cma_es_begins_at_the_best(other, write):
    known = prepared(write("cma.yaml", WARM | {"fitness.tasks": {"sums": TASK}}))
    plan = plan_of(known, known.config.search.budget)
    assert plan.algorithm == "nsga2"
    problem = problem_of(replace(plan, algorithm="cmaes"), known.space, known.goals)
    mean = Distribution(problem, 24)._strategy.mean
    assert from_unit(known.space, np.clip(mean, 0, 1)) == pytest.approx(
        known.warm.search.genomes[0]
    )
    # best in `sums`, the only objective that both runs have
    rows, evaluations = candidates(other)
    best = max(e.objectives["sums"].value for e in evaluations.values() if e.scored)
    chosen = rows[known.warm.search.ids[0]].recipe_hash
    assert evaluations[chosen].objectives["sums"].value == best


def test_the_random_baseline_is_not_warmed(other, write):
    """It would be compared with itself."""
    known = prepared(write("chance.yaml", WARM))
    plan = replace(plan_of(known, known.config.search.budget), algorithm="random", seeded=False)
    assert len(problem_of(plan, known.space, known.goals).initial) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search.warm_start": "nowhere"}, "search.warm_start: run = nowhere: there is no run in"),
        ({"space": {"kind": "path", "depth": [3, 6]}}, "a parameter space's candidates for a path"),
        ({"models.base": str(MODELS / "tovek"),
          "models.experts": {"lunari": str(MODELS / "lunari")}}, "its base is another model"),
        ({"models.experts": {"one": "CHANGED"}}, "it has no expert in common"),
        ({"search.population": 5}, "leaves warm_start no place"),
        ({"search.warm_start": {"run": "other", "candidates": 0}}, "greater than or equal to 1"),
        ({"search.warm_start": {"run": "other", "number": 3}}, "search.warm_start.number"),
        ({"space": {"rule": "ram"}}, "no searched parameter in common"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_from_is_refused(changes, said, other, write, folder):
    changed = folder / "one_bit"
    if not changed.exists():
        shutil.copytree(MODELS / "tovek", changed)
        content = bytearray((changed / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (changed / "model.safetensors").write_bytes(content)
    experts = changes.get("models.experts")
    if experts == {"one": "CHANGED"}:
        changes = changes | {"models.experts": {"one": str(changed)}}
    with pytest.raises(InputError) as refused:
        prepared(write("refused.yaml", WARM | changes))
    assert said in str(refused.value)
    assert refused.value.remedy


def test_a_run_without_a_scored_candidate_is_refused(other, write, folder):
    empty = folder / "empty"
    shutil.copytree(other, empty)
    connection = Database(empty / "run.db")
    connection._connection.execute("DELETE FROM candidates")
    connection.close()
    with pytest.raises(InputError, match="none of its candidates was scored"):
        prepared(write("empty.yaml", WARM | {"search.warm_start": "empty"}))


def test_banks_and_evaluations_do_not_ask_for_the_other_run(write, evomerge):
    """`calibrate` takes the same run file, and begins no search."""
    from evomerge.calibration import calibrate

    file = write("banks.yaml", {"search.warm_start": "nowhere", "fitness.bank": "made_banks"})
    calibrate(file, 6, [], SilentView())
    assert Path(file.parent / "made_banks").is_dir()

"""A search that begins with another run's candidates: which, what they cost, and that it can be resumed."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from evomerge.preflight import check_searcher, plan_of, prepare
from evomerge.report.summary import summarise
from evomerge.run_file import folder_of, load_run_file
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.cmaes import Distribution
from evomerge.search.driver import problem_of
from evomerge.search.view import SilentView
from evomerge.session import resume, start
from evomerge.warm_start import kept
from search_spaces import InputError, from_unit, named
from tests.cli.test_kill import kill_at, paid
from tests.conftest import QUICKSTART, show

MODELS = QUICKSTART / "models"
TASK = {"items": 8, "selection": 6, "test": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the runs: the workspace whose answers they share."""
    return tmp_path_factory.mktemp("warm")


@pytest.fixture(scope="module")
def write(folder, quickstart):
    """Write a run file into the folder; changes by dotted key, None removes one."""

    def write(name, changes=None):
        content = copy.deepcopy(quickstart)
        content["fitness"]["tasks"] = {"lunari_words": dict(TASK), "sums": dict(TASK)}
        del content["fitness"]["objectives"]
        content["search"] |= {
            "population": 12, "budget": {"evaluations": 24}, "finalists": 3, "random_baseline": False,
        }  # fmt: skip
        content["cluster"] = {"executor": "serial"}
        for key, value in (changes or {}).items():
            section = content
            *path, last = key.split(".")
            for part in path:
                section = section.setdefault(part, {})
            if value is None:
                section.pop(last, None)
            else:
                section[last] = value
        target = folder / name
        target.write_text(yaml.safe_dump(content, sort_keys=False))
        return target

    return write


def run(file, folder):
    start(file, folder, None, SilentView())
    return folder


@pytest.fixture(scope="module")
def other(write, folder):
    """The run to begin from: half the granularity, coarser than what begins from it."""
    return run(write("other.yaml"), folder / "other")


def prepared(file):
    config = load_run_file(file)
    found = prepare(config, folder_of(config, file), thorough=False)
    check_searcher(found)
    return found


def candidates(folder):
    with_closing = Database(folder / "run.db")
    rows, evaluations = with_closing.candidates("search"), with_closing.evaluations("search")
    with_closing.close()
    return list(rows.values()), evaluations


WARM = {"search.warm_start": "other", "search.population": 24}


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


class RunFolderOf:
    def __init__(self, path):
        self.run = RunFolder.open(path)

    def __enter__(self):
        return self.run

    def __exit__(self, *_):
        self.run.close()


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


def test_a_run_that_is_being_driven_can_be_read(other, write):
    with RunFolderOf(other) as driven:
        driven.lock()
        assert len(prepared(write("locked.yaml", WARM)).warm.search.genomes) == 16


def names_of(warm, space):
    return [named(space, genome) for genome in warm.search.genomes]


def test_one_expert_more_begins_at_zero_and_small_in_turn(other, write):
    """As the recipe was, or a little of the new one: the copy has other weights under another name."""
    less = write(
        "less.yaml",
        {"models.experts": {"lunari": str(MODELS / "lunari"), "abacus": str(MODELS / "abacus")}},
    )
    short = run(less, less.parent / "short")
    more = prepared(write("more.yaml", WARM | {"search.warm_start": "short"}))
    assert short.is_dir()
    weights = [{v for n, v in g.items() if ".tovek." in n} for g in names_of(more.warm, more.space)]
    assert weights == [{0.0}, {0.1}] * (len(weights) // 2) + [{0.0}] * (len(weights) % 2)
    assert ("warm start", "'tovek' is new: it begins at weight 0, or a small one") in more.facts
    for genome in more.warm.search.genomes[:1]:
        of_two = {k: v for k, v in named(more.space, genome).items() if "tovek" not in k}
        rows = candidates(short)[0]
        names = Database(short / "run.db")
        known = [dict(zip(names.meta("variables"), row.genome, strict=True)) for row in rows]
        names.close()
        assert of_two in known


def test_one_expert_less(other, write):
    experts = {"lunari": str(MODELS / "lunari"), "abacus": str(MODELS / "abacus")}
    found = prepared(write("fewer.yaml", WARM | {"models.experts": experts}))
    assert (
        "warm start",
        "that run's 'tovek' is not here: what it added is left out",
    ) in found.facts
    assert all(not any("tovek" in n for n in g) for g in names_of(found.warm, found.space))


def test_experts_are_known_by_their_weights_not_by_their_names(other, write, folder):
    """`lunari` and `tovek` change names, and `abacus` has other files than the other run's had."""
    changed = folder / "changed"
    shutil.copytree(MODELS / "abacus", changed)
    weights = changed / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    experts = {
        "tovek": str(MODELS / "lunari"),
        "ours": str(MODELS / "tovek"),
        "abacus": str(changed),
    }
    found = prepared(write("names.yaml", WARM | {"models.experts": experts}))
    facts = [value for name, value in found.facts if name == "warm start"]
    assert "'tovek' is that run's 'lunari': the same weights" in facts
    assert "'ours' is that run's 'tovek': the same weights" in facts
    other_weights = "'abacus' has other weights than that run's 'abacus': a new model"
    assert any(fact.startswith(other_weights) for fact in facts)
    database = Database(other / "run.db")
    names, rows = database.meta("variables"), database.candidates("search")
    database.close()
    for genome, number in zip(
        names_of(found.warm, found.space), found.warm.search.ids, strict=True
    ):
        before = dict(zip(names, rows[number].genome, strict=True))
        for group in ("layers_0_1.attn", "layers_2_3.mlp"):
            assert genome[f"weight.tovek.{group}"] == before[f"weight.lunari.{group}"]
            assert genome[f"weight.ours.{group}"] == before[f"weight.tovek.{group}"]
            assert genome[f"weight.abacus.{group}"] in (0.0, 0.1)


def test_an_expert_s_tokenizer_or_chat_template_does_not_make_it_another(other, write, folder):
    shutil.copytree(MODELS / "abacus", folder / "templated")
    (folder / "templated" / "chat_template.jinja").write_text("{{ messages }}")
    found = prepared(
        write("templated.yaml", WARM | {"models.experts.abacus": str(folder / "templated")})
    )
    assert not found.warm.notes


def test_a_finer_search_begins_with_the_same_models(other, write):
    found = prepared(
        write("finer.yaml", WARM | {"space.granularity": {"layers": 4, "components": "all"}})
    )
    assert len(found.warm.search.genomes) == 16
    genome = names_of(found.warm, found.space)[0]
    assert genome["weight.lunari.layer_0.attn"] == genome["weight.lunari.layer_1.attn"]


def test_values_beyond_the_range_are_counted(other, write):
    found = prepared(write("range.yaml", WARM | {"space.weight": [0, 0.5]}))
    facts = [value for name, value in found.facts if name == "warm start"]
    assert any("moved into its range" in fact for fact in facts)
    assert max(max(genome) for genome in found.warm.search.genomes) == 0.5


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


PATH = {
    "models.experts": {"lunari": str(MODELS / "lunari"), "abacus": str(MODELS / "abacus")},
    "space": {"kind": "path", "depth": [3, 6]},
    "search.population": None,
    "search.budget.evaluations": 14,
}


@pytest.fixture(scope="module")
def stacked(write, folder):
    return run(write("stacked.yaml", PATH), folder / "stacked")


def test_paths_of_more_depth_and_one_model_more(stacked, write, folder):
    changes = PATH | {
        "models.experts": {"tovek": str(MODELS / "tovek"), "abacus": str(MODELS / "abacus"),
                           "first": str(MODELS / "lunari")},
        "space": {"kind": "path", "depth": [2, 8]},
        "search.warm_start": {"run": "stacked", "candidates": 6},
        "search.population": 10,
    }  # fmt: skip
    file = write("deeper.yaml", changes)
    known = prepared(file)
    assert len(known.warm.search.genomes) == 6
    assert any("no candidate has a layer of it" in value for _, value in known.facts)
    rows, _ = candidates(run(file, folder / "deeper"))
    assert [known.space.decode(row.genome).hash for row in rows[:6]] == [
        known.space.decode(genome).hash for genome in known.warm.search.genomes
    ]
    # the rest of the generation are edits of these and of the space's own starting points
    assert len({row.recipe_hash for row in rows[:10]}) == 10


def test_paths_through_what_is_gone_are_dropped_and_counted(stacked, write):
    experts = {"lunari": str(MODELS / "lunari"), "tovek": str(MODELS / "tovek")}
    changes = PATH | {"models.experts": experts, "search.warm_start": "stacked"}
    known = prepared(write("gone.yaml", changes))
    facts = [value for name, value in known.facts if name == "warm start"]
    assert any("dropped: its stack of layers is none of the new space's" in fact for fact in facts)
    database = Database(stacked / "run.db")
    asked = len({row.recipe_hash for row in database.candidates("search").values()})
    database.close()
    taken = len(known.warm.search.genomes)
    assert 0 < taken < asked
    assert taken + sum(known.warm.search.dropped.values()) == asked


def test_both_of_two_stages(write, folder):
    two = {"kind": "path", "depth": [3, 6], "merged": {"weight": [0, 1]}}
    changes = PATH | {"space": two, "search.population": 6, "search.budget.evaluations": 16}
    run(write("two.yaml", changes), folder / "two")
    again = prepared(write("two_more.yaml", changes | {"search.warm_start": "two"}))
    assert again.warm.first.genomes
    assert again.warm.search.genomes
    assert any(name == "warm start, first stage" for name, _ in again.facts)
    done = run(folder / "two_more.yaml", folder / "two_more")
    database = Database(done / "run.db")
    first = database.candidates("merged")
    assert first[0].genome == again.warm.first.genomes[0]
    database.close()


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


def test_a_candidate_of_another_rule_is_dropped_with_the_rule_s_name(write, folder):
    rules = {"rule": ["task_arithmetic", "ties"], "weight": [0, 1.5]}
    run(write("rules.yaml", {"space": rules}), folder / "rules")
    one = {"rule": "ties", "weight": [0, 1.5]}
    known = prepared(write("one_rule.yaml", WARM | {"space": one, "search.warm_start": "rules"}))
    assert known.warm.search.dropped["method 'task_arithmetic' is not searched here"] > 0
    assert known.warm.search.genomes


def test_banks_and_evaluations_do_not_ask_for_the_other_run(write, evomerge):
    """`calibrate` takes the same run file, and begins no search."""
    from evomerge.calibration import calibrate

    file = write("banks.yaml", {"search.warm_start": "nowhere", "fitness.bank": "made_banks"})
    calibrate(file, 6, [], SilentView())
    assert Path(file.parent / "made_banks").is_dir()

"""How the budget of a search in two stages is shared, and what the first is not asked to keep."""

from dataclasses import replace
from typing import Any

import pytest

from evomerge.config import RunFile
from evomerge.config.search import Budget
from evomerge.evaluation import Evaluation, Outcome
from evomerge.run_file import parse_run_file
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from evomerge.search.plan import Plan
from evomerge.search.standing import Standing
from evomerge.two_stages import FirstStage, first_stage_of, plan_of_first, plan_of_second
from fitness.estimate import Estimate
from fitness.objectives import MODEL_COSTS
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace

SPACE = ParameterSpace("linear", "base", ["x"], 4)


def run_file(share: float = 0.25, **search: Any) -> RunFile:
    merged = {"rule": "linear", "share": share}
    return parse_run_file(
        {
            "models": {"base": "b", "experts": {"x": "x"}},
            "space": {"kind": "path", "merged": merged},
            "fitness": {
                "tasks": {"t": {}},
                "objectives": ["t", {"cost": "layers", "at_most": 3}, {"cost": "tokens"}],
                "constraints": ["t >= 0.4", "tokens <= 9"],
            },
            "search": {"seed": 3} | search,
        },
        "run.yaml",
    )


def stage_of(config: RunFile) -> FirstStage:
    names = ("t", "layers", "tokens")
    directions = ("maximize", "minimize", "minimize")
    goals = Goals(names, directions, (1.0,) * 3, tuple(config.fitness.all_constraints))
    return first_stage_of(config, SPACE, goals)


def test_the_budget_is_shared_and_what_is_added_later_is_the_second_stage_s() -> None:
    budget = {"evaluations": 200, "hours": 8.0, "answers": 1000, "patience": 50}
    config = run_file(budget=budget)
    stage = stage_of(config)
    first = plan_of_first(config, stage)
    assert (first.phase, first.evaluations, first.hours, first.answers, first.patience) == (
        "merged", 50, 2.0, 250, 50,
    )  # fmt: skip
    whole = Plan("search", "nsga2", None, 3, 200, 8.0, 1000, 50)
    second = plan_of_second(whole, stage)
    assert (second.evaluations, second.hours, second.answers) == (150, 6.0, 750)
    assert plan_of_second(replace(whole, evaluations=260), stage).evaluations == 210
    unbounded = stage_of(run_file())
    assert plan_of_first(run_file(), unbounded).hours is None
    assert plan_of_second(Plan("search", "nsga2", None, 3, 200), unbounded).answers is None


def test_of_a_limit_that_came_later_the_second_stage_gets_what_the_first_has_left() -> None:
    """The first had no such limit: it took what it wanted."""
    stage = stage_of(run_file(budget={"evaluations": 200, "answers": 1000}))
    whole = Plan("search", "nsga2", None, 3, 200, 8.0, 1200, None, tokens=5000)
    begun = Budget(evaluations=200, answers=1000)
    taken = {"evaluations": 50, "hours": 7.5, "answers": 260, "tokens": 400}
    second = plan_of_second(whole, stage, begun, taken)
    # a limit that it was begun with is shared as it was begun
    assert (second.hours, second.answers, second.tokens) == (0.5, 950, 4600)
    over = taken | {"hours": 9.0, "tokens": 6000}
    second = plan_of_second(whole, stage, begun, over)
    assert (second.hours, second.tokens) == (0.0, 1)


def test_a_merge_is_not_asked_to_have_fewer_layers_than_its_sources() -> None:
    """Every candidate of the first stage is as deep as the sources: no bound on that can be kept."""
    kept = {bound.objective for bound in stage_of(run_file()).goals.constraints}
    assert kept == {"t", "tokens"}


def alone(*objectives: Any, pick: str = "knee", **search: Any) -> FirstStage:
    """The first stage of a run with these objectives, of which `t` is the one that merging moves."""
    content = run_file(**search).model_dump(mode="json", exclude_unset=True)
    content["fitness"] = {"tasks": {"t": {}}, "objectives": list(objectives)}
    content["export"] = {"pick": pick}
    config = parse_run_file(content, "run.yaml")
    labels = tuple(o.label for o in config.fitness.all_objectives)
    directions = tuple("maximize" if label == "t" else "minimize" for label in labels)
    weights = tuple(float(2 + row) for row in range(len(labels)))
    return first_stage_of(config, SPACE, Goals(labels, directions, weights))  # type: ignore[arg-type]


def test_costs_that_no_merge_changes_are_no_goals_of_the_first_stage() -> None:
    """A front along a constant has no volume: nothing was a gain, and `patience` ended the stage."""
    costs = [{"cost": name} for name in MODEL_COSTS]
    stage = alone(*costs[:2], "t", *costs[2:], pick="best:layers")
    assert (stage.goals.names, stage.goals.directions) == (("t",), ("maximize",))
    assert stage.goals.weights == (4.0,)
    assert (stage.algorithm, stage.pick) == ("cmaes", "knee")
    standing, volumes = Standing(stage.goals), list[float]()
    for number in range(3):
        measured = {"t": Estimate(0.2 + 0.2 * number, 0.0), "layers": Estimate(4.0, 0.0)}
        scored = Evaluation(outcome=Outcome.SCORED, objectives=measured)
        standing.add([Candidate(number, (0.5,), f"h{number}", scored)])
        volumes.append(standing.hypervolume())
    assert volumes == sorted(set(volumes)), "each candidate is a gain"


def test_what_is_left_decides_how_the_first_stage_searches_and_picks() -> None:
    lengths = {"cost": "tokens"}
    kept = alone("t", lengths, {"cost": "layers"}, pick="best:tokens")
    assert (kept.goals.names, kept.algorithm, kept.pick) == (
        ("t", "tokens"), "nsga2", "best:tokens",
    )  # fmt: skip
    assert alone("t", lengths, {"cost": "layers"}, algorithm="nsga3").algorithm == "nsga3"
    assert alone("t", {"cost": "layers"}, algorithm="nsga3").algorithm == "cmaes"
    assert alone({"cost": "kv_bytes"}, {"cost": "layers"}).goals.names == ("kv_bytes",)


def test_algorithms_by_stage() -> None:
    assert stage_of(run_file()).algorithm == "nsga2"
    assert stage_of(run_file(algorithm="random")).algorithm == "random"


@pytest.mark.parametrize(("share", "evaluations"), [(0.001, 100), (0.99, 20), (0.5, 1)])
def test_both_stages_have_something_to_spend(share: float, evaluations: int) -> None:
    with pytest.raises(InputError, match="both stages evaluate candidates"):
        stage_of(run_file(share, budget={"evaluations": evaluations}))

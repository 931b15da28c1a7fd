"""A search in two stages: parameters first, then a stack whose layers may come from that winner.

Akiba et al. 2024 (Evolutionary Optimization of Model Merging Recipes) found their best models so: what
merging weights finds is one more model in the pool of the data flow search.
"""

from dataclasses import dataclass, replace

from evomerge.config import RunFile
from evomerge.config.space import merged_of
from evomerge.search.algorithms import default_algorithm
from evomerge.search.goals import Goals
from evomerge.search.plan import Plan
from evomerge.spaces import MERGED
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace

FIRST_PHASE = MERGED
"""The first stage's phase in run.db."""

FIRST_CHANCE = "merged_random"
"""That of the random baseline, which has two stages as well."""

_BY_DEPTH = ("layers", "parameters", "kv_bytes", "tokens_per_second")
"""Costs that are (nearly) the same for all merges of one depth."""


@dataclass(frozen=True)
class FirstStage:
    """What is searched first.

    Attributes:
        space: its parameters.
        goals: without bounds on costs that no merge can change.
        algorithm: the search algorithm's name.
        evaluations: candidates; a budget that is raised later is all the second stage's.
        share: of the hours and answers, where they are bounded, in (0, 1).
    """

    space: ParameterSpace
    goals: Goals
    algorithm: str
    evaluations: int
    share: float


def first_stage_of(config: RunFile, space: ParameterSpace, goals: Goals) -> FirstStage:
    """The first stage as the run file wants it.

    Raises:
        InputError: a budget that leaves one of the stages nothing.
    """
    section = merged_of(config.space)
    assert section is not None
    budget = config.search.budget.evaluations
    evaluations = round(section.share * budget)
    if not 0 < evaluations < budget:
        raise InputError(
            f"merged.share {section.share:g} of {budget} evaluations",
            "both stages evaluate candidates",
            "space.merged.share",
            "give another share, or a larger budget",
        )
    fixed = {o.label for o in config.fitness.all_objectives if o.cost in _BY_DEPTH}
    kept = tuple(bound for bound in goals.constraints if bound.objective not in fixed)
    objectives = len(config.fitness.all_objectives)
    algorithm = config.search.algorithm or default_algorithm(objectives, section.chooses)
    return FirstStage(
        space, replace(goals, constraints=kept), algorithm, evaluations, section.share
    )


def plan_of_first(config: RunFile, stage: FirstStage) -> Plan:
    """How the first stage is searched."""
    search, share = config.search, stage.share
    return Plan(
        FIRST_PHASE,
        stage.algorithm,
        search.population,
        search.seed,
        stage.evaluations,
        search.budget.hours and search.budget.hours * share,
        search.budget.answers and max(1, round(search.budget.answers * share)),
        search.budget.patience,
        schedule=search.schedule,
    )


def plan_of_second(whole: Plan, stage: FirstStage) -> Plan:
    """How the second stage is searched: what the first leaves of the `whole` budget."""
    rest = 1 - stage.share
    return replace(
        whole,
        evaluations=whole.evaluations - stage.evaluations,
        hours=whole.hours and whole.hours * rest,
        answers=whole.answers and max(1, round(whole.answers * rest)),
    )

"""A search in two stages: parameters first, then a stack whose layers may come from that winner.

Akiba et al. 2024 (Evolutionary Optimization of Model Merging Recipes) found their best models so: what
merging weights finds is one more model in the pool of the data flow search.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from evomerge.config import RunFile
from evomerge.config.search import Budget
from evomerge.config.space import merged_of
from evomerge.search.algorithms import ALGORITHMS, default_algorithm
from evomerge.search.goals import Goals
from evomerge.search.picks import without
from evomerge.search.plan import Plan
from evomerge.spaces import MERGED
from fitness.objectives import MODEL_COSTS
from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace

FIRST_PHASE = MERGED
"""The first stage's phase in run.db."""

FIRST_CHANCE = "merged_random"
"""That of the random baseline, which has two stages as well."""


@dataclass(frozen=True)
class FirstStage:
    """What is searched first.

    Attributes:
        space: its parameters.
        goals: without costs that no merge can change, and bounds on them.
        algorithm: the search algorithm's name.
        pick: how its winner is picked (see `evomerge.search.choice.pick`).
        evaluations: candidates; a budget that is raised later is all the second stage's.
        share: of the hours, answers and tokens, where they are bounded, in (0, 1).
    """

    space: ParameterSpace
    goals: Goals
    algorithm: str
    pick: str
    evaluations: int
    share: float


def first_stage_of(config: RunFile, space: ParameterSpace, goals: Goals) -> FirstStage:
    """The first stage as the run file wants it.

    Raises:
        InputError: a budget that leaves one of the stages nothing.
    """
    section = merged_of(config.space)
    assert section is not None
    budget, evaluations = config.search.budget.evaluations, first_evaluations(config)
    if not 0 < evaluations < budget:
        raise InputError(
            f"merged.share {section.share:g} of {budget} evaluations",
            "both stages evaluate candidates",
            "space.merged.share",
            "give another share, or a larger budget",
        )
    fixed = {o.label for o in config.fitness.all_objectives if o.cost in MODEL_COSTS}
    own = _without(goals, fixed)
    count, algorithm = len(own.names), config.search.algorithm
    if algorithm is None or (count == 1 and ALGORITHMS[algorithm].objectives == "many"):
        algorithm = default_algorithm(count, section.chooses)
    pick = without(config.export.pick, own.names)
    return FirstStage(space, own, algorithm, pick, evaluations, section.share)


def first_evaluations(config: RunFile) -> int:
    """The first stage's candidates; 0: there is none."""
    section = merged_of(config.space)
    return round(section.share * config.search.budget.evaluations) if section else 0


def _without(goals: Goals, fixed: Collection[str]) -> Goals:
    """The goals without what is (nearly) the same for all merges of one depth.

    A front along such an objective has no volume, so that nothing would ever count as a gain. Where
    every objective is fixed, the first stays.
    """
    kept = [row for row, name in enumerate(goals.names) if name not in fixed] or [0]
    return Goals(
        names=tuple(goals.names[row] for row in kept),
        directions=tuple(goals.directions[row] for row in kept),
        weights=tuple(goals.weights[row] for row in kept),
        constraints=tuple(bound for bound in goals.constraints if bound.objective not in fixed),
        scores=tuple(name for name in goals.scores if name not in fixed),
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
        tokens=search.budget.tokens and max(1, round(search.budget.tokens * share)),
    )


def plan_of_second(
    whole: Plan,
    stage: FirstStage,
    begun: Budget | None = None,
    taken: Mapping[str, float] | None = None,
) -> Plan:
    """How the second stage is searched: what the first leaves of the `whole` budget.

    Where the first was begun with a limit, that is what it takes. Where it was not, and there is one
    now, it had taken what it wanted: as much as it is known to have spent, else its share.

    Args:
        whole: the search, over the budget as raised since.
        stage: the first, which stays what it was begun as.
        begun: the budget that the run began with; None: it was not raised.
        taken: what the first has spent by kind of limit (`hours`, `answers`, `tokens`), if it has ended.
    """
    then, spent = (begun or Budget()).model_dump(), taken or {}

    def rest(kind: str, now: float | None) -> float | None:
        if now is None:
            return None
        first = stage.share * then[kind] if then[kind] else spent.get(kind, stage.share * now)
        return max(0.0, now - first)

    def some(kind: str, now: int | None) -> int | None:
        left = rest(kind, now)
        return None if left is None else max(1, round(left))

    return replace(
        whole,
        evaluations=whole.evaluations - stage.evaluations,
        hours=rest("hours", whole.hours),
        answers=some("answers", whole.answers),
        tokens=some("tokens", whole.tokens),
    )

"""The driver: ask, evaluate, tell; then choose on items the search never saw.

A deterministic program over memoised evaluations. Run from the start again, with a run.db that holds
part of them, it asks the same candidates in the same order and pays only for what is missing: that is
how a run is resumed (`runs/ledger.py`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.asynchronous import Asynchronous
from evomerge.search.beliefs import believe
from evomerge.search.candidate import Candidate
from evomerge.search.edits import filled_up
from evomerge.search.generational import by_generations
from evomerge.search.goals import Goals
from evomerge.search.plan import Clock, Phase, Plan
from evomerge.search.race import Race, Rules
from evomerge.search.searcher import Array, Problem
from evomerge.search.standing import archive_of
from evomerge.search.view import View
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, from_unit, to_unit
from search_spaces.transfer import point_of
from search_spaces.variables import Genome, Integer, Variable, levels


class Driver:
    """Runs phases of a search.

    Args:
        space: decodes genomes.
        goals: what is optimised.
        ledger: evaluates and records.
        database: for the clock of the `hours` budget.
        view: shows what is going on.
        rules: what candidates are asked; None: everything.
    """

    def __init__(
        self,
        space: SearchSpace,
        goals: Goals,
        ledger: Ledger,
        database: Database,
        view: View,
        rules: Rules | None = None,
    ) -> None:
        self.space = space
        self.goals = goals
        self.ledger = ledger
        self._database = database
        self.view = view
        self.rules = rules or Rules()

    def search(self, plan: Plan) -> list[Candidate]:
        """Ask, evaluate, tell until the budget is spent; every candidate asked, in order."""
        single = ALGORITHMS[plan.algorithm].objectives == "one"
        searcher = build_searcher(plan.algorithm, problem_of(plan, self.space, self.goals))
        clock = Clock(self._database, plan, len(self._database.candidates(plan.phase)))
        phase = Phase(
            plan,
            searcher,
            self.space,
            self.goals,
            self.ledger,
            clock,
            self.view,
            Race(self.rules, self.goals, self.recipe),
            single,
        )
        self.view.begin(plan.phase, plan.evaluations)
        generational = plan.schedule == "generational"
        try:
            found = by_generations(phase) if generational else Asynchronous(phase).run()
        except KeyboardInterrupt:
            clock.pause()
            raise
        clock.close(len(found))
        return found

    def recipe(self, candidate: Candidate) -> Recipe:
        """The recipe of a candidate."""
        return self.space.decode(candidate.genome)


def problem_of(plan: Plan, space: SearchSpace, goals: Goals) -> Problem:
    """What a plan's searcher is built from.

    A seeded search begins with what is known of another run and then the space's seeds; in a fragile
    space with the first of them that its population has places for, the rest of which are small
    edits of these.

    Raises:
        InputError: the population is too small.
    """
    algorithm = ALGORITHMS[plan.algorithm]
    variables = len(space.variables)
    points = starting_points(space, plan.known if plan.seeded else ())
    seeds = np.array(points).reshape(len(points), variables)
    problem = Problem(
        variables=variables,
        objectives=1 if algorithm.objectives == "one" else len(goals.names),
        constraints=len(goals.constraints),
        seed=plan.seed,
        levels=tuple(levels(variable) for variable in space.variables),
        steady=plan.schedule == "asynchronous",
        cells=tuple(cells(variable) for variable in space.variables),
        slots=space.slots,
        conditions=space.conditions,
        origins=seeds if space.fragile else seeds[:0],
    )
    if plan.seeded and len(problem.origins):
        default = max(algorithm.default_population(variables), len(problem.origins))
        seeds = filled_up(
            problem,
            plan.population or default,
            lambda point: space.decode(from_unit(space, point)).hash,
        )
    initial = seeds if plan.seeded else seeds[:0]
    return replace(problem, population=plan.population, initial=initial)


def starting_points(space: SearchSpace, known: Sequence[Genome]) -> list[Array]:
    """Points [variables] of the unit cube: the known genomes, then the seeds that are none of them."""
    points = [point_of(space, genome) for genome in known]
    hashes = {space.decode(genome).hash for genome in known}
    for genome in space.seeds().values():
        point = to_unit(space, genome)
        if not hashes or space.decode(from_unit(space, point)).hash not in hashes:
            points.append(point)
    return points


def cells(variable: Variable) -> int:
    """How many whole numbers in order it has; 0: it is no whole number."""
    return variable.high - variable.low + 1 if isinstance(variable, Integer) else 0


def finalists(
    candidates: Sequence[Candidate], goals: Goals, count: int, *, racing: bool = False
) -> list[Candidate]:
    """The candidates worth a second look on other items.

    The front of the search's estimates first (if it is larger than `count`: the best of each
    objective and then the highest mean gain), filled up with the next best, because the luckiest
    score is not the best candidate. Failed and infeasible ones never.

    Args:
        candidates: of a phase.
        goals: what is optimised.
        count: how many at most.
        racing: they answered unlike numbers of items, so that scores are not to be compared as they
            are: those most likely to be on the front.

    Returns:
        In the order of ask; distinct recipes.
    """
    by_hash: dict[str, Candidate] = {}
    for candidate in candidates:
        if goals.feasible(candidate.evaluation):
            by_hash.setdefault(candidate.recipe_hash, candidate)
    pool = list(by_hash.values())
    if len(pool) <= count:
        return pool
    spread = goals.spread([c.evaluation for c in pool])
    merit = {c.id: goals.merit(c.evaluation, spread) for c in pool}
    if racing:
        return _likeliest(pool, goals, count)
    on_front = [by_hash[member.key] for member in archive_of(pool, goals).front()]
    best = [
        max(on_front, key=lambda c: goals.gains(c.evaluation)[k]) for k in range(len(goals.names))
    ]
    ranked = sorted(on_front, key=lambda c: -merit[c.id])
    rest = sorted(pool, key=lambda c: -merit[c.id])
    chosen = list({c.id: c for c in [*best, *ranked, *rest]}.values())[:count]
    return sorted(chosen, key=lambda c: c.id)


def _likeliest(pool: Sequence[Candidate], goals: Goals, count: int) -> list[Candidate]:
    """By their chance to be on the front, and then by what they are believed to be worth."""
    believed = believe(pool, goals)
    means = believed.beliefs.means
    width = np.ptp(means, axis=0)
    merit = (means / np.where(width > 0, width, 1.0)) @ np.array(goals.weights)
    order = np.lexsort((-merit, -believed.chances()))[:count]
    return [pool[row] for row in sorted(order)]

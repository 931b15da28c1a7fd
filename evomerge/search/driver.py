"""The driver: ask, evaluate, tell; then choose on items the search never saw.

A deterministic program over memoised evaluations. Run from the start again, with a run.db that holds
part of them, it asks the same candidates in the same order and pays only for what is missing: that is
how a run is resumed (`runs/ledger.py`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.runs.database import CandidateRow, Database
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.search.algorithms import ALGORITHMS, build_searcher
from evomerge.search.goals import Goals
from evomerge.search.searcher import Problem
from evomerge.search.standing import Candidate, Standing, archive_of
from evomerge.search.view import View
from search_spaces.recipe import Recipe
from search_spaces.space import SearchSpace, from_unit, to_unit


@dataclass(frozen=True)
class Plan:
    """What one phase of searching does.

    Attributes:
        phase: `search`, or `random` for the baseline.
        algorithm: a name in `ALGORITHMS`.
        population: candidates per generation; None: the algorithm's default.
        seed: of the searcher.
        evaluations: how many candidates are asked at most.
        hours: of searching, earlier sessions included; None: no limit.
        seeded: begin with the space's known good starting points.
    """

    phase: str
    algorithm: str
    population: int | None
    seed: int
    evaluations: int
    hours: float | None = None
    seeded: bool = True


class Driver:
    """Runs phases of a search.

    Args:
        space: decodes genomes.
        goals: what is optimised.
        ledger: evaluates and records.
        database: for the clock of the `hours` budget.
        view: shows what is going on.
    """

    def __init__(
        self, space: SearchSpace, goals: Goals, ledger: Ledger, database: Database, view: View
    ) -> None:
        self.space = space
        self.goals = goals
        self.ledger = ledger
        self._database = database
        self.view = view

    def search(self, plan: Plan) -> list[Candidate]:
        """Ask, evaluate, tell until the budget is spent; every candidate asked, in order.

        A generation that the budget cuts short is evaluated but not told, so that a larger budget
        continues exactly where this one stopped.
        """
        single = ALGORITHMS[plan.algorithm].objectives == "one"
        searcher = build_searcher(plan.algorithm, self._problem(plan, single))
        clock = Clock(self._database, plan, len(self._database.candidates(plan.phase)))
        standing = Standing(self.goals)
        candidates: list[Candidate] = []
        generation = 0
        self.view.begin(plan.phase, plan.evaluations)
        while len(candidates) < plan.evaluations and not clock.over(len(candidates)):
            points = searcher.ask()
            affordable = points[: plan.evaluations - len(candidates)]
            batch = self._evaluate(plan.phase, generation, len(candidates), affordable)
            candidates += batch
            evaluations = [c.evaluation for c in batch]
            standing.add(batch)
            self.view.generation(plan.phase, generation, len(candidates), standing)
            if len(batch) == len(points):
                searcher.tell(
                    self.goals.losses(evaluations, single=single),
                    self.goals.violations(evaluations),
                )
            generation += 1
        return candidates

    def recipe(self, candidate: Candidate) -> Recipe:
        """The recipe of a candidate."""
        return self.space.decode(candidate.genome)

    def _problem(self, plan: Plan, single: bool) -> Problem:
        known = self.space.seeds().values() if plan.seeded else ()
        seeds = [to_unit(self.space, genome) for genome in known]
        variables = len(self.space.variables)
        return Problem(
            variables=variables,
            objectives=1 if single else len(self.goals.names),
            constraints=len(self.goals.constraints),
            population=plan.population,
            seed=plan.seed,
            initial=np.array(seeds).reshape(len(seeds), variables),
        )

    def _evaluate(
        self, phase: str, generation: int, first: int, points: np.ndarray
    ) -> list[Candidate]:
        found: dict[int, Candidate] = {}
        wanted: list[Wanted] = []
        rows: list[CandidateRow] = []
        for number, point in enumerate(points, start=first):
            genome = from_unit(self.space, point)
            # decoding is the dear part of a replay; the first generation is decoded all the same,
            # so that a space that decodes otherwise than it used to is noticed
            known = self.ledger.recall(phase, number, genome) if generation else None
            if known is not None:
                found[number] = Candidate(number, genome, *known)
                continue
            recipe = self.space.decode(genome)
            row = CandidateRow(phase, number, generation, genome, recipe.hash, cached=False)
            rows.append(row)
            wanted.append(Wanted(recipe, row))
        evaluations = self.ledger.evaluate(wanted, "search")
        for row, evaluation in zip(rows, evaluations, strict=True):
            found[row.id] = Candidate(row.id, row.genome, row.recipe_hash, evaluation)
        return [found[number] for number in sorted(found)]


class Clock:
    """The `hours` budget: counts searching time over all sessions, replays not included.

    Time is not reproducible, so the moment it ran out is written down and replayed.

    Args:
        database: holds the time spent.
        plan: the phase and its hours.
        recorded: candidates of the phase that earlier sessions recorded.
    """

    def __init__(self, database: Database, plan: Plan, recorded: int) -> None:
        self._database = database
        self._hours = plan.hours
        self._recorded = recorded
        self._key = f"hours_over_{plan.phase}"
        self._spent_key = f"hours_spent_{plan.phase}"
        self._before: float = database.meta(self._spent_key, 0.0) if plan.hours else 0.0
        self._began = None if recorded else time.monotonic()  # a replay does not count

    def over(self, asked: int) -> bool:
        """Whether to stop before asking more than the `asked` candidates so far."""
        if self._hours is None or asked == 0:
            return False
        ended = self._database.meta(self._key)
        if ended is not None and ended["hours"] == self._hours:
            return asked >= ended["asked"]
        if asked < self._recorded:
            return False  # paid for already
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        spent = self._before + (now - self._began) / 3600
        self._database.set_meta(self._spent_key, spent)
        if spent < self._hours:
            return False
        self._database.set_meta(self._key, {"hours": self._hours, "asked": asked})
        return True


def finalists(candidates: Sequence[Candidate], goals: Goals, count: int) -> list[Candidate]:
    """The candidates worth a second look on other items.

    The front of the search's estimates first (if it is larger than `count`: the best of each
    objective and then the highest mean gain), filled up with the next best, because the luckiest
    score is not the best candidate. Failed and infeasible ones never.

    Args:
        candidates: of a phase.
        goals: what is optimised.
        count: how many at most.

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
    on_front = [by_hash[member.key] for member in archive_of(pool, goals).front()]
    best = [
        max(on_front, key=lambda c: goals.gains(c.evaluation)[k]) for k in range(len(goals.names))
    ]
    ranked = sorted(on_front, key=lambda c: -merit[c.id])
    rest = sorted(pool, key=lambda c: -merit[c.id])
    chosen = list({c.id: c for c in [*best, *ranked, *rest]}.values())[:count]
    return sorted(chosen, key=lambda c: c.id)

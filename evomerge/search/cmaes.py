"""CMA-ES on the `cma` package: a normal distribution that moves and reshapes to what won.

Hansen 2016, The CMA Evolution Strategy: A Tutorial. It learns from the order of a generation and
from nothing else, so feasibility and ties are expressed as order too: feasible candidates by loss,
then infeasible ones by their summed violation (Deb 2000, An Efficient Constraint Handling Method
for Genetic Algorithms; no penalty weight to tune), then failed ones. Choices and whole numbers are
cells of [0, 1], which the distribution covers as it covers numbers.
"""

from typing import Any

import cma
import numpy as np
from cma.boundary_handler import BoundTransform
from cma.sigma_adaptation import CMAAdaptSigmaCSA

from evomerge.search.edits import random_points
from evomerge.search.pending import Pending, distinct
from evomerge.search.searcher import Array, Problem

_SIGMA = 1 / 6
"""First standard deviation: three of them reach from the middle of the unit cube to its faces."""

_RECENT = 2
"""Updates after which a result still counts towards the next one, where nothing waits."""

_OPTIONS = {
    "bounds": [0.0, 1.0],
    "BoundaryHandler": BoundTransform,
    "AdaptSigma": CMAAdaptSigmaCSA,
    # Mirrored samples (populations below 6) belong to one ask of a whole generation.
    "CMA_mirrors": 0,
    # Converged for a merge: parameters that differ by less give the same answers.
    "tolx": 1e-6,
    # A generation's order has no scale to converge in; a long plateau is worth leaving.
    "tolfun": 0,
    "tolfunhist": 0,
    "tolstagnation": 10**9,
    "tolflatfitness": 20,
    # -10 also stops it from reading a file of options in the working directory.
    "verbose": -10,
    "verb_log": 0,
    "verb_disp": 0,
    # nan: leave NumPy's global generator alone; ours comes in as `randn`.
    "seed": np.nan,
}


class Distribution:
    """`cma.CMAEvolutionStrategy` in the unit cube, restarted at a random point once it converged.

    The first mean is the first initial point, or the middle of the cube.
    """

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self.generator = np.random.default_rng(problem.seed)
        # `cma` needs two variables; a second one that nothing depends on does no harm.
        self.dimensions = max(2, problem.variables)
        known = problem.initial
        self._strategy: Any = self._started(
            known[0] if len(known) else np.full(problem.variables, 0.5)
        )
        self.restarts = self.updates = 0
        self._ready: list[Array] = []

    @property
    def selected(self) -> int:
        """How many of a generation it learns from."""
        return self._strategy.sp.weights.mu

    def sample(self, number: int) -> Array:
        """[number, dimensions]: points of the distribution as it is now."""
        return np.clip(np.stack(self._strategy.ask(number)), 0.0, 1.0)

    def next(self) -> Array:
        """[dimensions]: a point of the distribution as it is now.

        Sampled a generation at a time, because `cma` mixes directions of its own into the first one
        after an update, and wants at least one asked before the next.
        """
        if not self._ready:
            self._ready = list(self.sample(self._population))
        return self._ready.pop(0)

    def learn(self, points: Array, places: Array, old: list[int]) -> None:
        """Move to the points [population, dimensions] of lowest places [population].

        Args:
            points: what was sampled, or injected from outside (Hansen 2011, Injecting External
                Solutions Into CMA-ES).
            places: 0 the best.
            old: rows of `points` that the distribution had been updated after: steps too long for
                it are shortened, as if they had been injected.
        """
        self._strategy.tell(list(points), places.astype(float).tolist(), check_points=old or None)
        self._ready.clear()
        self.updates += 1
        if self._strategy.stop():
            self._strategy = self._started(random_points(self._problem, self.generator, 1)[0])
            self.restarts += 1

    def _started(self, mean: Array) -> cma.CMAEvolutionStrategy:
        padded = np.full(self.dimensions, 0.5)
        padded[: len(mean)] = mean
        options = {**_OPTIONS, "popsize": self._population, "randn": self._normal}
        return cma.CMAEvolutionStrategy(padded, _SIGMA, options)

    def _normal(self, *shape: int) -> Array:
        return self.generator.standard_normal(shape)


class CMAESGenerations:
    """Generations of CMA-ES.

    The initial points replace the first rows of the first generation. If so many candidates of a
    generation failed that failed ones would be selected, the next `ask` replaces those only, until
    enough succeeded.
    """

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self._distribution = Distribution(problem, population)
        self._sample = self._distribution.sample(population)
        self._sample[: len(problem.initial), : problem.variables] = problem.initial
        self._begin()

    def ask(self) -> Array:
        """[batch, variables]: a sample of the distribution, or replacements for what failed."""
        points = self._sample[:, : self._problem.variables]
        points[:] = distinct(points, self._problem, self._distribution.generator)
        return points[self._missing]

    def tell(self, losses: Array, violations: Array) -> None:
        """Move the distribution, once more candidates succeeded than it selects."""
        self._losses[self._missing] = losses[:, 0]
        self._violations[self._missing] = violations.sum(axis=1)
        failed = np.isnan(self._losses)
        if self._population - failed.sum() < self._distribution.selected:
            self._missing = failed
            self._sample[failed] = self._distribution.sample(int(failed.sum()))
            return
        self._distribution.learn(self._sample, ranks(self._losses, self._violations), [])
        self._sample = self._distribution.sample(self._population)
        self._begin()

    def _begin(self) -> None:
        self._losses = np.full(self._population, np.nan)
        self._violations = np.zeros(self._population)
        self._missing = np.ones(self._population, dtype=bool)


class SteadyCMAES:
    """CMA-ES without a barrier: asks sample the distribution as it is, tells are counted in batches.

    Results are collected in the order in which they come. When `population` of them are recent (asked
    at most two updates ago) the best `population` of all that were collected, late ones included, are
    the next generation. With no more points pending than the population that is every `population`
    results. With many more, results of one distribution would make generation after generation: they
    pull its mean to and fro and its step size to nothing (64 pending at a population of 8 ended at
    2e-3 where this ends at 5e-7).

    What was asked before a restart is not learned from after it, and failed candidates not at all.
    """

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self._distribution = Distribution(problem, population)
        self._pending: Pending[tuple[Array, int, int]] = Pending(
            problem, self._distribution.generator
        )
        self._known = list(problem.initial)
        self._batch: list[tuple[Array, float, float, int]] = []

    @property
    def batch(self) -> int:
        """The population."""
        return self._population

    def ask(self) -> Array:
        """[variables]: a point of the distribution."""
        return self._pending.ask(self._draw)

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Count the result, if it is not a failed one; the last of a batch moves the distribution."""
        point, (padded, restarts, updates) = self._pending.tell(number)
        if np.isnan(losses).any() or restarts != self._distribution.restarts:
            return
        padded[: self._problem.variables] = point
        self._batch.append((padded, float(losses[0]), float(violations.sum()), updates))
        now = self._distribution.updates
        if sum(asked >= now - _RECENT for *_, asked in self._batch) == self._population:
            self._learn()

    def _learn(self) -> None:
        points, losses, violations, asked = map(np.array, zip(*self._batch, strict=True))
        self._batch.clear()
        places = ranks(losses, violations)
        best = np.sort(np.argsort(places, kind="stable")[: self._population])
        late = np.flatnonzero(asked[best] < self._distribution.updates)
        if len(late) == len(best):
            self._distribution.next()  # `cma` wants an ask between two tells
        self._distribution.learn(points[best], places[best], late.tolist())

    def _draw(self) -> tuple[Array, tuple[Array, int, int]]:
        padded = self._distribution.next()
        if self._known:
            padded[: self._problem.variables] = self._known.pop(0)
        state = self._distribution.restarts, self._distribution.updates
        return padded[: self._problem.variables].copy(), (padded, *state)


def ranks(losses: Array, violations: Array) -> np.ndarray:
    """Places of one generation's candidates, [batch], 0 the best, equal ones sharing a place.

    Args:
        losses: [batch], nan where failed.
        violations: [batch], 0 where feasible, summed over constraints; ignored where failed.
    """
    failed = np.isnan(losses)
    violation = np.where(failed, np.inf, violations)
    loss = np.where(violation > 0, 0.0, losses)
    _, places = np.unique(np.stack([violation, loss], axis=1), axis=0, return_inverse=True)
    return places.reshape(-1)

"""CMA-ES on the `cma` package: a normal distribution that moves and reshapes to what won.

Hansen 2016, The CMA Evolution Strategy: A Tutorial. It learns from the order of a generation and
from nothing else, so feasibility and ties are expressed as order too: feasible candidates by loss,
then infeasible ones by their summed violation (Deb 2000, An Efficient Constraint Handling Method
for Genetic Algorithms; no penalty weight to tune), then failed ones.
"""

from typing import Any

import cma
import numpy as np
from cma.boundary_handler import BoundTransform
from cma.sigma_adaptation import CMAAdaptSigmaCSA

from evomerge.search.searcher import Array, Problem

_SIGMA = 1 / 6
"""First standard deviation: three of them reach from the middle of the unit cube to its faces."""

_OPTIONS = {
    "bounds": [0.0, 1.0],
    "BoundaryHandler": BoundTransform,
    "AdaptSigma": CMAAdaptSigmaCSA,
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


class CMAES:
    """`cma.CMAEvolutionStrategy` in the unit cube, restarted at a random point once it converged.

    The first mean is the first initial point (the middle if there is none); the initial points
    replace the first rows of the first generation, as solutions injected from outside (Hansen 2011,
    Injecting External Solutions Into CMA-ES). If so many candidates of a generation failed that
    failed ones would be selected, the next `ask` replaces those only, until enough succeeded.
    """

    def __init__(self, problem: Problem, population: int) -> None:
        self._problem, self._population = problem, population
        self._generator = np.random.default_rng(problem.seed)
        # `cma` needs two variables; a second one that nothing depends on does no harm.
        self._dimensions = max(2, problem.variables)
        known = problem.initial
        mean = known[0] if len(known) else np.full(problem.variables, 0.5)
        self._strategy: Any = self._started(mean)
        self._sample = self._sampled(population)
        self._sample[: len(known), : problem.variables] = known
        self._losses = np.full(population, np.nan)
        self._violations = np.zeros(population)
        self._missing = np.ones(population, dtype=bool)

    def ask(self) -> Array:
        """[batch, variables]: a sample of the distribution, or replacements for what failed."""
        return self._sample[self._missing, : self._problem.variables]

    def tell(self, losses: Array, violations: Array) -> None:
        """Move the distribution, once more candidates succeeded than it selects."""
        self._losses[self._missing] = losses[:, 0]
        self._violations[self._missing] = violations.sum(axis=1)
        failed = np.isnan(self._losses)
        if self._population - failed.sum() < self._strategy.sp.weights.mu:
            self._missing = failed
            self._sample[failed] = self._sampled(int(failed.sum()))
            return
        order = ranks(self._losses, self._violations)
        self._strategy.tell(list(self._sample), order.astype(float).tolist())
        if self._strategy.stop():
            self._strategy = self._started(self._generator.random(self._problem.variables))
        self._sample = self._sampled(self._population)
        self._missing = np.ones(self._population, dtype=bool)

    def _started(self, mean: Array) -> cma.CMAEvolutionStrategy:
        padded = np.full(self._dimensions, 0.5)
        padded[: len(mean)] = mean
        options = {**_OPTIONS, "popsize": self._population, "randn": self._normal}
        return cma.CMAEvolutionStrategy(padded, _SIGMA, options)

    def _normal(self, *shape: int) -> Array:
        return self._generator.standard_normal(shape)

    def _sampled(self, number: int) -> Array:
        return np.clip(np.stack(self._strategy.ask(number)), 0.0, 1.0)


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

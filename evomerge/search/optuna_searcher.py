"""Optuna's samplers as searchers: one study in memory, one trial per point.

Akiba et al. 2019, Optuna: A Next-generation Hyperparameter Optimization Framework. Variables with
levels are categorical to Optuna (steps of an integer to its CMA-ES, which has no other way), those
with cells are integers. A list is a row of variables, all of them in every trial: TPE that was shown
only the items that count, grouped by length, found no better lists and took half as long again. Pending
candidates are running trials, which TPE and GP avoid. Failed ones are failed trials, which no sampler
learns from; but to a model of where results are good, where there are none may be better still, and
TPE and GP would go on failing there: they are told the worst that has been seen. The study is no
store: a run is continued by replaying it (`runs/`).
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from evomerge.search.pending import Pending
from evomerge.search.searcher import Array, Problem

Make = Callable[[Problem, int, int], BaseSampler]
"""A sampler for a problem, a population and a seed below 2^32."""


def tpe(problem: Problem, population: int, seed: int) -> TPESampler:
    """Watanabe 2023; of several objectives, Ozaki et al. 2022. Pending points count as bad ones."""
    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=population)


def gp(problem: Problem, population: int, seed: int) -> GPSampler:
    """Expected improvement (of the hypervolume), integrated over what pending points may bring."""
    return GPSampler(seed=seed, n_startup_trials=population)


def cmaes(problem: Problem, population: int, seed: int) -> CmaEsSampler:
    """Hansen 2016; with levels, with margin: Hamano et al. 2022."""
    return CmaEsSampler(
        seed=seed,
        popsize=population,
        with_margin=problem.discrete,
        # the margin would credit an initial point's value to what was sampled in its stead
        n_startup_trials=max(1, len(problem.initial)),
        warn_independent_sampling=False,
    )


def nsga2(problem: Problem, population: int, seed: int) -> NSGAIISampler:
    """Deb et al. 2002, with uniform crossover and redrawn variables."""
    return NSGAIISampler(seed=seed, population_size=population)


def nsga3(problem: Problem, population: int, seed: int) -> NSGAIIISampler:
    """Deb and Jain 2014, with uniform crossover and redrawn variables."""
    return NSGAIIISampler(seed=seed, population_size=population)


def qmc(problem: Problem, population: int, seed: int) -> QMCSampler:
    """Scrambled Sobol points: Bergstra and Bengio 2012, section 5."""
    return QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


class OptunaSearcher:
    """A study that is asked for a trial per point.

    Args:
        problem: what is searched.
        population: for samplers that have one; for others, points drawn at random first.
        make: the sampler.
        ordered: variables with levels as integers too, not as categories.
        models: the sampler models where results are good.
    """

    def __init__(
        self,
        problem: Problem,
        population: int,
        make: Make,
        ordered: bool = False,
        models: bool = False,
    ) -> None:
        self._problem, self._population = problem, population
        self._distributions = _distributions(problem, ordered)
        generator = np.random.default_rng(problem.seed)
        # Optuna's NSGA-II and TPE repeat themselves where there is little to choose from
        self._pending: Pending[None] = Pending(problem, generator, draws=2, forever=True)
        self._trials: dict[int, Trial] = {}
        self._drawn: Trial | None = None
        self._asked = 0
        self._models = models
        self._succeeded = self._imputed = 0
        self._worst = (
            np.full(problem.objectives, -np.inf),
            np.zeros(problem.constraints),
        )
        with _silence():
            self._study = optuna.create_study(
                sampler=make(problem, population, problem.seed % 2**32),
                directions=[StudyDirection.MINIMIZE] * problem.objectives,
            )
            for point in problem.initial:
                self._study.enqueue_trial(self._parameters(point))

    @property
    def batch(self) -> int:
        """The population."""
        return self._population

    def ask(self) -> Array:
        """[variables]: what the sampler suggests."""
        with _silence():
            point = self._pending.ask(self._draw)
            if self._drawn is None or not np.array_equal(point, self._point(self._drawn)):
                self._give_up()
                self._study.enqueue_trial(self._parameters(point))
                self._draw()
        self._trials[self._asked], self._drawn = self._trial(), None
        self._asked += 1
        return point

    def tell(self, number: int, losses: Array, violations: Array) -> None:
        """Finish the trial."""
        self._pending.tell(number)
        trial = self._trials.pop(number)
        if not np.isnan(losses).any():
            self._succeeded += 1
            self._worst = (
                np.maximum(self._worst[0], losses),
                np.maximum(self._worst[1], violations),
            )
            self._finish(trial, losses, violations)
        # TPE takes the best tenth for good: there have to be enough that are
        elif self._models and self._imputed + 1 < 9 * self._succeeded:
            self._imputed += 1
            self._finish(trial, *self._worst)
        else:
            self._study.tell(trial, state=TrialState.FAIL)

    def _finish(self, trial: Trial, losses: Array, violations: Array) -> None:
        with _silence():
            for index, violation in enumerate(violations.tolist()):
                trial.set_constraint(str(index), violation)
            self._study.tell(trial, losses.tolist())

    def _draw(self) -> tuple[Array, None]:
        self._give_up()
        self._drawn = self._study.ask(dict(self._distributions))
        return self._point(self._drawn), None

    def _give_up(self) -> None:
        """A trial whose point is pending already will not be carried out."""
        if self._drawn is not None:
            self._study.tell(self._drawn, state=TrialState.FAIL)
            self._drawn = None

    def _trial(self) -> Trial:
        assert self._drawn is not None
        return self._drawn

    def _point(self, trial: Trial) -> Array:
        values = list(trial.params.values())[: self._problem.variables]
        pairs = zip(values, self._problem.counts, strict=True)
        return np.array([(value + 0.5) / n if n else value for value, n in pairs])

    def _parameters(self, point: Array) -> dict[str, Any]:
        pairs = zip(self._distributions, point.tolist(), self._problem.counts, strict=False)
        return {name: min(int(u * n), n - 1) if n else u for name, u, n in pairs}


def _distributions(problem: Problem, ordered: bool) -> Mapping[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for index, count in enumerate(problem.counts):
        name = f"x{index:05}"  # Optuna sorts by name
        if not count:
            found[name] = FloatDistribution(0.0, 1.0)
        elif ordered or problem.cells[index]:
            found[name] = IntDistribution(0, count - 1)
        else:
            found[name] = CategoricalDistribution(range(count))
    if ordered and problem.variables == 1:
        found["x_idle"] = FloatDistribution(0.0, 1.0)  # CMA-ES needs two variables
    return found


@contextmanager
def _silence() -> Iterator[None]:
    """No log lines of Optuna's, no warnings that a sampler is experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)

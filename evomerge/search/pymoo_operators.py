"""Crossover and mutation for pymoo, by kind of variable: numbers, whole numbers, options, lists.

Numbers have simulated binary crossover and polynomial mutation (Deb and Agrawal 1995); between
options without an order there is nothing to blend; whole numbers take steps (`steps.py`); lists are
varied as lists (`path_operators.py`).
"""

from typing import Any

import numpy as np
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM

from evomerge.search.conditions import alive, inherited, stepped_at
from evomerge.search.lists import Lists
from evomerge.search.path_operators import crossed, mutated, swapped
from evomerge.search.searcher import Array, Problem
from evomerge.search.steps import stepped

_ALIGNED = 0.5
"""Share of crossovers in which lists exchange items of the same places, not segments."""

_MUTATED = 1 / 3
"""Chance that a list is mutated, and once more, time after time. Most children only recombine: with
one mutation or more each, searches for known stacks took twice as long (`benchmarks/lists.py`)."""


def operators(problem: Problem, eta: float, probability: float) -> dict[str, Any]:
    """Crossover and mutation for these variables, as pymoo's arguments."""
    crossing: dict[str, Any] = {"eta": eta, "prob": probability}
    if problem.slots is not None:
        return {
            "crossover": ExchangeLists(problem, **crossing),
            "mutation": ChangeLists(problem, eta=20),
        }
    if any(problem.conditions):
        return {"crossover": Exchange(problem, **crossing), "mutation": StepCounting(problem)}
    if problem.discrete:
        return {
            "crossover": Exchange(problem, **crossing),
            "mutation": Redraw(problem, eta=20),
        }
    return {"crossover": SBX(**crossing), "mutation": PM(eta=20)}


class Exchange(SBX):
    """Simulated binary crossover of numbers; variables with levels are swapped or left.

    Between options without an order there is nothing to blend: each comes from one parent or the
    other, at even odds, as in uniform crossover.
    """

    def __init__(self, problem: Problem, **options: Any) -> None:
        super().__init__(**options)
        self._given = problem
        self._columns = np.flatnonzero(problem.levels)

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        children = super()._do(problem, X, *args, random_state=random_state, **options)
        parents = X[:, :, self._columns]
        swapped = random_state.random(parents.shape[1:]) < 0.5
        children[:, :, self._columns] = np.where(swapped, parents[::-1], parents)
        return inherited(children, X, self._given) if any(self._given.conditions) else children


class Redraw(PM):
    """Polynomial mutation of numbers; at the same probability options are redrawn, integers step.

    Args:
        problem: whose points.
        rate: probability per variable; None: once in `variables`.
        options: of pymoo's mutation.
    """

    def __init__(self, problem: Problem, rate: float | None = None, **options: Any) -> None:
        super().__init__(prob_var=rate, **options)
        self._mixed = problem
        self._rate = min(0.5, 1 / problem.variables) if rate is None else rate

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        mutated = super()._do(problem, X, *args, random_state=random_state, **options)
        columns = np.flatnonzero(self._mixed.counts)
        mutated[:, columns] = X[:, columns]
        mutated = redraw(mutated, self._mixed.levels, random_state, self._rate)
        whole = np.flatnonzero(self._mixed.cells)
        if not len(whole):
            return mutated
        chosen = np.zeros(mutated.shape, dtype=bool)
        chosen[:, whole] = random_state.random((len(mutated), len(whole))) < self._rate
        return self._mixed.canonical(stepped(mutated, self._mixed, chosen, random_state))


class StepCounting(PM):
    """Steps of variables that count: one on average, and at least one.

    (Mutating all of them leaves most children of templates as they were: few count at a time.)
    """

    def __init__(self, problem: Problem, **options: Any) -> None:
        super().__init__(**options)
        self._given = problem

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        points = self._given.canonical(X)
        for row in points:
            free = alive(row, self._given)
            chosen = free[random_state.random(len(free)) < 1 / max(2, len(free))]
            if len(free) and not len(chosen):
                chosen = random_state.choice(free, 1)
            for variable in chosen.tolist():
                if self._given.counting(row)[variable]:
                    row[:] = stepped_at(row, variable, self._given, random_state)
        return points


class ExchangeLists(Exchange):
    """Lists exchange segments, or items of the same places; other variables as `Exchange` has it.

    Where items of the same places meet, their numbers are blended as all numbers are.
    """

    def __init__(self, problem: Problem, **options: Any) -> None:
        super().__init__(problem, **options)
        self._lists = Lists(problem)
        self._numbers = np.array(self._lists.counts) == 0

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        children = super()._do(problem, X, *args, random_state=random_state, **options)
        lists = self._lists
        for mating in range(X.shape[1]):
            first, second = (lists.read(point) for point in X[:2, mating])
            if random_state.random() < _ALIGNED:
                found = swapped(first, second, random_state)
                self._blend(found, children[:, mating])
            else:
                found = crossed(first, second, lists, random_state)
            for child, rows in zip(children, found, strict=True):
                child[mating] = lists.write(child[mating], rows)
        return children

    def _blend(self, rows: tuple[Array, Array], blended: Array) -> None:
        """Numbers of places that both lists have, as in the points `blended`."""
        common = min(map(len, rows))
        for target, point in zip(rows, blended, strict=True):
            items = point[self._lists.columns[:common]]
            target[:common, self._numbers] = items[:, self._numbers]


class ChangeLists(Redraw):
    """Mutations of the list, none as a rule; of the other variables, less than one on average."""

    def __init__(self, problem: Problem, **options: Any) -> None:
        self._lists = Lists(problem)
        super().__init__(problem, min(0.5, 1 / (len(self._lists.outside) + 1)), **options)

    def _do(
        self,
        problem: Any,
        X: Any,  # noqa: N803
        *args: Any,
        random_state: Any = None,
        **options: Any,
    ) -> Any:
        changed = super()._do(problem, X, *args, random_state=random_state, **options)
        for row, parent in zip(changed, X, strict=True):
            rows = self._lists.read(parent)
            for _ in range(int(random_state.geometric(1 - _MUTATED)) - 1):
                rows = mutated(rows, self._lists, random_state)
            row[:] = self._lists.write(row, rows)
        return changed


def redraw(
    points: Array,
    levels: tuple[int, ...],
    generator: np.random.Generator,
    rate: float | None = None,
) -> Array:
    """`points` [n, variables] with each variable that has levels drawn anew at `rate`.

    Args:
        points: in [0, 1].
        levels: per variable, 0 for a number.
        generator: drawn from.
        rate: probability per variable; None: once in `variables`, at most a half.
    """
    columns = np.flatnonzero(levels)
    cells = np.array(levels)[columns]
    shape = (len(points), len(columns))
    drawn = (generator.integers(cells, size=shape) + 0.5) / cells
    chosen = generator.random(shape) < (min(0.5, 1 / len(levels)) if rate is None else rate)
    redrawn = points.astype(float)
    redrawn[:, columns] = np.where(chosen, drawn, redrawn[:, columns])
    return redrawn

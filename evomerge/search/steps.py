"""Steps of one variable: to another option, to a whole number near by, along the interval.

Whole numbers want steps of their own: polynomial mutation with index 20 moves by 4% of the interval
on average, and hardly ever leaves the cell of a variable with a dozen values.
"""

import numpy as np

from evomerge.search.problem import Array, Problem

_WIDTH = 0.1
"""Standard deviation of a number's step, and of a whole number's as far as it exceeds 1."""

_FAR = 0.2
"""Share of steps to anywhere."""


def step(value: float, levels: int, cells: int, generator: np.random.Generator) -> float:
    """Another value for one variable; where there is only one, that.

    Args:
        value: in [0, 1].
        levels: its options without an order; 0: it is no choice. Any other option is as likely.
        cells: its whole numbers in order; 0: it is none. Its neighbours are likeliest.
        generator: drawn from.

    Returns:
        In [0, 1], the middle of a cell where there are cells.
    """
    if levels or cells:
        count = levels or cells
        cell = min(int(value * count), count - 1)
        moved = _another(cell, count, generator) if levels else _near(cell, count, generator)
        return (moved + 0.5) / count
    if generator.random() < _FAR:
        return generator.random()
    return _reflected(value + _WIDTH * generator.standard_normal())


def stepped(
    points: Array, problem: Problem, chosen: np.ndarray, generator: np.random.Generator
) -> Array:
    """A copy of `points` [n, variables] with a step of each variable where `chosen` [n, variables]."""
    points = points.astype(float)
    for row, column in np.argwhere(chosen):
        points[row, column] = step(
            float(points[row, column]), problem.levels[column], problem.cells[column], generator
        )
    return points


def _another(cell: int, count: int, generator: np.random.Generator) -> int:
    if count == 1:
        return cell
    other = int(generator.integers(count - 1))
    return other + (other >= cell)


def _near(cell: int, count: int, generator: np.random.Generator) -> int:
    if count < 3 or generator.random() < _FAR:
        return _another(cell, count, generator)
    size = max(1, round(abs(_WIDTH * count * generator.standard_normal())))
    sign = 1 if generator.random() < 0.5 else -1
    # at an end of the range the step goes the other way; a step beyond both ends stops at one
    target = cell + sign * size
    if not 0 <= target < count:
        target = min(max(cell - sign * size, 0), count - 1)
    return target if target != cell else _another(cell, count, generator)


def _reflected(value: float) -> float:
    """A number beyond an end of [0, 1] goes back as far as it went beyond."""
    return min(max(abs(value) if value < 1 else 2 - value, 0.0), 1.0)

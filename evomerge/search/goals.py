"""Goals: from estimates to the numbers a searcher minimises."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evomerge.config import Constraint, Objective
from evomerge.evaluation import Evaluation
from evomerge.search.archive import Direction
from fitness.estimate import Estimate


@dataclass(frozen=True)
class Goals:
    """What is optimised.

    Attributes:
        names: the objectives, in order.
        directions: `maximize` or `minimize`, as `names`.
        weights: for algorithms with one objective, as `names`.
        constraints: bounds on objectives.
        scores: the objectives that are tasks' scores of which more is better, in order; none: not
            known.
    """

    names: tuple[str, ...]
    directions: tuple[Direction, ...]
    weights: tuple[float, ...]
    constraints: tuple[Constraint, ...] = ()
    scores: tuple[str, ...] = ()

    def values(self, evaluation: Evaluation) -> list[float]:
        """The objectives' values in their own units, in order of `names`; nan if not scored."""
        if not evaluation.scored:
            return [math.nan] * len(self.names)
        return [evaluation.objectives[name].value for name in self.names]

    def errors(self, evaluation: Evaluation) -> list[float]:
        """Their standard errors."""
        if not evaluation.scored:
            return [math.nan] * len(self.names)
        return [evaluation.objectives[name].se for name in self.names]

    @property
    def signs(self) -> dict[str, Literal[1, -1]]:
        """By name, 1 for what is maximised and -1 for what is minimised."""
        pairs = zip(self.names, self.directions, strict=True)
        return {name: 1 if direction == "maximize" else -1 for name, direction in pairs}

    def gains(self, evaluation: Evaluation) -> list[float]:
        """The values with every objective made higher-is-better."""
        signs = (1.0 if d == "maximize" else -1.0 for d in self.directions)
        return [sign * value for sign, value in zip(signs, self.values(evaluation), strict=True)]

    def scalar(self, evaluation: Evaluation) -> float:
        """The weighted mean of the gains: the one objective where an algorithm takes one."""
        total = sum(self.weights)
        return sum(w * g for w, g in zip(self.weights, self.gains(evaluation), strict=True)) / total

    def spread(self, evaluations: Sequence[Evaluation]) -> list[float]:
        """Greatest minus least gain of each objective over what was scored; 1 where all are equal."""
        gains = [self.gains(e) for e in evaluations if e.scored]
        ranges = [max(column) - min(column) for column in zip(*gains, strict=True)]
        return [width or 1.0 for width in ranges] or [1.0] * len(self.names)

    def merit(self, evaluation: Evaluation, spread: Sequence[float]) -> float:
        """The weighted mean of the gains in units of `spread`: compares objectives of unlike units."""
        scaled = (g / s for g, s in zip(self.gains(evaluation), spread, strict=True))
        return sum(w * g for w, g in zip(self.weights, scaled, strict=True)) / sum(self.weights)

    def losses(self, evaluations: Sequence[Evaluation], *, single: bool) -> np.ndarray:
        """What the searcher minimises: [candidates, objectives], one column if `single`."""
        if single:
            return np.array([[-self.scalar(e)] for e in evaluations])
        return -np.array([self.gains(e) for e in evaluations])

    def violations(self, evaluations: Sequence[Evaluation]) -> np.ndarray:
        """By what share of its bound each is broken: [candidates, constraints], 0 where it holds."""
        rows = [[self._violation(c, e) for c in self.constraints] for e in evaluations]
        return np.array(rows, dtype=float).reshape(len(evaluations), len(self.constraints))

    def feasible(self, evaluation: Evaluation) -> bool:
        """Whether the evaluation was scored and keeps every bound."""
        return evaluation.scored and not any(
            self._violation(c, evaluation) > 0 for c in self.constraints
        )

    @staticmethod
    def _violation(constraint: Constraint, evaluation: Evaluation) -> float:
        if not evaluation.scored:
            return math.nan
        gap = constraint.violation(evaluation.objectives[constraint.objective].value)
        return gap / (abs(constraint.bound) or 1.0)


def scores_among(
    objectives: Sequence[Objective], directions: Sequence[Direction]
) -> tuple[str, ...]:
    """The labels of the objectives that are tasks' scores of which more is better.

    Args:
        objectives: the run file's.
        directions: theirs, resolved.
    """
    pairs = zip(objectives, directions, strict=False)
    kinds = ("task", "tasks", "worst")
    return tuple(o.label for o, way in pairs if o.kind in kinds and way == "maximize")


def plain(objectives: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    """Estimates as JSON has them: {name: {"value", "se"}}."""
    return {name: {"value": e.value, "se": e.se} for name, e in objectives.items()}

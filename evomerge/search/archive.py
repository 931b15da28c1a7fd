"""The archive: every non-dominated candidate found, with its uncertainty.

Values are in natural units (accuracy, tokens, ...), each maximised or minimised as its direction
says. A point dominates another if it is no worse in every objective and better in one; estimates
are compared by value, their standard errors are kept beside them for whoever reads the front.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evomerge.search.searcher import Array

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, slots=True)
class Member:
    """A scored candidate.

    Attributes:
        key: its identity (the recipe's hash).
        values: [objectives], natural units.
        errors: [objectives], standard errors in the same units.
        violation: 0 if it meets every constraint, else by how much it does not, summed.
    """

    key: str
    values: tuple[float, ...]
    errors: tuple[float, ...]
    violation: float = 0.0


class Archive:
    """Keeps the front as candidates arrive; a candidate costs one comparison with each member.

    Args:
        directions: of each objective, at least one.
    """

    def __init__(self, directions: Sequence[Direction]) -> None:
        if not directions or set(directions) - {"maximize", "minimize"}:
            raise ValueError(f"directions {list(directions)}: each is 'maximize' or 'minimize'")
        self.directions = tuple(directions)
        self._members: list[Member] = []
        self._gains = np.empty((0, len(self.directions)))
        self._nearest: Member | None = None

    def add(
        self,
        key: str,
        values: Sequence[float],
        errors: Sequence[float],
        feasible: bool,
        violation: float = 0.0,
    ) -> bool:
        """Show the archive a scored candidate; True if it is on the front now.

        A key that is on the front already, and values equal to a member's, change nothing: the
        first stays. (After values were re-estimated, build a new archive from the records.)

        Args:
            key: the candidate's identity.
            values: [objectives], finite.
            errors: [objectives], standard errors.
            feasible: whether it meets every constraint; only such a candidate can be on the front.
            violation: if it is not feasible, by how much, summed over constraints.

        Raises:
            ValueError: a wrong number of values or errors, or a value that is not finite (a failed
                candidate has no values and is not added).
        """
        size = len(self.directions)
        if len(values) != size or len(errors) != size or not np.isfinite(values).all():
            raise ValueError(f"candidate {key}: {values} +- {errors} is not {size} finite values")
        member = Member(key, tuple(map(float, values)), tuple(map(float, errors)), violation)
        if not feasible:
            if self._nearest is None or violation < self._nearest.violation:
                self._nearest = member
            return False
        if any(other.key == key for other in self._members):
            return False
        gain = gains(np.asarray([member.values]), self.directions)[0]
        if (self._gains >= gain).all(axis=1).any():
            return False
        kept = ~(gain >= self._gains).all(axis=1)
        self._members = [m for m, keep in zip(self._members, kept, strict=True) if keep]
        self._members.append(member)
        self._gains = np.vstack([self._gains[kept], gain])
        return True

    def front(self) -> list[Member]:
        """The feasible non-dominated candidates, in the order in which they came; may be empty."""
        return list(self._members)

    def least_violating(self) -> Member | None:
        """The infeasible candidate nearest to feasibility, to show while the front is empty."""
        return self._nearest

    def best(self, objective: int) -> Member:
        """The front's best in one objective (0-based).

        Raises:
            LookupError: the front is empty.
        """
        self._require_front()
        return self._members[int(np.argmax(self._gains[:, objective]))]

    def knee(self) -> Member:
        """The front's best compromise (see `knee`); with one objective the best.

        Raises:
            LookupError: the front is empty.
        """
        self._require_front()
        return self._members[knee(self._gains)]

    def hypervolume(self, reference: Sequence[float]) -> float:
        """The volume between the front and `reference`, in the product of the objectives' units.

        Args:
            reference: [objectives], natural units: a point worth beating in every objective, the
                same for every front to be compared. Members that do not beat it add nothing.
        """
        return hypervolume(self._gains, gains(np.asarray([reference]), self.directions)[0])

    def _require_front(self) -> None:
        if not self._members:
            raise LookupError("the front is empty: no feasible candidate has been scored yet")


def gains(values: Array, directions: Sequence[Direction]) -> Array:
    """`values` [points, objectives] with signs turned so that greater is better in all."""
    return values * np.where([d == "maximize" for d in directions], 1.0, -1.0)


def knee(front: Array) -> int:
    """The row of the point farthest beyond the plane through the extremes of a front.

    Each objective is normalised to [0, 1] between the front's worst and best value; the plane
    through the extremes is then a level set of the mean, so the knee is the point of greatest mean
    (the first of equals). Objectives in which the front does not vary do not count. (Das 1999, On
    characterizing the "knee" of the Pareto curve.)

    Args:
        front: [points, objectives], greater is better, at least one point.
    """
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    varying = span > 0
    if not varying.any():
        return 0
    scaled = (front[:, varying] - low[varying]) / span[varying]
    return int(np.argmax(scaled.mean(axis=1)))


def hypervolume(front: Array, reference: Array) -> float:
    """Volume dominated by `front` [points, objectives] and above `reference`, greater is better.

    Zitzler and Thiele 1998, Multiobjective Optimization Using Evolutionary Algorithms.
    """
    beating = front[(front > reference).all(axis=1)]
    if len(beating) == 0:
        return 0.0
    from pymoo.indicators.hv import HV

    volume: Any = HV(ref_point=-reference)(-beating)
    return float(volume)

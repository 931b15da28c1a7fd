"""Stragglers: evaluations that take many times as long as their kind usually does.

Where candidates answer unlike numbers of items it is the time per answer that is usual.
"""

import math
from collections import deque
from statistics import median

_FINISHED = 8
"""So many evaluations tell how long one usually takes."""

_LAST = 64
"""So many of the last ones count: what is usual changes as a search goes on."""


class Stragglers:
    """How long an evaluation may take, by what others took on the same split.

    Args:
        factor: times the median, greater than 1; None: as long as it likes.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._seconds: dict[str, deque[float]] = {}
        self._median: dict[str, float] = {}

    def finished(self, split: str, seconds: float) -> None:
        """Count an evaluation that was scored: its seconds, in all or per answer."""
        if self._factor is None:
            return
        last = self._seconds.setdefault(split, deque(maxlen=_LAST))
        last.append(seconds)
        if len(last) >= _FINISHED:
            self._median[split] = median(last)

    def limit(self, split: str, answers: int = 1) -> float:
        """Seconds that an evaluation may take; infinity: not known, or no limit.

        Args:
            split: what it is judged on.
            answers: how many it may come to, if seconds are counted per answer.
        """
        usual = self._median.get(split)
        if usual is None or self._factor is None:
            return math.inf
        return self._factor * usual * answers

    def told(self, split: str, seconds: float, answers: int = 1) -> str:
        """Why one was cut off after `seconds`."""
        per = " per answer" if answers > 1 else ""
        return (
            f"cut off after {seconds:.3g} s: more than {self._factor:g} times what evaluations on "
            f"'{split}' took lately ({self._median[split]:.3g} s{per}, median of "
            f"{len(self._seconds[split])})"
        )

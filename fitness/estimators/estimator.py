"""What an estimator is: few responses in, the full score with its standard error out."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fitness.estimate import Estimate

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


class Estimator(Protocol):
    """Estimates a model's mean score over all items of a bank from its answers to some of them.

    Built once per bank (`build_estimator`), then asked once per candidate and rung; without state.
    """

    def estimate(self, items: Positions, scores: Array) -> Estimate:
        """The mean score over the whole bank.

        Args:
            items: [n] positions in the bank, each once, in any order; at least one.
            scores: [n] in [0, 1].

        Returns:
            Value in [0, 1] and standard error: `value` +- 1.645 `se` covers the true score in nine
            cases of ten. With every item answered: the exact mean, and 0.

        Raises:
            FitnessError: no items, an item twice or out of range, a score outside [0, 1].
        """
        ...

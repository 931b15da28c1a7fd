"""The winner's curse: the score of what was picked for its score is too high; by how much.

Scores are noisy, and the best of many is among the lucky ones. The cure is to pick on some items and
to look on others: a model that was picked there for its luck does not have it here. Both functions
split the evidence again and again, repeat the pick on one part, and take off the score by how much the
picked models did better on the part they were picked on. Where the best is far ahead the same model
wins every time, and nothing is taken off.

The idea is that of the bootstrap bias correction of Tsamardinos, Greasidou and Borboudakis
("Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation", 2018);
splits without repeated items pick as well as the whole set nearly does, so that less is taken off too
much. Where only values and standard errors are known, independent parts are made by adding noise to
the values and taking it off (Leiner, Duan, Wasserman and Ramdas, "Data fission: splitting a single
data point", 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fitness.comparison import Z95
from fitness.errors import FitnessError
from fitness.estimate import Estimate, mean_estimate, weighted

SHARE = 2 / 3
"""Of the evidence, the part that is picked on. Smaller: takes off too much where models differ;
larger: leaves few items to look on. At 2/3 the bias stayed within a point in simulations."""
SPLITS = 400
"""Drawn; their noise is less than a tenth of the standard error."""

Pick = Callable[[np.ndarray], int | Sequence[int]]
"""How one was picked: from values [parts, models] to a model, or several of equal standing."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """A picked model's score without the luck it was picked for.

    Attributes:
        value: the corrected score.
        se: its standard error, for further items of the same kind.
        low, high: 95 % interval.
        luck: what was taken off the plain score.
    """

    value: float
    se: float
    low: float
    high: float
    luck: float


def corrected_best(
    scores: Sequence[ArrayLike],
    picked: int,
    weights: Sequence[float] | None = None,
    *,
    pick: Pick | None = None,
    seed: int = 0,
) -> Corrected:
    """The score of a model that was picked by its score on these same items.

    Args:
        scores: by task, [models, items] in [0, 1]: every model that could have been picked, on the
            same items.
        picked: which one was.
        weights: of the tasks, in the score that is corrected; None: equal.
        pick: how it was picked, from the tasks' mean scores [tasks, models] on part of the items.
            None: the highest weighted mean.
        seed: of the splits.

    Raises:
        FitnessError: other shapes, fewer than 2 items in a task, no such model.
    """
    tasks = [np.asarray(task, dtype=float) for task in scores]
    shares = _shares(weights, len(tasks))
    _check([task.shape for task in tasks], picked, 2)
    estimates = [mean_estimate(task[picked].tolist(), None) for task in tasks]
    rng = np.random.default_rng(seed)
    halves = [_split(task, rng) for task in tasks]
    return _corrected(estimates, shares, halves, pick, rng)


def corrected_value(
    values: Sequence[ArrayLike],
    ses: Sequence[ArrayLike],
    picked: int,
    weights: Sequence[float] | None = None,
    *,
    shared: float = 0.0,
    pick: Pick | None = None,
    seed: int = 0,
) -> Corrected:
    """The same from values and standard errors alone, for errors that are about normal.

    It serves where models answered different items. What it cannot see: a search that breeds from the
    lucky ones collects luck over generations; of that, this takes off only the last pick's.

    Args:
        values: by part (a task, an objective), [models].
        ses: by part, [models], their standard errors.
        picked: the model in question.
        weights: of the parts, in the score that is corrected; None: equal.
        shared: in [0, 1], the share of the errors' variance that all models have in common, since
            they answered the same items (`shared_error`). It is no advantage to any.
        pick: as in `corrected_best`.
        seed: of the splits.

    Raises:
        FitnessError: other shapes, no such model, `shared` outside [0, 1].
    """
    parts = [np.asarray(part, dtype=float) for part in values]
    errors = [np.asarray(part, dtype=float) for part in ses]
    shares = _shares(weights, len(parts))
    shapes = [part.shape for part in parts]
    _check(shapes, picked, 0)
    finite = all(np.isfinite(x).all() for x in (*parts, *errors))
    if [e.shape for e in errors] != shapes or not finite or not 0 <= shared <= 1:
        raise FitnessError(
            f"values {shapes}, errors {[e.shape for e in errors]}, shared = {shared}",
            "each value has a finite error, and `shared` is in [0, 1]",
            "winner's curse",
            "correct them",
        )
    estimates = [
        Estimate(float(v[picked]), float(e[picked])) for v, e in zip(parts, errors, strict=True)
    ]
    rng = np.random.default_rng(seed)
    odds = math.sqrt(1 / SHARE - 1)
    halves: list[tuple[np.ndarray, np.ndarray]] = []
    for part, error in zip(parts, errors, strict=True):
        noise = rng.standard_normal((SPLITS, len(part))) * error * math.sqrt(1 - shared)
        halves.append((part + odds * noise, part - noise / odds))
    return _corrected(estimates, shares, halves, pick, rng)


def shared_error(scores: ArrayLike) -> float:
    """The share of the variance of models' mean scores that the choice of items gives them all alike.

    The errors of models that answered the same items are alike: an easy sample is easy for all. In
    the two-way analysis of variance (score = model + item + rest) the share is 1 minus the rest's
    variance over that within models.

    Args:
        scores: [models, items] in [0, 1], nan where not answered.

    Returns:
        In [0, 1]; 0 where there is nothing to tell it from.
    """
    x = np.asarray(scores, dtype=float)
    answered = ~np.isnan(x)
    x = x[:, answered.sum(0) > 1]
    answered = ~np.isnan(x)
    x = x[answered.sum(1) > 1]
    answered = ~np.isnan(x)
    models, items = x.shape
    freedom = int(answered.sum()) - models - items + 1
    if models < 2 or freedom < 1:
        return 0.0
    rest = np.where(answered, x, 0.0)
    rest -= np.where(answered, (rest.sum(1) / answered.sum(1))[:, None], 0.0)
    within = float((rest**2).sum()) / (int(answered.sum()) - models)
    for _ in range(20):  # by turns, since not every model answered every item
        rest -= np.where(answered, rest.sum(0) / np.maximum(answered.sum(0), 1), 0.0)
        rest -= np.where(answered, (rest.sum(1) / np.maximum(answered.sum(1), 1))[:, None], 0.0)
    left = float((rest**2).sum()) / freedom
    return float(np.clip(1 - left / within, 0, 1)) if within > 0 else 0.0


def _split(task: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean scores [splits, models] on a part of the items, and on the rest."""
    items = task.shape[1]
    inside = min(items - 1, max(1, round(SHARE * items)))
    order = np.argsort(rng.random((SPLITS, items)), axis=1)
    chosen = np.zeros((SPLITS, items))
    np.put_along_axis(chosen, order[:, :inside], 1.0, axis=1)
    first = chosen @ task.T
    return first / inside, (task.sum(1) - first) / (items - inside)


def _corrected(
    estimates: Sequence[Estimate],
    shares: Sequence[float],
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    pick: Pick | None,
    rng: np.random.Generator,
) -> Corrected:
    """Take the mean luck of picks on the first halves off the plain score.

    Noise on a share f of the evidence is 1/sqrt(f) of that on all, and so is the luck of a pick
    among equals; the luck on all is taken to be sqrt(f) of that seen. Where models differ it is less.
    """
    plain = weighted(estimates, shares)
    luck = np.zeros(halves[0][0].shape)
    for share, (first, rest) in zip(shares, halves, strict=True):
        luck += share * (first - rest)
    luck -= luck.mean(axis=0)  # that of a model picked every time is 0, but for the splits drawn
    if pick is None:
        merit = sum(share * first for share, (first, _) in zip(shares, halves, strict=True))
        # Equals take turns: a fixed order would pick the same one of them every time.
        ties = 1e-9 * rng.random(luck.shape)
        mean = float(luck[np.arange(SPLITS), np.argmax(merit + ties, axis=1)].mean())
    else:
        firsts = np.stack([first for first, _ in halves])
        picks = (np.atleast_1d(pick(firsts[:, i])) for i in range(SPLITS))
        mean = math.fsum(float(luck[i, p].mean()) for i, p in enumerate(picks)) / SPLITS
    off = math.sqrt(SHARE) * mean if luck.shape[1] > 1 else 0.0
    value = plain.value - off
    # What was taken off is itself uncertain; by half of it covers 95 % in simulations.
    se = math.hypot(plain.se, off / 2)
    return Corrected(value, se, value - Z95 * se, value + Z95 * se, off)


def _shares(weights: Sequence[float] | None, parts: int) -> list[float]:
    given = [1.0] * parts if weights is None else [float(w) for w in weights]
    total = math.fsum(given)
    if len(given) != parts or not all(w >= 0 for w in given) or not 0 < total < math.inf:
        raise FitnessError(
            f"weights {given} of {parts} tasks",
            "one weight per task, none negative, not all 0",
            "winner's curse",
            "correct the weights",
        )
    return [w / total for w in given]


def _check(shapes: Sequence[tuple[int, ...]], picked: int, items: int) -> None:
    """All parts are of the same models, with at least `items` items; `picked` is one of them."""
    models = {shape[0] for shape in shapes if shape}
    dimensions = 2 if items else 1
    alike = len(models) == 1 and all(len(shape) == dimensions for shape in shapes)
    if not alike or min(s[-1] for s in shapes) < items or not 0 <= picked < max(models):
        raise FitnessError(
            f"scores of shapes {list(shapes)}, model {picked} picked",
            "every task needs the same models"
            + (f" and at least {items} items" if items else "")
            + ", the picked one among them",
            "winner's curse",
            "correct the arrays",
        )

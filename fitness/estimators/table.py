"""The table of estimators, and the choice among them by what a bank can carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fitness.banks import ItemBank
from fitness.errors import FitnessError, nearest
from fitness.estimators.adaptive import Adaptive
from fitness.estimators.calibrated import Calibrated
from fitness.estimators.estimator import Estimator
from fitness.estimators.kriging import fit_kriging
from fitness.estimators.mean import Mean
from fitness.estimators.merges import fit_mp_irt, fit_soft_mp_irt
from fitness.estimators.posterior import irt
from fitness.estimators.predictor import Array, Fit
from fitness.estimators.ridge import fit_ridge
from fitness.estimators.stratified import fit_stratified, fit_weighted
from fitness.item_selection.selection import completed

Build = Callable[[Array, Array, int], Estimator]
"""From responses [models, items] without nan, parents' responses [k, items] and a seed."""


@dataclass(frozen=True)
class EstimatorSpec:
    """An estimator that can be asked for by name.

    Attributes:
        build: makes it.
        least: calibration models it needs.
        good_for: one sentence.
        paper: where it is from.
        parents: it needs to know the parents, by their names in the bank; at least 2.
    """

    build: Build
    least: int
    good_for: str
    paper: str
    parents: bool = False


def _calibrated(*fits: Fit, allowance: float = 1.0) -> Build:
    return partial(_build_calibrated, fits, allowance)


def _build_calibrated(
    fits: Sequence[Fit], allowance: float, responses: Array, parents: Array, seed: int
) -> Estimator:
    return Calibrated(fits, responses, parents, seed, allowance)


def _build_mean(responses: Array, parents: Array, seed: int) -> Estimator:
    return Mean(responses.shape[1])


def _build_adaptive(responses: Array, parents: Array, seed: int) -> Estimator:
    return Adaptive(responses, seed)


POLO = "Polo et al., tinyBenchmarks: evaluating LLMs with fewer examples, 2024"
MERGE3 = "Mencattini et al., MERGE3: efficient evolutionary merging on consumer-grade GPUs, 2025"

ESTIMATORS = {
    "mean": EstimatorSpec(
        _build_mean, 1, "Random items, and nothing known about them.", "Cochran, 1977"
    ),
    "stratified": EstimatorSpec(
        # Measured: difficulty alone is learnt so well that choosing by it spoils nothing.
        _calibrated(fit_stratified, allowance=0.0),
        3,
        "Few calibration models: it needs only the order of difficulty.",
        "Cochran, Sampling techniques, 1977",
    ),
    "weighted": EstimatorSpec(
        _calibrated(fit_weighted, allowance=0.5),
        20,
        "Items chosen as centres of clusters.",
        "Vivek et al., Anchor points: benchmarking models with much fewer examples, 2024",
    ),
    "p_irt_1d": EstimatorSpec(
        _calibrated(irt(1)), 10, "Very mixed models, which differ in skill above all.", POLO
    ),
    "p_irt": EstimatorSpec(
        _calibrated(irt(2)), 10, "The default: any items, any number of them.", POLO
    ),
    "gp_irt": EstimatorSpec(
        _calibrated(irt(2), fit_weighted), 20, "p-IRT, where the item model fits badly.", POLO
    ),
    "mp_irt": EstimatorSpec(
        _calibrated(fit_mp_irt),
        10,
        "Comparison with MERGE3: a child is never rated above its parents' hull.",
        MERGE3,
        parents=True,
    ),
    "gmp_irt": EstimatorSpec(
        _calibrated(fit_mp_irt, fit_weighted),
        20,
        "Comparison with MERGE3: mp-IRT, corrected by a weighted mean.",
        MERGE3,
        parents=True,
    ),
    "soft_mp_irt": EstimatorSpec(
        _calibrated(fit_soft_mp_irt),
        10,
        "Merges of known parents, few items: the child may leave the parents' hull.",
        MERGE3,
        parents=True,
    ),
    "ridge": EstimatorSpec(
        _calibrated(fit_ridge),
        20,
        "Many calibration models, few and fixed items.",
        "Hoerl and Kennard, Ridge regression, 1970",
    ),
    "kriging": EstimatorSpec(
        _calibrated(fit_kriging),
        10,
        "Items chosen by variance; models of one family.",
        "Rasmussen and Williams, Gaussian processes for machine learning, 2006",
    ),
    "ensemble": EstimatorSpec(
        _calibrated(irt(2), fit_kriging, fit_stratified),
        10,
        "A second opinion: p-IRT, kriging and strata, weighed on models held out.",
        "Breiman, Stacked regressions, 1996",
    ),
    "adaptive": EstimatorSpec(
        _build_adaptive,
        10,
        "Items that were chosen by the candidate's own answers, in batches.",
        "van der Linden and Glas, Elements of adaptive testing, 2010",
    ),
}
"""Every estimator, by name."""


def build_estimator(
    name: str, bank: ItemBank, *, parents: Sequence[str] = (), seed: int = 0
) -> Estimator:
    """The estimator `name` of a bank.

    Args:
        name: in `ESTIMATORS`.
        bank: the pool and who answered it. Gaps (nan) are filled from the model's and the item's
            mean.
        parents: names of models of the bank; for estimators of merges.
        seed: which calibration models are held out together.

    Raises:
        FitnessError: an unknown name or parent, no parents where they are needed, too few models.
    """
    spec = _spec(name)
    problem = _problem(name, bank, parents)
    if problem:
        raise FitnessError(
            f"estimator '{name}'", problem, _where(bank), "calibrate more models, or use 'auto'"
        )
    responses = completed(bank.responses)
    rows = [bank.models.index(parent) for parent in parents]
    return spec.build(responses, responses[rows], seed)


@dataclass(frozen=True)
class Chosen:
    """An estimator's name, and why: one sentence."""

    name: str
    reason: str


def choose_estimator(wanted: str, bank: ItemBank, parents: Sequence[str] = ()) -> Chosen:
    """The estimator to use: `wanted` where the bank carries it, else the next best.

    Args:
        wanted: a name in `ESTIMATORS`, or "auto".
        bank: the pool and who answered it.
        parents: names of models of the bank.

    Raises:
        FitnessError: an unknown name or parent.
    """
    if wanted != "auto":
        _spec(wanted)
        problem = _problem(wanted, bank, parents) or _silence(wanted, bank)
        if problem is None:
            return Chosen(wanted, "as asked for")
        best = _best(bank)
        return Chosen(best, f"'{wanted}' was asked for, but {problem}; '{best}' is used instead")
    best = _best(bank)
    if not _tells(bank):
        return Chosen(best, f"the {len(bank.models)} calibration models hardly differ")
    return Chosen(best, f"the best by measurement for {len(bank.models)} calibration models")


AUTO = ((20, "p_irt"), (3, "stratified"), (1, "mean"))
"""From how many calibration models on which estimator is best (docs/estimators.md)."""


def _best(bank: ItemBank) -> str:
    if not _tells(bank):
        return "mean"
    return next(name for least, name in AUTO if len(bank.models) >= least)


def _silence(name: str, bank: ItemBank) -> str | None:
    """That the bank has nothing to say, where the estimator would listen, as half a sentence."""
    if name == "mean" or _tells(bank):
        return None
    return (
        f"the scores of the {len(bank.models)} calibration models hardly differ, so they tell "
        "nothing of one that does"
    )


def _tells(bank: ItemBank) -> bool:
    """Whether the models differ enough for a bank to say what another one is worth."""
    return float(np.nanstd(np.nanmean(bank.responses, axis=1))) >= _DIFFERENT


_DIFFERENT = 0.02
"""Of the standard deviation of the models' scores; real sets have 0.05 and more."""


def _problem(name: str, bank: ItemBank, parents: Sequence[str]) -> str | None:
    """Why `name` cannot be used, as half a sentence."""
    spec = ESTIMATORS[name]
    for parent in parents:
        if parent not in bank.models:
            raise FitnessError(
                f"parent '{parent}'",
                "the bank has no responses of it",
                _where(bank),
                nearest(parent, bank.models),
            )
    if len(bank.models) < spec.least:
        return f"it needs {spec.least} calibration models and the bank has {len(bank.models)}"
    if spec.parents and len(set(parents)) < 2:
        return "it needs the names of at least 2 parents"
    return None


def _spec(name: str) -> EstimatorSpec:
    if name not in ESTIMATORS:
        raise FitnessError(f"estimator '{name}'", "unknown", "estimator", nearest(name, ESTIMATORS))
    return ESTIMATORS[name]


def _where(bank: ItemBank) -> str:
    return f"task '{bank.task}'" if bank.task else "item bank"

"""Estimators: a task's full score, with an error bar, from responses to a few of its items."""

from fitness.estimators.estimator import Estimator
from fitness.estimators.table import (
    ESTIMATORS,
    Chosen,
    EstimatorSpec,
    build_estimator,
    choose_estimator,
)

__all__ = [
    "ESTIMATORS",
    "Chosen",
    "Estimator",
    "EstimatorSpec",
    "build_estimator",
    "choose_estimator",
]

"""Estimators: a task's full score, with an error bar, from responses to a few of its items."""

from fitness.estimators.estimator import Estimator

__all__ = ["Estimator"]

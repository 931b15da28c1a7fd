"""Objectives: the named numbers a search maximises or minimises, computed from responses."""

from fitness.objectives.custom import function_estimate
from fitness.objectives.objectives import ByCost, ByItem, Objectives, TaskEstimator
from fitness.objectives.spec import (
    COSTS,
    DIRECTIONS,
    EXACT_COSTS,
    KINDS,
    MODEL_COSTS,
    SPEED,
    ObjectiveSpec,
    direction_of,
)

__all__ = [
    "COSTS",
    "DIRECTIONS",
    "EXACT_COSTS",
    "KINDS",
    "MODEL_COSTS",
    "SPEED",
    "ByCost",
    "ByItem",
    "ObjectiveSpec",
    "Objectives",
    "TaskEstimator",
    "direction_of",
    "function_estimate",
]

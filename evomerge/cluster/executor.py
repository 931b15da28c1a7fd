"""The room's front door: light to import, Ray is loaded when a `RayExecutor` is made."""

from evomerge.cluster.jobs import EvaluatorBuildError, Executor, Job, MakeEvaluator
from evomerge.cluster.ray_executor import RayExecutor
from evomerge.cluster.serial_executor import SerialExecutor

__all__ = [
    "EvaluatorBuildError",
    "Executor",
    "Job",
    "MakeEvaluator",
    "RayExecutor",
    "SerialExecutor",
]

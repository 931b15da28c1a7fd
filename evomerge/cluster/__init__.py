"""The cluster: evaluators at work, and what happens when one of them dies.

An *executor* runs jobs (a recipe, a split of the items) on evaluators and hands back one
evaluation per job, as they finish. `SerialExecutor` does it in this process, `RayExecutor` in Ray
actors on one machine or many. Neither loses a job: what fails is tried again, elsewhere if it can
be, and then recorded with its outcome.
"""

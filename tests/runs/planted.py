"""A search problem with a known answer: recipes are judged by arithmetic on their weights."""

import numpy as np

from evomerge.evaluation import Evaluation, Outcome
from evomerge.search.goals import Goals
from fitness.estimate import Estimate
from fitness.items import Response
from search_spaces.parameter import ParameterSpace

BEST = {"one": 0.7, "two": 0.3}
"""The weights at which both objectives are as good as they can be together."""


def space():
    return ParameterSpace("task_arithmetic", "base", ["one", "two"], 2)


def goals(*, constraints=(), names=("first", "second")):
    return Goals(names, ("maximize",) * len(names), (1.0,) * len(names), tuple(constraints))


def weights_of(recipe):
    plan = next(iter(recipe.plans(["model.layers.0.mlp.up_proj.weight"], 2)))
    found = dict.fromkeys(BEST, 0.0)
    return found | {i.source: i.parameters["weight"] for i in plan.inputs}


class Planted:
    """Scores in [0, 1]; fails every `fails`-th evaluation; remembers what it was asked."""

    def __init__(self, fails=0):
        self.fails = fails
        self.asked = []

    def evaluate(self, recipe, split, asking):
        self.asked.append((recipe.hash, split))
        if self.fails and len(set(self.asked)) % self.fails == 0:
            return Evaluation(Outcome.MERGE_FAILED, "as told")
        found = weights_of(recipe)
        first = np.exp(-((found["one"] - BEST["one"]) ** 2) - found["two"] ** 2 / 4)
        second = np.exp(-((found["two"] - BEST["two"]) ** 2) - found["one"] ** 2 / 4)
        responses = tuple(Response("task", i, s) for i, s in enumerate([first, second]))
        objectives = {"first": Estimate(first, 0.01), "second": Estimate(second, 0.01)}
        return Evaluation(Outcome.SCORED, "", objectives, responses, 0.01, 0.02, "here")

    def close(self):
        pass

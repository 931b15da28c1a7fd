"""Checks on lists: a stack of layers that is to be found, by edits of two known ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.search.battery_tools import Entry, Score, failing, play, spend
from evomerge.search.edits import filled_up
from evomerge.search.lists import Lists
from evomerge.search.problem import Array, Problem
from evomerge.search.random_search import RandomSearch
from evomerge.search.searcher import Checked
from search_spaces.slots import Slots

Item = tuple[int, int]
"""A model and one of its layers."""


@dataclass(frozen=True)
class ListGame:
    """Lists of (model, layer) of two models; known are the models whole, the loss is a distance.

    Attributes:
        targets: the list to be found, for each objective.
        layers: of each model.
        least, most: items of a list.
    """

    targets: Sequence[Sequence[Item]]
    layers: int = 6
    least: int = 4
    most: int = 9

    @cached_property
    def bare(self) -> Problem:
        """The problem, of which nothing is known; variable 0 is the length."""
        slots = Slots(0, tuple((1 + 2 * i, 2 + 2 * i) for i in range(self.most)), self.least)
        return Problem(
            variables=1 + 2 * self.most,
            objectives=len(self.targets),
            levels=(0, *(2, 0) * self.most),
            cells=(self.most - self.least + 1, *(0, self.layers) * self.most),
            slots=slots,
        )

    def options(self, population: int, seed: int) -> dict[str, Any]:
        """`Problem`'s arguments for a search that begins with the models and edits of them."""
        bare, whole = self.bare, range(self.layers)
        origins = np.stack([self.point([(model, layer) for layer in whole]) for model in (0, 1)])
        kinds = {"levels": bare.levels, "cells": bare.cells, "slots": bare.slots}
        known = Problem(bare.variables, bare.objectives, seed=seed, origins=origins, **kinds)
        initial = filled_up(known, population)
        return {
            **kinds,
            "seed": seed,
            "population": population,
            "origins": origins,
            "initial": initial,
        }

    def point(self, items: Sequence[Item]) -> Array:
        """The point [variables] of a list."""
        rows = [[(model + 0.5) / 2, (layer + 0.5) / self.layers] for model, layer in items]
        return Lists(self.bare).write(np.zeros(self.bare.variables), np.array(rows))

    def items(self, point: Array) -> list[Item]:
        """The list at a point."""
        rows = Lists(self.bare).read(point).tolist()
        return [(int(model * 2), int(layer * self.layers)) for model, layer in rows]

    def score(self, point: Array, number: int) -> tuple[Array, Array]:
        """How far the list at `point` is from each target, 0 the target itself."""
        found = self.items(point)
        return np.array([distance(found, target) for target in self.targets]), np.zeros(0)


def distance(first: Sequence[Item], second: Sequence[Item]) -> float:
    """Items to be inserted, deleted or changed, at 1 each; where only a model or only a layer
    differs, at a half (Levenshtein 1966)."""
    costs = [float(place) for place in range(len(second) + 1)]
    for row, (model, layer) in enumerate(first, start=1):
        before, costs[0] = costs[0], float(row)
        for place, (other, another) in enumerate(second, start=1):
            changed = before + 0.5 * (model != other) + 0.5 * (layer != another)
            before = costs[place]
            costs[place] = min(changed, costs[place] + 1, costs[place - 1] + 1)
    return costs[-1]


GAME = [
    [(1, 0), *((0, layer) for layer in range(6)), (1, 5)],
    [(0, 0), (0, 1), (1, 2), (1, 3), (1, 2), (1, 3), (0, 5)],
]
"""Two stacks: a model between two layers of the other, and one that repeats some of the other's."""

SMALL = [[(1, 0), (0, 1)], [(0, 0), (1, 1), (1, 2)]]
"""The same of three layers, for algorithms that think for long."""


def check_lists_replay(entry: Entry) -> None:
    """What is known comes first, every list is canonical, few repeat; and a replay asks the same.

    Every third fails.
    """
    game, population, candidates = ListGame(GAME[: entry.objectives]), 6, 36
    if entry.most < 100:
        game, population, candidates = ListGame(SMALL[: entry.objectives], 3, 1, 3), 4, 6
    score = failing(game.score, lambda point, number: number % 3 == 2)

    def asked(seed: int) -> Array:
        searcher = entry.searcher(game.bare.variables, **game.options(population, seed))
        return spend(entry, searcher, candidates, score)

    points = asked(5)
    assert np.array_equal(points, game.bare.canonical(points)), "lists that are not canonical"
    initial = game.options(population, 5)["initial"]
    assert np.array_equal(points[:population], initial), "the known points do not come first"
    assert len(np.unique(points, axis=0)) > 0.75 * len(points), "the same lists over and over"
    assert np.array_equal(points, asked(5)), "another course the second time"
    if entry.most > 100:
        assert not np.array_equal(points[-4:], asked(6)[-4:]), "the seed makes no difference"


def check_lists_beat_random_edits(entry: Entry) -> None:
    """Nearer to the targets than random edits of what is known, at the same budget."""
    if not (entry.lists and entry.learns):
        return
    game = ListGame(GAME[: entry.objectives])
    budget, seeds = 150, (1, 2)
    ours = np.mean([_nearest(entry, game, budget, seed) for seed in seeds])
    theirs = []
    for seed in seeds:
        known = {**game.options(10, seed), "objectives": entry.objectives}
        problem = Problem(game.bare.variables, **known)
        searcher = Checked(RandomSearch(problem, 10), problem)
        theirs.append(_sum(play(searcher, budget, game.score), game.score))
    assert ours < np.mean(theirs), f"{ours} against {np.mean(theirs)} at random"


def _nearest(entry: Entry, game: ListGame, budget: int, seed: int) -> float:
    searcher = entry.searcher(game.bare.variables, **game.options(10, seed))
    return _sum(spend(entry, searcher, budget, game.score), game.score)


def _sum(points: Array, score: Score) -> float:
    """How near the points came to each target, the distances added up."""
    return float(np.stack([score(point, 0)[0] for point in points]).min(axis=0).sum())

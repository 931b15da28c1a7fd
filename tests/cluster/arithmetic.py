"""A small evaluator that does real work, and on request what evaluators do at 3 a.m.

A recipe's sources are numbers; the recipe is scored by how near their mean is to 0.5. The split
says what else happens: `search` is nothing else, otherwise a word of `Arithmetic._behave`, and maybe
` once` (only the first time). Every build and every evaluation leaves a line in a folder.
"""

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evomerge.evaluation import Evaluation, Outcome
from fitness.errors import FitnessError
from fitness.estimate import Estimate
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe, Slice


def recipe(first, second):
    """The recipe of two numbers."""
    return Recipe(method="linear", slices=(Slice((Input(str(first)), Input(str(second)))),))


def score(of):
    """What an evaluator has to find for a recipe."""
    values = np.array([float(source) for source in of.sources])
    return float(np.exp(-((values.mean() - 0.5) ** 2)))


class Arithmetic:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.threads = os.environ.get("OMP_NUM_THREADS", "")

    def evaluate(self, recipe, split, asking):
        tries = self._note(f"evaluated-{recipe.hash}", str(os.getpid()))
        word, _, more = split.partition(" ")
        if word != "search" and (more != "once" or tries == 1):
            failed = self._behave(word, more, recipe)
            if failed is not None:
                return failed
        return Evaluation(
            Outcome.SCORED, "", {"nearness": Estimate(score(recipe), float(self.threads or 0))}
        )

    def close(self):
        self._note("closed", str(os.getpid()))

    def _behave(self, word, more, recipe):
        match word:
            case "die":
                os.kill(os.getpid(), 9)
            case "hang":
                time.sleep(600)
            case "nap":
                straggles = more == "unless large" and max(float(s) for s in recipe.sources) > 10
                time.sleep(600 if straggles else 0.7)
            case "freeze":  # in C, holding the interpreter: no Python of this process runs again
                ctypes.PyDLL(None).sleep(600)
            case "forget":
                raise MemoryError("no room for the activations")
            case "break":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            case "raise":
                raise ArithmeticError("lost count")
            case "spawn":
                child = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
                self._note("spawned", str(child))
                if more == "then die":
                    os.kill(os.getpid(), 9)
                time.sleep(600)
            case _:
                return Evaluation(Outcome(word.replace("_", " ")), reason="as told")

    def _note(self, name, line):
        path = self.folder / name
        with path.open("a") as file:
            file.write(line + "\n")
        return len(path.read_text().splitlines())


@dataclass(frozen=True)
class MakeArithmetic:
    """Builds the evaluator, or fails as `trouble` says."""

    folder: str
    trouble: str = ""

    def __call__(self):
        with (Path(self.folder) / "built").open("a") as file:
            file.write(f"{os.getpid()}\n")
        match self.trouble:
            case "input":
                raise InputError("expert 'maths'", "there is no folder", "models", "name another")
            case "fitness":
                raise FitnessError("task 'gsm9k'", "there is none", "fitness.tasks", "use gsm8k")
            case "bug":
                raise KeyError("weights")
            case "die":
                os.kill(os.getpid(), 9)
            case "hang":
                time.sleep(600)
            case "slow":
                time.sleep(1.5)
            case "only one":
                try:
                    (Path(self.folder) / "taken").mkdir()
                except FileExistsError:
                    raise MemoryError("the other one took it all") from None
        return Arithmetic(self.folder)

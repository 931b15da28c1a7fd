"""A planted problem whose answers are a matter of luck: items are right or wrong by a hash.

How likely a candidate is to be right follows from its weights, so its true scores are known; what it
answers goes through the real `Trial`, with an engine that answers by drawing lots.
"""

import hashlib
from functools import cache

import numpy as np

from evomerge.asking import EVERYTHING
from evomerge.evaluation import Outcome
from evomerge.evaluator import CandidateEvaluator
from evomerge.runs.database import Database
from evomerge.runs.ledger import Ledger
from evomerge.runs.rows import ItemRow
from evomerge.search.driver import Driver
from evomerge.search.race import Rules, rungs_of
from evomerge.search.view import SilentView
from fitness.estimate import mean_estimate
from fitness.items import Reply, Request, Response
from tests.runs.planted import BEST, goals, space, weights_of

TASKS = ("first", "second")
ITEMS = 60
"""Of each task."""

SIZES = dict.fromkeys(TASKS, ITEMS)
RUNGS = rungs_of([dict.fromkeys(TASKS, range(count)) for count in (6, 20, 60)], SIZES)


def truth(recipe):
    """[2], the probability to answer an item of either task rightly."""
    found = weights_of(recipe)
    near = [(found["one"] - BEST["one"]) ** 2, (found["two"] - BEST["two"]) ** 2]
    across = [found["two"] ** 2, found["one"] ** 2]
    return 0.02 + 0.96 * np.exp(-4 * np.array(near) - 0.3 * np.array(across))


@cache
def lot(recipe_hash, task, index):
    """In [0, 1), the same whenever it is drawn."""
    digest = hashlib.sha256(f"{recipe_hash} {task} {index}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class Lots:
    """An engine that draws lots. Remembers what it answered, and how often it was loaded."""

    def __init__(self):
        self.answered = []
        self.loads = 0

    def load(self, recipe):
        self.recipe = recipe
        self.loads += 1

    def answer(self, requests):
        right = dict(zip(TASKS, truth(self.recipe), strict=True))
        replies = []
        for request in requests:
            task, index = request.context.split()
            self.answered.append((self.recipe.hash, task, int(index)))
            replies.append(Reply(str(int(lot(self.recipe.hash, task, index) < right[task]))))
        return replies

    def close(self):
        pass


class Marker:
    """A judge of two tasks: an objective each, the mean score of its items."""

    step = None
    specs = ()

    def size(self, split):
        return len(TASKS) * ITEMS

    @staticmethod
    def place(position):
        return TASKS[position // ITEMS], position % ITEMS

    def requests(self, split, positions):
        return [Request("generate", "{} {}".format(*self.place(p))) for p in positions]

    def responses(self, split, positions, replies):
        pairs = zip(positions, replies, strict=True)
        return [Response(*self.place(p), float(reply.text)) for p, reply in pairs]

    def measure(self, split, answered, asking=EVERYTHING, agreement=None, model=None):
        scores = {
            t: [answered[p].score for p in sorted(answered) if answered[p].task == t] for t in TASKS
        }
        return {task: mean_estimate(found, ITEMS) for task, found in scores.items()}


class Noisy(CandidateEvaluator):
    """The real evaluator of candidates on that engine and judge.

    Args:
        fails: of (recipe, asking), whether the evaluation fails.
    """

    def __init__(self, fails=lambda recipe, asking: False):
        self.engine = Lots()
        self.fails = fails
        self.asked = []
        super().__init__(self.engine, Marker())

    def evaluate(self, recipe, split, asking=EVERYTHING):
        self.asked.append((recipe.hash, asking))
        found = super().evaluate(recipe, split, asking)
        if self.fails(recipe, asking):
            return type(found)(Outcome.SCORING_FAILED, "as told")
        assert found.scored, found.reason
        return found


class InTurn:
    """An executor: one job after the other; the driver is killed after so many results."""

    workers = 1

    def __init__(self, evaluator, dies_after=None):
        self.evaluator, self.dies_after, self.given = evaluator, dies_after, 0

    def run(self, jobs):
        for job in jobs:
            assert job is not None, "asked to wait while nothing ran"
            yield job, self.evaluator.evaluate(job.recipe, job.split, job.asking)
            self.given += 1
            if self.given == self.dies_after:
                raise KeyboardInterrupt

    def close(self):
        pass


def open_database(path):
    """A run's record with the items of this problem."""
    if path.exists():
        return Database(path)
    database = Database(path, create=True)
    places = map(Marker.place, range(len(TASKS) * ITEMS))
    database.set_items([ItemRow("search", n, *p, str(p)) for n, p in enumerate(places)])
    return database


def driver_on(path, executor, rules=None, wants=None, searched=None, answers=None):
    """A driver on the record at `path`, as a new session would make it."""
    database = open_database(path)
    ledger = Ledger(database, executor, lambda evaluation, paid: None, answers)
    wants = wants or goals(names=TASKS)
    rules = Rules(RUNGS) if rules is None else rules
    return Driver(searched or space(), wants, ledger, database, SilentView(), rules)

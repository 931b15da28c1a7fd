"""A run's record made by hand: candidates whose true scores are known, answers drawn from them."""

from types import SimpleNamespace

import numpy as np

from evomerge.evaluation import Evaluation, Outcome
from evomerge.run_file import parse_run_file
from evomerge.runs.database import Database
from evomerge.runs.rows import CandidateRow, ItemRow
from evomerge.search.goals import plain
from fitness.estimate import mean_estimate, weighted
from fitness.items import Response

TASKS = {"words": 40, "sums": 60}
"""Items of each task in each split."""
CUT = 7
"""Tokens of an answer, all of them."""


def responses(rng, rates, unfinished=0.0, asked=None):
    """Answers that are right with probability `rates[task]`; unfinished ones are wrong.

    `asked`: the share of items answered.
    """
    found = []
    for task, items in TASKS.items():
        for index in range(items if asked is None else round(items * asked)):
            cut = rng.random() < unfinished
            right = not cut and rng.random() < rates[task]
            found.append(Response(task, index, float(right), CUT, truncated=cut))
    return tuple(found)


def evaluation(answered):
    """By hand what the judge does: two tasks, each an objective."""
    found = {
        task: mean_estimate([r.score for r in answered if r.task == task], None) for task in TASKS
    }
    return Evaluation(Outcome.SCORED, "", found, tuple(answered))


class PlantedRun(SimpleNamespace):
    """What `honesty` reads of a run: a real database, a real run file."""

    def __init__(self, folder, quickstart, objectives=("words", "sums")):
        content = {**quickstart}
        content["fitness"] = {
            "tasks": {task: {"items": items} for task, items in TASKS.items()},
            "objectives": list(objectives),
        }
        config = parse_run_file(content, "run.yaml")
        super().__init__(config=config, database=Database(folder / "run.db", create=True))
        self.names = [o.label for o in config.fitness.all_objectives]
        self.database.set_items(
            [
                ItemRow(split, position, task, index, "digest")
                for split in ("search", "selection", "test")
                for position, (task, index) in enumerate(
                    (task, i) for task, n in TASKS.items() for i in range(n)
                )
            ]
        )
        self.database.set_meta(
            "objectives", [{"name": n, "direction": "maximize"} for n in self.names]
        )
        self.asked = 0

    def measure(self, digest, split, answered):
        found = evaluation(answered)
        objectives = {
            o.label: found.objectives[o.task]
            if o.task
            else weighted([found.objectives[t] for t in o.tasks], list(o.tasks.values()))
            for o in self.config.fitness.all_objectives
        }
        rows = []
        if split == "search":
            rows = [CandidateRow("search", self.asked, 0, (0.5,), digest, False)]
            self.asked += 1
        whole = Evaluation(
            found.outcome, "", objectives, found.responses, positions=positions(answered)
        )
        self.database.record(digest, split, whole, rows)

    def choose(self, winner, finalists):
        scored = self.database.evaluations("selection")
        kept = [
            {"id": 0, "recipe_hash": d, "objectives": plain(scored[d].objectives)}
            for d in finalists
        ]
        self.database.set_meta("choice", {"id": 0, "recipe_hash": winner, "finalists": kept})


def positions(answered):
    """The items' positions in their split."""
    order = {
        (t, i): p for p, (t, i) in enumerate((t, i) for t, n in TASKS.items() for i in range(n))
    }
    return tuple(order[r.task, r.index] for r in answered)


def full_run(folder, quickstart, *, rates, unfinished=None, candidates=40, seed=0, share=None):
    """A run of equal candidates: the best of them on selection items wins.

    Args:
        rates: by model (`winner` is every candidate), the chance of a right answer by task.
        unfinished: by model, the share of its answers that are cut.
        share: of the search items that candidates after the first ten answer; None: all.
    """
    rng = np.random.default_rng(seed)
    run = PlantedRun(folder, quickstart)
    cut = unfinished or {}
    merits = {}
    for number in range(candidates):
        part = share if number >= 10 else None
        answered = responses(rng, rates["winner"], cut.get("winner", 0), part)
        run.measure(f"c{number}", "search", answered)
        merits[f"c{number}"] = np.mean([e.value for e in evaluation(answered).objectives.values()])
    finalists = sorted(merits, key=lambda digest: -merits[digest])[:8]
    for digest in finalists:
        run.measure(digest, "selection", responses(rng, rates["winner"], cut.get("winner", 0)))
    again = run.database.evaluations("selection")
    winner = max(finalists, key=lambda d: sum(e.value for e in again[d].objectives.values()))
    run.choose(winner, finalists)
    measured = {}
    for name, chance in rates.items():
        measured[name] = winner if name == "winner" else name
        run.measure(measured[name], "test", responses(rng, chance, cut.get(name, 0)))
        if name not in ("winner", "uniform", "random_search"):
            run.measure(name, "selection", responses(rng, chance, cut.get(name, 0)))
    return run, measured

"""A run folder made by hand: as many candidates, variables and objectives as wanted, in seconds."""

import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from evomerge.config import Frozen, SourceFiles
from evomerge.evaluation import Evaluation, Outcome
from evomerge.run_file import parse_run_file
from evomerge.runs.database import SCHEMA_VERSION
from evomerge.runs.folder import RunFolder, package_versions
from evomerge.runs.rows import CandidateRow, ItemRow
from evomerge.search.goals import plain
from fitness.estimate import Estimate, mean_estimate
from fitness.items import Response
from search_spaces.dialect import dump_recipe
from search_spaces.parameter import ParameterSpace

BEGAN = datetime(2026, 1, 1, 18, tzinfo=UTC)
EXPERTS = ("lunari", "tovek", "abacus")
REASON = "tensor 'lm_head.weight' has <script>alert(1)</script> & more"


class PlantedFolder:
    """Writes a run folder; `folder` is where it lies.

    Args:
        folder: new.
        quickstart: the quickstart's run file.
        candidates, variables: how many.
        tasks: an objective each.
        items: per task and split.
        fails: every n-th candidate fails; 0: none.
        random: whether there is a random search.
        racing: candidates after the first tenth answer a third of the items.
        changes: to the run file, by section.
    """

    def __init__(
        self, folder, quickstart, *, candidates=40, variables=6, tasks=("words", "sums"),
        items=20, fails=0, random=True, racing=False, changes=None, seed=0,
    ):  # fmt: skip
        self.folder, self.tasks, self.items = Path(folder), tuple(tasks), items
        self.fails, self.racing = fails, racing
        self.rng = np.random.default_rng(seed)
        self.clock, self.evaluations = 0.0, 0
        self.config = _config(quickstart, self.tasks, items, candidates, racing, changes or {})
        self.variables = [f"weight.{EXPERTS[i % 3]}.group_{i // 3}" for i in range(variables)]
        run = RunFolder.create(self.folder, self.config, self._begin)
        self.database = run.database
        self.database.select("PRAGMA synchronous = OFF")  # planted, not paid for
        self.finalists = self._phase("search", candidates)
        self.chance = self._phase("random", candidates) if random else []
        self._times()

    def _begin(self, database):
        rows = [
            ItemRow(split, i * self.items + j, task, j, "digest")
            for split in ("search", "selection", "test")
            for i, task in enumerate(self.tasks)
            for j in range(self.items)
        ]
        database.set_items(rows)
        asked = {str(j): f"Question {j}\nof <{{task}}>?" for j in range(self.items)}
        texts = {
            task: {i: text.format(task=task) for i, text in asked.items()} for task in self.tasks
        }
        database.set_meta("questions", texts)
        database.set_meta("variables", self.variables)
        names = [o.label for o in self.config.fitness.all_objectives]
        database.set_meta("objectives", [{"name": n, "direction": "maximize"} for n in names])
        database.set_meta("algorithm", "nsga2")
        database.event("started")

    def _phase(self, phase, count):
        best = []
        for number in range(count):
            genome = self.rng.random(len(self.variables))
            if phase == "search":  # it learns
                genome = 0.5 + (genome - 0.5) * (1 - 0.7 * number / max(count, 1))
            digest = f"{phase}{number:04d}".ljust(64, "0")
            row = CandidateRow(phase, number, number // 8, tuple(map(float, genome)), digest, False)
            if self.fails and number % self.fails == self.fails - 1:
                found = Evaluation(Outcome.MERGE_FAILED, REASON, worker="evaluator-0@here")
                self.database.record(digest, "search", found, [row])
                continue
            share = 1 / 3 if self.racing and number >= count // 10 else 1.0
            found = self.answer(0.8 - 2 * (genome[: len(self.tasks)] - 0.5) ** 2, share)
            self.database.record(digest, "search", found, [row])
            best.append((sum(e.value for e in found.objectives.values()), number, digest, genome))
        return sorted(best, reverse=True)[:6]

    def answer(self, rates, share=1.0):
        """An evaluation whose answers are right at the tasks' `rates`."""
        responses, positions = [], []
        for i, (task, rate) in enumerate(zip(self.tasks, rates, strict=False)):
            for j in range(round(self.items * share)):
                cut = j % 9 == 8
                right = float(self.rng.random() < rate and not cut)
                responses.append(Response(task, j, right, 5, truncated=cut))
                positions.append(i * self.items + j)
        found: dict[str, Estimate] = {}
        for o in self.config.fitness.all_objectives:
            scores = [r.score for r in responses if r.task == o.task]
            found[o.label] = mean_estimate(scores, None)
        self.evaluations += 1
        worker = f"evaluator-{self.evaluations % 2}@here"
        count = len(responses)
        return Evaluation(
            Outcome.SCORED, "", found, tuple(responses), 0.5, 1.5, worker, tuple(positions), count, count
        )  # fmt: skip

    def finish(self):
        """Choose a winner and score it, the sources and baselines on the test items."""
        for name, best in (("choice", self.finalists), ("random_choice", self.chance)):
            kept = []
            for _, number, digest, genome in best:
                found = self.answer(0.8 - 2 * (genome[: len(self.tasks)] - 0.5) ** 2)
                self.database.record(digest, "selection", found)
                kept.append(
                    {"id": number, "recipe_hash": digest, "objectives": plain(found.objectives)}
                )
            if best:
                chosen = {k: kept[0][k] for k in ("id", "recipe_hash")}
                self.database.set_meta(name, chosen | {"finalists": kept})
        text = dump_recipe(_recipe())
        chance = {"random_search": self.chance[0][2]} if self.chance else {}
        models = {n: n.ljust(64, "0") for n in ("base", *EXPERTS, "uniform")}
        models |= chance | {"winner": self.finalists[0][2]}
        for name, digest in models.items():
            rate = {"winner": 0.8, "random_search": 0.7, "uniform": 0.6}.get(name, 0.45)
            self.database.set_recipe(name, digest, text)
            self.database.record(digest, "test", self.answer([rate] * len(self.tasks)))
        self.database.set_meta("finished_at_budget", self.config.search.budget.evaluations)
        self._times()
        end = (BEGAN + timedelta(seconds=self.clock)).isoformat(timespec="milliseconds")
        self.database.event("finished", evaluations=0, seconds=self.clock)
        self._set("UPDATE events SET at = ? WHERE kind = 'finished'", end)
        return self

    def _times(self):
        """A second and a bit between evaluations, two at a time; the log in step with them."""
        first, step = BEGAN + timedelta(seconds=10), 1.1
        rows = self.database.select("SELECT id FROM evaluations ORDER BY id")
        for [number] in rows:
            at = (first + timedelta(seconds=step * number)).isoformat(timespec="milliseconds")
            self._set("UPDATE evaluations SET finished = ? WHERE id = ?", at, number)
        self.clock = 10 + step * len(rows)
        begun = BEGAN.isoformat(timespec="milliseconds")
        self._set("UPDATE events SET at = ? WHERE kind = 'started'", begun)

    def _set(self, query, *values):
        self.database._connection.execute(query, values)

    def close(self):
        """Let go of the database; the folder, for a `with`-less call."""
        self.database.close()
        return self.folder


def _recipe():
    space = ParameterSpace("task_arithmetic", "base", list(EXPERTS), 4)
    return space.decode(tuple(v.from_unit(0.3 + 0.1 * i) for i, v in enumerate(space.variables)))


def _config(quickstart, tasks, items, candidates, racing, changes):
    content = copy.deepcopy(quickstart)
    content["fitness"] = {"tasks": {t: {"items": items} for t in tasks}, "objectives": list(tasks)}
    if racing:
        content["fitness"]["racing"] = {"rungs": [max(1, items // 3), items]}
    content["search"]["budget"] = {"evaluations": max(candidates, 1)}
    for section, more in changes.items():
        content[section] = content[section] | more
    config = parse_run_file(content, "run.yaml")
    sources = {
        name: SourceFiles(folder=s.model, files={"model.safetensors": "ab" * 32}, fingerprint="")
        for name, s in config.models.sources.items()
    }
    frozen = Frozen(
        version=SCHEMA_VERSION, created=BEGAN.isoformat(), origin="run.yaml",
        sources=sources, packages=package_versions(),
    )  # fmt: skip
    return config.model_copy(update={"frozen": frozen})

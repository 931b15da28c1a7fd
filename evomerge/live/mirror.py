"""A run as Optuna studies in memory: one for each phase that asks for candidates, kept up to date.

In memory, because nothing is to be stored: at 200 variables a finished trial costs 546 ms in Optuna's
SQLite storage.
"""

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config import Constraint
from evomerge.legs import SEARCHING
from evomerge.live.record import Record, reading
from evomerge.live.variables import counts, distribution, seen, space_key
from evomerge.run_file import load_run_file

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_TITLES = {
    "search": "search",
    "random": "random baseline",
    "merged": "first stage",
    "merged_random": "random baseline, first stage",
}

_QUERY = """
SELECT c.id, c.generation, c.genome, c.recipe_hash, c.cached, e.outcome, e.reason, e.objectives,
    e.items, e.worker, e.merge_seconds, e.score_seconds, e.finished
FROM candidates c JOIN evaluations e ON e.id = (
    SELECT id FROM evaluations WHERE recipe_hash = c.recipe_hash AND split = 'search'
    ORDER BY outcome = 'scored' DESC, part DESC LIMIT 1)
WHERE c.phase = ? AND c.id IN (SELECT value FROM json_each(?)) ORDER BY c.id
"""


class Mirror:
    """Optuna's view of a run, read-only on the run.

    A candidate is a trial: its genome the parameters (those that count), its search objectives the
    values, as they were when it was first seen here. A failed one is a failed trial.

    Args:
        folder: of the run.
        storage: where the studies are made.

    Raises:
        InputError: no run there.
    """

    def __init__(self, folder: Path, storage: "BaseStorage") -> None:
        self._folder, self._storage = folder, storage
        self._studies: dict[str, _Phase] = {}
        with reading(folder):  # say that there is no run before anything of it is missed
            config = load_run_file(folder / "run.yaml")
        self._constraints = config.fitness.all_constraints
        self.update()

    def update(self) -> int:
        """Take in what was recorded since; how many candidates."""
        try:
            with reading(self._folder) as record:
                return sum(self._take(record, phase) for phase in SEARCHING)
        except sqlite3.DatabaseError:
            return 0  # a driver began between two looks: the next one sees it

    def _take(self, record: Record, phase: str) -> int:
        [[count]] = record.select("SELECT count(*) FROM candidates WHERE phase = ?", (phase,))
        if phase not in self._studies:
            if not count and phase != "search":
                return 0
            name = f"{self._folder.resolve().name}: {_TITLES[phase]}"
            self._studies[phase] = _Phase(record, phase, self._storage, name, self._constraints)
        return self._studies[phase].take(record, count)


class _Phase:
    """One phase's study."""

    def __init__(
        self,
        record: Record,
        phase: str,
        storage: "BaseStorage",
        name: str,
        constraints: Sequence[Constraint],
    ) -> None:
        import optuna
        from optuna.exceptions import ExperimentalWarning

        described = record.meta("objectives") or []
        self._phase, self._constraints = phase, constraints
        self._names: list[str] = [objective["name"] for objective in described]
        self._seen: set[int] = set()
        self._variables = _Variables(record, phase)
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study: Study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[objective["direction"] for objective in described],
        )
        optuna.logging.set_verbosity(before)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.set_metric_names(self._names)

    def take(self, record: Record, count: int) -> int:
        if count == len(self._seen):
            return 0
        known = record.select("SELECT id FROM candidates WHERE phase = ?", (self._phase,))
        new = sorted({number for (number,) in known} - self._seen)
        rows = record.select(_QUERY, (self._phase, json.dumps(new)))
        for row in rows:
            self._study.add_trial(self._trial(row))
            self._seen.add(row[0])
        return len(rows)

    def _trial(self, row: Sequence[Any]) -> "FrozenTrial":
        from optuna.trial import TrialState, create_trial

        number, generation, genome, digest, cached, outcome, reason, objectives, items = row[:9]
        worker, merge_seconds, score_seconds, finished = row[9:]
        found: Mapping[str, list[float]] = json.loads(objectives)
        scored = outcome == "scored"
        seconds = merge_seconds + score_seconds
        facts = {
            "candidate": number, "generation": generation, "recipe": digest, "outcome": outcome,
            "phase": self._phase, "items": items, "worker": worker, "seconds": round(seconds, 4),
            "cached": bool(cached),
        }  # fmt: skip
        facts |= {"reason": reason} if reason else {}
        facts |= {f"se {name}": found[name][1] for name in self._names if name in found}
        params = dict(self._variables.params(json.loads(genome)))
        trial = create_trial(
            state=TrialState.COMPLETE if scored else TrialState.FAIL,
            values=[found[name][0] for name in self._names] if scored else None,
            params={name: value for name, (value, _) in params.items()},
            distributions={name: of for name, (_, of) in params.items()},
            user_attrs=facts,
            constraints=self._violations(found) if scored else None,
        )
        ended = datetime.fromisoformat(finished).astimezone().replace(tzinfo=None)
        trial.datetime_start = ended - timedelta(seconds=0.0 if cached else seconds)
        trial.datetime_complete = ended
        return trial

    def _violations(self, found: Mapping[str, list[float]]) -> dict[str, float] | None:
        """By how much each bound is broken, in the objective's unit; 0 or less: it is kept."""
        return {
            f"{bound.objective} {bound.sign} {bound.bound:g}": (
                bound.bound - found[bound.objective][0]
                if bound.sign == ">="
                else found[bound.objective][0] - bound.bound
            )
            for bound in self._constraints
        } or None


class _Variables:
    """From genomes to Optuna's parameters."""

    def __init__(self, record: Record, phase: str) -> None:
        stage = "merged" if phase.startswith("merged") else "search"
        facts = record.meta(space_key(stage))
        if facts is None:  # of an evomerge that did not write them down: by what was asked
            names = record.meta("merged_variables" if stage == "merged" else "variables") or []
            rows = record.select("SELECT genome FROM candidates WHERE phase = ?", (phase,))
            facts = seen(names, [json.loads(genome) for (genome,) in rows])
        self._facts: list[dict[str, Any]] = facts
        self._distributions = [distribution(fact) for fact in facts]

    def params(self, genome: Sequence[Any]) -> Iterator[tuple[str, tuple[Any, "BaseDistribution"]]]:
        """Name, value and distribution of every variable that counts."""
        for fact, known, value in zip(self._facts, self._distributions, genome, strict=False):
            if not counts(fact["when"], genome):
                continue
            if "options" in fact:
                if value in fact["options"]:
                    yield fact["name"], (value, known)
            elif fact["low"] <= value <= fact["high"]:
                yield fact["name"], (value, known)
            else:  # of a range that was only seen
                wider = fact | {"low": min(fact["low"], value), "high": max(fact["high"], value)}
                yield fact["name"], (value, distribution(wider))

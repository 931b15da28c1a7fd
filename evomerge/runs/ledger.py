"""The ledger: every evaluation of a run is paid for once and recorded as it finishes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from evomerge.cluster.executor import Executor, Job
from evomerge.evaluation import Evaluation
from evomerge.runs.database import CandidateRow, Database
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe
from search_spaces.variables import Genome

_ROUNDING = 1e-6
"""Measured for CMA-ES with 20 variables: 1e-9 after 1,500 candidates."""

Rows = Sequence[CandidateRow]

Finished = Callable[[Evaluation, bool], None]
"""Called with each evaluation and whether it was paid for just now."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A recipe to judge, and the candidate that wants it (None for a baseline)."""

    recipe: Recipe
    candidate: CandidateRow | None = None


class Ledger:
    """Looks in run.db first, asks the executor for the rest.

    This is what makes resuming a replay: the driver runs from the start again, and whatever was
    recorded answers at once.

    Args:
        database: the run's record.
        executor: builds evaluators and runs jobs on them.
        finished: told of each evaluation as it becomes known.
    """

    def __init__(self, database: Database, executor: Executor, finished: Finished) -> None:
        self._database = database
        self._executor = executor
        self._finished = finished
        self._known: dict[str, dict[str, Evaluation]] = {}
        self._recorded: dict[str, dict[int, CandidateRow]] = {}

    def evaluate(self, wanted: Sequence[Wanted], split: str) -> list[Evaluation]:
        """Evaluations of `wanted` on `split`, in its order.

        Args:
            wanted: recipes; equal ones are evaluated once. Their candidates are not recorded yet
                (see `recall`).
            split: `search`, `selection` or `test`.

        Raises:
            RecordingError: the record could not be written.
        """
        known = self._evaluations(split)
        waiting: dict[str, list[Wanted]] = {}
        for want in wanted:
            found = known.get(want.recipe.hash)
            if found is None:
                waiting.setdefault(want.recipe.hash, []).append(want)
            elif want.candidate is not None:
                self.note(replace(want.candidate, cached=True), found)
            else:
                self._finished(found, False)
        firsts = [group[0].recipe for group in waiting.values()]
        for _ in self.stream(firsts, split, lambda recipe: _rows(waiting[recipe.hash])):
            pass
        return [known[want.recipe.hash] for want in wanted]

    def stream(
        self, recipes: Iterable[Recipe | None], split: str, rows: Callable[[Recipe], Rows]
    ) -> Iterator[tuple[Recipe, Evaluation]]:
        """Evaluations as they finish, each recorded before it is given back.

        Args:
            recipes: not evaluated on `split` yet, each once; pulled when an evaluator is free. None
                means "nothing until another result is in".
            split: the items to judge on.
            rows: the candidates that a recipe's evaluation answers, to be recorded with it; called
                when it is done.

        Raises:
            RecordingError: the record could not be written.
        """
        known = self._evaluations(split)
        numbers = count()
        jobs = (None if r is None else Job(next(numbers), r, split) for r in recipes)
        for job, evaluation in self._executor.run(jobs):
            answered = rows(job.recipe)
            self._database.record(job.recipe.hash, split, evaluation, answered)
            known[job.recipe.hash] = replace(evaluation, responses=())  # they are in run.db now
            for position in range(max(1, len(answered))):
                self._finished(evaluation, position == 0)
            yield job.recipe, known[job.recipe.hash]

    @property
    def path(self) -> Path:
        """Of run.db."""
        return self._database.path

    def known(self, recipe_hash: str, split: str) -> Evaluation | None:
        """A recipe's evaluation on `split`, if it was paid for."""
        return self._evaluations(split).get(recipe_hash)

    def recorded(self, recipe_hash: str) -> Evaluation:
        """A recorded candidate's evaluation on the search items."""
        return self._evaluations("search")[recipe_hash]

    def note(self, row: CandidateRow, evaluation: Evaluation) -> None:
        """Record a candidate whose recipe was evaluated before."""
        self._database.record(row.recipe_hash, "", None, [row])
        self._finished(evaluation, False)

    def told(self, phase: str) -> list[CandidateRow]:
        """The recorded candidates of an asynchronous phase, in the order in which they were told."""
        rows = self._recorded_rows(phase).values()
        return sorted(rows, key=lambda row: row.told)

    def recall(
        self, phase: str, number: int, genome: Genome
    ) -> tuple[CandidateRow, Evaluation] | None:
        """Candidate `number` as it was recorded, and its search evaluation; None if it was not.

        Raises:
            InputError: it was recorded as another genome.
        """
        row = self._recorded_rows(phase).get(number)
        if row is None:
            return None
        if not nearly(row.genome, genome):
            raise differs(row, self._database.path)
        evaluation = self._evaluations("search")[row.recipe_hash]
        self._finished(evaluation, False)
        return row, evaluation

    def _evaluations(self, split: str) -> dict[str, Evaluation]:
        if split not in self._known:
            self._known[split] = self._database.evaluations(split)
        return self._known[split]

    def _recorded_rows(self, phase: str) -> dict[int, CandidateRow]:
        if phase not in self._recorded:
            self._recorded[phase] = self._database.candidates(phase)
        return self._recorded[phase]


def _rows(group: Sequence[Wanted]) -> Rows:
    """The candidates that wait for one evaluation: the first pays, the others find it."""
    rows = [want.candidate for want in group if want.candidate is not None]
    return [replace(row, cached=position > 0) for position, row in enumerate(rows)]


def nearly(recorded: Genome, asked: Genome) -> bool:
    """Whether a replay asks for what was recorded.

    Another processor's linear algebra may round otherwise, so numbers may differ by what makes no
    difference; the recorded ones count.
    """
    return len(recorded) == len(asked) and all(
        math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
        if isinstance(a, float) and isinstance(b, float)
        else a == b
        for a, b in zip(recorded, asked, strict=True)
    )


def differs(row: CandidateRow, path: Path) -> InputError:
    """A replay that went another way than the run it replays."""
    return InputError(
        f"{row.phase} candidate {row.id}",
        "the searcher now asks for another candidate than the one recorded",
        str(path),
        "resume with the package versions in run.yaml (frozen.packages), and `gp` and `optuna_cmaes` "
        "on the same kind of processor",
    )

"""The ledger: every evaluation of a run is paid for once and recorded as it finishes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from evomerge.asking import EVERYTHING, Asking
from evomerge.cluster.executor import Executor, Job
from evomerge.evaluation import Evaluation, latest
from evomerge.runs.database import Database, items_of
from evomerge.runs.rows import CandidateRow
from evomerge.stopping import Stop
from fitness.items import Response
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
    """A recipe to judge.

    Attributes:
        recipe: the candidate, or a baseline.
        candidate: what wants it (None for a baseline).
        asking: which items of the split, and when to stop.
        part: 0; n to measure it an n-th time again, on more items. Answers to earlier parts count.
    """

    recipe: Recipe
    candidate: CandidateRow | None = None
    asking: Asking = EVERYTHING
    part: int = 0


class Answers(Protocol):
    """Answers that other runs paid for."""

    def known(self, recipe_hash: str, split: str) -> Mapping[int, Response]:
        """A recipe's responses by position in the split."""
        ...

    def keep(self, recipe_hash: str, split: str, evaluation: Evaluation) -> None:
        """Remember a scored evaluation's responses."""
        ...


class NoAnswers:
    """Nothing is known of other runs."""

    def known(self, recipe_hash: str, split: str) -> Mapping[int, Response]:
        """Nothing."""
        return {}

    def keep(self, recipe_hash: str, split: str, evaluation: Evaluation) -> None:
        """Nothing."""


class Ledger:
    """Looks in run.db first, asks the executor for the rest.

    This is what makes resuming a replay: the driver runs from the start again, and whatever was
    recorded answers at once.

    Args:
        database: the run's record.
        executor: builds evaluators and runs jobs on them.
        finished: told of each evaluation as it becomes known.
        answers: what other runs paid for.
        stop: once it is requested nothing new is begun; None: it never is.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        finished: Finished,
        answers: Answers | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._database = database
        self._executor = executor
        self._finished = finished
        self._answers = answers or NoAnswers()
        self._stop = stop or Stop()
        self._incumbent: dict[str, dict[tuple[str, int], float]] = {}
        self._known: dict[str, dict[str, list[Evaluation]]] = {}
        self._sizes: dict[str, int] = {}
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
        wanted = [self._completed(want, split) for want in wanted]
        waiting: dict[str, list[Wanted]] = {}
        for want in wanted:
            found = self.known(want.recipe.hash, split, want.part)
            if found is None:
                waiting.setdefault(want.recipe.hash, []).append(want)
            elif want.candidate is not None:
                self.note(replace(want.candidate, cached=True), found)
            elif not want.part:
                self._finished(found, False)
        firsts = [group[0] for group in waiting.values()]
        for _ in self.stream(firsts, split, lambda want: _rows(waiting[want.recipe.hash])):
            pass
        known = self._parts(split)
        return [known[want.recipe.hash][want.part] for want in wanted]

    def _completed(self, want: Wanted, split: str) -> Wanted:
        """Ask a baseline for what is missing of everything, if a race asked for some of it before."""
        parts = self._parts(split).get(want.recipe.hash)
        if want.candidate is not None or want.asking.rungs or not parts:
            return want
        last = latest(parts)
        whole = not last.scored or last.items >= self._size(split)
        return replace(want, part=parts.index(last) if whole else len(parts))

    def _size(self, split: str) -> int:
        if split not in self._sizes:
            found = self._database.items()
            self._sizes[split] = sum(row.split == items_of(split) for row in found)
        return self._sizes[split]

    def set_incumbent(self, recipe: Recipe, splits: Sequence[str]) -> None:
        """Judge the model that flips are counted against, on every item of some splits.

        Raises:
            InputError: it cannot be scored.
        """
        for split in splits:
            [found] = self.evaluate([Wanted(recipe)], split)
            if not found.scored:
                raise InputError(
                    f"the incumbent of `flips` ({found.outcome}: {found.reason})",
                    "what candidates got wrong is counted against its answers",
                    f"fitness.objectives, {split} items",
                    "name another incumbent",
                )
            answers = self._database.answers(recipe.hash, split, None).values()
            self._incumbent[split] = {(r.task, r.index): r.score for r in answers}

    def stream(
        self, wanted: Iterable[Wanted | None], split: str, rows: Callable[[Wanted], Rows]
    ) -> Iterator[tuple[Wanted, Evaluation]]:
        """Evaluations as they finish, each recorded before it is given back.

        Args:
            wanted: recipes, not evaluated on `split` yet (that part of them), each once; pulled when
                an evaluator is free. None means "nothing until another result is in".
            split: the items to judge on.
            rows: the candidates that an evaluation answers, to be recorded with it; called when it
                is done.

        Raises:
            RecordingError: the record could not be written.
            Stopped: it was requested; what was under way is recorded and was given back.
        """
        under_way: dict[int, Wanted] = {}

        def jobs() -> Iterator[Job | None]:
            for number, want in enumerate(self._stop.until(wanted)):
                if want is not None:
                    under_way[number] = want
                yield None if want is None else self._job(number, want, split)

        for job, evaluation in self._executor.run(jobs()):
            want = under_way.pop(job.number)
            answered = rows(want)
            with self._stop.record():
                kept = self._record(want, split, evaluation, answered)
            for position in range(0 if want.part else max(1, len(answered))):
                self._finished(kept, position == 0)
            yield want, kept
        self._stop.check()

    def _job(self, number: int, want: Wanted, split: str) -> Job:
        digest = want.recipe.hash
        known = dict(self._answers.known(digest, split))
        asking = want.asking
        if want.part:
            own = self._database.answers(digest, split, want.part)
            known |= own
            asking = replace(asking, before=self.latest(digest, split).objectives)
            if asking.rungs:  # what it answered counts, whoever asked
                asking = replace(asking, rungs=(tuple(sorted(own)), *asking.rungs))
        asking = replace(asking, known=known, incumbent=self._incumbent.get(items_of(split)))
        return Job(number, want.recipe, split, asking)

    def _record(
        self, want: Wanted, split: str, evaluation: Evaluation, answered: Rows
    ) -> Evaluation:
        """Write an evaluation down; what is kept of it in memory (its responses are in run.db)."""
        digest = want.recipe.hash
        earlier = self._database.answers(digest, split, want.part) if want.part else {}
        new = _without(evaluation, earlier)
        self._database.record(digest, split, new, answered, want.part)
        if evaluation.scored:
            self._answers.keep(digest, split, new)
        tokens = sum(response.tokens for response in evaluation.responses)
        kept = replace(evaluation, responses=(), positions=(), tokens=tokens)
        self._parts(split).setdefault(digest, []).append(kept)
        return kept

    @property
    def path(self) -> Path:
        """Of run.db."""
        return self._database.path

    def known(self, recipe_hash: str, split: str, part: int = 0) -> Evaluation | None:
        """A recipe's evaluation on `split` by that part and those before it, if it was paid for."""
        parts = self._parts(split).get(recipe_hash, [])
        return parts[part] if part < len(parts) else None

    def latest(self, recipe_hash: str, split: str = "search") -> Evaluation:
        """A recorded recipe's evaluation by all that it answered."""
        return latest(self._parts(split)[recipe_hash])

    def again(self, recipe_hash: str) -> list[Evaluation]:
        """What measuring a recorded recipe again on search items came to, each time."""
        return self._parts("search")[recipe_hash][1:]

    def answers(self, recipe_hash: str, split: str, parts: int) -> dict[int, Response]:
        """What a recipe did on a split's items in its first `parts` parts, by position there."""
        return self._database.answers(recipe_hash, split, parts)

    def recorded(self, recipe_hash: str) -> Evaluation:
        """A recorded candidate's first evaluation on the search items: what the searcher was told."""
        return self._parts("search")[recipe_hash][0]

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
        evaluation = self.recorded(row.recipe_hash)
        self._finished(evaluation, False)
        return row, evaluation

    def _parts(self, split: str) -> dict[str, list[Evaluation]]:
        if split not in self._known:
            self._known[split] = self._database.parts(split)
        return self._known[split]

    def _recorded_rows(self, phase: str) -> dict[int, CandidateRow]:
        if phase not in self._recorded:
            self._recorded[phase] = self._database.candidates(phase)
        return self._recorded[phase]


def _rows(group: Sequence[Wanted]) -> Rows:
    """The candidates that wait for one evaluation: the first pays, the others find it."""
    rows = [want.candidate for want in group if want.candidate is not None]
    return [replace(row, cached=position > 0) for position, row in enumerate(rows)]


def _without(evaluation: Evaluation, earlier: Mapping[int, Response]) -> Evaluation:
    """An evaluation with the responses that are not recorded yet."""
    if not earlier:
        return evaluation
    found = zip(evaluation.positions, evaluation.responses, strict=True)
    new = {position: response for position, response in found if position not in earlier}
    return replace(evaluation, positions=tuple(new), responses=tuple(new.values()))


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

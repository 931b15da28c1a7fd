"""A run's budget: what it began with, what it was raised to since, and what of it is spent."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from evomerge.config.search import Budget
from evomerge.evaluation import Evaluation
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.search.plan import ended_key, hours_key
from evomerge.two_stages import FIRST_PHASE, FirstStage
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.judging import Judge

KINDS = ("evaluations", "hours", "answers", "tokens", "patience")
"""What a budget can be bounded in."""

PHASES = (FIRST_PHASE, "search")
"""Whose candidates count."""

_TAKEN = f"taken_by_{FIRST_PHASE}"
"""The fact in run.db: what the first stage had spent when the second began."""

_UNKNOWN = ""
"""Instead of which limit ended a search, where that was never written down."""

_SPENT = {
    "evaluations": "{} candidates were evaluated already",
    "hours": "{:.3g} hours were searched already",
    "answers": "{:,} items were answered already",
    "tokens": "{:,} tokens were generated already",
}


@dataclass(frozen=True)
class Limits:
    """Limits to set instead of a run's; None: as they are. Units and ranges as in `Budget`."""

    evaluations: int | None = None
    hours: float | None = None
    answers: int | None = None
    tokens: int | None = None
    patience: int | None = None

    @property
    def given(self) -> dict[str, float]:
        """Those that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def unlike(self, budget: Budget) -> "Limits":
        """Those that `budget` has not: who repeats a command says nothing new."""
        known = budget.model_dump()
        return replace(self, **{k: None for k, limit in self.given.items() if limit == known[k]})


def with_limits(budget: Budget, limits: Limits, where: str) -> Budget:
    """`budget` with some of its limits set otherwise.

    Args:
        budget: as it was.
        limits: instead of its own.
        where: what they are given for, as an error is to name it.

    Raises:
        InputError: no finite number, or less than it takes to search at all.
    """
    try:
        return Budget.model_validate(budget.model_dump() | limits.given)
    except ValidationError as error:
        first = error.errors()[0]
        kind = str(first["loc"][0])
        raise InputError(
            f"--{kind} {first['input']}",
            first["msg"].replace("Input should be", "it should be"),
            where,
            "give another limit, or leave it out",
        ) from None


def budget_now(run: RunFolder) -> Budget:
    """A run's budget, as raised since it began."""
    raised = dict(run.database.meta("raised", {}))
    if (evaluations := run.database.meta("evaluations")) is not None:
        raised["evaluations"] = evaluations
    return run.config.search.budget.model_copy(update=raised)


def is_finished(run: RunFolder) -> bool:
    """Whether the run has been driven to its end over the budget that it has now."""
    budget, ended = budget_now(run), run.database.meta(ended_key("search"), _UNKNOWN)
    if ended is None:  # raised since, so that nobody knows any more which limit ended it
        return False
    if run.database.meta("finished_at_budget") != budget.evaluations:
        return False
    # Older runs did not write these down: nothing but their evaluations could be raised.
    finished = run.database.meta("finished_limits", _bounds(run.config.search.budget))
    return finished == _bounds(budget)


def set_finished(run: RunFolder) -> None:
    """Write down that it has been."""
    budget = budget_now(run)
    run.database.set_facts(
        {"finished_limits": _bounds(budget), "finished_at_budget": budget.evaluations}
    )


def spent(database: Database) -> dict[str, float]:
    """What a run has spent of each kind but patience: `evaluations`, `hours`, `answers`, `tokens`.

    Both stages' candidates; each recipe's answers once a stage, whoever paid for them. Baselines,
    the random search, selection and test cost none of it.
    """
    known = database.evaluations("search")
    stages = [_spent_in(database, phase, known) for phase in PHASES]
    return {kind: sum(stage[kind] for stage in stages) for kind in stages[0]}


def _spent_in(database: Database, phase: str, known: Mapping[str, Evaluation]) -> dict[str, float]:
    """What one stage has spent; `known`: the run's evaluations on search items."""
    rows = database.candidates(phase).values()
    evaluations = [known[digest] for digest in {row.recipe_hash for row in rows}]
    return {
        "evaluations": len(rows),
        "hours": database.meta(hours_key(phase), 0.0),
        "answers": sum(e.items for e in evaluations),
        "tokens": sum(e.tokens for e in evaluations),
    }


def taken_by_first(database: Database) -> dict[str, float]:
    """What the first of two stages has spent of each kind, once it has ended.

    Written down when it is asked for the first time, and never anew: what it leaves is the second
    stage's limit, by which a replay knows the end that it replays.
    """
    taken = database.meta(_TAKEN)
    if taken is None:
        taken = _spent_in(database, FIRST_PHASE, database.evaluations("search"))
        database.set_meta(_TAKEN, taken)
    return taken


def budget_state(run: RunFolder) -> dict[str, dict[str, float | None]]:
    """Each kind's `limit` (None: none) and what of it is `spent` (of patience nothing is known)."""
    limits: Mapping[str, Any] = budget_now(run).model_dump()
    used = spent(run.database)
    return {kind: {"limit": limits[kind], "spent": used.get(kind)} for kind in KINDS}


def ended_by(run: RunFolder) -> str | None:
    """The limit that ended the search (one of `KINDS`); None: it has not ended."""
    ended = run.database.meta(ended_key("search"))
    return None if ended is None else ended["reason"]


def raise_budget(run: RunFolder, limits: Limits, first: FirstStage | None) -> None:
    """Set some of a run's limits otherwise: more than before, or less, but not less than is spent.

    The first of two stages stays what it was begun as; what is added is the second's.

    Raises:
        InputError: less than is spent, or than the first stage takes.
    """
    if not limits.given:
        return
    used = spent(run.database)
    for kind, limit in limits.given.items():
        if first is not None:
            _require_second_stage(run, kind, limit, first)
        if kind in used and limit < used[kind]:
            raise InputError(
                f"--{kind} {limit}",
                _SPENT[kind].format(used[kind]),
                str(run.path),
                f"give {_least(used[kind])} or more",
            )
    others = {kind: limit for kind, limit in limits.given.items() if kind != "evaluations"}
    facts: dict[str, Any] = {ended_key("search"): None}
    if limits.evaluations is not None:
        facts["evaluations"] = limits.evaluations
    if others:
        facts["raised"] = run.database.meta("raised", {}) | others
    run.database.set_facts(facts)
    run.database.event("budget", **limits.given)


def _require_second_stage(run: RunFolder, kind: str, limit: float, first: FirstStage) -> None:
    begun = run.config.search.budget.model_dump()[kind]
    takes = first.evaluations if kind == "evaluations" else first.share * (begun or 0)
    if kind == "patience" or limit > takes:
        return
    more = first.evaluations + 1 if kind == "evaluations" else f"more than {takes:g}"
    raise InputError(
        f"--{kind} {limit}",
        f"the first stage takes {takes:g}, as it was begun, and the second some more",
        str(run.path),
        f"give {more} or more" if kind == "evaluations" else f"give {more}",
    )


def _least(used: float) -> str:
    return f"{math.ceil(1000 * used) / 1000:g}" if isinstance(used, float) else f"{used}"


def _bounds(budget: Budget) -> dict[str, Any]:
    """The limits but that of evaluations, for comparing."""
    return {kind: limit for kind, limit in budget.model_dump().items() if kind != "evaluations"}


def check_tokens(budget: Budget, judge: "Judge") -> None:
    """Refuse a bound on tokens where no item has any generated.

    Raises:
        InputError: every task is multiple choice.
    """
    if budget.tokens is None:
        return
    items = judge.items["search"]
    if not any(request.kind == "generate" for item in items for request in item.requests):
        raise InputError(
            f"tokens {budget.tokens}",
            "no task has text generated, so it would never be reached",
            "search.budget",
            "bound the answers instead",
        )

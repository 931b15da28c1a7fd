"""What the report knows of a run: read once, at one moment, and handed to every section."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evomerge.config import RunFile
from evomerge.live.variables import seen, space_key
from evomerge.report.html.clock import Clock, Timed, clock_of, seconds
from evomerge.report.html.recipes import recipe_for
from evomerge.report.names import WINNER
from evomerge.report.summary import load_candidates, measured, stored_goals, summarise
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.runs.rows import CandidateRow
from evomerge.search import choice
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from fitness.items import Response

if TYPE_CHECKING:
    from search_spaces.recipe import Recipe

PHASES = ("search", "random")


@dataclass(frozen=True)
class Phase:
    """Candidates of one phase, in the order of ask, and their rows."""

    candidates: Sequence[Candidate]
    rows: Sequence[CandidateRow]


@dataclass(frozen=True)
class Story:
    """A run, read.

    Attributes:
        name: the run folder's.
        place: the run folder, as the user named it.
        config: the frozen run file.
        run_file: its text.
        summary: what `show --json` prints.
        goals: what is optimised.
        variables: names, in the genomes' order.
        space: the same variables' ranges, options and conditions (see `live.variables.described`).
        algorithm: of the search.
        phases: `search` and `random`.
        timed: every evaluation, in order of completion.
        events: when (ISO 8601), kind, detail (JSON).
        clock: when it worked.
        models: baseline or `winner` -> recipe hash, of those the test items scored.
        sources_seen: source or baseline -> its objectives on the search items, where those were asked.
        answered: the same names -> responses to the test items.
        questions: task -> index of a test item -> the end of its prompt; empty in runs that kept none.
        best: the winner; before there is one, the best candidate so far, or while none keeps every
            constraint the nearest to it.
        recipe: the winner's, or the best candidate's so far; None where it cannot be told.
    """

    name: str
    place: str
    config: RunFile
    run_file: str
    summary: Mapping[str, Any]
    goals: Goals
    variables: Sequence[str]
    space: Sequence[Mapping[str, Any]]
    algorithm: str
    phases: Mapping[str, Phase]
    timed: Sequence[Timed]
    events: Sequence[tuple[str, str, str]]
    clock: Clock
    models: Mapping[str, str]
    sources_seen: Mapping[str, Mapping[str, Mapping[str, float]]]
    answered: Mapping[str, Sequence[Response]]
    questions: Mapping[str, Mapping[str, str]]
    best: Mapping[str, Any] | None
    recipe: "Recipe | None" = field(repr=False)

    @property
    def final(self) -> bool:
        """Whether a winner was chosen."""
        return self.summary["chosen"] is not None

    @property
    def feasible(self) -> bool:
        """Whether a candidate was scored and kept every constraint."""
        return any(c["on_front"] for c in self.summary["candidates"])

    @property
    def called(self) -> str:
        """What `best` is."""
        if self.final:
            return WINNER
        return "best so far" if self.feasible else "nearest to the constraints"

    @property
    def reopened(self) -> bool:
        """Whether the search goes on, over a raised budget, after the winner was chosen."""
        raised = any(kind == "budget" for _, kind, _ in self.events)
        unfinished = self.summary["status"] != "done" and self.summary["ended_by"] is None
        return self.final and raised and unfinished

    @property
    def unscored_sources(self) -> list[str]:
        """Sources without a score on the test items."""
        known = self.summary["baselines"]
        return [name for name in self.config.models.sources if name not in known]

    @property
    def kept(self) -> int:
        """Layers of every stack that are no part of the search."""
        space = self.config.space
        return getattr(space, "first", 0) + getattr(space, "last", 0)

    @property
    def racing(self) -> bool:
        """Whether candidates answered unlike numbers of items."""
        return bool(self.config.fitness.racing.rungs)

    @cached_property
    def finished(self) -> dict[str, Timed]:
        """Recipe hash -> its first evaluation on the search items."""
        found: dict[str, Timed] = {}
        for timed in self.timed:
            if timed.split == "search":
                found.setdefault(timed.recipe_hash, timed)
        return found

    @property
    def signs(self) -> Mapping[str, int]:
        """Objective -> 1 where more is better, else -1."""
        return self.goals.signs


def read_story(run: RunFolder, place: str) -> Story:
    """Everything the report tells.

    Args:
        run: opened; a driver may be at work on it.
        place: the folder, as the user named it.
    """
    database = run.database
    with database.snapshot():
        summary = summarise(run)
        goals = stored_goals(run)
        phases = {name: Phase(*load_candidates(database, name)) for name in PHASES}
        timed = _timed(database)
        events = database.select("SELECT at, kind, detail FROM events ORDER BY id")
        models = measured(run)
        test = database.responses("test")
        variables = database.meta("variables", [])
        genomes = [c.genome for phase in phases.values() for c in phase.candidates]
        space = database.meta(space_key("search")) or seen(variables, genomes)
        best = _best(summary, phases["search"].candidates, goals, run)
        return Story(
            name=run.path.resolve().name,
            place=place,
            config=run.config,
            run_file=(run.path / "run.yaml").read_text(),
            summary=summary,
            goals=goals,
            variables=variables,
            space=space,
            algorithm=database.meta("algorithm", ""),
            phases=phases,
            timed=timed,
            events=events,
            clock=clock_of([(at, kind) for at, kind, _ in events], [t.finished for t in timed]),
            models=models,
            sources_seen=_seen(database, models),
            answered={name: test[digest] for name, digest in models.items()},
            questions=database.meta("questions", {}),
            best=best,
            recipe=recipe_for(run, best),
        )


def _timed(database: Database) -> list[Timed]:
    rows = database.select(
        "SELECT recipe_hash, split, part, outcome, merge_seconds, score_seconds, worker, finished,"
        " answers, reason FROM evaluations ORDER BY id"
    )
    return [
        Timed(digest, split, part, outcome, merge, score, worker, seconds(at), answers, reason)
        for digest, split, part, outcome, merge, score, worker, at, answers, reason in rows
    ]


def _seen(database: Database, models: Mapping[str, str]) -> dict[str, Any]:
    """What the search items say of sources and baselines, which are asked them in some runs only."""
    found = database.evaluations("search")
    return {
        name: {o: {"value": e.value, "se": e.se} for o, e in found[digest].objectives.items()}
        for name, digest in models.items()
        if name != WINNER and digest in found and found[digest].scored
    }


def _best(
    summary: Mapping[str, Any], candidates: Sequence[Candidate], goals: Goals, run: RunFolder
) -> Mapping[str, Any] | None:
    """The winner's entry in the summary; before there is one, what would be picked now."""
    by_id = {c["id"]: c for c in summary["candidates"]}
    if summary["chosen"] is not None:
        return by_id[summary["chosen"]]
    scored = [c for c in candidates if c.evaluation.scored]
    if not scored:
        return None
    if not any(c["on_front"] for c in summary["candidates"]):
        nearest = min(scored, key=lambda c: float(goals.violations([c.evaluation]).sum()))
        return by_id[nearest.id]
    racing = bool(run.config.fitness.racing.rungs)
    return by_id[choice.pick(scored, goals, run.config.export.pick, racing=racing).id]

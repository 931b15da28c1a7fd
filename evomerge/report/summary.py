"""What a run found, read from its folder: the object behind `show`, the export's card and the table."""

from typing import Any

from evomerge.budgets import budget_now, is_finished
from evomerge.evaluation import AS_SEARCHED, Evaluation
from evomerge.live.state import state_of
from evomerge.report.honesty import honesty
from evomerge.report.names import LABELS
from evomerge.report.stacks import BEST_START, stacks
from evomerge.report.warm import warm_start
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.runs.rows import CandidateRow
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals, plain, scores_among
from evomerge.search.standing import Standing
from evomerge.two_stages import FIRST_PHASE


def summarise(run: RunFolder) -> dict[str, Any]:
    """Everything `show --json` prints: plain data, in the contract's form.

    Candidates come in the order of ask with their scores on the search items; `selection` holds the
    second scores of those that got one; baselines are on the test items.
    """
    with run.database.snapshot():
        return _summary(run, run.database)


def _summary(run: RunFolder, database: Database) -> dict[str, Any]:
    goals = stored_goals(run)
    candidates, rows = load_candidates(database)
    first, first_rows = load_candidates(database, FIRST_PHASE)
    standing = Standing(goals, racing=bool(run.config.fitness.racing.rungs))
    standing.add(candidates)
    front = {member.key for member in standing.archive.front()}
    choice = database.meta("choice", {"id": None, "finalists": []})
    budget = budget_of(run)
    averaged = _averaged(run)
    answers = {c.recipe_hash: c.evaluation.items for c in [*first, *candidates]}
    honest = honesty(run, goals, candidates, measured(run), averaged)
    began = warm_start(database, candidates, choice["id"])
    if honest and began:
        honest["sentences"].append(began["sentence"])
    return {
        "run": str(run.path),
        "status": _status(run),
        "budget": {
            "evaluations": budget,
            "done": len(first) + len(candidates),
            "failed": sum(not c.evaluation.scored for c in [*first, *candidates]),
            "cached": sum(row.cached for row in [*first_rows, *rows]),
        },
        "answers": sum(answers.values()),
        "objectives": database.meta("objectives", []),
        "candidates": _described(candidates, rows, front, choice, database.meta("variables", [])),
        "baselines": baselines(run),
        "as_searched": as_searched(run),
        "hypervolume": standing.hypervolume(),
        "hypervolume_se": standing.hypervolume_error(),
        "chosen": choice["id"],
        "averaged": averaged,
        "honesty": honest,
        "warm_start": began,
        "unscored": unscored(run),
        "stacks": stacks(run, goals),
        "constraints": _constraints(goals, candidates),
        "first_stage": _first_stage(run, goals, first, first_rows),
    } | state_of(run)


def _first_stage(
    run: RunFolder, goals: Goals, candidates: list[Candidate], rows: list[CandidateRow]
) -> dict[str, Any] | None:
    """The first of two stages: its `candidates` (as those of the search), which of them was `chosen`,
    and the `hypervolume`. None where there is none, or nothing of it yet."""
    if not candidates:
        return None
    standing = Standing(goals, racing=bool(run.config.fitness.racing.rungs))
    standing.add(candidates)
    front = {member.key for member in standing.archive.front()}
    choice = run.database.meta(f"{FIRST_PHASE}_choice", {"id": None, "finalists": []})
    variables = run.database.meta(f"{FIRST_PHASE}_variables", [])
    return {
        "candidates": _described(candidates, rows, front, choice, variables),
        "chosen": choice["id"],
        "hypervolume": standing.hypervolume(),
    }


def _constraints(goals: Goals, candidates: list[Candidate]) -> list[dict[str, Any]]:
    """Each bound, how many scored candidates break it, and the value that came nearest."""
    found: list[dict[str, Any]] = []
    for bound in goals.constraints:
        values = [
            c.evaluation.objectives[bound.objective].value
            for c in candidates
            if c.evaluation.scored
        ]
        nearest = (max if bound.sign == ">=" else min)(values, default=None)
        found.append(
            {
                "text": f"{bound.objective} {bound.sign} {bound.bound:g}",
                "broken": sum(bound.violation(v) > 0 for v in values),
                "nearest": nearest,
            }
        )
    return found


def unscored(run: RunFolder) -> dict[str, str]:
    """Baselines (and winner) that the test items could not be scored for, and why."""
    evaluations = run.database.evaluations("test")
    failed: dict[str, str] = {}
    for name, (digest, _) in run.database.recipes().items():
        if digest in evaluations and not evaluations[digest].scored:
            failed[name] = f"{evaluations[digest].outcome}: {evaluations[digest].reason}"
    return failed


def _averaged(run: RunFolder) -> bool:
    """Whether the mean of the objectives is one of independent scores: no task in two of them."""
    objectives = run.config.fitness.all_objectives
    tasks = [task for o in objectives for task in ([o.task] if o.task else list(o.tasks or {}))]
    scores = all((o.task or o.tasks) and o.direction != "minimize" for o in objectives)
    maximised = all(o["direction"] == "maximize" for o in run.database.meta("objectives", []))
    return len(objectives) > 1 and scores and maximised and len(tasks) == len(set(tasks))


def budget_of(run: RunFolder) -> int:
    """The run's budget in evaluations, as raised since it began."""
    return budget_now(run).evaluations


def _status(run: RunFolder) -> str:
    """`running`, `done`, or `interrupted` (resumable)."""
    if run.driven():
        return "running"
    return "done" if is_finished(run) else "interrupted"


def stored_goals(run: RunFolder) -> Goals:
    """What the run optimises, as its database says."""
    described = run.database.meta("objectives", [])
    fitness = run.config.fitness
    directions = tuple(o["direction"] for o in described)
    return Goals(
        names=tuple(o["name"] for o in described),
        directions=directions,
        weights=tuple(o.weight for o in fitness.all_objectives)[: len(described)],
        constraints=tuple(fitness.all_constraints),
        scores=scores_among(fitness.all_objectives, directions),
    )


def load_candidates(
    database: Database, phase: str = "search"
) -> tuple[list[Candidate], list[CandidateRow]]:
    """The candidates of a phase, in the order of ask, and their rows."""
    evaluations = database.evaluations("search")
    rows = list(database.candidates(phase).values())
    found = [Candidate(r.id, r.genome, r.recipe_hash, evaluations[r.recipe_hash]) for r in rows]
    return found, rows


def _described(
    candidates: list[Candidate],
    rows: list[CandidateRow],
    front: set[str],
    choice: dict[str, Any],
    variables: list[str],
) -> list[dict[str, Any]]:
    again = {c["recipe_hash"]: c["objectives"] for c in choice["finalists"]}
    described: list[dict[str, Any]] = []
    shown: set[str] = set()
    for candidate, row in zip(candidates, rows, strict=True):
        evaluation = candidate.evaluation
        first = candidate.recipe_hash not in shown
        shown.add(candidate.recipe_hash)
        described.append(
            {
                "id": candidate.id,
                "genome": dict(zip(variables, candidate.genome, strict=True)),
                "recipe_hash": candidate.recipe_hash,
                "objectives": plain(evaluation.objectives),
                "items": evaluation.items,
                "seconds": _seconds(evaluation),
                "worker": evaluation.worker,
                "outcome": evaluation.outcome.value,
                "reason": evaluation.reason,
                "generation": row.generation,
                "cached": row.cached,
                "on_front": candidate.recipe_hash in front and first,
                "selection": again.get(candidate.recipe_hash),
            }
        )
    return described


def _seconds(evaluation: Evaluation) -> float:
    return round(evaluation.merge_seconds + evaluation.score_seconds, 4)


def as_searched(run: RunFolder) -> dict[str, dict[str, float]]:
    """The winner's objectives on the test items when merged by looked-up thresholds.

    Empty where its rule looks none up. `baselines` has the same by exact thresholds.
    """
    digest = run.database.meta("choice", {}).get("recipe_hash")
    evaluation = run.database.evaluations(AS_SEARCHED).get(digest)
    return plain(evaluation.objectives) if evaluation and evaluation.scored else {}


def measured(run: RunFolder) -> dict[str, str]:
    """Name -> recipe hash of what the test items scored: sources, and what `LABELS` lists."""
    evaluations = run.database.evaluations("test")
    recipes = run.database.recipes()
    chosen = {
        "winner": run.database.meta("choice", {}).get("recipe_hash"),
        "random_search": run.database.meta("random_choice", {}).get("recipe_hash"),
        FIRST_PHASE: run.database.meta(f"{FIRST_PHASE}_choice", {}).get("recipe_hash"),
        BEST_START: run.database.meta(BEST_START, {}).get("recipe_hash"),
    }
    names = [*run.config.models.sources, *LABELS]
    found: dict[str, str] = {}
    for name in names:
        digest = recipes[name][0] if name in recipes else None
        if name in chosen and digest != chosen[name]:
            continue  # an earlier choice's: a raised budget has made another one since
        if digest in evaluations and evaluations[digest].scored:
            found[name] = digest
    return found


def baselines(run: RunFolder) -> dict[str, dict[str, dict[str, float]]]:
    """Name -> objectives on the test items, of what `measured` lists."""
    evaluations = run.database.evaluations("test")
    return {name: plain(evaluations[its].objectives) for name, its in measured(run).items()}

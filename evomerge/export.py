"""Export: a candidate becomes an ordinary Hugging Face folder, verified, with a card, ready to push."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config import RunFile
from evomerge.hand_over.errors import HandOverError
from evomerge.hand_over.handed import HandedOver
from evomerge.hand_over.push import Push, check_push, upload
from evomerge.licences import judge_licences, licences_of
from evomerge.report.card import Subject as CardSubject
from evomerge.report.card import model_card
from evomerge.report.summary import summarise
from evomerge.run_sources import frozen_locations, open_run_sources, references
from evomerge.runs.folder import RunFolder, check_sources_unchanged
from evomerge.search.picks import PREFER, check_pick
from evomerge.two_stages import FIRST_PHASE
from search_spaces.dialect_sources import LORA
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.hand_over.verify import Verified
    from evomerge.licences import Verdict
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources
    from search_spaces.recipe import Recipe

NOT_VERIFIED = "NOT_VERIFIED.txt"
"""In a folder that was kept though it is not the candidate."""


@dataclass(frozen=True)
class _Plan:
    """Everything that is known before anything is written."""

    card: CardSubject
    recipe: Recipe
    sources: Sources
    places: dict[str, Location]
    prompts: tuple[list[str], str]
    config: RunFile


def export_candidate(
    folder: Path,
    out: Path,
    pick: str | None,
    moved: Sequence[str] = (),
    *,
    verified: bool = True,
    push: Push | None = None,
) -> HandedOver:
    """Write a run's candidate as a Hugging Face folder with recipe.yaml, model card and distances.

    The folder is whole and verified, or absent. One that turns out not to be the candidate is kept
    as `OUT.failed`.

    Args:
        folder: of the run.
        out: new or empty folder.
        pick: a candidate's id, or `best:OBJECTIVE`, `knee`, `prefer:NAME=W,NAME=W` (all among the
            finalists, by their selection items); None: the run's winner.
        moved: what lies elsewhere now (see `found_again`); only `resume` remembers it.
        verified: whether to load the folder and compare it with the search's candidate.
        push: where on the Hub it goes afterwards; None: nowhere.

    Raises:
        InputError: no such candidate, sources changed, `out` holds something, disk full, a push that
            is refused.
        HandOverError: the folder is not the candidate; or the Hub did not take it.
    """
    from evomerge.merge.writer import require_new, write_model
    from search_spaces.dialect import dump_recipe

    require_new(out)
    run = RunFolder.open(folder)
    try:
        plan = _plan(run, pick, moved, verified, push)
    finally:
        run.close()
    verdict, called = plan.card.verdict, dict(plan.card.called)
    if push is not None:
        check_push(push, verdict)
        called = _shareable(called)
    alone = replace(plan.recipe, tokenizer=plan.sources.tokenizer).renamed(called)
    found: list[tuple[Verified | None, tuple[str, ...]]] = []
    write_model(
        plan.recipe,
        plan.sources,
        out,
        max_shard_bytes=int(plan.config.export.max_shard_gb * 1e9),
        extra_files={"recipe.yaml": dump_recipe(alone)},
        finish=lambda made: found.append(_finish(made, out, plan, verified)),
    )
    done, warnings = found[0]
    handed = HandedOver(
        out, dict(plan.card.candidate), done, verdict, (*_of_licences(verdict), *warnings)
    )
    if push is None:
        return handed
    pushed = upload(out, push)
    warnings = (*handed.warnings, *pushed.warnings)
    return replace(handed, address=pushed.address, warnings=warnings)


def _plan(
    run: RunFolder, pick: str | None, moved: Sequence[str], verified: bool, push: Push | None
) -> _Plan:
    from evomerge.merge.locations import lasting_name
    from search_spaces.dialect import dump_recipe

    summary = summarise(run)
    candidate = picked(run, summary, pick)
    first = first_winner(run)
    counted = Counter((row.task, row.split) for row in run.database.items())
    answers = _answers(run, candidate)
    run.find_files(moved, tasks=False)
    config = run.config
    check_sources_unchanged(config)
    places = frozen_locations(config)
    sources = open_run_sources(config, places)
    recipe = recipe_of(candidate, config, sources, first)
    words = references(config)
    used = {name: places[name] for name in recipe.sources}
    licences = licences_of(used)
    tasks = dict.fromkeys(task for task, _ in counted)
    is_winner = candidate["id"] == summary["chosen"]
    card = CardSubject(
        title=f"{run.path.name}-{candidate['id']}",
        recipe=recipe,
        text=dump_recipe(replace(recipe, tokenizer=sources.tokenizer)),
        candidate=candidate,
        summary=summary,
        config=config,
        measured="winner" in summary["baselines"] and is_winner,
        items={t: {s: n for (task, s), n in counted.items() if task == t} for t in tasks},
        answers=answers,
        called={name: lasting_name(words[name], place) for name, place in places.items()},
        licences=licences,
        verdict=judge_licences(licences),
        picked="" if is_winner else _how(pick or ""),
        place=push.repo if push else ".",
    )
    prompts = _prompts(run, moved, sources) if verified else ([], "")
    return _Plan(card, recipe, sources, places, prompts, config)


def _shareable(called: dict[str, str]) -> dict[str, str]:
    """Sources' lasting names without paths of this machine: what lies there by the run's name."""
    own = {n: any(Path(part).is_absolute() for part in t.split(LORA)) for n, t in called.items()}
    return {name: name if own[name] else text for name, text in called.items()}


def _how(pick: str) -> str:
    if pick.isdigit():
        return "it was chosen by hand, by its number"
    return f"it was picked as `{pick}` among those scored last"


def _prompts(run: RunFolder, moved: Sequence[str], sources: Sources) -> tuple[list[str], str]:
    """Prompts to compare by, and a note if they are not the run's."""
    from evomerge.hand_over.verify import PLAIN, search_prompts
    from evomerge.run_file import folder_of
    from fitness.errors import FitnessError

    try:
        run.find_files(moved)
        origin = folder_of(run.config, Path())
        return search_prompts(run.config, origin, sources.folder(sources.names[0])), ""
    except (InputError, FitnessError):
        return list(PLAIN), "plain sentences as prompts, for the run's tasks cannot be read"


def _finish(
    made: Path, out: Path, plan: _Plan, verified: bool
) -> tuple[Verified | None, tuple[str, ...]]:
    """Verify what was written, and add what stands beside it."""
    from evomerge.hand_over.distances import measure
    from evomerge.hand_over.distances_svg import picture
    from evomerge.hand_over.texts import copy_texts
    from evomerge.hand_over.verify import Subject, verify

    recipe, sources = plan.recipe, plan.sources
    done: Verified | None = None
    if verified:
        prompts, note = plan.prompts
        done = verify(made, Subject(recipe, sources, plan.config, plan.places, prompts, note))
        if done.problems:
            raise _set_aside(made, out, done.problems)
    distances = measure(made, recipe, sources)
    base = "base" if plan.config.models.base else None
    (made / "distances.svg").write_text(picture(distances, base), encoding="utf-8")
    used = {name: plan.places[name] for name in recipe.sources}
    copy_texts(used, plan.card.licences, plan.card.verdict, made)
    card = model_card(plan.card, verified=done, distances=distances)
    (made / "README.md").write_text(card, encoding="utf-8")
    odd = done.files.warnings if done else ()
    return done, (*distances.warnings, *odd)


def _set_aside(made: Path, out: Path, problems: Sequence[str]) -> HandOverError:
    """Keep a folder that is not the candidate under another name, marked."""
    (made / NOT_VERIFIED).write_text("\n".join(problems) + "\n", encoding="utf-8")
    names = (out.with_name(f"{out.name}.failed{n or ''}") for n in range(1000))
    aside = next(name for name in names if not name.exists())
    made.rename(aside)
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return HandOverError(
        f"the export is not the search's candidate: {'; '.join(problems[:3])}{more}; it is kept as "
        f"{aside}, do not use it; check disk and memory and export again"
    )


def _of_licences(verdict: Verdict) -> list[str]:
    found = [f"licences conflict: {sentence}" for sentence in verdict.conflicts]
    if verdict.unknown:
        names = ", ".join(verdict.unknown)
        found.append(f"no licence is known of {names}: unknown is not free, ask before you publish")
    if verdict.unread:
        names = ", ".join(verdict.unread)
        found.append(f"the terms of {names} are not known here: read them before you publish")
    return found


def _answers(run: RunFolder, candidate: dict[str, Any]) -> dict[str, int] | None:
    """How many of the candidate's answers, on the newest items it saw, were cut or unreadable."""
    for split in ("test", "selection", "search"):
        found = run.database.responses(split).get(candidate["recipe_hash"])
        if found:
            return {
                "items": len(found),
                "truncated": sum(r.truncated for r in found),
                "parse_failures": sum(r.parse_failure for r in found),
            }
    return None


def first_winner(run: RunFolder) -> dict[str, Any] | None:
    """Genome and recipe hash of what the first of two stages chose; None: there was one stage."""
    choice = run.database.meta(f"{FIRST_PHASE}_choice")
    if choice is None:
        return None
    row = run.database.candidates(FIRST_PHASE)[choice["id"]]
    return {"id": row.id, "genome": row.genome, "recipe_hash": row.recipe_hash}


def recipe_of(
    candidate: dict[str, Any],
    config: RunFile,
    sources: Sources,
    first: dict[str, Any] | None = None,
) -> Recipe:
    """A candidate's recipe, decoded from its genome and checked against its recorded hash.

    Args:
        candidate: its entry in the summary.
        config: the run file.
        sources: opened.
        first: of a search in two stages, what the first chose (`first_winner`).
    """
    from evomerge.spaces import build_space, first_stage

    merged = None
    before = first_stage(config, sources)
    if before is not None and first is not None:
        merged = before.decode(first["genome"])
        _check_recorded(merged, f"first stage's candidate {first['id']}", first["recipe_hash"])
    genome = tuple(candidate["genome"].values())
    recipe = build_space(config, sources, merged).decode(genome)
    _check_recorded(recipe, f"candidate {candidate['id']}", candidate["recipe_hash"])
    return recipe


def _check_recorded(recipe: Recipe, what: str, recorded: str) -> None:
    if recipe.hash != recorded:
        raise InputError(
            what,
            "its genome no longer decodes to the recorded recipe",
            "run.db",
            "use the evomerge that wrote it (see run.yaml, frozen.packages)",
        )


def picked(run: RunFolder, summary: dict[str, Any], pick: str | None) -> dict[str, Any]:
    """The summary's entry of the candidate that `pick` names."""
    from evomerge.report.summary import load_candidates, stored_goals
    from evomerge.search import choice

    by_id = {c["id"]: c for c in summary["candidates"]}
    if pick is None:
        if summary["chosen"] is None:
            raise InputError(
                f"'{run.path}'",
                f"it has chosen no winner yet (status: {summary['status']})",
                str(run.path),
                ("wait for it" if run.driven() else f"finish it with 'evomerge resume {run.path}'")
                + ", or name an id with --pick",
            )
        return by_id[summary["chosen"]]
    if pick.isdigit():
        if int(pick) not in by_id or by_id[int(pick)]["outcome"] != "scored":
            front = [str(c["id"]) for c in summary["candidates"] if c["on_front"]]
            raise InputError(
                f"--pick {pick}",
                "no scored candidate has this id",
                str(run.path),
                f"ids on the front: {', '.join(front)}",
            )
        return by_id[int(pick)]
    again = {c["id"] for c in summary["candidates"] if c["selection"]}
    candidates, _ = load_candidates(run.database)
    scored = [c for c in candidates if c.evaluation.scored]
    if again:
        second = run.database.evaluations("selection")
        scored = [replace(c, evaluation=second[c.recipe_hash]) for c in scored if c.id in again]
    if not scored:
        raise InputError(
            f"'{run.path}'", "no candidate was scored yet", str(run.path), "resume it first"
        )
    racing = bool(run.config.fitness.racing.rungs) and not again
    goals = stored_goals(run)
    check_pick(pick, goals.names, "--prefer" if pick.startswith(PREFER) else "--pick")
    return by_id[choice.pick(scored, goals, pick, racing=racing).id]

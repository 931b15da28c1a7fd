"""Export: a candidate becomes an ordinary Hugging Face folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config import RunFile
from evomerge.report.card import model_card
from evomerge.report.summary import summarise
from evomerge.run_sources import frozen_locations, open_run_sources, references
from evomerge.runs.folder import RunFolder, check_sources_unchanged
from evomerge.two_stages import FIRST_PHASE
from search_spaces.errors import InputError

if TYPE_CHECKING:
    from evomerge.merge.sources import Sources
    from search_spaces.recipe import Recipe


def export_candidate(
    folder: Path, out: Path, pick: str | None, moved: Sequence[str] = ()
) -> dict[str, Any]:
    """Write a run's candidate as a Hugging Face folder with recipe.yaml and a model card.

    Args:
        folder: of the run.
        out: new or empty folder.
        pick: a candidate's id, `best:OBJECTIVE` or `knee` (both among the finalists, by their
            selection items); None: the run's winner.
        moved: what lies elsewhere now (see `found_again`); only `resume` remembers it.

    Returns:
        The candidate's entry in the run's summary.

    Raises:
        InputError: no such candidate, sources changed, `out` holds something, disk full.
    """
    from evomerge.merge.locations import lasting_name
    from evomerge.merge.writer import write_model
    from search_spaces.dialect import dump_recipe

    run = RunFolder.open(folder)
    try:
        summary = summarise(run)
        candidate = picked(run, summary, pick)
        first = first_winner(run)
        run.find_files(moved, tasks=False)
        config = run.config
        check_sources_unchanged(config)
    finally:
        run.close()
    places = frozen_locations(config)
    sources = open_run_sources(config, places)
    recipe = recipe_of(candidate, config, sources, first)
    called = references(config)
    names = {name: lasting_name(called[name], place) for name, place in places.items()}
    alone = replace(recipe, tokenizer=sources.tokenizer).renamed(names)
    card = model_card(
        title=f"{folder.name}-{candidate['id']}",
        recipe=recipe,
        candidate=candidate,
        summary=summary,
        config=config,
        measured="winner" in summary["baselines"] and candidate["id"] == summary["chosen"],
    )
    write_model(
        recipe,
        sources,
        out,
        max_shard_bytes=int(config.export.max_shard_gb * 1e9),
        extra_files={"recipe.yaml": dump_recipe(alone), "README.md": card},
    )
    return candidate


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
    sources: "Sources",
    first: dict[str, Any] | None = None,
) -> "Recipe":
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


def _check_recorded(recipe: "Recipe", what: str, recorded: str) -> None:
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
                f"finish it with 'evomerge resume {run.path}', or name an id with --pick",
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
    return by_id[choice.pick(scored, stored_goals(run), pick, racing=racing).id]

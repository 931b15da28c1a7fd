"""How to make it again: commands, recipe, run file, versions."""

import shlex

from evomerge.report.html.section import Section, copyable, folded, paragraph, table
from evomerge.report.html.story import Story
from evomerge.run_sources import references
from search_spaces.errors import InputError


def reproduce(story: Story) -> Section:
    """Commands, the recipe with its sources' places, the frozen run file, versions."""
    frozen = story.config.frozen
    assert frozen is not None
    place = shlex.quote(story.place)
    html = "<h3>Commands</h3>" + copyable(_commands(story, place), "commands")
    recipe = recipe_text(story)
    if recipe is not None:
        html += "<h3>The recipe</h3>"
        html += paragraph(
            "In mergekit's dialect. Saved as recipe.yaml, `evomerge merge recipe.yaml OUT` writes the"
            " same weights wherever its sources are found."
        )
        html += copyable(recipe, "recipe-yaml")
    elif story.best is None:
        html += paragraph("There is no recipe yet.")
    html += "<h3>The run</h3>"
    html += paragraph(
        f"Begun {frozen.created}, seed {story.config.search.seed}"
        f" ({story.config.search.schedule}). The run file with everything resolved stands below; it"
        " names folders of the machine it ran on."
    )
    html += folded("The frozen run file", copyable(story.run_file, "run-file"))
    rows = [[name, version] for name, version in frozen.packages.items()]
    html += folded(
        "Exact versions", table(["package", "version"], rows, "Versions of the run", words=2)
    )
    return Section("reproduce", "Make it again", html)


def _commands(story: Story, place: str) -> str:
    lines = [f"evomerge show {place}"]
    if story.summary["status"] == "interrupted":
        lines.append(f"evomerge resume {place}    # continue where it stopped")
    if story.best is not None:
        pick = "" if story.final else f" --pick {story.best['id']}"
        lines.append(f"evomerge export {place} OUT{pick}    # this model as a Hugging Face folder")
        lines.append("evomerge merge recipe.yaml OUT    # the same, from the recipe below")
    return "\n".join([*lines, *_once_more(story, place)])


def _once_more(story: Story, place: str) -> list[str]:
    """The whole search anew, with the limits that were raised since it began."""
    begun = story.config.search.budget.model_dump()
    now = {kind: found["limit"] for kind, found in story.summary["limits"].items()}
    raised = " ".join(f"--{k} {v}" for k, v in now.items() if v is not None and v != begun[k])
    search, why = f"evomerge search {place}/run.yaml --dir AGAIN", "the whole search once more"
    # a first stage's share is of the budget that the run began with
    if raised and story.summary["first_stage"]:
        return [f"{search}    # {why}", f"evomerge resume AGAIN {raised}    # as it was raised"]
    return [" ".join(filter(None, [search, raised])) + f"    # {why}"]


def recipe_text(story: Story) -> str | None:
    """The recipe of winner or best, sources by hub id and commit or by path; None: not known."""
    from evomerge.merge.locations import lasting_name
    from evomerge.run_sources import frozen_locations
    from search_spaces.dialect import dump_recipe

    if story.recipe is None:
        return None
    try:
        places, called = frozen_locations(story.config), references(story.config)
        names = {name: lasting_name(called[name], place) for name, place in places.items()}
        return dump_recipe(story.recipe.renamed(names))
    except (InputError, OSError):  # sources moved away: their names in the run have to do
        return dump_recipe(story.recipe)

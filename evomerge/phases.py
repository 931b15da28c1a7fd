"""What a session does with a run: search in one stage or two, choose, baselines, the test.

Each step is found in run.db or paid for, so a run that died goes through all of them again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.budgets import taken_by_first
from evomerge.config.search import Budget
from evomerge.evaluation import AS_SEARCHED
from evomerge.legs import rule_looks_up
from evomerge.preflight import Prepared, first_plan_of, plan_of
from evomerge.report.alive import SOURCES_SEARCHED
from evomerge.report.paths import path_text
from evomerge.report.stacks import BEST_START
from evomerge.runs.database import Database
from evomerge.runs.ledger import Wanted
from evomerge.search.baselines import greedy_soup, reference_recipes
from evomerge.search.candidate import Candidate
from evomerge.search.choice import Choice, choose
from evomerge.search.driver import Driver
from evomerge.search.goals import Goals, plain
from evomerge.search.plan import Plan
from evomerge.spaces import MERGED, with_merged
from evomerge.two_stages import FIRST_CHANCE
from search_spaces.dialect import dump_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import Input, Recipe, Slice
from search_spaces.rules import METHOD, RULES
from search_spaces.space import SearchSpace, from_unit, to_unit


@dataclass(frozen=True)
class Night:
    """A run being driven.

    Attributes:
        database: its record.
        prepared: its run file.
        driver: over the run file's space; of two stages the second's, as it was prepared.
    """

    database: Database
    prepared: Prepared
    driver: Driver

    def over(self, space: SearchSpace, goals: Goals) -> Driver:
        """A driver of the same run over another space."""
        own = self.driver
        return Driver(space, goals, own.ledger, self.database, own.view, own.rules)


@dataclass(frozen=True)
class Searched:
    """What a search came to.

    Attributes:
        driver: over the space that was searched last.
        candidates: of that space.
        choice: among them; None: none was scored and kept every constraint.
        first: candidates of the stage before; 0: there was none.
        merged: what that stage found.
    """

    driver: Driver
    candidates: Sequence[Candidate]
    choice: Choice | None
    first: int = 0
    merged: Recipe | None = None


def run_phases(night: Night, budget: Budget) -> None:
    """The whole night.

    Args:
        night: the run.
        budget: of the search, as raised since the run began.

    Raises:
        InputError: a first stage in which nothing could be scored.
    """
    database, prepared = night.database, night.prepared
    stacked = prepared.layers is not None
    if stacked:
        _ask_sources(night)
    first = first_plan_of(prepared)
    found = _searched(night, lambda: _plan_of_last(night, budget), first)
    if found is None:
        raise InputError(
            "the first stage",
            "none of its candidates was scored, so the second has no merged model",
            str(database.path.parent),
            f"'evomerge show {database.path.parent}' says why; start a new run",
        )
    if found.choice is not None:
        keep_choice(database, "choice", found.choice)
    recipes = _baselines(night)
    if found.merged is not None:
        recipes[MERGED] = found.merged
    if stacked:
        recipes |= _best_start(night, found)
    if prepared.config.search.random_baseline:
        recipes |= _by_chance(night, found)
    if found.choice is not None:
        recipes["winner"] = found.driver.recipe(found.choice.winner)
    for name, recipe in recipes.items():
        database.set_recipe(name, recipe.hash, dump_recipe(recipe))
    if stacked:
        _keep_paths(night, recipes)
    winner = recipes.get("winner")
    again = [winner] if winner is not None and looks_up(winner) else []
    night.driver.view.begin("test", len(recipes) + len(again))
    night.driver.ledger.evaluate([Wanted(r) for r in recipes.values()], "test")
    night.driver.ledger.evaluate([Wanted(r) for r in again], AS_SEARCHED)


def references(prepared: Prepared) -> dict[str, Recipe]:
    """The sources alone and their uniform merge."""
    models, dtype = prepared.config.models, prepared.config.export.dtype
    base = "base" if models.base else None
    found = reference_recipes(base, list(models.experts), dtype)
    if prepared.layers is None:
        return found
    # As the stacks of their own layers that the search begins with, so that they are paid once. A
    # hybrid search begins with merges instead, of which each has one source's weights: paid again.
    alone = {n: Recipe("passthrough", (Slice((Input(n),)),), dtype=dtype) for n in models.sources}
    return found | alone


def keep_choice(database: Database, key: str, choice: Choice) -> None:
    """Write down which finalist was picked, and how all did on the selection items."""
    kept: Mapping[str, object] = {
        "id": choice.winner.id,
        "recipe_hash": choice.winner.recipe_hash,
        "finalists": [
            {"id": c.id, "recipe_hash": c.recipe_hash, "objectives": plain(c.evaluation.objectives)}
            for c in choice.finalists
        ],
    }
    database.set_meta(key, kept)


def _plan_of_last(night: Night, budget: Budget) -> Plan:
    """How the search goes on, now that any first stage has ended."""
    taken = None if night.prepared.first is None else taken_by_first(night.database)
    return plan_of(night.prepared, budget, taken)


def _searched(night: Night, plan: Callable[[], Plan], first_plan: Plan | None) -> Searched | None:
    """Search, after the first stage where there is one, and choose.

    Args:
        night: the run.
        plan: of the search, or its second stage, once what is before has ended.
        first_plan: of the first stage.

    Returns:
        None if nothing of the first stage was scored.
    """
    prepared, driver = night.prepared, night.driver
    search, how = prepared.config.search, prepared.config.export.pick
    asked, merged = 0, None
    if prepared.first is not None and first_plan is not None:
        first = night.over(prepared.first.space, prepared.first.goals)
        candidates = first.search(first_plan)
        choice = choose(first, candidates, search.finalists, prepared.first.pick)
        if choice is None:  # what goes into a stack need not keep the bounds that the stack has to
            loose = night.over(first.space, replace(first.goals, constraints=()))
            choice = choose(loose, candidates, search.finalists, prepared.first.pick)
        if choice is None:
            return None
        keep_choice(night.database, f"{first_plan.phase}_choice", choice)
        asked, merged = len(candidates), first.recipe(choice.winner)
        driver = night.over(with_merged(prepared.space, merged), prepared.goals)
    candidates = driver.search(plan())
    choice = choose(driver, candidates, search.finalists, how)
    return Searched(driver, candidates, choice, asked, merged)


def _by_chance(night: Night, found: Searched) -> dict[str, Recipe]:
    """The random search of the same budget, in as many stages."""
    search = night.prepared.config.search
    seed, schedule = search.seed + 1, search.schedule
    plan = Plan(
        "random", "random", None, seed, len(found.candidates), seeded=False, schedule=schedule
    )
    first = replace(plan, phase=FIRST_CHANCE, evaluations=found.first) if found.first else None
    luck = _searched(night, lambda: plan, first)
    if luck is None or luck.choice is None:
        return {}
    keep_choice(night.database, "random_choice", luck.choice)
    return {"random_search": luck.driver.recipe(luck.choice.winner)}


def _ask_sources(night: Night) -> None:
    """Have each source answer the search items: what candidates are held against to be alive."""
    recipes = references(night.prepared)
    alone = {name: recipes[name] for name in night.prepared.config.models.sources}
    night.driver.view.begin("sources", len(alone))
    night.driver.ledger.evaluate([Wanted(recipe) for recipe in alone.values()], "search")
    hashes = {name: recipe.hash for name, recipe in alone.items()}
    night.database.set_meta(SOURCES_SEARCHED, hashes)


def _best_start(night: Night, found: Searched) -> dict[str, Recipe]:
    """The best of the starting points that the search began with: by the weighted mean of the
    objectives, in units of their spread over those points."""
    space = found.driver.space
    names: dict[str, str] = {}
    for name, genome in space.seeds().items():
        # As a searcher asks for it: numbers change a little on their way through the unit cube.
        asked = from_unit(space, to_unit(space, genome))
        names.setdefault(space.decode(asked).hash, name)
    began = [c for c in found.candidates if c.recipe_hash in names and c.evaluation.scored]
    if not began:
        return {}
    # Not by the user's pick: of a knee among three points it may be the worst.
    goals = found.driver.goals
    spread = goals.spread([c.evaluation for c in began])
    best = max(began, key=lambda c: goals.merit(c.evaluation, spread))
    kept = {"id": best.id, "recipe_hash": best.recipe_hash, "name": names[best.recipe_hash]}
    night.database.set_meta(BEST_START, kept)
    return {BEST_START: found.driver.recipe(best)}


def _keep_paths(night: Night, recipes: Mapping[str, Recipe]) -> None:
    """Write down in a line each how the stacks are built."""
    kind = night.prepared.config.space.kind
    merged = MERGED if kind == "hybrid" or night.prepared.first is not None else None
    stacks = {n: r for n, r in recipes.items() if n in (BEST_START, "random_search", "winner")}
    night.database.set_meta("paths", {n: path_text(r, merged) for n, r in stacks.items()})


def looks_up(recipe: Recipe) -> bool:
    """Whether a search merges `recipe` by numbers from tables, where an export computes them."""
    places = (recipe.parameters, *(part.parameters for part in recipe.slices))
    settings = [entry for place in places for entry in place]
    said = {v for name, s in settings if name == METHOD for c in s.clauses for v in c.values}
    rules = [recipe.rule, *(RULES[str(method)] for method in said)]
    chosen = any(name == "sparsify" for name, _ in settings)
    return chosen or any(rule_looks_up(rule) for rule in rules)


def _baselines(night: Night) -> dict[str, Recipe]:
    config, driver = night.prepared.config, night.driver
    recipes = references(night.prepared)
    driver.view.begin("greedy soup", 2 * len(config.models.sources) - 1)
    goals, dtype = night.prepared.goals, config.export.dtype
    recipes["greedy_soup"] = greedy_soup(list(config.models.sources), dtype, goals, driver.ledger)
    return recipes

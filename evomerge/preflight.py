"""Preflight: everything that can fail at 3 a.m., checked now. `check` and `search` both begin here."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config import RunFile
from evomerge.engines import ENGINES
from evomerge.item_banks import Banks, chosen_estimators, load_banks
from evomerge.judging import Judge, build_judge
from evomerge.objectives import neighbour_step
from evomerge.race_rules import selection_of
from evomerge.resources import check_resources, check_room
from evomerge.run_sources import locate_sources, open_run_sources
from evomerge.search.algorithms import ALGORITHMS, build_searcher, default_algorithm
from evomerge.search.choice import check_pick
from evomerge.search.driver import problem_of
from evomerge.search.goals import Goals
from evomerge.search.plan import Plan
from search_spaces.errors import InputError, nearest
from search_spaces.granularity import Granularity
from search_spaces.neighbours import neighbours
from search_spaces.parameter import ParameterSpace
from search_spaces.roles import COMPONENTS, role

if TYPE_CHECKING:
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources


@dataclass(frozen=True)
class Prepared:
    """A run file whose every word has been understood.

    Attributes:
        config: the run file.
        folder: what its relative paths are relative to.
        folders: source name -> where it lies, the base first.
        space: what is searched.
        judge: tasks, splits, objectives.
        goals: what is optimised.
        banks: item banks by task.
        algorithm: the search algorithm's name.
        facts: what `evomerge check` shows: (what, value).
    """

    config: RunFile
    folder: Path
    folders: Mapping[str, "Location"]
    space: ParameterSpace
    judge: Judge
    goals: Goals
    banks: Banks
    algorithm: str
    facts: tuple[tuple[str, str], ...]


def prepare(
    config: RunFile,
    folder: Path,
    *,
    folders: Mapping[str, "Location"] | None = None,
    banks: Banks | None = None,
    thorough: bool = True,
) -> Prepared:
    """Resolve and check everything a run file names.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        folders: the sources' folders, if they were resolved before (a resumed run).
        banks: the item banks, if they were read before.
        thorough: also read every weight (NaN, Inf) and check disk and memory.

    Raises:
        InputError: sources, space, search or export are wrong.
        FitnessError: tasks or objectives are wrong.
    """
    from evomerge.merge.skeleton import model_folder

    algorithm = check_search(config)
    folders = folders or locate_sources(config, folder)
    sources = open_run_sources(config, folders)
    sources.check_compatible()
    space = build_space(config, sources)
    if not space.variables:
        raise InputError(
            "space",
            f"nothing is searched: {' and '.join(config.space.rules)} has no numbers, or all are fixed",
            "space",
            "give a range (weight: [0, 1]), several rules (rule: [ties, karcher]) or a stage's "
            "options (consensus: [none, sum])",
        )
    model = model_folder(sources)
    judge = build_judge(config, folder, model)
    goals = build_goals(config, judge)
    check_constraints(goals, judge)
    check_neighbours(config, space)
    if banks is None:
        banks = load_banks(config, folder, judge.tasks, judge.items["search"])
    facts = _facts(config, sources, space, judge, algorithm) + _asked(config, banks)
    budget, population = config.search.budget.evaluations, config.search.population
    if population and population > budget:
        note = (
            f"the population ({population}) is larger than the budget ({budget}): nothing evolves"
        )
        facts.append(("note", note))
    if thorough:
        check_room(config)
        check_prompts(config, model, judge)
        check_objectives(judge)
        facts += [("note", warning) for warning in sources.warnings()]
        sources.check_finite()
        facts += check_resources(config, sources)
    return Prepared(config, folder, folders, space, judge, goals, banks, algorithm, tuple(facts))


def build_space(config: RunFile, sources: "Sources") -> ParameterSpace:
    """The run file's search space over these sources."""
    names = list(config.models.sources)
    present = {role(tensor).component for tensor in sources.names_of(names[0])}
    granularity = config.space.granularity
    return ParameterSpace(
        rule=config.space.rule,
        base="base" if config.models.base else None,
        experts=list(config.models.experts),
        layers=sources.layers,
        components=[c for c in COMPONENTS if c in present],
        granularity=Granularity(granularity.layers, granularity.components, granularity.rules),
        ranges=config.space.parameters,
        seed=config.search.seed,
        dtype=config.export.dtype,
    )


def build_goals(config: RunFile, judge: Judge) -> Goals:
    """What is optimised, directions as the tasks say them."""
    return Goals(
        names=tuple(spec.name for spec in judge.specs),
        directions=tuple(
            "maximize" if spec.direction == "maximize" else "minimize" for spec in judge.specs
        ),
        weights=tuple(o.weight for o in config.fitness.all_objectives),
        constraints=tuple(config.fitness.all_constraints),
    )


def check_search(config: RunFile) -> str:
    """The search algorithm's name, having checked what does not need the sources.

    Raises:
        InputError: unknown algorithm, or `export.pick` of an unknown objective.
    """
    objectives = config.fitness.all_objectives
    algorithm = config.search.algorithm or default_algorithm(len(objectives), config.space.chooses)
    if algorithm not in ALGORITHMS:
        raise InputError(
            f"'{algorithm}'",
            "it is not a known search algorithm",
            "search.algorithm",
            nearest(algorithm, ALGORITHMS),
        )
    check_pick(config.export.pick, [o.label for o in objectives], "export.pick")
    return algorithm


def plan_of(prepared: Prepared, budget: int) -> Plan:
    """How the run file wants to search, over `budget` evaluations."""
    search = prepared.config.search
    return Plan(
        "search",
        prepared.algorithm,
        search.population,
        search.seed,
        budget,
        search.budget.hours,
        search.budget.answers,
        search.budget.patience,
        schedule=search.schedule,
    )


def check_searcher(prepared: Prepared) -> None:
    """Build the searcher once, so that what it refuses is refused now.

    Raises:
        InputError: a population that is too small, objectives or constraints it does not take.
    """
    plan = plan_of(prepared, prepared.config.search.budget.evaluations)
    build_searcher(plan.algorithm, problem_of(plan, prepared.space, prepared.goals))


def check_prompts(config: RunFile, model: Path, judge: Judge) -> None:
    """Hold the engine against the model, and every prompt against the engine.

    Raises:
        FitnessError: an engine that is not installed, an architecture that it does not know, or a
            prompt that is too long.
    """
    lengths = ENGINES[config.engine.kind].check(config, model)
    for items in judge.items.values():
        for item in items:
            lengths.check(item.requests, f"task '{item.task}', item {item.index}")


def check_constraints(goals: Goals, judge: Judge) -> None:
    """Refuse a bound that no score can keep.

    Raises:
        InputError: a task's score bounded outside [0, 1].
    """
    scores = {spec.name for spec in judge.specs if spec.kind in ("task", "weighted")}
    for bound in goals.constraints:
        hopeless = bound.bound > 1 if bound.sign == ">=" else bound.bound < 0
        if bound.objective in scores and hopeless:
            raise InputError(
                f"constraint {bound.objective} {bound.sign} {bound.bound:g}",
                "scores lie in [0, 1], so no candidate can keep it",
                "fitness",
                "choose a bound in [0, 1]",
            )


def check_neighbours(config: RunFile, space: ParameterSpace) -> None:
    """Refuse objectives on consistency where candidates have no neighbours, or race.

    Raises:
        InputError: rules that nothing can be scaled in, or rungs.
    """
    step = neighbour_step(config)
    if step is None:
        return
    if config.fitness.racing.rungs:
        raise InputError(
            "`consistency` and `racing.rungs`",
            "the neighbours' answers are not kept, so nobody can be asked a second time",
            "fitness",
            "leave one of the two out",
        )
    for genome in space.seeds().values():
        neighbours(space.decode(genome), step)


def check_objectives(judge: Judge) -> None:
    """Score blank answers to the search items, so that what cannot be computed is found now.

    Raises:
        FitnessError: scoring fails, a cost without anything to count, a custom function that raises.
    """
    items = judge.items["search"]
    responses = judge.tasks.score(items, judge.tasks.blank_replies(items))
    judge.measure("search", dict(enumerate(responses)))


def _asked(config: RunFile, banks: Banks) -> list[tuple[str, str]]:
    """How many items candidates answer, and how a score is read off them."""
    facts: list[tuple[str, str]] = []
    if config.fitness.racing.rungs:
        rungs = ", ".join(map(str, config.fitness.racing.rungs))
        facts.append(("rungs", f"{rungs} items per task, each for those that may enter the front"))
        sizes = {name: task.items for name, task in config.fitness.tasks.items()}
        small = [name for name, size in sizes.items() if size <= config.fitness.racing.rungs[-1]]
        if small:
            told = f"the last rung is all search items of {', '.join(small)}"
            facts.append(("note", told))
        facts.append(("items", f"chosen by `{selection_of(config, banks)}`"))
    for task, chosen in chosen_estimators(config, banks).items():
        facts.append((f"estimator of {task}", f"{chosen.name}: {chosen.reason}"))
    return facts


def _facts(
    config: RunFile, sources: "Sources", space: ParameterSpace, judge: Judge, algorithm: str
) -> list[tuple[str, str]]:
    names = ", ".join(sources.names)
    facts = [
        (
            "sources",
            f"{names}: {sources.parameters() / 1e6:.2f}M parameters, {sources.layers} layers",
        ),
        ("space", f"{', '.join(config.space.rules)}, {len(space.variables)} variables"),
        ("search", f"{algorithm}, {config.search.budget.evaluations} evaluations"),
    ]
    for name in judge.tasks.names:
        counts = {
            split: sum(item.task == name for item in items) for split, items in judge.items.items()
        }
        facts.append(
            (
                f"task {name}",
                f"{judge.tasks.metric(name)}, "
                + ("higher" if judge.tasks.higher_is_better(name) else "lower")
                + f" is better; {counts['search']} search, {counts['selection']} selection, "
                f"{counts['test']} test items",
            )
        )
        prompt = next(i.requests[0] for i in judge.items["search"] if i.task == name)
        facts.append((f"prompt of {name}", repr(prompt.context[-200:])))
    for spec, objective in zip(judge.specs, config.fitness.all_objectives, strict=True):
        facts.append((f"objective {spec.name}", f"{spec.direction}, weight {objective.weight:g}"))
    return facts

"""Preflight: everything that can fail at 3 a.m., checked now. `check` and `search` both begin here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.budgets import check_tokens
from evomerge.checks.advice import Advice
from evomerge.checks.findings import Findings, find
from evomerge.config import STACKS, RunFile
from evomerge.config.search import Budget
from evomerge.config.space import scales_of
from evomerge.cost_bounds import check_cost_bounds
from evomerge.engines import ENGINES, engine_folder
from evomerge.facts import facts_of, facts_of_asking
from evomerge.item_banks import Banks, load_banks
from evomerge.judging import Judge, build_judge
from evomerge.objectives import neighbour_step
from evomerge.resources import check_resources, check_room
from evomerge.run_sources import locate_sources, open_run_sources
from evomerge.search.algorithms import ALGORITHMS, build_searcher, default_algorithm
from evomerge.search.archive import Direction
from evomerge.search.driver import problem_of
from evomerge.search.goals import Goals, scores_among
from evomerge.search.picks import check_pick
from evomerge.search.plan import Plan
from evomerge.spaces import build_space, first_stage
from evomerge.stack_checks import check_scales_fold, check_stackable
from evomerge.two_stages import FirstStage, first_stage_of, plan_of_first, plan_of_second
from evomerge.warm_start import NOTHING, Beginner, WarmStart, warm_start
from search_spaces.errors import InputError, nearest
from search_spaces.neighbours import neighbours
from search_spaces.parameter import ParameterSpace
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from evomerge.merge.locations import Location
    from evomerge.merge.sources import Sources
    from fitness.engines.lengths import PromptLengths


@dataclass(frozen=True)
class Prepared:
    """A run file whose every word has been understood.

    Attributes:
        config: the run file.
        folder: what its relative paths are relative to.
        folders: source name -> where it lies, the base first.
        space: what is searched; of two stages the second's, in which a plain merge stands for what
            the first is going to find.
        first: what is searched before that, if anything.
        layers: those of the deepest candidate, for which engines are built; None: as the sources.
        judge: tasks, splits, objectives.
        goals: what is optimised.
        banks: item banks by task.
        algorithm: the search algorithm's name.
        facts: what `evomerge check` shows: (what, value).
        warm: what the search begins with of another run's.
        evaluators: that will work; None: not known before the cluster is.
        lengths: of prompts, by the engine's tokenizer; None: not thoroughly checked.
        findings: what was found of models and prompts; None: not thoroughly checked.
    """

    config: RunFile
    folder: Path
    folders: Mapping[str, "Location"]
    space: SearchSpace
    first: FirstStage | None
    layers: int | None
    judge: Judge
    goals: Goals
    banks: Banks
    algorithm: str
    facts: tuple[tuple[str, str], ...]
    warm: WarmStart = NOTHING
    evaluators: int | None = None
    lengths: "PromptLengths | None" = None
    findings: Findings | None = None

    @property
    def advice(self) -> tuple[Advice, ...]:
        """What had better be otherwise; nothing if it was not thoroughly checked."""
        return self.findings.advice if self.findings else ()


def prepare(
    config: RunFile,
    folder: Path,
    *,
    folders: Mapping[str, "Location"] | None = None,
    banks: Banks | None = None,
    warm: WarmStart | None = None,
    thorough: bool = True,
) -> Prepared:
    """Resolve and check everything a run file names.

    Args:
        config: the run file.
        folder: what its relative paths are relative to.
        folders: the sources' folders, if they were resolved before (a resumed run).
        banks: the item banks, if they were read before.
        warm: what the run began with, if it has begun: then the run that it was taken from may be gone.
        thorough: also read every weight (NaN, Inf), check disk and memory, and look at what models
            and prompts are (`evomerge.checks`).

    Raises:
        InputError: sources, space, search or export are wrong.
        FitnessError: tasks or objectives are wrong.
    """
    algorithm = check_search(config)
    folders = folders or locate_sources(config, folder)
    sources = open_run_sources(config, folders)
    sources.check_compatible()
    space = build_space(config, sources)
    parameters = first_stage(config, sources)
    check_searchable(config, space, parameters)
    stacked = config.space.kind in STACKS
    layers = max(space.most_layers, sources.layers) if stacked else None
    if layers is not None and thorough:
        check_stackable(sources, space)
        check_scales_fold(sources, scales_of(config.space))
    model = engine_folder(config, sources, layers)
    judge = build_judge(config, folder, model)
    goals = build_goals(config, judge)
    first = None if parameters is None else first_stage_of(config, parameters, goals)
    check_constraints(goals, judge)
    check_cost_bounds(config, goals, space, sources)
    check_neighbours(config, space)
    if banks is None:
        banks = load_banks(config, folder, judge.tasks, judge.items["search"])
    facts = facts_of(config, sources, space, first, judge, algorithm)
    facts += facts_of_asking(config, banks)
    if warm is None:
        warm = warm_start(Beginner(config, folder, folders, sources, space, goals, first))
    facts += warm.facts
    told = tuple(facts)
    known = Prepared(
        config, folder, folders, space, first, layers, judge, goals, banks, algorithm, told, warm
    )
    return _thoroughly(known, sources, model) if thorough else known


def _thoroughly(known: Prepared, sources: "Sources", model: Path) -> Prepared:
    """Check what takes its time: prompts, scoring, every weight, memory and disk, ancestry."""
    config, judge, facts = known.config, known.judge, list(known.facts)
    evaluators = check_room(config)
    lengths = check_prompts(config, model, sources, judge)
    check_objectives(judge)
    facts += [("note", warning) for warning in sources.warnings()]
    sources.check_finite()
    facts += check_resources(config, sources, model, known.layers or sources.layers)
    findings = find(config, known.folders, sources, known.space, judge, lengths)
    return replace(
        known, facts=tuple(facts), evaluators=evaluators, lengths=lengths, findings=findings
    )


def check_searchable(config: RunFile, space: SearchSpace, first: SearchSpace | None) -> None:
    """Refuse a stage with nothing to search.

    Raises:
        InputError: every number is fixed.
    """
    merging = config.space.merging
    stages = [space] if first is None else [space, first]
    for stage in stages:
        if stage.variables:
            continue
        if isinstance(stage, ParameterSpace) and merging is not None:
            raise InputError(
                "space" if first is None else "space.merged",
                f"nothing is searched: {' and '.join(merging.rules)} has no numbers, or all are fixed",
                "space",
                "give a range (weight: [0, 1]), several rules (rule: [ties, karcher]) or a stage's "
                "options (consensus: [none, sum])",
            )
        raise InputError(
            f"kind {config.space.kind}",
            "nothing is searched: there is only one stack",
            "space",
            "keep fewer layers (first, last), or allow other depths",
        )


def build_goals(config: RunFile, judge: Judge) -> Goals:
    """What is optimised, directions as the tasks say them."""
    directions: tuple[Direction, ...] = tuple(
        "maximize" if spec.direction == "maximize" else "minimize" for spec in judge.specs
    )
    return Goals(
        names=tuple(spec.name for spec in judge.specs),
        directions=directions,
        weights=tuple(o.weight for o in config.fitness.all_objectives),
        constraints=tuple(config.fitness.all_constraints),
        scores=scores_among(config.fitness.all_objectives, directions),
    )


def check_search(config: RunFile) -> str:
    """The search algorithm's name, having checked what does not need the sources.

    Raises:
        InputError: unknown algorithm, or `export.pick` of an unknown objective.
    """
    objectives = config.fitness.all_objectives
    # CMA-ES has no way with lists of layers, nor with choices
    rough = config.space.kind in STACKS or bool(
        config.space.merging and config.space.merging.chooses
    )
    algorithm = config.search.algorithm or default_algorithm(len(objectives), rough)
    if algorithm not in ALGORITHMS:
        raise InputError(
            f"'{algorithm}'",
            "it is not a known search algorithm",
            "search.algorithm",
            nearest(algorithm, ALGORITHMS),
        )
    check_pick(config.export.pick, [o.label for o in objectives], "export.pick")
    return algorithm


def plan_of(prepared: Prepared, budget: Budget, taken: Mapping[str, float] | None = None) -> Plan:
    """How the run file wants to search, over `budget` in all; of two stages the second.

    Args:
        prepared: the run file.
        budget: as raised since the run began.
        taken: what the first of two stages took (see `evomerge.budgets.taken_by_first`), once it has
            ended.
    """
    search = prepared.config.search
    plan = Plan(
        "search",
        prepared.algorithm,
        search.population,
        search.seed,
        budget.evaluations,
        budget.hours,
        budget.answers,
        budget.patience,
        schedule=search.schedule,
        tokens=budget.tokens,
        known=prepared.warm.search.genomes,
    )
    if prepared.first is None:
        return plan
    return plan_of_second(plan, prepared.first, search.budget, taken)


def first_plan_of(prepared: Prepared) -> Plan | None:
    """How the first of two stages is searched; None: there is one stage."""
    if prepared.first is None:
        return None
    plan = plan_of_first(prepared.config, prepared.first)
    return replace(plan, known=prepared.warm.first.genomes)


def check_searcher(prepared: Prepared) -> None:
    """Build the searchers once, so that what they refuse is refused now.

    Raises:
        InputError: a population that is too small, objectives or constraints it does not take.
    """
    check_tokens(prepared.config.search.budget, prepared.judge)
    plan = plan_of(prepared, prepared.config.search.budget)
    build_searcher(plan.algorithm, problem_of(plan, prepared.space, prepared.goals))
    first, plan = prepared.first, first_plan_of(prepared)
    if first is not None and plan is not None:
        build_searcher(plan.algorithm, problem_of(plan, first.space, first.goals))


def check_prompts(
    config: RunFile, model: Path, sources: "Sources", judge: Judge
) -> "PromptLengths":
    """Hold the engine against the model and the sources, and every prompt against the engine.

    Returns:
        What counts the prompts' tokens.

    Raises:
        FitnessError: an engine that is not installed, an architecture that it does not know, or a
            prompt that is too long.
        InputError: weights that the sources store otherwise than the engine runs them.
    """
    lengths = ENGINES[config.engine.kind].check(config, model, sources)
    for items in judge.items.values():
        for item in items:
            lengths.check(item.requests, f"task '{item.task}', item {item.index}")
    return lengths


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


def check_neighbours(config: RunFile, space: SearchSpace) -> None:
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

"""What `evomerge check` shows of a run file that passed: pairs of what, and its value."""

from typing import TYPE_CHECKING

from evomerge.config import STACKS, RunFile
from evomerge.item_banks import Banks, chosen_estimators
from evomerge.judging import Judge
from evomerge.objectives import cost_facts
from evomerge.race_rules import selection_of
from evomerge.search.baselines import average
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from evomerge.merge.sources import Sources
    from evomerge.two_stages import FirstStage

Facts = list[tuple[str, str]]


def facts_of(
    config: RunFile,
    sources: "Sources",
    space: SearchSpace,
    first: "FirstStage | None",
    judge: Judge,
    algorithm: str,
) -> Facts:
    """Sources, space, search, tasks and objectives."""
    names = ", ".join(sources.names)
    budget = config.search.budget.evaluations
    facts = [
        (
            "sources",
            f"{names}: {sources.parameters() / 1e6:.2f}M parameters, {sources.layers} layers",
        ),
        *_space(config, space, first),
        ("search", _search(algorithm, budget, first)),
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
    alone = {name: average([name], None) for name in sources.names}
    return facts + cost_facts(config, sources, alone) + _populations(config, first)


def _search(algorithm: str, budget: int, first: "FirstStage | None") -> str:
    if first is None:
        return f"{algorithm}, {budget} evaluations"
    second = budget - first.evaluations
    return (
        f"{budget} evaluations in two stages: {first.evaluations} by {first.algorithm}, then {second} "
        f"by {algorithm}"
    )


def _space(config: RunFile, space: SearchSpace, first: "FirstStage | None") -> Facts:
    merging, kind = config.space.merging, config.space.kind
    rules = ", ".join(merging.rules) if merging else ""
    variables = f"{len(space.variables)} variables"
    if kind not in STACKS:
        return [("space", f"{rules}, {variables}")]
    facts: Facts = []
    if first:
        facts.append(
            (
                "first stage",
                f"{rules}, {len(first.space.variables)} variables; {first.algorithm}, "
                f"{first.evaluations} evaluations; its winner is the model `merged` of the second",
            )
        )
    of = f" of {rules}" if kind == "hybrid" else ""
    depth = getattr(config.space, "depth", None)
    least = f"{depth[0]} to " if depth and depth[0] < space.most_layers else ""
    at_most = "" if depth else "at most "
    facts.append(("space", f"{kind}{of}, {at_most}{least}{space.most_layers} layers, {variables}"))
    seeds = list(space.seeds())
    facts.append(("starting points", f"{len(seeds)}: {', '.join(seeds)}"))
    return facts


def _populations(config: RunFile, first: "FirstStage | None") -> Facts:
    budget, population = config.search.budget.evaluations, config.search.population
    stages = [first.evaluations, budget - first.evaluations] if first else [budget]
    if not population or population <= min(stages):
        return []
    note = (
        f"the population ({population}) is larger than the budget ({min(stages)}): nothing evolves"
    )
    return [("note", note)]


def facts_of_asking(config: RunFile, banks: Banks) -> Facts:
    """How many items candidates answer, and how a score is read off them."""
    facts: Facts = []
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

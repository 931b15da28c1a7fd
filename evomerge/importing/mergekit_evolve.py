"""A configuration of mergekit-evolve (`mergekit-evolve CONFIG.yml`) as a run file.

Its genome is a tensor of numbers per group of layers, model, filter and parameter, searched by CMA-ES
for one score: the weighted sum of lm-eval metrics. What its command line says is not in the file and is
assumed to be its defaults.
"""

import math
from collections.abc import Mapping
from typing import Any

from evomerge.importing.draft import Draft, Rule, flag, ignored, known, required, typed
from evomerge.importing.sources import layers_of, short_names, source_of

TOOL = "mergekit-evolve"

_METHODS: Mapping[str, tuple[bool, bool]] = {
    "linear": (False, True),
    "task_arithmetic": (True, False),
    "ties": (True, True),
    "dare_ties": (True, True),
    "slerp": (False, False),
}
"""Method -> whether models are seen from the base, and whether it normalises unless told otherwise."""

_COMPONENTS = {
    "self_attn": "attn", "attn": "attn", "mlp": "mlp", "norm": "norm", "layernorm": "norm",
    "input_layernorm": "norm", "embed_tokens": "embed", "embed": "embed", "lm_head": "lm_head",
}  # fmt: skip
"""Filter (a part of tensors' names) -> the component that it selects."""

_METRIC = "acc,none"
_EVALUATIONS = 100
_ITEMS = 100


def drafted(given: Mapping[str, Any], where: str) -> Draft:
    """The run file of a configuration.

    Raises:
        InputError: a key that mergekit-evolve requires is missing, or a value is none it takes.
    """
    draft = Draft(TOOL, where)
    genome = typed(required(given, "genome", TOOL, where), Mapping, "genome", where, "a mapping")
    tasks = typed(required(given, "tasks", TOOL, where), list, "tasks", where, "a list")
    for key in ("models", "space", "fitness", "search", "engine", "export"):
        draft.put(key, {})
    draft.became["genome.merge_method"] = ""  # first, whatever the file's order
    models = _models(draft, genome)
    _space(draft, genome, models)
    draft.read(genome, _GENOME, "genome.")
    _tasks(draft, tasks)
    draft.read(given, _TOP)
    _prompts(draft, given)
    _search(draft)
    return draft


def _models(draft: Draft, genome: Mapping[str, Any]) -> list[dict[str, str] | str]:
    """Write `models` and the rule; the experts."""
    where = draft.where
    method = required(genome, "merge_method", TOOL, where)
    from_base, _ = known(method, _METHODS, "genome.merge_method", where)
    listed = typed(required(genome, "models", TOOL, where), list, "genome.models", where, "a list")
    models = [source_of(reference, where) for reference in listed]
    base = source_of(genome["base_model"], where) if genome.get("base_model") else None
    rule = method
    if from_base:
        base = source_of(required(genome, "base_model", TOOL, where), where)
        if base in models and len(models) > 1:
            models.remove(base)
            draft.assumed.append("the base is no expert: it has no difference from itself")
    elif method == "slerp":
        rule, base = _slerp(draft, models, base)
    elif base is not None:
        draft.left_out["genome.base_model"] = "`linear` sees no model from a base"
        base = None
    names = short_names(models)
    if base is not None:
        draft.turn("genome.base_model", "models.base", base)
    draft.turn("genome.models", "models.experts", dict(zip(names, models, strict=True)))
    draft.turn("genome.merge_method", "space.rule", rule)
    _tokenizer(draft, genome, names, models, base)
    return models if base is None else [*models, base]


def _slerp(
    draft: Draft, models: list[dict[str, str] | str], base: dict[str, str] | str | None
) -> tuple[str, dict[str, str] | str | None]:
    """The rule and the base that stand for its slerp, which is between any two of the models."""
    if len(models) == 2:
        chosen = base if base in models else models[0]
        assert chosen is not None
        models.remove(chosen)
        draft.assumed.append(
            "the first of the two models is the base: t = 0 is it alone, 1 the other"
        )
        return "slerp", chosen
    draft.assumed.append(
        f"rule multislerp over all {len(models)} models: mergekit-evolve takes the two of greatest "
        "weight in each group of layers, which is no rule here"
    )
    return "multislerp", None


def _tokenizer(
    draft: Draft,
    genome: Mapping[str, Any],
    names: list[str],
    models: list[dict[str, str] | str],
    base: dict[str, str] | str | None,
) -> None:
    given = genome.get("tokenizer_source")
    if given is None:
        return
    key = "genome.tokenizer_source"
    if given in ("base", "union") and (given == "union" or base is not None):
        draft.turn(key, "models.tokenizer", given)
        return
    typed(given, str, key, draft.where, "`base`, `union`, or a model's name")
    wanted = source_of(given.removeprefix("model:"), draft.where)
    if wanted == base:
        draft.turn(key, "models.tokenizer", "base")
    elif wanted in models:
        draft.turn(key, "models.tokenizer", names[models.index(wanted)])
    else:
        draft.left_out[key] = f"'{given}' is none of the run's models"


def _space(draft: Draft, genome: Mapping[str, Any], models: list[dict[str, str] | str]) -> None:
    """Write granularity, ranges and `normalize`."""
    rule = draft.content["space"]["rule"]
    groups = _groups(draft, genome, models)
    if groups > 1:
        key = "genome.layer_granularity"
        if flag(genome, "smooth", False, draft.where, "genome."):
            draft.turn(key, "space.granularity.layers", {"knots": groups}, "a knot for each group")
            draft.became["genome.smooth"] = "space.granularity.layers: knots"
        else:
            draft.turn(key, "space.granularity.layers", groups, "groups, not layers of a group")
    _filters(draft, genome.get("filters"))
    if rule == "slerp":
        draft.put("space.t", [0, 1])
        return
    if rule != "multislerp":
        normalize = flag(genome, "normalize", _METHODS[rule][1], draft.where, "genome.")
        said = "its default" if genome.get("normalize") is None else ""
        draft.turn("genome.normalize", "space.normalize", normalize, said)
    negative = flag(genome, "allow_negative_weights", False, draft.where, "genome.")
    draft.turn("genome.allow_negative_weights", "space.weight", [-1.2 if negative else 0, 1.2])
    draft.assumed.append("weights up to 1.2: mergekit-evolve's are unbounded")
    if rule in ("ties", "dare_ties"):
        draft.put("space.density", [0.2, 1])
        draft.assumed.append("densities of 0.2 and more: mergekit-evolve's begin at 0")


def _groups(draft: Draft, genome: Mapping[str, Any], models: list[dict[str, str] | str]) -> int:
    """Groups of layers along depth; 1: depth makes no difference."""
    size = typed(
        genome.get("layer_granularity") or 0,
        int,
        "genome.layer_granularity",
        draft.where,
        "a number of layers",
    )
    if size < 1:
        return 1
    groups = max(1, layers_of(draft, models[0]) // size)
    if groups == 1:
        draft.became["genome.layer_granularity"] = "one group: the whole stack"
    return groups


def _filters(draft: Draft, filters: Any) -> None:
    key, found = "genome.filters", list[str]()
    for given in typed(filters or [], list, key, draft.where, "a list of parts of tensors' names"):
        typed(given, str, key, draft.where, "a list of parts of tensors' names")
        component = _COMPONENTS.get(given.strip("."))
        if component is None:
            draft.left_out[f"genome.filters: {given}"] = (
                f"variables are shared by component ({', '.join(sorted(set(_COMPONENTS.values())))})"
            )
        elif component not in found:
            found.append(component)
    if found:
        draft.turn("genome.filters", "space.granularity.components", found)


def _tasks(draft: Draft, tasks: list[Any]) -> None:
    """Write `fitness`: tasks, and one objective, or one for each task where some are minimised."""
    listed = [{"name": task} if isinstance(task, str) else task for task in tasks]
    weights: dict[str, float] = {}
    for number, task in enumerate(listed):
        key = f"tasks[{number}]"
        typed(task, Mapping, key, draft.where, "a name or a mapping")
        name = _text(draft, key, "name", required(task, "name", TOOL, draft.where))
        if name in weights:
            draft.left_out[f"{key} {name}"] = (
                "the task stands twice, and a task has one metric here"
            )
            continue
        weights[name] = _weight(draft, f"{key}.weight", task.get("weight"))
        metric, _, rest = _text(draft, key, "metric", task.get("metric") or _METRIC).partition(",")
        content = {"items": _ITEMS, "metric": metric} | ({"filter": rest} if rest else {})
        draft.content["fitness"].setdefault("tasks", {})[name] = content
        for strange in set(task) - {"name", "weight", "metric"}:
            draft.left_out[f"{key}.{strange}"] = "unknown to mergekit-evolve as documented"
    draft.became["tasks"] = "fitness.tasks"
    draft.became["tasks[].metric"] = "metric and filter of each task"
    draft.became["tasks[].weight"] = "fitness.objectives"
    draft.put("fitness.objectives", _objectives(draft, weights))


def _text(draft: Draft, task: str, key: str, value: Any) -> str:
    return typed(value, str, f"{task}.{key}", draft.where, "a name")


def _weight(draft: Draft, key: str, value: Any) -> float:
    """A task's weight; 1 where none is given."""
    weight = typed(1.0 if value is None else value, (int, float), key, draft.where, "a number")
    try:
        return float(weight)
    except OverflowError:
        return math.inf  # which the run file refuses


def _objectives(draft: Draft, weights: Mapping[str, float]) -> list[Any]:
    if any(weight == 0 for weight in weights.values()):
        draft.assumed.append("a task of weight 0 is asked, but is no objective")
    counted = {name: weight for name, weight in weights.items() if weight}
    if any(weight < 0 for weight in counted.values()):
        draft.assumed.append(
            "CMA-ES takes the objectives' weighted mean; a negative weight is a direction: minimize"
        )
        return [
            {"task": name, "weight": abs(weight)}
            | ({"direction": "minimize"} if weight < 0 else {})
            for name, weight in counted.items()
        ]
    if len(counted) == 1:
        return list(counted)
    return [{"name": "score", "tasks": counted}]


def _prompts(draft: Draft, given: Mapping[str, Any]) -> None:
    """Write what all tasks have in common; its defaults are a chat template and turns."""
    chat, turns = (
        flag(given, key, True, draft.where)
        for key in ("apply_chat_template", "fewshot_as_multiturn")
    )
    limit, shots = given.get("limit"), given.get("num_fewshot")
    if limit is None:
        draft.assumed.append(
            f"{_ITEMS} items a candidate: mergekit-evolve asks all, and leaves none to choose and test by"
        )
    for task in draft.content["fitness"]["tasks"].values():
        task.update({} if limit is None else {"items": max(2, int(limit))})
        task.update({} if shots is None else {"num_fewshot": int(shots)})
        task.update({"apply_chat_template": True} if chat else {})
        task.update({"fewshot_as_multiturn": True} if chat and turns else {})
    for key, value in (("apply_chat_template", chat), ("fewshot_as_multiturn", chat and turns)):
        said = " (its default)" if given.get(key) is None else ""
        draft.became[key] = f"{key}: {str(value).lower()} of each task{said}"


def _search(draft: Draft) -> None:
    draft.put(
        "search",
        {"algorithm": "cmaes", "budget": {"evaluations": _EVALUATIONS}} | draft.content["search"],
    )
    draft.put("engine", {"dtype": "bfloat16"})
    draft.put("export.dtype", "bfloat16")
    draft.assumed.append(
        f"{_EVALUATIONS} evaluations, algorithm cmaes, bfloat16: mergekit-evolve's defaults; what its "
        "command line says (--max-fevals, --vllm, --task-search-path) is not in the file: see "
        "search.budget, engine.kind, fitness.include"
    )


def _each_task(path: str) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        if value is not None:
            typed(value, int, key, draft.where, "a whole number")
            draft.became[key] = f"{path} of each task"

    return rule


def _shuffle(draft: Draft, key: str, value: Any) -> None:
    draft.became[key] = "fitness.seed: items are always drawn at random"
    if not flag({key: value}, key, False, draft.where):
        draft.became[key] += " (mergekit-evolve took the first ones)"


def _random_init(draft: Draft, key: str, value: Any) -> None:
    if flag({key: value}, key, False, draft.where):
        draft.left_out[key] = (
            "a search begins at the plain average and the experts, which are worth more"
        )
    else:
        draft.became[key] = "as here: a search begins at the plain average"


def _unused_smooth(draft: Draft, key: str, value: Any) -> None:
    smooth = flag({key: value}, key, False, draft.where)
    if smooth and key not in draft.became:
        draft.left_out[key] = "one group of layers has nothing to be smooth between"
    elif not smooth:
        draft.became[key] = "groups of layers, as here"


_GENOME: Mapping[str, Rule] = {
    "models": ignored,
    "merge_method": ignored,
    "base_model": ignored,
    "tokenizer_source": ignored,
    "layer_granularity": ignored,
    "normalize": ignored,
    "allow_negative_weights": ignored,
    "filters": ignored,
    "smooth": _unused_smooth,
}
"""What the genome's keys become; `ignored`: said by `_models` and `_space`."""

_TOP: Mapping[str, Rule] = {
    "genome": ignored,
    "tasks": ignored,
    "limit": _each_task("items"),
    "num_fewshot": _each_task("num_fewshot"),
    "shuffle": _shuffle,
    "random_init": _random_init,
    "apply_chat_template": ignored,
    "fewshot_as_multiturn": ignored,
}
"""What the other keys become; `ignored`: said by `_tasks` and `_prompts`."""

KEYS = frozenset(_TOP)
"""By which a file is recognised."""

"""A Mergenetic experiment (its YAML configurations) as a run file.

Which merge rule and algorithm an experiment uses is in the script that is started with it: with one
model besides the base SLERP and a genetic algorithm, with several DARE-TIES and NSGA-II, an objective
per language or task (`end2end*.py`).
"""

from collections.abc import Mapping
from typing import Any

from evomerge.importing.draft import Draft, Rule, ignored, known, names, required, typed
from evomerge.importing.sources import placed, short_names, source_of, unused

TOOL = "Mergenetic"

_ESTIMATORS: Mapping[str, tuple[str, bool]] = {
    "mean": ("mean", False),
    "random": ("mean", False),
    "weighted": ("weighted", True),
    "pirt": ("p_irt", True),
    "gpirt": ("gp_irt", True),
    "mpirt": ("mp_irt", True),
    "gmpirt": ("gmp_irt", True),
}
"""`mode` -> estimator, and whether it needs an item bank."""

_DEFAULTS: Mapping[str, Any] = {"seed": 420, "dtype": "bfloat16"}

_DTYPES = {name: name for name in ("float32", "float16", "bfloat16")}


def drafted(given: Mapping[str, Any], where: str) -> Draft:
    """The run file of an experiment.

    Raises:
        InputError: a key that the experiment needs is missing, or a value is none it takes.
    """
    draft = Draft(TOOL, where)
    for key in ("models", "space", "fitness", "search", "engine", "export"):
        draft.put(key, {})
    experts = _models(draft, given)
    _space(draft, experts)
    _tasks(draft, given, alone=experts == 1)
    draft.read({**_DEFAULTS, **given}, _KEYS)
    for key, value in _DEFAULTS.items():
        if key not in given:
            draft.became[key] = f"{draft.became[key]}: {value}, its default"
    _search(draft, given, alone=experts == 1)
    return draft


def _models(draft: Draft, given: Mapping[str, Any]) -> int:
    """Write `models`; how many experts there are."""
    where = draft.where
    listed = typed(
        required(given, "models", TOOL, where), (dict, list), "models", where, "a mapping or list"
    )
    base = source_of(required(given, "base_model", TOOL, where), where)
    models = [
        source_of(m, where) for m in (listed.values() if isinstance(listed, dict) else listed)
    ]
    called = short_names(models)
    if isinstance(listed, dict):
        called = []
        for name in listed:
            called.append(unused(str(name), called))
    pairs = {name: model for name, model in zip(called, models, strict=True) if model != base}
    if len(pairs) < len(models) and pairs:
        draft.assumed.append("the base is no expert: it has no difference from itself")
    pairs = pairs or dict(zip(called, models, strict=True))
    draft.turn("base_model", "models.base", base)
    draft.turn("models", "models.experts", pairs)
    return len(pairs)


def _space(draft: Draft, experts: int) -> None:
    """Write `space`: the merger that the scripts use for so many models."""
    if experts == 1:
        knots = {"layers": {"knots": 5}, "components": ["attn", "mlp"]}
        draft.put("space", {"rule": "slerp", "granularity": knots, "t": [0, 1]})
        draft.assumed.append(
            "slerp with 5 knots along depth for attention, MLP and the rest (whose one value has 5 "
            "here): what the scripts use for one model"
        )
    else:
        draft.put("space", {"rule": "dare_ties", "weight": [0, 1], "density": [0.05, 1]})
        draft.assumed.append(
            "dare_ties with weights in [0, 1] and densities in [0.05, 1] (theirs begin at 0): what the "
            "scripts use for several models"
        )


def _tasks(draft: Draft, given: Mapping[str, Any], *, alone: bool) -> None:
    """Write `fitness.tasks`; each is an objective."""
    items = typed(given.get("n_samples") or 20, int, "n_samples", draft.where, "a number of items")
    metric = typed(given.get("metric") or "", str, "metric", draft.where, "a metric's name")
    tasks: dict[str, Any] = {}
    for name in _task_names(draft, given, alone=alone):
        tasks[name] = {"items": max(2, items)} | ({"metric": metric} if metric else {})
    draft.put("fitness.tasks", tasks)
    draft.became["n_samples"] = "items of each task"
    if metric:
        draft.became["metric"] = "metric of each task"


def _task_names(draft: Draft, given: Mapping[str, Any], *, alone: bool) -> list[str]:
    """The lm-eval tasks that candidates are searched by, each once."""
    listed = given.get("tasks")
    if not listed:
        return _of_datasets(draft, given)
    typed(listed, (dict, list), "tasks", draft.where, "a list, or {search: ..., test: ...}")
    if isinstance(listed, list):
        draft.became["tasks"] = "fitness.tasks, an objective each"
        return names(listed, "tasks", draft.where)
    searched = dict(_by_language(required(listed, "search", TOOL, draft.where), "search", draft))
    if "base" in searched:
        draft.left_out["tasks.search.base"] = (
            "the base is judged on every task, and reported beside the winner"
        )
        del searched["base"]
    languages = typed(given.get("langs") or [], list, "langs", draft.where, "a list of languages")
    if alone and languages:
        searched = {k: v for k, v in searched.items() if k == languages[0]} or searched
    found = names(searched.values(), "tasks.search", draft.where)
    tests = _by_language(listed.get("test") or {}, "test", draft)
    others = set(names(tests.values(), "tasks.test", draft.where)) - set(found)
    draft.became["tasks"] = "fitness.tasks, an objective each"
    draft.became["tasks.test"] = "the test items of the same tasks, which the search never sees"
    if others:
        draft.left_out[f"tasks.test: {', '.join(sorted(others))}"] = (
            "a run is tested on its own tasks' untouched items; score others with `evomerge evaluate`"
        )
    return found


def _by_language(value: Any, split: str, draft: Draft) -> Mapping[Any, Any]:
    return typed(value, dict, f"tasks.{split}", draft.where, "a mapping: language to task")


def _of_datasets(draft: Draft, given: Mapping[str, Any]) -> list[str]:
    """Names of tasks for an experiment on CSV files, which have to be made lm-eval tasks first."""
    datasets = typed(
        required(given, "datasets", TOOL, draft.where), dict, "datasets", draft.where,
        "a mapping: language to CSV file",
    )  # fmt: skip
    bench = typed(given.get("bench") or "task", str, "bench", draft.where, "a name")
    found = [f"{bench}_{name}" for name in datasets if name != "base"]
    draft.left_out["datasets"] = (
        f"questions come from lm-eval tasks: declare {', '.join(found)} over these CSV files and set "
        "fitness.include to their folder"
    )
    return found


def _search(draft: Draft, given: Mapping[str, Any], *, alone: bool) -> None:
    """Write `search` as far as the keys have not: algorithm and budget."""
    where = draft.where
    size, generations = (
        typed(required(given, key, TOOL, where), int, key, where, "a whole number")
        for key in ("pop_size", "n_iter")
    )
    algorithm = "ga" if alone and len(draft.content["fitness"]["tasks"]) == 1 else "nsga2"
    draft.put("search.algorithm", algorithm)
    draft.assumed.append(f"algorithm {algorithm}, as in the scripts")
    if size >= len(draft.content["models"]["experts"]) + 2:
        draft.turn("pop_size", "search.population", size)
    else:
        draft.left_out["pop_size"] = (
            f"{size} cannot hold the average and each model alone, which come first: the algorithm's default"
        )
    draft.turn(
        "n_iter", "search.budget", {"evaluations": max(size * generations, 2)}, "pop_size x n_iter"
    )
    if alone:
        draft.left_out.setdefault(
            "langs",
            "the language of an answer is not recognised here: judge it in the task's metric",
        )


def _put(path: str) -> Rule:
    def rule(draft: Draft, key: str, value: Any) -> None:
        draft.turn(key, path, value)

    return rule


def _mode(draft: Draft, key: str, value: Any) -> None:
    name, needs_bank = known(value, _ESTIMATORS, key, draft.where)
    if needs_bank:
        draft.left_out[key] = (
            f"estimator {name} needs item banks: run `evomerge calibrate` on the run file, then set "
            f"fitness.bank: banks and fitness.estimator: {name}; until then the mean"
        )
    else:
        draft.turn(key, "fitness.estimator", name)


def _dtype(draft: Draft, key: str, value: Any) -> None:
    name = known(value, _DTYPES, key, draft.where)
    draft.turn(key, "engine.dtype", name, "and export.dtype")
    draft.put("export.dtype", name)


def _device(draft: Draft, key: str, value: Any) -> None:
    draft.left_out[key] = (
        f"'{value}': evaluators share all GPUs that are visible (CUDA_VISIBLE_DEVICES, cluster.evaluators)"
    )


def _templates(draft: Draft, key: str, value: Any) -> None:
    draft.turn(key, "fitness.include", placed(value) if isinstance(value, str) else value)


def _langs(draft: Draft, key: str, value: Any) -> None:
    if isinstance(value, list) and len(draft.content["fitness"]["tasks"]) > 1:
        draft.became[key] = "an objective for each language's task"


_KEYS: Mapping[str, Rule] = {
    "models": ignored,
    "base_model": ignored,
    "tasks": ignored,
    "datasets": ignored,
    "metric": ignored,
    "n_samples": ignored,
    "pop_size": ignored,
    "n_iter": ignored,
    "seed": _put("search.seed"),
    "dtype": _dtype,
    "mode": _mode,
    "device": _device,
    "langs": _langs,
    "additional_templates_folder": _templates,
    "run_id": "a run is called by its folder: `--dir runs/NAME`",
    "bench": "which published item parameters are meant: `evomerge calibrate` makes the run's own",
    "task_type": "the lm-eval task says how an answer is judged",
    "eval_batch_size": "batches are made by tokens (engine.batch_tokens)",
    "load_in_4bit": "models are merged and run unquantised, as they are exported",
    "eager_mode": "an engine's argument (engine.arguments: {enforce_eager: true} with kind vllm)",
    "force_evaluation": "answers are shared by content (fitness.cache), never by file name",
    "path_to_store_config": "recipes are in run.db",
    "path_to_store_merged_model": "candidates are merged in the engine's memory; export writes one",
}
"""What its keys become; `ignored`: said by the functions above."""

KEYS = frozenset(_KEYS)
"""By which a file is recognised."""

"""Run files made small enough for a test, and fragments of them made whole."""

import copy
from collections.abc import Mapping
from typing import Any

SMALL_TASK = {"items": 6, "selection": 6, "test": 12}


def smaller(content: Mapping[str, Any], evaluations: int = 12) -> dict[str, Any]:
    """The run file with few items, few candidates, and one evaluator in this process."""
    small = copy.deepcopy(dict(content))
    for task in small["fitness"]["tasks"].values():
        task.update(SMALL_TASK)
    search = small.setdefault("search", {})
    search["budget"] = {"evaluations": evaluations}
    search["finalists"] = 3
    if small.get("space", {}).get("kind", "parameter") == "parameter":
        search["population"] = max(8, len(small["models"]["experts"]) + 2)
    small["cluster"] = {"executor": "serial"}
    return small


def whole(fragment: Mapping[str, Any]) -> dict[str, Any]:
    """A run file of a part of one: sources and tasks that it takes for granted are added."""
    content = copy.deepcopy(dict(fragment))
    fitness = content.setdefault("fitness", {})
    objectives = [o for o in fitness.get("objectives", ()) if isinstance(o, Mapping)]
    bare = [o for o in fitness.get("objectives", ()) if isinstance(o, str)]
    named = {task for o in objectives for task in _tasks_of(o)} | set(bare)
    fitness.setdefault("tasks", {task: {} for task in sorted(named or {"gsm8k"})})
    incumbents = {str(o["flips"]) for o in objectives if "flips" in o} - {"uniform"}
    content.setdefault(
        "models", {"base": "org/base", "experts": {n: f"org/{n}" for n in {"maths", *incumbents}}}
    )
    return content


def _tasks_of(objective: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for kind in ("task", "tasks", "worst", "spread", "loss"):
        value = objective.get(kind, ())
        found += [value] if isinstance(value, str) else list(value)
    return found

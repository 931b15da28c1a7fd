"""The run file's objectives: which forms there are, what is refused, and what is measured."""

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from evomerge.config import Engine, Objective, RunFile
from evomerge.objectives import (
    cache_itemsize,
    incumbents,
    is_timed,
    losses,
    model_costs,
    neighbour_step,
    spec_of,
)
from fitness.errors import FitnessError
from fitness.objectives import COSTS, ObjectiveSpec
from fitness.tasks import TaskSpec, compile_tasks
from search_spaces.errors import InputError
from tests.fitness.conftest import choices, exact_match, questions, write_task

MODELS = {"base": "b", "experts": {"x": "x", "y": "y"}}


def test_the_run_file_has_every_cost() -> None:
    """A `Literal` cannot be made from a table, so it is held against it."""
    listed, nothing = get_args(Objective.model_fields["cost"].annotation)
    assert get_args(listed) == COSTS
    assert nothing is type(None)


def run_file(*objectives: Any, tasks: tuple[str, ...] = ("maths", "words")) -> RunFile:
    fitness = {"tasks": {name: {} for name in tasks}, "objectives": list(objectives)}
    return RunFile.model_validate({"models": MODELS, "fitness": fitness})


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """`maths` and `words` with 12 and 8 items, and `errors`, of which lower is better."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder, "maths", {"test": questions(12, 1)}, **exact_match())
    write_task(folder, "words", {"test": questions(8, 2)}, **exact_match())
    rate = {"metric": "acc", "aggregation": "mean", "higher_is_better": False}
    multiple = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [rate],
    }
    write_task(folder, "errors", {"test": choices(8, 3)}, **multiple)
    return lambda *names: compile_tasks([TaskSpec(name, folder) for name in names])


FORMS = [
    ("maths", ObjectiveSpec("maths", "task", tasks={"maths": 1.0})),
    (
        {"tasks": {"maths": 1, "words": 3}, "name": "both"},
        ObjectiveSpec("both", "weighted", tasks={"maths": 1.0, "words": 3.0}),
    ),
    ({"cost": "tokens"}, ObjectiveSpec("tokens", "cost", "minimize", cost="tokens")),
    ({"cost": "layers"}, ObjectiveSpec("layers", "cost", "minimize", cost="layers")),
    (
        {"cost": "kv_bytes", "name": "cache"},
        ObjectiveSpec("cache", "cost", "minimize", cost="kv_bytes"),
    ),
    (
        {"cost": "tokens_per_second"},
        ObjectiveSpec("tokens_per_second", "cost", "maximize", cost="tokens_per_second"),
    ),
    ({"function": "f.py:best"}, ObjectiveSpec("best", "function", function="f.py:best")),
    ({"flips": "y"}, ObjectiveSpec("flips", "flips", "minimize")),
    ({"flips": "uniform", "name": "lost"}, ObjectiveSpec("lost", "flips", "minimize")),
    (
        {"worst": ["maths", "words"]},
        ObjectiveSpec("worst", "worst", tasks={"maths": 1.0, "words": 1.0}),
    ),
    (
        {"spread": ["words", "maths"], "name": "even"},
        ObjectiveSpec("even", "spread", "minimize", {"words": 1.0, "maths": 1.0}),
    ),
    ({"loss": "maths"}, ObjectiveSpec("maths_loss", "loss", "minimize", {"maths": 1.0})),
    (
        {"loss": ["maths", "words"]},
        ObjectiveSpec("loss", "loss", "minimize", {"maths": 1.0, "words": 1.0}),
    ),
    ({"consistency": {}}, ObjectiveSpec("consistency", "consistency")),
    (
        {"consistency": {"step": 0.1, "tasks": ["words"]}},
        ObjectiveSpec("consistency", "consistency", tasks={"words": 8.0}),
    ),
    (
        {"loss": "maths", "direction": "maximize"},
        ObjectiveSpec("maths_loss", "loss", "maximize", {"maths": 1.0}),
    ),
]


@pytest.mark.parametrize(("given", "expected"), FORMS)
def test_forms(tasks, given, expected):
    (objective,) = run_file(given).fitness.objectives
    assert spec_of(objective, tasks("maths", "words")) == expected


REFUSED = [
    (
        {},
        "give exactly one of task, tasks, worst, spread, cost, loss, flips, consistency, function",
    ),
    ({"task": "maths", "loss": "maths"}, "give exactly one of"),
    ({"cost": "layer"}, "'tokens', 'truncated', .*'layers', 'parameters', 'kv_bytes' or 'tokens_"),
    ({"worst": ["maths", "word"]}, "objective on unknown task 'word'; did you mean 'words'"),
    ({"spread": ["maths", "word"]}, "objective on unknown task 'word'; did you mean 'words'"),
    ({"loss": "math"}, "objective on unknown task 'math'; did you mean 'maths'"),
    (
        {"consistency": {"tasks": ["math"]}},
        "objective on unknown task 'math'; did you mean 'maths'",
    ),
    ({"worst": ["maths"]}, "at least 2 items"),
    ({"worst": ["maths", "maths"]}, r"a task stands twice in \['maths', 'maths'\]"),
    ({"loss": []}, "at least 1 item"),
    ({"consistency": {"step": 1.0}}, "less than 1"),
    ({"flips": "z"}, "flips against unknown 'z'; use one of: base, uniform, x, y"),
    ({"flips": "unifrom"}, "flips against unknown 'unifrom'; did you mean 'uniform'"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        run_file(given)


def test_a_run_has_one_incumbent_and_one_step():
    with pytest.raises(ValidationError, match="flips against x and y: a run has one incumbent"):
        run_file({"flips": "x"}, {"flips": "y", "name": "other"})
    with pytest.raises(ValidationError, match=r"steps \[0.05, 0.1\]: a run has one step"):
        run_file({"consistency": {}}, {"consistency": {"step": 0.1}, "name": "other"})
    with pytest.raises(ValidationError, match="two objectives are named 'loss'"):
        run_file({"loss": ["maths", "words"]}, {"loss": ["words", "maths"]})


def test_what_a_run_has_to_ask_for():
    plain = run_file("maths")
    assert (incumbents(plain), neighbour_step(plain), losses(plain)) == (None, None, frozenset())
    all_ = run_file("maths", {"flips": "x"}, {"loss": "words"}, {"consistency": {"step": 0.1}})
    assert (incumbents(all_), neighbour_step(all_), losses(all_)) == ("x", 0.1, {"words"})


def test_the_worst_follows_the_metrics(tasks):
    found = tasks("maths", "words", "errors")
    names = ("maths", "words", "errors")
    for kind in ("worst", "spread"):
        (mixed,) = run_file({kind: ["maths", "errors"]}, tasks=names).fitness.objectives
        with pytest.raises(FitnessError, match=f"objective '{kind}': .*lower for .*'errors'"):
            spec_of(mixed, found)
    (flips,) = run_file({"flips": "x"}, tasks=names).fitness.objectives
    message = (
        r"objective 'flips': flips of all tasks, \['errors'\] among them: lower is better there"
    )
    with pytest.raises(FitnessError, match=message):
        spec_of(flips, found)


def test_constraints_take_the_new_names():
    fitness = {
        "tasks": {"maths": {}, "words": {}},
        "objectives": ["maths", {"flips": "base", "at_most": 0.02}, {"loss": "words"}],
        "constraints": ["words_loss <= 1.5"],
    }
    found = RunFile.model_validate({"models": MODELS, "fitness": fitness}).fitness.all_constraints
    assert [(c.objective, c.bound) for c in found] == [("words_loss", 1.5), ("flips", 0.02)]


def test_every_cost_that_is_measured_may_be_named():
    for cost in COSTS:
        (objective,) = run_file({"cost": cost}).fitness.objectives
        assert (objective.label, objective.kind) == (cost, "cost")


def test_costs_of_the_model_that_a_run_asks_for():
    assert model_costs(run_file("maths", {"cost": "tokens"})) == frozenset()
    found = run_file("maths", {"cost": "layers", "name": "depth"}, {"cost": "kv_bytes"})
    assert model_costs(found) == {"layers", "kv_bytes"}
    assert not is_timed(found)
    assert is_timed(run_file({"cost": "tokens_per_second", "name": "speed"}))
    bounded = run_file("maths", {"cost": "layers", "at_most": 32}).fitness.all_constraints
    assert [(c.objective, c.sign, c.bound) for c in bounded] == [("layers", "<=", 32)]


@pytest.mark.parametrize(
    ("dtype", "chosen", "bytes_"),
    [
        ("float32", None, 4),
        ("bfloat16", "auto", 2),
        ("float16", "fp8_e4m3", 1),
        ("float32", "bfloat16", 2),
    ],
)
def test_bytes_of_a_number_in_the_cache(dtype, chosen, bytes_):
    arguments = {} if chosen is None else {"kv_cache_dtype": chosen}
    engine = Engine(kind="vllm", dtype=dtype, arguments=arguments)
    assert cache_itemsize(engine) == bytes_


def test_an_unknown_cache_is_refused():
    engine = Engine(kind="vllm", arguments={"kv_cache_dtype": "nvfp4"})
    with pytest.raises(InputError, match=r"engine.arguments: kv_cache_dtype 'nvfp4': the size"):
        cache_itemsize(engine)

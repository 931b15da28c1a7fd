import hashlib
import math
import pickle
import statistics
import sys

import numpy as np
import pytest

from fitness.errors import FitnessError
from fitness.estimate import Estimate, mean_estimate, weighted
from fitness.functions import function_digest, load_function
from fitness.items import Response
from fitness.objectives import Objectives, ObjectiveSpec, direction_of, function_estimate

POOLS = {"maths": 100, "words": 50}


def responses(maths=(1, 0, 1, 1), words=(0, 1), **extra):
    made = [Response("maths", i, float(s), tokens=4 + i, **extra) for i, s in enumerate(maths)]
    return made + [Response("words", i, float(s), tokens=10) for i, s in enumerate(words)]


def measure(spec, answers=None, folder=None):
    return Objectives([spec], POOLS, folder).measure(answers or responses())[spec.name]


def test_a_task_is_its_estimate():
    found = measure(ObjectiveSpec("m", "task", tasks={"maths": 1}))
    assert found == mean_estimate([1, 0, 1, 1], 100)


def test_a_weighted_mean_over_tasks():
    found = measure(ObjectiveSpec("m", "weighted", tasks={"maths": 1, "words": 3}))
    parts = [mean_estimate([1, 0, 1, 1], 100), mean_estimate([0, 1], 50)]
    assert found == weighted(parts, [1, 3])
    assert found.value == pytest.approx((0.75 + 3 * 0.5) / 4)


def test_a_report_on_test_items_speaks_for_further_items_too(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def f(responses): return sum(r.score for r in responses['maths']) / 4\n"
    )
    specs = [
        ObjectiveSpec("m", "task", tasks={"maths": 1}),
        ObjectiveSpec("t", "cost", tasks={"maths": 1}, cost="tokens"),
        ObjectiveSpec("f", "function", tasks={"maths": 1}, function="mine.py:f"),
    ]
    objectives = Objectives(specs, {"maths": 4}, tmp_path)
    known = objectives.measure(responses(words=()))
    further = objectives.measure(responses(words=()), finite=False)
    assert [e.se for e in known.values()] == [0.0, 0.0, 0.0]
    assert all(e.se > 0 for e in further.values())
    assert further["m"] == mean_estimate([1, 0, 1, 1], None)
    assert [e.value for e in further.values()] == [e.value for e in known.values()]


def test_tokens_are_a_mean_over_all_items():
    found = measure(ObjectiveSpec("t", "cost", "minimize", cost="tokens"))
    # 100 items of mean 5.5 and 50 of mean 10.
    assert found.value == pytest.approx((100 * 5.5 + 50 * 10) / 150)
    assert 0 < found.se < 3


def test_multiple_choice_generates_no_tokens():
    answers = [*responses(), Response("letters", 0, 1.0)]
    spec = ObjectiveSpec("t", "cost", "minimize", cost="tokens")
    with_letters = Objectives([spec], POOLS | {"letters": 1000}, None).measure(answers)["t"]
    assert with_letters == measure(spec)
    only = ObjectiveSpec("t", "cost", tasks={"letters": 1}, cost="tokens")
    with pytest.raises(FitnessError, match="objective 't': cost 'tokens': no task generates"):
        Objectives([only], {"letters": 9}, None).measure(answers)


@pytest.mark.parametrize(
    ("cost", "flag"), [("truncated", "truncated"), ("parse_failures", "parse_failure")]
)
def test_shares_of_bad_answers(cost, flag):
    answers = [Response("maths", i, 0.0, tokens=3, **{flag: i < 2}) for i in range(8)]
    spec = ObjectiveSpec("c", "cost", "minimize", tasks={"maths": 1}, cost=cost)
    assert measure(spec, answers) == mean_estimate([1, 1, 0, 0, 0, 0, 0, 0], 100)


def test_a_function_from_a_file(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def worst(responses):\n"
        "    return min(sum(r.score for r in a) / len(a) for a in responses.values())\n"
    )
    spec = ObjectiveSpec("w", "function", function="mine.py:worst")
    found = measure(spec, folder=tmp_path)
    assert found.value == 0.5
    assert found.se > 0


def test_a_function_may_return_an_estimate(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fitness.estimate import Estimate\n"
        "def known(responses):\n    return Estimate(0.25, 0.0)\n"
    )
    spec = ObjectiveSpec("w", "function", function="mine.py:known")
    assert measure(spec, folder=tmp_path) == Estimate(0.25, 0.0)


def test_a_function_sees_only_its_tasks():
    seen = []
    function_estimate(lambda r: seen.append(dict(r)) or 1.0, "f", {"maths": responses()[:4]}, POOLS)
    assert set(seen[0]) == {"maths"}
    assert all(len(call["maths"]) in (3, 4) for call in seen)


def test_the_jackknife_of_a_mean_is_about_its_standard_error():
    """Of a mean the delete-one-group jackknife knows the answer: sd / sqrt(n) * sqrt(1 - n / N)."""
    generator = np.random.default_rng(0)

    def mean(by_task):
        return statistics.fmean(r.score for r in by_task["maths"])

    ratios = []
    for _ in range(200):
        scores = (generator.random(60) < 0.4).astype(float)
        answers = [Response("maths", i, s) for i, s in enumerate(scores)]
        found = function_estimate(mean, "f", {"maths": answers}, {"maths": 240})
        ratios.append(found.se / (scores.std(ddof=1) / math.sqrt(60) * math.sqrt(0.75)))
    assert 0.95 < statistics.fmean(ratios) < 1.05
    assert statistics.stdev(ratios) < 0.25


def test_all_items_answered_leaves_no_error():
    answers = {"words": [Response("words", i, i % 2) for i in range(50)]}
    found = function_estimate(
        lambda r: statistics.fmean(x.score for x in r["words"]), "f", answers, POOLS
    )
    assert found == Estimate(0.5, 0.0)


def test_single_responses_are_never_taken_away():
    def both(by_task):
        return by_task["maths"][0].score * by_task["words"][0].score

    answers = {"maths": [Response("maths", 0, 1.0)], "words": [Response("words", 0, 0.5)]}
    assert function_estimate(both, "f", answers, POOLS) == Estimate(0.5, 0.0)
    alone = {"maths": [Response("maths", 0, 1.0)]}
    assert function_estimate(lambda r: 0.5, "f", alone, POOLS) == Estimate(0.5, 0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "1", Estimate(1.0, math.nan), 1j])
def test_a_function_must_return_a_finite_number(value):
    with pytest.raises(FitnessError, match=r"function 'mine.py:f' returned .*finite number"):
        function_estimate(lambda r: value, "mine.py:f", {"maths": responses()[:4]}, POOLS)


def test_an_error_in_a_function_names_both():
    with pytest.raises(FitnessError, match=r"'mine.py:f': it raised KeyError: 'absent'"):
        function_estimate(lambda r: r["absent"], "mine.py:f", {"maths": responses()[:4]}, POOLS)


SPECS = [
    (ObjectiveSpec("m", "tasks"), "objective 'm': kind 'tasks': unknown; did you mean 'task'"),
    (ObjectiveSpec("m", "task", "max", {"maths": 1}), "direction 'max': unknown"),
    (ObjectiveSpec("m", "task", tasks={"math": 1}), "task 'math': unknown; did you mean 'maths'"),
    (ObjectiveSpec("m", "task", tasks=dict.fromkeys(POOLS, 1)), "name exactly one"),
    (ObjectiveSpec("m", "weighted"), "name at least one with its weight"),
    (ObjectiveSpec("m", "weighted", tasks={"maths": 0}), "each must be finite and above 0"),
    (ObjectiveSpec("m", "weighted", tasks={"maths": math.nan}), "each must be finite and above 0"),
    (ObjectiveSpec("m", "cost", tasks={"maths": math.inf}, cost="tokens"), "each must be finite"),
    (ObjectiveSpec("m", "cost", cost="token"), "cost 'token': unknown; did you mean 'tokens'"),
]


@pytest.mark.parametrize(("spec", "message"), SPECS)
def test_specs_are_checked_when_the_run_starts(spec, message):
    with pytest.raises(FitnessError, match=message):
        Objectives([spec], POOLS, None)


def test_names_differ_and_responses_are_there():
    spec = ObjectiveSpec("m", "task", tasks={"maths": 1})
    with pytest.raises(FitnessError, match="two are equal"):
        Objectives([spec, spec], POOLS, None)
    with pytest.raises(FitnessError, match=r"objective 'm': no responses of \['maths'\]"):
        measure(spec, responses()[4:])


def test_specs_are_plain_data():
    spec = ObjectiveSpec("m", "weighted", tasks={"maths": 1.0, "words": 2.0})
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_metrics_of_a_mean_point_one_way():
    """A mean of accuracy and of error rate was minimised: it rewarded wrong answers."""
    higher = {"maths": True, "words": True, "errors": False, "blunders": False}
    assert direction_of({"maths": 1, "words": 2}, higher, "objective 'm'") == "maximize"
    assert direction_of({"errors": 1, "blunders": 2}, higher, "objective 'm'") == "minimize"
    assert direction_of({}, higher, "objective 'm'") == "maximize"
    message = r"objective 'm': .*higher is better for \['maths'\], lower for \['errors'\]"
    with pytest.raises(FitnessError, match=message):
        direction_of({"maths": 1, "errors": 1}, higher, "objective 'm'")
    with pytest.raises(FitnessError, match="task 'math': unknown; did you mean 'maths'"):
        direction_of({"math": 1}, higher, "objective 'm'")


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_mean_of_answers_that_agree_is_not_known_exactly(score):
    """5 right of 5 had no error as a custom function, so nothing could be better by chance."""
    answers = {"maths": responses(maths=[score] * 5, words=())}

    def mean(by_task):
        return statistics.fmean(r.score for r in by_task["maths"])

    assert function_estimate(mean, "f", answers, POOLS) == mean_estimate([score] * 5, 100)
    assert function_estimate(lambda r: 7.0, "f", answers, POOLS) == Estimate(7.0, 0.0)


REFERENCES = [
    ("mine.py", "neither 'path/to/file.py:name' nor"),
    ("absent.py:f", "there is no file"),
    ("mine.py:scor", "there is no 'scor' in it; did you mean 'score'"),
    ("mine.py:LIMIT", "'LIMIT' is no function"),
    ("broken.py:f", "importing it failed with ZeroDivisionError: division by zero"),
    ("no_such_package.inside:f", "importing it failed with ModuleNotFoundError"),
]


@pytest.mark.parametrize(("reference", "message"), REFERENCES)
def test_functions_that_cannot_be_loaded(tmp_path, reference, message):
    (tmp_path / "mine.py").write_text("LIMIT = 3\ndef score(responses): return 1.0\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(FitnessError, match=message):
        load_function(reference, tmp_path)


def test_functions_that_can(tmp_path):
    assert load_function("statistics:fmean", tmp_path) is statistics.fmean
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"def f(responses): return {value}\n")
    assert load_function("one/mine.py:f", tmp_path)({}) == 1
    assert load_function("two/mine.py:f", tmp_path)({}) == 2


def test_a_file_with_a_dataclass_and_late_annotations(tmp_path):
    """`dataclasses` looks its module up in `sys.modules`; the file was refused."""
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Limit:\n    value: float = 0.25\n"
        "def f(responses): return Limit().value\n"
    )
    function = load_function("mine.py:f", tmp_path)
    assert function({}) == 0.25
    assert vars(sys.modules[function.__module__])["f"] is function
    assert "mine" not in sys.modules


def test_a_file_that_fails_leaves_no_module(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit\n")
    before = set(sys.modules)
    with pytest.raises(SystemExit):
        load_function("mine.py:f", tmp_path)
    assert set(sys.modules) == before


def test_the_digest_of_a_function_is_that_of_its_file(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("def f(responses): return 1.0\n")
    digest = function_digest("mine.py:f", tmp_path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("def f(responses): return 2.0\n")
    assert function_digest("mine.py:f", tmp_path) != digest
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "digested.py").write_text("def f(responses): return 3.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    packed = function_digest("packed.digested:f", tmp_path)
    assert packed == function_digest("packed/digested.py:f", tmp_path)
    assert len(function_digest("math:fsum", tmp_path)) == 64
    with pytest.raises(FitnessError, match="there is no file"):
        function_digest("absent.py:f", tmp_path)

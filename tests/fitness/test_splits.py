import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import FitnessError
from fitness.splits import SplitSizes, deal

PARTS = ("search", "selection", "test")
sizes = st.builds(
    SplitSizes, st.integers(1, 20), st.integers(0, 20), st.one_of(st.none(), st.integers(0, 20))
)


def alone(total, sizes, seed, task="t"):
    return deal({task: [f"question {i}" for i in range(total)]}, {task: sizes}, seed)[task]


@given(sizes, st.integers(0, 30), st.integers(0, 2**40), st.text(max_size=8))
def test_splits_are_disjoint_and_as_large_as_asked(sizes, spare, seed, task):
    total = sum(sizes.least) + spare
    splits = alone(total, sizes, seed, task)
    everything = splits.search + splits.selection + splits.test
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(total))
    assert len(splits.search) == sizes.search
    assert len(splits.selection) == sizes.selection
    rest = total - sizes.search - sizes.selection
    assert len(splits.test) == (rest if sizes.test is None else sizes.test)
    assert alone(total, sizes, seed, task) == splits


@st.composite
def overlapping(draw):
    """Up to four tasks over 40 questions, some asked twice in a task, with sizes of their own."""
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    few = st.integers(0, 8)
    wanted = st.builds(SplitSizes, st.integers(1, 8), few, st.one_of(st.none(), few))
    asked = st.lists(st.integers(0, 40).map(str), min_size=1, max_size=50)
    return {n: draw(asked) for n in names}, {n: draw(wanted) for n in names}


@given(overlapping(), st.integers(0, 2**40))
def test_no_question_is_in_two_splits_of_any_tasks(tasks, seed):
    """A task's search items could be the test items of its multiple-choice form."""
    questions, sizes = tasks
    try:
        dealt = deal(questions, sizes, seed)
    except FitnessError:
        return
    homes: dict[str, str] = {}
    for task, splits in dealt.items():
        for part in PARTS:
            chosen = getattr(splits, part)
            assert len(set(chosen)) == len(chosen)
            assert all(homes.setdefault(questions[task][i], part) == part for i in chosen)
        assert len(splits.search) == sizes[task].search
        assert len(splits.selection) == sizes[task].selection
        test = sizes[task].test
        assert len(splits.test) >= 1 if test is None else len(splits.test) == test
    backwards = dict(reversed(questions.items()))
    assert deal(backwards, sizes, seed) == dealt
    assert list(dealt) == list(questions)


def test_all_the_rest_is_all_that_no_task_searches_or_selects_on():
    texts = [str(i) for i in range(100)]
    questions = {"a": texts, "b": texts[::-1]}
    dealt = deal(questions, {"a": SplitSizes(20, 20), "b": SplitSizes(40, 20)}, 1)
    used = {t: [{questions[t][i] for i in getattr(s, p)} for p in PARTS] for t, s in dealt.items()}
    assert used["a"][0] < used["b"][0]
    assert used["a"][1] == used["b"][1]
    assert used["a"][2] == used["b"][2]
    assert len(used["a"][2]) == 40


def test_a_small_task_inside_a_large_one_gets_its_items():
    texts = [str(i) for i in range(1000)]
    questions = {"large": texts, "small": texts[:20]}
    dealt = deal(questions, {"large": SplitSizes(900, 50), "small": SplitSizes(5, 5)}, 0)
    assert [len(getattr(dealt["small"], part)) for part in PARTS[:2]] == [5, 5]
    assert dealt["small"].test


def test_tasks_that_share_nothing_are_dealt_as_if_alone():
    questions = {t: [f"{t}{i}" for i in range(50)] for t in "ab"}
    sizes = {"a": SplitSizes(9, 5, 7), "b": SplitSizes(30, 5)}
    dealt = deal(questions, sizes, 3)
    assert dealt == {t: deal({t: questions[t]}, sizes, 3)[t] for t in "ab"}


def test_questions_that_cannot_be_shared_out_are_refused():
    texts = [str(i) for i in range(100)]
    sizes = {"a": SplitSizes(60, 20), "b": SplitSizes(20, 60)}
    message = r"task 'b': 81 items \(.*\): the task has 100, but some ask what another item is"
    with pytest.raises(FitnessError, match=message):
        deal({"a": texts, "b": texts}, sizes, 0)


def test_seeds_differ_and_prefixes_nest():
    sizes = SplitSizes(20, 10, 30)
    one = alone(100, sizes, 1)
    assert one != alone(100, sizes, 2)
    more = alone(100, SplitSizes(40, 10, 30), 1)
    assert more.search[:20] == one.search
    assert (more.selection, more.test) == (one.selection, one.test)
    assert sorted(one.search) != list(one.search)


def test_another_process_deals_the_same_items():
    code = (
        "from fitness.splits import *\n"
        "print(deal({'größe': [f'question {i}' for i in range(50)]}, "
        "{'größe': SplitSizes(9, 5, 7)}, 3)['größe'])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert runs == {str(alone(50, SplitSizes(9, 5, 7), 3))}


def test_every_item_is_searched_on_equally_often():
    counts = [0] * 10
    for seed in range(3000):
        for index in alone(10, SplitSizes(3, 3, 4), seed).search:
            counts[index] += 1
    assert all(abs(count / 3000 - 0.3) < 0.04 for count in counts)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            SplitSizes(8, 2, 1),
            r"task 'sums': 11 items \(search 8, selection 2, test 1\): the task has 10;",
        ),
        (SplitSizes(8, 2), r"task 'sums': 11 items \(.*test at least 1\): the task has 10;"),
        (
            SplitSizes(0, 2),
            "search = 0, selection = 2, test = None: they are whole numbers, search",
        ),
        (SplitSizes(1, -2), "selection = -2"),
        (SplitSizes(math.nan), "search = nan.*whole numbers"),
        (SplitSizes(1, math.inf), "selection = inf.*whole numbers"),
        (SplitSizes(1, 1, 2.5), "test = 2.5: they are whole numbers"),
    ],
)
def test_too_few_items_are_refused(sizes, message):
    with pytest.raises(FitnessError, match=message):
        alone(10, sizes, 0, "sums")

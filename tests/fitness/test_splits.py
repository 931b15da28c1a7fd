import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import FitnessError
from fitness.splits import SplitSizes, split_items

sizes = st.builds(
    SplitSizes, st.integers(1, 20), st.integers(0, 20), st.one_of(st.none(), st.integers(0, 20))
)


@given(sizes, st.integers(0, 30), st.integers(0, 2**40), st.text(max_size=8))
def test_splits_are_disjoint_and_as_large_as_asked(sizes, spare, seed, task):
    total = sizes.search + sizes.selection + (sizes.test or 1) + spare
    splits = split_items(total, sizes, seed, task)
    everything = splits.search + splits.selection + splits.test
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(total))
    assert len(splits.search) == sizes.search
    assert len(splits.selection) == sizes.selection
    rest = total - sizes.search - sizes.selection
    assert len(splits.test) == (rest if sizes.test is None else sizes.test)
    assert split_items(total, sizes, seed, task) == splits


def test_seeds_and_tasks_differ_and_prefixes_nest():
    sizes = SplitSizes(20, 10, 30)
    one = split_items(100, sizes, 1, "a")
    assert one != split_items(100, sizes, 2, "a")
    assert one != split_items(100, sizes, 1, "b")
    more = split_items(100, SplitSizes(40, 10, 30), 1, "a")
    assert more.search[:20] == one.search
    assert (more.selection, more.test) == (one.selection, one.test)
    assert sorted(one.search) != list(one.search)


def test_another_process_deals_the_same_items():
    code = "from fitness.splits import *; print(split_items(50, SplitSizes(9, 5, 7), 3, 'größe'))"
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
    assert runs == {str(split_items(50, SplitSizes(9, 5, 7), 3, "größe"))}


def test_every_item_is_searched_on_equally_often():
    counts = [0] * 10
    for seed in range(3000):
        for index in split_items(10, SplitSizes(3, 3, 4), seed, "t").search:
            counts[index] += 1
    assert all(abs(count / 3000 - 0.3) < 0.04 for count in counts)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            SplitSizes(8, 2, 1),
            r"task 'sums': 11 items \(search 8, selection 2, test 1\): .* has 10",
        ),
        (SplitSizes(8, 2), r"task 'sums': 11 items \(.*test at least 1\): the task has 10"),
        (SplitSizes(0, 2), "search = 0, selection = 2, test = None: search needs at least 1"),
        (SplitSizes(1, -2), "selection = -2"),
    ],
)
def test_too_few_items_are_refused(sizes, message):
    with pytest.raises(FitnessError, match=message):
        split_items(10, sizes, 0, "sums")

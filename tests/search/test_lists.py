"""Lists inside points, and the operators that vary them as lists."""

import copy

import numpy as np
import pytest
from hypothesis import assume, given, settings

from evomerge.search.lists import Lists
from evomerge.search.path_operators import MUTATIONS, change, crossed, mutated, swapped
from evomerge.search.problem import Problem, snapped
from search_spaces.slots import Slots
from tests.search.list_problems import lists, problem

SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)


def generator(seed):
    return np.random.default_rng(seed)


def items(rows):
    return [row.tobytes() for row in rows]


def well_formed(rows, found):
    assert rows.ndim == 2
    assert rows.shape[1] == len(found.counts)
    assert ((rows >= 0) & (rows <= 1)).all()
    np.testing.assert_array_equal(rows, snapped(rows, found.counts))


@given(lists())
@SETTINGS
def test_a_list_is_read_and_written_back(case):
    found, [point], _ = case
    rows = found.read(point)
    assert found.least <= len(rows) <= found.most
    well_formed(rows, found)
    np.testing.assert_array_equal(found.write(point, rows), point)
    np.testing.assert_array_equal(found.problem.canonical(point), point)


@given(lists())
@SETTINGS
def test_what_stands_beyond_the_end_of_a_list_makes_no_other_point(case):
    found, [point], seed = case
    rows = found.read(point)
    scribbled = point.copy()
    idle = found.columns[len(rows) :].ravel()
    scribbled[idle] = generator(seed + 1).random(len(idle))
    np.testing.assert_array_equal(found.problem.canonical(scribbled), point)
    np.testing.assert_array_equal(found.read(scribbled), rows)


@given(lists())
@SETTINGS
def test_mutations_keep_to_the_bounds_and_to_their_arguments(case):
    found, [point], seed = case
    rows = found.read(point)
    before = rows.copy()
    for mutation in MUTATIONS:
        once = mutation(rows, found, generator(seed))
        np.testing.assert_array_equal(rows, before)
        if once is None:
            continue
        well_formed(once, found)
        fitted = found.fitted(once, generator(seed))
        assert found.least <= len(fitted) <= found.most
        well_formed(fitted, found)
        np.testing.assert_array_equal(once, mutation(rows, found, generator(seed)))


@given(lists())
@SETTINGS
def test_a_mutation_is_another_list_where_there_is_one(case):
    found, [point], seed = case
    rows = found.read(point)
    other = mutated(rows, found, generator(seed))
    assert found.least <= len(other) <= found.most
    well_formed(other, found)
    np.testing.assert_array_equal(other, mutated(rows, found, generator(seed)))
    assume(len(rows) and any(n != 1 for n in found.counts))
    assert not np.array_equal(other, rows)


@given(lists(number=2))
@SETTINGS
def test_children_are_made_of_their_parents_items(case):
    found, points, seed = case
    first, second = map(found.read, points)
    before = copy.deepcopy((first, second))
    assume(len(first) and len(second))
    for child in crossed(first, second, found, generator(seed)):
        assert found.least <= len(child) <= found.most
        assert set(items(child)) <= set(items(first)) | set(items(second))
    one, other = swapped(first, second, generator(seed))
    assert (len(one), len(other)) == (len(first), len(second))
    assert sorted(items(one) + items(other)) == sorted(items(first) + items(second))
    np.testing.assert_array_equal(first, before[0])
    np.testing.assert_array_equal(second, before[1])
    again = crossed(first, second, found, generator(seed))
    for a, b in zip(crossed(first, second, found, generator(seed)), again, strict=True):
        np.testing.assert_array_equal(a, b)


LAYERS = Lists(problem([(2, 0), (0, 12)], 4, 20))


def stack(*layers):
    return snapped(np.array([[m, (n + 0.5) / 12] for m, n in layers]), LAYERS.counts)


WHOLE = stack(*((0, n) for n in range(12)))


def test_each_mutation_does_what_its_name_says():
    """On the layers 0 to 11 of one model, many times."""
    layers = items(WHOLE)
    for seed in range(200):
        found = {m.__name__: items(m(WHOLE, LAYERS, generator(seed))) for m in MUTATIONS}
        assert len(found["insert"]) == 13
        assert any(found["insert"][:i] + found["insert"][i + 1 :] == layers for i in range(13))
        assert len(found["delete"]) < 12
        assert found["delete"] == [x for x in layers if x in found["delete"]]
        assert sorted(found["swap"]) == sorted(found["move"]) == sorted(layers)
        assert sum(a != b for a, b in zip(found["swap"], layers, strict=True)) == 2
        extra = len(found["repeat"]) - 12
        assert extra >= 1
        starts = range(12 - extra + 1)
        assert any(
            found["repeat"] == layers[: i + extra] + layers[i : i + extra] + layers[i + extra :]
            for i in starts
        )
        assert set(found["copy"]) <= set(layers)
        changed = change(WHOLE, LAYERS, generator(seed))
        differs = (changed != WHOLE).any(axis=0)
        assert changed.shape == WHOLE.shape
        assert differs.sum() == 1, "one column"


def test_a_list_of_one_length_shifts_when_an_item_is_inserted():
    fixed = Lists(problem([(0, 12)], 6, 6, fixed=True))
    rows = fixed.read(np.zeros(6))
    rows[:, 0] = (np.arange(6) + 0.5) / 12
    kept = set()
    for seed in range(300):
        other = mutated(rows, fixed, generator(seed))
        assert len(other) == 6
        kept |= {tuple((other[:, 0] * 12).astype(int))}
    assert any(list(k[1:]) == [0, 1, 2, 3, 4] for k in kept), "inserted at the front, the last lost"


def test_parents_are_cut_where_they_go_on_alike():
    """One has a layer more at the front: same places hold other layers, halves fit all the same."""
    longer = np.concatenate([stack((1, 0)), WHOLE])
    orders = []
    for seed in range(100):
        child, other = crossed(WHOLE, longer, LAYERS, generator(seed))
        orders += [np.diff((rows[:, 1] * 12).astype(int)) for rows in (child, other)]
    assert np.mean([np.isin(order, (0, 1)).all() for order in orders]) > 0.95


def test_too_short_and_too_long_lists_are_repaired():
    for seed in range(50):
        short = LAYERS.fitted(WHOLE[:2], generator(seed))
        assert len(short) == 4
        assert items(short) == sorted(items(short), key=items(WHOLE).index)
        cut = LAYERS.fitted(np.concatenate([WHOLE, WHOLE]), generator(seed))
        assert len(cut) == 20
    assert len(LAYERS.fitted(WHOLE[:0], generator(0))) == 4
    with pytest.raises(ValueError, match="2 items: a list of 4 to 20"):
        LAYERS.write(np.zeros(41), WHOLE[:2])


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        (Slots(0, ((1,), (1,)), 1), r"use the variables \[1, 1, 0\]: each once, from 0 to 3"),
        (Slots(0, ((1,), (9,)), 1), "each once, from 0 to 3"),
        (Slots(0, ((1,), (3,)), 1), "all with the same kinds of variables"),
        (Slots(0, (), 0), "one or more"),
        (Slots(0, ((1,), (2,)), 3), "at least 3 of 2"),
        (Slots(0, ((1,), (2,)), 0), "the length has 2 cells; it counts from 0 to 2"),
    ],
)
def test_slots_that_are_no_list_are_refused(slots, message):
    with pytest.raises(ValueError, match=message):
        Problem(4, 1, levels=(0, 2, 2, 0), cells=(2, 0, 0, 5), slots=slots)


def test_a_variable_is_a_choice_or_a_whole_number():
    with pytest.raises(ValueError, match="levels or cells, not both"):
        Problem(1, 1, levels=(2,), cells=(2,))
    with pytest.raises(ValueError, match="no variables of this problem form a list"):
        Problem(1, 1).lengths(np.zeros(1))

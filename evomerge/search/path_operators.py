"""Operators on lists of variable length, such as the layers of a stack: a list is varied as a list.

All other operators see coordinates: an item that is inserted at the front changes every place of the
list to them, and an item's variables go to different children. Here items (rows) are inserted,
deleted, swapped, moved, repeated, copied and changed, one or a segment of them, and parents exchange
segments. So are the instructions of a linear program (Brameier and Banzhaf 2007, Linear Genetic
Programming, chapters 5 and 6). What makes a list too long or too short is repaired (`Lists.fitted`):
a list of one fixed length shifts its items when one is inserted.

Lists are canonical, so that equal ones are equal points; no operator changes the arrays it is given.
"""

from collections.abc import Callable

import numpy as np

from evomerge.search.lists import Lists, Rng
from evomerge.search.problem import Array
from evomerge.search.steps import step

Mutation = Callable[[Array, Lists, Rng], Array | None]
"""From a list [items, columns] to another; None where there is no room or nothing to change."""

_TRIES = 16
"""Mutations that change nothing (a swap of equal items) before an item is changed instead."""

_LONGER = 0.4
"""Chance of a short segment to have one item more, item by item."""

_LONG = 0.25
"""Share of segments that have any length up to half of the list."""


def insert(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """A new item: one like its neighbour, or one from anywhere that has some item's numbers."""
    place = int(generator.integers(len(rows) + 1))
    if not len(rows):
        return lists.drawn(generator)[None]
    if generator.random() < 0.5:
        near = rows[max(place - 1, 0)][None].copy()
        return np.insert(rows, place, _changed(near, lists, generator), axis=0)
    item = rows[int(generator.integers(len(rows)))]
    anywhere = np.where(np.array(lists.counts) > 0, lists.drawn(generator), item)
    return np.insert(rows, place, anywhere, axis=0)


def delete(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """Without a segment, as far as the list may become shorter."""
    spare = len(rows) - lists.least
    if spare < 1:
        return None
    first, stop = _segment(rows, generator)
    return np.delete(rows, slice(first, min(stop, first + spare)), axis=0)


def swap(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """Two items change places."""
    if len(rows) < 2:
        return None
    a, b = generator.choice(len(rows), size=2, replace=False)
    rows = rows.copy()
    rows[[a, b]] = rows[[b, a]]
    return rows


def move(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """A segment goes elsewhere."""
    if len(rows) < 2:
        return None
    first, stop = _segment(rows, generator)
    rest = np.delete(rows, slice(first, stop), axis=0)
    return _inserted(rest, int(generator.integers(len(rest) + 1)), rows[first:stop])


def repeat(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """A segment once more, right after itself."""
    if not len(rows):
        return None
    first, stop = _segment(rows, generator)
    return _inserted(rows, stop, rows[first:stop])


def copy(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """A segment once more elsewhere, in place of what is there or between it."""
    if not len(rows):
        return None
    first, stop = _segment(rows, generator)
    taken = rows[first:stop]
    if generator.random() < 0.5:
        return _inserted(rows, int(generator.integers(len(rows) + 1)), taken)
    rows = rows.copy()
    place = int(generator.integers(len(rows) - len(taken) + 1))
    rows[place : place + len(taken)] = taken
    return rows


def change(rows: Array, lists: Lists, generator: Rng) -> Array | None:
    """One variable of an item, or of a whole segment by the same step."""
    if not len(rows):
        return None
    first, stop = _segment(rows, generator)
    rows = rows.copy()
    rows[first:stop] = _changed(rows[first:stop], lists, generator)
    return rows


MUTATIONS: dict[Mutation, float] = {
    insert: 1.0,
    delete: 1.0,
    swap: 0.5,
    move: 1.0,
    repeat: 0.5,
    copy: 0.5,
    change: 3.0,
}
"""Every mutation, and how often it is tried in proportion to the others."""


def mutated(rows: Array, lists: Lists, generator: Rng) -> Array:
    """`rows` [items, columns] after one mutation, within the list's bounds.

    Another list, if `rows` has items and there is any.
    """
    mutations = list(MUTATIONS)
    weights = np.cumsum(list(MUTATIONS.values()))
    for _ in range(_TRIES):
        drawn = generator.random() * weights[-1]
        found = mutations[int(np.searchsorted(weights, drawn))](rows, lists, generator)
        if found is None:
            continue
        found = lists.fitted(found, generator)
        if not np.array_equal(found, rows):
            return found
    last = change(rows, lists, generator)
    return rows if last is None else last


def crossed(first: Array, second: Array, lists: Lists, generator: Rng) -> tuple[Array, Array]:
    """Two lists that have exchanged a segment, or all from a cut on.

    The cuts in one parent are drawn; those in the other are where it continues alike, if it does
    anywhere, or else near by: halves of unlike stacks do not fit together.
    """
    cuts = np.sort(generator.integers(len(first) + 1, size=2))
    if generator.random() < 0.5:
        cuts[1] = len(first)
    others = np.sort([_partner(first, second, int(c), lists, generator) for c in cuts])
    if cuts[1] == len(first):
        others[1] = len(second)
    (a, b), (c, d) = cuts, others
    one = np.concatenate([first[:a], second[c:d], first[b:]])
    other = np.concatenate([second[:c], first[a:b], second[d:]])
    if lists.least and not len(one):
        one = second
    if lists.least and not len(other):
        other = first
    return lists.fitted(one, generator), lists.fitted(other, generator)


def swapped(first: Array, second: Array, generator: Rng) -> tuple[Array, Array]:
    """Two lists that have exchanged what stands at the same places, between two cuts."""
    common = min(len(first), len(second))
    a, b = np.sort(generator.integers(common + 1, size=2))
    one, other = first.copy(), second.copy()
    one[a:b], other[a:b] = second[a:b], first[a:b]
    return one, other


def _partner(first: Array, second: Array, cut: int, lists: Lists, generator: Rng) -> int:
    """Where to cut `second` so that it goes on as `first` does at `cut`."""
    named = np.array(lists.counts) > 0
    alike: set[int] = set()
    if cut and named.any():
        before = (second[:, named] == first[cut - 1, named]).all(axis=1)
        alike |= set((np.flatnonzero(before) + 1).tolist())
    if cut < len(first) and named.any():
        after = (second[:, named] == first[cut, named]).all(axis=1)
        alike |= set(np.flatnonzero(after).tolist())
    if alike:
        return int(generator.choice(sorted(alike)))
    return int(np.clip(cut + generator.integers(-1, 2), 0, len(second)))


def _segment(rows: Array, generator: Rng) -> tuple[int, int]:
    """First item and the one after the last of a segment of `rows`, at least one item."""
    if generator.random() < _LONG:
        size = int(generator.integers(1, max(len(rows) // 2, 1) + 1))
    else:
        size = min(int(generator.geometric(1 - _LONGER)), len(rows))
    first = int(generator.integers(len(rows) - size + 1))
    return first, first + size


def _inserted(rows: Array, place: int, items: Array) -> Array:
    return np.concatenate([rows[:place], items, rows[place:]])


def _changed(rows: Array, lists: Lists, generator: Rng) -> Array:
    """A copy of `rows`, at least one, with one column of all changed alike."""
    live = np.flatnonzero(np.array(lists.counts) != 1)
    if not len(live):
        return rows
    column = int(generator.choice(live))
    levels, cells = lists.levels[column], lists.cells[column]
    old = rows[0, column]
    new = step(float(old), levels, cells, generator)
    rows = rows.copy()
    if levels:
        rows[:, column] = new
    elif cells:
        by = round((new - old) * cells)
        index = np.floor(rows[:, column] * cells).astype(int) + by
        rows[:, column] = (np.clip(index, 0, cells - 1) + 0.5) / cells
    else:
        rows[:, column] = np.clip(rows[:, column] + new - old, 0.0, 1.0)
    return rows

"""Problems with lists of every make, for property tests."""

import numpy as np
from hypothesis import strategies as st

from evomerge.search.lists import Lists
from evomerge.search.problem import Problem
from search_spaces.slots import Slots

KINDS = [(2, 0), (3, 0), (0, 1), (0, 2), (0, 12), (0, 0)]
"""(levels, cells) of a column: choices, whole numbers, a number."""


def problem(kinds, least, most, fixed=False, outside=(), **options):
    """A list of `least` to `most` items with these columns, other variables on both sides."""
    cut = len(outside) // 2
    before, after = list(outside[:cut]), list(outside[cut:])
    length = [] if fixed else [(0, most - least + 1)]
    first = len(before) + len(length)
    width = len(kinds)
    slots = Slots(
        None if fixed else len(before),
        tuple(tuple(range(first + i * width, first + (i + 1) * width)) for i in range(most)),
        most if fixed else least,
    )
    axes = [*before, *length, *kinds * most, *after]
    return Problem(
        len(axes),
        options.pop("objectives", 1),
        levels=tuple(a for a, _ in axes),
        cells=tuple(b for _, b in axes),
        slots=slots,
        **options,
    )


@st.composite
def problems(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    most = draw(st.integers(1, 9))
    least = draw(st.integers(0, most))
    outside = draw(st.lists(st.sampled_from(KINDS), max_size=3))
    return problem(kinds, least, most, draw(st.booleans()), outside)


@st.composite
def lists(draw, number=1):
    """A problem's list, so many points of it, and a seed."""
    found = draw(problems())
    seed = draw(st.integers(0, 10**6))
    points = np.random.default_rng(seed).random((number, found.variables))
    return Lists(found), found.canonical(points), seed

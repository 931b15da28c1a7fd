"""Variables, and what can be said of any search space."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.errors import InputError
from search_spaces.parameter import ParameterSpace
from search_spaces.space import check_genome, from_unit, named, to_unit
from search_spaces.variables import Choice, Integer, Real, Variable

units = st.floats(0, 1)
bounds = st.floats(-1e6, 1e6)
reals = st.tuples(bounds, bounds).filter(lambda b: b[1] - b[0] > 1e-6)
integers = st.tuples(st.integers(-1000, 1000), st.integers(0, 1000)).map(
    lambda b: Integer("n", b[0], b[0] + b[1])
)
choices = st.lists(st.text(max_size=3) | st.booleans(), min_size=1, unique=True).map(
    lambda options: Choice("c", tuple(options))
)


@given(reals, units)
def test_a_real_comes_back(limits: tuple[float, float], u: float) -> None:
    variable = Real("x", min(limits), max(limits))
    value = variable.from_unit(u)
    assert variable.has(value)
    again = variable.from_unit(variable.to_unit(value))
    assert again == pytest.approx(value, rel=1e-9, abs=1e-9 * (variable.high - variable.low))
    assert variable.from_unit(0.0) == variable.low
    assert variable.from_unit(1.0) == variable.high


@given(integers | choices, units)
def test_a_discrete_value_comes_back_exactly(variable: Integer | Choice, u: float) -> None:
    value = variable.from_unit(u)
    assert variable.has(value)
    assert variable.from_unit(variable.to_unit(value)) == value


@given(st.integers(1, 12))
def test_cells_are_equal_and_in_order(count: int) -> None:
    variable = Integer("n", 3, 2 + count)
    values = [variable.from_unit(u) for u in np.linspace(0, 1, 12 * 11 * 7 * 5 * 9)]
    assert all(b - a in (0, 1) for a, b in pairwise(values))
    shares = [values.count(3 + i) / len(values) for i in range(count)]
    assert shares == pytest.approx([1 / count] * count, abs=1e-3)
    assert variable.to_unit(3) == pytest.approx(0.5 / count)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (Real("x", 0, 1), True),
        (Real("x", 0, 1), 1.01),
        (Real("x", 0, 1), float("nan")),
        (Real("x", 0, 1), "0.5"),
        (Integer("n", 0, 3), 1.0),
        (Integer("n", 0, 3), True),
        (Integer("n", 0, 3), 4),
        (Choice("c", (False, True)), 1),
        (Choice("c", ("l1", "inverse")), "l2"),
    ],
)
def test_values_of_another_kind_or_range(variable: Variable, value: object) -> None:
    assert not variable.has(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Real("x", 1, 1),
        lambda: Real("x", 0, float("inf")),
        lambda: Integer("x", 1, 0),
        lambda: Choice("x", ()),
        lambda: Choice("x", ("a", "a")),
    ],
)
def test_variables_without_values_are_errors(make) -> None:
    with pytest.raises(InputError, match=r"x = .*a variable has at least one value"):
        make()


SPACE = ParameterSpace("ties", "base", ["a", "b"], 4, ranges={"normalize": [False, True]})


@given(st.lists(units, min_size=5, max_size=5))
def test_a_genome_goes_to_the_cube_and_back(point: list[float]) -> None:
    genome = from_unit(SPACE, np.array(point))
    check_genome(SPACE, genome)
    again = from_unit(SPACE, to_unit(SPACE, genome))
    assert again[-1] is genome[-1]
    assert again[:-1] == pytest.approx(genome[:-1])


def test_named() -> None:
    genome = (0.1, 0.2, 0.3, 0.4, True)
    assert named(SPACE, genome) == {
        "weight.a": 0.1,
        "weight.b": 0.2,
        "density.a": 0.3,
        "density.b": 0.4,
        "normalize": True,
    }


def test_genomes_hold_python_numbers() -> None:
    """NumPy's own scalars are written differently to YAML and JSON."""
    genome = from_unit(SPACE, np.full(5, 0.5))
    assert [type(value) for value in genome] == [float] * 4 + [bool]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        (np.zeros(4), r"a point of shape \(4,\): it has 5 coordinates"),
        (np.full(5, 1.5), r"it has 5 coordinates in \[0, 1\]"),
        (np.full(5, np.nan), r"it has 5 coordinates in \[0, 1\]"),
    ],
)
def test_points_outside_the_cube(point: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_unit(SPACE, point)


def test_genomes_of_another_space() -> None:
    with pytest.raises(InputError, match="a genome of 1 values: the space has 5 variables"):
        SPACE.decode((0.5,))
    with pytest.raises(InputError, match=r"density.a = 0.1: it is a number in \[0.2, 1\]"):
        SPACE.decode((0.1, 0.2, 0.1, 0.4, True))
    with pytest.raises(InputError, match="normalize = 1: it is one of False, True"):
        SPACE.decode((0.1, 0.2, 0.3, 0.4, 1))

"""The archive against a brute-force front, and measures worked out by hand."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.search.archive import Archive, Member, gains, hypervolume, knee

DIRECTIONS = ("maximize", "minimize")
# Few distinct values, so that ties and equal vectors are common.
rows = st.integers(1, 4).flatmap(
    lambda objectives: st.tuples(
        st.tuples(*[st.sampled_from(DIRECTIONS)] * objectives),
        st.lists(
            st.tuples(st.tuples(*[st.integers(-3, 3)] * objectives), st.booleans()), max_size=40
        ),
    )
)


def brute_force(directions, points):
    """Indices of feasible points that nothing feasible dominates and nothing earlier equals."""
    signs = np.array([1 if d == "maximize" else -1 for d in directions])
    kept = []
    for i, (values, feasible) in enumerate(points):
        mine = signs * values
        beaten = any(
            other_feasible
            and (signs * other >= mine).all()
            and ((signs * other > mine).any() or j < i)
            for j, (other, other_feasible) in enumerate(points)
            if j != i
        )
        if feasible and not beaten:
            kept.append(i)
    return kept


@settings(deadline=None)
@given(rows)
def test_the_front_is_the_brute_force_front(case):
    directions, points = case
    archive = Archive(directions)
    for i, (values, feasible) in enumerate(points):
        on_front = archive.add(str(i), values, [0.5] * len(values), feasible)
        assert on_front == any(member.key == str(i) for member in archive.front())
    expected = brute_force(directions, points)
    assert [int(member.key) for member in archive.front()] == expected
    for member in archive.front():
        assert member.values == points[int(member.key)][0]
        assert member.errors == (0.5,) * len(directions)


@settings(deadline=None)
@given(rows)
def test_hypervolume_is_the_count_of_unit_cells(case):
    """With integer values the volume is the number of unit cells below some feasible point."""
    directions, points = case
    archive = Archive(directions)
    for i, (values, feasible) in enumerate(points):
        archive.add(str(i), values, values, feasible)
    signs = np.array([1 if d == "maximize" else -1 for d in directions])
    cells = np.stack(np.meshgrid(*[np.arange(-2, 3)] * len(directions)), -1)
    covered = np.zeros(cells.shape[:-1], dtype=bool)
    for values, feasible in points:
        if feasible:
            covered |= (cells < signs * values).all(axis=-1)
    reference = -2 * signs
    assert archive.hypervolume(reference) == pytest.approx(covered.sum())


def test_hypervolume_by_hand():
    archive = Archive(["maximize", "minimize"])
    assert archive.hypervolume([0, 100]) == 0
    archive.add("a", [0.5, 40], [0, 0], feasible=True)
    assert archive.hypervolume([0, 100]) == pytest.approx(0.5 * 60)
    archive.add("b", [0.75, 80], [0, 0], feasible=True)
    assert archive.hypervolume([0, 100]) == pytest.approx(0.5 * 60 + 0.25 * 20)
    archive.add("beyond the reference", [0.9, 120], [0, 0], feasible=True)
    assert archive.hypervolume([0, 100]) == pytest.approx(35)
    archive.add("infeasible", [1, 0], [0, 0], feasible=False)
    assert archive.hypervolume([0, 100]) == pytest.approx(35)
    assert len(archive.front()) == 3


def test_hypervolume_of_one_objective_is_the_distance():
    assert hypervolume(np.array([[3.0], [5.0]]), np.array([1.0])) == pytest.approx(4)


class TestKnee:
    def test_the_bulge_wins_over_the_extremes(self):
        front = np.array([[0.0, 10.0], [0.7, 8.0], [1.0, 0.0]])
        assert knee(front) == 1

    def test_units_do_not_matter(self):
        front = np.array([[0.0, 1.0], [0.4, 0.9], [0.8, 0.7], [1.0, 0.0]])
        assert knee(front) == knee(front * [1000, 1] + [5, -5]) == 2

    def test_a_constant_objective_is_ignored(self):
        assert knee(np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])) == 1

    def test_one_point(self):
        assert knee(np.array([[1.0, 2.0]])) == 0

    def test_one_objective_gives_the_best(self):
        archive = Archive(["minimize"])
        for key, value in (("a", 3), ("b", 1), ("c", 2)):
            archive.add(key, [value], [0.1], feasible=True)
        assert archive.knee() == archive.best(0) == Member("b", (1.0,), (0.1,))


def test_best_follows_the_direction():
    archive = Archive(DIRECTIONS)
    archive.add("good", [0.9, 50], [0, 0], feasible=True)
    archive.add("short", [0.2, 10], [0, 0], feasible=True)
    assert archive.best(0).key == "good"
    assert archive.best(1).key == "short"


def test_without_a_feasible_candidate_the_nearest_is_named():
    archive = Archive(["maximize"])
    assert archive.least_violating() is None
    archive.add("far", [9], [0], feasible=False, violation=2.0)
    archive.add("near", [1], [0], feasible=False, violation=0.5)
    archive.add("later", [5], [0], feasible=False, violation=0.5)
    assert archive.front() == []
    assert archive.least_violating() == Member("near", (1.0,), (0.0,), 0.5)
    for question in (archive.knee, lambda: archive.best(0)):
        with pytest.raises(LookupError, match="the front is empty"):
            question()


def test_a_known_key_stays_as_it_is():
    archive = Archive(["maximize"])
    archive.add("a", [1], [0.1], feasible=True)
    assert not archive.add("a", [2], [0.2], feasible=True)
    assert archive.front() == [Member("a", (1.0,), (0.1,))]


def test_malformed_candidates_are_refused():
    archive = Archive(DIRECTIONS)
    for values, errors in (([1], [0]), ([1, 2], [0]), ([1, np.nan], [0, 0]), ([np.inf, 1], [0, 0])):
        with pytest.raises(ValueError, match="candidate x"):
            archive.add("x", values, errors, feasible=True)
    with pytest.raises(ValueError, match="directions"):
        Archive(["up"])
    with pytest.raises(ValueError, match="directions"):
        Archive([])


def test_the_front_handed_out_is_a_copy():
    archive = Archive(["maximize"])
    archive.add("a", [1], [0], feasible=True)
    archive.front().clear()
    assert len(archive.front()) == 1


def test_ten_thousand_candidates_are_cheap():
    angles = np.random.default_rng(0).random(10_000) * np.pi / 2
    values = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    values *= np.random.default_rng(1).uniform(0.9, 1, (10_000, 1))
    archive = Archive(["maximize", "maximize"])
    start = time.perf_counter()
    for i, row in enumerate(values.tolist()):
        archive.add(str(i), row, (0, 0), feasible=True)
    assert time.perf_counter() - start < 10  # 0.5 s on an idle core
    assert hypervolume(gains(values, archive.directions), np.zeros(2)) == pytest.approx(
        archive.hypervolume([0, 0])
    )

"""The time left under limits of hours and answers, and how fast things are while engines start."""

import io
import json
from contextlib import closing
from datetime import UTC, datetime

import pytest
from rich.console import Console

from evomerge.live.state import state_of
from evomerge.live.tally import Tally
from evomerge.live.terminal import TerminalView, line
from evomerge.live.words import duration
from evomerge.runs.folder import RunFolder
from evomerge.search.view import Leg
from tests.live.test_state import NOON, night  # noqa: F401 - a fixture
from tests.live.test_terminal import Clock, Crew, scored


class Alone:
    """One evaluator, which rests while its result is looked at."""

    busy, workers = 0, 1


def test_hours_of_earlier_sessions_are_spent():
    """9.5 of 10 hours were over; it said 2 more."""
    clock = Clock()
    tally = Tally(clock)
    tally.night([Leg("search", 10_000, 10, hours=10.0, spent=9.5)], Crew())
    tally.begin("search", 10_000)
    for number in range(60):
        clock.now += 10.0
        tally.finished(scored(0.5, number), paid=True)
    assert tally.phase_seconds_left() == pytest.approx(1800 - 600)


def test_what_is_by_chance_asks_as_many_as_the_search_will_have_asked():
    clock = Clock()
    tally = Tally(clock)
    tally.night([Leg("search", 100_000, 10, hours=1.0), Leg("random", 100_000, 10)], Crew())
    tally.begin("search", 100_000)
    for number in range(120):
        clock.now += 10.0
        tally.finished(scored(0.5, number), paid=True)
    # 20 minutes are over, 40 are left; the random search is going to take an hour
    assert tally.night_seconds_left() == pytest.approx(2400 + 3600, rel=0.02)


def test_of_two_stages_the_second_has_its_own_hours():
    clock = Clock()
    tally = Tally(clock)
    legs = [Leg("merged", 100, 10, hours=1.0), Leg("search", 10_000, 10, hours=3.0)]
    tally.night([*legs, Leg("merged_random", 100, 10), Leg("random", 10_000, 10)], Crew())
    tally.begin("merged", 100)
    for number in range(60):
        clock.now += 10.0
        tally.finished(scored(0.5, number), paid=True)
    assert tally.night_seconds_left() == pytest.approx(400 + 3 * 3600 + 1000 + 3 * 3600, rel=0.02)


def test_the_start_of_the_engines_is_no_rate():
    clock = Clock()
    tally = Tally(clock)
    tally.night([Leg("search", 100, 10)], Alone())
    tally.begin("search", 100)
    clock.now += 60
    tally.finished(scored(0.5, 1, seconds=58.0), paid=True)  # with the kernels compiled in it
    assert tally.pace.per_hour() == 0
    assert tally.night_seconds_left() is None
    assert "/h" not in line(tally)
    for _ in range(3):
        clock.now += 2
        tally.finished(scored(0.5, 1), paid=True)
    assert tally.pace.per_hour() == pytest.approx(1800)
    assert tally.night_seconds_left() == pytest.approx(96 * 2)
    tally.begin("test", 10)
    clock.now += 4
    tally.finished(scored(0.5, 1, seconds=4.0), paid=True)
    assert tally.pace.per_hour() == pytest.approx(900), "the evaluator has started"


@pytest.mark.parametrize(("crew", "said"), [(Alone, False), (Crew, True)])
def test_a_single_worker_is_not_counted(crew, said):
    """It was "workers 0/1" all night."""
    clock = Clock()
    output = io.StringIO()
    view = TerminalView(Console(file=output, width=80), clock)
    view.night([Leg("search", 100, 10)], crew())
    view.begin("search", 100)
    for _ in range(9):
        clock.now += 10
        view.finished(scored(0.5, 1), paid=True)
    assert output.getvalue()
    assert ("workers" in output.getvalue()) is said


@pytest.fixture
def limited(run, night, change):  # noqa: F811
    """The night of `test_state`, 12 candidates in, its search not ended, with other limits."""

    def do(hours_spent=0.0, **limits):
        change(
            "DELETE FROM meta WHERE key LIKE 'ended%' OR key LIKE '%choice'",
            "INSERT OR REPLACE INTO meta (key, value) VALUES"
            f" ('hours_spent_search', '{hours_spent}'), ('evaluations', '1000'),"
            f" ('raised', '{json.dumps(limits)}')",
        )
        driver = RunFolder.open(run)
        driver.lock()
        with closing(driver), closing(RunFolder.open(run)) as reader:
            return state_of(reader, NOON)["eta_seconds"]

    return do


REST = (2 + 2 + 7) * 12 + 8 * 16
"""Answers after the search and its like by chance: at 12 a minute."""


def test_show_counts_hours_and_the_random_search_after_them(limited):
    """9 of 10 hours spent: 60 candidates more, and then 72 by chance, not 60."""
    assert limited(9.0, hours=10) == pytest.approx(60 * (60 + 72 + REST / 12), rel=0.2)


def test_show_counts_answers_and_the_random_search_after_them(limited):
    # 12 candidates answered 12 items each; 72 more are to be answered, by 6
    eta = limited(answers=12 * 12 + 72)
    assert eta == pytest.approx(60 * (6 + 18 + REST / 12), rel=0.2)


def test_durations_are_said_in_one_way():
    said = [duration(s) for s in (None, 0, 2.46, 9.96, 42, 425, 12000, 187200)]
    assert said == ["-", "0 s", "2.5 s", "10 s", "42 s", "7:05 min", "3:20 h", "2 d 4 h"]
    assert datetime(2026, 3, 1, 12, tzinfo=UTC) == NOON

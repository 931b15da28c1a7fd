"""The view: what it says on a terminal and off it, from planted events and by a clock of its own."""

import io
import logging
import time

import pytest
from rich.console import Console

from evomerge.evaluation import Evaluation, Outcome
from evomerge.live.tally import Tally
from evomerge.live.terminal import TerminalView, line
from evomerge.search.candidate import Candidate
from evomerge.search.goals import Goals
from evomerge.search.standing import Standing
from evomerge.search.view import Leg
from fitness.estimate import Estimate


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Crew:
    """Some evaluators, some of them at work."""

    busy, workers = 3, 4


LEGS = [
    Leg("search", 100, 10),
    Leg("selection", 5, 20),
    Leg("greedy soup", 5, 20),
    Leg("random", 100, 10),
    Leg("selection", 5, 20),
    Leg("test", 10, 40),
]

GOALS = Goals(("maths", "kv_bytes"), ("maximize", "minimize"), (1.0, 1.0))


def scored(maths, kv, seconds=2.0):
    found = {"maths": Estimate(maths, 0.031), "kv_bytes": Estimate(kv, 0.0)}
    return Evaluation(
        Outcome.SCORED, "", found, score_seconds=seconds, worker="e", items=10, answers=10
    )


def failed(outcome=Outcome.OUT_OF_MEMORY, reason="the GPU is full"):
    return Evaluation(outcome, reason, score_seconds=1.0)


def standing_of(evaluations):
    standing = Standing(GOALS)
    standing.add([Candidate(n, (0.0,), f"{n:010d}abc", e) for n, e in enumerate(evaluations)])
    return standing


def a_search(view, clock, evaluations, phase="search"):
    """A generation of evaluations, one every two seconds."""
    view.night(LEGS, Crew())
    view.begin(phase, 100)
    for evaluation in evaluations:
        clock.now += 2.0
        view.finished(evaluation, paid=True)
    view.generation(phase, 0, len(evaluations), standing_of(evaluations))


EVALUATIONS = [
    scored(0.5, 148064), scored(0.75, 200000), scored(0.25, 100000), failed(),
    failed(Outcome.TIMED_OUT, "not done after 60 s"), scored(0.4, 220000),
]  # fmt: skip


def picture(view):
    """What the view draws, as text."""
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    console.print(view.render())
    return console.export_text()


def on_terminal(clock):
    """A view that takes its output for a terminal."""
    return TerminalView(Console(file=io.StringIO(), force_terminal=True, width=110), clock)


def test_the_picture_has_what_a_user_wants_to_know():
    clock = Clock()
    view = on_terminal(clock)
    try:
        a_search(view, clock, EVALUATIONS)
        shown = picture(view)
    finally:
        view.close()
    for said in (
        "search", "6/100", "workers 3/4", "generation 0",
        "maths ↑", "kv_bytes ↓",
        "0.750 ± 0.031", "148,064", "100,000",  # the front
        "failed 2 (1 out of memory, 1 timed out), last: not done after 60 s",
        "best maths 0.750 ± 0.031, kv_bytes 100,000",
        "hypervolume", "1,800/h", "elapsed 12 s",
    ):  # fmt: skip
        assert said in shown, said
    assert "220,000" not in shown, "it is not on the front"


def test_the_time_left_is_the_phases_and_the_nights():
    clock = Clock()
    tally = Tally(clock)
    tally.night(LEGS, Crew())
    assert tally.night_seconds_left() is None
    tally.begin("search", 100)
    for number in range(20):
        clock.now += 2.0
        tally.finished(scored(0.5, number), paid=True)
    # an evaluation every 2 s, of 10 answers: 0.2 s an answer
    assert tally.pace.per_hour() == pytest.approx(1800)
    assert tally.phase_seconds_left() == pytest.approx(80 * 2)
    later = 0.2 * (5 * 20 + 5 * 20 + 100 * 10 + 5 * 20 + 10 * 40)
    assert tally.night_seconds_left() == pytest.approx(160 + later)
    # it ends here, by another limit than its evaluations; so will the random search
    tally.begin("selection", 3)
    later = 0.2 * (5 * 20 + 20 * 10 + 5 * 20 + 10 * 40)
    for _ in range(2):
        clock.now += 4.0
        tally.finished(Evaluation(Outcome.SCORED, score_seconds=4, items=20, answers=20), True)
    assert tally.phase_seconds_left() == pytest.approx(4)
    assert tally.night_seconds_left() == pytest.approx(4 + later)


def test_a_limit_of_hours_bounds_the_time_left():
    clock = Clock()
    tally = Tally(clock)
    tally.night([Leg("search", 10_000, 10, hours=1.0)], Crew())
    tally.begin("search", 10_000)
    for number in range(60):
        clock.now += 10.0
        tally.finished(scored(0.5, number), paid=True)
    assert tally.phase_seconds_left() == pytest.approx(3600 - 600)


def test_the_rate_is_that_of_the_last_ten_minutes_and_counts_no_replay():
    clock = Clock()
    tally = Tally(clock)
    tally.begin("search", 1000)
    for _ in range(500):
        tally.finished(scored(0.5, 1), paid=False)
    assert tally.pace.per_hour() == 0
    assert (tally.done, tally.known) == (500, 500)
    clock.now += 300  # evaluators start
    for step in (10.0,) * 50 + (60.0,) * 10:
        clock.now += step
        tally.finished(scored(0.5, 1, seconds=step), paid=True)
    assert tally.pace.per_hour() == pytest.approx(60, rel=0.11)


def lines_of(clock, act):
    output = io.StringIO()
    view = TerminalView(Console(file=output, width=80), clock)
    act(view)
    view.close()
    return output.getvalue().splitlines()


def test_off_a_terminal_a_line_per_generation_names_each_objectives_best():
    """It was "best -148064" where an objective is a cost."""
    clock = Clock()
    shown = lines_of(clock, lambda view: a_search(view, clock, EVALUATIONS))
    [said] = shown
    for part in (
        "search: gen 0", "evaluations 6/100", "best maths 0.750 ± 0.031, kv_bytes 100,000", "hv ",
        "1,800/h", "workers 3/4", "ETA 3:08 min", "in all)", "failed 2 (",
    ):  # fmt: skip
        assert part in said, said
    assert "-" not in said.split("best")[1].split("hv")[0]


def test_off_a_terminal_a_slow_generation_is_heard_of_every_half_minute():
    clock = Clock()

    def act(view):
        view.night(LEGS, Crew())
        view.begin("search", 100)
        for number in range(9):
            clock.now += 10.0
            view.finished(scored(0.5, number), paid=True)

    shown = lines_of(clock, act)
    assert len(shown) == 3
    assert shown[-1].startswith("search: evaluations 9/100")


def test_many_generations_a_second_are_not_a_line_each():
    clock = Clock()

    def act(view):
        view.begin("search", 500)
        for number in range(400):
            clock.now += 0.01
            view.finished(scored(0.5, number), paid=True)
            view.generation("search", number, number, standing_of([scored(0.5, 1)]))

    assert len(lines_of(clock, act)) <= 5


def test_nothing_feasible_is_said_and_not_invented():
    clock = Clock()
    [said] = lines_of(clock, lambda view: a_search(view, clock, [failed(), failed()]))
    assert "best none keeps the constraints" in said
    assert "inf" not in said


def test_text_in_brackets_is_no_markup():
    clock = Clock()
    bad = failed(reason="[red]shape[/red] [2, 3] differs")
    view = on_terminal(clock)
    try:
        a_search(view, clock, [scored(0.5, 1), bad])
        assert "[red]shape[/red] [2, 3] differs" in picture(view)
    finally:
        view.close()
    shown = lines_of(clock, lambda view: view.say("[bold]as it is[/bold]"))
    assert shown == ["[bold]as it is[/bold]"]


def test_warnings_are_printed_above_the_picture_and_the_log_is_given_back(monkeypatch):
    """A warning written into the picture would tear it."""
    output = io.StringIO()
    monkeypatch.setattr("sys.stderr", output)
    handler = logging.StreamHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        view = TerminalView(Console(file=output, force_terminal=True, width=80), Clock())
        assert handler.stream is not output
        view.close()
        assert handler.stream is output
    finally:
        root.removeHandler(handler)


def test_what_the_view_costs_per_candidate():
    """A driver's whole work on a candidate is a millisecond or two."""

    view = on_terminal(time.monotonic)
    standing = standing_of([scored(0.5 + n / 1000, 1000 + n) for n in range(100)])
    try:
        view.night(LEGS, Crew())
        view.begin("search", 5000)
        began = time.process_time()
        for number in range(5000):
            view.finished(scored(0.5, number), paid=True)
            view.told(standing)
        each = (time.process_time() - began) / 5000
    finally:
        view.close()
    assert each < 0.3e-3, f"{each * 1e3:.3f} ms"


def test_told_looks_at_the_front_between_generations_but_not_in_a_race():
    clock = Clock()
    tally = Tally(clock)
    tally.begin("search", 100)
    tally.told(standing_of([scored(0.5, 10)]))
    assert tally.front.members == 1
    assert "maths 0.500" in line(tally)
    tally.told(standing_of([scored(0.5, 10), scored(0.9, 20)]))
    assert tally.front.members == 1, "not within a second"
    clock.now += 2
    racing = Standing(GOALS, racing=True)
    tally.told(racing)
    assert tally.front.members == 1, "there it is dear"
    tally.told(standing_of([scored(0.5, 10), scored(0.9, 20)]))
    assert tally.front.members == 2


def test_drawing_while_another_thread_counts():
    """The picture is drawn by a thread of its own; an error there would freeze it for the night."""
    import threading

    view = on_terminal(time.monotonic)
    errors = []
    standing = standing_of(EVALUATIONS)

    def draw():
        try:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                picture(view)
        except Exception as error:  # what is looked for
            errors.append(error)

    try:
        view.night(LEGS, Crew())
        view.begin("search", 10**6)
        drawing = threading.Thread(target=draw)
        drawing.start()
        number = 0
        while drawing.is_alive():
            number += 1
            view.finished(scored(0.5, number) if number % 3 else failed(), paid=True)
            if number % 100 == 0:
                view.generation("search", number, number, standing)
            if number % 1000 == 0:
                view.begin("search", 10**6)
    finally:
        view.close()
    assert errors == []
    assert number > 1000

"""Budgets of whole runs: set and raised by the command line, over one stage and over two."""

import copy
import math

import pytest

from evomerge.budgets import Limits, budget_state, ended_by, is_finished, raise_budget
from evomerge.runs.database import Database
from evomerge.runs.folder import RunFolder
from evomerge.search.view import SilentView
from evomerge.session import resume, start
from search_spaces.errors import InputError


@pytest.fixture
def small(write_run):
    """A run file for a real run of seconds."""
    return write_run(
        {
            "fitness.tasks": {"sums": {"items": 4, "selection": 4, "test": 4}},
            "fitness.objectives": ["sums"],
            "search.algorithm": "random",
            "search.population": 6,
            "search.random_baseline": False,
            "search.finalists": 2,
        }
    )


def asked(folder):
    run = RunFolder.open(folder)
    try:
        state = budget_state(run)
        return len(run.database.candidates("search")), ended_by(run), is_finished(run), state
    finally:
        run.close()


def test_the_command_line_sets_and_raises_limits(small, tmp_path, evomerge):
    folder = tmp_path / "run"
    done = evomerge("search", small, "--dir", folder, "--tokens", 40, "--json")
    assert done.returncode == 0, done.stderr
    count, reason, finished, state = asked(folder)
    assert reason == "tokens"
    assert finished
    assert state["tokens"]["limit"] == 40 <= state["tokens"]["spent"]
    assert state["evaluations"] == {"limit": 20, "spent": count}
    assert count < 20
    shown = evomerge("show", folder).stdout
    assert "ended by its budget of tokens" in shown
    again = evomerge("resume", folder)
    assert again.returncode == 0
    assert "has finished" in again.stderr
    assert "--tokens N" in again.stderr
    done = evomerge("resume", folder, "--tokens", 10_000, "--hours", 2.5)
    assert done.returncode == 0, done.stderr
    count, reason, finished, state = asked(folder)
    assert (count, reason, finished) == (20, "evaluations", True)
    assert state["hours"]["limit"] == 2.5
    assert 0 < state["hours"]["spent"] < 1
    assert state["answers"]["spent"] == 4 * 20


def test_less_than_is_spent_is_refused_and_says_what_is(small, tmp_path):
    start(small, tmp_path / "run", None, SilentView())
    spent = asked(tmp_path / "run")[3]
    for limits, said in (
        (Limits(evaluations=5), "--evaluations 5: 20 candidates were evaluated already"),
        (Limits(answers=7), "--answers 7: 80 items were answered already"),
        (Limits(tokens=1), f"--tokens 1: {spent['tokens']['spent']:,} tokens were generated"),
        (Limits(hours=1e-7), "--hours 1e-07: .* hours were searched already"),
    ):
        with pytest.raises(InputError, match=said):
            resume(tmp_path / "run", limits, SilentView())
    assert asked(tmp_path / "run")[3] == spent, "a refusal changes nothing"


def test_tokens_where_no_text_is_generated_are_refused(write_run, tmp_path):
    """The bound would never be reached, and the run go on all night."""
    task = {"lunari_words_mc": {"items": 4, "selection": 4, "test": 4}}
    run_file = write_run({"fitness.tasks": task, "fitness.objectives": ["lunari_words_mc"]})
    said = "tokens 500: no task has text generated"
    with pytest.raises(InputError, match=said):
        start(run_file, tmp_path / "run", Limits(tokens=500), SilentView())
    assert not (tmp_path / "run").exists()


def test_patience_is_raised_after_a_plateau(small, tmp_path):
    start(small, tmp_path / "run", Limits(60, patience=4), SilentView())
    count, reason, finished, _ = asked(tmp_path / "run")
    assert (reason, finished) == ("patience", True)
    assert count < 60
    resume(tmp_path / "run", Limits(patience=50), SilentView())
    more, _, finished, _ = asked(tmp_path / "run")
    assert more > count
    assert finished


@pytest.mark.parametrize(
    ("option", "value"),
    [("hours", math.inf), ("hours", math.nan), ("hours", 0), ("hours", -1.0), ("tokens", 0),
     ("evaluations", -3)],
)  # fmt: skip
def test_what_is_no_limit_is_refused_before_anything_begins(option, value, small, tmp_path):
    limits = Limits(**{option: value})
    with pytest.raises(InputError, match=f"--{option} {value}: it should be"):
        start(small, tmp_path / "run", limits, SilentView())
    assert not (tmp_path / "run").exists()


def test_the_command_line_refuses_hours_without_end(small, tmp_path, evomerge):
    folder = tmp_path / "run"
    for hours in ("inf", "nan", "0", "-1"):
        done = evomerge("search", small, "--dir", folder, "--hours", hours)
        assert done.returncode == 2, done.stderr
        assert "--hours" in done.stderr
        assert not folder.exists()
    start(small, folder, Limits(2), SilentView())
    before = asked(folder)
    for hours in ("inf", "nan", "0", "-1"):
        done = evomerge("resume", folder, "--hours", hours)
        assert done.returncode == 2, done.stderr
        assert "--hours" in done.stderr
        assert "Traceback" not in done.stderr
    assert asked(folder) == before


def test_the_same_command_again_says_nothing_new(small, tmp_path, evomerge):
    """As a container does that is started again: the last candidates went beyond the limit."""
    folder, limits = tmp_path / "run", ("--answers", 50, "--hours", 2, "--evaluations", 40)
    start(small, folder, Limits(answers=50, hours=2, evaluations=40), SilentView())
    before = asked(folder)
    assert before[1] == "answers"
    assert before[3]["answers"]["spent"] > 50
    done = evomerge("resume", folder, *limits)
    assert done.returncode == 0, done.stderr
    assert "has finished" in done.stderr
    assert "ended by its budget of answers" in done.stderr
    assert asked(folder) == before
    # and likewise where the limit was raised since
    for _ in range(2):
        resume(folder, Limits(answers=90), SilentView())
        assert asked(folder)[1:3] == ("answers", True)
        assert asked(folder)[3]["answers"]["spent"] > 90


def test_raised_and_taken_back_it_is_known_again_what_ended_it(small, tmp_path):
    """The session that raised it died before its first candidate."""
    start(small, tmp_path / "run", Limits(answers=48), SilentView())
    before = asked(tmp_path / "run")
    assert before[1] == "answers"
    run = RunFolder.open(tmp_path / "run")
    raise_budget(run, Limits(answers=60), None)
    run.close()
    assert asked(tmp_path / "run")[1:3] == (None, False)
    run = RunFolder.open(tmp_path / "run")
    raise_budget(run, Limits(answers=48), None)
    run.close()
    resume(tmp_path / "run", None, SilentView())
    count, reason, finished, _ = asked(tmp_path / "run")
    assert (count, reason, finished) == (before[0], "answers", True)


@pytest.mark.parametrize("limits", [{"answers": 60}, {"hours": 5}, {"patience": 19}])
def test_a_run_that_an_older_version_finished_can_be_raised(limits, small, tmp_path):
    """It wrote down neither the limits that it finished over nor which of them ended it."""
    folder = tmp_path / "run"
    [kind] = limits
    start(small, folder, Limits(**{kind: {"answers": 40, "hours": 1e-9, "patience": 2}[kind]}),
          SilentView())  # fmt: skip
    database = Database(folder / "run.db")
    with database._transaction() as connection:
        connection.execute("DELETE FROM meta WHERE key IN ('finished_limits', 'ended_search')")
    database.close()
    count, _, finished, _ = asked(folder)
    assert finished
    resume(folder, Limits(**limits), SilentView())
    more, _, finished, state = asked(folder)
    assert finished
    assert more > count
    assert state[kind]["limit"] == limits[kind]


@pytest.fixture
def in_two_stages(write_run, quickstart):
    """A run file for a real run of seconds in two stages, without limits but of candidates."""

    def write(**budget):
        experts = copy.deepcopy(quickstart["models"]["experts"])
        experts.pop("tovek")
        merged = {"rule": "task_arithmetic", "weight": [0, 1.5], "share": 0.5}
        return write_run(
            {
                "models.experts": experts,
                "space": {"kind": "path", "depth": [3, 6], "merged": merged},
                "fitness.tasks": {"sums": {"items": 2, "selection": 2, "test": 2}},
                "fitness.objectives": ["sums"],
                "search.population": 6,
                "search.budget": budget,
                "search.random_baseline": False,
            }
        )

    return write


def facts(folder):
    """The candidates of both stages, and what is written down of their ends."""
    database = Database(folder / "run.db")
    try:
        rows = [database.candidates(phase) for phase in ("merged", "search")]
        return rows, database.meta("over_search"), database.evaluations("search").keys()
    finally:
        database.close()


def test_a_limit_given_only_afterwards_counts_what_the_first_stage_took(in_two_stages, tmp_path):
    """Half of it would be the second stage's, were it halved like one that was there from the start."""

    class Leaving(SilentView):
        """Ctrl-C between the stages."""

        def begin(self, phase, total):
            if phase == "search":
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start(in_two_stages(evaluations=60), folder, None, Leaving())
    assert [len(rows) for rows in facts(folder)[0]] == [30, 0]
    limit = asked(folder)[3]["answers"]["spent"] + 4
    resume(folder, Limits(hours=5.0, answers=limit), SilentView())
    _, reason, finished, state = asked(folder)
    assert (reason, finished) == ("answers", True)
    # the last generation may pass it
    assert limit <= state["answers"]["spent"] < limit + 2 * 6
    found = facts(folder)
    limits = found[1]["limits"]
    # replayed as it ended, though a replay of the first stage costs it some time of its own
    for _ in range(2):
        database = Database(folder / "run.db")
        database.set_meta("finished_at_budget", None)
        database.close()
        resume(folder, None, SilentView())
        assert facts(folder) == found
        assert facts(folder)[1]["limits"] == limits


def test_what_is_added_is_the_second_stages(tmp_path, in_two_stages):
    """The first stage is what it was begun as, or the second would stand on another model."""
    folder = tmp_path / "run"
    start(in_two_stages(evaluations=60, answers=24), folder, None, SilentView())
    run = RunFolder.open(folder)
    before = [run.database.candidates(phase) for phase in ("merged", "search")]
    run.close()
    with pytest.raises(InputError, match="the first stage takes 12"):
        resume(folder, Limits(answers=12), SilentView())
    resume(folder, Limits(answers=40), SilentView())
    run = RunFolder.open(folder)
    after = [run.database.candidates(phase) for phase in ("merged", "search")]
    run.close()
    assert after[0] == before[0]
    assert len(after[1]) > len(before[1])
    assert {number: after[1][number] for number in before[1]} == before[1]

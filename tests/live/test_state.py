"""`show` of a running, dead, stopped and finished run: what it is doing, how fast, what failed."""

import io
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from evomerge.live.state import limits_line, state_line, state_of
from evomerge.report.summary import summarise
from evomerge.report.tables import print_summary
from evomerge.runs.folder import RunFolder
from evomerge.search.view import SilentView
from evomerge.session import start

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def at(minutes):
    """ISO 8601, so many minutes before noon."""
    return (NOON - timedelta(minutes=minutes)).isoformat(timespec="milliseconds")


@pytest.fixture
def night(change):
    """The run as it was at noon: begun two hours before, an evaluation a minute since, none over."""
    change(
        "DELETE FROM events",
        f"INSERT INTO events (at, kind, detail) VALUES ('{at(120)}', 'started', '{{}}')",
        "DELETE FROM meta WHERE key IN ('finished_at_budget', 'finished_limits', 'ended_random')",
        # only the search's candidates are there, ids from 1 on
        "DELETE FROM candidates WHERE phase = 'random'",
        "DELETE FROM evaluations WHERE split != 'search'",
        "DELETE FROM evaluations WHERE recipe_hash NOT IN (SELECT recipe_hash FROM candidates)",
        "UPDATE evaluations SET merge_seconds = 20, score_seconds = 40, answers = 12, finished ="
        " strftime('%Y-%m-%dT%H:%M:%S', '2026-03-01 12:00:00', '-' ||"
        " ((SELECT max(id) FROM evaluations) - id) || ' minutes') || '+00:00'",
    )
    return change


def state(run, *, lock=False, now=NOON):
    with closing(RunFolder.open(run)) as reader:
        driver = RunFolder.open(run) if lock else None
        if driver is not None:
            driver.lock()
        try:
            found = state_of(reader, now)
            return found, state_line(found | {"run": str(run)}, now), limits_line(found)
        finally:
            if driver is not None:
                driver.close()


def test_running(run, night):
    found, said, spent = state(run, lock=True)
    assert found["session"]["state"] == "running"
    assert found["session"]["since"] == at(120)
    assert found["rate_per_hour"] == pytest.approx(60, rel=0.2)
    # left: 2 + 2 finalists and 7 of the soup on 12 selection items, 12 at random, 4 + 4 on 16 test items
    left = (2 + 2 + 7) * 12 + 12 * 12 + 8 * 16
    assert found["eta_seconds"] == pytest.approx(left / 12 * 60, rel=0.2)
    assert said.startswith("running since ")
    assert "2:00 h" in said
    assert "evaluations/h in the last 10 minutes, about " in said
    assert spent.startswith("spent: 12 of 12 evaluations")
    assert found["ended_by"] == "evaluations"


def test_died_is_not_stopped(run, night):
    later = NOON + timedelta(hours=8)
    found, said, _ = state(run, now=later)
    assert found["session"]["state"] == "died"
    assert datetime.fromisoformat(found["session"]["since"]) == NOON, "its last record"
    assert found["eta_seconds"] is None
    assert "died at " in said
    assert "8:00 h ago: its last record, and no driver" in said
    assert f"evomerge resume {run}" in said
    assert found["rate_per_hour"] == pytest.approx(60, rel=0.2), "that of its last ten minutes"


@pytest.mark.parametrize(
    ("reason", "said"), [("Stopped", "on request"), ("OutOfDisk", "by OutOfDisk")]
)
def test_stopped_says_by_what(reason, said, run, night):
    night(
        f"INSERT INTO events (at, kind, detail) VALUES ('{at(-5)}', 'stopped',"
        f' \'{{"reason": "{reason}"}}\')'
    )
    found, line, _ = state(run, now=NOON + timedelta(minutes=6))
    assert found["session"] | {"last_record": ""} == {
        "state": "stopped", "since": at(-5), "reason": reason, "last_record": "",
    }  # fmt: skip
    assert f"stopped {said} at " in line
    assert f"evomerge resume {run}" in line


def test_finished_says_which_limit_ended_it(run):
    found, said, spent = state(run, now=datetime.now(UTC))
    assert found["session"]["state"] == "finished"
    assert found["ended_by"] == "evaluations"
    assert "finished at " in said
    assert "ended by its budget of evaluations" in said
    assert "12 of 12 evaluations" in spent
    assert found["limits"]["hours"]["limit"] is None
    assert found["limits"]["hours"]["spent"] > 0


def test_a_resumed_session_counts_from_when_it_was_resumed(run, night):
    night(
        f"INSERT INTO events (at, kind, detail) VALUES ('{at(100)}', 'stopped', '{{}}')",
        f"INSERT INTO events (at, kind, detail) VALUES ('{at(5.5)}', 'resumed', '{{}}')",
    )
    found, _, _ = state(run, lock=True)
    assert found["session"]["since"] == at(5.5)
    assert found["rate_per_hour"] == pytest.approx(60, rel=0.2), "not of what came before it"


def test_failures_by_kind_with_the_last_reason(run, night, change):
    change(
        "UPDATE evaluations SET outcome = 'out of memory', reason = 'full', objectives = '{}' WHERE"
        " recipe_hash IN (SELECT recipe_hash FROM candidates WHERE id IN (1, 2))",
        "UPDATE evaluations SET outcome = 'out of memory', reason = 'fuller', objectives = '{}' WHERE"
        " recipe_hash IN (SELECT recipe_hash FROM candidates WHERE id = 3)",
        "UPDATE evaluations SET outcome = 'timed out', reason = 'slow', objectives = '{}' WHERE"
        " recipe_hash IN (SELECT recipe_hash FROM candidates WHERE id = 4)",
    )
    found, _, _ = state(run)
    assert found["failures"] == {
        "out of memory": {"count": 3, "reason": "fuller"},
        "timed out": {"count": 1, "reason": "slow"},
    }


def test_a_run_without_a_record_yet(run, change):
    change(
        "DELETE FROM candidates", "DELETE FROM responses", "DELETE FROM evaluations",
        "DELETE FROM meta WHERE key LIKE 'ended%' OR key LIKE 'finished%' OR key LIKE 'hours%'"
        " OR key LIKE '%choice'",
    )  # fmt: skip
    found, said, _ = state(run, lock=True, now=datetime.now(UTC))
    assert found["rate_per_hour"] == 0
    assert found["eta_seconds"] is None
    assert found["ended_by"] is None
    assert "about" not in said


def test_show_has_all_keys_that_scripts_know(run, evomerge):
    import json

    done = evomerge("show", run, "--json")
    summary = json.loads(done.stdout)
    assert summary["status"] == "done"
    assert set(summary["budget"]) == {"evaluations", "done", "failed", "cached"}
    for key in ("session", "limits", "ended_by", "failures", "rate_per_hour", "eta_seconds"):
        assert key in summary
    shown = evomerge("show", run).stdout
    assert "finished at" in shown
    assert "spent: 12 of 12 evaluations" in shown
    with closing(RunFolder.open(run)) as reader:
        assert summarise(reader)["limits"] == summary["limits"]


class Impatient(SilentView):
    """Interrupts the first of two stages."""

    def generation(self, phase, number, asked, standing):
        raise KeyboardInterrupt


def test_the_first_of_two_stages_has_figures_while_it_is_all_there_is(
    tmp_path, write_run, quickstart
):
    experts = dict(quickstart["models"]["experts"])
    experts.pop("tovek")
    merged = {"rule": "task_arithmetic", "weight": [0, 1.5], "share": 0.5}
    run_file = write_run(
        {
            "models.experts": experts,
            "space": {"kind": "path", "depth": [3, 6], "merged": merged},
            "fitness.tasks": {"sums": {"items": 2, "selection": 2, "test": 2}},
            "fitness.objectives": ["sums"],
            "search.budget": {"evaluations": 24},
            "search.random_baseline": False,
        }
    )
    with pytest.raises(KeyboardInterrupt):
        start(run_file, tmp_path / "run", None, Impatient())
    with closing(RunFolder.open(tmp_path / "run")) as run:
        summary = summarise(run)
    assert summary["candidates"] == []
    stage = summary["first_stage"]
    assert len(stage["candidates"]) == summary["budget"]["done"] > 3
    assert any(c["on_front"] for c in stage["candidates"])
    assert set(stage["candidates"][0]["genome"]) == {
        name for name in stage["candidates"][0]["genome"] if name.startswith("weight")
    }
    console = Console(record=True, width=120, file=io.StringIO())
    print_summary(summary, console)
    shown = console.export_text()
    assert "first stage: front" in shown
    assert "stopped on request" in shown

"""The state of a run, read from its folder: alive or not, how fast, how long still, what failed."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from evomerge.budgets import PHASES, budget_now, budget_state, ended_by, is_finished
from evomerge.budgets import spent as spent_of
from evomerge.config.space import merged_of
from evomerge.legs import SEARCHING, hours_spent, legs
from evomerge.live.night import legs_left, seconds_of
from evomerge.live.tally import WINDOW_SECONDS
from evomerge.live.words import duration, moment
from evomerge.runs.folder import RunFolder
from evomerge.search.plan import ended_key
from evomerge.two_stages import FIRST_PHASE

_BEGAN = ("started", "resumed")
_ENDED = ("finished", "stopped")


def state_of(run: RunFolder, now: datetime | None = None) -> dict[str, Any]:
    """What `show` says of how a run is doing.

    Args:
        run: the run.
        now: the moment; None: that of the machine's clock.

    Returns:
        `session`: `state` (`running`, `finished`, `stopped`: on request or by an error, `died`: without
        a word), `since` (of a running one when its session began, otherwise when it ended), `reason`
        of a stop, `last_record`; `limits` (see `budget_state`); `ended_by`: which limit ended the
        search; `failures`: outcome -> `count` and the last `reason`, of the search's candidates;
        `rate_per_hour`: evaluations of the last ten minutes before now, or before the last record;
        `eta_seconds`: of the whole night, None where nothing is known or nobody is at work.
    """
    now = now or datetime.now(UTC)
    session = _session(run, now)
    last = datetime.fromisoformat(session["last_record"])
    pace = _Pace(run, now if session["state"] == "running" else last)
    return {
        "session": session,
        "limits": budget_state(run),
        "ended_by": ended_by(run),
        "failures": _failures(run),
        "rate_per_hour": round(pace.per_hour, 1),
        "eta_seconds": _eta(run, pace) if session["state"] == "running" else None,
    }


def _session(run: RunFolder, now: datetime) -> dict[str, Any]:
    events = run.database.select("SELECT at, kind, detail FROM events ORDER BY id")
    [[recorded]] = run.database.select("SELECT max(finished) FROM evaluations")
    last = max(filter(None, (recorded, *(at for at, _, _ in events))), default=now.isoformat())
    turns = [event for event in events if event[1] in (*_BEGAN, *_ENDED)]
    found: dict[str, Any] = {"state": "died", "since": last, "reason": "", "last_record": last}
    if run.driven():
        began = [at for at, kind, _ in turns if kind in _BEGAN]
        return found | {"state": "running", "since": began[-1] if began else last}
    ended = turns[-1] if turns else ("", "", "{}")
    if ended[1] in _ENDED:
        done = ended[1] == "finished" and is_finished(run)
        reason = str(json.loads(ended[2]).get("reason", ""))  # of a stop: the exception's name
        return found | {
            "state": "finished" if done else "stopped", "since": ended[0], "reason": reason
        }  # fmt: skip
    return found


class _Pace:
    """Evaluations in the ten minutes before a moment, of one session."""

    def __init__(self, run: RunFolder, until: datetime) -> None:
        query = "SELECT max(at) FROM events WHERE kind IN ('started', 'resumed')"
        [[began]] = run.database.select(query)
        window = until - timedelta(seconds=WINDOW_SECONDS)
        since = max(datetime.fromisoformat(began), window) if began else window
        rows = run.database.select(
            "SELECT finished, answers, split, merge_seconds + score_seconds FROM evaluations"
            " ORDER BY id DESC LIMIT 20000"
        )
        found = [row for row in rows if datetime.fromisoformat(row[0]) >= since]
        if found and since > window:
            # from when the first one was begun: evaluators take their time to start
            first = datetime.fromisoformat(found[-1][0]) - timedelta(seconds=found[-1][3])
            since = max(since, first)
        self.seconds = max((until - since).total_seconds(), 1.0)
        self.count = len(found)
        self.answers = sum(row[1] for row in found)
        searched = [row[1] for row in found if row[2] == "search"]
        self.answers_each = sum(searched) / len(searched) if searched else 0.0

    @property
    def per_hour(self) -> float:
        return 3600 * self.count / self.seconds


def _eta(run: RunFolder, pace: _Pace) -> float | None:
    """Seconds until the whole night is over."""
    if not pace.answers:
        return None
    items = Counter(row.split for row in run.database.items())
    found = legs(run.config, budget_now(run), items, hours_spent(run.database))
    left = legs_left(run.database, found, _ends(run, pace))
    answers = {"search": pace.answers_each} if pace.answers_each else {}
    per_answer = pace.seconds / pace.answers
    return round(seconds_of(left, per_answer, answers), 1)


def _ends(run: RunFolder, pace: _Pace) -> dict[str, int]:
    """With how many candidates each phase of the search ended, or will by its limits at this pace."""
    ended = {
        phase: fact["asked"]
        for phase in SEARCHING
        if (fact := run.database.meta(ended_key(phase))) is not None
    }
    counts = {phase: len(run.database.candidates(phase)) for phase in PHASES}
    spent, rows = spent_of(run.database), max(1, sum(counts.values()))
    # What a candidate takes of each limit that time or answers set.
    each = {kind: spent[kind] / rows for kind in ("answers", "tokens")}
    each["hours"] = 1 / pace.per_hour
    for phase in PHASES:
        rests = _rests(run, phase, spent, over=FIRST_PHASE in ended)
        left = [rest / each[kind] for kind, rest in rests.items() if each[kind]]
        if left and phase not in ended:
            ended[phase] = counts[phase] + math.ceil(min(left))
    return ended


def _rests(
    run: RunFolder, phase: str, spent: Mapping[str, float], *, over: bool
) -> dict[str, float]:
    """What a phase of the search may still take, by kind of limit; `over`: the first stage is."""
    merged = merged_of(run.config.space)
    begun, now = run.config.search.budget.model_dump(), budget_now(run).model_dump()
    found: dict[str, float] = {}
    for kind in ("hours", "answers", "tokens"):
        first = merged.share * (begun[kind] or 0) if merged is not None and not over else 0.0
        limit, used = now[kind], spent[kind]
        if phase == FIRST_PHASE:
            limit = first or None
        elif first:
            used = max(used, first)
        if limit is not None:
            found[kind] = max(0.0, limit - used)
    return found


def _failures(run: RunFolder) -> dict[str, dict[str, Any]]:
    rows = run.database.select(
        "SELECT e.outcome, e.reason FROM candidates c JOIN evaluations e"
        " ON e.recipe_hash = c.recipe_hash AND e.split = 'search' AND e.part = 0"
        f" WHERE c.phase IN {PHASES} AND e.outcome != 'scored' ORDER BY e.id, c.id"
    )
    found: dict[str, dict[str, Any]] = {}
    for outcome, reason in rows:
        count = found.get(outcome, {"count": 0})["count"]
        found[outcome] = {"count": count + 1, "reason": reason}
    return found


def state_line(summary: Mapping[str, Any], now: datetime | None = None) -> str:
    """The state in a line: what the session is doing, how fast, and until when."""
    now = now or datetime.now(UTC)
    session = summary["session"]
    since = datetime.fromisoformat(session["since"])
    when, ago = moment(since, now), duration((now - since).total_seconds())
    state = session["state"]
    rate = f"{summary['rate_per_hour']:,.0f} evaluations/h"
    if state == "running":
        eta = summary["eta_seconds"]
        left = f", about {duration(eta)} left" if eta is not None else ""
        return f"running since {when} ({ago}), {rate} in the last 10 minutes{left}"
    if state == "finished":
        ended = f": the search was ended by its budget of {summary['ended_by']}"
        return f"finished at {when} ({ago} ago)" + (ended if summary["ended_by"] else "")
    again = f"; continue with 'evomerge resume {summary['run']}'"
    if state == "stopped":
        asked = session["reason"] in ("Stopped", "KeyboardInterrupt", "")
        reason = "on request" if asked else f"by {session['reason']}"
        return f"stopped {reason} at {when} ({ago} ago), at {rate}{again}"
    return f"died at {when} ({ago} ago: its last record, and no driver), at {rate}{again}"


def limits_line(summary: Mapping[str, Any]) -> str:
    """What is spent of each limit that is set."""
    units = {"evaluations": "evaluations", "hours": "h searched", "answers": "answers",
             "tokens": "tokens", "patience": "patience"}  # fmt: skip
    said: list[str] = []
    for kind, unit in units.items():
        limit, used = (summary["limits"][kind][key] for key in ("limit", "spent"))
        number = "{:.3g}" if kind == "hours" else "{:,.0f}"
        if kind == "patience":
            said += [f"patience {limit}"] if limit is not None else []
        elif limit is not None:
            said.append(f"{number.format(used)} of {number.format(limit)} {unit}")
        elif used:
            said.append(f"{number.format(used)} {unit}")
    return "spent: " + ", ".join(said)

"""A search whose evaluators and driver are killed again and again, against one left in peace.

    python -m benchmarks.chaos [--evaluations 200] [--evaluator-kills 10] [--driver-kills 2]
                               [--engine transformers|vllm] [--seed 0] [--small]

Two evaluators on a Ray of the run's own search the quickstart's models by generations. A process of
an evaluator (its actor, or an engine that it started) gets SIGKILL whenever a random number of
evaluations has been recorded; the driver as well, and is resumed at once. Both runs have to record the
same candidates and scores; what was recorded before a driver died has to be there untouched
afterwards; no process may be left. Exit code 1 if any of it fails. The ratio of the times is reported.
"""

import argparse
import ctypes
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
PATIENCE = 30.0
"""Seconds within which the processes of a dead driver have to be gone."""

ACTOR = "EvaluatorActor"
"""The class in `evomerge.cluster.ray_actor`, as Ray calls its processes."""

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of <linux/prctl.h>
_LOOK_SECONDS = 0.5
"""Between two looks at the list of processes, which costs milliseconds."""

_SPACING = 4
"""Evaluations recorded between two kills at least. What was killed is tried again first, so no
candidate is hit three times, which would end it as `worker lost`."""


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it; `started` tells it from a later one of the same number."""

    pid: int
    started: int
    parent: int = field(compare=False)
    command: str = field(compare=False)
    dead: bool = field(compare=False)


def descendants(of: int) -> list[Process]:
    """Every living process below `of`."""
    children: dict[int, list[Process]] = {}
    for process in (process for process in processes() if not process.dead):
        children.setdefault(process.parent, []).append(process)
    found, unseen = [], [of]
    while unseen:
        below = children.get(unseen.pop(), [])
        found += below
        unseen += [process.pid for process in below]
    return found


def processes() -> list[Process]:
    """Every process that may be seen, the dead that nobody has waited for included."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid, _, after = (folder / "stat").read_text().rpartition(")")
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent, *rest = after.split()
        found.append(
            Process(int(pid.split()[0]), int(rest[17]), int(parent), command.strip(), state in "ZX")
        )
    return found


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it, so that none escapes notice."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def bury(own: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Collect dead orphans, as init would: Ray's workers take a zombie for a living raylet."""
    kept = {process.pid for process in own}
    for process in processes():
        if process.dead and process.parent == os.getpid() and process.pid not in kept:
            os.waitpid(process.pid, 0)


def victims(driver: int) -> list[Process]:
    """The actors at work for a driver, and what they started (a vLLM's engine processes)."""
    # Not any `ray::`: Ray's own agents are called so, too, and its node dies with them.
    actors = [p for p in descendants(driver) if p.command.startswith(f"ray::{ACTOR}")]
    return actors + [engine for actor in actors for engine in descendants(actor.pid)]


Evaluated = tuple[int, str, str, str, str, str]
"""A row of `evaluations`: id, recipe_hash, split, outcome, objectives, finished."""


def read(folder: Path, query: str) -> list[Any]:
    """Rows of a run's record, as another process sees them; none while there is no record."""
    if not (folder / "run.db").exists():
        return []
    uri = f"file:{folder / 'run.db'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # the tables are not there yet


def evaluated(folder: Path) -> list[Evaluated]:
    """What was paid for, in order of completion."""
    columns = "id, recipe_hash, split, outcome, objectives, finished"
    return read(folder, f"SELECT {columns} FROM evaluations ORDER BY id")


def recorded(folder: Path) -> int:
    """How many evaluations are recorded."""
    rows = read(folder, "SELECT count(*) FROM evaluations")
    return rows[0][0] if rows else 0


def scores(folder: Path) -> set[tuple[str, str, str, str]]:
    """What came of each recipe on each split: hash, split, outcome, objectives with their errors."""
    return {row[1:5] for row in evaluated(folder)}


def candidates(folder: Path) -> list[Any]:
    """What was asked, in order."""
    return read(folder, "SELECT phase, id, genome, recipe_hash FROM candidates ORDER BY phase, id")


def write_run_file(path: Path, evaluations: int, engine: str, *, small: bool) -> Path:
    """The quickstart's run file for two evaluators on a Ray of its own, by generations."""
    content = yaml.safe_load((QUICKSTART / "run.yaml").read_text())
    models = content["models"]
    models["base"] = str(QUICKSTART / models["base"])
    models["experts"] = {n: str(QUICKSTART / m) for n, m in models["experts"].items()}
    content["fitness"]["include"] = str(QUICKSTART / content["fitness"]["include"])
    for task in content["fitness"]["tasks"].values() if small else ():
        task.update(items=6, selection=6, test=12)
    content["search"] |= {
        "schedule": "generational",
        "population": 8 if small else 32,
        "budget": {"evaluations": evaluations},
        "finalists": 3 if small else 16,
        "random_baseline": False,
    }
    content["engine"] = {"kind": engine}
    content["cluster"] = {"address": "local", "evaluators": 2, "cpus_per_evaluator": 0.5}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def launch(log: Path, *arguments: str | Path) -> "subprocess.Popen[bytes]":
    """Start `evomerge` with `arguments`; what it says is added to `log`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "evomerge.cli", *map(str, arguments)]
    with log.open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=environment)


def in_peace(run_file: Path, folder: Path) -> float:
    """Run a search to its end; its seconds.

    Raises:
        RuntimeError: it failed.
    """
    log = folder.with_suffix(".log")
    began = time.monotonic()
    driver = launch(log, "search", run_file, "--dir", folder)
    if driver.wait():
        raise RuntimeError(f"the undisturbed run ended with {driver.returncode}: {_tail(log)}")
    return time.monotonic() - began


@dataclass
class Chaos:
    """A search under fire; `run` is called once.

    Attributes:
        run_file, folder: of the search.
        kills: (evaluations recorded, `evaluator` or `driver`) in order.
        dice: which process is hit.
        hit: commands of what was killed.
        destroyed: rows that were recorded when a driver died and are gone or changed at the end.
        gone_seconds: how long the processes of each killed driver outlived it.
    """

    run_file: Path
    folder: Path
    kills: list[tuple[int, str]]
    dice: random.Random
    hit: list[str] = field(default_factory=list)
    destroyed: int = 0
    gone_seconds: list[float] = field(default_factory=list)
    _drivers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _before: set[Evaluated] = field(default_factory=set)
    _bereaved: list[tuple[float, set[Process]]] = field(default_factory=list)

    def run(self) -> float:
        """Search, kill and resume to the end; seconds.

        Raises:
            RuntimeError: a driver that nobody killed failed.
        """
        began = looked = time.monotonic()
        self._launch("search", self.run_file, "--dir", self.folder)
        while self._drivers[-1].poll() is None:
            if self.kills and recorded(self.folder) >= self.kills[0][0] and self._strike():
                self.kills.pop(0)
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                self._watch()
            time.sleep(0.02)
        seconds = time.monotonic() - began
        if self._drivers[-1].returncode:
            ended, log = self._drivers[-1].returncode, self.folder.with_suffix(".log")
            raise RuntimeError(f"the disturbed run ended with {ended}: {_tail(log)}")
        self.destroyed = len(self._before - set(evaluated(self.folder)))
        return seconds

    def orphans(self) -> list[str]:
        """Wait until nothing is left of the search; commands of what is after `PATIENCE`."""
        until = time.monotonic() + PATIENCE
        while (left := descendants(os.getpid())) and time.monotonic() < until:
            self._watch()
            time.sleep(0.1)
        self._watch()
        return [process.command for process in left]

    def _launch(self, *arguments: str | Path) -> None:
        self._drivers.append(launch(self.folder.with_suffix(".log"), *arguments))

    def _strike(self) -> bool:
        """The kill that is due; False if there is nobody to hit yet."""
        driver = self._drivers[-1]
        if self.kills[0][1] == "driver":
            # Its group of processes is noted first: they are orphans the moment it dies.
            family = set(descendants(driver.pid))
            driver.kill()
            driver.wait()
            self.hit.append("driver")
            self._bereaved.append((time.monotonic(), family))
            self._before |= set(evaluated(self.folder))
            self._launch("resume", self.folder)
            return True
        found = victims(driver.pid)
        if not found:
            return False
        victim = self.dice.choice(found)
        os.kill(victim.pid, signal.SIGKILL)
        self.hit.append(victim.command)
        return True

    def _watch(self) -> None:
        """Bury the dead, and note when the last process of a killed driver was gone."""
        bury(self._drivers)
        if not self._bereaved:
            return
        alive = set(descendants(os.getpid()))
        for died, family in [pair for pair in self._bereaved if not pair[1] & alive]:
            self._bereaved.remove((died, family))
            self.gone_seconds.append(round(time.monotonic() - died, 1))


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def plan_kills(
    evaluations: int, evaluators: int, drivers: int, dice: random.Random
) -> list[tuple[int, str]]:
    """When to kill what, by evaluations recorded.

    Args:
        evaluations: that the whole run records.
        evaluators, drivers: how many kills.
        dice: draws the moments of the evaluators' kills; the drivers' are spread evenly.

    Raises:
        ValueError: more kills than fit.
    """
    moments = range(2, evaluations - 2, _SPACING)
    evenly = {round((k + 1) * len(moments) / (drivers + 1)) for k in range(drivers)}
    if len(evenly) < drivers or evaluators + drivers > len(moments):
        raise ValueError(f"{evaluators} + {drivers} kills in {evaluations} evaluations: use fewer")
    others = [place for place in range(len(moments)) if place not in evenly]
    chosen = {place: "driver" for place in evenly}
    chosen |= dict.fromkeys(dice.sample(others, evaluators), "evaluator")
    return [(moments[place], chosen[place]) for place in sorted(chosen)]


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Both runs in `folder`, and how they compare."""
    run_file = write_run_file(
        folder / "run.yaml", given.evaluations, given.engine, small=given.small
    )
    peace, war = folder / "undisturbed", folder / "disturbed"
    peace_seconds = in_peace(run_file, peace)
    dice = random.Random(given.seed)
    kills = plan_kills(recorded(peace), given.evaluator_kills, given.driver_kills, dice)
    chaos = Chaos(run_file, war, kills, dice)
    war_seconds = chaos.run()
    orphans = chaos.orphans()
    rows = evaluated(war)
    line = {
        "engine": given.engine,
        "candidates": len(candidates(war)),
        "evaluations": len(rows),
        "evaluator_kills": sum(command != "driver" for command in chaos.hit),
        "driver_kills": chaos.hit.count("driver"),
        "kills_left": len(chaos.kills),
        "resumed": len(read(war, "SELECT 1 FROM events WHERE kind = 'resumed'")),
        "same_candidates": candidates(war) == candidates(peace),
        "same_scores": scores(war) == scores(peace),
        "not_scored": sum(row[3] != "scored" for row in rows),
        "scored_twice": len(rows) - len({row[1:3] for row in rows}),
        "records_destroyed": chaos.destroyed,
        "orphans": orphans,
        "killed_drivers_processes_gone_seconds": chaos.gone_seconds,
        "undisturbed_seconds": round(peace_seconds, 1),
        "disturbed_seconds": round(war_seconds, 1),
        "seconds_per_kill": round((war_seconds - peace_seconds) / max(1, len(chaos.hit)), 1),
        "ratio": round(war_seconds / peace_seconds, 2),
    }
    clean = not (line["not_scored"] or line["scored_twice"] or chaos.destroyed or orphans)
    return line | {"passed": line["same_candidates"] and line["same_scores"] and clean}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=200, help="candidates of the search")
    parser.add_argument("--evaluator-kills", type=int, default=10)
    parser.add_argument("--driver-kills", type=int, default=2)
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed when")
    parser.add_argument("--small", action="store_true", help="few items and a small population")
    parser.add_argument("--json", action="store_true", help="the default; kept for symmetry")
    given = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as name:
        line = measure(Path(name), given)
    print(json.dumps({"benchmark": "chaos"} | line))
    sys.exit(not line["passed"])


if __name__ == "__main__":
    main()

"""A session: one process driving one run, from its folder to its last figure."""

import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from evomerge.budgets import (
    PHASES,
    Limits,
    budget_now,
    check_tokens,
    ended_by,
    is_finished,
    raise_budget,
    set_finished,
    with_limits,
)
from evomerge.cluster.executor import (
    EvaluatorBuildError,
    Executor,
    RayExecutor,
    SerialExecutor,
)
from evomerge.config import RunFile
from evomerge.evaluator import EvaluatorFactory, MovableFactory
from evomerge.item_banks import Banks, packed, unpacked
from evomerge.judging import SPLITS
from evomerge.legs import SEARCHING, legs_of
from evomerge.live.variables import keep_variables
from evomerge.merge.compiled import kernels_are_compiled
from evomerge.objectives import incumbents
from evomerge.phases import Night, references, run_phases
from evomerge.preflight import Prepared, check_searcher, prepare
from evomerge.race_rules import rules_of
from evomerge.report.summary import budget_of
from evomerge.run_file import folder_of, load_run_file
from evomerge.run_sources import frozen_locations
from evomerge.runs.database import Database, RecordingError
from evomerge.runs.folder import RunFolder, check_sources_unchanged, freeze
from evomerge.runs.ledger import Ledger
from evomerge.runs.rows import ItemRow
from evomerge.search.driver import Driver
from evomerge.search.view import View
from evomerge.stopping import Signals
from evomerge.two_stages import FIRST_PHASE
from evomerge.warm_start import NOTHING, WarmStart, kept
from evomerge.workspace import shared_answers
from fitness.errors import FitnessError
from fitness.functions import function_digest
from search_spaces.errors import InputError


def start(run_file: Path, folder: Path, limits: Limits | None, view: View) -> None:
    """Begin a run and drive it to its end.

    Args:
        run_file: the run file.
        folder: of the run; new.
        limits: instead of those of the run file; None: all as there.
        view: shows what is going on.

    Raises:
        InputError, FitnessError: the user's input is wrong; nothing was evaluated.
        KeyboardInterrupt: interrupted; what was recorded is safe.
    """
    config = load_run_file(run_file)
    budget = with_limits(config.search.budget, limits or Limits(), str(run_file))
    config = config.model_copy(
        update={"search": config.search.model_copy(update={"budget": budget})}
    )
    RunFolder.require_new(folder)
    view.say(f"checking {run_file}")
    prepared = prepare(config, folder_of(config, run_file))
    check_searcher(prepared)
    for advice in prepared.advice:
        view.say(f"warning: {advice}")
    frozen = freeze(config, dict(prepared.folders), run_file)
    run = RunFolder.create(folder, frozen, lambda database: _begin(database, prepared))
    try:
        with closing(run):
            run.lock()
            with Signals(folder, view.say) as signals:
                _drive(run, prepared, view, signals)
            _require_winner(run)
    except (InputError, FitnessError, EvaluatorBuildError):
        _forget_if_empty(folder)
        raise


def _forget_if_empty(folder: Path) -> None:
    """Remove a run that could not even begin: mended, it may begin in the same folder."""
    with closing(Database(folder / "run.db")) as database:
        asked = any(database.candidates(phase) for phase in SEARCHING)
        begun = asked or any(found.scored for found in database.evaluations("search").values())
    if not begun:
        shutil.rmtree(folder)


def resume(folder: Path, limits: Limits | None, view: View, moved: Sequence[str] = ()) -> None:
    """Continue a run from wherever it stopped.

    Args:
        folder: of the run.
        limits: to set instead of the run's; None: as before.
        view: shows what is going on.
        moved: what lies elsewhere now: `OLD=NEW`, or `NEW` for the run file's folder.

    Raises:
        InputError: no run there, another driver at work, sources or tasks changed, a budget smaller
            than what is spent.
        KeyboardInterrupt: interrupted; what was recorded is safe.
    """
    run = RunFolder.open(folder)
    with closing(run):
        run.lock()
        run.find_files(moved)
        check_sources_unchanged(run.config)
        banks = {task: unpacked(task, found) for task, found in run.database.banks().items()}
        prepared = reopen(run.config, banks, kept(run.database))
        if run.database.items() != sorted(prepared.judge.rows(), key=_place):
            raise InputError(
                "the tasks",
                "their items differ from those the run began with",
                str(folder),
                "restore the tasks' files, or start a new run",
            )
        if run.database.meta("functions") != _functions(prepared):
            raise InputError(
                "the custom objectives",
                "their files differ from those the run began with",
                str(folder),
                "restore them, or start a new run",
            )
        run.keep_places()
        wanted = (limits or Limits()).unlike(budget_now(run))
        check_tokens(with_limits(budget_now(run), wanted, str(folder)), prepared.judge)
        raise_budget(run, wanted, prepared.first)
        if is_finished(run):
            view.say(_finished(run))
            _require_winner(run)
            return
        run.database.event("resumed")
        asked = sum(len(run.database.candidates(phase)) for phase in PHASES)
        view.say(f"resuming {folder}: {asked} of {budget_of(run)} candidates are recorded")
        with Signals(folder, view.say) as signals:
            _drive(run, prepared, view, signals)
        _require_winner(run)


def reopen(config: RunFile, banks: Banks, warm: WarmStart = NOTHING) -> Prepared:
    """A frozen run file's sources, space and tasks, without the checks made when it began."""
    origin = folder_of(config, Path())
    folders = frozen_locations(config)
    return prepare(config, origin, folders=folders, banks=banks, warm=warm, thorough=False)


def default_folder(run_file: Path) -> Path:
    """`runs/NAME`: the run file's name, or its folder's if it is called run.yaml."""
    stem = run_file.stem
    return Path("runs") / (run_file.resolve().parent.name if stem == "run" else stem)


def _finished(run: RunFolder) -> str:
    asked = sum(len(run.database.candidates(phase)) for phase in PHASES)
    reason = ended_by(run) or "evaluations"
    return (
        f"{run.path} has finished: {asked} evaluations, ended by its budget of {reason}; raise it with "
        f"'evomerge resume {run.path} --{reason} N'"
    )


def _begin(database: Database, prepared: Prepared) -> None:
    """Write down what the records are going to mean."""
    database.set_items(prepared.judge.rows())
    database.set_meta("questions", prepared.judge.questions())
    database.set_meta("variables", [v.name for v in prepared.space.variables])
    keep_variables(database, "search", prepared.space)
    if prepared.first:
        names = [v.name for v in prepared.first.space.variables]
        database.set_meta(f"{FIRST_PHASE}_variables", names)
        keep_variables(database, FIRST_PHASE, prepared.first.space)
    goals = prepared.goals
    described = [
        {"name": name, "direction": direction}
        for name, direction in zip(goals.names, goals.directions, strict=True)
    ]
    database.set_meta("objectives", described)
    database.set_meta("algorithm", prepared.algorithm)
    database.set_meta("functions", _functions(prepared))
    prepared.warm.keep(database)
    for task, bank in prepared.banks.items():
        database.set_bank(task, packed(bank))
    database.event("started")


def _functions(prepared: Prepared) -> dict[str, str]:
    """Objective -> hash of the file that computes it, for the user's own ones."""
    specs = [spec for spec in prepared.judge.specs if spec.function]
    return {spec.name: function_digest(spec.function, prepared.folder) for spec in specs}


def _place(row: ItemRow) -> tuple[str, int]:
    return row.split, row.position


def executor_for(config: RunFile, factory: MovableFactory) -> Executor:
    """Where the run file wants its candidates evaluated."""
    cluster = config.cluster
    if cluster.executor == "serial":
        return SerialExecutor(factory)
    return RayExecutor(
        factory,
        address=cluster.address,
        evaluators=cluster.evaluators,
        cpus_per_evaluator=cluster.cpus_per_evaluator,
        gpus_per_evaluator=cluster.gpus_per_evaluator,
        tensor_parallel=config.engine.tensor_parallel,
        device=config.engine.device,
        deadline_seconds=cluster.deadline_seconds,
        build_seconds=cluster.build_seconds,
        straggler=cluster.straggler,
        connected=None if cluster.address == "local" else factory.shipped,
    )


def _drive(run: RunFolder, prepared: Prepared, view: View, signals: Signals) -> None:
    """The whole night: search, choose, baselines, test. Each step is found in run.db or paid for."""
    began = time.monotonic()
    budget = budget_now(run)
    factory = EvaluatorFactory(
        prepared.config, prepared.folder, prepared.folders, prepared.banks, layers=prepared.layers
    )
    view.say("starting the evaluators")
    if not kernels_are_compiled():
        view.say("compiling the merge kernels with the first candidate (about 10 s, once)")
    executor: Executor | None = None
    try:
        executor = at_work = executor_for(prepared.config, factory)
        signals.install(lambda: at_work.busy)
        view.say(f"{_searches(prepared)}, {executor.workers} evaluator(s)")
        view.night(legs_of(prepared, budget, run.database), executor)
        with shared_answers(run.path, prepared) as answers:
            ledger = Ledger(run.database, executor, view.finished, answers, signals.stop)
            driver = _driver(run.database, prepared, ledger, view)
            run_phases(Night(run.database, prepared, driver), budget)
        set_finished(run)
        seconds = time.monotonic() - began
        run.database.event("finished", evaluations=budget.evaluations, seconds=seconds)
    except RecordingError:
        raise  # the disk is full: there is nowhere to write the event either
    except BaseException as error:
        run.database.event("stopped", reason=type(error).__name__)
        raise
    finally:
        if executor is not None:
            executor.close()


def _searches(prepared: Prepared) -> str:
    """Which algorithm over how many variables, stage by stage."""
    said = f"{prepared.algorithm} over {len(prepared.space.variables)} variables"
    if first := prepared.first:
        said = f"{first.algorithm} over {len(first.space.variables)} variables, then {said}"
    return said


def _driver(database: Database, prepared: Prepared, ledger: Ledger, view: View) -> Driver:
    """The driver, once everything it takes is known."""
    config = prepared.config
    incumbent = incumbents(config)
    if incumbent is not None:
        view.begin("incumbent", 3)
        ledger.set_incumbent(references(prepared)[incumbent], SPLITS)
    searched = prepared.judge.items["search"]
    rules = rules_of(config, prepared.banks, searched, database)
    return Driver(prepared.space, prepared.goals, ledger, database, view, rules)


def _require_winner(run: RunFolder) -> None:
    """Say loudly that the whole budget brought nothing to export."""
    if run.database.meta("choice") is None:
        raise InputError(
            f"{budget_of(run)} candidates",
            "none was scored and kept every constraint, so there is no winner",
            str(run.path),
            f"'evomerge show {run.path}' tells how near they came; start a new run with looser bounds",
        )

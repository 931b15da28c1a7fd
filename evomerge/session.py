"""A session: one process driving one run, from its folder to its last figure."""

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from evomerge.cluster.executor import (
    EvaluatorBuildError,
    Executor,
    RayExecutor,
    SerialExecutor,
)
from evomerge.config import RunFile
from evomerge.evaluation import AS_SEARCHED
from evomerge.evaluator import EvaluatorFactory
from evomerge.item_banks import Banks, packed, unpacked
from evomerge.judging import SPLITS
from evomerge.merge.compiled import kernels_are_compiled
from evomerge.objectives import incumbents
from evomerge.preflight import Prepared, check_searcher, plan_of, prepare
from evomerge.race_rules import rules_of
from evomerge.report.summary import budget_of
from evomerge.run_file import folder_of, load_run_file
from evomerge.run_sources import frozen_locations
from evomerge.runs.database import Database, ItemRow, RecordingError
from evomerge.runs.folder import RunFolder, check_sources_unchanged, freeze
from evomerge.runs.ledger import Ledger, Wanted
from evomerge.search.baselines import greedy_soup, reference_recipes
from evomerge.search.choice import Choice, choose
from evomerge.search.driver import Driver
from evomerge.search.goals import plain
from evomerge.search.plan import Plan
from evomerge.search.view import View
from evomerge.workspace import shared_answers
from fitness.errors import FitnessError
from fitness.functions import function_digest
from search_spaces.dialect import dump_recipe
from search_spaces.errors import InputError
from search_spaces.recipe import Recipe


def start(run_file: Path, folder: Path, evaluations: int | None, view: View) -> None:
    """Begin a run and drive it to its end.

    Args:
        run_file: the run file.
        folder: of the run; new.
        evaluations: instead of the run file's budget.
        view: shows what is going on.

    Raises:
        InputError, FitnessError: the user's input is wrong; nothing was evaluated.
        KeyboardInterrupt: interrupted; what was recorded is safe.
    """
    config = load_run_file(run_file)
    if evaluations is not None:
        budget = config.search.budget.model_copy(update={"evaluations": evaluations})
        config = config.model_copy(
            update={"search": config.search.model_copy(update={"budget": budget})}
        )
    RunFolder.require_new(folder)
    view.say(f"checking {run_file}")
    prepared = prepare(config, folder_of(config, run_file))
    check_searcher(prepared)
    frozen = freeze(config, dict(prepared.folders), run_file)
    run = RunFolder.create(folder, frozen, lambda database: _begin(database, prepared))
    try:
        with closing(run):
            run.lock()
            _drive(run, prepared, view)
            _require_winner(run)
    except (InputError, FitnessError, EvaluatorBuildError):
        _forget_if_empty(folder)
        raise


def _forget_if_empty(folder: Path) -> None:
    """Remove a run that could not even begin: mended, it may begin in the same folder."""
    with closing(Database(folder / "run.db")) as database:
        begun = database.evaluations("search")
    if not begun:
        shutil.rmtree(folder)


def resume(folder: Path, evaluations: int | None, view: View, moved: Sequence[str] = ()) -> None:
    """Continue a run from wherever it stopped.

    Args:
        folder: of the run.
        evaluations: a larger budget; None: as before.
        view: shows what is going on.
        moved: what lies elsewhere now: `OLD=NEW`, or `NEW` for the run file's folder.

    Raises:
        InputError: no run there, another driver at work, sources or tasks changed, a smaller budget.
    """
    run = RunFolder.open(folder)
    with closing(run):
        run.lock()
        run.find_files(moved)
        check_sources_unchanged(run.config)
        banks = {task: unpacked(task, found) for task, found in run.database.banks().items()}
        prepared = reopen(run.config, banks)
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
        _raise_budget(run, evaluations)
        run.database.event("resumed")
        asked = len(run.database.candidates("search"))
        view.say(f"resuming {folder}: {asked} of {budget_of(run)} candidates are recorded")
        _drive(run, prepared, view)
        _require_winner(run)


def reopen(config: RunFile, banks: Banks) -> Prepared:
    """A frozen run file's sources, space and tasks, without the checks made when it began."""
    origin = folder_of(config, Path())
    folders = frozen_locations(config)
    return prepare(config, origin, folders=folders, banks=banks, thorough=False)


def default_folder(run_file: Path) -> Path:
    """`runs/NAME`: the run file's name, or its folder's if it is called run.yaml."""
    stem = run_file.stem
    return Path("runs") / (run_file.resolve().parent.name if stem == "run" else stem)


def _raise_budget(run: RunFolder, evaluations: int | None) -> None:
    if evaluations is None:
        return
    asked = len(run.database.candidates("search"))
    if evaluations < asked:
        raise InputError(
            f"--evaluations {evaluations}",
            f"{asked} candidates were evaluated already",
            str(run.path),
            f"give {asked} or more",
        )
    run.database.set_meta("evaluations", evaluations)


def _begin(database: Database, prepared: Prepared) -> None:
    """Write down what the records are going to mean."""
    database.set_items(prepared.judge.rows())
    database.set_meta("variables", [v.name for v in prepared.space.variables])
    goals = prepared.goals
    described = [
        {"name": name, "direction": direction}
        for name, direction in zip(goals.names, goals.directions, strict=True)
    ]
    database.set_meta("objectives", described)
    database.set_meta("algorithm", prepared.algorithm)
    database.set_meta("functions", _functions(prepared))
    for task, bank in prepared.banks.items():
        database.set_bank(task, packed(bank))
    database.event("started")


def _functions(prepared: Prepared) -> dict[str, str]:
    """Objective -> hash of the file that computes it, for the user's own ones."""
    specs = [spec for spec in prepared.judge.specs if spec.function]
    return {spec.name: function_digest(spec.function, prepared.folder) for spec in specs}


def _place(row: ItemRow) -> tuple[str, int]:
    return row.split, row.position


def executor_for(config: RunFile, factory: EvaluatorFactory) -> Executor:
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


def _drive(run: RunFolder, prepared: Prepared, view: View) -> None:
    """The whole night: search, choose, baselines, test. Each step is found in run.db or paid for."""
    began = time.monotonic()
    budget = budget_of(run)
    if run.database.meta("finished_at_budget") == budget:
        view.say(
            f"{run.path} has finished its {budget} evaluations; raise them with --evaluations N"
        )
        return
    factory = EvaluatorFactory(prepared.config, prepared.folder, prepared.folders, prepared.banks)
    view.say("starting the evaluators")
    if not kernels_are_compiled():
        view.say("compiling the merge kernels with the first candidate (about 10 s, once)")
    executor = executor_for(prepared.config, factory)
    try:
        variables = len(prepared.space.variables)
        view.say(
            f"{prepared.algorithm} over {variables} variables, {executor.workers} evaluator(s)"
        )
        with shared_answers(run.path, prepared) as answers:
            ledger = Ledger(run.database, executor, view.finished, answers)
            driver = _driver(run.database, prepared, ledger, view)
            _phases(run.database, prepared, driver, budget, view)
        run.database.set_meta("finished_at_budget", budget)
        run.database.event("finished", evaluations=budget, seconds=time.monotonic() - began)
    except RecordingError:
        raise  # the disk is full: there is nowhere to write the event either
    except BaseException as error:
        run.database.event("stopped", reason=type(error).__name__)
        raise
    finally:
        executor.close()


def _driver(database: Database, prepared: Prepared, ledger: Ledger, view: View) -> Driver:
    """The driver, once everything it takes is known."""
    config = prepared.config
    incumbent = incumbents(config)
    if incumbent is not None:
        view.begin("incumbent", 3)
        ledger.set_incumbent(_references(prepared)[incumbent], SPLITS)
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


def _phases(
    database: Database, prepared: Prepared, driver: Driver, budget: int, view: View
) -> None:
    config = prepared.config
    search = config.search
    candidates = driver.search(plan_of(prepared, budget))
    choice = choose(driver, candidates, search.finalists, config.export.pick)
    if choice is not None:
        keep_choice(database, "choice", choice)
    recipes = _baselines(prepared, driver, view)
    if search.random_baseline:
        asked = len(candidates)
        seed, schedule = search.seed + 1, search.schedule
        chance = Plan("random", "random", None, seed, asked, seeded=False, schedule=schedule)
        luck = choose(driver, driver.search(chance), search.finalists, config.export.pick)
        if luck is not None:
            keep_choice(database, "random_choice", luck)
            recipes["random_search"] = driver.recipe(luck.winner)
    if choice is not None:
        recipes["winner"] = driver.recipe(choice.winner)
    for name, recipe in recipes.items():
        database.set_recipe(name, recipe.hash, dump_recipe(recipe))
    again = [recipes["winner"]] if choice is not None and _looks_up(recipes["winner"]) else []
    view.begin("test", len(recipes) + len(again))
    driver.ledger.evaluate([Wanted(r) for r in recipes.values()], "test")
    driver.ledger.evaluate([Wanted(r) for r in again], AS_SEARCHED)


def _looks_up(recipe: Recipe) -> bool:
    """Whether a search merges `recipe` by numbers from tables, where an export computes them."""
    composed = {name for part in recipe.slices for name, _ in part.parameters}
    composed |= {name for name, _ in recipe.parameters}
    by_rank = recipe.rule.sparsify in ("magnitude", "outliers", "variance")
    return by_rank or recipe.rule.rescale == "l1" or bool({"method", "sparsify"} & composed)


def _baselines(prepared: Prepared, driver: Driver, view: View) -> dict[str, Recipe]:
    models, dtype = prepared.config.models, prepared.config.export.dtype
    recipes = _references(prepared)
    view.begin("greedy soup", 2 * len(models.sources) - 1)
    recipes["greedy_soup"] = greedy_soup(list(models.sources), dtype, prepared.goals, driver.ledger)
    return recipes


def _references(prepared: Prepared) -> dict[str, Recipe]:
    """The sources alone and their uniform merge."""
    models = prepared.config.models
    base = "base" if models.base else None
    return reference_recipes(base, list(models.experts), prepared.config.export.dtype)


def keep_choice(database: Database, key: str, choice: Choice) -> None:
    """Write down which finalist was picked, and how all did on the selection items."""
    kept: Mapping[str, object] = {
        "id": choice.winner.id,
        "recipe_hash": choice.winner.recipe_hash,
        "finalists": [
            {"id": c.id, "recipe_hash": c.recipe_hash, "objectives": plain(c.evaluation.objectives)}
            for c in choice.finalists
        ],
    }
    database.set_meta(key, kept)

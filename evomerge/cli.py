"""The command line: each command parses its arguments, calls one function and prints what it returns.

`--json` prints one JSON object on stdout and nothing else there; everything else goes to stderr.
Exit codes: 0 done, 2 the input is wrong, 3 interrupted and resumable, 1 anything else.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.errors import INTERRUPTED, exit_codes

app = typer.Typer(
    name="evomerge",
    help="Evolve merge recipes for existing LLMs, score them in a running engine, export a stock model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFileArgument = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="the run file")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="a run's folder")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="new folder for the model")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, nothing else")]
MovedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--moved",
        metavar="OLD=NEW",
        help="where models, tasks or the run file's folder lie now; once for each that moved "
        "(NEW alone: the run file's folder)",
    ),
]
EvaluationsOption = Annotated[
    int | None,
    typer.Option("--evaluations", min=1, help="candidates, instead of the run file's budget"),
]


@app.command()
def search(
    run_file: RunFileArgument,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="the run's folder [default: runs/NAME]")
    ] = None,
    evaluations: EvaluationsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Start a search in a new folder."""
    from evomerge.session import default_folder, start

    where = folder or default_folder(run_file)
    with exit_codes(where), _view() as view:
        start(run_file, where, evaluations, view)
    _show(where, json_output)


@app.command()
def resume(
    folder: FolderArgument,
    evaluations: EvaluationsOption = None,
    moved: MovedOption = None,
    json_output: JsonOption = False,
) -> None:
    """Continue a search, also after kill -9 or elsewhere; --evaluations raises its budget."""
    from evomerge.session import resume as continue_run

    with exit_codes(folder), _view() as view:
        continue_run(folder, evaluations, view, moved or [])
    _show(folder, json_output)


@app.command()
def check(run_file: RunFileArgument, json_output: JsonOption = False) -> None:
    """Check everything a run file names, without evaluating anything; or a mergekit recipe."""
    with exit_codes():
        from evomerge.preflight import check_searcher, prepare
        from evomerge.recipe_files import check_recipe, is_recipe
        from evomerge.run_file import folder_of, load_run_file

        if is_recipe(run_file):
            facts, start = check_recipe(run_file), f"evomerge merge {run_file} OUT"
        else:
            config = load_run_file(run_file)
            prepared = prepare(config, folder_of(config, run_file))
            check_searcher(prepared)
            facts, start = list(prepared.facts), f"evomerge search {run_file}"
    if json_output:
        _print_json({"ok": True, "facts": dict(facts)})
        return
    for name, value in facts:
        print(f"{name:<24} {value}")
    print(f"everything checked; start with: {start}")


@app.command()
def show(folder: FolderArgument, json_output: JsonOption = False) -> None:
    """Show a run's front, budget and baselines; works while it runs."""
    _show(folder, json_output)


@app.command()
def export(
    folder: FolderArgument,
    out: OutArgument,
    pick: Annotated[
        str | None, typer.Option("--pick", help="ID, best:OBJECTIVE or knee [default: the winner]")
    ] = None,
    moved: MovedOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write the winner, or another candidate, as a Hugging Face folder."""
    with exit_codes():
        from evomerge.export import export_candidate

        candidate = export_candidate(folder, out, pick, moved or [])
    if json_output:
        _print_json({"out": str(out), "candidate": candidate})
    else:
        print(f"candidate {candidate['id']} written to {out}", file=sys.stderr)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="mergekit's dialect")],
    out: OutArgument,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16 [default: the recipe's]"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="where to merge")] = "cpu",
) -> None:
    """Merge one recipe into a model folder."""
    with exit_codes():
        from evomerge.recipe_files import merge_recipe

        merge_recipe(recipe, out, dtype, device)
    print(f"merged into {out}", file=sys.stderr)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="folder or hub id")],
    run_file: RunFileArgument,
    full: Annotated[
        bool, typer.Option("--full", help="every item of the tasks, not the test items only")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Score any model on a run file's tasks."""
    with exit_codes():
        from evomerge.scoring import score_model

        result = score_model(model, run_file, full=full)
    if json_output:
        _print_json(result)
        return
    print(f"{result['model']}, {result['items']} {result['split']} items")
    for name, estimate in result["objectives"].items():
        print(f"  {name:<20} {estimate['value']:.4f} ± {estimate['se']:.4f}")


@app.command()
def calibrate(
    run_file: RunFileArgument,
    models: Annotated[
        int, typer.Option("--models", help="calibration models, sources and uniform merge included")
    ] = 50,
    responses: Annotated[
        list[str] | None,
        typer.Option(
            "--responses",
            metavar="TASK=FILE",
            help="other models' responses, .csv or .npz; repeatable",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Build item banks: what known models answer to the search items. Continues what was stopped."""
    with exit_codes():
        from evomerge.calibration import calibrate as build_banks
        from evomerge.report.calibration import as_json, print_calibration

        try:
            with _view() as view:
                result = build_banks(run_file, models, responses or [], view)
        except KeyboardInterrupt:
            print("interrupted; the same command continues", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    if json_output:
        _print_json(as_json(result))
    else:
        print_calibration(result)


def _show(folder: Path, json_output: bool) -> None:
    with exit_codes():
        from contextlib import closing

        from rich.console import Console

        from evomerge.report.summary import summarise
        from evomerge.report.tables import print_summary
        from evomerge.runs.folder import RunFolder

        with closing(RunFolder.open(folder)) as run:
            summary = summarise(run)
    if json_output:
        _print_json(summary)
    else:
        print_summary(summary, Console(width=None if sys.stdout.isatty() else 120))


def _print_json(content: Any) -> None:
    print(json.dumps(content, allow_nan=False))


def _view() -> Any:
    from contextlib import closing

    from evomerge.report.progress import ProgressView

    return closing(ProgressView())


def main() -> None:
    """The `evomerge` command."""
    logging.basicConfig(format="%(message)s")  # warnings, on stderr
    app()


if __name__ == "__main__":
    main()

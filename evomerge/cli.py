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
HoursOption = Annotated[
    float | None,
    typer.Option("--hours", min=0.0001, help="hours of searching, in all sessions together"),
]
TokensOption = Annotated[
    int | None,
    typer.Option("--tokens", min=1, help="tokens that candidates generate for search items"),
]
AnswersOption = Annotated[
    int | None, typer.Option("--answers", min=1, help="search items that candidates answer")
]
PatienceOption = Annotated[
    int | None,
    typer.Option("--patience", min=1, help="candidates in a row without a gain of the front"),
]


@app.command()
def search(  # noqa: PLR0913, PLR0917 (the command's options)
    run_file: RunFileArgument,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="the run's folder [default: runs/NAME]")
    ] = None,
    evaluations: EvaluationsOption = None,
    hours: HoursOption = None,
    answers: AnswersOption = None,
    tokens: TokensOption = None,
    patience: PatienceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Start a search in a new folder. Ctrl-C finishes what is under way, a second one stops at once."""
    from evomerge.budgets import Limits
    from evomerge.session import default_folder, start

    where = folder or default_folder(run_file)
    with exit_codes(where), _view() as view:
        limits = Limits(evaluations, hours, answers, tokens, patience)
        start(run_file, where, limits, view)
    _show(where, json_output)


@app.command()
def resume(  # noqa: PLR0913, PLR0917 (the command's options)
    folder: FolderArgument,
    evaluations: EvaluationsOption = None,
    hours: HoursOption = None,
    answers: AnswersOption = None,
    tokens: TokensOption = None,
    patience: PatienceOption = None,
    moved: MovedOption = None,
    json_output: JsonOption = False,
) -> None:
    """Continue a search, also after kill -9 or elsewhere; the options raise its budget."""
    from evomerge.budgets import Limits
    from evomerge.session import resume as continue_run

    with exit_codes(folder), _view() as view:
        limits = Limits(evaluations, hours, answers, tokens, patience)
        continue_run(folder, limits, view, moved or [])
    _show(folder, json_output)


@app.command()
def check(
    run_file: RunFileArgument,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run/--no-dry-run",
            help="also start the engine, score two candidates and estimate the time of the whole run",
        ),
    ] = True,
    json_output: JsonOption = False,
) -> None:
    """Check everything a run file names, and how long it would take; or a mergekit recipe."""
    with exit_codes():
        from evomerge.checks.check import check_command

        found = check_command(run_file, dry_run=dry_run, quiet=json_output)
    if json_output:
        _print_json(found)


@app.command()
def show(folder: FolderArgument, json_output: JsonOption = False) -> None:
    """Show a run's front, budget and baselines; works while it runs."""
    _show(folder, json_output)


@app.command()
def dashboard(
    folder: FolderArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one")] = 8080,
) -> None:
    """Open Optuna's dashboard on a run, also while it runs; on this machine only. Ctrl-C ends it."""
    with exit_codes():
        from evomerge.live.dashboard import serve

        try:
            serve(folder, port)
        except KeyboardInterrupt:  # while it read the run: that one may go on
            raise typer.Exit(INTERRUPTED) from None


@app.command()
def report(
    folder: FolderArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="the file [default: DIR/report.html]")
    ] = None,
) -> None:
    """Write one HTML file that says what a run found, and whether to believe it; opens offline."""
    with exit_codes():
        from evomerge.report.html import write_report

        target = write_report(folder, out)
    print(f"report written to {target}", file=sys.stderr)


@app.command()
def export(  # noqa: PLR0913, PLR0917 one argument per option
    folder: FolderArgument,
    out: OutArgument,
    pick: Annotated[
        str | None, typer.Option("--pick", help="ID, best:OBJECTIVE or knee [default: the winner]")
    ] = None,
    prefer: Annotated[
        str | None,
        typer.Option("--prefer", metavar="NAME=W,NAME=W", help="a compromise by these weights"),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="load it and compare it with the candidate")
    ] = True,
    push: Annotated[
        str | None, typer.Option("--push", metavar="REPO", help="upload to the Hub, private")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="with --push: for everybody")] = False,
    despite_licences: Annotated[
        bool, typer.Option("--despite-licences", help="with --push: whatever the licences say")
    ] = False,
    moved: MovedOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write the winner, or another candidate, as a Hugging Face folder."""
    with exit_codes():
        from evomerge.export import export_candidate
        from evomerge.hand_over.options import pick_of, push_of

        where = push_of(push, public=public, despite_licences=despite_licences)
        chosen = pick_of(pick, prefer)
        handed = export_candidate(folder, out, chosen, moved or [], verified=verify, push=where)
    if json_output:
        _print_json(handed.as_json())
    else:
        print("\n".join(handed.lines()), file=sys.stderr)


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


@app.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="mergekit-evolve's or Mergenetic's configuration")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="RUN.yaml", help="new file [default: stdout]")
    ] = None,
) -> None:
    """Turn another tool's configuration into a run file; what has no counterpart is named on stderr."""
    with exit_codes():
        from evomerge.importing.files import import_config, write_run_file

        text, notes = import_config(file)
        if out is not None:
            write_run_file(text, out)
    for note in notes:
        print(note, file=sys.stderr)
    if out is None:
        print(text, end="")
    else:
        print(f"written to {out}; check it with: evomerge check {out}", file=sys.stderr)


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

    from evomerge.live.terminal import TerminalView

    return closing(TerminalView())


def main() -> None:
    """The `evomerge` command."""
    logging.basicConfig(format="%(message)s")  # warnings, on stderr
    app()


if __name__ == "__main__":
    main()

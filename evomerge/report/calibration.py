"""What `evomerge calibrate` says of the banks it made: JSON for scripts, a table for people."""

from typing import TYPE_CHECKING, Any

from fitness.bank_files import bank_file

if TYPE_CHECKING:
    from evomerge.calibration import Calibration


def as_json(result: "Calibration") -> dict[str, Any]:
    """What `evomerge calibrate --json` prints."""
    return {
        "bank": str(result.folder),
        "evaluated": result.evaluated,
        "answers": result.answers,
        "seconds": round(result.seconds, 3),
        "tasks": {task: _task_json(result, task) for task in result.banks},
        "notices": list(result.notices),
    }


def _task_json(result: "Calibration", task: str) -> dict[str, Any]:
    found = result.diagnoses[task]
    return {
        "file": str(bank_file(result.folder, task)),
        "models": found.models,
        "items": len(found.items),
        "mean": sum(facts.mean for facts in found.items) / len(found.items),
        "informative": found.informative,
        "solved_by_all": list(found.solved_by_all),
        "solved_by_none": list(found.solved_by_none),
        "negative_discrimination": list(found.negative),
        "duplicates": [list(group) for group in found.duplicates],
    }


def print_calibration(result: "Calibration") -> None:
    """The table for people, then the notices."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"item banks in {result.folder}")
    for number, name in enumerate(
        ("task", "models", "items", "mean", "solved by all", "by none", "suspicious")
    ):
        table.add_column(name, justify="right" if number else "left")
    for task, facts in as_json(result)["tasks"].items():
        found = result.diagnoses[task]
        counts = [len(found.solved_by_all), len(found.solved_by_none), len(found.suspicious)]
        cells = [facts["models"], facts["items"], f"{facts['mean']:.3f}", *counts]
        table.add_row(task, *map(str, cells))
    console = Console(width=None)
    console.print(table)
    for notice in result.notices:
        console.print(notice, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{result.evaluated} models evaluated, {result.answers} answers, {result.seconds:.0f} s",
        highlight=False,
    )

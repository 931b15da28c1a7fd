"""What a warm start is worth on the quickstart: evaluations until the cold search's final hypervolume
(`reached`), and until 95 % of it (`to_95`).

    python -m benchmarks.warm_start --json

An earlier search is followed by the quickstart's own (three experts, 18 weights), once cold and once from
the earlier one's archive. That one had an expert less (`--before expert`), one weight for each expert
(`coarse`), or was the same with another seed (`same`). Same tasks, items, algorithm and budget; the
earlier search's evaluations are told beside the gain, as they were paid for, too.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from evomerge.evaluation import Evaluation
from evomerge.report.summary import load_candidates, stored_goals
from evomerge.runs.folder import RunFolder
from evomerge.search.standing import Standing
from evomerge.search.view import SilentView
from evomerge.session import start

_QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"


def run_file(folder: Path, name: str, items: int, search: dict[str, Any], before: str) -> Path:
    """The quickstart's run file with absolute paths, fewer items and other search keys.

    Args:
        folder: to write it to.
        name: of the file.
        items: of each task.
        search: keys of the section.
        before: how the earlier search differs; empty for the others.
    """
    content = yaml.safe_load((_QUICKSTART / "run.yaml").read_text())
    models = content["models"]
    models["base"] = str(_QUICKSTART / models["base"])
    models["experts"] = {n: str(_QUICKSTART / m) for n, m in models["experts"].items()}
    fitness = content["fitness"]
    fitness["include"] = str(_QUICKSTART / fitness["include"])
    for task in fitness["tasks"].values():
        task |= {"items": items, "selection": 4, "test": 4}
    if before == "coarse":
        content["space"].pop("granularity")
    if before == "expert":
        models["experts"].pop("tovek")
    content["search"] |= {"finalists": 1, "random_baseline": False, **search}
    content["cluster"] = {"executor": "serial"}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def volumes(folder: Path) -> list[float]:
    """The front's hypervolume after each candidate, from 0 in every objective."""
    run = RunFolder.open(folder)
    standing = Standing(stored_goals(run))
    found: list[float] = []
    for candidate in load_candidates(run.database)[0]:
        standing.add([candidate])
        front = standing.archive.front()
        found.append(
            standing.archive.hypervolume([0.0] * len(standing.goals.names)) if front else 0
        )
    run.database.close()
    return found


def paid(folder: Path) -> int:
    """Answers that candidates cost (what other runs had answered is known)."""
    run = RunFolder.open(folder)
    found: list[Evaluation] = list(run.database.evaluations("search").values())
    run.database.close()
    return sum(evaluation.answers for evaluation in found)


def reached(found: list[float], goal: float) -> int | None:
    """Evaluations until the goal; None: never."""
    return next((n + 1 for n, volume in enumerate(found) if volume >= goal), None)


def compared(scratch: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Earlier, cold and warm search with one seed."""
    folder = scratch / str(seed)
    folder.mkdir()
    budget = {"evaluations": args.evaluations}
    searches = {
        "earlier": {"seed": seed + 100, "budget": {"evaluations": args.earlier}},
        "cold": {"seed": seed, "budget": budget},
        "warm": {"seed": seed, "budget": budget, "warm_start": {"run": "earlier"}},
    }
    for name, search in searches.items():
        file = run_file(folder, name, args.items, search, args.before if name == "earlier" else "")
        start(file, folder / name, None, SilentView())
        if name == "earlier":  # the cold search knows nothing of it, its answers neither
            (folder / "answers.db").replace(folder / "known")
        elif name == "cold":
            (folder / "known").replace(folder / "answers.db")
    cold, warm = volumes(folder / "cold"), volumes(folder / "warm")
    said = {
        "cold_final": round(cold[-1], 4), "warm_final": round(warm[-1], 4),
        "cold_reached": reached(cold, cold[-1]), "warm_reached": reached(warm, cold[-1]),
        "cold_to_95": reached(cold, 0.95 * cold[-1]), "warm_to_95": reached(warm, 0.95 * cold[-1]),
        "warm_after_first_generation": round(warm[31], 4),
        "cold_after_first_generation": round(cold[31], 4),
        "cold_answers": paid(folder / "cold"), "warm_answers": paid(folder / "warm"),
    }  # fmt: skip
    print(f"seed {seed}: {said}", file=sys.stderr)
    return said


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="no effect: the line is always JSON")
    parser.add_argument("--before", choices=["expert", "coarse", "same"], default="expert")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--items", type=int, default=20, help="of each of the four tasks")
    parser.add_argument("--earlier", type=int, default=96, help="evaluations of the search before")
    parser.add_argument("--evaluations", type=int, default=160, help="of the cold and the warm one")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        found = [compared(Path(scratch), seed, args) for seed in range(1, args.seeds + 1)]
    medians = {
        key: statistics.median(
            row[key] if row[key] is not None else args.evaluations for row in found
        )
        for key in found[0]
    }
    line = {
        "benchmark": "warm_start", "before": args.before, "seeds": args.seeds, "items": 4 * args.items,
        "earlier_evaluations": args.earlier, "evaluations": args.evaluations,
        "never_reached": sum(row["warm_reached"] is None for row in found),
        **medians, "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()

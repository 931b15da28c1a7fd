"""How long `evomerge report` takes on a planted run, and how large its page is.

python -m benchmarks.report [--candidates 2000] [--variables 100] [--objectives 2]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.report.planted_folder import PlantedFolder

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"


def run_file() -> dict[str, object]:
    """The quickstart's, with absolute paths."""
    content = yaml.safe_load((QUICKSTART / "run.yaml").read_text())
    models = content["models"]
    models["base"] = str(QUICKSTART / models["base"])
    models["experts"] = {n: str(QUICKSTART / m) for n, m in models["experts"].items()}
    content["fitness"]["include"] = str(QUICKSTART / content["fitness"]["include"])
    return content


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=2000, help="and as many random ones")
    parser.add_argument("--variables", type=int, default=100)
    parser.add_argument("--objectives", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="the same: one JSON line")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tasks = tuple(f"task{i}" for i in range(given.objectives))
        planted = PlantedFolder(
            Path(name) / "run", run_file(), candidates=given.candidates,
            variables=given.variables, tasks=tasks, items=60,
        )  # fmt: skip
        folder = planted.finish().close()
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "evomerge.cli", "report", str(folder)], check=True)
        seconds = time.perf_counter() - began
        figures = {
            "candidates": given.candidates,
            "variables": given.variables,
            "objectives": given.objectives,
            "seconds": round(seconds, 2),
            "bytes": (folder / "report.html").stat().st_size,
            "run_db_bytes": (folder / "run.db").stat().st_size,
        }
    print(json.dumps({"benchmark": "report"} | figures))


if __name__ == "__main__":
    main()

"""How long `evomerge --help` takes, against a Python that does nothing.

python -m benchmarks.startup [--json]
"""

import json
import statistics
import subprocess
import sys
import time


def seconds(arguments: list[str], runs: int = 7) -> float:
    """Median wall-clock seconds of `python arguments`."""
    times: list[float] = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Print one JSON line."""
    bare = seconds(["-c", "pass"])
    helped = seconds(["-m", "evomerge.cli", "--help"])
    figures = {"help_seconds": round(helped, 3), "of_bare_python": round(helped / bare, 1)}
    print(json.dumps({"benchmark": "startup"} | figures))


if __name__ == "__main__":
    main()

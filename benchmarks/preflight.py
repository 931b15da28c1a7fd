"""What preflight takes: each part on the quickstart, and kinship on models of a real size.

    python -m benchmarks.preflight [--models DIR] [--scale 1] [--no-dry-run] [--json]

Kinship is read from a sample, so it should cost a small share of reading the same files once.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from benchmarks.models import Shape, save_models
from evomerge.checks.dry_run import run_dry
from evomerge.checks.kinship import measure_kinship
from evomerge.merge.sources import open_sources
from evomerge.preflight import Prepared, prepare
from evomerge.run_file import parse_run_file

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart"
EXPERTS = 3
_PIECE = 2**24


def parts(dry_run: bool) -> dict[str, float]:
    """Seconds of each part of `evomerge check` on the quickstart."""
    run_file = QUICKSTART / "run.yaml"
    config = parse_run_file(yaml.safe_load(run_file.read_text()), str(run_file))
    found: list[Prepared] = []
    seconds = {"prepare": _seconds(lambda: found.append(prepare(config, QUICKSTART)))}
    assert found[0].findings is not None
    seconds |= found[0].findings.seconds
    if dry_run:
        seconds["dry_run"] = _seconds(lambda: run_dry(found[0], lambda text: None))
    return {name: round(value, 3) for name, value in seconds.items()}


def kinship(folders: Mapping[str, Path], runs: int = 5) -> dict[str, float]:
    """Seconds to measure kinship and to read the same files, both from the page cache."""
    files = [folder / "model.safetensors" for folder in folders.values()]
    sources = open_sources(folders, None, "base")
    reading = statistics.median(_seconds(lambda: _read(files)) for _ in range(runs))
    measuring = statistics.median(
        _seconds(lambda: measure_kinship(sources, "base")) for _ in range(runs)
    )
    return {
        "parameters": sources.parameters(),
        "gb": round(sum(file.stat().st_size for file in files) / 1e9, 3),
        "kinship_seconds": round(measuring, 3),
        "read_seconds": round(reading, 3),
        "kinship_of_reading": round(measuring / reading, 3),
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _read(files: list[Path]) -> None:
    room = bytearray(_PIECE)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(room):
                pass


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, help="where to keep the synthetic models")
    parser.add_argument(
        "--scale", type=int, default=1, help="divide a 0.5B model's lengths by this"
    )
    parser.add_argument("--no-dry-run", action="store_true", help="start no engine")
    parser.add_argument("--json", action="store_true", help="the same: one JSON line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.models or Path(temporary)
        folders = save_models(folder, Shape().divided(options.scale), EXPERTS)
        figures = {"seconds": parts(not options.no_dry_run)} | kinship(folders)
    print(json.dumps({"benchmark": "preflight"} | figures))


if __name__ == "__main__":
    main()

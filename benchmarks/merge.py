"""What merging costs, per candidate and once, against the machine's memory and against mergekit.

    python -m benchmarks.merge [--preset NAME ...] [--all] [--scale N] [--no-rival] [--threads N]
                               [--models DIR] [--json]

Qwen2.5-0.5B's shapes in bfloat16, base + 3 experts of noise. Every ratio is of two times of this run:

* `of_copy_bandwidth`: bytes a rule cannot avoid (its sources once, the result once) per second of a
  candidate, over read + written bytes per second of a plain `torch` copy (the best of the run: there
  is one before and after each preset). Candidates differ in every parameter a search varies;
  preparing the sources is counted apart (`prepare_seconds`).
* `vs_mergekit`: seconds mergekit-yaml takes for one candidate (with it that is a model on disk) over
  ours, from the same file. It computes in `--rival-dtype`: bfloat16 is what people write, float32
  what we always do; mergekit takes less memory with bfloat16, and for slerp more time.
* `one_off`: `evomerge merge` to disk in a fresh process against mergekit-yaml, the sources dropped
  from the page cache before each. Peaks are resident memory, mapped files included.
* `growth`: nanoseconds per element and expert, by number of experts and by number of parameters.

Where other programs run as well, all of it is worth less: `load_average` says so.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import Shape, save_models
from benchmarks.one_off import RIVAL, merge_once
from benchmarks.per_candidate import Pool, Timing, copy_bandwidth, grow, say, time_candidates
from benchmarks.processes import prime
from benchmarks.recipes import MERGEKIT
from search_spaces.rules import RULES

EXPERTS = 3
USUAL = MERGEKIT[:5]


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All figures; see the module."""
    say(f"base and {EXPERTS} experts, divided by {options.scale}")
    shape = Shape().divided(options.scale) if options.scale > 1 else Shape()
    pool = Pool(save_models(options.models or scratch / "models", shape, EXPERTS))
    prime(pool.folders.values())
    once = {
        preset: merge_once(preset, pool, scratch, options.threads, options.rival)
        for preset in options.preset
        if preset in (MERGEKIT if options.all else USUAL)
    }
    load = os.getloadavg()[0]
    size = max(2**28, 2**30 // options.scale)
    bandwidth = copy_bandwidth(size)
    timings: dict[str, Timing] = {}
    for preset in options.preset:
        timings[preset] = found = time_candidates(preset, pool, options.seconds)
        bandwidth = max(bandwidth, copy_bandwidth(size))
        share = found.moved / found.seconds / bandwidth
        once_more = f"{found.prepare_seconds:.2f} s to prepare"
        say(f"{preset}: {found.seconds:.4f} s, {share:.0%} of a copy's bandwidth, {once_more}")
    rivals = {p: o.rival_candidate for p, o in once.items() if o.rival_candidate is not None}
    return {
        "parameters": next(iter(timings.values())).parameters,
        "experts": EXPERTS,
        "threads": options.threads,
        "rival_dtype": options.rival,
        "load_average": round(load, 2),
        "copy_gb_per_s": round(bandwidth / 1e9, 2),
        "seconds": {p: round(t.seconds, 5) for p, t in timings.items()},
        "prepare_seconds": {p: round(t.prepare_seconds, 3) for p, t in timings.items()},
        "rival_seconds": {p: round(s, 3) for p, s in rivals.items()},
        "vs_mergekit": {p: round(s / timings[p].seconds, 2) for p, s in rivals.items()},
        "of_copy_bandwidth": {
            p: round(t.moved / t.seconds / bandwidth, 4) for p, t in timings.items()
        },
        "one_off": {p: o.figures() for p, o in once.items()},
        "growth": grow(scratch, options.scale, options.growth),
    }


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--preset", action="append", choices=RULES, metavar="NAME", help="instead of every preset")
    add("--all", action="store_true", help="mergekit runs all it has, not only the usual ones")
    add("--no-rival", action="store_true", help="without mergekit")
    add(
        "--rival-dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of its arithmetic",
    )
    add("--scale", type=int, default=1, help="divides the model's lengths")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--seconds", type=float, default=8.0, help="per preset, about")
    add("--growth", type=int, default=16, metavar="EXPERTS", help="experts in the largest pool")
    add("--models", type=Path, help="keeps the models in this folder, and takes those it has")
    add("--json", action="store_true", help="the default; kept for symmetry")
    options = parser.parse_args()
    options.preset = options.preset or list(RULES)
    options.rival = None if options.no_rival else options.rival_dtype
    if options.rival and not RIVAL.is_file():
        parser.error(f"{RIVAL} is not there: 'make oracle', or --no-rival")
    return options


def main() -> None:
    """Print one JSON line."""
    options = parsed()
    for library in ("OMP", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EVOMERGE_CACHE"] = str(Path(scratch) / "cache")  # no tables of earlier runs
        print(json.dumps({"benchmark": "merge"} | measure(options, Path(scratch))))


if __name__ == "__main__":
    main()
